package shared

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// No tenant sees what another has.
func TestTenants(t *testing.T) {
	alice := testSigner(t, "alice")
	far := store.NewMemory(0)
	e, blobs := testEntry("a.c", []byte("object"))
	fill(t, far, alice, e, blobs)
	c := newCache(t, Options{Tenant: "other", Tiers: tierOf(far), Signer: alice})
	if known(withPatience(t), c, testManifest) != nil || c.Result(withPatience(t), e.Action.Key()) != nil {
		t.Error("another tenant's")
	}
}

func TestClose(t *testing.T) {
	alice := testSigner(t, "alice")
	far := &recorder{Store: store.NewMemory(0)}
	c, err := New(Options{Tiers: tierOf(far), Signer: alice})
	if err != nil {
		t.Fatal(err)
	}
	e, blobs := testEntry("a.c", []byte("object"))
	c.Put(testManifest, "", e, blobs)
	if err := c.Close(withPatience(t)); err != nil {
		t.Fatal(err)
	}
	if s := c.Stats().Tiers[0]; s.Written != 1 {
		t.Errorf("it was not drained: %+v", s)
	}
	far.asked()
	c.Put(testManifest, "", e, blobs)
	if c.Result(withPatience(t), e.Action.Key()) != nil || known(withPatience(t), c, testManifest) != nil || far.asked() != "" {
		t.Error("a closed cache works")
	}
	if s := c.Stats(); s.Tiers[0].Dropped != 1 || s.Queue.Waiting != 0 {
		t.Errorf("counted %+v", s)
	}
	if err := c.Close(withPatience(t)); err != nil {
		t.Errorf("again: %v", err)
	}

	// What hangs ends with the context, and so do its calls.
	far.set(func(ctx context.Context, _ string) error {
		<-ctx.Done()
		return ctx.Err()
	})
	if c, err = New(Options{Tiers: tierOf(far), Signer: alice}); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * writers {
		e, blobs := testEntry(fmt.Sprint(i, ".c"), []byte("object"))
		c.Put(testManifest, "", e, blobs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	// Within closeGrace, unless the machine is very busy.
	waitFor(t, func() bool {
		s := c.Stats()
		return s.Tiers[0].Dropped == 2*writers && s.Queue.Waiting == 0 && s.Queue.Bytes == 0
	})
}

func TestNewRefuses(t *testing.T) {
	m := store.NewMemory(0)
	for what, tiers := range map[string][]Tier{
		"no name": {{Store: m}}, "one name twice": {{Name: "a", Store: m}, {Name: "a", Store: m}}, "no store": {{Name: "a"}},
		"the memory's name": {{Name: "memory", Store: m}},
	} {
		if _, err := New(Options{Tiers: tiers}); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// TestManyAtOnce lets the race detector see everything at a time.
func TestManyAtOnce(t *testing.T) {
	alice := testSigner(t, "alice")
	near, far := store.NewMemory(0), store.NewMemory(0)
	trust := trustOf(t, false, alice.Line(RoleWorker))
	var caches []*Cache
	for range 3 {
		caches = append(caches, newCache(t, Options{
			Signer: alice, Trust: trust, MemoryBytes: 50_000, QueueBytes: 1 << 20,
			Tiers: []Tier{{Name: "near", Store: near, Write: true}, {Name: "far", Store: far, Write: true}},
		}))
	}
	var all sync.WaitGroup
	for i := range 24 {
		c := caches[i%len(caches)]
		all.Go(func() {
			for j := range 20 {
				n := (i + j) % 10
				e, blobs := testEntry(fmt.Sprint(n, ".c"), noise(2000, byte(n)))
				manifest := digest.NewKey(fmt.Sprint(n % 3)).Sum()
				m := known(t.Context(), c, manifest)
				if f := c.Result(t.Context(), e.Action.Key()); f != nil {
					same(t, f, e, blobs)
					continue
				}
				if m != nil {
					m.Add(action.Candidate{})
				}
				c.Put(manifest, "", e, blobs)
				c.Mark(manifest, "source")
				c.Stats()
			}
		})
	}
	all.Wait()
	for _, c := range caches {
		drain(t, c)
		for _, s := range c.Stats().Tiers {
			if len(s.Rejected) != 0 || s.Different != 0 || s.Replaced != 0 || s.Errors != 0 {
				t.Errorf("counted %+v", s)
			}
		}
	}
}
