package shared

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

func TestTiers(t *testing.T) {
	alice, bob := testSigner(t, "alice"), testSigner(t, "bob")
	stores := make([]*recorder, 4)
	tiers := make([]Tier, 4)
	for i := range stores {
		stores[i] = &recorder{Store: store.NewMemory(0)}
		tiers[i] = Tier{Name: fmt.Sprint("t", i), Store: stores[i], Write: i != 1}
	}
	e, blobs := testEntry("a.c", []byte("object"), noise(maxPacked+1, 1))
	key := e.Action.Key()
	fill(t, stores[2], alice, e, blobs)
	near, nearBlobs := testEntry("near.c", []byte("near"))
	fill(t, stores[1], alice, near, nearBlobs)
	for _, s := range stores {
		s.asked()
	}
	c := newCache(t, Options{Tiers: tiers, Signer: bob, Trust: trustOf(t, false, alice.Line(RoleWorker))})
	ctx := withPatience(t)
	m := known(ctx, c, testManifest)
	if m == nil || len(m.Candidates) != 2 || m.Candidates[0].Action != near.Action.Key() || m.Candidates[1].Action != key {
		t.Fatalf("%+v", m)
	}
	f := c.Result(ctx, key)
	same(t, f, e, blobs)
	if f.Tier != "t2" || f.Signer != "alice" {
		t.Errorf("from %s, by %s", f.Tier, f.Signer)
	}
	drain(t, c)
	for i, want := range []string{
		"get manifest, get result, stat blob, put blob, put result, put manifest", // backfilled
		"get manifest, get result", // only read
		"get manifest, get result, get blob",
		"get manifest",
	} {
		if got := stores[i].asked(); got != want {
			t.Errorf("tier %d: %q, want %q", i, got, want)
		}
	}
	s := c.Stats()
	if s.Tiers[0].Backfilled != 1 || s.Tiers[0].Written != 1 || s.Tiers[0].Misses != 1 || s.Tiers[1].Misses != 1 || s.Tiers[2].Hits != 1 || s.Tiers[3].Misses != 0 {
		t.Errorf("counted %+v", s.Tiers)
	}
	// As it was, alice's signature included.
	if string(get(t, stores[0], ResultName("default", key))) != string(get(t, stores[2], ResultName("default", key))) {
		t.Error("the pack that was backfilled is another")
	}
	if f := c.Result(ctx, key); f == nil || f.Tier != "t0" || f.Signer != "alice" {
		t.Errorf("then from %+v", f)
	}
	if m := known(ctx, c, testManifest); m == nil || len(m.Candidates) != 2 || m.Candidates[0].Action != key {
		t.Errorf("then %+v", m)
	}

	// Who signs nothing writes nothing, backfill included.
	stores[0] = &recorder{Store: store.NewMemory(0)}
	tiers[0].Store = stores[0]
	c = newCache(t, Options{Tiers: tiers, Trust: trustOf(t, false, alice.Line(RoleWorker))})
	known(ctx, c, testManifest)
	same(t, c.Result(ctx, key), e, blobs)
	c.Put(testManifest, "", e, blobs)
	c.Mark(testManifest, "source")
	drain(t, c)
	if got := stores[0].asked(); got != "get manifest, get result" {
		t.Errorf("%q", got)
	}
}

