// Package vm says what a machine is that runs a tenant's compiles, whatever
// boots it. A Runtime starts machines from a root file system; a Machine is one
// that runs, with its agent (package agentapi) answering. A Pool shares machines
// between jobs. Each way to isolate is a package below this one; vmtest holds the
// suite that every one of them passes.
package vm

import (
	"context"
	"errors"
	"fmt"

	"hpcc.dev/hpcc/internal/agentapi"
)

// Runtime starts machines. It may be used by many goroutines at once.
//
// A Runtime retries nothing that could succeed elsewhere or later: whether a
// failed start is tried again, and on which worker, is its caller's decision.
// Below that it does redial an agent that does not answer yet.
type Runtime interface {
	// Start makes a machine of spec and returns once its agent has answered; ctx
	// bounds the start alone, and its end later does nothing to the machine.
	// After an error nothing of the machine is left: no process, mount, cgroup,
	// file or name; the same ID may be used again. Two machines of one ID at the
	// same time are an error (ErrExists).
	Start(ctx context.Context, spec Spec) (Machine, error)

	// Sweep removes what machines left whose owner was killed: processes,
	// mounts, cgroups, files. To be called once, before the first Start; it
	// takes every machine below the runtime's directories for an orphan. It
	// goes on after an error and returns all of them joined; what could not be
	// removed keeps its ID from being used.
	Sweep(ctx context.Context) error

	// Info says what isolates, for audit rows and for people.
	Info() RuntimeInfo
}

// Machine is a machine that was started. All methods may be called at any time,
// from many goroutines, also after its end.
type Machine interface {
	// Client talks to the machine's agent. After the machine's end its calls
	// return *agentapi.LostError.
	Client() *agentapi.Client

	// Info says what runs, and does not change.
	Info() Info

	// Done is closed once the machine has ended and nothing of it is left.
	Done() <-chan struct{}

	// Err says how it ended: nil before Done, and after Stop or Kill have ended
	// it; else an error that wraps ErrCrashed and says why, as far as can be
	// told (out of memory, killed by whom, the last lines of its console).
	Err() error

	// Stop ends the machine in order: jobs are cancelled, the agent powers off.
	// It returns when Done is closed. If that has not happened when ctx ends, it
	// kills. Nil means that nothing is left; an error says what is.
	Stop(ctx context.Context) error

	// Kill ends the machine at once, and returns as Stop does. Running calls of
	// Client return *agentapi.LostError.
	Kill() error
}

// ErrExists says that a machine of that ID runs, or that something of one is
// left which Sweep could not remove.
var ErrExists = errors.New("a machine of this id exists")

// ErrCrashed says that a machine ended on its own.
var ErrCrashed = errors.New("the machine ended on its own")

// Spec describes a machine to start.
type Spec struct {
	// ID is unique among the runtime's machines: 1 to MaxID of [a-z0-9-], no
	// hyphen first or last. It names processes, directories and cgroups.
	ID string
	// Tenant is whose machine it is, for logs; it opens nothing.
	Tenant string
	Rootfs Rootfs
	VCPUs  int // 1 to 32
	// MemoryMiB is the machine's memory; 128 at least.
	MemoryMiB int
	// StoreBytes is the limit of the agent's blob store; 0 is the agent's
	// default, a quarter of the memory. It is kept in the machine's memory.
	StoreBytes int64
}

// MaxID keeps the path of a machine's sockets under the 108 bytes of
// sockaddr_un.
const MaxID = 32

// Rootfs is the root file system of jobs: a file with an ext4 image and its
// dm-verity tree behind it. The machine never writes to it.
type Rootfs struct {
	Path       string // absolute, on the host; the tenant's own copy
	DataBlocks int64  // blocks of 4096 bytes before the verity superblock
	RootHash   string // hex
	Salt       string // hex; "" is no salt
}

// Check tells whether a spec is possible at all.
func (s *Spec) Check() error {
	if len(s.ID) == 0 || len(s.ID) > MaxID {
		return fmt.Errorf("machine id %q: want 1 to %d characters", s.ID, MaxID)
	}
	if s.ID[0] == '-' || s.ID[len(s.ID)-1] == '-' {
		return fmt.Errorf("machine id %q begins or ends with a hyphen", s.ID)
	}
	for _, c := range s.ID {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("machine id %q: want only a-z, 0-9 and -", s.ID)
		}
	}
	if s.VCPUs < 1 || s.VCPUs > 32 {
		return fmt.Errorf("machine %s: %d vCPUs, want 1 to 32", s.ID, s.VCPUs)
	}
	if s.MemoryMiB < 128 {
		return fmt.Errorf("machine %s: %d MiB of memory, want 128 at least", s.ID, s.MemoryMiB)
	}
	if s.StoreBytes < 0 {
		return fmt.Errorf("machine %s: a negative limit of the blob store", s.ID)
	}
	return nil
}

// RuntimeInfo says what isolates.
type RuntimeInfo struct {
	Name string // "firecracker"
	// Version of the virtual machine monitor, "" if there is none.
	Version string
	// Isolated says that machines are hardware-virtualised. Only test runtimes
	// are not.
	Isolated bool
}

// Info is what runs in a machine, for the audit row.
type Info struct {
	ID      string
	Runtime RuntimeInfo
	// Digests of what runs besides the image, by name: "vmm", "kernel",
	// "initrd"; in the form sha256:HEX.
	Digests map[string]string
	// NICs are the network interfaces of the machine's configuration, as the
	// monitor itself tells it. Empty, or Start has failed.
	NICs []string
	// Agent is what the agent said of itself and its kernel. The guest says it:
	// believe nothing of it that matters.
	Agent agentapi.Hello
}
