package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// helper is the first process of one job, from before its job is known: starting
// a program with namespaces, and making its mounts, takes longer than all else
// that hpcc does for a small compile. So some wait for jobs that are yet to come;
// each takes some megabytes. No helper ever has a second job.
type helper struct {
	slot           int
	setup          setup
	group          *cgroup
	cmd            *exec.Cmd
	control        *os.File
	out            *json.Encoder
	in             *json.Decoder
	listener       int // of the filter; -1 once it is the recorder's
	stdout, stderr *os.File
	ended          chan struct{}
	once           sync.Once
	err            error
}

// spares are the helpers that wait for a job.
type spares struct {
	ready chan *helper

	mu       sync.Mutex
	starting int
	closed   bool
	end      chan struct{}  // is closed with it
	all      sync.WaitGroup // goroutines that start one
}

var errEnding = errors.New("the runner is closed")

func newSpares() spares {
	return spares{ready: make(chan *helper, runtime.NumCPU()), end: make(chan struct{})}
}

// pause is how long the start of a helper waits while others wait for jobs: the
// one that has just ended is on its way to the host, and to whom waits for it.
const pause = 20 * time.Millisecond

// setupOf is what the world of a job is made of.
func (r *Runner) setupOf(l *agentv1.Limits) setup {
	s := setup{Lower: r.Image, Stage: r.Stage, Size: endless, Inodes: endless >> 20, Hostname: agentv1.Hostname}
	if r.Cgroup == "" {
		// Nothing else would stop a job between two looks at its disk.
		s.Size, s.Inodes = l.GetDiskBytes()+spare, 2*maxInodes
	}
	return s
}

// take returns a helper for a job, and its slot with it: one that waits, or a new
// one. Where all slots are taken it waits for the first that is free.
func (r *Runner) take(ctx context.Context, s setup) (*helper, error) {
	for {
		var h *helper
		select {
		case h = <-r.spares.ready:
		default:
			select {
			case h = <-r.spares.ready:
			case slot := <-r.slots:
				h, err := r.startHelper(ctx, slot, s)
				if err != nil {
					r.slots <- slot
				}
				return h, err
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if h.alive() && h.setup == s {
			return h, nil
		}
		err := h.end()
		r.slots <- h.slot
		if err != nil {
			return nil, err
		}
	}
}

// alive tells whether the helper has not been killed, for want of memory.
func (h *helper) alive() bool {
	select {
	case <-h.ended:
		return false
	default:
		return true
	}
}

// spare starts a helper for the next job, unless enough of them wait. It does not
// wait for it.
func (r *Runner) spare(s setup) {
	r.spares.mu.Lock()
	defer r.spares.mu.Unlock()
	if r.spares.closed || r.spares.starting+len(r.spares.ready) >= cap(r.spares.ready) {
		return
	}
	var slot int
	select {
	case slot = <-r.slots:
	default: // all are at work
		return
	}
	r.spares.starting++
	wait := time.Duration(0)
	if len(r.spares.ready) > 0 {
		wait = pause
	}
	r.spares.all.Go(func() {
		var h *helper
		err := errEnding
		select {
		case <-time.After(wait):
			h, err = r.startHelper(context.Background(), slot, s)
		case <-r.spares.end:
		}
		r.spares.mu.Lock()
		defer r.spares.mu.Unlock()
		r.spares.starting--
		if err != nil {
			// The next job starts its own, and tells why that fails.
			r.slots <- slot
			return
		}
		r.spares.ready <- h // there is room: see above
	})
}

// Close ends the helpers that wait for jobs. No job runs any more, or ever will.
func (r *Runner) Close() (err error) {
	r.spares.mu.Lock()
	if !r.spares.closed {
		r.spares.closed = true
		close(r.spares.end)
	}
	r.spares.mu.Unlock()
	r.spares.all.Wait()
	for {
		select {
		case h := <-r.spares.ready:
			err = errors.Join(err, h.end())
			r.slots <- h.slot
		default:
			return err
		}
	}
}

// end ends the helper and, by that, all of its job; nothing of it is left then.
func (h *helper) end() error {
	h.once.Do(func() {
		h.control.Close()
		<-h.ended
		h.stdout.Close()
		h.stderr.Close()
		if h.listener >= 0 {
			unix.Close(h.listener)
		}
		h.err = h.group.remove()
	})
	return h.err
}

// startHelper starts a helper and has it make its job's root. It is killed when
// ctx ends before that is done.
func (r *Runner) startHelper(ctx context.Context, slot int, s setup) (_ *helper, err error) {
	h := &helper{slot: slot, setup: s, listener: -1, ended: make(chan struct{})}
	if r.Cgroup != "" {
		if h.group, err = newCgroup(r.Cgroup, fmt.Sprintf("job-%d", slot)); err != nil {
			return nil, err
		}
	}
	if err := h.start(); err != nil {
		return nil, errors.Join(err, h.group.remove())
	}
	go func() {
		_ = h.cmd.Wait()
		close(h.ended)
	}()
	defer context.AfterFunc(ctx, func() { _ = h.cmd.Process.Kill() })()
	var ready report
	if err = h.out.Encode(s); err == nil {
		err = h.in.Decode(&ready)
	}
	switch {
	case err != nil:
		err = helperGone(err)
	case ready.Error != "":
		err = errors.New("making the job's root: " + ready.Error)
	default:
		if h.listener, err = h.fetch(ready.Listener); err == nil {
			return h, nil
		}
	}
	return nil, errors.Join(err, h.end())
}

// fetch copies a descriptor of the helper's.
func (h *helper) fetch(fd int) (int, error) {
	pidfd, err := unix.PidfdOpen(h.cmd.Process.Pid, 0)
	if err != nil {
		return -1, fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(pidfd)
	got, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return -1, fmt.Errorf("taking the filter's descriptor: %w", err)
	}
	return got, nil
}

func helperGone(err error) error {
	return fmt.Errorf("the job's first process is gone: %w", err)
}

// start starts the process.
func (h *helper) start() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	theirs := os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	if err := unix.SetNonblock(pair[0], true); err != nil {
		return err
	}
	h.control = os.NewFile(uintptr(pair[0]), "control")
	stdout, stdoutW, err := os.Pipe()
	if err != nil {
		h.control.Close()
		return err
	}
	defer stdoutW.Close()
	stderr, stderrW, err := os.Pipe()
	if err != nil {
		h.control.Close()
		stdout.Close()
		return err
	}
	defer stderrW.Close()
	h.cmd = &exec.Cmd{
		// The name in the initramfs is gone once the agent has its own root.
		Path: "/proc/self/exe", Args: []string{HelperName},
		// The helper lives for one job: collecting garbage costs more than it.
		Env:    []string{"GOGC=off", "GOMEMLIMIT=64MiB"},
		Dir:    "/",
		Stderr: os.Stderr, ExtraFiles: []*os.File{theirs, stdoutW, stderrW},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET,
			Setsid:     true,
		},
	}
	if h.group != nil {
		h.cmd.SysProcAttr.UseCgroupFD, h.cmd.SysProcAttr.CgroupFD = true, int(h.group.f.Fd())
	}
	if err := h.cmd.Start(); err != nil {
		h.control.Close()
		stdout.Close()
		stderr.Close()
		return fmt.Errorf("starting the job's first process: %w", err)
	}
	h.stdout, h.stderr = stdout, stderr
	h.in, h.out = json.NewDecoder(h.control), json.NewEncoder(h.control)
	return nil
}
