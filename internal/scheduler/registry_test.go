package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hpcc.dev/hpcc/internal/auth"
)

func TestExpiry(t *testing.T) {
	r := newRegistry(20 * time.Second)
	t0 := time.Now()
	q := func() *Query { return &Query{Tenant: "red", Image: imageA, Platform: amd64} }
	at := func(d time.Duration) string {
		best, _, err := r.route(q(), 3, t0.Add(d))
		if err != nil {
			return err.Error()
		}
		return fmt.Sprint(len(best))
	}
	what := func(d time.Duration) string {
		s := r.states(t0.Add(d))
		if len(s) == 0 {
			return ""
		}
		return s[0].what
	}
	if c := r.beat(beatOf("w1"), auth.Pin{}, nil, t0); c != registered {
		t.Errorf("first: %q", c)
	}
	for _, tt := range []struct {
		at           time.Duration
		state, route string
	}{
		{20 * time.Second, "ready", "1"},
		{21 * time.Second, "silent", "no worker has been heard of lately"},
		{601 * time.Second, "", "no worker has been heard of lately"},
	} {
		if got := what(tt.at); got != tt.state {
			t.Errorf("%v: %q, want %q", tt.at, got, tt.state)
		}
		if got := at(tt.at); got != tt.route {
			t.Errorf("%v: %q, want %q", tt.at, got, tt.route)
		}
	}
	if c := r.beat(beatOf("w1"), auth.Pin{}, nil, t0.Add(time.Minute)); c != registered {
		t.Errorf("back: %q", c)
	}
	drained := beatOf("w1")
	drained.Draining = true
	if c := r.beat(drained, auth.Pin{}, nil, t0.Add(time.Minute)); c != draining || what(time.Minute) != "draining" {
		t.Errorf("draining: %q, %q", c, what(time.Minute))
	}
	if c := r.beat(beatOf("w1"), auth.Pin{}, nil, t0.Add(time.Minute)); c != resumed {
		t.Errorf("resumed: %q", c)
	}
	if c := r.beat(beatOf("w1"), auth.Pin{1}, nil, t0.Add(time.Minute)); c != moved {
		t.Errorf("new key: %q", c)
	}
	if c := r.beat(beatOf("w1"), auth.Pin{1}, nil, t0.Add(time.Minute)); c != unchanged {
		t.Errorf("same: %q", c)
	}
	r.beat(beatOf("w2"), auth.Pin{}, nil, t0.Add(time.Hour))
	if len(r.workers) != 1 {
		t.Errorf("%d workers are kept, one of which has been gone for an hour", len(r.workers))
	}
}

// ring is a keyring without a disk.
type ring struct {
	mu     sync.Mutex
	newest time.Time
	made   int
	fail   bool
}

func (r *ring) Sign(auth.Task) (string, error) { return "token", nil }
func (r *ring) JWKS() []byte                   { return []byte("{}") }
func (r *ring) Newest() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.newest
}

func (r *ring) Rotate() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail {
		return errors.New("no space left")
	}
	r.made++
	r.newest = time.Now()
	return nil
}

func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		creds, err := auth.NewCredentials(nil)
		if err != nil {
			t.Fatal(err)
		}
		keys := &ring{newest: time.Now().Add(-23 * time.Hour)}
		s, err := New(Options{Keys: keys, Credentials: creds, Rotate: 24 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go s.rotate(ctx)
		made := func(after time.Duration, want int) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			keys.mu.Lock()
			defer keys.mu.Unlock()
			if keys.made != want {
				t.Errorf("%d keys were made, want %d", keys.made, want)
			}
		}
		made(59*time.Minute, 0)
		made(2*time.Minute, 1)
		made(23*time.Hour, 1)
		made(2*time.Hour, 2)
		keys.mu.Lock()
		keys.fail = true
		keys.mu.Unlock()
		made(48*time.Hour, 2)
		keys.mu.Lock()
		keys.fail = false
		keys.mu.Unlock()
		made(2*time.Second, 3) // it goes on trying
	})
}

func TestPace(t *testing.T) {
	var p pace
	now := time.Unix(1000, 0)
	logged := 0
	for range 100 {
		if _, ok := p.take(now); ok {
			logged++
		}
	}
	if logged != perSecond {
		t.Errorf("%d records in a second, want %d", logged, perSecond)
	}
	if skipped, ok := p.take(now.Add(time.Second)); !ok || skipped != 100-perSecond {
		t.Errorf("%d, %v", skipped, ok)
	}
}
