//go:build linux

package firecracker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/jail"
	"hpcc.dev/hpcc/internal/vm"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// guestCID is the same for all machines: a CID is known only to its own
// monitor. 0 to 2 have meanings.
const guestCID = 3

// rootDrive is the only drive's name.
const rootDrive = "root"

// machine implements vm.Machine.
type machine struct {
	*monitor
	runtime *Runtime
	info    vm.Info
	client  *agentapi.Client
	// asked says that the end is our doing.
	asked atomic.Bool
	done  chan struct{}
	// err and left are set once done is closed: why it ended, and what of it
	// could not be removed.
	err, left error
}

// Start implements vm.Runtime.
func (r *Runtime) Start(ctx context.Context, spec vm.Spec) (vm.Machine, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	args, err := r.bootArgs(&spec)
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", spec.ID, err)
	}
	began := time.Now()
	p, err := r.jail(ctx, spec.ID, spec.Rootfs.Path, int64(spec.MemoryMiB+overheadMiB)<<20)
	if err != nil {
		return nil, fmt.Errorf("machine %s: %w", spec.ID, err)
	}
	m := &machine{monitor: p, runtime: r, done: make(chan struct{})}
	if err := m.boot(ctx, &spec, args); err != nil {
		died := p.died()
		left := p.end()
		if died {
			err = p.because(err)
		} else {
			err = p.why(err)
		}
		return nil, fmt.Errorf("machine %s: %w", spec.ID, errors.Join(err, left))
	}
	m.info.Agent = m.client.Hello()
	r.Log.Info("machine started", "id", spec.ID, "tenant", spec.Tenant, "uid", p.jail.UID, "pid", p.jail.PID, "took", time.Since(began))
	go m.watch(spec.ID, spec.Tenant)
	return m, nil
}

// boot configures the machine, starts it, and waits for its agent.
func (m *machine) boot(ctx context.Context, spec *vm.Spec, args string) error {
	version, err := m.version(ctx)
	if err != nil {
		return err
	}
	want := config{
		Machine: machineConfig{VCPUs: spec.VCPUs, MemoryMiB: spec.MemoryMiB},
		Boot:    bootSource{"/" + jail.Names[jail.Kernel], "/" + jail.Names[jail.Initrd], args},
		Drives:  []drive{{ID: rootDrive, Path: "/" + jail.Names[jail.Drive], ReadOnly: true}},
		Vsock:   &vsock{guestCID, "/" + jail.VsockName},
	}
	for _, put := range []struct {
		path string
		body any
	}{
		{"/machine-config", want.Machine},
		{"/boot-source", want.Boot},
		{"/drives/" + rootDrive, want.Drives[0]},
		{"/vsock", want.Vsock},
	} {
		if err := m.api.put(ctx, put.path, put.body); err != nil {
			return err
		}
	}
	var got config
	if err := m.api.get(ctx, "/vm/config", &got); err != nil {
		return err
	}
	nics, err := check(&got, &want)
	if err != nil {
		return err
	}
	if err := m.api.put(ctx, "/actions", action{"InstanceStart"}); err != nil {
		return err
	}
	info := m.runtime.info
	info.Version = version
	m.info = vm.Info{
		ID: spec.ID, Runtime: info, NICs: nics,
		Digests: map[string]string{
			"vmm":    fmt.Sprintf("sha256:%x", m.jail.Digest),
			"kernel": "sha256:" + m.runtime.KernelDigest.Hex(),
			"initrd": "sha256:" + m.runtime.InitrdDigest.Hex(),
		},
	}
	m.client, err = agentapi.Connect(ctx, m.dialAgent)
	return err
}

// check tells whether the monitor has configured what was asked, and nothing
// that an earlier or later request might have added: above all no network.
func check(got, want *config) (nics []string, err error) {
	switch {
	case len(got.Networks) != 0:
		return nil, fmt.Errorf("the machine has %d network interfaces", len(got.Networks))
	case len(got.MMDS) != 0 && string(got.MMDS) != "null":
		return nil, errors.New("the machine has a metadata service")
	case got.Vsock == nil || *got.Vsock != *want.Vsock:
		return nil, fmt.Errorf("the machine's vsock device is %+v, want %+v", got.Vsock, want.Vsock)
	case !slices.Equal(got.Drives, want.Drives):
		return nil, fmt.Errorf("the machine's drives are %+v, want %+v", got.Drives, want.Drives)
	case got.Boot != want.Boot:
		return nil, errors.New("the machine boots something else")
	case got.Machine != want.Machine:
		return nil, fmt.Errorf("the machine is %+v, want %+v", got.Machine, want.Machine)
	}
	return nil, nil
}

// dialAgent makes a connection to the agent's port.
func (m *machine) dialAgent(ctx context.Context) (net.Conn, error) {
	c, err := m.jail.Connect(ctx, jail.ConnectVsock)
	if err != nil {
		select {
		case <-m.jail.Done():
			return nil, fmt.Errorf("%w: %w", agentapi.ErrGone, err)
		default:
			return nil, err
		}
	}
	return agentapi.DialVsock(ctx, c, agentv1.Port)
}

// watch notices the machine's end.
func (m *machine) watch(id, tenant string) {
	<-m.jail.Done()
	_ = m.client.Close()
	m.api.close()
	// All writers are gone; what they wrote is still on its way.
	select {
	case <-m.console.done:
	case <-time.After(time.Second):
	}
	end := m.jail.Ending()
	m.left = end.Err
	if !m.asked.Load() {
		m.err = m.because(vm.ErrCrashed)
	}
	m.runtime.Log.Info("machine ended", "id", id, "tenant", tenant, "err", m.err, "left", m.left, "memory_peak", end.Peak)
	close(m.done)
}

// Client implements vm.Machine.
func (m *machine) Client() *agentapi.Client { return m.client }

// Info implements vm.Machine.
func (m *machine) Info() vm.Info {
	info := m.info
	info.Digests, info.NICs = maps.Clone(info.Digests), slices.Clone(info.NICs)
	info.Agent = m.client.Hello()
	return info
}

// Done implements vm.Machine.
func (m *machine) Done() <-chan struct{} { return m.done }

// Err implements vm.Machine.
func (m *machine) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// Stop implements vm.Machine.
func (m *machine) Stop(ctx context.Context) error {
	m.asked.Store(true)
	if err := m.client.Shutdown(ctx); err != nil {
		m.runtime.Log.Warn("agent-shutdown-failed", "id", m.info.ID, "err", err)
		return m.Kill()
	}
	select {
	case <-m.done:
		return m.left
	case <-ctx.Done():
		m.runtime.Log.Warn("agent-shutdown-slow", "id", m.info.ID)
		return m.Kill()
	}
}

// Kill implements vm.Machine.
func (m *machine) Kill() error {
	m.asked.Store(true)
	m.jail.End()
	<-m.done
	return m.left
}

var _ vm.Machine = (*machine)(nil)
var _ vm.Runtime = (*Runtime)(nil)
