package daemon

import (
	"sync"

	"golang.org/x/sys/unix"
)

// timing is what the times of a file system's files go by.
type timing uint8

const (
	// byOthers: another machine's clock or a cache of attributes stands between
	// a change and the time that is shown.
	byOthers timing = iota
	// byTicks: this machine's clock at its last tick, or coarser.
	byTicks
	// byExact: as exactNow says, where that can be read.
	byExact
)

// timingOf tells the timing of the file system that path is on.
func timingOf(path string) timing {
	var sfs unix.Statfs_t
	if unix.Statfs(path, &sfs) != nil {
		return byOthers
	}
	switch int64(sfs.Type) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC,
		unix.FUSE_SUPER_MAGIC, unix.V9FS_MAGIC, unix.CEPH_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.CODA_SUPER_MAGIC:
		return byOthers
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC:
		return byExact
	}
	return byTicks
}

func (t *fileTable) timingOf(path string, dev uint64) timing {
	if v, ok := t.timing.Load(dev); ok {
		return v.(timing)
	}
	v := timingOf(path)
	t.timing.Store(dev, v)
	return v
}

// looseTimes reports whether a file system's times cannot prove that content
// is unchanged.
func (t *fileTable) looseTimes(path string, dev uint64) bool {
	return t.timingOf(path, dev) == byOthers
}

// LooseTimes reports whether the times of files on path's file system cannot
// prove that content is unchanged, so that it is read at each look.
func LooseTimes(path string) bool { return timingOf(path) == byOthers }

// exactNow returns the reader of the clock that file systems stamp with, in
// nanoseconds: what was changed before the call has an earlier time, and what
// is changed after it has none. It is nil where the kernel knows only ticks.
//
// Multigrain timestamps (Linux 6.13, Documentation/filesystems/multigrain-ts.rst)
// give a change a time of its own if somebody has asked for the file's time
// since the last tick, and no later change of any file an earlier one. So a
// file in memory is changed, looked at, and changed again.
var exactNow = sync.OnceValue(func() func() int64 {
	fd, err := unix.MemfdCreate("hpcc-clock", unix.MFD_CLOEXEC)
	if err != nil {
		return nil
	}
	var mu sync.Mutex
	read := func() int64 {
		mu.Lock()
		defer mu.Unlock()
		var st unix.Stat_t
		for range 2 {
			if unix.Fstat(fd, &st) != nil || unix.Fchmod(fd, 0o600) != nil {
				return 0
			}
		}
		if unix.Fstat(fd, &st) != nil {
			return 0
		}
		return st.Ctim.Nano()
	}
	for range 10 { // a tick may come between
		if at := read(); at > coarseNow() && at <= fineNow() {
			return read
		}
	}
	unix.Close(fd)
	return nil
})
