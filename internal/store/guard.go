package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// GuardOptions say what a store may cost. Zero values are the defaults.
type GuardOptions struct {
	// Read is how long Get and Stat may take (2 s), Write how long Put, Touch and
	// Delete may (5 s), and List how long a listing may name nothing (30 s); what its
	// visitor takes does not count. A body has a second more for each MiB, so that a
	// large one over a network that works is no time-out: of one that is read, for
	// each that has come (Progress), and never more than Read ahead.
	Read, Write, List time.Duration
	// After FirstProbe (5 s) a store that is away is asked whether it is back, then
	// after twice as long, up to LastProbe (5 min).
	FirstProbe, LastProbe time.Duration
	// Log is told when the store goes and comes back; nil for nobody.
	Log *slog.Logger
}

// Guarded is a store that costs no more than one time-out when it is away.
//
// The first call that is answered by ErrUnavailable, or the first read that gets no
// answer in time, opens a circuit: calls that are under way are cut short, and later ones fail within
// microseconds with an *AwayError. A probe in the background, never on a caller's
// time, closes it again. So callers at once and callers in a row lose one time-out
// of wall time together.
//
// Another kind of call (writes, listings, removals) that gets no answer in time opens
// it for that kind alone: nobody waits for these, and over a narrow network an upload
// can be slow while small objects are read well. If the store is away for reads too,
// the first of them tells.
//
// So does ErrDenied, of reads as well, since credentials do not heal by asking for each
// object: whoever may not write may well read, and the other way round.
//
// No other error says that the next call would fail: objects that are absent, have
// changed, are damaged or too large are a store's answers, and an error that is none
// of this package's came from a store that answers. A caller's own context says
// nothing about the store either.
type Guarded struct {
	store Store
	opt   GuardOptions

	mu      sync.Mutex
	shut    [kinds]*AwayError // what calls get at once; of reads that are not denied, all
	epochs  [kinds]epoch      // of the calls that are under way
	probing bool              // a goroutine does: while anything is shut
	pause   time.Duration     // before the latest probe
	until   time.Time         // of the next probe
	well    time.Time         // when probing last ended
	count   Counts
	closed  bool

	life  context.Context // until Close
	end   context.CancelFunc
	probe sync.WaitGroup
}

// kind is what a call does.
type kind int

const (
	reading kind = iota
	writing
	listing
	removing // who evicts may need a right that who writes has not
	kinds
)

func (k kind) String() string { return [kinds]string{"reads", "writes", "listings", "removals"}[k] }

// epoch is a time in which a kind of call is not shut.
type epoch struct {
	ctx context.Context
	end context.CancelCauseFunc
}

func newEpoch() epoch {
	ctx, end := context.WithCancelCause(context.Background())
	return epoch{ctx, end}
}

// AwayError is the ErrUnavailable or ErrDenied of a store that is not asked.
type AwayError struct {
	Store string // as String names it
	// Since is when it failed, and Until when it is asked again.
	Since, Until time.Time
	Err          error // what it failed by
}

func (e *AwayError) Error() string {
	return fmt.Sprintf("%s is not asked until %s: %v", e.Store, e.Until.Format(time.TimeOnly), e.Err)
}

// Unwrap makes every AwayError an ErrUnavailable, and tells of ErrDenied as well.
func (e *AwayError) Unwrap() []error { return []error{ErrUnavailable, e.Err} }

// timeoutError is the cause of a call's end: the time that it had.
type timeoutError time.Duration

func (e timeoutError) Error() string {
	return fmt.Sprintf("no answer within %v", time.Duration(e).Round(10*time.Millisecond))
}

// Counts are what a guarded store was used for.
type Counts struct {
	Calls    int64 `json:"calls"`    // that were begun
	Refused  int64 `json:"refused"`  // that were not, while the store was away
	Cut      int64 `json:"cut"`      // that ended because another failed
	Timeouts int64 `json:"timeouts"` // that got no answer
	// Errors counts failures besides time-outs: not absences, conflicts, sizes, nor
	// ends by the caller.
	Errors int64 `json:"errors"`
	// BytesRead and BytesWritten are of bodies, in calls that succeeded.
	BytesRead    int64 `json:"bytes_read"`
	BytesWritten int64 `json:"bytes_written"`
}

// State is how a guarded store is, for people.
type State struct {
	Store string `json:"store"`
	// Away says that the store is not asked for anything.
	Away bool `json:"away"`
	// Shut are the kinds of calls that are not made although the store is not away:
	// "reads", "writes", "listings", "removals"; Denied says that it does not allow
	// the first of them.
	Shut   []string `json:"shut,omitempty"`
	Denied bool     `json:"denied,omitempty"`
	// Since and Until are when that began and when it is tried again; zero where all
	// is well. Reason is the error.
	Since  time.Time `json:"since,omitzero"`
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason,omitempty"`
	Counts
}

// String is "ok", or what is wrong and until when.
func (s State) String() string {
	switch {
	case s.Away:
		return fmt.Sprintf("away since %s, asked again at %s: %s", s.Since.Format(time.TimeOnly), s.Until.Format(time.TimeOnly), s.Reason)
	case len(s.Shut) > 0:
		return fmt.Sprintf("no %s since %s, tried again at %s: %s", strings.Join(s.Shut, ", "), s.Since.Format(time.TimeOnly), s.Until.Format(time.TimeOnly), s.Reason)
	}
	return "ok"
}

