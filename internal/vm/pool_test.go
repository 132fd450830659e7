package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hpcc.dev/hpcc/internal/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// Who ends a machine while another does waits without stopping the bubble's clock.
func TestFakeEndsTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		m, err := f.Start(t.Context(), Spec{ID: "m", Tenant: "a", Rootfs: Rootfs{Path: "/"}, VCPUs: 1, MemoryMiB: 512})
		if err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() { _ = m.Kill() })
		synctest.Wait()
		both.Go(m.(*fakeMachine).crash)
		both.Wait()
		if !ended(m) || m.Err() != nil {
			t.Errorf("ended %v: %v", ended(m), m.Err())
		}
	})
}

// pool tests one pool in a bubble of time. Places is how many machines fit, of
// two leases each.
func pool(t *testing.T, places int, test func(t *testing.T, p *Pool, f *fake)) {
	t.Helper()
	poolWith(t, places, PoolOptions{}, test)
}

func poolWith(t *testing.T, places int, opt PoolOptions, test func(t *testing.T, p *Pool, f *fake)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.memoryMiB, f.vcpus = places*1024+1023, places*2+100
		opt := opt
		opt.Runtime, opt.MemoryMiB, opt.VCPUs, opt.MachineMemoryMiB = f, f.memoryMiB, f.vcpus, 1024
		if opt.MachineVCPUs == 0 {
			opt.MachineVCPUs = 2
		}
		if opt.Spec == nil {
			opt.Spec = f.spec
		}
		p, err := NewPool(opt)
		if err != nil {
			t.Fatal(err)
		}
		test(t, p, f)
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
		f.nothingLeft()
		if s := p.Stats(); s.Booting+s.Ready+s.Draining+s.Ending+s.Waiting != 0 {
			t.Errorf("after Close: %+v", s)
		}
	})
}

func key(tenant, image string) SessionKey { return SessionKey{Tenant: tenant, Image: image} }

func acquire(t *testing.T, p *Pool, k SessionKey) *Lease {
	t.Helper()
	l, err := p.Acquire(context.Background(), k)
	if err != nil {
		t.Fatal(err)
	}
	whose(t, l, k)
	return l
}

// whose checks that a lease is of a session's machine, which runs.
func whose(t *testing.T, l *Lease, k SessionKey) {
	t.Helper()
	m := l.Machine().(*fakeMachine)
	if want := fmt.Sprintf("%s/%s/%v", k.Tenant, k.Image, k.Write); m.spec.Rootfs.Path != want || m.spec.Tenant != k.Tenant {
		t.Errorf("a machine of %s (%s) for %s", m.spec.Rootfs.Path, m.spec.Tenant, want)
	}
	if ended(m) {
		t.Errorf("a machine that has ended, for %+v", k)
	}
}

// call is an Acquire in a goroutine of its own.
type call struct {
	mu    sync.Mutex
	lease *Lease
	err   error
	took  time.Duration
}

func (c *call) result() (*Lease, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lease, c.err
}

func (c *call) waits() bool {
	l, err := c.result()
	return l == nil && err == nil
}

func ask(ctx context.Context, p *Pool, k SessionKey) *call {
	c := &call{}
	began := time.Now()
	go func() {
		l, err := p.Acquire(ctx, k)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lease, c.err, c.took = l, err, time.Since(began)
	}()
	synctest.Wait()
	return c
}

