// Package fault does to hpcc what happens to programs in the end: files are
// damaged and exchanged, disks are full or read-only, the cache is deleted under
// a build, processes are killed, system calls fail. Whatever it is, a build that
// works without hpcc works with it and leaves the plain compiler's bytes, what
// was stored before is still there, and the cache's own check finds nothing
// wrong.
//
// `make test` runs each kind of fault a few times; `make soak`, by HPCC_SOAK=1,
// in the counts that find rare ones. Mounts and foreign users need root.
package fault
