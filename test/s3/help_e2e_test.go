//go:build e2e && linux

package s3_test

import (
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
)

// listen serves on a free address until the test ends.
func listen(t *testing.T, s *http.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = s.Serve(l)
		close(done)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return l.Addr().String()
}

// flipped changes the byte at an offset.
type flipped struct {
	io.ReadCloser
	at int
}

func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if 0 <= f.at && f.at < n {
		p[f.at] ^= 1
	}
	f.at -= n
	return n, err
}

// counted counts what is read.
type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}
