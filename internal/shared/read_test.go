package shared

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

func TestRequests(t *testing.T) {
	alice := testSigner(t, "alice")
	trust := (*Trust)(nil).With(alice)
	far := &recorder{Store: store.NewMemory(0)}
	small, smallBlobs := testEntry("small.c", []byte("object"), []byte("dwo"))
	writer := newCache(t, Options{Tiers: tierOf(far), Signer: alice, MemoryBytes: 1 << 20})
	reader := newCache(t, Options{Tiers: tierOf(far), Trust: trust, MemoryBytes: 1 << 20})
	without := newCache(t, Options{Tiers: tierOf(far), Trust: trust})
	key := small.Action.Key()
	ctx := withPatience(t)

	step := func(what, want string) {
		t.Helper()
		if got := far.asked(); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	if m := known(ctx, writer, testManifest); m != nil {
		t.Errorf("%+v", m)
	}
	step("a miss", "get manifest")
	writer.Put(testManifest, "", small, smallBlobs)
	drain(t, writer)
	step("its write", "put result, put manifest")
	if m := known(ctx, writer, testManifest); m == nil || len(m.Candidates) != 1 {
		t.Errorf("one's own write is not seen: %+v", m)
	}
	step("a look at one's own write", "")

	if m := known(ctx, reader, testManifest); m == nil || m.Candidates[0].Action != key || m.Candidates[0].StdioContext != "context" {
		t.Fatalf("%+v", m)
	}
	same(t, reader.Result(ctx, key), small, smallBlobs)
	step("a hit", "get manifest, get result")
	known(ctx, reader, testManifest)
	if f := reader.Result(ctx, key); f == nil || f.Tier != "memory" {
		t.Errorf("%+v", f)
	}
	step("a second hit", "")
	known(ctx, without, testManifest)
	same(t, without.Result(ctx, key), small, smallBlobs)
	same(t, without.Result(ctx, key), small, smallBlobs)
	step("hits without memory", "get manifest, get result, get result")

	// The same once more: nothing is sent that is there.
	writer.Put(testManifest, "", small, smallBlobs)
	drain(t, writer)
	step("a write of what is there", "put result, get result, get manifest")

	large, largeBlobs := testEntry("large.c", noise(maxPacked+1, 1), []byte("dwo"))
	writer.Put(testManifest, "", large, largeBlobs)
	drain(t, writer)
	step("a large write", "stat blob, put blob, put result, get manifest, put manifest")
	same(t, reader.Result(ctx, large.Action.Key()), large, largeBlobs)
	step("a large hit", "get result, get blob")

	if f := reader.Result(ctx, digest.NewKey("none").Sum()); f != nil {
		t.Errorf("%+v", f)
	}
	s := reader.Stats()
	if ts := s.Tiers[0]; ts.Hits != 2 || ts.Misses != 1 || ts.ManifestHits != 1 || ts.BytesIn < maxPacked || ts.BytesOut != 0 || ts.Errors != 0 || len(ts.Rejected) != 0 {
		t.Errorf("counted %+v", ts)
	}
	if s.Memory.Hits != 1 || s.Memory.ManifestHits != 1 || s.Memory.Bytes == 0 {
		t.Errorf("counted %+v", s.Memory)
	}
	if b, err := json.Marshal(s); err != nil || !strings.Contains(string(b), `"state":"ok"`) {
		t.Errorf("%s, %v", b, err)
	}
}

// A manifest in memory is believed for a short while, and that there is none for a
// shorter one.
func TestManifestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := testSigner(t, "alice")
		far := &recorder{Store: store.NewMemory(0)}
		c := newCache(t, Options{Tiers: tierOf(far), Trust: (*Trust)(nil).With(alice), MemoryBytes: 1 << 20})
		ctx := t.Context()
		known(ctx, c, testManifest)
		known(ctx, c, testManifest)
		if got := far.asked(); got != "get manifest" {
			t.Errorf("%q", got)
		}
		e, blobs := testEntry("a.c")
		fill(t, far, alice, e, blobs)
		far.asked()
		time.Sleep(absenceLife)
		m := known(ctx, c, testManifest)
		if m == nil || far.asked() != "get manifest" {
			t.Fatal("still absent")
		}
		// It is the caller's to change.
		m.Add(action.Candidate{Action: digest.NewKey("mine").Sum()})
		m.Preprocess = "mine"
		time.Sleep(manifestLife - time.Second)
		if m := known(ctx, c, testManifest); len(m.Candidates) != 1 || m.Preprocess != "" || far.asked() != "" {
			t.Errorf("%+v", m)
		}
		time.Sleep(time.Second)
		if known(ctx, c, testManifest); far.asked() != "get manifest" {
			t.Error("it is believed for ever")
		}
	})
}

