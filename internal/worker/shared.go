package worker

import (
	"context"
	"iter"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/shared"
)

// Shared are the caches that a tenant's workers have in common; *shared.Cache is
// one. Its methods return in bounded time and as if nothing were there, whatever is
// wrong.
type Shared interface {
	Manifests(ctx context.Context, key digest.Key) iter.Seq[*action.Manifest]
	Result(ctx context.Context, key digest.Key) *shared.Fetched
	Put(manifest digest.Key, preprocess string, e *action.Entry, blobs map[digest.Digest][]byte)
	Stats() shared.Stats
	Close(ctx context.Context) error
}

// sharedPatience bounds how long a worker that ends waits for what is on its way
// to the shared caches.
const sharedPatience = 30 * time.Second

// findOrFetch is find, and looks into the shared caches after that. What it finds
// there is kept in the tenant's store before it is handed out, so that what the
// row names can be read here for as long as any other result can.
func (c *compile) findOrFetch(j *checked) (*answer, error) {
	a, err := c.find(j)
	if a != nil || err != nil || c.shared == nil {
		return a, err
	}
	manifest := j.Manifest(j.source)
	// A hint by a stranger: only if what the client has makes the same action of it is
	// its result asked for.
	holds := func(candidate *action.Candidate) bool {
		return j.Holds(candidate, j.tree) && recordOfCandidate(j, candidate) != nil
	}
	var doubt shared.Doubt
	// A tier is asked when those nearer have led to nothing.
	for m := range c.shared.Manifests(c.live, manifest) {
		for candidate := range doubt.Candidates(m, holds) {
			if a, err := c.fetch(j, manifest, candidate); a != nil || err != nil {
				return a, err
			}
		}
		if doubt.Over() {
			break
		}
	}
	return nil, nil
}

// fetch answers by the result that a candidate, which holds, leads to in the shared
// caches; nil where there is none.
func (c *compile) fetch(j *checked, manifest digest.Key, candidate *action.Candidate) (*answer, error) {
	f := c.shared.Result(c.live, candidate.Action)
	if f == nil {
		return nil, nil
	}
	if err := c.takeOver(manifest, candidate.Action, f); err != nil {
		c.metrics.storeErrors.Inc()
		c.opt.Log.Warn("result not stored", "tenant", c.task.Tenant, "action", candidate.Action, "tier", f.Tier, "error", err)
		return nil, nil
	}
	a, err := c.entry(j, candidate)
	if a != nil {
		a.tier, a.signer = f.Tier, f.Signer
		c.metrics.sharedHits.Inc(c.task.Tenant, f.Tier)
	}
	return a, err
}

// EachShared calls visit with how each tenant that had a compile here does with the
// shared caches.
func (s *Service) EachShared(visit func(*shared.Stats)) {
	s.stores.sharing(func(_ string, tenants Shared) {
		stats := tenants.Stats()
		visit(&stats)
	})
}

// takeOver stores a result that was fetched.
func (c *compile) takeOver(manifest, key digest.Key, f *shared.Fetched) error {
	for _, o := range f.Entry.Result.Outputs {
		if _, err := c.store.PutBlob(f.Blobs[o.Digest]); err != nil {
			return err
		}
	}
	return c.putEntry(manifest, key, f.Entry)
}
