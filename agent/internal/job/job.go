// Package job runs one compile in a world of its own: fresh namespaces (PID,
// mount, IPC, UTS, network), the image under an overlay that vanishes with it, a
// user of its own without any privilege, limits, a filter of system calls, and a
// record of every name that it looked up below the project roots.
package job

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/agent/internal/blob"
	"hpcc.dev/hpcc/agent/internal/lookup"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// Config is what all jobs of a machine share.
type Config struct {
	// Image is the directory where the image is mounted read-only.
	Image string
	// Stage is an empty directory; each job mounts on it in its own namespace.
	Stage string
	// Cgroup is the cgroup v2 directory to make jobs' groups in, with the
	// controllers memory and pids enabled for its children. Without it jobs have
	// limits per process only, which is for tests.
	Cgroup string
	Store  *blob.Store
}

// Runner runs jobs, many at once.
type Runner struct {
	Config
	slots  chan int
	spares spares
}

// MaxJobs is how many jobs run at once; further ones wait.
const MaxJobs = 64

// firstUID is above all that images use. Each job that runs has another one.
const firstUID = 0x20000

// New returns a runner. Close it when it is not needed any more.
func New(c Config) *Runner {
	r := &Runner{Config: c, slots: make(chan int, MaxJobs), spares: newSpares()}
	for i := range MaxJobs {
		r.slots <- i
	}
	return r
}

// Sink takes what a job prints and leaves, and at last what it came to. An error
// ends the job. Stdio is called from several goroutines, though not at once.
type Sink interface {
	Stdio(stream agentv1.Stdio_Stream, data []byte) error
	Output(index int, data []byte) error
	// Ended is called once all of the job's processes are dead, unless Run fails;
	// what else was the job's, its root and its first process, goes behind it.
	Ended(result *agentv1.ExecResult, lookups []lookup.Lookup) error
}

// RefusedError says that a job cannot be run as it is described.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

// run is one job under way.
type run struct {
	*Runner
	header *agentv1.ExecHeader
	sink   Sink
	uid    int

	*helper
	tree *tree

	mu     sync.Mutex // of stdio
	stdio  uint64
	err    error // of the sink
	limit  atomic.Int32
	killed chan struct{}
	once   sync.Once
}

// Run runs the job of a header that was checked and whose inputs are pinned in
// the store, and returns once nothing of it is left: some time after its end.
// When ctx ends the job is killed.
func (r *Runner) Run(ctx context.Context, header *agentv1.ExecHeader, sink Sink) error {
	world := r.setupOf(header.GetLimits())
	h, err := r.take(ctx, world)
	if ctx.Err() != nil && err != nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	j := &run{Runner: r, header: header, sink: sink, uid: firstUID + h.slot, helper: h, killed: make(chan struct{})}
	err = j.run(ctx)
	r.slots <- h.slot
	if err == nil {
		r.spare(world)
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return err
}

// kill ends all of the job at once: the kernel kills a PID namespace with its
// first process.
func (j *run) kill() {
	j.once.Do(func() {
		close(j.killed)
		_ = j.cmd.Process.Kill()
	})
}

func (j *run) run(ctx context.Context) (err error) {
	// However it ended: nothing of the job is left after this.
	defer func() { err = errors.Join(err, j.end()) }()
	if err := j.group.limit(j.header.GetLimits().GetMemoryBytes(), j.header.GetLimits().GetProcesses()); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, j.kill)()

	var readers sync.WaitGroup
	readers.Go(func() { j.read(j.stdout, agentv1.Stdio_STREAM_STDOUT) })
	readers.Go(func() { j.read(j.stderr, agentv1.Stdio_STREAM_STDERR) })
	defer func() {
		if err != nil {
			j.kill()
		}
		readers.Wait()
	}()

	if err := j.furnish(); err != nil {
		return err
	}
	defer unix.Close(j.tree.root)
	recorder := lookup.NewRecorder(j.tree.root, j.header.GetRoots(), uint32(j.uid), lookup.Limits{Count: agentv1.MaxLookups, Bytes: agentv1.MaxLookupBytes})
	recorded, err := j.launch(recorder)
	if err != nil {
		return err
	}
	begin := time.Now()
	stop := j.watch(begin)

	var last report
	err = j.in.Decode(&last)
	wall := time.Since(begin)
	readers.Wait()
	// The job has ended: its outputs may take longer than it was given.
	stop()
	if j.err != nil {
		// Before anything else: the stream is broken, and with it the job.
		j.kill()
		<-recorded
		return j.err
	}
	result := &agentv1.ExecResult{Usage: &agentv1.Usage{WallMicros: wall.Microseconds()}}
	switch {
	case err == nil && last.Error != "":
		j.kill()
		<-recorded
		return &RefusedError{errors.New(last.Error)}
	case err == nil && last.Exited != nil:
		j.exited(result, last.Exited)
	}
	failed := j.countLimits()
	if failed == nil && err == nil && last.Exited != nil && j.limit.Load() == 0 {
		failed = j.outputs(result)
	}
	if failed != nil {
		j.kill()
		<-recorded
		return failed
	}
	result.Limit = agentv1.ExecResult_Limit(j.limit.Load())
	if last.Exited != nil {
		// All of the job's processes are dead. What the helper still holds takes a
		// while to go, and is nothing to wait for.
		if err := j.tell(result, recorder); err != nil {
			j.kill()
			<-recorded
			return err
		}
	}
	// The helper ends, and with it the last process that has the filter.
	j.control.Close()
	<-j.ended
	if err := <-recorded; err != nil {
		return fmt.Errorf("recording lookups: %w", err)
	}
	if last.Exited != nil {
		return nil
	}
	if result.Limit == 0 {
		return fmt.Errorf("the job's first process ended: %v, %w", j.cmd.ProcessState, err)
	}
	// Killed at a limit.
	result.Signal = int32(unix.SIGKILL)
	if usage, ok := j.cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		setUsage(result.Usage, usage.Utime.Nano(), usage.Stime.Nano(), usage.Maxrss)
	}
	return j.tell(result, recorder)
}

