// Package e2e builds real programs through hpcc and compares what is left
// behind with what the plain compiler left, byte for byte.
//
// The judge is outside hpcc: a recording compiler, first in PATH of a build
// that hpcc has no part in, says how many compiles a build makes and which of
// them a cache can be asked to serve. It runs by `make e2e`, and with more
// programs' variants and more rounds by `make soak`; the files behind the build
// tag e2e hold the tests.
package e2e
