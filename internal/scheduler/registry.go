package scheduler

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/auth"
	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
)

// remembered is how long, in expiries, a silent worker is still shown: long
// enough for people to see who went.
const remembered = 30

// registry is what is known of the workers. It is in memory alone: after a
// restart, each worker's next heartbeat brings it back.
type registry struct {
	expiry time.Duration

	mu      sync.Mutex
	workers map[string]*record
	// changed is closed, and made anew, at each heartbeat.
	changed chan struct{}
}

// record is one worker, as it last reported. But for the clients that were
// promised to it, it is not changed: the next report makes another.
type record struct {
	candidate Candidate // without its age
	address   string
	pin       auth.Pin
	last      *schedulerv1.HeartbeatRequest
	seen      time.Time
	// over is the connection that the report came by, and lost is set once that
	// has ended: a worker that lives makes another at once.
	over *connection
	lost bool
}

func newRegistry(expiry time.Duration) *registry {
	return &registry{expiry: expiry, workers: map[string]*record{}, changed: make(chan struct{})}
}

// change says how a heartbeat differs from the worker's last one, for the log.
type change string

const (
	unchanged  change = ""
	registered change = "registered" // or came back
	moved      change = "moved"      // another address or key
	draining   change = "draining"
	resumed    change = "resumed" // no longer draining
)

// beat takes a heartbeat that has been checked, and that came over a connection,
// nil where that is not known.
func (r *registry) beat(req *schedulerv1.HeartbeatRequest, pin auth.Pin, over *connection, now time.Time) change {
	n := &record{
		candidate: Candidate{
			Name: req.Worker, Platform: req.Platform, Draining: req.Draining,
			Load:     Load{Capacity: int(req.Capacity), Running: int(req.Running), Queued: int(req.Queued)},
			Images:   make(map[string]struct{}, len(req.Images)),
			Sessions: make(map[Session]struct{}, len(req.Sessions)),
		},
		address: req.Address, pin: pin, last: req, seen: now, over: over,
	}
	for _, image := range req.Images {
		n.candidate.Images[image] = struct{}{}
	}
	for _, s := range req.Sessions {
		n.candidate.Sessions[Session{s.Tenant, s.Image}] = struct{}{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.workers[req.Worker]
	r.workers[req.Worker] = n
	maps.DeleteFunc(r.workers, func(_ string, w *record) bool { return now.Sub(w.seen) > remembered*r.expiry })
	close(r.changed)
	r.changed = make(chan struct{})
	switch {
	case old == nil || old.lost || now.Sub(old.seen) > r.expiry:
		return registered
	case old.address != n.address || old.pin != pin:
		return moved
	case n.candidate.Draining && !old.candidate.Draining:
		return draining
	case old.candidate.Draining && !n.candidate.Draining:
		return resumed
	}
	return unchanged
}

// lose takes a worker whose connection has ended out of routing, until it reports
// by another, and tells whether it was in.
func (r *registry) lose(worker string, over *connection) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.workers[worker]
	if w == nil || w.over != over || w.lost {
		return false
	}
	n := *w
	n.lost = true
	r.workers[worker] = &n
	return true
}

// drop forgets workers.
func (r *registry) drop(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range names {
		delete(r.workers, name)
	}
}

// choice is a worker that a client is sent to.
type choice struct {
	name, address string
	pin           auth.Pin
}

// route returns the best workers for a query, at most limit, and counts the
// client to the first's load. With an error it returns a channel that is closed
// at the next heartbeat.
func (r *registry) route(q *Query, limit int, now time.Time) ([]choice, <-chan struct{}, error) {
	all, candidates, changed := r.snapshot(now)
	q.Expiry = r.expiry
	// Without the lock: among many workers this takes longer than all else, and
	// clients come many at a time.
	order, err := Route(candidates, q)
	if err != nil {
		return nil, changed, err
	}
	var best []choice
	for _, i := range order[:min(limit, len(order))] {
		w := all[i]
		best = append(best, choice{w.candidate.Name, w.address, w.pin})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	// If it has reported meanwhile, this counts for a record of before.
	all[order[0]].candidate.Load.Promised++
	return best, nil, nil
}

// snapshot copies what routing needs. The maps in it are shared, and never
// written to.
func (r *registry) snapshot(now time.Time) ([]*record, []Candidate, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*record, 0, len(r.workers))
	candidates := make([]Candidate, 0, len(r.workers))
	for _, w := range r.workers {
		if w.lost {
			continue
		}
		c := w.candidate
		c.Age = now.Sub(w.seen)
		all = append(all, w)
		candidates = append(candidates, c)
	}
	return all, candidates, r.changed
}

// state is one worker, for people and metrics.
type state struct {
	last *schedulerv1.HeartbeatRequest
	age  time.Duration
	// what is "ready", "full", "draining" or "silent".
	what string
}

// states lists all workers by name.
func (r *registry) states(now time.Time) []state {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]state, 0, len(r.workers))
	for _, w := range r.workers {
		s := state{w.last, now.Sub(w.seen), "ready"}
		switch {
		case s.age > remembered*r.expiry:
			continue
		case s.age > r.expiry || w.lost:
			s.what = "silent"
		case w.candidate.Draining:
			s.what = "draining"
		case w.candidate.Load.full():
			s.what = "full"
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b state) int { return strings.Compare(a.last.Worker, b.last.Worker) })
	return all
}
