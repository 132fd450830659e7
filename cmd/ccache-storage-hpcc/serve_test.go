//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/store"
)

// running is a server that serves at path.
type running struct {
	path  string
	ended chan error
}

// start serves b until the test's end.
func start(t *testing.T, b backend, idle time.Duration) *running {
	t.Helper()
	// A socket's path is short; the test's own directory may not be.
	dir, err := os.MkdirTemp("", "crsh")
	if err != nil {
		t.Fatal(err)
	}
	r := &running{filepath.Join(dir, "s"), make(chan error, 1)}
	l, err := listen(r.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.ended <- newServer(b).serve(ctx, l, idle)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if _, err := os.Lstat(r.path); err == nil {
			t.Error("the socket is still there")
		}
		os.RemoveAll(dir)
	})
	return r
}

// peer is a client as ccache is one.
type peer struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (r *running) dial(t *testing.T) *peer {
	t.Helper()
	p, err := r.tryDial(t)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// tryDial is dial for a server that may have ended.
func (r *running) tryDial(t *testing.T) (*peer, error) {
	t.Helper()
	c, err := net.Dial("unix", r.path)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return nil, err
	}
	p, greeting := &peer{t, c, bufio.NewReader(c)}, make([]byte, 5)
	if _, err := io.ReadFull(p.r, greeting); err != nil {
		return nil, err
	}
	if !bytes.Equal(greeting, []byte{1, 3, 0, 1, 2}) {
		t.Fatalf("greeting %v", greeting)
	}
	return p, nil
}

func (p *peer) bytes(n int) []byte {
	p.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(p.r, b); err != nil {
		p.t.Fatal(err)
	}
	return b
}

func (p *peer) text() string { return string(p.bytes(int(p.bytes(1)[0]))) }

// ask sends a request and returns its answer in words.
func (p *peer) ask(q request) string {
	p.t.Helper()
	if _, err := p.Write(q.wire()); err != nil {
		p.t.Fatal(err)
	}
	switch status := p.bytes(1)[0]; {
	case status == undone:
		return "undone"
	case status == failed:
		return "failed: " + p.text()
	case status != done:
		return fmt.Sprint("status ", status)
	case q.kind == get:
		return string(p.bytes(int(binary.NativeEndian.Uint64(p.bytes(8)))))
	case q.kind == exists:
		return fmt.Sprint(p.bytes(1)[0])
	}
	return "done"
}

func (p *peer) closed() {
	p.t.Helper()
	if b, err := p.r.ReadByte(); !errors.Is(err, io.EOF) {
		p.t.Errorf("the connection is open: %v, %v", b, err)
	}
}

var key = bytes.Repeat([]byte{0xab}, shared.CcacheKeySize)

func memoryBackend() backend { return backend{tenant: "default", store: store.NewMemory(0)} }

