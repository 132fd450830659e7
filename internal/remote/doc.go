// Package remote is a client's half of the talk with scheduler and workers.
//
// A Client asks the scheduler for a route: a few workers for one image, each
// with its TLS key and a token. Compile runs one job on the first of them that
// can be had, and on another if that one fails. It is called once for each
// compile of a build, by many goroutines at once; routes and connections are
// shared between them.
//
// A worker is not believed. Of what it answers, a caller sees only what was
// checked here: names that the job declared, bytes that have their digest, an
// action key that was made again from the job, from what was found in the
// caller's own tree, and from absences that the caller has confirmed. What
// breaks the contract (proto/hpcc/worker/v1) is a *LyingError, nothing of it is
// delivered, and the worker is avoided. No check here can tell whether the
// bytes of an object are those that the image's compiler makes: that takes
// another compile.
//
// Errors by type: *UnavailableError if no worker could be had, or none that did
// its work; *RefusedError if the tenant, the image or the job is refused, which
// another try does not change; *LyingError inside an *UnavailableError, if that
// is why; *InputError, which may be ErrInputChanged, if an input could not be
// read as what it was said to be; ErrClosed after Close; the error of the
// context if that ended. A job that fails, or hits a limit, is a Result.
package remote
