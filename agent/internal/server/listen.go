package server

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

var emptySum = sha256.Sum256(nil)

// ListenVsock listens on a vsock port, for connections from cid alone. With
// VMADDR_CID_HOST nobody in the machine can connect, even where the kernel has a
// vsock loopback: a local peer has the local CID.
func ListenVsock(port, cid uint32) (net.Listener, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("vsock: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("vsock: binding port %d: %w", port, err)
	}
	if err := unix.Listen(fd, 16); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("vsock: %w", err)
	}
	// Non-blocking: reads and accepts wait in the runtime's poller.
	return &vsockListener{f: os.NewFile(uintptr(fd), "vsock"), cid: cid, port: port}, nil
}

type vsockListener struct {
	f         *os.File
	cid, port uint32
}

func (l *vsockListener) Accept() (net.Conn, error) {
	raw, err := l.f.SyscallConn()
	if err != nil {
		return nil, err
	}
	for {
		var fd int
		var peer unix.Sockaddr
		var accept error
		err := raw.Read(func(listener uintptr) bool {
			fd, peer, accept = unix.Accept4(int(listener), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return accept != unix.EAGAIN
		})
		switch {
		case err != nil:
			return nil, err
		case accept == unix.EINTR || accept == unix.ECONNABORTED:
			continue
		case accept != nil:
			return nil, os.NewSyscallError("accept4", accept)
		}
		vm, ok := peer.(*unix.SockaddrVM)
		if !ok || vm.CID != l.cid {
			unix.Close(fd)
			continue
		}
		return &vsockConn{File: os.NewFile(uintptr(fd), "vsock"), local: vsockAddr{unix.VMADDR_CID_ANY, l.port}, remote: vsockAddr{vm.CID, vm.Port}}, nil
	}
}

func (l *vsockListener) Close() error   { return l.f.Close() }
func (l *vsockListener) Addr() net.Addr { return vsockAddr{unix.VMADDR_CID_ANY, l.port} }

type vsockAddr struct{ cid, port uint32 }

func (a vsockAddr) Network() string { return "vsock" }
func (a vsockAddr) String() string  { return fmt.Sprintf("%d:%d", a.cid, a.port) }

type vsockConn struct {
	*os.File
	local, remote vsockAddr
}

func (c *vsockConn) LocalAddr() net.Addr  { return c.local }
func (c *vsockConn) RemoteAddr() net.Addr { return c.remote }

var _ interface {
	net.Conn
	SetDeadline(time.Time) error
} = (*vsockConn)(nil)
