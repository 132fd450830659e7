package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hpcc.dev/hpcc/internal/store"
)

// moody is a store whose answers a test chooses.
type moody struct {
	store.Store
	mu    sync.Mutex
	get   func(ctx context.Context) error // nil: well
	put   func(ctx context.Context) error
	calls int
}

func newMoody() *moody { return &moody{Store: store.NewMemory(0)} }

func (m *moody) set(get, put func(ctx context.Context) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.get, m.put = get, put
}

func (m *moody) called() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}

func (m *moody) do(ctx context.Context, mood func(m *moody) func(ctx context.Context) error) error {
	m.mu.Lock()
	m.calls++
	f := mood(m)
	m.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(ctx)
}

func (m *moody) Get(ctx context.Context, name string, limit int64) (store.Object, error) {
	if err := m.do(ctx, func(m *moody) func(context.Context) error { return m.get }); err != nil {
		return store.Object{}, err
	}
	return m.Store.Get(ctx, name, limit)
}

func (m *moody) Put(ctx context.Context, name string, body []byte, when store.Condition) (store.Version, error) {
	if err := m.do(ctx, func(m *moody) func(context.Context) error { return m.put }); err != nil {
		return "", err
	}
	return m.Store.Put(ctx, name, body, when)
}

// hangs is a store that never answers.
func hangs(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func fails(err error) func(context.Context) error {
	return func(context.Context) error { return fmt.Errorf("what happened: %w", err) }
}

// guarded runs f in a bubble with a guarded store.
func guarded(t *testing.T, f func(t *testing.T, m *moody, g *store.Guarded)) {
	synctest.Test(t, func(t *testing.T) {
		m := newMoody()
		g := store.Guard(m, store.GuardOptions{})
		defer g.Close()
		f(t, m, g)
	})
}

// get reads and says how long it took.
func get(t *testing.T, g *store.Guarded) (time.Duration, error) {
	began := time.Now()
	_, err := g.Get(t.Context(), "name", 10)
	return time.Since(began), err
}

func TestDeadStoreCostsOneTimeout(t *testing.T) {
	guarded(t, func(t *testing.T, m *moody, g *store.Guarded) {
		m.set(hangs, hangs)
		began := time.Now()
		var all sync.WaitGroup
		// Fifty callers, who come one after the other within the first time-out and
		// ask for twenty things each.
		for i := range 50 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 40 * time.Millisecond)
				for range 10 {
					if _, err := get(t, g); !errors.Is(err, store.ErrUnavailable) {
						t.Error(err)
					}
					if _, err := g.Put(t.Context(), "name", nil, store.Condition{}); !errors.Is(err, store.ErrUnavailable) {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if d := time.Since(began); d != 2*time.Second {
			t.Errorf("all took %v", d)
		}
		s := g.State()
		if !s.Away || s.Timeouts != 1 || s.Cut != 49 || s.Calls != 50 || s.Refused != 950 || s.Errors != 0 {
			t.Errorf("%#v", s)
		}
		var away *store.AwayError
		if _, err := get(t, g); !errors.As(err, &away) || away.Until.Sub(away.Since) != 5*time.Second {
			t.Errorf("%v", err)
		}
		if want := "away since 00:00:02, asked again at 00:00:07: the store is not available: no answer within 2s"; s.String() != want {
			t.Errorf("%q; want %q", s, want)
		}
	})
}

// Nobody waits for a probe, and a store that comes back is used.
func TestStoreComesBack(t *testing.T) {
	guarded(t, func(t *testing.T, m *moody, g *store.Guarded) {
		m.set(hangs, hangs)
		if _, err := get(t, g); !errors.Is(err, store.ErrUnavailable) {
			t.Fatal(err)
		}
		calls, last := m.called(), time.Now()
		var waits []time.Duration
		for end := time.Now().Add(30 * time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if d, err := get(t, g); d != 0 || !errors.Is(err, store.ErrUnavailable) {
				t.Fatalf("%v after %v", err, d)
			}
			if n := m.called(); n != calls {
				waits = append(waits, time.Since(last).Round(time.Second))
				calls, last = n, time.Now()
			}
		}
		if len(waits) < 8 || len(waits) > 13 || waits[0] < 5*time.Second || waits[0] > 6*time.Second {
			t.Errorf("probed after %v", waits)
		}
		for i, w := range waits[1:] {
			if w < waits[i]*3/2 && w < 5*time.Minute || w > 6*time.Minute {
				t.Errorf("probed after %v", waits)
			}
		}
		m.set(nil, nil)
		time.Sleep(6 * time.Minute)
		if _, err := get(t, g); !errors.Is(err, store.ErrNotFound) {
			t.Error(err)
		}
		if s := g.State(); s.String() != "ok" || s.Away {
			t.Errorf("%#v", s)
		}
		// At once away again: it is not asked every five seconds.
		m.set(hangs, nil)
		if _, err := get(t, g); !errors.Is(err, store.ErrUnavailable) {
			t.Fatal(err)
		}
		if s := g.State(); s.Until.Sub(s.Since) != 5*time.Minute {
			t.Errorf("%#v", s)
		}
	})
}

func TestWhatOpensTheCircuit(t *testing.T) {
	for _, c := range []struct {
		err          error
		away, denied bool
		errors       int64
	}{
		{err: store.ErrNotFound},
		{err: store.ErrConflict},
		{err: store.ErrTooLarge},
		{err: store.ErrReadOnly},
		{err: store.ErrName},
		{err: store.ErrCorrupt, errors: 1},
		{err: errors.New("something else"), errors: 1},
		{err: store.ErrUnavailable, away: true, errors: 1},
		{err: store.ErrDenied, denied: true, errors: 1},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			guarded(t, func(t *testing.T, m *moody, g *store.Guarded) {
				m.set(fails(c.err), nil)
				for range 3 {
					if _, err := get(t, g); !errors.Is(err, c.err) {
						t.Error(err)
					}
					if !c.away && !c.denied {
						g.Put(t.Context(), "name", nil, store.Condition{})
					}
				}
				s := g.State()
				if s.Away != c.away || s.Denied != c.denied {
					t.Errorf("%#v", s)
				}
				if n := c.errors; (c.away || c.denied) && s.Errors != n || !c.away && !c.denied && s.Errors != 3*n {
					t.Errorf("%#v", s)
				}
			})
		})
	}
}