// What waits for a tier that is away is dropped at once.
func TestAway(t *testing.T) {
	alice := testSigner(t, "alice")
	far := &recorder{Store: store.NewMemory(0)}
	guard := store.Guard(far, store.GuardOptions{Read: time.Hour, Write: time.Hour, FirstProbe: time.Hour})
	t.Cleanup(func() { _ = guard.Close() }) // the memory's, which cannot fail
	started, goOn := make(chan struct{}, 100), make(chan struct{})
	far.set(func(ctx context.Context, _ string) error {
		started <- struct{}{}
		select {
		case <-goOn:
		case <-ctx.Done():
			return ctx.Err()
		}
		return fmt.Errorf("%w: connection refused", store.ErrUnavailable)
	})
	seen := &records{}
	c := newCache(t, Options{Tiers: tierOf(guard), Signer: alice, Log: slog.New(seen)})
	const n = 50
	for i := range n {
		e, blobs := testEntry(fmt.Sprint(i, ".c"), []byte("object"))
		c.Put(testManifest, "", e, blobs)
	}
	for range writers {
		<-started
	}
	if s := c.Stats().Tiers[0]; s.State != StateOK || s.Dropped != 0 {
		t.Errorf("counted %+v", s)
	}
	close(goOn)
	drain(t, c)
	s := c.Stats().Tiers[0]
	if s.Dropped != n || s.Errors == 0 || s.State != StateAway || s.Until.IsZero() || s.Why == "" {
		t.Errorf("counted %+v", s)
	}
	if len(seen.list) != 0 {
		t.Errorf("logged what the guard logs: %q", seen.list)
	}
	far.asked()
	e, blobs := testEntry("late.c", []byte("object"))
	c.Put(testManifest, "", e, blobs)
	if s := c.Stats(); s.Queue.Waiting != 0 || s.Tiers[0].Dropped != n+1 {
		t.Errorf("counted %+v", s)
	}
	if known(withPatience(t), c, testManifest) != nil || c.Result(withPatience(t), e.Action.Key()) != nil {
		t.Error("found where nothing answers")
	}
	if s := c.Stats().Tiers[0]; far.asked() != "" || s.Refused < 2 {
		t.Errorf("it was asked: %+v", s)
	}
}

// Of a build that asks for everything at eight places at a time, a store that hangs
// from the start, or from its middle on, costs one time-out.
func TestHangingStoreCostsOneTimeout(t *testing.T) {
	const limit = 2 * time.Second
	for what, before := range map[string]int{"from the start": 0, "in the middle": 20} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				alice := testSigner(t, "alice")
				hanging, well := &recorder{Store: store.NewMemory(0)}, &recorder{Store: store.NewMemory(0)}
				e, blobs := testEntry("a.c", []byte("object"))
				fill(t, well, alice, e, blobs)
				fill(t, hanging, alice, e, blobs)
				var calls atomic.Int64
				hanging.set(func(ctx context.Context, _ string) error {
					if calls.Add(1) <= int64(before) {
						return nil
					}
					<-ctx.Done()
					return ctx.Err()
				})
				guard := store.Guard(hanging, store.GuardOptions{Read: limit, FirstProbe: time.Hour})
				defer func() { _ = guard.Close() }() // the memory's, which cannot fail
				c := newCache(t, Options{Signer: alice, Tiers: []Tier{{Name: "near", Store: guard, Write: true}, {Name: "far", Store: well}}})
				begin := time.Now()
				var build sync.WaitGroup
				for i := range 8 {
					build.Go(func() {
						for j := range 30 {
							manifest := testManifest
							if j%2 == 1 {
								manifest = digest.NewKey(fmt.Sprint(i, j)).Sum()
							}
							known(t.Context(), c, manifest)
							same(t, c.Result(t.Context(), e.Action.Key()), e, blobs)
							other, otherBlobs := testEntry(fmt.Sprint(i, j, ".c"), []byte("object"))
							c.Result(t.Context(), other.Action.Key())
							c.Put(manifest, "", other, otherBlobs)
						}
					})
				}
				build.Wait()
				if took := time.Since(begin); took > limit {
					t.Errorf("it took %v", took)
				}
				if s := c.Stats().Tiers[0]; s.State != StateAway || s.Timeouts == 0 || s.Dropped == 0 {
					t.Errorf("counted %+v", s)
				}
			})
		})
	}
}

