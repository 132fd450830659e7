// Package e2e builds real programs through hpcc and compares what is left
// behind with what the plain compiler left, byte for byte.
//
// The judges are outside hpcc. A recording compiler, first in PATH of a build
// that hpcc has no part in, says which compiles a build makes and which of them
// a cache can be asked to serve: each of these must be served the second time,
// or be refused for a reason that the program's entry in the table allows. And
// strace says what each of the recorded compiles looked up, found or not: each
// path must be among what hpcc stored for that unit, or remembers of the
// toolchain.
//
// It runs by `make e2e`, and with both compilers for every program, the plain
// compiler held against itself, and more rounds by `make soak`; the files
// behind the build tag e2e hold the tests.
package e2e
