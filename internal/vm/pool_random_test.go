package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// check fails the test where the pool's books do not agree.
func (p *Pool) check(t *testing.T, held map[*member]int) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.members) > p.places {
		t.Errorf("%d machines in %d places", len(p.members), p.places)
	}
	for _, m := range p.members {
		switch {
		case m.leases < 0 || m.leases > p.slots:
			t.Errorf("machine %s has %d leases", m.id, m.leases)
		case m.state == booting && (m.leases > 0 || m.machine != nil):
			t.Errorf("machine %s is used, but boots", m.id)
		case m.state == draining && m.leases == 0:
			t.Errorf("machine %s is not used, but does not end", m.id)
		case m.leases != held[m]:
			t.Errorf("machine %s has %d leases, %d are held", m.id, m.leases, held[m])
		case p.sessions[m.session.key] != m.session:
			t.Errorf("machine %s has no session", m.id)
		}
	}
	waiting := map[string]int{}
	for key, s := range p.sessions {
		waiting[key.Tenant] += len(s.waiters)
		if len(s.waiters) == 0 {
			continue
		}
		boots, serves := 0, 0
		for _, m := range p.members {
			if m.session != s {
				continue
			}
			if m.state == ready && m.leases < p.slots && !m.dead() {
				t.Errorf("%d wait for a machine that has room", len(s.waiters))
			}
			if m.state == booting {
				boots++
			}
			if m.serves() {
				serves++
			}
		}
		if boots > 1 {
			t.Errorf("%d boots at once", boots)
		}
		if serves == 0 && len(p.members) < p.places && !s.retryAt.After(time.Now()) {
			t.Errorf("%+v waits, nothing boots, and there is room", key)
		}
	}
	for tenant, n := range waiting {
		if p.waiting[tenant] != n {
			t.Errorf("%s: %d wait, counted as %d", tenant, n, p.waiting[tenant])
		}
	}
	for tenant := range p.waiting {
		if waiting[tenant] == 0 {
			t.Errorf("%s: counted, but nobody waits", tenant)
		}
	}
}

// chaos is one run of random jobs of several tenants, with machines that fail to
// boot, crash, break their contract, or hang.
type chaos struct {
	t *testing.T
	p *Pool
	f *fake

	mu   sync.Mutex
	r    *rand.Rand
	held map[*member]int
	jobs int // that had a lease
}

func (c *chaos) chance(percent int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.r.IntN(100) < percent
}

func (c *chaos) number(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.r.IntN(n)
}

// some is a time that is mostly short.
func (c *chaos) some(longest time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.r.IntN(4) > 0 {
		longest /= 20
	}
	return time.Duration(c.r.Int64N(int64(longest)))
}

func (c *chaos) hold(l *Lease, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[l.member] += n; c.held[l.member] == 0 {
		delete(c.held, l.member)
	}
}

func (c *chaos) job() {
	k := SessionKey{Tenant: fmt.Sprint("t", c.number(4)), Image: fmt.Sprint("i", c.number(2)), Write: c.chance(20)}
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	if c.chance(20) {
		stop := time.AfterFunc(c.some(time.Minute), cancel)
		defer stop.Stop()
	}
	began := time.Now()
	l, err := c.p.Acquire(ctx, k)
	// A full house of slow boots, hanging ends and long jobs, in turns.
	if wait := time.Since(began); wait > time.Hour {
		c.t.Errorf("%+v waited for %v", k, wait)
	}
	var full *FullError
	var start *StartError
	switch {
	case errors.As(err, &full), errors.As(err, &start), errors.Is(err, ErrPoolClosed), errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return
	case err != nil:
		c.t.Errorf("%+v: %v", k, err)
		return
	}
	c.hold(l, 1)
	m := l.Machine().(*fakeMachine)
	if want := fmt.Sprintf("%s/%s/%v", k.Tenant, k.Image, k.Write); m.spec.Rootfs.Path != want || m.spec.Tenant != k.Tenant {
		c.t.Errorf("a machine of %s for %s", m.spec.Rootfs.Path, want)
	}
	if ended(m) && m.over.Before(time.Now()) {
		c.t.Errorf("%+v: a machine that ended earlier", k)
	}
	time.Sleep(c.some(10 * time.Second))
	switch c.number(20) {
	case 0:
		m.crash()
		time.Sleep(c.some(time.Second))
	case 1:
		c.hold(l, -1)
		l.Broken(errFake)
		l.Release()
		return
	}
	c.hold(l, -1)
	l.Release()
	if c.chance(10) {
		l.Release()
	}
	c.mu.Lock()
	c.jobs++
	c.mu.Unlock()
}

