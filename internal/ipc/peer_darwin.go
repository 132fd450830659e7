package ipc

import (
	"errors"

	"golang.org/x/sys/unix"
)

func streamSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	return fd, err
}

// portPeer refuses: these systems do not say whose a loopback port is, and
// their daemons have the Unix socket.
func portPeer(int) (uid int, err error) {
	return 0, errors.New("the owner of a port cannot be told on this system")
}

// socketPeer returns the user of the process that listens on a Unix socket.
func socketPeer(fd int) (uid int, err error) {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}

func readRaw(fd int, b []byte) (int, error) { return unix.Read(fd, b) }