// pass lets time go by.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestPoolShares(t *testing.T) {
	pool(t, 4, func(t *testing.T, p *Pool, f *fake) {
		a, b := acquire(t, p, key("a", "i")), acquire(t, p, key("a", "i"))
		if a.Machine() != b.Machine() {
			t.Error("two jobs of one session have two machines")
		}
		others := []*Lease{
			acquire(t, p, key("b", "i")), acquire(t, p, key("a", "j")),
			acquire(t, p, SessionKey{"a", "i", true}),
		}
		seen := map[Machine]bool{a.Machine(): true}
		for _, l := range others {
			if seen[l.Machine()] {
				t.Error("two sessions share a machine")
			}
			seen[l.Machine()] = true
		}
		s := p.Stats()
		if s.Ready != 4 || s.Leases != 5 || s.Boots != 4 || s.Places != 4 || s.Capacity != 8 || len(s.Sessions) != 4 || s.Sessions[0] != key("a", "i") {
			t.Errorf("%+v", s)
		}
		a.Release()
		a.Release()
		if s := p.Stats(); s.Leases != 4 {
			t.Errorf("released twice: %+v", s)
		}
		if again := acquire(t, p, key("a", "i")); again.Machine() != b.Machine() || f.starts != 4 {
			t.Error("a machine that is there was not used")
		}
	})
}

// A burst of callers costs one boot.
func TestPoolBurst(t *testing.T) {
	poolWith(t, 16, PoolOptions{MachineVCPUs: 1, JobsPerVCPU: 4}, func(t *testing.T, p *Pool, f *fake) {
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				l, err := p.Acquire(t.Context(), key("a", "i"))
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(10 * time.Millisecond)
				l.Release()
			})
		}
		wg.Wait()
		if f.starts != 1 {
			t.Errorf("%d boots", f.starts)
		}
	})
}

// A line that stays gets more machines, one after the other, up to the budget.
func TestPoolGrows(t *testing.T) {
	pool(t, 3, func(t *testing.T, p *Pool, f *fake) {
		var calls []*call
		for range 20 {
			calls = append(calls, ask(t.Context(), p, key("a", "i")))
		}
		pass(150 * time.Millisecond)
		if s := p.Stats(); s.Ready != 1 || s.Booting != 0 || s.Waiting != 18 {
			t.Errorf("after the first boot: %+v", s)
		}
		pass(10 * time.Second)
		if s := p.Stats(); s.Ready != 3 || s.Leases != 6 || s.Waiting != 14 || s.Evicted != 0 {
			t.Errorf("in the end: %+v", s)
		}
		if calls[5].waits() || !calls[6].waits() {
			t.Error("not first come, first served")
		}
	})
}