// What a use finds older than a day is touched, once, and not on tiers that are
// only read.
func TestTouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := testSigner(t, "alice")
		e, blobs := testEntry("a.c", noise(maxPacked+1, 1))
		for _, write := range []bool{false, true} {
			far := &recorder{Store: store.NewMemory(0)}
			fill(t, far, alice, e, blobs)
			c := newCache(t, Options{Trust: (*Trust)(nil).With(alice), Tiers: []Tier{{Name: "far", Store: far, Write: write}}})
			use := func() string {
				t.Helper()
				far.asked()
				known(t.Context(), c, testManifest)
				same(t, c.Result(t.Context(), e.Action.Key()), e, blobs)
				drain(t, c)
				all := strings.Split(far.asked(), ", ")
				slices.Sort(all)
				return strings.Join(all, ", ")
			}
			const reads = "get blob, get manifest, get result"
			if got := use(); got != reads {
				t.Errorf("fresh: %q", got)
			}
			time.Sleep(touchAfter)
			want := reads
			if write {
				want += ", touch blob, touch manifest, touch result"
			}
			if got := use(); got != want {
				t.Errorf("old, write %v: %q", write, got)
			}
			if write {
				if got := use(); got != reads || c.Stats().Tiers[0].Touched != 3 {
					t.Errorf("touched: %q", got)
				}
			}
		}
	})
}

