package vm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/agentapi"
)

// fake is a runtime that keeps the interface's contract and has no machines. It
// checks what a pool may never do.
type fake struct {
	t                *testing.T
	memoryMiB, vcpus int // that all machines may have
	// boot and end are how long that takes; fail says whether a start fails.
	boot, end func() time.Duration
	fail      func(Spec) error
	stuck     func(Spec) bool // does not end in order, but when killed

	mu       sync.Mutex
	machines map[string]*fakeMachine // from Start's beginning to the end
	starts   int
	specs    int // that were made and not released
}

type fakeMachine struct {
	fake  *fake
	spec  Spec
	done  chan struct{}
	begin sync.Once // of the end; held for no time
	err   error
	over  time.Time
}

func newFake(t *testing.T) *fake {
	return &fake{
		t: t, memoryMiB: 1 << 30, vcpus: 1 << 30, machines: map[string]*fakeMachine{},
		boot: func() time.Duration { return 100 * time.Millisecond },
		end:  func() time.Duration { return 10 * time.Millisecond },
		fail: func(Spec) error { return nil }, stuck: func(Spec) bool { return false },
	}
}

// spec is PoolOptions.Spec. The rootfs' path tells whose machine it is.
func (f *fake) spec(_ context.Context, key SessionKey) (Spec, func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.specs++
	var once sync.Once
	return Spec{Rootfs: Rootfs{Path: fmt.Sprintf("%s/%s/%v", key.Tenant, key.Image, key.Write)}}, func() {
		once.Do(func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.specs--
		})
	}, nil
}

func (f *fake) Start(ctx context.Context, spec Spec) (Machine, error) {
	if err := spec.Check(); err != nil {
		f.t.Error(err)
		return nil, err
	}
	m := &fakeMachine{fake: f, spec: spec, done: make(chan struct{})}
	f.mu.Lock()
	f.starts++
	if f.machines[spec.ID] != nil {
		f.t.Errorf("two machines %s", spec.ID)
	}
	f.machines[spec.ID] = m
	memory, vcpus := 0, 0
	for _, m := range f.machines {
		memory += m.spec.MemoryMiB
		vcpus += m.spec.VCPUs
	}
	if memory > f.memoryMiB || vcpus > f.vcpus {
		f.t.Errorf("%d machines have %d MiB and %d vCPUs", len(f.machines), memory, vcpus)
	}
	f.mu.Unlock()
	err := f.fail(spec)
	select {
	case <-time.After(f.boot()):
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		f.forget(spec.ID)
		return nil, fmt.Errorf("machine %s: %w", spec.ID, err)
	}
	return m, nil
}

func (f *fake) forget(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.machines, id)
}

func (f *fake) Sweep(context.Context) error { return nil }
func (f *fake) Info() RuntimeInfo           { return RuntimeInfo{Name: "fake"} }

// running lists the machines that there are.
func (f *fake) running() (list []*fakeMachine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.machines {
		list = append(list, m)
	}
	return list
}

// nothingLeft fails the test if something was not given back.
func (f *fake) nothingLeft() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.machines) > 0 || f.specs > 0 {
		f.t.Errorf("%d machines and %d specs are left", len(f.machines), f.specs)
	}
}

func (m *fakeMachine) Client() *agentapi.Client { return nil }
func (m *fakeMachine) Info() Info               { return Info{ID: m.spec.ID} }
func (m *fakeMachine) Done() <-chan struct{}    { return m.done }

func (m *fakeMachine) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// crash ends the machine by itself.
func (m *fakeMachine) crash() { m.finish(ErrCrashed, 0) }

// finish ends the machine as its first caller says, and waits for that.
func (m *fakeMachine) finish(err error, after time.Duration) {
	first := false
	m.begin.Do(func() { first = true })
	if !first {
		// Not for the Once: who waits for a mutex stops a bubble's clock, and
		// with it the sleep of who holds it.
		<-m.done
		return
	}
	time.Sleep(after)
	m.err, m.over = err, time.Now()
	m.fake.forget(m.spec.ID)
	close(m.done)
}

func (m *fakeMachine) Stop(ctx context.Context) error {
	if m.fake.stuck(m.spec) {
		select {
		case <-m.done:
			return nil
		case <-ctx.Done():
			return m.Kill()
		}
	}
	select {
	case <-time.After(m.fake.end()):
	case <-ctx.Done():
	}
	return m.Kill()
}

func (m *fakeMachine) Kill() error {
	m.finish(nil, time.Millisecond)
	return nil
}

// ended tells whether a machine is over.
func ended(m Machine) bool {
	select {
	case <-m.Done():
		return true
	default:
		return false
	}
}

var errFake = errors.New("no such luck")
