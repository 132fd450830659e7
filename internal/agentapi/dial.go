package agentapi

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"
)

// Dialer makes one connection to an agent.
type Dialer func(ctx context.Context) (net.Conn, error)

// DialVsock connects to a port of a guest through the Unix socket that
// Firecracker (or cloud-hypervisor) listens on for its vsock device; conn is a
// fresh connection to that socket. It closes conn on error.
//
// The handshake is one line each way, "CONNECT port\n" and "OK hostport\n"
// (docs/vsock.md of Firecracker). The answer is read byte by byte: the guest's
// HTTP/2 server speaks first, and what a buffered reader had taken of it would
// be lost. An end instead of an answer means that nobody listens yet.
func DialVsock(ctx context.Context, conn net.Conn, port uint32) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err := handshake(conn, port)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("vsock port %d: %w", port, err)
	}
	return conn, nil
}

// maxAnswer is longer than any "OK " with a 32-bit port.
const maxAnswer = 32

func handshake(conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	var answer []byte
	for b := make([]byte, 1); ; {
		if _, err := conn.Read(b); err != nil {
			return err
		}
		if b[0] == '\n' {
			break
		}
		if answer = append(answer, b[0]); len(answer) > maxAnswer {
			return fmt.Errorf("answer %q is too long", answer)
		}
	}
	if !strings.HasPrefix(string(answer), "OK ") {
		return fmt.Errorf("answer %q, want OK", answer)
	}
	return nil
}
