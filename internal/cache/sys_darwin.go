package cache

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

func stampOf(fi fs.FileInfo) Stamp {
	st := fi.Sys().(*syscall.Stat_t)
	return Stamp{uint64(st.Dev), st.Ino, uint64(st.Size), st.Mtimespec.Nano(), st.Ctimespec.Nano()}
}

// clone is not implemented: clonefile makes a new file, and outputs are
// written into the file that is there.
func clone(dst, src *os.File) error { return errors.ErrUnsupported }

func notClonable(error) bool { return true }
