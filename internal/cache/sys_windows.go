package cache

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

// tryLock locks a file until it is closed, or reports that another opening of
// it has the lock.
func tryLock(f *os.File) (bool, error) {
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY,
		0, 1, 0, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}

// stampOf has no more than size and time here: the cache's own writers replace
// files, which gives them new times.
func stampOf(fi fs.FileInfo) Stamp {
	t := fi.ModTime().UnixNano()
	return Stamp{size: uint64(fi.Size()), mtime: t, ctime: t}
}

func clone(dst, src *os.File) error { return errors.ErrUnsupported }

func notClonable(error) bool { return true }
