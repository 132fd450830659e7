package vmtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/vm"
)

// TestPool runs jobs of two tenants in a pool of real agents, one of which is
// killed and one given up.
func TestPool(t *testing.T) {
	agent, dir := buildAgent(t), shortDir(t)
	runtime := &Process{Agent: agent, Dir: dir}
	var mu sync.Mutex
	specs := 0
	p, err := vm.NewPool(vm.PoolOptions{
		Runtime: runtime,
		Spec: func(context.Context, vm.SessionKey) (vm.Spec, func(), error) {
			mu.Lock()
			defer mu.Unlock()
			specs++
			return vm.Spec{Rootfs: vm.Rootfs{Path: "/"}}, func() {
				mu.Lock()
				defer mu.Unlock()
				specs--
			}, nil
		},
		MemoryMiB: 2048, VCPUs: 4, MachineMemoryMiB: 1024, MachineVCPUs: 2,
		Turn: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	say := func(l *vm.Lease, tenant string) error {
		job, blobs := Shell("echo " + tenant)
		var r Ran
		result, err := l.Machine().Client().Exec(ctx, job, blobs, r.Sinks())
		if err != nil {
			return err
		}
		if result.ExitCode != 0 || r.Stdout.String() != tenant+"\n" {
			return fmt.Errorf("exit %d: %q, %q", result.ExitCode, &r.Stdout, &r.Stderr)
		}
		return nil
	}
	machines := map[vm.Machine]string{}
	jobs := func(n int) {
		t.Helper()
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				key := vm.SessionKey{Tenant: fmt.Sprint("tenant", i%3), Image: "image"}
				l, err := p.Acquire(ctx, key)
				if err != nil {
					t.Errorf("job %d: %v", i, err)
					return
				}
				defer l.Release()
				mu.Lock()
				if owner, known := machines[l.Machine()]; known && owner != key.Tenant {
					t.Errorf("a machine of %s for %s", owner, key.Tenant)
				}
				machines[l.Machine()] = key.Tenant
				mu.Unlock()
				if err := say(l, key.Tenant); err != nil {
					t.Errorf("job %d: %v", i, err)
				}
			})
		}
		wg.Wait()
	}
	jobs(12) // three tenants in two places
	if s := p.Stats(); s.Leases != 0 || s.Waiting != 0 || s.Crashes != 0 || s.Evicted == 0 {
		t.Errorf("%+v", s)
	}

	key := vm.SessionKey{Tenant: "tenant0", Image: "image"}
	l, err := p.Acquire(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	job, blobs := Shell("sleep 300")
	lost := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		close(started)
		_, err := l.Machine().Client().Exec(ctx, job, blobs, agentapi.Sinks{})
		lost <- err
	}()
	<-started
	if err := syscall.Kill(l.Machine().(*processMachine).cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var gone *agentapi.LostError
	if err := <-lost; !errors.As(err, &gone) {
		t.Errorf("a job on a machine that was killed: %v", err)
	}
	<-l.Machine().Done()
	l.Release()
	next, err := p.Acquire(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if next.Machine() == l.Machine() {
		t.Error("a machine that was killed was handed out")
	}
	if err := say(next, "tenant0"); err != nil {
		t.Error(err)
	}
	next.Broken(errors.New("it said so"))
	<-next.Machine().Done()
	if s := p.Stats(); s.Crashes != 1 || s.Broken != 1 {
		t.Errorf("%+v", s)
	}
	jobs(6)

	if l, err = p.Acquire(ctx, key); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
	if specs != 0 {
		t.Errorf("%d specs were not released", specs)
	}
	nothingLeft(t, agent, dir)
}
