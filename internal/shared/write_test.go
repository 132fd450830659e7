package shared

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

func TestDifferentResult(t *testing.T) {
	alice, bob := testSigner(t, "alice"), testSigner(t, "bob")
	trust := trustOf(t, false, alice.Line(RoleWorker), bob.Line(RoleWorker))
	far := store.NewMemory(0)
	e, blobs := testEntry("a.c", []byte("object"))
	fill(t, far, alice, e, blobs)

	seen := &records{}
	c := newCache(t, Options{Tiers: tierOf(far), Signer: bob, Trust: trust, Log: slog.New(seen)})
	slower := *e
	slower.Result.CompileTime *= 3
	c.Put(testManifest, "", &slower, blobs)
	drain(t, c)
	if s := c.Stats().Tiers[0]; s.Present != 1 || s.Different != 0 || seen.of("") != 0 {
		t.Errorf("the same: counted %+v, logged %q", s, seen.list)
	}
	other, otherBlobs := testEntry("a.c", []byte("another object"))
	c.Put(testManifest, "", other, otherBlobs)
	drain(t, c)
	if s := c.Stats().Tiers[0]; s.Different != 1 || s.Replaced != 0 || s.Dropped != 0 {
		t.Errorf("another: counted %+v", s)
	}
	kept, left := resultDigest(&e.Result), resultDigest(&other.Result)
	if seen.of("shared-cache-different") != 1 || seen.of("kept="+kept.String()) != 1 || seen.of("left_out="+left.String()) != 1 || seen.of("kept_signer=alice") != 1 {
		t.Errorf("logged %q", seen.list)
	}
	same(t, c.Result(withPatience(t), e.Action.Key()), e, blobs)

	// A result that is not trusted makes place.
	c = newCache(t, Options{Tiers: tierOf(far), Signer: bob, Trust: trustOf(t, false, alice.Line(RoleWorker)+" revoked")})
	c.Put(testManifest, "", other, otherBlobs)
	drain(t, c)
	same(t, c.Result(withPatience(t), e.Action.Key()), other, otherBlobs)
	if s := c.Stats().Tiers[0]; s.Replaced != 1 || s.Different != 0 || s.Rejected[ReasonRevoked] != 1 {
		t.Errorf("counted %+v", s)
	}
}

// TestWritersLoseNothing has 20 machines add to one manifest at a time.
func TestWritersLoseNothing(t *testing.T) {
	t.Run("memory", func(t *testing.T) { testWritersLoseNothing(t, store.NewMemory(0)) })
	t.Run("directory", func(t *testing.T) {
		far, err := store.OpenDirectory(t.TempDir(), store.DirectoryOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = far.Close() }) // it holds what is to be removed
		testWritersLoseNothing(t, far)
	})
}

func testWritersLoseNothing(t *testing.T, far store.Store) {
	const writers = 20
	alice := testSigner(t, "alice")
	caches := make([]*Cache, writers)
	for i := range caches {
		caches[i] = newCache(t, Options{Tiers: tierOf(far), Signer: alice, MemoryBytes: 1 << 20})
	}
	want := map[digest.Key]bool{}
	var put sync.WaitGroup
	for i, c := range caches {
		e, blobs := testEntry(fmt.Sprint(i, ".c"), []byte("object"))
		want[e.Action.Key()] = true
		put.Go(func() {
			known(t.Context(), c, testManifest)
			c.Put(testManifest, "", e, blobs)
			if i%5 == 0 {
				c.Mark(testManifest, "source")
			}
		})
	}
	put.Wait()
	for _, c := range caches {
		drain(t, c)
		if s := c.Stats().Tiers[0]; s.Dropped != 0 {
			t.Errorf("counted %+v", s)
		}
	}
	m := known(withPatience(t), newCache(t, Options{Tiers: tierOf(far)}), testManifest)
	for _, c := range m.Candidates {
		delete(want, c.Action)
	}
	if len(want) != 0 || len(m.Candidates) != writers || m.Preprocess != "source" {
		t.Errorf("%d candidates are lost; %d are there, marked %q", len(want), len(m.Candidates), m.Preprocess)
	}
}

