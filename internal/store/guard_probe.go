package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// probeName is asked for. There is no such object, which is the answer hoped for.
const probeName = "hpcc-probe"

// heal asks the store until nothing is away or denied any more.
func (g *Guarded) heal() {
	for {
		g.mu.Lock()
		until := g.until
		g.mu.Unlock()
		// A little later than said, by chance: many clients lost the store at once.
		wait := time.Until(until)
		select {
		case <-time.After(wait + rand.N(wait/10+1)):
		case <-g.life.Done():
			return
		}
		if g.ask() {
			return
		}
	}
}

// ask probes what calls are not made of, and reports whether all are again.
func (g *Guarded) ask() (well bool) {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	for k, e := range shut {
		if e == nil {
			continue
		}
		if g.answered(kind(k), g.try(kind(k))); g.gone() {
			break // the others would not be answered either
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return true
	}
	if g.shut == [kinds]*AwayError{} {
		g.probing, g.well = false, time.Now()
		g.opt.Log.Info("a shared store is back", "store", g.store.String())
		return true
	}
	g.pause = min(2*g.pause, g.opt.LastProbe)
	g.until = time.Now().Add(g.pause)
	for k, e := range g.shut {
		if e != nil {
			later := *e // callers may hold the old one
			later.Until = g.until
			g.shut[k] = &later
		}
	}
	return false
}

// gone reports whether the store is away, or not to be asked any more.
func (g *Guarded) gone() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed || g.away() != nil
}

// answered takes the answer to a probe.
func (g *Guarded) answered(k kind, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
	case errors.Is(err, ErrDenied), errors.Is(err, ErrUnavailable):
		later := *g.shut[k]
		later.Err = err
		g.shut[k] = &later
	default:
		g.shut[k] = nil
	}
}

// try makes a call of a kind that changes nothing.
func (g *Guarded) try(k kind) (err error) {
	limit := [kinds]time.Duration{g.opt.Read, g.opt.Write, g.opt.List, g.opt.Write}[k]
	ctx, cancel := context.WithTimeout(g.life, limit)
	defer cancel()
	switch k {
	case reading:
		_, err = g.store.Get(ctx, probeName, 0)
	case writing:
		_, err = g.store.Put(ctx, probeName, nil, Condition{Version: `"none"`})
	case removing:
		err = g.store.Delete(ctx, probeName)
	case listing:
		enough := errors.New("enough")
		if err = g.store.List(ctx, probeName, func(Info) error { return enough }); errors.Is(err, enough) {
			err = nil
		}
	}
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, timeoutError(limit))
	}
	return err
}