func TestPoolRandom(t *testing.T) {
	seeds := 60
	if testing.Short() {
		seeds = 15
	}
	var total PoolStats
	jobs := 0
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 7))
			c := &chaos{t: t, f: newFake(t), r: r, held: map[*member]int{}}
			places := 1 + r.IntN(5)
			c.f.memoryMiB, c.f.vcpus = places*512, 64
			c.f.boot = func() time.Duration { return c.some(2 * time.Minute) }
			c.f.end = func() time.Duration { return c.some(40 * time.Second) }
			c.f.stuck = func(Spec) bool { return c.chance(5) }
			c.f.fail = func(Spec) error {
				if c.chance(15) {
					return errFake
				}
				return nil
			}
			p, err := NewPool(PoolOptions{
				Runtime: c.f, Spec: func(ctx context.Context, key SessionKey) (Spec, func(), error) {
					if c.chance(5) {
						return Spec{}, nil, errFake
					}
					return c.f.spec(ctx, key)
				},
				MemoryMiB: c.f.memoryMiB, VCPUs: c.f.vcpus, MachineMemoryMiB: 512, MachineVCPUs: 1 + r.IntN(3),
				JobsPerVCPU: 1 + r.IntN(2), MaxWaiting: 1 + r.IntN(20),
				Idle: time.Duration(1+r.IntN(10)) * time.Minute, Lifetime: time.Duration(5+r.IntN(60)) * time.Minute,
			})
			if err != nil {
				t.Fatal(err)
			}
			c.p = p
			var wg sync.WaitGroup
			for range 1 + c.number(40) {
				wg.Go(func() {
					for range 30 {
						c.job()
						time.Sleep(c.some(2 * time.Minute))
					}
				})
			}
			stop := make(chan struct{})
			watched := make(chan struct{})
			go func() {
				defer close(watched)
				for {
					select {
					case <-stop:
						return
					case <-time.After(c.some(5 * time.Second)):
					}
					if all := c.f.running(); len(all) > 0 && c.chance(1) {
						// Only what has started can crash.
						for _, m := range all {
							p.mu.Lock()
							started := p.count(func(o *member) bool { return o.machine == Machine(m) }) > 0
							p.mu.Unlock()
							if started {
								m.crash()
								break
							}
						}
					}
					synctest.Wait()
					c.mu.Lock()
					held := maps.Clone(c.held)
					c.mu.Unlock()
					p.check(t, held)
				}
			}()
			closes := c.chance(30)
			if closes { // in the middle of it all
				time.Sleep(5 * time.Minute)
				ctx, cancel := context.WithTimeout(context.Background(), c.some(time.Minute))
				if err := p.Close(ctx); err != nil {
					t.Error(err)
				}
				cancel()
				c.f.nothingLeft()
			}
			wg.Wait()
			close(stop)
			<-watched
			s := p.Stats()
			if s.Leases != 0 || s.Waiting != 0 || len(c.held) != 0 {
				t.Errorf("in the end: %+v, held %v", s, c.held)
			}
			if !closes {
				time.Sleep(2 * time.Hour)
				synctest.Wait()
				c.f.nothingLeft() // idle machines are gone
				if p.mu.Lock(); len(p.sessions) > 0 || len(p.members) > 0 {
					t.Errorf("%d sessions, %d members are kept", len(p.sessions), len(p.members))
				}
				p.mu.Unlock()
			}
			if err := p.Close(context.Background()); err != nil {
				t.Error(err)
			}
			c.f.nothingLeft()
			s = p.Stats()
			total.Boots += s.Boots
			total.BootFailures += s.BootFailures
			total.Crashes += s.Crashes
			total.Broken += s.Broken
			total.Evicted += s.Evicted
			total.Refused += s.Refused
			jobs += c.jobs
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d jobs, %+v", jobs, total)
	if total.Boots == 0 || total.BootFailures == 0 || total.Crashes == 0 || total.Broken == 0 || total.Evicted == 0 || total.Refused == 0 {
		t.Errorf("something never happened: %+v", total)
	}
}
