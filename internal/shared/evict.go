package shared

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/store"
)

// Watermarks of a tier, in percent of its MaxBytes: a listing begins above
// highWater, and what it finds too much is evicted down to lowWater. Between them
// lie 20 % of the tier's size, which is how much is written for each listing.
const (
	highWater = 110
	lowWater  = 90
)

const (
	// defaultGrace is how long an object is safe after it was put or touched. A
	// build that has just found a manifest comes for the result well within it.
	defaultGrace = time.Hour
	// defaultLease is how long nobody evicts after an evictor has died.
	defaultLease = 2 * time.Minute
	// relistAfter bounds for how long an estimate may drift: objects go by
	// lifecycle rules too, and writers die before they have told what they wrote.
	relistAfter = 7 * 24 * time.Hour
	// Waits after a sweep that another does, and after one that failed (doubled each
	// time up to maxWait). After one that could not free enough it is a sixth of the
	// grace period: only what has aged makes the next free more.
	waitLocked = 30 * time.Second
	waitFailed = time.Minute
	maxWait    = time.Hour
)

// ErrEvicting says that another client evicts at present.
var ErrEvicting = errors.New("another client is evicting")

// errLeaseLost ends a sweep whose lease another has taken over, or that could not
// renew it in time.
var errLeaseLost = errors.New("the lease of the eviction was lost")

// EvictorOptions are what NewEvictor needs. Zero durations are the defaults.
type EvictorOptions struct {
	Store  store.Store
	Tenant string
	// MaxBytes is the size of the tenant's objects to be kept, as the store counts
	// it; it must be positive.
	MaxBytes int64
	Log      *slog.Logger
	// Grace is how old an object must be, by the store's clock, to be evicted; an
	// hour.
	Grace time.Duration
	// Lease is how long an evictor may be silent before another takes over; two
	// minutes.
	Lease time.Duration
}

// Evictor keeps one tenant's objects in a store below a size, together with the
// evictors of all other clients that write there.
//
// The tenant's usage object holds an estimate of the size. Each client adds what it
// wrote in steps of 1/512 of MaxBytes (64 KiB to 256 MiB), so that the estimate is
// too low by one step for each client at most, and by what clients wrote that were
// killed; it is too high by what was replaced or removed since. Where it exceeds
// MaxBytes by a tenth, one client, which holds the tenant's lock object, lists all
// there is, sets the estimate right, and removes the objects that were not put or
// touched for longest until nine tenths are left. An estimate that is a week old, or
// missing, is set right the same way.
//
// Nothing but manifests, results and blobs of the tenant is removed, nothing that
// was put or touched within Grace, and nothing that was since it was listed: each
// object is looked at again just before. Ages are differences of times that the
// store gave; this machine's clock measures how long the lease lasts only. An
// evictor that lost its lease removes nothing more: before each batch of 32 it
// renews the lease by a conditional put, and the batch must end within it.
//
// All methods may be called concurrently.
type Evictor struct {
	opt  EvictorOptions
	host string // for people who look at the lock
	step int64
	// remember is maxCandidates.
	remember int

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	pending  int64 // written and not yet in the estimate
	flushing bool
	sweeping bool
	closed   bool
	notTell  time.Time // no change of the estimate in the background before
	notUntil time.Time // nor a sweep
	failures int       // of sweeps, in a row
	stats    EvictorStats
}

// EvictorStats are what an Evictor did and knows.
type EvictorStats struct {
	// Estimate is the size of the tenant's objects when this client last looked; -1
	// is unknown.
	Estimate int64 `json:"estimate_bytes"`
	MaxBytes int64 `json:"max_bytes"`
	Sweeps   int64 `json:"sweeps"`
	Removed  int64 `json:"removed"`
	// RemovedBytes is the size of the objects that were removed.
	RemovedBytes int64  `json:"removed_bytes"`
	Error        string `json:"error,omitempty"`
}

