// Command hpcc stands behind a compiler's name and answers from the cache. All
// else that users type after hpcc is done by hpccd, which it execs.
//
// It starts once per compile: what may be linked into it, and how large it may
// become, is tested in this directory.
//
// The setting below saves the Go runtime a goroutine that would look once a
// second whether the cgroup's CPU limit has changed. The limit itself is read
// all the same: with containermaxprocs=0 as well, for a counter, and that costs
// more than obeying it.
//
//go:debug updatemaxprocs=0
package main

import (
	"os"

	"hpcc.dev/hpcc/internal/wrapper"
)

func main() { os.Exit(wrapper.Main()) }
