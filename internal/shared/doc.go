// Package shared is the cache that several machines have in common: results of
// compiles in stores (package store) that anybody may have written to.
//
// It holds three kinds of objects, each tenant's under the tenant's name:
//
//	TENANT/manifest/ab/abcd…    a manifest: which actions a command may lead to
//	TENANT/result/ab/abcd…      a pack: an entry, its signature, and its small blobs
//	TENANT/blob/ab/abcd…-1234   a blob of 1,234 bytes that is too large for a pack
//
// # What is believed
//
// A store is a bag of bytes under names. A manifest is a hint: whoever looks up
// checks a candidate's inputs himself, computes the key of the action from what he
// has checked, and asks for the result of that key. A pack counts only if it
// carries the Ed25519 signature of somebody in Trust, over the tenant, the key,
// the result's digest and every byte of the pack; if the action in it hashes to
// the key; and if every output is there and holds what its digest says. The
// signature is checked before anything is decompressed. What is not so is counted
// by reason, logged once, and a miss: the next tier is asked.
//
// # What a build waits for
//
// Reads only, each once however many ask for it at a time, and of a tier only where
// those nearer have led to nothing. Writes, backfill of nearer tiers and renewed
// times of use wait in one queue that is bounded in bytes; what does not fit is
// dropped and counted. No error of a store is an error of a compile.
package shared
