package worker

import (
	"context"
	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/vm"
)

// Pooled are the machines of a pool.
type Pooled struct {
	Pool *vm.Pool
	// Prepare has an image made ready, before there is a wait for a machine that
	// holds a place meanwhile; it may be nil. Errors are as those of Acquire.
	Prepare func(ctx context.Context, image string) error
}

// Acquire implements Machines.
func (p Pooled) Acquire(ctx context.Context, tenant, image string) (Lease, error) {
	if p.Prepare != nil {
		if err := p.Prepare(ctx, image); err != nil {
			return nil, err
		}
	}
	// Every task may write its tenant's results.
	lease, err := p.Pool.Acquire(ctx, vm.SessionKey{Tenant: tenant, Image: image, Write: true})
	if err != nil {
		return nil, err
	}
	return pooledLease{lease}, nil
}

// Load implements Machines.
func (p Pooled) Load() Load {
	s := p.Pool.Stats()
	l := Load{
		Capacity: s.Capacity, Running: s.Leases, Waiting: s.Waiting,
		Booting: s.Booting, Ready: s.Ready, Ending: s.Draining + s.Ending,
		Boots: s.Boots, BootFailures: s.BootFailures, Crashes: s.Crashes + s.Broken,
	}
	for _, k := range s.Sessions {
		l.Sessions = append(l.Sessions, Session{k.Tenant, k.Image})
	}
	return l
}

type pooledLease struct{ *vm.Lease }

func (l pooledLease) Exec(ctx context.Context, job agentapi.Job, blobs agentapi.Blobs, sinks agentapi.Sinks) (*agentapi.Result, error) {
	return l.Machine().Client().Exec(ctx, job, blobs, sinks)
}

func (l pooledLease) Info() vm.Info { return l.Machine().Info() }