// Guard returns s with bounds on what it may cost. Close closes s too.
func Guard(s Store, opt GuardOptions) *Guarded {
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&opt.Read, 2 * time.Second}, {&opt.Write, 5 * time.Second}, {&opt.List, 30 * time.Second},
		{&opt.FirstProbe, 5 * time.Second}, {&opt.LastProbe, 5 * time.Minute},
	} {
		if *d.value <= 0 {
			*d.value = d.fallback
		}
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	g := &Guarded{store: s, opt: opt}
	for k := range g.epochs {
		g.epochs[k] = newEpoch()
	}
	g.life, g.end = context.WithCancel(context.Background())
	return g
}

// State tells how the store is.
func (g *Guarded) State() State {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := State{Store: g.store.String(), Counts: g.count}
	tell := func(e *AwayError) { s.Since, s.Until, s.Reason = e.Since, e.Until, e.Err.Error() }
	if e := g.away(); e != nil {
		s.Away = true
		tell(e)
		return s
	}
	for k, e := range g.shut {
		if e == nil {
			continue
		}
		if s.Shut = append(s.Shut, kind(k).String()); len(s.Shut) == 1 {
			s.Denied = errors.Is(e.Err, ErrDenied)
			tell(e)
		}
	}
	return s
}

// away is what every call gets, if it does; g.mu is held.
func (g *Guarded) away() *AwayError {
	if e := g.shut[reading]; e != nil && !errors.Is(e.Err, ErrDenied) {
		return e
	}
	return nil
}

func (g *Guarded) String() string { return g.store.String() }

// Close ends probes and closes the store.
func (g *Guarded) Close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.end()
	g.probe.Wait()
	return g.store.Close()
}

// call makes a call of the store that may take limit, as far as its clock is not moved.
func (g *Guarded) call(ctx context.Context, k kind, limit time.Duration, f func(ctx context.Context) error) error {
	return g.watch(ctx, k, limit, func(ctx context.Context, _ *clock) error { return f(ctx) })
}

func (g *Guarded) watch(ctx context.Context, k kind, limit time.Duration, f func(ctx context.Context, c *clock) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now, away := g.enter(k)
	if away != nil {
		return away
	}
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(now.ctx, func() { cancel(context.Cause(now.ctx)) })()
	c := newClock(limit, func() { cancel(timeoutError(limit)) })
	defer c.stop()
	err := f(context.WithValue(inner, clockKey{}, c), c)
	if err == nil {
		return nil
	}
	return g.judge(ctx, inner, k, err)
}

// enter counts a call, unless it is not to be made.
func (g *Guarded) enter(k kind) (epoch, *AwayError) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := cmp.Or(g.away(), g.shut[k]); e != nil {
		g.count.Refused++
		return epoch{}, e
	}
	g.count.Calls++
	return g.epochs[k], nil
}

// judge decides what an error says of the store, and what the caller is told.
func (g *Guarded) judge(ctx, inner context.Context, k kind, err error) error {
	for _, answer := range []error{ErrNotFound, ErrConflict, ErrTooLarge, ErrReadOnly, ErrName} {
		if errors.Is(err, answer) {
			return err
		}
	}
	var (
		cause   = context.Cause(inner)
		timeout timeoutError
		away    *AwayError
	)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return err // the caller has had enough
	case errors.As(cause, &away): // which tells of a time-out as well
		g.count.Cut++
		return away
	case errors.As(cause, &timeout):
		g.count.Timeouts++
		why := fmt.Errorf("%w: %w", ErrUnavailable, timeout)
		if _, says := err.(interface{ Unwrap() error }); says {
			// Not wrapped: it was not the caller who cancelled.
			why = fmt.Errorf("%w (%s)", why, err.Error())
		}
		return g.fail(k, why)
	case errors.Is(err, ErrDenied):
		g.count.Errors++
		return g.fail(k, err)
	case errors.Is(err, ErrUnavailable):
		g.count.Errors++
		return g.fail(reading, err) // it is not there at all
	}
	g.count.Errors++
	return err
}

// fail opens the circuit, and returns what the caller is told; g.mu is held.
func (g *Guarded) fail(k kind, err error) error {
	if g.closed {
		return err
	}
	if e := cmp.Or(g.away(), g.shut[k]); e != nil {
		return e // another call was faster
	}
	if !g.probing {
		// One that fails again soon after it came back is asked less and less.
		if g.pause == 0 || time.Since(g.well) > g.opt.LastProbe {
			g.pause = g.opt.FirstProbe
		} else {
			g.pause = min(2*g.pause, g.opt.LastProbe)
		}
		g.until = time.Now().Add(g.pause)
		g.probing = true
		g.probe.Go(g.heal)
	}
	return g.open(k, err)
}

// open opens the circuit, for calls of a kind or for all; g.mu is held.
func (g *Guarded) open(k kind, err error) *AwayError {
	e := &AwayError{Store: g.store.String(), Since: time.Now(), Until: g.until, Err: err}
	g.shut[k] = e
	switch {
	case errors.Is(err, ErrDenied):
		// What is under way was perhaps allowed, and if not, says so soon.
		g.opt.Log.Warn("a shared store denies access, and builds go on without", "store", e.Store, "calls", k.String(), "err", err)
	case k == reading:
		for k := range g.epochs {
			g.cut(kind(k), e)
		}
		g.opt.Log.Warn("a shared store is away, and builds go on without", "store", e.Store, "until", e.Until, "err", err)
	default:
		g.cut(k, e)
		g.opt.Log.Warn("a shared store fails, and is only used for the rest", "store", e.Store, "calls", k.String(), "until", e.Until, "err", err)
	}
	return e
}

// cut ends the calls of a kind that are under way; g.mu is held.
func (g *Guarded) cut(k kind, e *AwayError) {
	g.epochs[k].end(e)
	g.epochs[k] = newEpoch()
}
