package shared

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hpcc.dev/hpcc/internal/store"
)

// callTimeout ends a call of a store that has no time-out of its own. It is far
// more than a guarded store takes, but for large bodies: nobody waits for those that
// are written, so that they have as much more as a guard gives them (bodyRate, in
// bytes a second); whoever waits a minute for one to come compiles sooner.
const (
	callTimeout = time.Minute
	bodyRate    = 1 << 20
)

// quiet is how long the same kind of error of a tier is not logged again.
const quiet = 10 * time.Minute

// tier is a Tier with what became of it.
type tier struct {
	Tier
	// evictor is told of what is put; nil where nobody evicts.
	evictor *Evictor
	log     *slog.Logger
	now     func() time.Time

	hits, misses, manifestHits, manifestMisses     atomic.Int64
	bytesIn, bytesOut                              atomic.Int64
	errors, timeouts, refused                      atomic.Int64
	written, present, replaced, different, dropped atomic.Int64
	conflicts, touched, backfilled                 atomic.Int64

	// bad are names under which something was that is not believed: who has the
	// right content puts it in its place, rather than trust that it is there.
	bad *recent[string, struct{}]
	// absent are manifests that were not there a moment ago.
	absent *recent[string, struct{}]
	// touches are names whose time of use was renewed just now.
	touches *recent[string, struct{}]

	mu       sync.Mutex
	rejected map[Reason]int64
	logged   map[string]time.Time
	failing  string // the last call's error, "" for none
}

func newTier(t Tier, logger *slog.Logger, now func() time.Time) *tier {
	return &tier{
		Tier: t, log: logger.With("tier", t.Name), now: now,
		bad: newRecent[string, struct{}](1 << 12), absent: newRecent[string, struct{}](1 << 12), touches: newRecent[string, struct{}](1 << 12),
		rejected: map[Reason]int64{}, logged: map[string]time.Time{},
	}
}

// remembered is the name in memory of what the tier has under a name, which has no
// space in it.
func (t *tier) remembered(name string) string { return t.Name + " " + name }

// get reads an object. What is there and larger than limit, or not what was sent, is
// a RejectedError.
func (t *tier) get(ctx context.Context, name string, limit int64) (store.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	o, err := t.Store.Get(ctx, name, limit)
	if errors.Is(err, store.ErrTooLarge) {
		t.note(ctx, "reading", name, nil)
		return store.Object{}, reject(ReasonDamaged, "larger than %d bytes", limit)
	}
	t.note(ctx, "reading", name, err)
	if errors.Is(err, store.ErrCorrupt) {
		return store.Object{}, reject(ReasonDamaged, "%v", err)
	}
	t.bytesIn.Add(int64(len(o.Body)))
	return o, err
}

func (t *tier) put(ctx context.Context, name string, body []byte, when store.Condition) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+time.Duration(len(body))*time.Second/bodyRate)
	defer cancel()
	_, err := t.Store.Put(ctx, name, body, when)
	t.note(ctx, "writing", name, err)
	if err == nil {
		t.bytesOut.Add(int64(len(body)))
		if t.evictor != nil {
			t.evictor.Wrote(int64(len(body)))
		}
	}
	return err
}

func (t *tier) stat(ctx context.Context, name string) (store.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := t.Store.Stat(ctx, name)
	t.note(ctx, "looking up", name, err)
	return info, err
}

func (t *tier) touch(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := t.Store.Touch(ctx, name)
	t.note(ctx, "touching", name, err)
	if err == nil {
		t.touched.Add(1)
	}
	return err
}

// note counts a call's error, and logs it unless one like it was just now.
func (t *tier) note(ctx context.Context, what, name string, err error) {
	switch {
	case err == nil, errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrConflict):
		t.mu.Lock()
		t.failing = ""
		t.mu.Unlock()
		return
	case errors.Is(ctx.Err(), context.Canceled):
		return // whoever wanted it no longer does
	}
	if away := (*store.AwayError)(nil); errors.As(err, &away) {
		t.refused.Add(1) // its guard counts and logs the failure itself
		return
	}
	t.errors.Add(1)
	if errors.Is(err, context.DeadlineExceeded) {
		t.timeouts.Add(1)
	}
	kind := "other"
	for _, k := range []error{store.ErrUnavailable, store.ErrDenied, store.ErrReadOnly, store.ErrCorrupt, store.ErrName} {
		if errors.Is(err, k) {
			kind = k.Error()
			break
		}
	}
	t.mu.Lock()
	t.failing = err.Error()
	t.mu.Unlock()
	if t.firstOf("error "+kind, quiet) {
		t.log.Warn("shared-cache-error", "doing", what, "name", name, "error", err.Error())
	}
}

// reject counts an object that is not believed, and logs the first of a reason.
func (t *tier) reject(name string, err error) {
	reason := reasonOf(err)
	t.mu.Lock()
	t.rejected[reason]++
	t.mu.Unlock()
	t.bad.set(name, struct{}{})
	if t.firstOf("rejected "+string(reason), 0) {
		t.log.Warn("shared-cache-rejected", "reason", string(reason), "name", name, "error", err.Error())
	}
}

// firstOf reports whether nothing of the kind was logged before, or, where again is
// not 0, for as long.
func (t *tier) firstOf(kind string, again time.Duration) bool {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	last, ok := t.logged[kind]
	if ok && (again == 0 || now.Sub(last) < again) {
		return false
	}
	t.logged[kind] = now
	return true
}

// guarded is a store that tells how it is, as store.Guarded does.
type guarded interface{ State() store.State }

// unwritable reports whether nothing is written at present, since the store did not
// answer or did not allow it.
func (t *tier) unwritable() bool {
	g, ok := t.Store.(guarded)
	if !ok {
		return false
	}
	s := g.State()
	return s.Away || slices.Contains(s.Shut, "writes")
}

func (t *tier) stats() TierStats {
	s := TierStats{
		Name: t.Name, Where: t.Store.String(), Write: t.Write, State: StateOK,
		Hits: t.hits.Load(), Misses: t.misses.Load(),
		ManifestHits: t.manifestHits.Load(), ManifestMisses: t.manifestMisses.Load(),
		BytesIn: t.bytesIn.Load(), BytesOut: t.bytesOut.Load(),
		Errors: t.errors.Load(), Timeouts: t.timeouts.Load(), Refused: t.refused.Load(),
		Written: t.written.Load(), Present: t.present.Load(), Backfilled: t.backfilled.Load(),
		Replaced: t.replaced.Load(), Different: t.different.Load(), Dropped: t.dropped.Load(),
		Conflicts: t.conflicts.Load(), Touched: t.touched.Load(),
	}
	if t.evictor != nil {
		e := t.evictor.Stats()
		s.Eviction = &e
	}
	t.mu.Lock()
	s.Rejected = maps.Clone(t.rejected)
	if t.failing != "" {
		s.State, s.Why = StateFailing, t.failing
	}
	t.mu.Unlock()
	if g, ok := t.Store.(guarded); ok {
		state := g.State()
		s.Timeouts += state.Timeouts
		s.Errors = state.Errors + s.Timeouts
		switch {
		case state.Away:
			s.State, s.Why, s.Since, s.Until = StateAway, state.Reason, state.Since, state.Until
		case state.Denied:
			s.State, s.Why, s.Since, s.Until = StateDenied, state.Reason, state.Since, state.Until
		case len(state.Shut) > 0:
			s.State, s.Why, s.Since, s.Until = StateFailing, state.Reason, state.Since, state.Until
		}
	}
	return s
}
