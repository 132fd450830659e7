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

// take returns a new flight that the caller must land, or the one that is under
// way.
func (f *flights) take(key digest.Key) (mine, other *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if other = f.now[key]; other != nil {
		return nil, other
	}
	if f.now == nil {
		f.now = map[digest.Key]*flight{}
	}
	mine = &flight{key: key, landed: make(chan struct{})}
	f.now[key] = mine
	return mine, nil
}

// wait returns when the flight has landed, the context has ended or the wait
// grew too long.
func (other *flight) wait(ctx context.Context) {
	t := time.NewTimer(flightWait)
	defer t.Stop()
	select {
	case <-other.landed:
	case <-ctx.Done():
	case <-t.C:
	}
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
