package lab

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/test/lab/wire"
)

// Environment is where a program ran.
type Environment string

// The environments.
const (
	Direct   Environment = "this machine's KVM"
	Software Environment = "software-KVM host (QEMU, emulated)"
)

// Job is what is to be run.
type Job struct {
	// Program is a static program on this machine.
	Program string
	Args    []string
	// Env is added to PATH, HOME and TMPDIR.
	Env []string
	// Files are copied to the names below /data that are their keys, which
	// must not have spaces; their values are files of this machine. They have
	// the mode 0755.
	Files map[string]string
	// Timeout bounds everything, the start of the environment included; 0
	// means 15 minutes.
	Timeout time.Duration
	// MemoryMiB is the memory of the software-KVM host; 0 means 3584.
	MemoryMiB int
	// DiskGiB is the size of /data there, most of which costs nothing until it
	// is used; 0 means 16.
	DiskGiB int
	// Collect is a directory of this machine, into which the files and
	// directories that the program left in /data/out are copied; "" for none.
	Collect string
	// Stdout and Stderr get what the program writes, as it comes; nil for
	// nowhere.
	Stdout, Stderr io.Writer
	// Log gets lines about the environment; nil for none.
	Log func(line string)
	// In chooses an environment; "" means Direct where it works. A test of the
	// lab itself asks for one.
	In Environment
}

// Result says how a job went.
type Result struct {
	Environment Environment
	// Status is the exit status, 128 + N if signal N ended the program.
	Status int
	// Start is how long the environment took to begin, Took all of it.
	Start, Took time.Duration
}

// ErrSilent says that an environment gave no sign of life for so long that it
// was ended, each time.
var ErrSilent = errors.New("the environment is silent")

// Run runs a job. A program that fails is no error: see Result.Status. If the
// an attempt falls silent, what it wrote stays written.
func Run(ctx context.Context, job Job) (*Result, error) {
	if job.Timeout == 0 {
		job.Timeout = 15 * time.Minute
	}
	if job.MemoryMiB == 0 {
		job.MemoryMiB = 3584
	}
	if job.DiskGiB == 0 {
		job.DiskGiB = 16
	}
	if job.Stdout == nil {
		job.Stdout = io.Discard
	}
	if job.Stderr == nil {
		job.Stderr = io.Discard
	}
	if job.Log == nil {
		job.Log = func(string) {}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, job.Timeout, fmt.Errorf("lab: not done after %v", job.Timeout))
	defer cancel()
	if job.In == "" {
		if reason := directWorks(ctx); reason != nil {
			job.Log("not on this machine's KVM: " + reason.Error())
			job.In = Software
		} else {
			job.In = Direct
		}
	}
	job.Log("environment: " + string(job.In))
	start := software
	if job.In == Direct {
		start = direct
	}
	return insist(ctx, &job, start, limits{start: 3 * time.Minute, silence: time.Minute})
}

// A starter starts an environment for a job, with its files in dir.
type starter func(ctx context.Context, job *Job, dir string) (*environment, error)

// limits are how long an environment may give no sign of life: until it has
// begun, which takes long on a machine that does other things too, and then,
// when one is due every two seconds.
type limits struct{ start, silence time.Duration }

// attempts is how often silence is met with a new environment.
const attempts = 3

// insist is attempt, and again after those that found silence.
func insist(ctx context.Context, job *Job, start starter, l limits) (*Result, error) {
	for try := 1; ; try++ {
		r, err := attempt(ctx, job, start, l)
		switch {
		case errors.Is(err, ErrSilent) && try < attempts:
			job.Log(err.Error() + "; starting again")
		case err != nil && ctx.Err() != nil:
			return nil, errors.Join(context.Cause(ctx), err)
		case err != nil:
			return nil, err
		default:
			r.Environment = job.In
			return r, nil
		}
	}
}

// environment is one that runs.
type environment struct {
	frames io.Reader
	// end ends it, whatever it does, gives everything back, and returns what
	// is known about why it failed.
	end func() string
}