// furnish puts the inputs into the root that the helper has made.
func (j *run) furnish() error {
	root, err := openRoot(j.cmd.Process.Pid)
	if err != nil {
		return helperGone(err)
	}
	j.tree = &tree{root: root, uid: j.uid}
	err = j.tree.makeRoots(j.header.GetRoots())
	if err == nil {
		err = j.fits()
	}
	if err == nil {
		err = j.tree.materialise(j.header.GetRoots(), j.header.GetInputs(), j.Store)
	}
	if err == nil && j.overDisk() {
		err = errNoRoom
	}
	if cwd := j.header.GetCwd(); err == nil {
		if r := agentv1.RootOf(j.header.GetRoots(), cwd); r != "" {
			err = j.makeCwd(r, cwd)
		}
	}
	if err != nil {
		unix.Close(root)
		return &RefusedError{err}
	}
	return nil
}

// makeCwd makes the working directory if it is not there. It may lie behind one
// of the inputs' links, where it has to be there.
func (j *run) makeCwd(root, cwd string) error {
	fd, err := openat2(j.tree.root, within(cwd), asDir, unix.RESOLVE_IN_ROOT)
	if err == unix.ENOENT {
		fd, err = j.tree.makeDirs(root, cwd)
	}
	if err != nil {
		return fmt.Errorf("working directory %s: %w", cwd, err)
	}
	return unix.Close(fd)
}

// launch has the helper start the job, and the recorder follow it.
func (j *run) launch(recorder *lookup.Recorder) (recorded chan error, err error) {
	l := j.header.GetLimits()
	s := start{
		Argv: j.header.GetArgv(), Env: environ(j.header.GetEnv()), Cwd: j.header.GetCwd(), UID: j.uid,
		Processes: unix.RLIM_INFINITY, AddressSpace: unix.RLIM_INFINITY,
	}
	if j.group == nil {
		s.Processes, s.AddressSpace = uint64(l.GetProcesses()), l.GetMemoryBytes()
	}
	recorded = make(chan error, 1)
	listener := j.listener
	j.listener = -1
	go func() {
		defer unix.Close(listener)
		err := recorder.Record(listener)
		if err != nil {
			// The job would wait for an answer for ever.
			j.kill()
		}
		recorded <- err
	}()
	if err := j.out.Encode(s); err != nil {
		j.kill()
		<-recorded
		return nil, helperGone(err)
	}
	return recorded, nil
}

// environ is the job's environment: what the host says, but for what is the same
// in every machine.
func environ(env []string) []string {
	pinned := []string{"LC_ALL=C.UTF-8", "TZ=UTC"}
	out := make([]string, 0, len(env)+len(pinned))
	for _, e := range env {
		if name, _, _ := strings.Cut(e, "="); name != "LC_ALL" && name != "TZ" {
			out = append(out, e)
		}
	}
	return append(out, pinned...)
}
