package shared

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// writable are those of tiers that are written.
func (c *Cache) writable(tiers []*tier) []*tier {
	if c.signer == nil {
		return nil
	}
	var list []*tier
	for _, t := range tiers {
		if t.Write {
			list = append(list, t)
		}
	}
	return list
}

// Put queues a result for all tiers that are written, and a candidate that leads to
// it for a manifest, which is marked if preprocess is not "". It returns at once;
// what cannot be written is dropped and counted. blobs hold all outputs of the
// result; e and blobs must not be changed any more.
func (c *Cache) Put(manifest digest.Key, preprocess string, e *action.Entry, blobs map[digest.Digest][]byte) {
	tiers := c.writable(c.tiers)
	if len(tiers) == 0 {
		return
	}
	type toWrite struct {
		*packed
		change func(*action.Manifest) bool
	}
	prepare := sync.OnceValues(func() (*toWrite, error) {
		c.sealing <- struct{}{}
		p, err := c.signer.seal(c.tenant, e, blobs)
		<-c.sealing
		if err != nil {
			c.log.Warn("shared-cache-not-written", "action", e.Action.Key().String(), "error", err.Error())
			return nil, err
		}
		w := &toWrite{p, add(leadingTo(e), preprocess)}
		c.remember(tiers, manifest, w.change)
		return w, nil
	})
	size := entrySize(e)
	for _, b := range blobs {
		size += int64(len(b))
	}
	c.queue.add(&job{
		size: size,
		do: func(ctx context.Context, t *tier) error {
			w, err := prepare()
			if err != nil {
				return err
			}
			if err := c.store(ctx, t, w.packed); err != nil {
				return err
			}
			return c.updateManifest(ctx, t, manifest, w.change)
		},
		drop: func(t *tier) { t.dropped.Add(1) },
	}, tiers)
}

// Mark queues that a manifest be marked: why look-ups need more than its
// candidates. A mark is changed by another one, and never taken back.
func (c *Cache) Mark(manifest digest.Key, preprocess string) {
	tiers := c.writable(c.tiers)
	if len(tiers) == 0 || preprocess == "" {
		return
	}
	change := mark(preprocess)
	c.remember(tiers, manifest, change)
	c.queue.add(&job{
		do:   func(ctx context.Context, t *tier) error { return c.updateManifest(ctx, t, manifest, change) },
		drop: func(t *tier) { t.dropped.Add(1) },
	}, tiers)
}

// remember changes what is known of the tiers' manifests to what it will be.
func (c *Cache) remember(tiers []*tier, manifest digest.Key, change func(*action.Manifest) bool) {
	name := ManifestName(c.tenant, manifest)
	for _, t := range tiers {
		c.memory.change(t.remembered(name), change)
	}
}

// backfill queues a verified result, as it was read, for the tiers that are nearer
// than the one that had it.
func (c *Cache) backfill(nearer []*tier, key digest.Key, e *action.Entry, blobs []object, pack object) {
	tiers := c.writable(nearer)
	if len(tiers) == 0 {
		return
	}
	p := &packed{key: key, result: resultDigest(&e.Result), blobs: blobs, pack: pack}
	size := int64(len(pack.body))
	for _, b := range blobs {
		size += int64(len(b.body))
	}
	by, led := c.leads.get(key)
	c.queue.add(&job{
		size: size,
		do: func(ctx context.Context, t *tier) error {
			if err := c.store(ctx, t, p); err != nil {
				return err
			}
			t.backfilled.Add(1)
			if !led {
				return nil
			}
			return c.updateManifest(ctx, t, by.manifest, add(leadingTo(e), by.preprocess))
		},
		drop: func(t *tier) { t.dropped.Add(1) },
	}, tiers)
}

// leadingTo is the candidate that leads to an entry.
func leadingTo(e *action.Entry) action.Candidate {
	candidate := e.Action.Candidate()
	candidate.StdioContext = e.Result.StdioContext
	return candidate
}

// store puts a result's objects, the pack last: who finds it finds what it needs.
func (c *Cache) store(ctx context.Context, t *tier, p *packed) error {
	for _, b := range p.blobs {
		if err := c.putBlob(ctx, t, b); err != nil {
			return err
		}
	}
	return c.putPack(ctx, t, p)
}

func (c *Cache) putBlob(ctx context.Context, t *tier, b object) error {
	when := store.Condition{Absent: true}
	if _, bad := t.bad.get(b.name); bad {
		when = store.Condition{} // these are the bytes of that name, whoever wrote last
	} else {
		// To ask spares sending some megabytes in vain.
		switch info, err := t.stat(ctx, b.name); {
		case err == nil:
			c.renew(t, b.name, info.Modified)
			return nil
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
	}
	err := t.put(ctx, b.name, b.body, when)
	if err == nil {
		t.bad.remove(b.name)
	}
	if errors.Is(err, store.ErrConflict) {
		err = nil
	}
	return err
}

// packTries bounds how often a pack is tried to be put while others put and remove
// it, too.
const packTries = 5

// putPack puts a pack unless a trusted one of the same action is there. One that is
// not believed makes place.
func (c *Cache) putPack(ctx context.Context, t *tier, p *packed) error {
	name := p.pack.name
	when, replacing := store.Condition{Absent: true}, false
	for range packTries {
		err := t.put(ctx, name, p.pack.body, when)
		if err == nil {
			t.bad.remove(name)
			t.written.Add(1)
			if replacing {
				t.replaced.Add(1)
			}
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
		when, replacing = store.Condition{Absent: true}, false
		o, err := t.get(ctx, name, maxPack)
		var theirs *opened
		if err == nil {
			theirs, err = openPack(o.Body, c.tenant, p.key, c.trust)
		}
		switch {
		case err == nil:
			c.renew(t, name, o.Modified)
			c.compare(t, p, theirs)
			return nil
		case errors.Is(err, store.ErrNotFound): // it was removed just now
		case reasonOf(err) == ReasonVersion:
			t.reject(name, err) // who knows the version may believe it
			return err
		case reasonOf(err) != "":
			t.reject(name, err)
			if when, err = c.versionOf(ctx, t, name, o.Version); err != nil {
				return err
			}
			replacing = !when.Absent
		default:
			return err
		}
	}
	return fmt.Errorf("%s: %w %d times", name, store.ErrConflict, packTries)
}

// maxDifferentLogged is how many results that were kept out are logged for a tier.
const maxDifferentLogged = 100

// compare counts a result that is there already.
func (c *Cache) compare(t *tier, p *packed, theirs *opened) {
	if theirs.result == p.result {
		t.present.Add(1)
		return
	}
	// Where the count goes on, a compiler gives no two results alike, and more lines
	// say no more.
	if t.different.Add(1) <= maxDifferentLogged {
		c.log.Warn("shared-cache-different", "tier", t.Name, "name", p.pack.name, "kept", theirs.result.String(),
			"kept_signer", theirs.signer.Name, "left_out", p.result.String())
	}
}

// entrySize is roughly the memory of an entry.
func entrySize(e *action.Entry) int64 {
	n := len(e.Result.Stdout) + len(e.Result.Stderr)
	for _, list := range [][]string{e.Action.Command, e.Action.Env, e.Action.Absent, e.Action.Present, e.Action.Chain} {
		for _, s := range list {
			n += 16 + len(s)
		}
	}
	for _, in := range e.Action.Inputs {
		n += 56 + len(in.Path)
	}
	for _, d := range e.Result.Dependencies {
		n += 24 + len(d.Path)
	}
	return int64(n)
}
