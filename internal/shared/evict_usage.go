package shared

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"hpcc.dev/hpcc/internal/store"
)

// usage is the object TENANT/usage, as JSON: an estimate of the size of the
// tenant's objects. Whoever can write to the store can write anything there; it
// decides when the store is listed, and nothing else.
type usage struct {
	Bytes int64 `json:"bytes"`
	// Listed is when the estimate was last set right, by the store's clock; zero is
	// never.
	Listed time.Time `json:"listed,omitzero"`

	version store.Version
	// modified is when it was written before, by the store's clock; zero for one
	// that was missing.
	modified time.Time
}

// maxUsage bounds the object; it has some 60 bytes.
const maxUsage = 1024

// usageTries bounds how often a conditional put is tried against other clients.
// With 20 that all write at the same time each try succeeds for one at least.
const usageTries = 30

func (e *Evictor) usageName() string { return e.opt.Tenant + "/usage" }

// readUsage reads the estimate. One that is missing or malformed is zero, and is to
// be written over its version.
func (e *Evictor) readUsage(ctx context.Context) (usage, error) {
	o, err := e.opt.Store.Get(ctx, e.usageName(), maxUsage)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return usage{}, nil
	case errors.Is(err, store.ErrTooLarge), errors.Is(err, store.ErrCorrupt):
		info, err := e.opt.Store.Stat(ctx, e.usageName())
		return usage{version: info.Version, modified: info.Modified}, err
	case err != nil:
		return usage{}, err
	}
	u := decodeUsage(o.Body)
	u.version, u.modified = o.Version, o.Modified
	return u, nil
}

// decodeUsage reads an estimate; what is none is zero.
func decodeUsage(b []byte) usage {
	var u usage
	if json.Unmarshal(b, &u) != nil || u.Bytes < 0 {
		return usage{}
	}
	return u
}

// changeUsage replaces the estimate by what change makes of it, and returns that.
func (e *Evictor) changeUsage(ctx context.Context, change func(usage) usage) (usage, error) {
	for try := 1; ; try++ {
		old, err := e.readUsage(ctx)
		if err != nil {
			return usage{}, err
		}
		u := change(old)
		body, err := json.Marshal(u)
		if err != nil {
			return usage{}, err
		}
		when := store.Condition{Version: old.version, Absent: old.version == ""}
		u.version, err = e.opt.Store.Put(ctx, e.usageName(), body, when)
		if err == nil {
			return u, nil
		}
		if !errors.Is(err, store.ErrConflict) || try == usageTries {
			return usage{}, err
		}
		// Apart from the others that were refused at the same moment.
		wait := time.Duration(rand.Int64N(int64(min(try, 10)) * int64(20*time.Millisecond)))
		select {
		case <-ctx.Done():
			return usage{}, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// grow adds n to the estimate. It writes it even if n is 0.
func (e *Evictor) grow(ctx context.Context, n int64) (usage, error) {
	return e.changeUsage(ctx, func(u usage) usage {
		u.Bytes = min(u.Bytes, math.MaxInt64-n) + n
		return u
	})
}

// storeNow is the time by the store's clock, at most as old as the call: that of
// the estimate, which it writes anew.
func (e *Evictor) storeNow(ctx context.Context) (time.Time, error) {
	if _, err := e.grow(ctx, 0); err != nil {
		return time.Time{}, err
	}
	info, err := e.opt.Store.Stat(ctx, e.usageName())
	return info.Modified, err
}