// A tier that may not be written is read, and has nothing queued.
func TestDenied(t *testing.T) {
	alice := testSigner(t, "alice")
	far := &recorder{Store: store.NewMemory(0)}
	e, blobs := testEntry("a.c", []byte("object"))
	fill(t, far, alice, e, blobs)
	far.set(func(_ context.Context, call string) error {
		if strings.HasPrefix(call, "put") {
			return store.ErrDenied
		}
		return nil
	})
	guard := store.Guard(far, store.GuardOptions{Read: time.Hour, Write: time.Hour, FirstProbe: time.Hour})
	t.Cleanup(func() { _ = guard.Close() }) // the memory's, which cannot fail
	c := newCache(t, Options{Tiers: tierOf(guard), Signer: alice})
	other, otherBlobs := testEntry("b.c", []byte("object"))
	for range 3 {
		c.Put(testManifest, "", other, otherBlobs)
		drain(t, c)
	}
	same(t, c.Result(withPatience(t), e.Action.Key()), e, blobs)
	if s := c.Stats().Tiers[0]; s.State != StateDenied || s.Dropped != 3 || s.Hits != 1 || strings.Count(far.asked(), "put result") != 2 {
		t.Errorf("counted %+v", s)
	}
}

// A store that nobody guards is asked again each time; its errors are logged once.
func TestUnguarded(t *testing.T) {
	alice := testSigner(t, "alice")
	far := &recorder{Store: store.NewMemory(0)}
	e, blobs := testEntry("a.c", []byte("object"))
	fill(t, far, alice, e, blobs)
	far.set(func(context.Context, string) error {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, context.DeadlineExceeded)
	})
	seen := &records{}
	c := newCache(t, Options{Tiers: tierOf(far), Signer: alice, Log: slog.New(seen)})
	for range 3 {
		if c.Result(withPatience(t), e.Action.Key()) != nil {
			t.Error("found where nothing answers")
		}
	}
	if s := c.Stats().Tiers[0]; s.State != StateFailing || s.Why == "" || s.Errors != 3 || s.Timeouts != 3 || s.Misses != 3 || seen.of("shared-cache-error") != 1 {
		t.Errorf("counted %+v, logged %q", s, seen.list)
	}
	far.set(nil)
	same(t, c.Result(withPatience(t), e.Action.Key()), e, blobs)
	if s := c.Stats().Tiers[0]; s.State != StateOK || s.Why != "" {
		t.Errorf("counted %+v", s)
	}
}

// Under encryption, too, what somebody put in an object's place makes place.
func TestSealedStore(t *testing.T) {
	alice := testSigner(t, "alice")
	bucket := store.NewMemory(0)
	far, err := store.Sealed(bucket, make([]byte, store.SealKeySize))
	if err != nil {
		t.Fatal(err)
	}
	alice.packed = 1000
	e, blobs := testEntry("a.c", []byte("object"), noise(2000, 1))
	fill(t, far, alice, e, blobs)
	var names []string
	err = bucket.List(t.Context(), "", func(i store.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil || len(names) != 3 {
		t.Fatalf("%q, %v", names, err)
	}
	c := newCache(t, Options{Tiers: tierOf(far), Signer: alice})
	ctx := withPatience(t)
	same(t, c.Result(ctx, e.Action.Key()), e, blobs)
	for _, name := range names {
		put(t, bucket, name, []byte("what is not encrypted"))
	}
	if known(ctx, c, testManifest) != nil || c.Result(ctx, e.Action.Key()) != nil {
		t.Error("a tampered object was found")
	}
	c.Put(testManifest, "", e, blobs)
	drain(t, c)
	c.Result(ctx, e.Action.Key()) // notices the blob
	c.Put(testManifest, "", e, blobs)
	drain(t, c)
	same(t, c.Result(ctx, e.Action.Key()), e, blobs)
	if s := c.Stats().Tiers[0]; known(ctx, c, testManifest) == nil || s.Rejected[ReasonDamaged] == 0 || s.Replaced != 1 || s.Dropped != 0 {
		t.Errorf("counted %+v", s)
	}
}
