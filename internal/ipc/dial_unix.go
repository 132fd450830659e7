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

// Client is a conversation with the daemon, and all the memory that it needs. The
// zero Client is ready for ReadEndpoint and Dial. It is for one conversation, and
// not to be copied.
//
// A wrapper has one in its program's zeroed data. In a process this short memory
// costs by the page that is touched for the first time, and an object on the heap
// that is the first of its size has two of its own, and a span to be set up: some
// 5 us, of 1 ms for the whole hit.
type Client struct {
	Conn
	fd         fdStream
	socketAddr unix.SockaddrUnix
	portAddr   unix.SockaddrInet4
	file       [maxEndpointFile]byte
	buffers    [inSize + outSize]byte // last, as the end of it is seldom touched
}

// Sizes of a connection's first buffers, in bytes. A call with some fifty
// include directories fits, and so does a hit without warnings.
const (
	inSize  = 512
	outSize = 3 << 10
)

// ReadEndpoint is the function ReadEndpoint.
func (c *Client) ReadEndpoint(dir string) (Endpoint, error) {
	return readEndpoint(dir, c.file[:])
}

// Dial is Client.Dial for a new Client.
func Dial(e *Endpoint, timeout time.Duration) (*Conn, error) {
	c := new(Client)
	if err := c.Dial(e, timeout); err != nil {
		return nil, err
	}
	return &c.Conn, nil
}

// Dial connects to the daemon and has made sure, when it returns, that the
// peer is a process of this user. The Unix socket is preferred: it is faster
// and its peer is known. Each later wait for the peer, to read or to write, is
// bounded by timeout (ErrTimeout); 0 is no bound. Any other error means that
// nobody listens, or the wrong one.
func (c *Client) Dial(e *Endpoint, timeout time.Duration) error {
	err := errors.New("no address")
	if e.Socket != "" {
		c.socketAddr.Name = e.Socket
		err = c.dial(unix.AF_UNIX, &c.socketAddr, timeout)
		if err == nil {
			err = c.checkPeer(socketPeer(int(c.fd)))
		}
	}
	if e.Port != 0 && err != nil && err != ErrTimeout && err != ErrForeignPeer {
		c.portAddr = unix.SockaddrInet4{Port: e.Port, Addr: [4]byte{127, 0, 0, 1}}
		err = c.dial(unix.AF_INET, &c.portAddr, timeout)
		if err == nil {
			err = c.checkPeer(portPeer(e.Port))
		}
	}
	if err != nil {
		return err
	}
	c.Conn = Conn{
		reader: &c.fd, writer: &c.fd, closer: &c.fd, fd: int(c.fd),
		maxSend: MaxClientFrame, maxFirst: MaxServerFrame, maxNext: MaxServerFrame,
		in: c.buffers[:0:inSize], out: c.buffers[inSize:inSize],
	}
	return nil
}

// dial connects c.fd to addr. It uses a plain blocking socket with the
// kernel's own time limits: package net would start the poller and its threads
// for one round trip.
func (c *Client) dial(family int, addr unix.Sockaddr, timeout time.Duration) error {
	fd, err := streamSocket(family)
	if err != nil {
		return err
	}
	c.fd = fdStream(fd)
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
	if err != nil {
		c.fd.Close()
	}
	return err
}

// checkPeer closes the connection unless uid, if it could be found out, is
// this user's.
func (c *Client) checkPeer(uid int, err error) error {
	if err == nil && uid != unix.Geteuid() {
		err = ErrForeignPeer
	}
	if err != nil {
		c.fd.Close()
	}
	return err
}

// fdStream is a blocking socket as a stream.
type fdStream int

func (fd *fdStream) Read(b []byte) (int, error) {
	n, err := readRaw(int(*fd), b)
	for err == unix.EINTR {
		n, err = unix.Read(int(*fd), b)
	}
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

func (fd *fdStream) Write(b []byte) (int, error) {
	for done := 0; ; {
		n, err := retry(func() (int, error) { return unix.Write(int(*fd), b[done:]) })
		if err == unix.EAGAIN {
			err = ErrTimeout
		}
		if done += max(n, 0); err != nil || done == len(b) {
			return done, err
		}
	}
}

func (fd *fdStream) Close() error { return unix.Close(int(*fd)) }
