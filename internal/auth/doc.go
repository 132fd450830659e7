// Package auth says who somebody is, to whom it matters.
//
// Four proofs, each for one link:
//
//   - A credential is a random secret that a tenant's client, a worker or an
//     operator shows the scheduler. Whoever checks it holds its SHA-256 alone
//     (NewCredential, Credentials), so that a configuration file that is read by
//     others gives nothing away.
//   - A task token is what the scheduler gives a client for one worker: a JWT
//     signed with Ed25519 that names tenant, subject, image and worker, and lives
//     for minutes (Task, Keyring, Verifier). Workers learn the keys from the
//     scheduler as a JSON Web Key Set, and never ask it about a token.
//   - A pin is the SHA-256 of a worker's public key (Pin, PinnedTLS). The
//     scheduler hands it out with the token, so that workers need certificates
//     from nobody.
//   - The scheduler's own certificate is checked against a CA: one that the site
//     has, or the small one made here (CA, CATLS).
//
// A tenant is a trust domain: storage, machines and quotas never cross it. Its
// name becomes a directory's on workers, so CheckName is called wherever one
// comes in, and what an Identity or a Task holds is checked already.
//
// Errors of this package say what is wrong and never repeat a secret: neither
// the token or credential that was shown, nor a part of it.
package auth
