// Package audit keeps one row for each job that a worker answered: who asked,
// what was run in what, from which inputs, and what came out of it.
//
// A Row says enough to run the job again; what is long in it (thousands of
// inputs) moves into a blob that the row names by digest (Row.Fit, Row.Restore). A Log takes rows, and a row is durable when Append returns: no
// result is handed out before that. Journal is the log on a worker's own disk:
// numbered rows in append-only files, chained by SHA-256, so that what a crash
// left unfinished and what somebody or something changed are told apart. Read
// and Verify go through a journal's rows, also while it is written.
//
// The chain shows a change inside the journal. That its end was cut off, or all
// of it written anew, shows only to who has kept a row's chain value elsewhere.
package audit
