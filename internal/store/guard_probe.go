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
	away, denied := g.away, g.denied
	g.mu.Unlock()
	if away != nil {
		// Its answer to a read, even a denial, says that it is there.
		err := g.try(reading)
		if g.answered(reading, err) {
			denied[reading] = nil // just asked
		} else {
			denied = [kinds]*AwayError{}
		}
	}
	for k, e := range denied {
		if e != nil && !g.answered(kind(k), g.try(kind(k))) {
			break
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return true
	}
	if g.away == nil && g.denied == [kinds]*AwayError{} {
		g.probing, g.well = false, time.Now()
		g.opt.Log.Info("a shared store is back", "store", g.store.String())
		return true
	}
	g.pause = min(2*g.pause, g.opt.LastProbe)
	g.until = time.Now().Add(g.pause)
	for _, e := range []**AwayError{&g.away, &g.denied[reading], &g.denied[writing], &g.denied[listing], &g.denied[removing]} {
		if *e != nil {
			later := **e // callers may hold the old one
			later.Until = g.until
			*e = &later
		}
	}
	return false
}

// answered takes the answer to a probe, and reports whether there was one.
func (g *Guarded) answered(k kind, err error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return false
	case errors.Is(err, ErrDenied):
		g.away = nil
		if e := g.denied[k]; e == nil {
			_ = g.shut(k, err)
		} else {
			g.denied[k] = &AwayError{Store: e.Store, Since: e.Since, Until: e.Until, Err: err}
		}
	case errors.Is(err, ErrUnavailable):
		if e := g.away; e == nil {
			_ = g.shut(k, err)
		} else {
			g.away = &AwayError{Store: e.Store, Since: e.Since, Until: e.Until, Err: err}
		}
		return false
	default:
		g.away, g.denied[k] = nil, nil
	}
	return true
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
