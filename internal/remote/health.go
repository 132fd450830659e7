package remote

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
)

// How long a worker is left alone. Times double with each failure in a row; a
// lie is not forgotten by what is right later.
const (
	// To connect in vain costs time. A call that was lost does not tell whether
	// the worker is: it may have been the job that ended its machine.
	unreachableFirst = 5 * time.Second
	lostFirst        = time.Second
	failedMost       = time.Minute
	// A worker that fails by itself is one that this job was too much for, until
	// others are.
	forgiven = 2

	liedFirst, liedMost = time.Minute, time.Hour
	// A worker that is full says for how long; it is believed within these.
	fullLeast, fullMost = 100 * time.Millisecond, time.Minute

	// perWorker is how many calls of one client's a worker gets before the next of
	// the route gets some: as many as a worker of a common size runs at once. A
	// few compiles share one machine and one store; make -j64 has more workers.
	perWorker = 16

	// maxRecords bounds the workers that are remembered.
	maxRecords = 4096
)

// health remembers which workers to leave alone, and how many calls each has.
type health struct {
	now     func() time.Time
	mu      sync.Mutex
	all     map[string]*record
	running map[string]int
}

// record is of one worker, by its name.
type record struct {
	fails, lies int
	until       time.Time
	why         error
	liedUntil   time.Time // as until, of lies alone
}

func newHealth(now func() time.Time) *health {
	return &health{now: now, all: map[string]*record{}, running: map[string]int{}}
}

// of returns a worker's record, with mu held.
func (h *health) of(worker string) *record {
	r := h.all[worker]
	if r == nil {
		if len(h.all) >= maxRecords {
			for name, old := range h.all {
				if old.lies == 0 && !old.until.After(h.now()) {
					delete(h.all, name)
				}
			}
			if len(h.all) >= maxRecords {
				clear(h.all)
			}
		}
		r = &record{}
		h.all[worker] = r
	}
	return r
}

func grown(first, most time.Duration, times int) time.Duration {
	for range times {
		if first *= 2; first >= most {
			return most
		}
	}
	return first
}

func (h *health) block(r *record, d time.Duration, why error) {
	if until := h.now().Add(d); until.After(r.until) {
		r.until, r.why = until, why
	}
}

// lied notes that a worker broke the contract.
func (h *health) lied(worker string, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.of(worker)
	// Calls that were under way may all have been lied to: that is one lie.
	if r.liedUntil.After(h.now()) {
		return
	}
	d := grown(liedFirst, liedMost, r.lies)
	h.block(r, d, why)
	r.liedUntil = h.now().Add(d)
	r.lies++
}

// failed notes what else a worker did wrong.
func (h *health) failed(worker string, f *failure) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.of(worker)
	if f.kind == full {
		h.block(r, min(max(f.delay, fullLeast), fullMost), f)
		return
	}
	// Many calls lose one worker at once: that is one failure.
	if r.until.After(h.now()) {
		return
	}
	switch f.kind {
	case unreachable:
		h.block(r, grown(unreachableFirst, failedMost, r.fails), f)
	case lost:
		h.block(r, grown(lostFirst, failedMost, r.fails), f)
	case broke:
		if r.fails >= forgiven {
			h.block(r, grown(lostFirst, failedMost, r.fails-forgiven), f)
		}
	}
	r.fails++
}

func (h *health) ok(worker string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.all[worker]; r != nil {
		r.fails = 0
	}
}

// choose returns a worker of a route that is neither to be left alone nor among
// tried: the first that has not too many calls, else the one that has fewest; nil
// if there is none. The call is counted until done.
func (h *health) choose(r *route, tried map[string]bool) *assignment {
	h.mu.Lock()
	defer h.mu.Unlock()
	var best *assignment
	for _, a := range r.workers {
		if rec := h.all[a.worker]; tried[a.worker] || rec != nil && rec.until.After(h.now()) {
			continue
		}
		if n := h.running[a.worker]; best == nil || n < h.running[best.worker] {
			if best = a; n < perWorker {
				break
			}
		}
	}
	if best != nil {
		h.running[best.worker]++
	}
	return best
}

// done ends a call that choose has counted.
func (h *health) done(a *assignment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running[a.worker]--; h.running[a.worker] == 0 {
		delete(h.running, a.worker)
	}
}

// avoid names the workers that are left alone now, after others.
func (h *health) avoid(others []string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := slices.Clone(others)
	for name, rec := range h.all {
		if rec.until.After(h.now()) && !slices.Contains(others, name) {
			names = append(names, name)
		}
	}
	names = names[:min(len(names), schedulerv1.MaxAvoid)]
	slices.Sort(names)
	return names
}

// unavailable is the error of a call for which choose has nobody left, with what
// happened to it; a call to which nothing happened is told why its workers are
// left alone.
func (h *health) unavailable(r *route, failures []error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := &UnavailableError{Retry: h.now().Add(time.Hour)}
	earlier := func(t time.Time) {
		if t.Before(e.Retry) {
			e.Retry = t
		}
	}
	var why []error
	for _, a := range r.workers {
		rec := h.all[a.worker]
		if rec == nil || !rec.until.After(h.now()) {
			earlier(h.now().Add(fullLeast))
			continue
		}
		earlier(rec.until)
		if f := (*failure)(nil); errors.As(rec.why, &f) {
			why = append(why, &workerError{a.worker, f})
		} else {
			why = append(why, rec.why)
		}
	}
	for i, err := range failures {
		if u := (*UnavailableError)(nil); errors.As(err, &u) {
			earlier(u.Retry)
			failures[i] = u.Err
		}
	}
	switch {
	case len(failures) > 0:
		e.Err = errors.Join(failures...)
	case len(why) > 0:
		e.Err = fmt.Errorf("left alone for a while: %w", errors.Join(why...))
	default:
		e.Err = errors.New("the scheduler names none")
	}
	return e
}
