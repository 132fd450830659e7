//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/jail"
)

// checkFile makes sure that a descriptor is an ordinary file that the worker
// has opened for reading. One of O_PATH proves nothing: it can be had of
// /etc/shadow.
func checkFile(fd int) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if flags&unix.O_PATH != 0 || flags&unix.O_ACCMODE == unix.O_WRONLY {
		return errors.New("is not open for reading")
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("is not an ordinary file")
	}
	return nil
}

// checkConsole makes sure that a descriptor is a pipe to write to.
func checkConsole(fd int) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO || flags&unix.O_PATH != 0 || flags&unix.O_ACCMODE == unix.O_RDONLY {
		return errors.New("is not a pipe to write to")
	}
	return nil
}

// place makes a file of dir that its user can read and nobody can write, of the
// content of fd. A file that is the worker's own, and that all may read, is
// linked, so that machines of one tenant share its pages; its inode is not
// changed. Any other is reflinked, or copied: an inode that is not the worker's
// own is never put within a monitor's reach, since the worker's right to read
// it is no right to that (it could be a set-user-ID program).
func place(dir int, name string, fd int, worker uint) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if uint(st.Uid) == worker && st.Mode&0o7777&^0o755 == 0 && st.Mode&0o004 != 0 {
		if unix.Linkat(fd, "", dir, name, unix.AT_EMPTY_PATH) == nil {
			return nil
		} // another file system, too many links, or none any more
	}
	to, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o400)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(to), name)
	defer f.Close()
	if err := unix.IoctlFileClone(to, fd); err != nil {
		// By offset: the descriptor's own position is shared with the worker.
		if _, err := io.Copy(f, io.NewSectionReader(reader(fd), 0, st.Size)); err != nil {
			return err
		}
	}
	return f.Chmod(0o444)
}

// reader reads a descriptor that stays another's.
type reader int

func (r reader) ReadAt(p []byte, offset int64) (int, error) {
	n, err := unix.Pread(int(r), p, offset)
	if n == 0 && err == nil {
		err = io.ErrUnexpectedEOF // it has become shorter
	}
	return max(n, 0), err
}

// connect makes a connection to a socket in the jail on which the monitor
// listens, and nobody else. Everything there is hostile: a name may have become
// a link, a socket of the host's, or one of another process of the jail's.
func (c *cell) connect(name string) (int, error) {
	node, err := unix.Openat2(c.root, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC, // O_NOFOLLOW would open a link itself
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if errors.Is(err, unix.ENOENT) {
		return -1, &jail.Error{Code: jail.NotYet, Text: name + " is not there"}
	} else if err != nil {
		return -1, fmt.Errorf("%s: %w", name, err)
	}
	defer unix.Close(node)
	var st unix.Stat_t
	if err := unix.Fstat(node, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return -1, fmt.Errorf("%s is not a socket", name)
	}
	// Not blocking: a full queue of connections would hold this thread.
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	// The inode that was opened, whatever the name stands for by now.
	err = unix.Connect(s, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(node)})
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EAGAIN) {
		err = &jail.Error{Code: jail.NotYet, Text: fmt.Sprintf("%s: %v", name, err)}
	} else if err == nil {
		var cred *unix.Ucred
		cred, err = unix.GetsockoptUcred(s, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil && (cred.Uid != c.uid || int(cred.Pid) != c.pid) {
			err = fmt.Errorf("%s: process %d of user %d listens there, not the monitor", name, cred.Pid, cred.Uid)
		}
	}
	if err != nil {
		unix.Close(s)
		return -1, err
	}
	return s, nil
}

// removeTree removes a directory of parent and all below it, of which nobody
// uses anything any more. Links are removed, not followed. Whoever made the tree
// may have made it a hundred thousand levels deep: a directory that is not
// empty is moved up to the top, so that there is no recursion.
func removeTree(parent *os.Root, name string) error {
	top, err := parent.OpenRoot(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer func() { _ = top.Close() }()
	for moved := 0; ; {
		dirs, progress, err := clear(top)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, d := range dirs {
			sub, err := top.OpenRoot(d)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			deeper, n, err := clear(sub)
			_ = sub.Close()
			for i := 0; i < len(deeper) && err == nil; moved++ {
				// The name may be taken: whoever made the tree knows ours.
				err = top.Rename(d+"/"+deeper[i], ".moved"+strconv.Itoa(moved))
				if errors.Is(err, os.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
					err = nil
					continue
				}
				i++
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			progress += n + len(deeper)
		}
		if len(dirs) == 0 {
			err := parent.Remove(name)
			if err == nil || !errors.Is(err, unix.ENOTEMPTY) {
				return err
			}
		}
		if progress == 0 {
			return fmt.Errorf("%s: there is always something in it", name)
		}
	}
}

// clear removes all of a directory but directories that are not empty. It
// returns these, and how many it removed.
func clear(dir *os.Root) (full []string, removed int, err error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(1024)
		if err == io.EOF {
			return full, removed, nil
		} else if err != nil {
			return nil, 0, err
		}
		for _, n := range names {
			if err := dir.Remove(n); err == nil {
				removed++
			} else if errors.Is(err, unix.ENOTEMPTY) {
				full = append(full, n)
			} else if !errors.Is(err, os.ErrNotExist) {
				return nil, 0, err
			}
		}
	}
}
