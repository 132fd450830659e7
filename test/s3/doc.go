// Package s3 starts real object stores on the loopback, and a proxy that makes the
// way to them bad, for tests and benchmarks.
//
// The programs are built from the Go proxy when they are first asked for and kept in
// ${HPCC_TEST_CACHE:-~/.cache/hpcc-test}/programs: versitygw and toxiproxy take a
// minute together, MinIO's server some minutes.
package s3