// NewEvictor returns an Evictor. Close must be called.
func NewEvictor(opt EvictorOptions) (*Evictor, error) {
	if err := CheckTenant(opt.Tenant); err != nil {
		return nil, err
	}
	if opt.MaxBytes <= 0 {
		return nil, fmt.Errorf("a tier of at most %d bytes cannot be kept", opt.MaxBytes)
	}
	if opt.Grace <= 0 {
		opt.Grace = defaultGrace
	}
	if opt.Lease <= 0 {
		opt.Lease = defaultLease
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	host, _ := os.Hostname() // "" serves as well
	e := &Evictor{
		opt:      opt,
		host:     clip(host),
		step:     max(64<<10, min(opt.MaxBytes/512, 256<<20)),
		remember: maxCandidates,
		stats:    EvictorStats{Estimate: -1, MaxBytes: opt.MaxBytes},
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e, nil
}

// Wrote says that n bytes were put into the store. It returns at once; what it
// causes happens in the background, once at a time.
func (e *Evictor) Wrote(n int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n <= 0 || e.closed {
		return
	}
	e.pending += n
	if e.pending >= e.step && !e.flushing && !time.Now().Before(e.notTell) {
		e.flushing = true
		e.work.Go(e.flush)
	}
}

// flush brings what was written into the estimate, and starts a sweep if it is too
// high.
func (e *Evictor) flush() {
	for {
		u, err := e.tell(e.ctx)
		e.mu.Lock()
		if err != nil {
			e.failed(err)
			e.notTell = time.Now().Add(waitLocked)
		} else if e.due(u) && !e.sweeping && !e.closed && !time.Now().Before(e.notUntil) {
			e.sweeping = true
			e.work.Go(e.sweepBehind)
		}
		// What could not be told waits for the next Wrote.
		if err != nil || e.pending < e.step || e.ctx.Err() != nil {
			e.flushing = false
			e.mu.Unlock()
			return
		}
		e.mu.Unlock()
	}
}

// failed notes an error of the background, and logs the first of a row. The caller
// holds mu.
func (e *Evictor) failed(err error) {
	if e.ctx.Err() != nil {
		return
	}
	if e.stats.Error == "" {
		e.opt.Log.Warn("shared-cache-not-evicted", "store", e.opt.Store.String(), "tenant", e.opt.Tenant, "error", err.Error())
	}
	e.stats.Error = err.Error()
}

// tell adds what is pending to the estimate, which it returns.
func (e *Evictor) tell(ctx context.Context) (usage, error) {
	e.mu.Lock()
	n := e.pending
	e.pending = 0
	e.mu.Unlock()
	u, err := e.grow(ctx, n)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		e.pending += n
		return u, err
	}
	e.stats.Estimate = u.Bytes
	if e.failures == 0 {
		e.stats.Error = ""
	}
	return u, nil
}

// due tells whether an estimate calls for a listing.
func (e *Evictor) due(u usage) bool {
	return u.Listed.IsZero() || u.Bytes > percent(e.opt.MaxBytes, highWater) || u.modified.Sub(u.Listed) > relistAfter
}

// percent is p hundredths of n.
func percent(n int64, p int64) int64 { return n/100*p + n%100*p/100 }

// sweepBehind sweeps in the background and decides when the next may be.
func (e *Evictor) sweepBehind() {
	r, err := e.Sweep(e.ctx, SweepOptions{})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sweeping = false
	now := time.Now()
	switch {
	case errors.Is(err, ErrEvicting) || errors.Is(err, errLeaseLost):
		e.notUntil = now.Add(waitLocked)
	case err != nil:
		e.failed(err)
		e.notUntil = now.Add(min(waitFailed<<min(e.failures, 10), maxWait))
		e.failures++
	default:
		e.failures, e.stats.Error = 0, ""
		if r.Left() > e.opt.MaxBytes {
			e.notUntil = now.Add(e.opt.Grace / 6)
			e.opt.Log.Warn("shared-cache-too-small", "store", e.opt.Store.String(), "tenant", e.opt.Tenant,
				"bytes", r.Left(), "fresh_bytes", r.FreshBytes, "max_size", e.opt.MaxBytes)
		}
	}
}

// Stats returns what the evictor did and knows.
func (e *Evictor) Stats() EvictorStats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stats
}

// Close stops a sweep that is under way after its batch, and brings what was
// written into the estimate. It waits for both, until ctx ends.
func (e *Evictor) Close(ctx context.Context) error {
	e.mu.Lock()
	again := e.closed
	e.closed = true
	e.mu.Unlock()
	e.cancel()
	done := make(chan struct{})
	go func() {
		e.work.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return fmt.Errorf("eviction is still under way: %w", ctx.Err())
	}
	e.mu.Lock()
	n := e.pending
	e.mu.Unlock()
	if again || n == 0 {
		return nil
	}
	_, err := e.tell(ctx)
	return err
}
