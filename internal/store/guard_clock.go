package store

import (
	"context"
	"sync"
	"time"
)

// slowest is the rate, in bytes a second, at which a body may come without being
// given up. An object of a few MiB takes a compiler longer.
const slowest = 1 << 20

// worth is the time that n bytes of a body may take.
func worth(n int) time.Duration { return time.Duration(n) * time.Second / slowest }

// clock is the time that a call has left.
type clock struct {
	limit   time.Duration
	expired func()

	mu       sync.Mutex
	deadline time.Time
	timer    *time.Timer
	stopped  bool
}

// newClock calls expired after limit, unless told otherwise.
func newClock(limit time.Duration, expired func()) *clock {
	c := &clock{limit: limit, expired: expired, deadline: time.Now().Add(limit)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = time.AfterFunc(limit, c.ring)
	return c
}

func (c *clock) ring() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return
	}
	// The timer is not moved by each piece of a body, only the deadline is.
	if left := time.Until(c.deadline); left > 0 {
		c.timer.Reset(left)
		return
	}
	c.expired()
}

func (c *clock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	c.timer.Stop()
}

// again gives the call all of its time anew.
func (c *clock) again() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = time.Now().Add(c.limit)
	if c.stopped {
		c.stopped = false
		c.timer.Reset(c.limit)
	}
}

// add gives the call more time, but no more than it had at first: what came fast
// must not pay for a wait after it.
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	later := c.deadline.Add(d)
	if most := time.Now().Add(c.limit); later.After(most) {
		later = most
	}
	c.deadline = later
}

// clockKey is the key of a context's value: the clock of the call.
type clockKey struct{}

// Progress tells the guard that made a call, if one did, that n more bytes of a body
// have come. ctx is the one that the store was given.
func Progress(ctx context.Context, n int) {
	if c, ok := ctx.Value(clockKey{}).(*clock); ok {
		c.add(worth(n))
	}
}

// goesOn tells a guard above that a listing has come to an object, although nobody
// is shown it yet.
func goesOn(ctx context.Context) {
	if c, ok := ctx.Value(clockKey{}).(*clock); ok {
		c.again()
	}
}
