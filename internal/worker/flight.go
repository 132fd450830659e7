package worker

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
)

// flightKey names jobs that would do the same: one tenant's, with one manifest
// and one tree.
type flightKey struct {
	tenant string
	job    digest.Key
}

// flights lets one of several equal jobs run, while the others wait for its
// result.
type flights struct {
	mu      sync.Mutex
	running map[flightKey]*flight
}

type flight struct {
	done chan struct{}
	end  landing // once done is closed
}

// landing is how a job ended that others waited for.
type landing int

const (
	// abandoned: its client went, or its machine was lost; one of those who
	// waited is the next to try.
	abandoned landing = iota
	// stored: there may be a result now.
	stored
	// unstorable: it ran and leaves no result, as it would the next time. Those
	// who waited run at once, each for itself.
	unstorable
)

// enter returns at once if nobody else runs what key names; leave is to be called
// with how that ended. Otherwise it returns a nil leave once somebody did, or
// after patience, or with ctx's error.
func (f *flights) enter(ctx context.Context, key flightKey, patience time.Duration) (leave func(landing), err error) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		f.mu.Lock()
		other := f.running[key]
		if other == nil {
			own := &flight{done: make(chan struct{})}
			if f.running == nil {
				f.running = map[flightKey]*flight{}
			}
			f.running[key] = own
			f.mu.Unlock()
			return func(end landing) {
				f.mu.Lock()
				delete(f.running, key)
				f.mu.Unlock()
				own.end = end
				close(own.done)
			}, nil
		}
		f.mu.Unlock()
		select {
		case <-other.done:
			if other.end != abandoned {
				return nil, nil
			}
		case <-timeout.C:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// flightKey is of the job with its tree.
func (j *checked) flightKey(tenant string) flightKey {
	paths := make([]string, 0, len(j.tree))
	for p := range j.tree {
		paths = append(paths, p)
	}
	slices.SortFunc(paths, strings.Compare)
	manifest := j.Manifest(j.source)
	k := digest.NewKey("flight").Bytes("manifest", manifest[:])
	for _, p := range paths {
		switch n := j.tree[p]; {
		case n == (action.Node{}):
			k.Field("directory", p)
		case n.Target != "":
			k.Field("link", p, n.Target)
		default:
			k.Field("file", p, n.Digest.String())
		}
	}
	return flightKey{tenant, k.Sum()}
}
