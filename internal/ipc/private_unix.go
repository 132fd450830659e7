//go:build unix

package ipc

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// readPrivate reads a file into buf, which must hold all of it. The file must
// be the user's own and closed to all others. It judges the opened file, not the name, so that the two cannot
// differ. Plain system calls, as an os.File would register with the poller.
func readPrivate(path string, buf []byte) (int, error) {
	fd, err := retry(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0) })
	switch {
	case err == unix.ENOENT, err == unix.ENOTDIR:
		return 0, fs.ErrNotExist
	case err != nil:
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o077 != 0 || int(st.Uid) != unix.Geteuid() {
		return 0, ErrUnsafeEndpoint
	}
	if st.Size > int64(len(buf)) {
		return 0, errors.New("file too large")
	}
	return retry(func() (int, error) { return unix.Read(fd, buf) })
}

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}
