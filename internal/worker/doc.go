// Package worker is the service that runs tenants' compiles in their machines
// and answers them from their stores (proto/hpcc/worker/v1).
//
// A stream is one compile. It belongs to the task that its token names: one
// tenant, one subject, one image. The client's job is checked as a whole before
// anything is done for it (check.go). If the tenant's store has a result whose
// inputs and absences hold in the job's tree, that is a hit: the audit row, then
// the answer (find.go). If not, the client sends the blobs that the store lacks
// (receive.go), the job runs in one of the tenant's machines (run.go), and the
// machine's record of lookups becomes what was found and what was absent
// (lookups.go). Once the client has accepted that, the row is made durable, the
// result answered and stored (compile.go). Of equal jobs of a tenant at one time
// one runs (flight.go).
//
// # Who is believed
//
// Nobody. The client describes a job and sends blobs under digests that are
// recomputed; it can cause a result and never write one. The guest says what its
// job printed, left and looked up, which package agentapi bounds; what does not
// fit the job's tree ends the machine. What a store holds is verified each time
// it is read, and a result's key is recomputed from the candidate that led to it.
// Stores, machines, flights and rows are a tenant's own: no call's answer depends
// on what another tenant has.
//
// # What is held
//
// Of a blob or an output at most a mebibyte is in memory; what is longer goes to a
// file without a name until it is whole (spool.go). Only then, and only for local
// work that no client or guest can draw out, is it read as a whole, under a
// budget of bytes for all streams; so is what a patch is applied to (patch.go).
// Every wait for somebody else has an end.
package worker