// A revocation counts for what is in memory, too.
func TestRevokedInMemory(t *testing.T) {
	alice := testSigner(t, "alice")
	far := store.NewMemory(0)
	e, blobs := testEntry("a.c", []byte("object"))
	fill(t, far, alice, e, blobs)
	trust := trustOf(t, false, alice.Line(RoleWorker))
	c := newCache(t, Options{Tiers: tierOf(far), Trust: trust, MemoryBytes: 1 << 20})
	ctx := withPatience(t)
	same(t, c.Result(ctx, e.Action.Key()), e, blobs)
	if f := c.Result(ctx, e.Action.Key()); f.Tier != "memory" {
		t.Fatalf("from %s", f.Tier)
	}
	now := time.Now().Add(time.Hour)
	trust.file.mu.Lock()
	trust.file.now = func() time.Time { return now }
	trust.file.mu.Unlock()
	if err := os.WriteFile(trust.file.path, []byte(alice.Line(RoleWorker)+" revoked"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f := c.Result(ctx, e.Action.Key()); f != nil {
		t.Errorf("from %s", f.Tier)
	}
	if s := c.Stats(); s.Tiers[0].Rejected[ReasonRevoked] != 2 || s.Memory.Bytes != 0 {
		t.Errorf("counted %+v", s)
	}
}

// One read serves all that ask at a time, and goes on for those that stay.
func TestSingleFlight(t *testing.T) {
	alice := testSigner(t, "alice")
	far := &recorder{Store: store.NewMemory(0)}
	e, blobs := testEntry("a.c", []byte("object"))
	fill(t, far, alice, e, blobs)
	far.asked()
	c := newCache(t, Options{Tiers: tierOf(far), Trust: (*Trust)(nil).With(alice)})
	started, goOn := make(chan struct{}), make(chan struct{})
	far.set(func(ctx context.Context, _ string) error {
		close(started)
		select {
		case <-goOn:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})

	impatient, giveUp := context.WithCancel(t.Context())
	var first *Fetched
	var gone, stayed sync.WaitGroup
	gone.Go(func() { first = c.Result(impatient, e.Action.Key()) })
	<-started
	results := make([]*Fetched, 20)
	for i := range results {
		stayed.Go(func() { results[i] = c.Result(withPatience(t), e.Action.Key()) })
	}
	waitFor(t, func() bool {
		c.results.mu.Lock()
		defer c.results.mu.Unlock()
		return c.results.active[ResultName("default", e.Action.Key())].waiting == 1+len(results)
	})
	giveUp()
	gone.Wait()
	close(goOn)
	stayed.Wait()
	if first != nil {
		t.Error("who gave up got a result")
	}
	for _, f := range results {
		same(t, f, e, blobs)
	}
	if got := far.asked(); got != "get result" {
		t.Errorf("%q", got)
	}

	// Once all have given up, so does the read.
	ended := make(chan struct{})
	started = make(chan struct{})
	far.set(func(ctx context.Context, _ string) error {
		close(started)
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	gone.Go(func() { known(ctx, c, testManifest) })
	<-started
	cancel()
	gone.Wait()
	select {
	case <-ended:
	case <-withPatience(t).Done():
		t.Error("the read goes on")
	}
	if s := c.Stats().Tiers[0]; s.Errors != 0 {
		t.Errorf("a caller's end is an error of the tier's: %+v", s)
	}
	far.set(nil)
	if m := known(withPatience(t), c, testManifest); m == nil {
		t.Error("who came later got what was cut short")
	}
}

// A manifest of which not all is known is not remembered for long, and that a tier
// failed is not taken for an absence.
func TestHalfKnownManifest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := testSigner(t, "alice")
		near, far := &recorder{Store: store.NewMemory(0)}, &recorder{Store: store.NewMemory(0)}
		a, blobs := testEntry("a.c")
		fill(t, near, alice, a, blobs)
		b, blobs := testEntry("b.c")
		fill(t, far, alice, b, blobs)
		far.set(func(context.Context, string) error { return store.ErrUnavailable })
		c := newCache(t, Options{MemoryBytes: 1 << 20, Signer: alice, Tiers: []Tier{{Name: "near", Store: near}, {Name: "far", Store: far, Write: true}}})
		if m := known(t.Context(), c, testManifest); m == nil || len(m.Candidates) != 1 {
			t.Fatalf("%+v", m)
		}
		far.set(nil)
		time.Sleep(absenceLife)
		if m := known(t.Context(), c, testManifest); m == nil || len(m.Candidates) != 2 {
			t.Fatalf("%+v", m)
		}
	})
}

// What is used seldom makes place in memory.
func TestMemoryIsBounded(t *testing.T) {
	alice := testSigner(t, "alice")
	far := store.NewMemory(0)
	w := newCache(t, Options{Tiers: tierOf(far), Signer: alice})
	const size = 100_000
	r := newCache(t, Options{Tiers: tierOf(far), Trust: (*Trust)(nil).With(alice), MemoryBytes: 4 * size})
	var keys []digest.Key
	for i := range 6 {
		e, blobs := testEntry(fmt.Sprint(i, ".c"), noise(size, byte(i)))
		w.Put(digest.NewKey(fmt.Sprint(i)).Sum(), "", e, blobs)
		keys = append(keys, e.Action.Key())
	}
	drain(t, w)
	ctx := withPatience(t)
	tier := func(i int) string { return r.Result(ctx, keys[i]).Tier }
	for i := range keys {
		tier(i)
		if i > 0 && tier(0) == "far" {
			t.Errorf("what is used always was forgotten after %d", i)
		}
		if s := r.Stats().Memory; s.Bytes > s.MaxBytes {
			t.Errorf("counted %+v", s)
		}
	}
	if tier(1) != "far" {
		t.Error("nothing was forgotten")
	}
}
