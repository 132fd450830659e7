//go:build e2e && linux

package tiers

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// counter passes requests on to a server of S3, and counts them.
type counter struct {
	address string

	mu sync.Mutex
	// requests are by method and kind of object: "GET manifest".
	requests map[string]int
}

func newCounter(t *testing.T, endpoint string) *counter {
	t.Helper()
	target, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &counter{address: ln.Addr().String(), requests: map[string]int{}}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // which is signed
	}}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// /BUCKET/cache/TENANT/KIND/ab/HEX
		kind := "other"
		if parts := strings.Split(r.URL.Path, "/"); len(parts) > 4 {
			kind = parts[4]
		}
		c.mu.Lock()
		c.requests[r.Method+" "+kind]++
		c.mu.Unlock()
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })
	return c
}

// count returns the requests since the last call.
func (c *counter) count() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.requests
	c.requests = map[string]int{}
	return r
}

// wire is a machine's way to the bucket.
type wire struct {
	to string

	mu    sync.Mutex
	ln    net.Listener
	conns map[net.Conn]bool
	hangs bool
	// after, if it is positive, is how many connections' pieces still pass before
	// then is called.
	after int
	then  func()
}

// newWire listens at a machine's gateway.
func newWire(t *testing.T, gateway, to string) *wire {
	t.Helper()
	ln, err := net.Listen("tcp", gateway+":0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{to: to, ln: ln, conns: map[net.Conn]bool{}}
	go w.serve()
	t.Cleanup(w.cut)
	return w
}

func (w *wire) endpoint() string { return "http://" + w.ln.Addr().String() }

func (w *wire) serve() {
	for {
		c, err := w.ln.Accept()
		if err != nil {
			return
		}
		go w.carry(c)
	}
}

// carry passes a connection on, piece by piece.
func (w *wire) carry(c net.Conn) {
	up, err := net.Dial("tcp", w.to)
	if err != nil {
		_ = c.Close()
		return
	}
	w.mu.Lock()
	w.conns[c], w.conns[up] = true, true
	w.mu.Unlock()
	var both sync.WaitGroup
	pass := func(to, from net.Conn) {
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 && !w.stuck() {
				_, err = to.Write(buf[:n])
			}
			if err != nil {
				_ = to.Close()
				_ = from.Close()
				return
			}
		}
	}
	both.Go(func() { pass(up, c) })
	both.Go(func() { pass(c, up) })
	both.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
	delete(w.conns, up)
}

// stuck counts a piece, and tells whether it goes no further.
func (w *wire) stuck() bool {
	w.mu.Lock()
	if w.after > 0 {
		if w.after--; w.after == 0 {
			w.mu.Unlock()
			w.then()
			w.mu.Lock()
		}
	}
	defer w.mu.Unlock()
	return w.hangs
}

// hang lets nothing through any more: connections are taken, and nothing comes.
func (w *wire) hang() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hangs = true
}

// cut ends all connections, and refuses new ones.
func (w *wire) cut() {
	_ = w.ln.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.Close()
	}
}

// later has f happen once n pieces have passed.
func (w *wire) later(n int, f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.after, w.then = n, f
}