func attempt(ctx context.Context, job *Job, start starter, l limits) (*Result, error) {
	dir, remove, err := workDir()
	if err != nil {
		return nil, err
	}
	defer remove()
	began := time.Now()
	env, err := start(ctx, job, dir)
	if err != nil {
		return nil, err
	}
	type frame struct {
		kind    byte
		payload []byte
		err     error
	}
	frames := make(chan frame)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			var f frame
			f.kind, f.payload, f.err = wire.Read(env.frames)
			select {
			case frames <- f:
			case <-ctx.Done():
				return
			}
			if f.err != nil {
				return
			}
		}
	}()
	collected := newCollector(job.Collect)
	r := &Result{}
	why := func(err error) error {
		cancel()
		_ = collected.end() // says less than what is reported
		if known := env.end(); known != "" {
			return fmt.Errorf("lab: %w\n%s", err, known)
		}
		return fmt.Errorf("lab: %w", err)
	}
	limit := l.start
	for {
		select {
		case <-ctx.Done():
			return nil, why(ctx.Err())
		case <-time.After(limit):
			return nil, why(fmt.Errorf("%w for %v", ErrSilent, limit))
		case f := <-frames:
			if f.err != nil {
				return nil, why(fmt.Errorf("the environment ended: %w", f.err))
			}
			if r.Start == 0 {
				r.Start = time.Since(began)
				job.Log(fmt.Sprintf("up after %.1f s", r.Start.Seconds()))
			}
			limit = l.silence
			switch f.kind {
			case wire.Log:
				job.Log(string(f.payload))
			case wire.Stdout:
				_, err = job.Stdout.Write(f.payload)
			case wire.Stderr:
				_, err = job.Stderr.Write(f.payload)
			case wire.Tar:
				_, err = collected.Write(f.payload)
			case wire.Exit:
				var e wire.Ending
				if err := json.Unmarshal(f.payload, &e); err != nil {
					return nil, why(err)
				}
				if e.Error != "" {
					return nil, why(errors.New(e.Error))
				}
				cancel()
				env.end()
				r.Status, r.Took = e.Status, time.Since(began)
				return r, collected.end()
			}
			if err != nil {
				return nil, why(err)
			}
		}
	}
}

// workDir makes a directory for one environment's files, gigabytes perhaps, and
// removes those of runs that were killed. A run holds the lock of its own.
func workDir() (dir string, remove func(), err error) {
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "hpcc-lab-*", "lock"))
	if err != nil {
		return "", nil, err
	}
	for _, file := range left {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			continue // another's, or just removed
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.RemoveAll(filepath.Dir(file))
		}
		f.Close()
	}
	dir, err = os.MkdirTemp("", "hpcc-lab-")
	if err != nil {
		return "", nil, err
	}
	// The name lock appears with the lock taken.
	f, err := os.Create(filepath.Join(dir, "lock.new"))
	if err == nil {
		err = errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), os.Rename(f.Name(), filepath.Join(dir, "lock")))
	}
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, func() {
		_ = os.RemoveAll(dir)
		f.Close()
	}, nil
}

// collector unpacks a tar archive into a directory while it comes.
type collector struct {
	*io.PipeWriter
	done chan error
}

func newCollector(dir string) *collector {
	r, w := io.Pipe()
	c := &collector{w, make(chan error, 1)}
	go func() {
		err := unpack(r, dir)
		r.CloseWithError(err)
		c.done <- err
	}()
	return c
}

// end says that nothing more comes.
func (c *collector) end() error {
	_ = c.Close()
	return <-c.done
}

func unpack(r io.Reader, dir string) error {
	if dir == "" {
		_, err := io.Copy(io.Discard, r)
		return err
	}
	// A program that is tested here may have left anything.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	t := tar.NewReader(r)
	for {
		head, err := t.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r)
			return err
		} else if err != nil {
			return err
		}
		name := filepath.FromSlash(strings.TrimSuffix(head.Name, "/"))
		if head.Typeflag == tar.TypeDir {
			if err := root.MkdirAll(name, 0o755); err != nil {
				return err
			}
			continue
		}
		f, err := root.Create(name)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, t); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
}

// environ is the environment variables of the program.
func (j *Job) environ() []string {
	return append([]string{"PATH=/bin", "HOME=/root", "TMPDIR=/tmp", "LC_ALL=C.UTF-8", "HPCC_LAB_ENVIRONMENT=" + string(j.In)}, j.Env...)
}
