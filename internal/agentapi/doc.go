// Package agentapi is the host's side of the talk with hpcc-agent, the first
// process of a tenant's virtual machine.
//
// A Client stands for one agent. Connect makes it out of any way to dial; Exec
// runs one job, from its inputs to its verified outputs, in one call. The guest
// runs hostile code, and the agent may be in its hands: everything that it says
// is bounded and checked here (lengths, order, digests, declared outputs only,
// lookups clean and below the roots), so that a caller sees either what a job
// really can leave, or an error. What is checked cannot tell whether the guest
// lies about a compile: it is that tenant's own compile.
//
// Errors by type: *RefusedError if the agent did not take the job; *GuestError
// if the guest broke the contract, after which nothing it said should be used
// and its machine should be killed; *SourceError and *SinkError if the caller's
// own reader or writer failed; *LostError if the connection or the machine
// ended. A job that fails, or hits a limit, is a Result.
package agentapi
