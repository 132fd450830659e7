//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/store"
)

const (
	// maxClients bounds connections; each compile has one. More wait.
	maxClients = 1024
	// pause is how long a client may leave a request or an answer half way, as
	// long as ccache itself waits for a byte by default.
	pause = 10 * time.Second
	// silence is how long a client may say nothing: ccache keeps its connection
	// while the compiler runs.
	silence = 4 * time.Hour
	// small is a value that is fetched without asking for much memory. Nearly
	// all are.
	small = 16 << 20
	// memory bounds all values that are held at a time, in bytes: one of the
	// largest, or 64 small ones.
	memory = store.MaxObject
	// stale is the age at which an object that is read is touched: who evicts
	// goes by the time of modification.
	stale = 24 * time.Hour
	// touches bounds how many objects are touched at a time, behind the clients.
	touches = 4
	// rest is how long after the socket's name is gone a client may still come
	// who had found it.
	rest = 100 * time.Millisecond
)

// backend is where values are kept.
type backend struct {
	tenant string
	store  store.Store
	// broken is why there is no store. Every request but stop and info gets it
	// as its answer: ccache then compiles. A program that ended instead would be
	// started again, and waited for for ten seconds, by every compile.
	broken error
}

// server answers ccache's requests. Its methods may be called concurrently.
type server struct {
	backend

	room     *semaphore.Weighted // of memory
	touching chan struct{}       // who touches an object has a place in it
}

func newServer(b backend) *server {
	return &server{backend: b, room: semaphore.NewWeighted(memory), touching: make(chan struct{}, touches)}
}

// serve answers until a client says stop, ctx ends, or no client has been
// connected for idle; 0 is for ever. It closes l, whose name is gone then, and
// leaves nothing running.
func (s *server) serve(ctx context.Context, l *net.UnixListener, idle time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	// By hand: a socket that has taken this one's place is another's.
	l.SetUnlinkOnClose(false)
	path := l.Addr().String()
	mine, err := os.Lstat(path)
	if err != nil {
		return err
	}
	leave := sync.OnceFunc(func() {
		if now, err := os.Lstat(path); err == nil && os.SameFile(mine, now) {
			_ = os.Remove(path)
		}
	})
	defer func() { _ = l.Close() }()
	defer leave()

	var mu sync.Mutex
	var clients int
	var leaving bool
	defer context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		leave()
		_ = l.SetDeadline(time.Now())
	})()
	// count sets when Accept gives up: not while there are clients.
	count := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		clients += n
		switch {
		case leaving || ctx.Err() != nil:
		case clients > 0 || idle == 0:
			_ = l.SetDeadline(time.Time{})
		default:
			_ = l.SetDeadline(time.Now().Add(idle))
		}
	}
	count(0)
	places := make(chan struct{}, maxClients)
	for {
		c, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			mu.Lock()
			if leaving {
				mu.Unlock()
				// Whoever came last is served before the end.
				work.Wait()
				return nil
			}
			if clients == 0 {
				leaving = true
				leave()
				_ = l.SetDeadline(time.Now().Add(rest))
			}
			mu.Unlock()
			continue
		case err != nil:
			return err
		}
		places <- struct{}{}
		count(1)
		work.Go(func() {
			defer func() { <-places }()
			defer count(-1)
			defer func() { _ = c.Close() }()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			if s.client(ctx, c, &work) {
				leave()
				_, _ = c.Write([]byte{done})
				cancel()
			}
		})
	}
}

// patient is a connection whose peer may pause, but not for longer than limit.
type patient struct {
	net.Conn
	limit time.Duration
}

func (p *patient) Read(b []byte) (int, error) {
	if err := p.SetReadDeadline(time.Now().Add(p.limit)); err != nil {
		return 0, err
	}
	return p.Conn.Read(b)
}

// Write gives each mebibyte the time of one pause.
func (p *patient) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		if err = p.SetWriteDeadline(time.Now().Add(pause)); err != nil {
			break
		}
		var m int
		m, err = p.Conn.Write(b[:min(len(b), 1<<20)])
		n, b = n+m, b[m:]
	}
	return n, err
}

