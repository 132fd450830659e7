package job

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"hpcc.dev/hpcc/agent/internal/blob"
	"hpcc.dev/hpcc/agent/internal/lookup"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// The program of a job's helper is the test's own.
func TestMain(m *testing.M) {
	if os.Args[0] == HelperName {
		Helper()
	}
	os.Exit(m.Run())
}

// world is a runner on this machine's own kernel; jobs see its root as image.
type world struct {
	*Runner
	dir string
}

// newWorld makes a world. At the end of the test nothing of its jobs is left.
func newWorld(t *testing.T, cgroup string) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("jobs are namespaces and mounts: run the tests as root")
	}
	dir := t.TempDir()
	stage := filepath.Join(dir, "stage")
	if err := os.Mkdir(stage, 0o755); err != nil {
		t.Fatal(err)
	}
	store, err := blob.New(filepath.Join(dir, "blobs"), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{New(Config{Image: "/", Stage: stage, Cgroup: cgroup, Store: store}), dir}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		w.nothingLeft(t)
	})
	return w
}

// nothingLeft looks for processes of jobs, which try marks, mounts, files and
// slots. Run has returned, so there is nothing to wait for.
func (w *world) nothingLeft(t *testing.T) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if env, _ := os.ReadFile(p + "/environ"); bytes.Contains(env, []byte("WORLD="+w.dir)) {
			t.Errorf("a process is left: %s", p)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(w.dir)) {
		t.Errorf("mounts are left:\n%s", mounts)
	}
	if left, err := os.ReadDir(w.Stage); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	if len(w.slots) != MaxJobs {
		t.Errorf("%d free slots", len(w.slots))
	}
	if w.Cgroup != "" {
		if left, err := filepath.Glob(w.Cgroup + "/job-*"); err != nil || len(left) > 0 {
			t.Errorf("cgroups are left: %v, %v", left, err)
		}
	}
}

const root = "/hpcc/src"

// shell is the header of a job that runs a script at root.
func shell(script string, change ...func(*agentv1.ExecHeader)) *agentv1.ExecHeader {
	h := &agentv1.ExecHeader{
		Argv: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Cwd: root, Roots: []string{root},
		Limits: &agentv1.Limits{TimeMillis: 60_000},
	}
	for _, c := range change {
		c(h)
	}
	return h
}

// outputs declares files below root.
func outputs(names ...string) func(*agentv1.ExecHeader) {
	return func(h *agentv1.ExecHeader) {
		for _, n := range names {
			h.Outputs = append(h.Outputs, root+"/"+n)
		}
	}
}

// put pins a blob in the store and returns its digest.
func (w *world) put(t *testing.T, data string) *agentv1.Digest {
	t.Helper()
	sum := sha256.Sum256([]byte(data))
	k := blob.Key{Sum: sum, Size: int64(len(data))}
	if len(data) > 0 && !w.Store.Pin(k) {
		b, err := w.Store.Create(k)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	return &agentv1.Digest{Sha256: sum[:], Size: k.Size}
}

// files adds inputs below root.
func (w *world) files(t *testing.T, files map[string]string) func(*agentv1.ExecHeader) {
	return func(h *agentv1.ExecHeader) {
		for _, name := range slices.Sorted(maps.Keys(files)) {
			h.Inputs = append(h.Inputs, &agentv1.Input{Path: root + "/" + name, Kind: agentv1.Input_KIND_FILE, Mode: 0o644, Digest: w.put(t, files[name])})
		}
	}
}

// ran is what a job printed and left.
type ran struct {
	*agentv1.ExecResult
	lookups        []lookup.Lookup
	stdout, stderr bytes.Buffer
	files          map[int]string

	mu    sync.Mutex
	calls int
	// onStdio, onOutput and onEnded, if there, are asked for the answer.
	onStdio, onOutput, onEnded func() error
}

func (r *ran) Stdio(stream agentv1.Stdio_Stream, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch stream {
	case agentv1.Stdio_STREAM_STDOUT:
		r.stdout.Write(data)
	case agentv1.Stdio_STREAM_STDERR:
		r.stderr.Write(data)
	default:
		return fmt.Errorf("stream %d", stream)
	}
	if r.onStdio != nil {
		return r.onStdio()
	}
	return nil
}

func (r *ran) Output(index int, data []byte) error {
	r.calls++
	if r.onOutput != nil {
		return r.onOutput()
	}
	r.files[index] += string(data)
	return nil
}

func (r *ran) Ended(result *agentv1.ExecResult, lookups []lookup.Lookup) error {
	if r.ExecResult != nil {
		return errors.New("a second end")
	}
	r.ExecResult, r.lookups = result, lookups
	if r.onEnded != nil {
		return r.onEnded()
	}
	return nil
}

// try runs a job, which must keep to the contract.
func (w *world) try(t *testing.T, ctx context.Context, h *agentv1.ExecHeader, r *ran) error {
	t.Helper()
	h.Env = append(h.Env, "WORLD="+w.dir)
	if err := h.Check(); err != nil {
		t.Fatal(err)
	}
	if err := h.Limits.Fill(); err != nil {
		t.Fatal(err)
	}
	r.files = map[int]string{}
	return w.Run(ctx, h, r)
}

// run runs a job that comes to an end of its own or of a limit's.
func (w *world) run(t *testing.T, h *agentv1.ExecHeader) *ran {
	t.Helper()
	r := new(ran)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := w.try(t, ctx, h, r); err != nil {
		t.Fatalf("%q: %v", h.Argv, err)
	}
	return r
}
