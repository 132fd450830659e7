package shared

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// recorder is a store that tells what it was asked, and does as it is told.
type recorder struct {
	store.Store
	mu    sync.Mutex
	calls []string
	// before, if set, is called before each call; its error is the call's.
	before func(ctx context.Context, call string) error
}

func (r *recorder) call(ctx context.Context, what, name string) error {
	parts := strings.Split(name, "/")
	what += " " + parts[1]
	r.mu.Lock()
	r.calls = append(r.calls, what)
	before := r.before
	r.mu.Unlock()
	if before != nil {
		return before(ctx, what)
	}
	return nil
}

// asked returns the calls since it was called last.
func (r *recorder) asked() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.calls = nil }()
	return strings.Join(r.calls, ", ")
}

func (r *recorder) set(before func(ctx context.Context, call string) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = before
}

func (r *recorder) Get(ctx context.Context, name string, limit int64) (store.Object, error) {
	if err := r.call(ctx, "get", name); err != nil {
		return store.Object{}, err
	}
	return r.Store.Get(ctx, name, limit)
}

func (r *recorder) Put(ctx context.Context, name string, body []byte, when store.Condition) (store.Version, error) {
	if err := r.call(ctx, "put", name); err != nil {
		return "", err
	}
	return r.Store.Put(ctx, name, body, when)
}

func (r *recorder) Stat(ctx context.Context, name string) (store.Info, error) {
	if err := r.call(ctx, "stat", name); err != nil {
		return store.Info{}, err
	}
	return r.Store.Stat(ctx, name)
}

func (r *recorder) Touch(ctx context.Context, name string) error {
	if err := r.call(ctx, "touch", name); err != nil {
		return err
	}
	return r.Store.Touch(ctx, name)
}

var testManifest = digest.NewKey("manifest").Sum()

// known is all that the tiers have under a key; nil for nothing.
func known(ctx context.Context, c *Cache, key digest.Key) *action.Manifest {
	var all *action.Manifest
	for m := range c.Manifests(ctx, key) {
		if all == nil {
			all = m
			continue
		}
		all.Preprocess += m.Preprocess
		all.Candidates = append(all.Candidates, m.Candidates...)
	}
	return all
}

// fill puts one result into a store.
func fill(t testing.TB, s store.Store, by *Signer, e *action.Entry, blobs map[digest.Digest][]byte) {
	t.Helper()
	c := newCache(t, Options{Tiers: tierOf(s), Signer: by})
	c.Put(testManifest, "", e, blobs)
	drain(t, c)
	if st := c.Stats().Tiers[0]; st.Written != 1 || st.Dropped != 0 {
		t.Fatalf("counted %+v", st)
	}
}

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

func waitFor(t testing.TB, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
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
