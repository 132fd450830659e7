package shared

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// writers is how many calls of one tier are under way behind the builds. A result
// takes three to five requests one after the other; eight times 100 ms are some 20
// results a second, which is more than eight compilers make.
const writers = 8

// maxTouches bounds what waits in a tier's lane before a time of use is not renewed.
const maxTouches = 1024

// queue holds what is written behind the builds: one bound in bytes over all tiers,
// and a lane for each, so that a slow one keeps no other waiting. Its goroutines end
// when there is nothing to do.
type queue struct {
	ctx     context.Context
	max     int64
	workers sync.WaitGroup

	mu      sync.Mutex
	bytes   int64
	pending map[*job]struct{} // those that are not done
	lanes   map[*tier]*lane
	closed  bool
}

type lane struct {
	jobs    []*job
	running int
}

// job is something to do to several tiers.
type job struct {
	size int64
	left int           // tiers that are not done; guarded by queue.mu
	over chan struct{} // closed when none is left
	do   func(context.Context, *tier) error
	// drop is called for each tier to which it is not done.
	drop func(*tier)
}

func newQueue(ctx context.Context, limit int64) *queue {
	return &queue{ctx: ctx, max: limit, pending: map[*job]struct{}{}, lanes: map[*tier]*lane{}}
}

// jobOverhead is what a job takes beside its content.
const jobOverhead = 1024

// add queues a job for tiers, or drops it: where the queue is full or closed for
// all, else for those that are not written at present.
func (q *queue) add(j *job, tiers []*tier) {
	j.size += jobOverhead
	q.mu.Lock()
	defer q.mu.Unlock()
	full := q.closed || q.bytes+j.size > q.max
	for _, t := range tiers {
		if full || t.unwritable() {
			j.drop(t)
			continue
		}
		l := q.lanes[t]
		if l == nil {
			l = &lane{}
			q.lanes[t] = l
		}
		l.jobs = append(l.jobs, j)
		j.left++
		if l.running < writers {
			l.running++
			q.workers.Go(func() { q.work(t, l) })
		}
	}
	if j.left > 0 {
		j.over = make(chan struct{})
		q.pending[j] = struct{}{}
		q.bytes += j.size
	}
}

// busy reports whether a tier's lane is long.
func (q *queue) busy(t *tier) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[t]
	return q.closed || l != nil && len(l.jobs) > maxTouches
}

// work does a lane's jobs until there are none.
func (q *queue) work(t *tier, l *lane) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(l.jobs) > 0 {
		j := l.jobs[0]
		l.jobs[0] = nil
		l.jobs = l.jobs[1:]
		q.mu.Unlock()
		err := j.do(q.ctx, t)
		if err != nil {
			j.drop(t)
		}
		q.mu.Lock()
		q.done(j)
		// What waits would fail at once, or after the same time-out.
		if err != nil && t.unwritable() {
			q.clear(t, l)
		}
	}
	l.jobs = nil
	l.running--
}

// clear drops what waits in a lane; the caller holds mu.
func (q *queue) clear(t *tier, l *lane) {
	for _, j := range l.jobs {
		j.drop(t)
		q.done(j)
	}
	l.jobs = nil
}

// done takes a job of one tier out; the caller holds mu.
func (q *queue) done(j *job) {
	if j.left--; j.left == 0 {
		q.bytes -= j.size
		delete(q.pending, j)
		close(j.over)
	}
}

// drain waits for the jobs that are there now.
func (q *queue) drain(ctx context.Context) error {
	q.mu.Lock()
	jobs := slices.Collect(maps.Keys(q.pending))
	q.mu.Unlock()
	for _, j := range jobs {
		select {
		case <-j.over:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// close lets nothing more in, drains, and drops what is left.
func (q *queue) close(ctx context.Context) error {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	err := q.drain(ctx)
	q.mu.Lock()
	defer q.mu.Unlock()
	for t, l := range q.lanes {
		q.clear(t, l)
	}
	return err
}

func (q *queue) stats() QueueStats {
	q.mu.Lock()
	defer q.mu.Unlock()
	return QueueStats{Waiting: len(q.pending), Bytes: q.bytes, MaxBytes: q.max}
}
