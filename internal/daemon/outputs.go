package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/compiler"
)

// writeOutput leaves data at path as a compiler would have: a new file gets
// mode 0666 less the umask; a device stays a device, a symbolic link is
// followed, and an existing file keeps its mode and its links.
//
// An existing plain file that a new one would not differ from is replaced
// instead of overwritten: whoever still reads the old one (a linker, another
// job) keeps it whole, and truncating a file in place makes some file systems
// write it out at once. clone, if not nil, tries to fill an empty file
// without copying.
func writeOutput(path string, data []byte, perm os.FileMode, clone func(*os.File) (bool, error)) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if errors.Is(err, fs.ErrExist) {
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil && replaceable(&st, perm) && unix.Unlink(path) == nil {
			f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
		}
		if errors.Is(err, fs.ErrExist) {
			f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
			clone = nil
		}
	}
	if err != nil {
		return err
	}
	if clone != nil {
		if done, err := clone(f); done || err != nil {
			return errors.Join(err, f.Close())
		}
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// replaceable reports whether an existing file equals, but for its content,
// the one that would be created anew.
func replaceable(st *unix.Stat_t, perm os.FileMode) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 &&
		st.Mode&0o7777 == uint32(perm) &&
		int(st.Uid) == os.Geteuid() && int(st.Gid) == os.Getegid()
}

// readOutput reads what a compile left at path.
func readOutput(path string) (data []byte, executable bool, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, false, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if !st.Mode().IsRegular() {
		return nil, false, refuse(reasonOutputSpecial, "%s is not a regular file", path)
	}
	if st.Size() > maxInput {
		return nil, false, refuse(reasonOutputSpecial, "%s has %d bytes", path, st.Size())
	}
	data = make([]byte, st.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, false, fmt.Errorf("reading %s: %w", path, err)
	}
	return data, st.Mode()&0o111 != 0, nil
}

// readOutputs reads every output of a compile that succeeded, by role.
func readOutputs(outputs []compiler.Output, p place) (map[string]output, error) {
	got := make(map[string]output, len(outputs))
	for _, o := range outputs {
		data, exec, err := readOutput(p.absolute(o.Path))
		if errors.Is(err, fs.ErrNotExist) {
			if o.Optional {
				continue
			}
			return nil, refuse(reasonOutputMissing, "%s", o.Path)
		}
		if err != nil {
			return nil, err
		}
		got[o.Role] = output{data, exec}
	}
	return got, nil
}

// output is the content of one output.
type output struct {
	data       []byte
	executable bool
}
