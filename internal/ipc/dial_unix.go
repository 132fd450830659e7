//go:build unix

package ipc

import (
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// ErrForeignPeer says that what answers at the endpoint is not a process of
// this user: a name or a port that the daemon left behind and another took.
var ErrForeignPeer = errors.New("the peer belongs to another user")

// Dial connects to the daemon and has made sure, when it returns, that the
// peer is a process of this user. The Unix socket is preferred: it is faster
// and its peer is known. Each later wait for the peer, to read or to write, is
// bounded by timeout (ErrTimeout); 0 is no bound. Any other error means that
// nobody listens, or the wrong one.
func Dial(e *Endpoint, timeout time.Duration) (*Conn, error) {
	err := errors.New("no address")
	if e.Socket != "" {
		var c *Conn
		c, err = dial(unix.AF_UNIX, &unix.SockaddrUnix{Name: e.Socket}, timeout, socketPeer)
		if err == nil || err == ErrTimeout || err == ErrForeignPeer {
			return c, err
		}
	}
	if e.Port != 0 {
		addr := &unix.SockaddrInet4{Port: e.Port, Addr: [4]byte{127, 0, 0, 1}}
		return dial(unix.AF_INET, addr, timeout, portPeer)
	}
	return nil, err
}

// dial connects to addr and asks peer for the peer's user. It uses a plain
// blocking socket with the kernel's own time limits: package net would start
// the poller and its threads for one round trip.
func dial(family int, addr unix.Sockaddr, timeout time.Duration, peer func(fd int, addr unix.Sockaddr) (uid int, err error)) (*Conn, error) {
	fd, err := streamSocket(family)
	if err != nil {
		return nil, err
	}
	c := fdStream(fd)
	if timeout > 0 {
		tv := unix.NsecToTimeval(timeout.Nanoseconds())
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		if err == nil {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
		}
	}
	if err == nil {
		err = unix.Connect(fd, addr)
		// A Unix socket whose queue stays full answers EAGAIN, TCP
		// EINPROGRESS: somebody listens, but takes nobody in.
		if err == unix.EAGAIN || err == unix.EINPROGRESS {
			err = ErrTimeout
		}
	}
	if err == nil {
		var uid int
		if uid, err = peer(fd, addr); err == nil && uid != unix.Geteuid() {
			err = ErrForeignPeer
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return NewClientConn(c), nil
}

// fdStream is a blocking socket as a stream.
type fdStream int

func (fd fdStream) Read(b []byte) (int, error) {
	n, err := retry(func() (int, error) { return unix.Read(int(fd), b) })
	switch {
	case err == unix.EAGAIN:
		return 0, ErrTimeout
	case err != nil:
		return 0, err
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, nil
}

func (fd fdStream) Write(b []byte) (int, error) {
	for done := 0; ; {
		n, err := retry(func() (int, error) { return unix.Write(int(fd), b[done:]) })
		if err == unix.EAGAIN {
			err = ErrTimeout
		}
		if done += max(n, 0); err != nil || done == len(b) {
			return done, err
		}
	}
}

func (fd fdStream) Close() error { return unix.Close(int(fd)) }
