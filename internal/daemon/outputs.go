package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/compiler"
)

// manner is how a program treats what is already where it writes.
type manner uint8

const (
	// inPlace truncates and writes: mode, links and symbolic links stay. So do
	// cc1 and clang with all that they write through stdio.
	inPlace manner = iota
	// unlinkFirst removes a file, or a link to one, that is not empty, and
	// makes a new one; an empty one is written in place. So do gas and objcopy
	// (bfd's opncls).
	unlinkFirst
	// renamed puts a new file in the old one's place, or in a link's. So does
	// clang with its main output.
	renamed
)

// mannerOf says how a compiler leaves an output of a role. A test compares
// it with gcc 12, mingw's, clang 14 and clang-cl 14.
func mannerOf(family compiler.Family, role string) manner {
	switch {
	case family == compiler.GCC && (role == "object" || role == "dwo"):
		return unlinkFirst
	case family.IsClang() && (role == "object" || role == "assembly"), family == compiler.ClangCL && role == "listing":
		return renamed
	}
	return inPlace
}

// outputFile is a file to leave as a compiler would have.
type outputFile struct {
	path string
	data []byte
	// mode is what the compiler asks open for, of which umask takes bits.
	mode, umask os.FileMode
	how         manner
	// clone, if not nil, tries to fill an empty file without copying.
	clone func(*os.File) (bool, error)
}

// write leaves the file, whatever is there: a new one gets its mode, a device
// stays a device. It reports whether nothing was there before.
//
// Where it makes no difference to be seen later, an existing file is replaced
// even if the compiler would overwrite it: whoever still reads the old one (a
// linker, another job) keeps it whole, and truncating a file in place makes
// some file systems write it out at once.
func (o *outputFile) write() (created bool, err error) {
	perm, clone := o.perm(), o.clone
	fd, err := openShared(o.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	created = err == nil
	if errors.Is(err, fs.ErrExist) {
		if o.replaces() && unix.Unlink(o.path) == nil {
			fd, err = openShared(o.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
		}
		if errors.Is(err, fs.ErrExist) {
			fd, err = openShared(o.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
			clone = nil
		}
	}
	if err != nil {
		return false, special(err)
	}
	f := os.NewFile(uintptr(fd), o.path)
	if clone != nil {
		if done, err := clone(f); done || err != nil {
			return created, errors.Join(err, f.Close())
		}
	}
	_, err = f.Write(o.data)
	return created, errors.Join(err, f.Close())
}

// perm is the mode to create the file with. A directory's default access
// rights stand in for the umask (acl(5)), which the kernel sees to if it is
// asked for the whole mode.
func (o *outputFile) perm() os.FileMode {
	if hasAttribute(filepath.Dir(o.path), "system.posix_acl_default") {
		return o.mode
	}
	return o.mode &^ o.umask
}

func hasAttribute(path, name string) bool {
	n, err := unix.Getxattr(path, name, nil)
	return err == nil && n > 0
}

// replaces reports whether what is there is to be removed before it is written.
func (o *outputFile) replaces() bool {
	var own, target unix.Stat_t
	if unix.Lstat(o.path, &own) != nil {
		return false
	}
	kind := own.Mode & unix.S_IFMT
	if kind == unix.S_IFLNK && throughProc(o.path) {
		return false // a link to the daemon's own stdout, or the like
	}
	dangling := unix.Stat(o.path, &target) != nil
	regular := !dangling && target.Mode&unix.S_IFMT == unix.S_IFREG
	switch {
	case o.how == unlinkFirst && !dangling && target.Size > 0 && (kind == unix.S_IFREG || kind == unix.S_IFLNK):
		return true
	case o.how == renamed && (regular || dangling):
		return true
	}
	// Would a new one look the same?
	return kind == unix.S_IFREG && own.Nlink == 1 && own.Mode&0o7777 == uint32(o.mode&^o.umask) &&
		int(own.Uid) == os.Geteuid() && int(own.Gid) == os.Getegid() && !hasAttribute(o.path, "system.posix_acl_access")
}

// readOutput reads what a compile left at path.
func readOutput(path string) ([]byte, error) {
	fd, err := openShared(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, special(err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, refuse(reasonOutputSpecial, "%s is not a regular file", path)
	}
	if st.Size() > maxInput {
		return nil, refuse(reasonOutputLarge, "%s has %d bytes", path, st.Size())
	}
	data := make([]byte, st.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return data, nil
}

// special gives an error that comes of an output's kind its reason.
func special(err error) error {
	if errors.Is(err, errOwnName) {
		return refuse(reasonOutputSpecial, "%s", err)
	}
	return err
}

// readOutputs reads every output of a compile that succeeded, by role.
func readOutputs(outputs []compiler.Output, p place) (map[string]output, error) {
	got := make(map[string]output, len(outputs))
	for _, o := range outputs {
		data, err := readOutput(p.absolute(o.Path))
		if errors.Is(err, fs.ErrNotExist) {
			if o.Optional {
				continue
			}
			return nil, refuse(reasonOutputMissing, "%s", o.Path)
		}
		if err != nil {
			return nil, err
		}
		got[o.Role] = output{data}
	}
	return got, nil
}

// output is the content of one output. No compiler makes one executable; one
// that is was so before, and written over.
type output struct {
	data []byte
}
