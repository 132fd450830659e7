package worker

import (
	"context"
	"fmt"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/vm"
)

// Machines is where jobs run.
type Machines interface {
	// Acquire returns a machine of the tenant's with the image, which may have to
	// be booted or waited for. Errors: *vm.FullError, *ImageError, ctx's, and others
	// that another worker, or a later time, may not have.
	Acquire(ctx context.Context, tenant, image string) (Lease, error)
	// Load is how busy they are.
	Load() Load
}

// Lease is a machine, or a share of one, that a job has until Release.
type Lease interface {
	// Exec is agentapi.Client's.
	Exec(ctx context.Context, job agentapi.Job, blobs agentapi.Blobs, sinks agentapi.Sinks) (*agentapi.Result, error)
	Info() vm.Info
	// Broken says that the machine is not to be used any more, by anybody: it is
	// killed.
	Broken(err error)
	// Release is called once the job has ended; more than once does nothing.
	Release()
}

// Load says how busy a worker's machines are.
type Load struct {
	// Capacity is how many jobs can run at once, Running how many do, Waiting how
	// many would like to.
	Capacity, Running, Waiting int
	// Booting, Ready and Ending count machines.
	Booting, Ready, Ending int
	// Since the start. A crash is a machine that ended by itself, or broke the
	// contract.
	Boots, BootFailures, Crashes uint64
	// Sessions have a machine that is ready.
	Sessions []Session
}

// Session is what jobs share that share a machine.
type Session struct {
	Tenant string `json:"tenant"`
	Image  string `json:"image"`
}

// ImageError says that an image cannot be used here: another try ends the same.
type ImageError struct {
	Image string
	Err   error
}

func (e *ImageError) Error() string { return fmt.Sprintf("image %s: %v", e.Image, e.Err) }
func (e *ImageError) Unwrap() error { return e.Err }
