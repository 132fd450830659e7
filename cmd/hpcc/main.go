// Command hpcc stands behind a compiler's name and answers from the cache. All
// else that users type after hpcc is done by hpccd, which it execs.
//
// It starts once per compile: what may be linked into it, and how large it may
// become, is tested in this directory.
//
// The settings below keep the Go runtime from reading the cgroup's CPU limit
// at start: hpcc does one thing at a time.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"os"

	"hpcc.dev/hpcc/internal/wrapper"
)

func main() { os.Exit(wrapper.Main()) }
