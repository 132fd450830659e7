package shared

import (
	"context"
	"errors"
	"fmt"
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

// takes has every call of a store last d.
func takes(d time.Duration) func(context.Context, string) error {
	return func(ctx context.Context, _ string) error { return sleep(ctx, d) }
}

// A look-up that a near tier answers waits for no other, and asks none; one that
// goes on asks each tier once.
func TestNearestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alice := testSigner(t, "alice")
		near, far := &recorder{Store: store.NewMemory(0)}, &recorder{Store: store.NewMemory(0)}
		both, bothBlobs := testEntry("both.c", []byte("both"))
		only, onlyBlobs := testEntry("only.c", []byte("only"))
		fill(t, near, alice, both, bothBlobs)
		fill(t, far, alice, both, bothBlobs)
		fill(t, far, alice, only, onlyBlobs)
		near.asked()
		far.asked()
		near.set(takes(time.Millisecond))
		far.set(takes(time.Second))
		c := newCache(t, Options{
			Trust: (*Trust)(nil).With(alice), MemoryBytes: 1 << 20,
			Tiers: []Tier{{Name: "near", Store: near}, {Name: "far", Store: far}},
		})
		step := func(what string, begun time.Time, took time.Duration, ofNear, ofFar string) {
			t.Helper()
			if d, n, f := time.Since(begun), near.asked(), far.asked(); d != took || n != ofNear || f != ofFar {
				t.Errorf("%s: took %v, near %q, far %q", what, d, n, f)
			}
		}

		begun := time.Now()
		for m := range c.Manifests(t.Context(), testManifest) {
			if len(m.Candidates) != 1 || m.Candidates[0].Action != both.Action.Key() {
				t.Fatalf("%+v", m)
			}
			same(t, c.Result(t.Context(), both.Action.Key()), both, bothBlobs)
			break
		}
		step("a near hit", begun, 2*time.Millisecond, "get manifest, get result", "")

		begun = time.Now()
		for range 2 {
			var got []digest.Key
			for m := range c.Manifests(t.Context(), testManifest) {
				for _, candidate := range m.Candidates {
					got = append(got, candidate.Action)
				}
			}
			if !slices.Equal(got, []digest.Key{both.Action.Key(), only.Action.Key()}) {
				t.Errorf("%v", got)
			}
		}
		step("all there is, twice", begun, time.Second, "", "get manifest")

		begun = time.Now()
		same(t, c.Result(t.Context(), only.Action.Key()), only, onlyBlobs)
		step("a far hit", begun, time.Second+time.Millisecond, "get result", "get result")

		// Several that go through it at a time share the answers.
		time.Sleep(manifestLife)
		begun = time.Now()
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if m := known(t.Context(), c, testManifest); m == nil || len(m.Candidates) != 2 {
					t.Errorf("%+v", m)
				}
			})
		}
		all.Wait()
		step("ten at a time", begun, time.Second+time.Millisecond, "get manifest", "get manifest")

		// Nobody is asked for who has given up.
		time.Sleep(manifestLife)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		begun = time.Now()
		for range c.Manifests(ctx, testManifest) {
			cancel()
		}
		step("a caller that ends", begun, time.Millisecond, "get manifest", "")
	})
}

