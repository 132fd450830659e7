package shared

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// touchAfter is how old an object may get before a use renews its time, by which
// eviction goes. A day keeps the order right for a cache that lasts for weeks, and
// a bucket from a request for each read.
const touchAfter = 24 * time.Hour

// Manifests yields what the tiers have under key, the nearest first: hints that
// nobody vouches for. A tier is asked only when the loop comes to it, so that who
// finds what it wants in a near one does not wait for those that are far. Each
// manifest holds only what those before it did not, candidates as well as the word,
// and all of them together at most action.MaxCandidates; one that holds nothing then
// is left out. A tier's error is counted and logged, and otherwise as if the tier
// had none. What is yielded is the caller's to change, but for what its candidates
// hold.
func (c *Cache) Manifests(ctx context.Context, key digest.Key) iter.Seq[*action.Manifest] {
	return func(yield func(*action.Manifest) bool) {
		name := ManifestName(c.tenant, key)
		seen := map[digest.Key]bool{}
		word := ""
		for _, t := range c.tiers {
			if ctx.Err() != nil {
				return
			}
			has := c.manifestOf(ctx, t, key, name)
			if has == nil {
				continue
			}
			m := &action.Manifest{Candidates: make([]action.Candidate, 0, len(has.Candidates))}
			if word == "" {
				word, m.Preprocess = has.Preprocess, has.Preprocess
			}
			for _, candidate := range has.Candidates {
				if !seen[candidate.Action] && len(seen) < action.MaxCandidates {
					seen[candidate.Action] = true
					m.Candidates = append(m.Candidates, candidate)
					c.leads.set(candidate.Action, lead{key, word})
				}
			}
			if (m.Preprocess != "" || len(m.Candidates) > 0) && !yield(m) {
				return
			}
		}
	}
}

// manifestOf returns what a tier has, or had just now, under a name; nil for
// nothing. It is not the caller's to change.
func (c *Cache) manifestOf(ctx context.Context, t *tier, key digest.Key, name string) *action.Manifest {
	at := t.remembered(name)
	if m, ok := c.memory.manifest(at); ok {
		return m
	}
	return c.manifests.do(ctx, c.ctx, at, c.start, func(ctx context.Context) *action.Manifest {
		m := c.readManifest(ctx, t, key, name)
		if ctx.Err() != nil {
			return m
		}
		life := absenceLife // of what could not be read, too
		if m != nil {
			life = manifestLife
		}
		c.memory.putManifest(at, m, life)
		return m
	})
}

// readManifest reads a tier's manifest; nil if there is none, or none that can be
// read.
func (c *Cache) readManifest(ctx context.Context, t *tier, key digest.Key, name string) *action.Manifest {
	o, err := t.get(ctx, name, maxManifestObject)
	var m *action.Manifest
	if err == nil {
		m, err = openManifest(key, o.Body)
	}
	switch {
	case err == nil:
		t.manifestHits.Add(1)
		c.renew(t, name, o.Modified)
		return m
	case reasonOf(err) != "":
		t.reject(name, err)
	case !errors.Is(err, store.ErrNotFound):
		return nil // and no miss: who knows what is there
	default:
		t.absent.set(name, struct{}{})
	}
	t.manifestMisses.Add(1)
	return nil
}

// Fetched is a result that was verified. Several callers may hold one: it must not
// be changed.
type Fetched struct {
	Entry *action.Entry
	// Blobs are all the outputs of the entry's result.
	Blobs map[digest.Digest][]byte
	// Tier is the name of the tier that had it, "memory" for the Cache's own.
	Tier string
	// Signer is the name of who made it.
	Signer string
}

// Result fetches the result of the action whose key the caller computed from what
// it has checked itself. It is nil unless some tier has one that is right in every
// respect (see the package's comment); the nearest is taken.
func (c *Cache) Result(ctx context.Context, key digest.Key) *Fetched {
	if ctx.Err() != nil {
		return nil
	}
	return c.results.do(ctx, c.ctx, ResultName(c.tenant, key), c.start, func(ctx context.Context) *Fetched {
		return c.fetch(ctx, key)
	})
}

