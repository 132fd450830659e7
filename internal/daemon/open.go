package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// errOwnName marks a path that means another file to each process: /dev/stdin,
// /dev/fd/3, /proc/self/cwd/a.c. What the daemon finds there is not what the
// compiler did.
var errOwnName = errors.New("means another file to each process")

// openShared is open(2) for a path that the build named, which fails with
// errOwnName where the path leads through one of procfs's magic links
// (openat2(2), RESOLVE_NO_MAGICLINKS; proc(5)).
func openShared(path string, flags int, perm os.FileMode) (fd int, err error) {
	flags |= unix.O_CLOEXEC
	fd, err = openat2(path, flags, perm)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		// A kernel before 5.6, or a sandbox that does not know the call.
		if throughProc(path) {
			err = unix.ELOOP
		} else {
			fd, err = unix.Open(path, flags, uint32(perm))
		}
	}
	if errors.Is(err, unix.ELOOP) && throughProc(path) {
		return -1, &fs.PathError{Op: "open", Path: path, Err: errOwnName}
	}
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

func openat2(path string, flags int, perm os.FileMode) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_LARGEFILE, Resolve: unix.RESOLVE_NO_MAGICLINKS}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(perm) // else it must be 0
	}
	for {
		fd, err := unix.Openat2(unix.AT_FDCWD, path, &how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// throughProc reports whether a path leads below /proc, by its own words or by
// symbolic links.
func throughProc(path string) bool {
	const maxLinks = 40 // what the kernel follows, path_resolution(7)
	done, rest := "/", path
	for links := 0; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(strings.TrimLeft(rest, "/"), "/")
		done = filepath.Join(done, name)
		if done == "/proc" || strings.HasPrefix(done, "/proc/") {
			return true
		}
		if target, err := os.Readlink(done); err == nil {
			if links++; links > maxLinks {
				return false
			}
			if filepath.IsAbs(target) {
				done = "/"
			} else {
				done = filepath.Dir(done)
			}
			rest = target + "/" + rest
		}
	}
	return false
}
