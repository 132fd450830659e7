package images

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// InRoot says what Linux finds at path for a process whose root is dir: the
// SHA-256 and size of a regular file, links followed within dir, as
// "HEX/size"; or "", where there is no such file.
func InRoot(dir, path string) (string, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	switch {
	case errors.Is(err, unix.ENOSYS):
		return "", err
	case err != nil:
		return "", nil // how it leads nowhere does not matter
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return "", err
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	return fmt.Sprintf("%x/%d", h.Sum(nil), n), err
}

// Names are the absolute paths, with dir for a root, of all that is below dir.
func Names(dir string) (names []string, err error) {
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir {
			names = append(names, path[len(dir):])
		}
		return err
	})
	return names, err
}
