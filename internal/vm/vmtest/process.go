// Package vmtest holds what tests of machines share: the suite that every
// vm.Runtime passes, and a runtime that isolates nothing. That one runs the
// agent as a plain process: the same code, the same namespaces around each job,
// but on this machine's own kernel. It needs root, and is linked into no
// program that is shipped.
package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/vm"
)

// Process is the runtime without isolation. Spec.Rootfs.Path is a directory: the
// root that jobs see. Memory and vCPUs of the spec are not enforced.
type Process struct {
	// Agent is the hpcc-agent program.
	Agent string
	// Dir holds a directory for each machine. Short: a socket lies below.
	Dir string

	mu       sync.Mutex
	machines map[string]bool
}

type processMachine struct {
	id     string
	client *agentapi.Client
	cmd    *exec.Cmd
	log    *tail
	done   chan struct{}

	mu     sync.Mutex
	ending bool // Stop or Kill was called
	err    error
}

// Info says that nothing is isolated.
func (p *Process) Info() vm.RuntimeInfo { return vm.RuntimeInfo{Name: "process"} }

// Start runs an agent.
func (p *Process) Start(ctx context.Context, spec vm.Spec) (vm.Machine, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	dir := filepath.Join(p.Dir, spec.ID)
	p.mu.Lock()
	taken := p.machines[spec.ID]
	if !taken {
		if p.machines == nil {
			p.machines = map[string]bool{}
		}
		p.machines[spec.ID] = true
	}
	p.mu.Unlock()
	if taken {
		return nil, fmt.Errorf("machine %s: %w", spec.ID, vm.ErrExists)
	}
	m, err := p.start(ctx, spec, dir)
	if err != nil {
		err = errors.Join(err, p.remove(spec.ID, dir))
		return nil, fmt.Errorf("machine %s: %w", spec.ID, err)
	}
	return m, nil
}

func (p *Process) remove(id, dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		p.mu.Lock()
		delete(p.machines, id)
		p.mu.Unlock()
	}
	return err
}

func (p *Process) start(ctx context.Context, spec vm.Spec, dir string) (*processMachine, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "agent")
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		return nil, err
	}
	store := spec.StoreBytes
	if store == 0 {
		store = int64(spec.MemoryMiB) << 20 / 4
	}
	m := &processMachine{id: spec.ID, log: &tail{}, done: make(chan struct{})}
	m.cmd = exec.Command(p.Agent, "-listen", socket, "-image", spec.Rootfs.Path, "-state", state, "-store", fmt.Sprint(store))
	m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Whatever an agent is born with, its jobs are not.
	outside, err := os.Open("/")
	if err != nil {
		return nil, err
	}
	defer outside.Close()
	m.cmd.ExtraFiles = slices.Repeat([]*os.File{outside}, 8)
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = m.cmd.Wait() // its ProcessState tells
		m.ended(func() error { return p.remove(spec.ID, dir) })
	}()
	var dialer net.Dialer
	client, err := agentapi.Connect(ctx, func(ctx context.Context) (net.Conn, error) {
		select {
		case <-m.done:
			return nil, fmt.Errorf("%w: %s", agentapi.ErrGone, m.log)
		default:
			return dialer.DialContext(ctx, "unix", socket)
		}
	})
	if err != nil {
		_ = m.cmd.Process.Kill()
		<-m.done
		return nil, err
	}
	m.client = client
	return m, nil
}

// ended is called once, when the process has.
func (m *processMachine) ended(remove func() error) {
	m.mu.Lock()
	if !m.ending {
		m.err = fmt.Errorf("%w: %s: %s", vm.ErrCrashed, m.cmd.ProcessState, m.log)
	}
	if err := remove(); err != nil {
		m.err = errors.Join(m.err, err)
	}
	m.mu.Unlock()
	close(m.done)
}

func (m *processMachine) Client() *agentapi.Client { return m.client }
func (m *processMachine) Done() <-chan struct{}    { return m.done }

func (m *processMachine) Info() vm.Info {
	return vm.Info{ID: m.id, Runtime: vm.RuntimeInfo{Name: "process"}, Agent: m.client.Hello()}
}

func (m *processMachine) Err() error {
	select {
	case <-m.done:
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.err
	default:
		return nil
	}
}

func (m *processMachine) end() {
	m.mu.Lock()
	m.ending = true
	m.mu.Unlock()
}

func (m *processMachine) Stop(ctx context.Context) error {
	m.end()
	// Whether it was heard shows in the process's end.
	_ = m.client.Shutdown(ctx)
	select {
	case <-m.done:
	case <-ctx.Done():
		return m.Kill()
	}
	_ = m.client.Close()
	return m.left()
}

func (m *processMachine) Kill() error {
	m.end()
	// Jobs end with the agent: their first processes see its socket close.
	_ = m.cmd.Process.Kill()
	<-m.done
	_ = m.client.Close()
	return m.left()
}

// left is what could not be removed.
func (m *processMachine) left() error {
	if err := m.Err(); !errors.Is(err, vm.ErrCrashed) {
		return err
	}
	return nil
}

// Sweep removes the directories of agents that ended with their test.
func (p *Process) Sweep(context.Context) error {
	entries, err := os.ReadDir(p.Dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(p.Dir, e.Name())))
	}
	return errors.Join(errs...)
}

// tail keeps the last of what an agent prints.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b.Write(p)
	if over := t.b.Len() - 4096; over > 0 {
		t.b.Next(over)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}