func TestRequests(t *testing.T) {
	b := memoryBackend()
	p := start(t, b, 0).dial(t)
	other := bytes.Repeat([]byte{0xcd}, shared.CcacheKeySize)
	for _, c := range []struct {
		q    request
		want string
	}{
		{request{kind: get, key: key}, "undone"},
		{request{kind: exists, key: key}, "0"},
		{request{kind: remove, key: key}, "done"},
		{request{kind: put, key: key, value: []byte("one")}, "done"},
		{request{kind: get, key: key}, "one"},
		{request{kind: exists, key: key}, "1"},
		{request{kind: put, key: key, value: []byte("two")}, "undone"},
		{request{kind: get, key: key}, "one"},
		{request{kind: put, key: key, value: []byte("two"), overwrite: true}, "done"},
		{request{kind: get, key: key}, "two"},
		{request{kind: get, key: other}, "undone"},
		{request{kind: put, key: other}, "done"},
		{request{kind: get, key: other}, ""},
		{request{kind: remove, key: key}, "done"},
		{request{kind: get, key: key}, "undone"},
		{request{kind: get}, "failed: not a name of an object: a key of 0 bytes, and not 20"},
		{request{kind: put, key: key[1:]}, "failed: not a name of an object: a key of 19 bytes, and not 20"},
		{request{kind: get, key: other}, ""},
	} {
		if got := p.ask(c.q); got != c.want {
			t.Errorf("%+v: %q, want %q", c.q, got, c.want)
		}
	}
	var names []string
	if err := b.store.List(t.Context(), "", func(i store.Info) error { names = append(names, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	if want := "default/ccache/cd/" + strings.Repeat("cd", 20); len(names) != 1 || names[0] != want {
		t.Errorf("the store has %v, want %s", names, want)
	}
}

func TestInfo(t *testing.T) {
	for want, b := range map[string]backend{
		"tenant: default":     memoryBackend(),
		"no store: no bucket": {broken: errors.New("no bucket")},
	} {
		p := start(t, b, 0).dial(t)
		if _, err := p.Write([]byte{byte(info)}); err != nil {
			t.Fatal(err)
		}
		said := p.text()
		for range p.bytes(1)[0] {
			said += "\n" + p.text()
		}
		if !strings.HasPrefix(said, "ccache-storage-hpcc ") || !strings.Contains(said, want) {
			t.Errorf("%q, want %q in it", said, want)
		}
	}
}

// Without a store each request says why, and the next is answered.
func TestBroken(t *testing.T) {
	p := start(t, backend{broken: errors.New("no bucket")}, 0).dial(t)
	for _, k := range []kind{get, put, remove, exists} {
		if got := p.ask(request{kind: k, key: key, value: []byte("v")}); got != "failed: no bucket" {
			t.Errorf("%d: %q", k, got)
		}
	}
}

// A value that a small one's room does not hold, and a client that sends nonsense.
func TestLarge(t *testing.T) {
	r := start(t, memoryBackend(), 0)
	p := r.dial(t)
	large := bytes.Repeat([]byte("0123456789abcdef"), small/16+1)
	if got := p.ask(request{kind: put, key: key, value: large}); got != "done" {
		t.Fatal(got)
	}
	// Each is held alone: what was held before was given back.
	for range 3 {
		if got := p.ask(request{kind: get, key: key}); got != string(large) {
			t.Fatalf("%d bytes came back of %d", len(got), len(large))
		}
	}
	announced := binary.NativeEndian.AppendUint64([]byte{byte(put), 1, 'k', 0}, store.MaxObject+1)
	if _, err := p.Write(announced); err != nil {
		t.Fatal(err)
	}
	if status, text := p.bytes(1)[0], p.text(); status != failed || !strings.Contains(text, "too large") {
		t.Errorf("%d %q", status, text)
	}
	p.closed()
	p = r.dial(t)
	if _, err := p.Write([]byte{77}); err != nil {
		t.Fatal(err)
	}
	if status, text := p.bytes(1)[0], p.text(); status != failed || !strings.Contains(text, "not a request") {
		t.Errorf("%d %q", status, text)
	}
	p.closed()
	if got := r.dial(t).ask(request{kind: exists, key: key}); got != "1" {
		t.Errorf("another client gets %q", got)
	}
}

// answers is a store that answers with an error, or with an old object.
type answers struct {
	store.Store
	err     error
	touched chan string
}

func (a *answers) Get(context.Context, string, int64) (store.Object, error) {
	return store.Object{Body: []byte("old"), Modified: time.Now().Add(-2 * stale)}, a.err
}

func (a *answers) Put(context.Context, string, []byte, store.Condition) (store.Version, error) {
	return "", a.err
}
func (a *answers) Delete(context.Context, string) error             { return a.err }
func (a *answers) Stat(context.Context, string) (store.Info, error) { return store.Info{}, a.err }
func (a *answers) Touch(_ context.Context, name string) error {
	a.touched <- name
	return nil
}

func TestErrorsOfStore(t *testing.T) {
	q := func(k kind) request { return request{kind: k, key: key, value: []byte("v")} }
	for _, c := range []struct {
		err  error
		want [4]string // of get, put, remove, exists
	}{
		{store.ErrNotFound, [4]string{"undone", "failed: not in", "failed: not in", "0"}},
		{store.ErrConflict, [4]string{"failed: another", "undone", "undone", "failed: another"}},
		{store.ErrReadOnly, [4]string{"failed: the store is read", "undone", "undone", "failed: the store is read"}},
		{store.ErrUnavailable, [4]string{"failed: the store is not", "failed: the store is not", "failed: the store is not", "failed: the store is not"}},
	} {
		p := start(t, backend{tenant: "t", store: &answers{err: fmt.Errorf("%w\nbecause", c.err)}}, 0).dial(t)
		for i, k := range []kind{get, put, remove, exists} {
			if got := p.ask(q(k)); !strings.HasPrefix(got, c.want[i]) || strings.Contains(got, "\n") {
				t.Errorf("%v: %d is answered %q, want %q", c.err, k, got, c.want[i])
			}
		}
	}
}

// What is read is in use: eviction goes by the time of modification.
func TestTouch(t *testing.T) {
	s := &answers{touched: make(chan string)}
	p := start(t, backend{tenant: "t", store: s}, 0).dial(t)
	if got := p.ask(request{kind: get, key: key}); got != "old" {
		t.Fatal(got)
	}
	if name := <-s.touched; name != "t/ccache/ab/"+strings.Repeat("ab", shared.CcacheKeySize) {
		t.Errorf("touched %s", name)
	}
}

// hanging is a store that never answers.
type hanging struct {
	store.Store
	asked chan struct{}
}

func (h *hanging) Get(ctx context.Context, _ string, _ int64) (store.Object, error) {
	h.asked <- struct{}{}
	<-ctx.Done()
	return store.Object{}, ctx.Err()
}

func TestStop(t *testing.T) {
	h := &hanging{asked: make(chan struct{}, 1)}
	r := start(t, backend{tenant: "t", store: h}, 0)
	busy := r.dial(t)
	if _, err := busy.Write(request{kind: get, key: key}.wire()); err != nil {
		t.Fatal(err)
	}
	<-h.asked
	if got := r.dial(t).ask(request{kind: stop}); got != "done" {
		t.Error(got)
	}
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(r.path); err == nil {
		t.Error("the socket is still there")
	}
}

func TestIdle(t *testing.T) {
	idle := 20 * time.Millisecond
	r := start(t, memoryBackend(), idle)
	p, err := r.tryDial(t)
	for ; err != nil; p, err = r.tryDial(t) {
		// The first client of a busy machine may come too late.
		if ended := <-r.ended; ended != nil || idle > time.Minute {
			t.Fatal(ended, err)
		}
		idle *= 2
		r = start(t, memoryBackend(), idle)
	}
	select {
	case <-r.ended:
		t.Fatal("it ended while a client was there")
	case <-time.After(10 * idle):
	}
	if got := p.ask(request{kind: exists, key: key}); got != "0" {
		t.Error(got)
	}
	p.Close()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	dir, err := os.MkdirTemp("", "crsh")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	l, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("%v: %v", info.Mode(), err)
	}
	if _, err := listen(path); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("a second one: %v", err)
	}
	// As after a kill.
	l.SetUnlinkOnClose(false)
	l.Close()
	if l, err = listen(path); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("at a file: %v", err)
	}
}