// A store that hangs costs the builds nothing but what could not be queued.
func TestQueueIsBounded(t *testing.T) {
	alice := testSigner(t, "alice")
	slow, fast := &recorder{Store: store.NewMemory(0)}, store.NewMemory(0)
	goOn := make(chan struct{})
	slow.set(func(ctx context.Context, _ string) error {
		select {
		case <-goOn:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	const size, fit = 100_000, 20
	c := newCache(t, Options{
		Signer: alice, QueueBytes: fit * (size + 5000),
		Tiers: []Tier{{Name: "slow", Store: slow, Write: true}, {Name: "fast", Store: fast, Write: true}},
	})
	for i := range 3 * fit {
		e, blobs := testEntry(fmt.Sprint(i, ".c"), noise(size, byte(i)))
		c.Put(digest.NewKey(fmt.Sprint(i)).Sum(), "", e, blobs)
	}
	s := c.Stats()
	if s.Queue.Bytes > s.Queue.MaxBytes || s.Queue.Waiting < fit || s.Tiers[0].Dropped != int64(3*fit-s.Queue.Waiting) {
		t.Errorf("counted %+v", s)
	}
	// The other tier's lane goes on.
	waitFor(t, func() bool { return c.Stats().Tiers[1].Written == int64(s.Queue.Waiting) })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(goOn)
	drain(t, c)
	if now := c.Stats(); now.Queue.Bytes != 0 || now.Queue.Waiting != 0 || now.Tiers[0].Written != int64(s.Queue.Waiting) {
		t.Errorf("counted %+v", now)
	}
}

// A result without all its outputs, or with others, is not written: it would be
// nobody's hit.
func TestPutRefuses(t *testing.T) {
	alice := testSigner(t, "alice")
	far := &recorder{Store: store.NewMemory(0)}
	seen := &records{}
	c := newCache(t, Options{Tiers: tierOf(far), Signer: alice, Log: slog.New(seen)})
	e, blobs := testEntry("a.c", []byte("object"))
	c.Put(testManifest, "", e, nil)
	drain(t, c)
	for d := range blobs {
		blobs[d] = []byte("another")
	}
	c.Put(testManifest, "", e, blobs)
	drain(t, c)
	e.Result.Outputs = make([]action.Output, maxOutputs+1)
	c.Put(testManifest, "", e, blobs)
	drain(t, c)
	if s := c.Stats().Tiers[0]; s.Dropped != 3 || far.asked() != "" || seen.of("shared-cache-not-written") != 3 {
		t.Errorf("counted %+v, logged %q", s, seen.list)
	}
}

// A tier that has a bound is kept to it by who writes there: what was not used for
// longest goes, and what is new stays.
func TestTierIsKeptToItsSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := testSigner(t, "alice")
		far := store.NewMemory(0)
		const size, most = 100_000, 5_000_000
		c := newCache(t, Options{Signer: alice, Tiers: []Tier{{Name: "far", Store: far, Write: true, MaxBytes: most}}})
		build := func(age string) {
			for i := range 40 {
				e, blobs := testEntry(fmt.Sprint(age, i, ".c"), noise(size, byte(i)))
				c.Put(digest.NewKey(age).Field("i", fmt.Sprint(i)).Sum(), "", e, blobs)
				drain(t, c)
			}
			synctest.Wait()
		}
		has := func(age string) (n int) {
			for i := range 40 {
				e, _ := testEntry(fmt.Sprint(age, i, ".c"), noise(size, byte(i)))
				if c.Result(t.Context(), e.Action.Key()) != nil {
					n++
				}
			}
			return n
		}
		build("old")
		if n := has("old"); n != 40 {
			t.Fatalf("%d of 40 after the first build", n)
		}
		time.Sleep(touchAfter / 2)
		build("new")
		if n := has("new"); n != 40 {
			t.Errorf("%d of 40 new results are there", n)
		}
		if n := has("old"); n == 40 {
			t.Error("nothing was evicted")
		}
		s := c.Stats().Tiers[0]
		if s.Eviction == nil || s.Eviction.Removed == 0 || s.Eviction.Error != "" {
			t.Errorf("counted %+v", s.Eviction)
		}
		if far.Bytes() > most*12/10 {
			t.Errorf("it holds %d bytes", far.Bytes())
		}
	})
}
