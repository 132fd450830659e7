package shared

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

func TestSweepRemovesTheOldest(t *testing.T) {
	for _, skew := range []time.Duration{0, -20 * 24 * time.Hour, 300 * 24 * time.Hour} {
		for _, remember := range []int{maxCandidates, 7} {
			t.Run(fmt.Sprint(skew, remember), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.skew = skew
					names := w.fill()
					e := w.client("a").evictor(50_000)
					e.remember = remember
					defer closeEvictor(t, e)
					r, err := e.Sweep(t.Context(), SweepOptions{})
					if err != nil {
						t.Fatal(err)
					}
					// 45 are left: all but the 55 oldest.
					now := w.names()
					for i, name := range names {
						if got, want := slices.Contains(now, name), i < 45; got != want {
							t.Errorf("%s, %d hours old: there %v, want %v", name, i, got, want)
						}
					}
					w.checkForeign()
					if r.Objects != 100 || r.Bytes != 100_000 || r.Removed != 55 || r.Left() != 45_000 || r.Foreign != 5 || r.FreshBytes == 0 {
						t.Errorf("%+v", r)
					}
					if u := w.usage(); u.Bytes != 45_000 || u.Listed.IsZero() {
						t.Errorf("estimate %+v", u)
					}
					if again, err := e.Sweep(t.Context(), SweepOptions{}); err != nil || again.Removed != 0 {
						t.Errorf("a second sweep: %+v, %v", again, err)
					}
					// By age, below the size.
					if r, err := e.Sweep(t.Context(), SweepOptions{OlderThan: 30*time.Hour - time.Minute}); err != nil || r.Removed != 15 {
						t.Errorf("older than 30 h: %+v, %v", r, err)
					}
				})
			})
		}
	}
}

// TestSweepSparesFresh: where all that is too much is in use, nothing goes.
func TestSweepSparesFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range 100 {
			w.add(ResultName("t", keyOf(i)), 1000, time.Duration(i)*time.Minute/2)
		}
		e := w.client("a").evictor(50_000)
		defer closeEvictor(t, e)
		r, err := e.Sweep(t.Context(), SweepOptions{})
		if err != nil || r.Removed != 0 || r.FreshBytes != 100_000 {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// TestSweepSparesUsedMeanwhile: what is touched, or written anew, between the
// listing and the removal stays, and others go in its place.
func TestSweepSparesUsedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		names := w.fill()
		c := w.client("a")
		other := w.client("b")
		c.listed = func(n int) error {
			if n < 20 {
				return nil
			}
			c.listed = nil
			time.Sleep(2 * time.Second)
			for i := 90; i < 100; i++ {
				if err := other.Touch(t.Context(), names[i]); err != nil {
					t.Error(err)
				}
			}
			_, err := other.Put(t.Context(), names[89], make([]byte, 1000), store.Condition{})
			return err
		}
		// Those that are listed after this are fresh already, the others are found out.
		e := c.evictor(50_000)
		defer closeEvictor(t, e)
		r, err := e.Sweep(t.Context(), SweepOptions{})
		if err != nil || r.Removed != 55 || r.Left() != 45_000 || r.Spared == 0 {
			t.Errorf("%+v, %v", r, err)
		}
		for i := 89; i < 100; i++ {
			if !slices.Contains(w.names(), names[i]) {
				t.Errorf("%s, used meanwhile, is gone", names[i])
			}
		}
	})
}

// TestBlobGoesAfterItsPack: of a pack and the blob that was put just before it.
func TestBlobGoesAfterItsPack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		blob := BlobName("t", digest.Of([]byte("blob")))
		w.add(blob, 500, 10*time.Hour)
		w.add(ResultName("t", keyOf(1)), 500, 10*time.Hour-5*time.Second)
		w.add(ResultName("t", keyOf(2)), 500, 5*time.Hour)
		e := w.client("a").evictor(1200)
		defer closeEvictor(t, e)
		if r, err := e.Sweep(t.Context(), SweepOptions{}); err != nil || r.Removed != 1 || !slices.Contains(w.names(), blob) {
			t.Errorf("%+v, %v, left %q", r, err, w.names())
		}
	})
}

// TestEvictSealed: through encryption the same objects go, those of an older key as
// well, and nothing that is not sealed.
func TestEvictSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		seal := func(seed byte) store.Store {
			s, err := store.Sealed(w.client("a"), bytes.Repeat([]byte{seed}, store.SealKeySize))
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		old, now := seal(1), seal(2)
		for i := range 50 {
			if _, err := old.Put(t.Context(), ResultName("t", keyOf(i)), make([]byte, 900), store.Condition{}); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range foreign {
			w.add(name, 1000, 10000*time.Hour)
		}
		time.Sleep(10 * time.Hour)
		for i := range 50 {
			if _, err := now.Put(t.Context(), ResultName("t", keyOf(i)), make([]byte, 900), store.Condition{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		time.Sleep(2 * time.Hour)
		w.holder = "" // the lock's name is sealed, so the world cannot judge it
		e := evictorOver(t, sealedJudge{now, w}, 50_000, time.Hour)
		defer closeEvictor(t, e)
		r, err := e.Sweep(t.Context(), SweepOptions{})
		if err != nil || r.Objects != 100 || r.Left() > 45_000 || r.Left() < 43_000 {
			t.Fatalf("%+v, %v", r, err)
		}
		w.checkForeign()
		left := 0
		if err := now.List(t.Context(), "t/result/", func(info store.Info) error {
			if left++; store.IsSealedName(info.Name) {
				t.Errorf("%s of the old key is left", info.Name)
			}
			return nil
		}); err != nil || left == 0 {
			t.Errorf("%d left, %v", left, err)
		}
	})
}

// sealedJudge tells the world who holds the lease, which it cannot read.
type sealedJudge struct {
	store.Store
	w *world
}

func (s sealedJudge) Put(ctx context.Context, name string, body []byte, when store.Condition) (store.Version, error) {
	v, err := s.Store.Put(ctx, name, body, when)
	if name == "t/lock/evict" && err == nil {
		s.w.mu.Lock()
		s.w.holder, s.w.until = "a", time.Now().Add(time.Hour)
		s.w.mu.Unlock()
	}
	return v, err
}

func TestNewEvictor(t *testing.T) {
	for _, opt := range []EvictorOptions{{Tenant: "", MaxBytes: 1}, {Tenant: "A", MaxBytes: 1}, {Tenant: "t"}, {Tenant: "t", MaxBytes: -1}} {
		if _, err := NewEvictor(opt); err == nil {
			t.Errorf("%+v is taken", opt)
		}
	}
}