// client answers one client until it leaves, and tells whether it said stop.
func (s *server) client(ctx context.Context, conn net.Conn, work *sync.WaitGroup) (stopped bool) {
	c := &patient{conn, silence}
	r := bufio.NewReader(c)
	if _, err := c.Write(greeting); err != nil {
		return false
	}
	for {
		c.limit = silence
		if _, err := r.Peek(1); err != nil {
			return false
		}
		c.limit = pause
		var held int64 // of room
		q, err := readRequest(r, func(size int64) error {
			err := s.take(ctx, size)
			if err == nil {
				held = size
			}
			return err
		})
		switch {
		case err != nil:
			// What follows would be read as a request.
			_, _ = c.Write(failure(err))
		case q.kind == stop:
			return true
		default:
			err = s.answer(ctx, c, q, work)
		}
		s.room.Release(held)
		if err != nil {
			return false
		}
	}
}

// take waits for size bytes of memory, for one pause at most.
func (s *server) take(ctx context.Context, size int64) error {
	ctx, cancel := context.WithTimeout(ctx, pause)
	defer cancel()
	if s.room.Acquire(ctx, size) != nil {
		return errors.New("too much at a time")
	}
	return nil
}

// answer answers one request; its error is the connection's.
func (s *server) answer(ctx context.Context, w io.Writer, q request, work *sync.WaitGroup) error {
	if q.kind == info {
		_, err := w.Write(informed("ccache-storage-hpcc "+Version, s.diagnostics()))
		return err
	}
	name, err := s.name(q.key)
	if err == nil {
		err = s.broken
	}
	if err != nil {
		_, err = w.Write(failure(err))
		return err
	}
	var reply []byte
	switch q.kind {
	case get:
		return s.get(ctx, w, name, work)
	case exists:
		_, err = s.store.Stat(ctx, name)
		switch {
		case err == nil:
			reply = []byte{done, 1}
		case errors.Is(err, store.ErrNotFound):
			reply = []byte{done, 0}
		default:
			reply = failure(err)
		}
	default:
		if q.kind == put {
			_, err = s.store.Put(ctx, name, q.value, store.Condition{Absent: !q.overwrite})
		} else {
			err = s.store.Delete(ctx, name)
		}
		switch {
		case err == nil:
			reply = []byte{done}
		case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrReadOnly):
			reply = []byte{undone}
		default:
			reply = failure(err)
		}
	}
	_, err = w.Write(reply)
	return err
}

// diagnostics are lines for ccache's log.
func (s *server) diagnostics() []string {
	if s.broken != nil {
		return []string{"no store: " + s.broken.Error()}
	}
	said := []string{"store: " + s.store.String(), "tenant: " + s.tenant}
	if g, ok := s.store.(*store.Guarded); ok {
		said = append(said, "state: "+g.State().String())
	}
	return said
}

// get sends the value of name. It is held in memory, of which a small one takes
// little; a larger one is asked for again, with room for it.
func (s *server) get(ctx context.Context, w io.Writer, name string, work *sync.WaitGroup) error {
	var o store.Object
	var err error
	var held int64 // of room
	defer func() { s.room.Release(held) }()
	for _, limit := range []int64{small, store.MaxObject} {
		s.room.Release(held)
		held = 0
		if err = s.take(ctx, limit); err != nil {
			break
		}
		held = limit
		if o, err = s.store.Get(ctx, name, limit); !errors.Is(err, store.ErrTooLarge) {
			break
		}
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		_, err = w.Write([]byte{undone})
		return err
	case err != nil:
		_, err = w.Write(failure(err))
		return err
	}
	if time.Since(o.Modified) > stale {
		s.touch(ctx, name, work)
	}
	if _, err = w.Write(found(len(o.Body))); err == nil {
		_, err = w.Write(o.Body)
	}
	return err
}

// touch tells who evicts that an object is in use, behind the client's back. If
// much is touched already, another reader will.
func (s *server) touch(ctx context.Context, name string, work *sync.WaitGroup) {
	select {
	case s.touching <- struct{}{}:
	default:
		return
	}
	work.Go(func() {
		defer func() { <-s.touching }()
		_ = s.store.Touch(ctx, name)
	})
}

// name is that of the object of a key.
func (s *server) name(key []byte) (string, error) {
	if len(key) != shared.CcacheKeySize {
		return "", fmt.Errorf("%w: a key of %d bytes, and not %d", store.ErrName, len(key), shared.CcacheKeySize)
	}
	return shared.CcacheName(s.tenant, [shared.CcacheKeySize]byte(key)), nil
}
