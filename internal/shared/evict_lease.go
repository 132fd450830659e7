package shared

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"hpcc.dev/hpcc/internal/store"
)

// lockObject is the object TENANT/lock/evict, as JSON. It is never removed: who is
// done writes that the lease has no length.
type lockObject struct {
	Owner string `json:"owner"`
	// Seconds is how long the lease lasts from when the object was put.
	Seconds int64 `json:"seconds"`
	// Turn counts the owner's puts, so that no two have one content.
	Turn int64 `json:"turn"`
}

const (
	// maxLock bounds the object.
	maxLock = 1024
	// maxLease bounds what another's lock may claim, so that nobody locks for good.
	maxLease = 10 * time.Minute
	// clockStep is the coarsest step of a store's clock that is reckoned with, twice:
	// S3 gives whole seconds.
	clockStep = 2 * time.Second
	// releaseTime is what giving back a lease may take.
	releaseTime = 5 * time.Second
)

// lease is the right to evict, while it lasts.
type lease struct {
	e *Evictor
	// owner is this lease's alone: a sweep of the same Evictor is another.
	owner string
	// began is when the store says that it was got.
	began time.Time

	// one is held by who uses what follows. It is a channel because it is held
	// through calls of the store, and whoever waits must end with its context.
	one     chan struct{}
	turn    int64
	version store.Version
	// until is when it ends unless it is renewed, by this machine's clock, with a
	// quarter to spare: the others must not see it end before.
	until time.Time
	lost  bool
}

func (e *Evictor) lockName() string { return e.opt.Tenant + "/lock/evict" }

// acquire gets the lease, or an error that wraps ErrEvicting where another has it.
func (e *Evictor) acquire(ctx context.Context) (*lease, error) {
	l := &lease{e: e, one: make(chan struct{}, 1), owner: e.host + "/" + rand.Text()}
	err := l.put(ctx, store.Condition{Absent: true}, e.opt.Lease)
	if errors.Is(err, store.ErrConflict) {
		var held store.Version
		if held, err = e.expired(ctx); err == nil {
			err = l.put(ctx, store.Condition{Version: held}, e.opt.Lease)
		}
	}
	if errors.Is(err, store.ErrConflict) {
		err = ErrEvicting
	}
	if err != nil {
		return nil, err
	}
	info, err := e.opt.Store.Stat(ctx, e.lockName())
	if err == nil && info.Version != l.version {
		err = errLeaseLost
	}
	if err != nil {
		l.release(ctx)
		return nil, err
	}
	l.began = info.Modified
	return l, nil
}

// expired returns the version of a lock whose lease has ended, by the store's clock
// alone.
func (e *Evictor) expired(ctx context.Context) (store.Version, error) {
	o, err := e.opt.Store.Get(ctx, e.lockName(), maxLock)
	var held lockObject
	switch {
	case errors.Is(err, store.ErrTooLarge), errors.Is(err, store.ErrCorrupt):
		info, err := e.opt.Store.Stat(ctx, e.lockName())
		if err != nil {
			return "", err
		}
		o.Version, o.Modified = info.Version, info.Modified
		held.Seconds = int64(maxLease / time.Second)
	case err != nil:
		return "", err
	default:
		held = decodeLock(o.Body)
	}
	if held.Seconds == 0 {
		return o.Version, nil
	}
	now, err := e.storeNow(ctx)
	if err != nil {
		return "", err
	}
	ends := o.Modified.Add(time.Duration(held.Seconds)*time.Second + clockStep)
	if now.Before(ends) {
		return "", fmt.Errorf("%w: %s, for %s at most", ErrEvicting, clip(held.Owner), ends.Sub(now).Round(time.Second))
	}
	return o.Version, nil
}

// decodeLock reads a lock. What is none has the longest lease.
func decodeLock(b []byte) lockObject {
	most := int64(maxLease / time.Second)
	var o lockObject
	if json.Unmarshal(b, &o) != nil || o.Seconds < 0 {
		return lockObject{Seconds: most}
	}
	o.Seconds = min(o.Seconds, most)
	return o
}

// put writes the lock with a lease of this length. The caller holds one, or is alone.
func (l *lease) put(ctx context.Context, when store.Condition, length time.Duration) error {
	start := time.Now()
	l.turn++
	body, err := json.Marshal(lockObject{l.owner, int64((length + time.Second - 1) / time.Second), l.turn})
	if err != nil {
		return err
	}
	v, err := l.e.opt.Store.Put(ctx, l.e.lockName(), body, when)
	if errors.Is(err, store.ErrConflict) {
		// It may be one's own put whose answer was lost, and that was sent again.
		if o, getErr := l.e.opt.Store.Get(ctx, l.e.lockName(), maxLock); getErr == nil && bytes.Equal(o.Body, body) {
			v, err = o.Version, nil
		}
	}
	if err != nil {
		return err
	}
	l.version, l.until = v, start.Add(length/4*3)
	return nil
}

// hold takes one, unless ctx ends first.
func (l *lease) hold(ctx context.Context) error {
	select {
	case l.one <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// renew makes the lease last its full length from now, and returns until when what
// is done under it must have ended; or it reports that the lease is lost.
func (l *lease) renew(ctx context.Context) (time.Time, error) {
	if err := l.hold(ctx); err != nil {
		return time.Time{}, err
	}
	defer func() { <-l.one }()
	if l.lost || !time.Now().Before(l.until) {
		l.lost = true
		return time.Time{}, errLeaseLost
	}
	ctx, cancel := context.WithDeadlineCause(ctx, l.until, errLeaseLost)
	defer cancel()
	err := l.put(ctx, store.Condition{Version: l.version}, l.e.opt.Lease)
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) || !time.Now().Before(l.until) {
		l.lost = true
		return time.Time{}, errLeaseLost
	}
	return l.until, err
}

// keep renews the lease until ctx ends; stop is called when it is lost.
func (l *lease) keep(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(l.e.opt.Lease / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// Another error may pass: until the lease has ended there are more ticks.
		if _, err := l.renew(ctx); errors.Is(err, errLeaseLost) {
			stop(errLeaseLost)
			return
		}
	}
}

// release gives the lease back, if it is still one's own, even after ctx has ended.
// That it fails costs the others the lease's length.
func (l *lease) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	if l.hold(ctx) != nil {
		return
	}
	defer func() { <-l.one }()
	if !l.lost {
		_ = l.put(ctx, store.Condition{Version: l.version}, 0)
		l.lost = true
	}
}