// A caller's own end says nothing of the store.
func TestCallersEnd(t *testing.T) {
	guarded(t, func(t *testing.T, m *moody, g *store.Guarded) {
		m.set(hangs, hangs)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.Get(ctx, "name", 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, err := g.Get(ctx, "name", 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if s := g.State(); s.Away || s.Timeouts != 0 || s.Calls != 1 {
			t.Errorf("%#v", s)
		}
	})
}

// Whoever may not write may read.
func TestDeniedWrites(t *testing.T) {
	guarded(t, func(t *testing.T, m *moody, g *store.Guarded) {
		m.set(nil, fails(store.ErrDenied))
		for range 3 {
			if _, err := g.Put(t.Context(), "name", nil, store.Condition{}); !errors.Is(err, store.ErrDenied) || !errors.Is(err, store.ErrUnavailable) && m.called() > 1 {
				t.Error(err)
			}
			if _, err := get(t, g); !errors.Is(err, store.ErrNotFound) {
				t.Error(err)
			}
		}
		if s := g.State(); s.Away || !s.Denied || fmt.Sprint(s.Shut) != "[writes]" || s.Refused != 2 {
			t.Errorf("%#v", s)
		}
		time.Sleep(6 * time.Second)
		if s := g.State(); !s.Denied || time.Until(s.Until) > 10*time.Second || s.Until.Before(time.Now()) {
			t.Errorf("%#v", s)
		}
		m.set(nil, nil)
		time.Sleep(15 * time.Second)
		if _, err := g.Put(t.Context(), "name", nil, store.Condition{}); err != nil {
			t.Error(err)
		}
		if s := g.State(); s.String() != "ok" {
			t.Errorf("%#v", s)
		}
	})
}

// Denied, then away, then denied again, then well.
func TestMoodsMix(t *testing.T) {
	guarded(t, func(t *testing.T, m *moody, g *store.Guarded) {
		state := func(want string) {
			t.Helper()
			s := g.State()
			if got := fmt.Sprint(s.Away, s.Denied, s.Shut); got != want {
				t.Errorf("%s; want %s: %s", got, want, s)
			}
		}
		m.set(nil, fails(store.ErrDenied))
		g.Put(t.Context(), "name", nil, store.Condition{})
		state("false true [writes]")
		m.set(hangs, hangs)
		get(t, g)
		state("true false []")
		m.set(fails(store.ErrDenied), hangs)
		time.Sleep(time.Minute)
		state("false true [reads writes]")
		m.set(nil, hangs)
		time.Sleep(5 * time.Minute)
		state("false false [writes]")
		if err := g.List(t.Context(), "", func(store.Info) error { return nil }); err != nil {
			t.Error(err)
		}
		m.set(fails(store.ErrUnavailable), nil)
		get(t, g)
		state("true false []")
		time.Sleep(10 * time.Minute)
		state("true false []")
		m.set(nil, nil)
		time.Sleep(10 * time.Minute)
		state("false false []")
		if s := g.State(); s.String() != "ok" {
			t.Errorf("%#v", s)
		}
	})
}

// A store that refuses connections is away, whoever finds out.
func TestWriteFindsStoreAway(t *testing.T) {
	guarded(t, func(t *testing.T, m *moody, g *store.Guarded) {
		m.set(hangs, fails(store.ErrUnavailable))
		if _, err := g.Put(t.Context(), "name", nil, store.Condition{}); !errors.Is(err, store.ErrUnavailable) {
			t.Error(err)
		}
		if took, err := get(t, g); took != 0 || !errors.Is(err, store.ErrUnavailable) || !g.State().Away {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// An upload that takes too long ends uploads, all at once, and nothing else.
func TestSlowWrites(t *testing.T) {
	guarded(t, func(t *testing.T, m *moody, g *store.Guarded) {
		m.set(nil, hangs)
		began := time.Now()
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				if _, err := g.Put(t.Context(), "name", nil, store.Condition{}); !errors.Is(err, store.ErrUnavailable) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if d := time.Since(began); d != 5*time.Second {
			t.Errorf("all took %v", d)
		}
		if _, err := get(t, g); !errors.Is(err, store.ErrNotFound) {
			t.Error(err)
		}
		if s := g.State(); s.Away || s.Denied || s.Timeouts != 1 || s.Cut != 9 ||
			s.String() != "no writes since 00:00:05, tried again at 00:00:10: the store is not available: no answer within 5s" {
			t.Errorf("%#v, %s", s, s)
		}
	})
	// A large body has more time.
	guarded(t, func(t *testing.T, m *moody, g *store.Guarded) {
		m.set(nil, hangs)
		began := time.Now()
		if _, err := g.Put(t.Context(), "name", make([]byte, 10<<20), store.Condition{}); !errors.Is(err, store.ErrUnavailable) || time.Since(began) != 15*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A body that comes steadily may take its time; one that trickles, or stops, not.
func TestBodiesComeSlowly(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		pieces, size int
		every        time.Duration
		hang         bool
		took         time.Duration
		ok           bool
	}{
		"steady":   {100, mib, 500 * time.Millisecond, false, 50 * time.Second, true},
		"trickle":  {100, mib / 1024, 100 * time.Millisecond, false, 2 * time.Second, false},
		"narrow":   {100, mib / 4, 500 * time.Millisecond, false, 3500 * time.Millisecond, false},
		"stops":    {100, 10 * mib, 10 * time.Millisecond, true, 3 * time.Second, false},
		"at first": {1, mib, 2100 * time.Millisecond, false, 2 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			guarded(t, func(t *testing.T, m *moody, g *store.Guarded) {
				m.Store.Put(t.Context(), "name", nil, store.Condition{})
				m.set(func(ctx context.Context) error {
					for range c.pieces {
						select {
						case <-time.After(c.every):
							store.Progress(ctx, c.size)
						case <-ctx.Done():
							return ctx.Err()
						}
					}
					if c.hang {
						return hangs(ctx)
					}
					return nil
				}, nil)
				took, err := get(t, g)
				if (err == nil) != c.ok || (took-c.took).Abs() > 600*time.Millisecond {
					t.Errorf("%v after %v; want %v", err, took, c.took)
				}
				if g.State().Away == c.ok {
					t.Errorf("%s", g.State())
				}
			})
		})
	}
}

// What a store waited for in vain is in what people are told.
func TestTimeoutTellsWhy(t *testing.T) {
	guarded(t, func(t *testing.T, m *moody, g *store.Guarded) {
		m.set(func(ctx context.Context) error { return fmt.Errorf("%w while waiting for credentials", hangs(ctx)) }, nil)
		if _, err := get(t, g); err == nil || !strings.Contains(err.Error(), "no answer within 2s (context canceled while waiting for credentials)") {
			t.Error(err)
		}
	})
}

// slowList names an object every twenty seconds.
type slowList struct{ store.Store }

func (slowList) List(ctx context.Context, _ string, visit func(store.Info) error) error {
	for _, wait := range []time.Duration{20, 20, 20, 40} {
		select {
		case <-time.After(wait * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := visit(store.Info{Name: "name"}); err != nil {
			return err
		}
	}
	return nil
}

// A listing may be as long as it is, if it gets on; its visitor may take its time.
func TestListGetsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := store.Guard(slowList{store.NewMemory(0)}, store.GuardOptions{})
		defer g.Close()
		seen, began := 0, time.Now()
		err := g.List(t.Context(), "", func(store.Info) error {
			time.Sleep(time.Hour)
			seen++
			return nil
		})
		if d := time.Since(began); !errors.Is(err, store.ErrUnavailable) || seen != 3 || d != 3*time.Hour+90*time.Second {
			t.Errorf("%v after %d and %v", err, seen, d)
		}
	})
	guarded(t, func(t *testing.T, m *moody, g *store.Guarded) {
		if _, err := g.Put(t.Context(), "name", []byte("12345"), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		// What a visitor fails by is no word of this store.
		err := g.List(t.Context(), "", func(store.Info) error { return store.ErrUnavailable })
		if !errors.Is(err, store.ErrUnavailable) || g.State().Away {
			t.Errorf("%v, %+v", err, g.State())
		}
		if _, err := get(t, g); err != nil {
			t.Error(err)
		}
		if s := g.State(); s.BytesRead != 5 || s.BytesWritten != 5 || s.Calls != 3 || s.Errors != 0 {
			t.Errorf("%#v", s)
		}
	})
}

// Close waits for no interval.
func TestCloseEndsProbes(t *testing.T) {
	guarded(t, func(t *testing.T, m *moody, g *store.Guarded) {
		m.set(hangs, hangs)
		get(t, g)
		time.Sleep(5600 * time.Millisecond) // a probe hangs
		began := time.Now()
		if err := g.Close(); err != nil || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if _, err := get(t, g); !errors.Is(err, store.ErrUnavailable) {
			t.Error(err)
		}
	})
}

func BenchmarkGuardRefuses(b *testing.B) {
	m := newMoody()
	m.set(fails(store.ErrUnavailable), nil)
	g := store.Guard(m, store.GuardOptions{})
	defer g.Close()
	for b.Loop() {
		if _, err := g.Get(b.Context(), "name", 1); err == nil {
			b.Fatal("served")
		}
	}
}
