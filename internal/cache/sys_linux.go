package cache

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func stampOf(fi fs.FileInfo) Stamp {
	st := fi.Sys().(*syscall.Stat_t)
	return Stamp{uint64(st.Dev), st.Ino, uint64(st.Size), st.Mtim.Nano(), st.Ctim.Nano()}
}

// clone makes dst share the blocks of src.
func clone(dst, src *os.File) error {
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
}

// notClonable reports whether clone failed because these two files cannot
// share blocks, dst being as it was: another file system (EXDEV), one that
// cannot (EOPNOTSUPP; ENOTTY and ENOSYS of old or foreign ones), or a file that
// has no blocks of its own, as a device (EINVAL).
func notClonable(err error) bool {
	for _, e := range []error{unix.EXDEV, unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS, unix.EINVAL, unix.ETXTBSY, unix.EPERM, unix.EBADF} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
