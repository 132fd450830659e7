package daemon

import (
	"context"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/digest"
)

// flightWait bounds how long one build waits for another's compile of the
// same unit. Past it, compiling twice is cheaper than waiting.
const flightWait = 10 * time.Minute

// flights lets one build at a time compile a unit; others that want the same
// wait, and then look again.
type flights struct {
	mu  sync.Mutex
	now map[digest.Key]*flight
}

type flight struct {
	key    digest.Key
	landed chan struct{}
}

// join returns a new flight that the caller must land, or nil after the
// flight that was under way has landed, the context ended or the wait grew
// too long.
func (f *flights) join(ctx context.Context, key digest.Key) *flight {
	f.mu.Lock()
	if f.now == nil {
		f.now = map[digest.Key]*flight{}
	}
	other := f.now[key]
	if other == nil {
		mine := &flight{key: key, landed: make(chan struct{})}
		f.now[key] = mine
		f.mu.Unlock()
		return mine
	}
	f.mu.Unlock()
	t := time.NewTimer(flightWait)
	defer t.Stop()
	select {
	case <-other.landed:
	case <-ctx.Done():
	case <-t.C:
	}
	return nil
}

func (f *flights) land(fl *flight) {
	if fl == nil {
		return
	}
	f.mu.Lock()
	delete(f.now, fl.key)
	f.mu.Unlock()
	close(fl.landed)
}
