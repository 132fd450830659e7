package atomicfile

import (
	"errors"
	"io"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// procMounted reports whether /proc is there to link files from: a chroot may
// lack it.
var procMounted = sync.OnceValue(func() bool {
	return unix.Access("/proc/self/fd", unix.F_OK) == nil
})

// writeUnnamed writes a file that has no name before it is complete. It
// returns errUnnamed, having called nothing of fill, where the file system or
// a missing /proc does not allow it.
func writeUnnamed(path string, fill func(io.Writer) error, opt Options) error {
	if !procMounted() {
		return errUnnamed
	}
	fd, err := unix.Open(opt.TempDir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	switch {
	// EISDIR: kernels that do not know the flag see a directory opened for
	// writing.
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR), errors.Is(err, unix.EINVAL):
		return errUnnamed
	case err != nil:
		return &os.PathError{Op: "create", Path: opt.TempDir, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := complete(f, fill, opt); err != nil {
		return err
	}
	// AT_EMPTY_PATH would do without /proc, but asks for a capability before
	// Linux 6.10.
	self := "/proc/self/fd/" + strconv.Itoa(fd)
	link := func(name string) error {
		return unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
	}
	err = link(path)
	if errors.Is(err, unix.EEXIST) {
		// A link never replaces; a rename does.
		temp := tempName(opt.TempDir)
		if err = link(temp); err == nil {
			if err := os.Rename(temp, path); err != nil {
				os.Remove(temp)
				return err
			}
			return nil
		}
	}
	if err != nil {
		return &os.LinkError{Op: "link", Old: self, New: path, Err: err}
	}
	return nil
}
