package job

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unixStat is what os.FileInfo carries.
type unixStat = syscall.Stat_t

// utimensat is utimensat(2) with a path that may be nil, for a descriptor's own
// times; package unix has none.
func utimensat(fd int, path *byte, times []unix.Timespec, flags int) error {
	_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&times[0])), uintptr(flags), 0, 0)
	if e != 0 {
		return e
	}
	return nil
}
