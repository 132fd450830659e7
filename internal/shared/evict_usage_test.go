package shared

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hpcc.dev/hpcc/internal/store"
)

// TestListingFails: half a listing tells nothing, so that nothing goes.
func TestListingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fill()
		c := w.client("a")
		fails := 0
		c.listed = func(n int) error {
			if n == 60 {
				fails++
				return store.ErrUnavailable
			}
			return nil
		}
		e := c.evictor(50_000)
		if r, err := e.Sweep(t.Context(), SweepOptions{}); !errors.Is(err, store.ErrUnavailable) || r.Removed != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		if u := w.usage(); !u.Listed.IsZero() || w.sized() != 100_000 {
			t.Errorf("estimate %+v, size %d", u, w.sized())
		}
		// In the background it is tried less and less often.
		for range 24 * 60 {
			e.Wrote(64 << 10)
			time.Sleep(time.Minute)
		}
		if fails < 10 || fails > 40 {
			t.Errorf("%d listings in a day", fails)
		}
		if s := e.Stats(); s.Error == "" || s.Removed != 0 {
			t.Errorf("%+v", s)
		}
		// The lock is free, and once the store answers all is well.
		c.listed = nil
		time.Sleep(time.Hour)
		e.Wrote(64 << 10)
		synctest.Wait()
		if s := e.Stats(); s.Error != "" || w.sized() != 45_000 {
			t.Errorf("%+v, size %d", s, w.sized())
		}
		closeEvictor(t, e)
	})
}

// TestRemovalFails: a client that may not remove says so, and the estimate is right.
func TestRemovalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.fill()
		c := w.client("a")
		c.before = func(call, _ string) error {
			if call == "delete" {
				return store.ErrDenied
			}
			return nil
		}
		e := c.evictor(50_000)
		defer closeEvictor(t, e)
		if r, err := e.Sweep(t.Context(), SweepOptions{}); !errors.Is(err, store.ErrDenied) || r.Removed != 0 {
			t.Errorf("%+v, %v", r, err)
		}
		if u := w.usage(); u.Bytes != 100_000 {
			t.Errorf("%+v", u)
		}
		// It does not keep others from it.
		other := w.client("b").evictor(50_000)
		defer closeEvictor(t, other)
		if r, err := other.Sweep(t.Context(), SweepOptions{}); err != nil || r.Removed != 55 {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// TestEstimate: steps of all clients add up, the rest comes with Close.
func TestEstimate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const maxBytes, each = 1 << 30, 3<<20 + 12345
		seed := w.client("seed").evictor(maxBytes)
		if _, err := seed.Sweep(t.Context(), SweepOptions{}); err != nil {
			t.Fatal(err)
		}
		closeEvictor(t, seed)
		var work sync.WaitGroup
		evictors := make([]*Evictor, 20)
		for i := range evictors {
			evictors[i] = w.client(fmt.Sprint(i)).evictor(maxBytes)
			work.Go(func() {
				for range 100 {
					evictors[i].Wrote(each / 100)
				}
				evictors[i].Wrote(each - each/100*100)
				evictors[i].Wrote(0)
				evictors[i].Wrote(-5)
			})
		}
		work.Wait()
		time.Sleep(time.Minute)
		u := w.usage()
		if u.Bytes > 20*each || u.Bytes < 20*(each-evictors[0].step) {
			t.Errorf("estimate %d of %d", u.Bytes, 20*each)
		}
		for _, e := range evictors {
			closeEvictor(t, e)
			e.Wrote(1 << 40) // too late: nothing comes of it
			closeEvictor(t, e)
		}
		if u := w.usage(); u.Bytes != 20*each {
			t.Errorf("in the end %d of %d", u.Bytes, 20*each)
		}
	})
}

// TestOddState: whatever stands in the two objects, eviction goes on.
func TestOddState(t *testing.T) {
	for what, body := range map[string]string{
		"text": "hello", "empty": "", "null": "null", "list": "[]", "negative": `{"bytes":-1,"seconds":-1,"owner":"x"}`,
		"huge":    `{"bytes":9223372036854775807,"listed":"2999-01-01T00:00:00Z","seconds":9223372036854775807,"owner":"x"}`,
		"long":    strings.Repeat(" ", 5000),
		"control": `{"owner":"` + strings.Repeat("\u001b[31m", 50) + `","seconds":100}`,
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.fill()
				c := w.client("a")
				for _, name := range []string{"t/usage", "t/lock/evict"} {
					if _, err := c.Put(t.Context(), name, []byte(body), store.Condition{}); err != nil {
						t.Fatal(err)
					}
				}
				e := c.evictor(50_000)
				defer closeEvictor(t, e)
				deadline := time.Now().Add(maxLease + time.Minute)
				for w.sized() > 50_000 && time.Now().Before(deadline) {
					e.Wrote(64 << 10)
					time.Sleep(time.Second)
				}
				if w.sized() != 45_000 {
					t.Fatalf("size %d, %+v", w.sized(), e.Stats())
				}
				if u := w.usage(); u.Bytes < 45_000 || u.Bytes > 45_000+100*(64<<10)*10 {
					t.Errorf("%+v", u)
				}
			})
		})
	}
}

func TestPercent(t *testing.T) {
	for _, n := range []int64{0, 1, 99, 100, 12345, 1 << 40, 1 << 62 / 2} {
		for _, p := range []int64{lowWater, highWater} {
			if got, want := percent(n, p), int64(float64(n)*float64(p)/100); max(got-want, want-got) > 1+n/1e12 {
				t.Errorf("%d %% of %d is %d, want %d", p, n, got, want)
			}
		}
	}
}

func FuzzEvictState(f *testing.F) {
	f.Add([]byte(`{"bytes":5,"listed":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"owner":"x","seconds":120,"turn":3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		u, l := decodeUsage(b), decodeLock(b)
		if u.Bytes < 0 || l.Seconds < 0 || l.Seconds > int64(maxLease/time.Second) {
			t.Errorf("%+v, %+v", u, l)
		}
		if text, err := json.Marshal(u); err != nil {
			t.Error(err)
		} else if again := decodeUsage(text); again.Bytes != u.Bytes || !again.Listed.Equal(u.Listed) {
			t.Errorf("%+v came back as %+v", u, again)
		}
	})
}