// Each manifest has what those of nearer tiers had not, and together they are no
// larger than one.
func TestManifestsAreJoined(t *testing.T) {
	numbered := func(word string, from, to int) *action.Manifest {
		m := &action.Manifest{Preprocess: word}
		for i := from; i < to; i++ {
			m.Candidates = append(m.Candidates, action.Candidate{Action: digest.NewKey(fmt.Sprint(i)).Sum()})
		}
		return m
	}
	const most = action.MaxCandidates
	for what, test := range map[string]struct {
		tiers []*action.Manifest // nil: it fails
		want  []*action.Manifest
	}{
		"nothing":           {[]*action.Manifest{nil, {}, nil}, nil},
		"what near has":     {[]*action.Manifest{numbered("", 0, 3), numbered("", 1, 3)}, []*action.Manifest{numbered("", 0, 3)}},
		"what far has more": {[]*action.Manifest{numbered("", 0, 3), nil, numbered("", 1, 5)}, []*action.Manifest{numbered("", 0, 3), numbered("", 3, 5)}},
		"one candidate twice": {
			[]*action.Manifest{{Candidates: slices.Repeat(numbered("", 0, 1).Candidates, 3)}, numbered("", 0, 2)},
			[]*action.Manifest{numbered("", 0, 1), numbered("", 1, 2)},
		},
		"the nearest word": {[]*action.Manifest{numbered("", 0, 1), numbered("near", 0, 1), numbered("far", 1, 2)},
			[]*action.Manifest{numbered("", 0, 1), numbered("near", 0, 0), numbered("", 1, 2)}},
		"words alone": {[]*action.Manifest{numbered("near", 0, 0), numbered("far", 0, 0)}, []*action.Manifest{numbered("near", 0, 0)}},
		"too many": {[]*action.Manifest{numbered("", 0, most-1), numbered("", most, most+2), numbered("word", most+2, most+9)},
			[]*action.Manifest{numbered("", 0, most-1), numbered("", most, most+1), numbered("word", 0, 0)}},
	} {
		t.Run(what, func(t *testing.T) {
			var tiers []Tier
			for i, m := range test.tiers {
				r := &recorder{Store: store.NewMemory(0)}
				if m == nil {
					r.set(func(context.Context, string) error { return store.ErrUnavailable })
				} else {
					body, err := sealManifest(testManifest, m)
					if err != nil {
						t.Fatal(err)
					}
					put(t, r, ManifestName(DefaultTenant, testManifest), body)
				}
				tiers = append(tiers, Tier{Name: fmt.Sprint("t", i), Store: r})
			}
			say := func(list []*action.Manifest) string {
				var b strings.Builder
				for _, m := range list {
					fmt.Fprintf(&b, "%q", m.Preprocess)
					for i := range m.Candidates {
						fmt.Fprint(&b, " ", m.Candidates[i].Action.String()[:8])
					}
					b.WriteByte('\n')
				}
				return b.String()
			}
			// Asked, and from memory.
			c := newCache(t, Options{Tiers: tiers, MemoryBytes: 1 << 20})
			for range 2 {
				got := slices.Collect(c.Manifests(withPatience(t), testManifest))
				if say(got) != say(test.want) {
					t.Errorf("got\n%swant\n%s", say(got), say(test.want))
				}
			}
		})
	}
}

// What one has written oneself is seen at once, in each tier that is written.
func TestOwnWritesAreRemembered(t *testing.T) {
	alice := testSigner(t, "alice")
	stores := make([]*recorder, 3)
	tiers := make([]Tier, len(stores))
	for i := range stores {
		stores[i] = &recorder{Store: store.NewMemory(0)}
		tiers[i] = Tier{Name: fmt.Sprint("t", i), Store: stores[i], Write: i > 0}
	}
	c := newCache(t, Options{Tiers: tiers, Signer: alice, MemoryBytes: 1 << 20})
	ctx := withPatience(t)
	if m := known(ctx, c, testManifest); m != nil {
		t.Fatalf("%+v", m)
	}
	e, blobs := testEntry("a.c", []byte("object"))
	c.Put(testManifest, "", e, blobs)
	c.Mark(testManifest, "roots")
	drain(t, c)
	for i, s := range stores {
		if asked := s.asked(); !strings.HasPrefix(asked, "get manifest") || strings.Contains(asked, "put") != (i > 0) {
			t.Errorf("tier %d: %q", i, asked)
		}
	}
	got := slices.Collect(c.Manifests(ctx, testManifest))
	if len(got) != 1 || len(got[0].Candidates) != 1 || got[0].Candidates[0].Action != e.Action.Key() || got[0].Preprocess != "roots" {
		t.Errorf("%+v", got)
	}
	for i, s := range stores {
		if asked := s.asked(); asked != "" {
			t.Errorf("tier %d: %q", i, asked)
		}
	}
}

// A large body that a guard lets go on over a narrow network is not cut short above.
func TestLargeBodyIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 100 << 20
		far := &recorder{Store: store.NewMemory(0)}
		far.set(takes(100 * time.Second)) // a MiB a second
		guard := store.Guard(far, store.GuardOptions{})
		defer guard.Close()
		c := newCache(t, Options{Tiers: tierOf(guard)})
		name := BlobName(DefaultTenant, digest.Of([]byte("large")))
		if err := c.tiers[0].put(t.Context(), name, make([]byte, size), store.Condition{Absent: true}); err != nil {
			t.Error(err)
		}
		if s := c.Stats().Tiers[0]; s.State != StateOK || s.BytesOut != size || s.Errors != 0 {
			t.Errorf("counted %+v", s)
		}
		// One that is slower than that is, by the guard.
		far.set(takes(106 * time.Second))
		if err := c.tiers[0].put(t.Context(), name, make([]byte, size), store.Condition{}); !errors.Is(err, store.ErrUnavailable) {
			t.Error(err)
		}
		if s := c.Stats().Tiers[0]; s.Timeouts != 1 {
			t.Errorf("counted %+v", s)
		}
	})
}