func TestPoolIdleAndLifetime(t *testing.T) {
	pool(t, 4, func(t *testing.T, p *Pool, f *fake) {
		l := acquire(t, p, key("a", "i"))
		first := l.Machine()
		pass(time.Hour) // a lease keeps it
		l.Release()
		pass(10*time.Minute - time.Second)
		if ended(first) {
			t.Error("it ended before it was idle long enough")
		}
		l = acquire(t, p, key("a", "i"))
		l.Release()
		pass(10*time.Minute - time.Second)
		if ended(first) {
			t.Error("use does not keep it")
		}
		pass(2 * time.Second)
		if !ended(first) || len(f.running()) > 0 {
			t.Error("it did not end")
		}

		// In use all the time, but old.
		l = acquire(t, p, key("a", "i"))
		old := l.Machine()
		for range 100 {
			pass(5 * time.Minute)
			next := acquire(t, p, key("a", "i"))
			l.Release()
			l = next
		}
		if l.Machine() == old || !ended(old) {
			t.Error("it lives for ever")
		}
		if s := p.Stats(); s.Boots != 3 || s.Crashes != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A machine that is old takes no more jobs, and lets those finish that it has.
func TestPoolDrains(t *testing.T) {
	pool(t, 4, func(t *testing.T, p *Pool, f *fake) {
		l := acquire(t, p, key("a", "i"))
		pass(8 * time.Hour)
		next := acquire(t, p, key("a", "i"))
		if next.Machine() == l.Machine() {
			t.Error("an old machine was handed out")
		}
		if s := p.Stats(); s.Draining != 1 || s.Ready != 1 || ended(l.Machine()) {
			t.Errorf("%+v", s)
		}
		l.Release()
		pass(time.Second)
		if !ended(l.Machine()) || ended(next.Machine()) {
			t.Error("it did not end with its last job")
		}
	})
}

func TestPoolCrash(t *testing.T) {
	pool(t, 1, func(t *testing.T, p *Pool, f *fake) {
		a, b := acquire(t, p, key("a", "i")), acquire(t, p, key("a", "i"))
		waits := ask(t.Context(), p, key("a", "i"))
		b.Machine().(*fakeMachine).crash()
		// Whether the pool has noticed or not.
		c := acquire(t, p, key("a", "i"))
		if c.Machine() == a.Machine() {
			t.Error("a dead machine was handed out")
		}
		synctest.Wait()
		if l, err := waits.result(); err != nil || l == nil || l.Machine() != c.Machine() {
			t.Errorf("who waited has %v, %v", l, err)
		}
		a.Release()
		b.Broken(errFake) // too late to matter
		if s := p.Stats(); s.Crashes != 1 || s.Broken != 0 || s.Leases != 2 || s.Boots != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestPoolBroken(t *testing.T) {
	pool(t, 1, func(t *testing.T, p *Pool, f *fake) {
		f.end = func() time.Duration { return time.Hour } // in order; not when killed
		a, b := acquire(t, p, key("a", "i")), acquire(t, p, key("a", "i"))
		a.Broken(errFake)
		c := acquire(t, p, key("a", "i"))
		if c.Machine() == b.Machine() || !ended(b.Machine()) {
			t.Error("a broken machine lives")
		}
		a.Release()
		b.Release()
		f.end = func() time.Duration { return 0 }
		if s := p.Stats(); s.Broken != 1 || s.Crashes != 0 || s.Leases != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A boot that fails fails those who wait for it, with the reason; after the second
// in a row nobody tries for a while.
func TestPoolBootFails(t *testing.T) {
	pool(t, 2, func(t *testing.T, p *Pool, f *fake) {
		f.fail = func(s Spec) error {
			if s.Tenant == "a" {
				return errFake
			}
			return nil
		}
		failed := func(c *call, starts int) time.Duration {
			t.Helper()
			var start *StartError
			if _, err := c.result(); !errors.As(err, &start) || !errors.Is(err, errFake) || start.Key != key("a", "i") {
				t.Fatalf("%v", err)
			}
			if f.starts != starts {
				t.Errorf("%d starts, want %d", f.starts, starts)
			}
			return start.RetryAfter
		}
		calls := []*call{ask(t.Context(), p, key("a", "i")), ask(t.Context(), p, key("a", "i")), ask(t.Context(), p, key("a", "i"))}
		pass(time.Second)
		for _, c := range calls {
			if wait := failed(c, 1); wait != 0 {
				t.Errorf("after one failure: %v", wait)
			}
		}
		for i, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			c := ask(t.Context(), p, key("a", "i"))
			pass(100 * time.Millisecond)
			if wait := failed(c, 2+i); wait != want*time.Second {
				t.Errorf("after %d failures: %v, want %v s", i+2, wait, int(want))
			}
			now := ask(t.Context(), p, key("a", "i"))
			if wait := failed(now, 2+i); wait != want*time.Second {
				t.Errorf("asked at once: %v", wait)
			}
			pass(want * time.Second)
		}
		acquire(t, p, key("b", "i")).Release() // is not concerned
		f.fail = func(Spec) error { return nil }
		l := acquire(t, p, key("a", "i"))
		l.Release()
		l.Broken(errFake)
		l = acquire(t, p, key("a", "i")) // all is forgiven
		if s := p.Stats(); s.BootFailures != 9 || s.Boots != 3 {
			t.Errorf("%+v", s)
		}
		// A failed boot of a second machine is no concern of those who can wait for
		// the first.
		f.fail = func(Spec) error { return errFake }
		acquire(t, p, key("a", "i"))
		c := ask(t.Context(), p, key("a", "i"))
		pass(40 * time.Second) // until the other tenant's machine makes room
		if !c.waits() || p.Stats().BootFailures < 10 {
			t.Errorf("%+v, %+v", c, p.Stats())
		}
		l.Release()
		synctest.Wait()
		if l, err := c.result(); l == nil {
			t.Error(err)
		}
	})
}

// Machines that end before any job has ended well are not started as often as they
// can; those who wait are not failed.
func TestPoolCrashLoop(t *testing.T) {
	pool(t, 1, func(t *testing.T, p *Pool, f *fake) {
		for range 5 {
			l := acquire(t, p, key("a", "i"))
			l.Machine().(*fakeMachine).crash()
			l.Release()
		}
		began := time.Now()
		acquire(t, p, key("a", "i"))
		if wait := time.Since(began); wait < 7*time.Second || wait > 9*time.Second {
			t.Errorf("after five crashes: %v", wait)
		}
	})
}

func TestPoolSpecFails(t *testing.T) {
	opt := PoolOptions{Spec: func(context.Context, SessionKey) (Spec, func(), error) { return Spec{}, nil, errFake }}
	poolWith(t, 1, opt, func(t *testing.T, p *Pool, f *fake) {
		var start *StartError
		if _, err := p.Acquire(t.Context(), key("a", "i")); !errors.As(err, &start) || !errors.Is(err, errFake) {
			t.Error(err)
		}
	})
}

func TestPoolBootTimeout(t *testing.T) {
	poolWith(t, 1, PoolOptions{BootTimeout: time.Minute}, func(t *testing.T, p *Pool, f *fake) {
		f.boot = func() time.Duration { return time.Hour }
		began := time.Now()
		if _, err := p.Acquire(t.Context(), key("a", "i")); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
			t.Error(err, time.Since(began))
		}
	})
}

// One tenant's long line does not keep another from its turn, not even where there
// is one place; and they go on taking turns.
func TestPoolTurns(t *testing.T) {
	for places := 1; places <= 3; places++ {
		t.Run(fmt.Sprint(places), func(t *testing.T) {
			poolWith(t, places, PoolOptions{MaxWaiting: 1000}, func(t *testing.T, p *Pool, f *fake) {
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				var mu sync.Mutex
				done := map[string]int{}
				run := func(k SessionKey) {
					wg.Go(func() {
						for {
							l, err := p.Acquire(ctx, k)
							if err != nil {
								return
							}
							whose(t, l, k)
							time.Sleep(2 * time.Second)
							l.Release()
							mu.Lock()
							done[k.Tenant]++
							mu.Unlock()
						}
					})
				}
				for range 1000 {
					run(key("greedy", "i"))
				}
				pass(time.Minute)
				began := time.Now()
				l := acquire(t, p, key("modest", "i"))
				if wait := time.Since(began); wait > 40*time.Second {
					t.Errorf("the other tenant waited for %v", wait)
				}
				l.Release()
				// Two tenants with long lines share alike, if there are places
				// for both or in turns.
				for range 100 {
					run(key("modest", "i"))
				}
				pass(10 * time.Minute)
				mu.Lock()
				done = map[string]int{}
				mu.Unlock()
				pass(time.Hour)
				mu.Lock()
				a, b := done["greedy"], done["modest"]
				mu.Unlock()
				total := 3600 / 2 * 2 * places
				if a+b < total*9/10 || a+b > total {
					t.Errorf("%d and %d jobs, %d were possible", a, b, total)
				}
				if share := float64(b) / float64(a+b); places%2 == 1 && places > 1 && (share < 0.3 || share > 0.7) || (places < 3) && (share < 0.4 || share > 0.6) {
					t.Errorf("%d and %d jobs", a, b)
				}
				cancel()
				wg.Wait()
			})
		})
	}
}

// Idle machines make room at once, the longest idle first.
func TestPoolEvicts(t *testing.T) {
	pool(t, 2, func(t *testing.T, p *Pool, f *fake) {
		a := acquire(t, p, key("a", "i"))
		b := acquire(t, p, key("b", "i"))
		b.Release()
		pass(time.Second)
		a.Release()
		began := time.Now()
		c := acquire(t, p, key("c", "i"))
		if !ended(b.Machine()) || ended(a.Machine()) || time.Since(began) > time.Second {
			t.Errorf("after %v", time.Since(began))
		}
		// Nobody's line is a reason to take an idle machine away at once.
		acquire(t, p, key("c", "i"))
		waits := ask(t.Context(), p, key("c", "i"))
		pass(20 * time.Second)
		if ended(a.Machine()) || !waits.waits() {
			t.Error("an idle machine went too early")
		}
		pass(20 * time.Second)
		if !ended(a.Machine()) || waits.waits() {
			t.Error("an idle machine stays, though a line waits")
		}
		// The tenant comes back: now the other has two.
		began = time.Now()
		back := ask(t.Context(), p, key("a", "i"))
		l, _ := waits.result()
		l.Release()
		pass(time.Second)
		if l, _ := back.result(); l == nil {
			t.Errorf("no machine after %v", time.Since(began))
		}
		c.Release()
	})
}

// Images of one tenant take turns as tenants do.
func TestPoolTurnsOfImages(t *testing.T) {
	pool(t, 1, func(t *testing.T, p *Pool, f *fake) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for {
					l, err := p.Acquire(ctx, key("a", "i"))
					if err != nil {
						return
					}
					time.Sleep(time.Second)
					l.Release()
				}
			})
		}
		pass(time.Minute)
		began := time.Now()
		acquire(t, p, key("a", "j")).Release()
		if wait := time.Since(began); wait > 40*time.Second {
			t.Errorf("waited for %v", wait)
		}
		cancel()
		wg.Wait()
	})
}

// A boot that takes long gives way as well; its line goes on waiting.
func TestPoolSlowBootGivesWay(t *testing.T) {
	pool(t, 1, func(t *testing.T, p *Pool, f *fake) {
		f.boot = func() time.Duration { return 4 * time.Minute }
		slow := ask(t.Context(), p, key("a", "i"))
		pass(time.Minute)
		f.boot = func() time.Duration { return time.Second }
		began := time.Now()
		l := acquire(t, p, key("b", "i"))
		if wait := time.Since(began); wait > 5*time.Second {
			t.Errorf("waited for %v", wait)
		}
		if !slow.waits() {
			t.Error("who waited was failed")
		}
		l.Release()
		pass(5 * time.Second)
		if l, err := slow.result(); l == nil {
			t.Error(err)
		}
		if s := p.Stats(); s.BootFailures != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestPoolFull(t *testing.T) {
	poolWith(t, 2, PoolOptions{MaxWaiting: 3}, func(t *testing.T, p *Pool, f *fake) {
		a, b := acquire(t, p, key("a", "i")), acquire(t, p, key("a", "i"))
		blocked := acquire(t, p, key("b", "i"))
		ctx, cancel := context.WithCancel(t.Context())
		calls := []*call{ask(ctx, p, key("a", "i")), ask(ctx, p, key("a", "i")), ask(ctx, p, key("a", "j"))}
		var full *FullError
		if _, err := p.Acquire(t.Context(), key("a", "i")); !errors.As(err, &full) || full.RetryAfter < time.Second || full.RetryAfter > time.Minute {
			t.Errorf("%v", err)
		}
		acquire(t, p, key("b", "i")).Release() // has a line of its own
		cancel()
		synctest.Wait()
		for _, c := range calls {
			if _, err := c.result(); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		if s := p.Stats(); s.Waiting != 0 || s.Refused != 1 || s.Leases != 3 {
			t.Errorf("%+v", s)
		}
		a.Release()
		b.Release()
		blocked.Release()
		if _, err := p.Acquire(ctx, key("a", "i")); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// Who goes away while a machine boots leaves it to the next.
func TestPoolCancelledBoot(t *testing.T) {
	pool(t, 1, func(t *testing.T, p *Pool, f *fake) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := p.Acquire(ctx, key("a", "i")); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		acquire(t, p, key("a", "i")).Release()
		if f.starts != 1 {
			t.Errorf("%d starts", f.starts)
		}
	})
}

func TestPoolClose(t *testing.T) {
	pool(t, 2, func(t *testing.T, p *Pool, f *fake) {
		l := acquire(t, p, key("a", "i"))
		acquire(t, p, key("a", "i"))
		waits := ask(t.Context(), p, key("a", "i"))
		f.boot = func() time.Duration { return time.Hour }
		boots := ask(t.Context(), p, key("b", "i"))
		f.stuck = func(Spec) bool { return true }
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 3*time.Second || took > 4*time.Second || !ended(l.Machine()) {
			t.Errorf("closed after %v", took)
		}
		synctest.Wait()
		for _, c := range []*call{waits, boots} {
			if _, err := c.result(); !errors.Is(err, ErrPoolClosed) {
				t.Error(err)
			}
		}
		if _, err := p.Acquire(t.Context(), key("a", "i")); !errors.Is(err, ErrPoolClosed) {
			t.Error(err)
		}
		l.Release()
		l.Broken(errFake)
	})
}

// A machine that is being stopped when Close is called is killed with the others.
func TestPoolCloseHurries(t *testing.T) {
	pool(t, 1, func(t *testing.T, p *Pool, f *fake) {
		f.stuck = func(Spec) bool { return true }
		acquire(t, p, key("a", "i")).Release()
		pass(10*time.Minute + time.Second)
		if s := p.Stats(); s.Ending != 1 {
			t.Errorf("%+v", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := p.Close(ctx); err != nil || time.Since(began) > 2*time.Second {
			t.Error(err, time.Since(began))
		}
	})
}

func TestPoolOptions(t *testing.T) {
	for want, opt := range map[string]PoolOptions{
		"does not fit":   {MemoryMiB: 1000, VCPUs: 8, MachineMemoryMiB: 1024, MachineVCPUs: 1},
		"1 vCPUs":        {MemoryMiB: 4096, VCPUs: 0, MachineMemoryMiB: 1024, MachineVCPUs: 1},
		"0 vCPUs":        {MemoryMiB: 4096, VCPUs: 8, MachineMemoryMiB: 1024},
		"127 MiB":        {MemoryMiB: 4096, VCPUs: 8, MachineMemoryMiB: 127, MachineVCPUs: 1},
		"want 1 to 32":   {MemoryMiB: 4096, VCPUs: 80, MachineMemoryMiB: 1024, MachineVCPUs: 33},
		"2048 MiB and 1": {MemoryMiB: 1024, VCPUs: 80, MachineMemoryMiB: 2048, MachineVCPUs: 1},
	} {
		if _, err := NewPool(opt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want one about %q", opt, err, want)
		}
	}
}

// Turns are the tenants', however many images each has.
func TestPoolTurnsWithManyImages(t *testing.T) {
	pool(t, 1, func(t *testing.T, p *Pool, f *fake) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var mu sync.Mutex
		done := map[string]int{}
		run := func(k SessionKey) {
			for range 4 {
				wg.Go(func() {
					for {
						l, err := p.Acquire(ctx, k)
						if err != nil {
							return
						}
						time.Sleep(time.Second)
						l.Release()
						mu.Lock()
						done[k.Tenant]++
						mu.Unlock()
					}
				})
			}
		}
		for i := range 10 {
			run(key("greedy", fmt.Sprint(i)))
		}
		run(key("modest", "i"))
		pass(2 * time.Hour)
		mu.Lock()
		a, b := done["greedy"], done["modest"]
		mu.Unlock()
		if share := float64(b) / float64(a+b); share < 0.4 || share > 0.6 {
			t.Errorf("%d and %d jobs", a, b)
		}
		cancel()
		wg.Wait()
	})
}

// A job that ends well wipes out what was before it.
func TestPoolForgives(t *testing.T) {
	pool(t, 1, func(t *testing.T, p *Pool, f *fake) {
		began := time.Now()
		for range 5 {
			acquire(t, p, key("a", "i")).Broken(errFake)
			l := acquire(t, p, key("a", "i"))
			l.Release()
			l.Broken(errFake)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		// A boot that failed once is no reason to fail those who wait for a machine
		// that boots and crashes.
		f.fail = func(Spec) error { return errFake }
		for range 3 {
			_, _ = p.Acquire(t.Context(), key("a", "i"))
			pass(time.Minute)
		}
		f.fail = func(Spec) error { return nil }
		acquire(t, p, key("a", "i")).Broken(errFake)
		acquire(t, p, key("a", "i"))
	})
}

// A lease that comes just when its waiter goes away is not lost.
func TestPoolCancelledInTime(t *testing.T) {
	pool(t, 1, func(t *testing.T, p *Pool, f *fake) {
		for range 200 {
			a, b := acquire(t, p, key("a", "i")), acquire(t, p, key("a", "i"))
			ctx, cancel := context.WithCancel(t.Context())
			c := ask(ctx, p, key("a", "i"))
			a.Release()
			cancel()
			synctest.Wait()
			if l, _ := c.result(); l != nil {
				l.Release()
			}
			b.Release()
			if s := p.Stats(); s.Leases != 0 || s.Waiting != 0 {
				t.Fatalf("%+v", s)
			}
		}
	})
}

// One machine makes room for one, however often others ask meanwhile.
func TestPoolEvictsOnce(t *testing.T) {
	pool(t, 2, func(t *testing.T, p *Pool, f *fake) {
		a, b := acquire(t, p, key("a", "i")), acquire(t, p, key("b", "i"))
		a.Release()
		pass(time.Second)
		b.Release()
		f.end = func() time.Duration { return 10 * time.Second }
		c := ask(t.Context(), p, key("c", "i"))
		acquire(t, p, key("b", "i")).Release()
		if s := p.Stats(); s.Evicted != 1 || s.Ready != 1 || s.Ending != 1 {
			t.Errorf("%+v", s)
		}
		pass(11 * time.Second)
		if l, err := c.result(); l == nil {
			t.Error(err)
		}
		if ended(b.Machine()) {
			t.Error("two machines made room for one")
		}
		f.end = func() time.Duration { return 0 }
	})
}

// A line that is full keeps nobody from a machine that has room.
func TestPoolFullElsewhere(t *testing.T) {
	poolWith(t, 2, PoolOptions{MaxWaiting: 1}, func(t *testing.T, p *Pool, f *fake) {
		acquire(t, p, key("a", "i"))
		acquire(t, p, key("a", "i"))
		acquire(t, p, key("a", "j"))
		waits := ask(t.Context(), p, key("a", "i"))
		acquire(t, p, key("a", "j"))
		var full *FullError
		if _, err := p.Acquire(t.Context(), key("a", "j")); !errors.As(err, &full) || !waits.waits() {
			t.Error(err)
		}
	})
}

// Another image of a tenant that has no more machines than others need not wait
// for a turn while one of theirs is idle.
func TestPoolEvictsForAnotherImage(t *testing.T) {
	pool(t, 2, func(t *testing.T, p *Pool, f *fake) {
		acquire(t, p, key("a", "i"))
		acquire(t, p, key("b", "i")).Release()
		began := time.Now()
		acquire(t, p, key("a", "j"))
		if wait := time.Since(began); wait > time.Second {
			t.Errorf("waited for %v", wait)
		}
	})
}