func (c *Cache) fetch(ctx context.Context, key digest.Key) *Fetched {
	name := ResultName(c.tenant, key)
	if b, from, ok := c.memory.pack(name); ok {
		f, _ := c.open(ctx, from, key, b)
		c.memory.used(name, f != nil)
		if f != nil {
			f.Tier = memoryName
			return f
		}
	}
	for i, t := range c.tiers {
		o, err := t.get(ctx, name, maxPack)
		switch {
		case err == nil:
			f, blobs := c.open(ctx, t, key, o.Body)
			if f == nil {
				break
			}
			t.hits.Add(1)
			c.memory.putPack(name, o.Body, t)
			c.renew(t, name, o.Modified)
			c.backfill(c.tiers[:i], key, f.Entry, blobs, object{name, o.Body})
			return f
		case reasonOf(err) != "":
			t.reject(name, err)
		}
		if ctx.Err() != nil {
			return nil
		}
		t.misses.Add(1)
	}
	return nil
}

// blobReaders is how many large blobs of one result are read at a time.
const blobReaders = 4

// open verifies a pack that t has, and reads the blobs that are not in it; it
// returns these as objects, too. f is nil if anything is wrong, which it notes.
func (c *Cache) open(ctx context.Context, t *tier, key digest.Key, pack []byte) (f *Fetched, blobs []object) {
	p, err := openPack(pack, c.tenant, key, c.trust)
	if err != nil {
		t.reject(ResultName(c.tenant, key), err)
		return nil, nil
	}
	f = &Fetched{Entry: p.entry, Blobs: p.blobs, Tier: t.Name, Signer: p.signer.Name}
	if len(p.missing) == 0 {
		return f, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		mu      sync.Mutex
		reading sync.WaitGroup
		slots   = make(chan struct{}, blobReaders)
		failed  bool
	)
	blobs = make([]object, len(p.missing))
	for i, d := range p.missing {
		reading.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			o, b, ok := c.blob(ctx, t, key, d)
			mu.Lock()
			defer mu.Unlock()
			if !ok {
				failed = true
				cancel()
				return
			}
			blobs[i] = o
			f.Blobs[d] = b
		})
	}
	reading.Wait()
	if failed {
		return nil, nil
	}
	return f, blobs
}

// blob reads and checks one that the pack of an action's result is without.
func (c *Cache) blob(ctx context.Context, t *tier, key digest.Key, d digest.Digest) (object, []byte, bool) {
	if ctx.Err() != nil {
		return object{}, nil, false
	}
	name := BlobName(c.tenant, d)
	o, err := t.get(ctx, name, d.Size()+int64(boxOverhead))
	var b []byte
	if err == nil {
		b, err = unboxBlob(d, o.Body)
	}
	switch {
	case err == nil:
		c.renew(t, name, o.Modified)
		return object{name, o.Body}, b, true
	case reasonOf(err) != "":
		t.reject(name, err)
	case errors.Is(err, store.ErrNotFound):
		t.reject(name, reject(ReasonIncomplete, "%s needs it", ResultName(c.tenant, key)))
	}
	return object{}, nil, false
}

// renew has an object's time of use brought up to date if it is old.
func (c *Cache) renew(t *tier, name string, modified time.Time) {
	if !t.Write || modified.IsZero() || c.now().Sub(modified) < touchAfter || c.queue.busy(t) {
		return
	}
	if _, done := t.touches.get(name); done {
		return
	}
	t.touches.set(name, struct{}{})
	c.queue.add(&job{
		do:   func(ctx context.Context, t *tier) error { return t.touch(ctx, name) },
		drop: func(*tier) {},
	}, []*tier{t})
}
