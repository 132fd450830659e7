package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/remote"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/internal/vm/vmtest"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

const testImage = "sha256:0000000000000000000000000000000000000000000000000000000000000001"

// machineWorker compiles in a real agent over this machine's own root, and keeps
// nothing.
type machineWorker struct {
	t       *testing.T
	machine vm.Machine
	// jobs counts the runs in the machine, rounds those that were repeated since
	// the client had what they missed.
	jobs, rounds atomic.Int64
	// fails is the error of all compiles, if it is not nil.
	fails error
}

func newMachineWorker(t *testing.T) *machineWorker {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("the agent makes mounts and namespaces: run the tests as root")
	}
	agent := filepath.Join(t.TempDir(), "hpcc-agent")
	cmd := exec.Command("go", "build", "-o", agent, "./cmd/hpcc-agent")
	cmd.Dir, cmd.Env = "../../agent", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir, err := os.MkdirTemp("", "hpcc") // short, for the socket in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	runtime := &vmtest.Process{Agent: agent, Dir: dir}
	m, err := runtime.Start(t.Context(), vm.Spec{ID: "m", Tenant: "t", Rootfs: vm.Rootfs{Path: "/"}, VCPUs: 1, MemoryMiB: 1024})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Kill(); err != nil {
			t.Error(err)
		}
	})
	return &machineWorker{t: t, machine: m}
}

type openBlobs func(context.Context, digest.Digest) (io.ReadCloser, error)

func (o openBlobs) Open(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	return o(ctx, d)
}

func (w *machineWorker) Compile(ctx context.Context, r *remote.Request) (*remote.Result, error) {
	if w.fails != nil {
		return nil, w.fails
	}
	tree := action.Tree{}
	for p, n := range r.Tree {
		tree[p] = n
	}
	for range 20 {
		res, found, absent, err := w.run(ctx, r, tree)
		if err != nil {
			return nil, err
		}
		more, err := r.Confirm(ctx, absent)
		if err != nil {
			return nil, err
		}
		if len(more) == 0 {
			if res.Action, err = r.Job.Action(tree, found, absent); err != nil {
				return nil, err
			}
			res.Key, res.Stored = res.Action.Key(), res.ExitCode == 0 && !r.Uncached
			return res, nil
		}
		w.rounds.Add(1)
		for p, n := range more {
			tree[p] = n
		}
	}
	return nil, fmt.Errorf("no end")
}

func (w *machineWorker) run(ctx context.Context, r *remote.Request, tree action.Tree) (res *remote.Result, found, absent []string, err error) {
	w.jobs.Add(1)
	job := agentapi.Job{
		Argv: r.Job.Argv, Env: append([]string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}, r.Job.Env...), Cwd: r.Job.Cwd, Roots: r.Job.Roots,
		Inputs: []agentapi.Input{{Path: "/hpcc/out", Kind: agentapi.Directory, Mode: 0o755, ModTime: time.Unix(1, 0)}},
	}
	for p, n := range tree {
		in := agentapi.Input{Path: p, Kind: agentapi.File, Digest: n.Digest, Mode: 0o644, Target: n.Target, ModTime: time.Unix(1, 0)}
		switch {
		case n.Target != "":
			in.Kind = agentapi.Symlink
		case n == action.Node{}:
			in.Kind, in.Mode = agentapi.Directory, 0o755
		}
		job.Inputs = append(job.Inputs, in)
	}
	for _, o := range r.Job.Outputs {
		job.Outputs = append(job.Outputs, o.Path)
	}
	var stdout, stderr bytes.Buffer
	outputs := map[string]*bytes.Buffer{}
	got, err := w.machine.Client().Exec(ctx, job, openBlobs(r.Open), agentapi.Sinks{Stdout: &stdout, Stderr: &stderr, Output: func(p string) (io.Writer, error) {
		outputs[p] = &bytes.Buffer{}
		return outputs[p], nil
	}})
	if err != nil {
		return nil, nil, nil, err
	}
	res = &remote.Result{ExitCode: got.ExitCode, Signal: got.Signal, Limit: string(got.Limit), Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), CompileTime: time.Millisecond}
	for _, o := range r.Job.Outputs {
		if b, ok := outputs[o.Path]; ok {
			res.Outputs = append(res.Outputs, remote.Output{Role: o.Role, Data: b.Bytes(), Digest: digest.Of(b.Bytes())})
		}
	}
	for _, l := range got.Lookups {
		switch {
		case l.Path == "/hpcc/out" || strings.HasPrefix(l.Path, "/hpcc/out/"):
		case slices.Contains(job.Outputs, l.Path):
		case l.Found == agentapi.Absent:
			absent = append(absent, l.Path)
		case l.Found == agentapi.FoundDirectory:
			found = append(found, l.Path+"/.")
		default:
			found = append(found, l.Path)
		}
	}
	return res, found, absent, nil
}

// Describe tells what this machine has: its root is the image.
func (w *machineWorker) Describe(_ context.Context, _ string, paths []string) ([]digest.Digest, error) {
	sums := make([]digest.Digest, len(paths))
	for i, p := range paths {
		var err error
		if sums[i], err = digest.OfFile(p); err != nil {
			return nil, err
		}
	}
	return sums, w.fails
}

// awayEngine is an engine whose compiles w makes.
func awayEngine(t testing.TB, w Worker, change func(*Options)) *Engine {
	t.Helper()
	disk, err := cache.Open(cache.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{
		Cache: disk, Reproducible: true, DateTime: "warn",
		Away: &Away{Worker: w, Image: testImage, Fallback: FallbackFail, LocalJobs: 2},
	}
	if change != nil {
		change(&opt)
	}
	e := NewEngine(opt)
	t.Cleanup(e.Close)
	return e
}

// here runs what a daemon tells a wrapper to run.
type here struct {
	dir  string
	runs int
}

func (h *here) Run(_ context.Context, run *ipcv1.Run) (*ipcv1.Ran, error) {
	h.runs++
	return execute(h.dir, run), nil
}

// project writes files into a new project; a content "-> x" is a link to x.
func project(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		put(t, filepath.Join(dir, name), content)
	}
	return dir
}

func put(t *testing.T, path, content string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if target, ok := strings.CutPrefix(content, "-> "); ok && err == nil {
		os.Remove(path)
		err = os.Symlink(target, path)
	} else if err == nil {
		err = os.WriteFile(path, []byte(content), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// away compiles args below dir without a compiler of this machine.
func away(t *testing.T, e *Engine, dir string, args ...string) *ipcv1.Done {
	t.Helper()
	m := e.Compile(t.Context(), &ipcv1.Compile{Args: args, Cwd: dir, Umask: 0o022}, &here{dir: dir})
	if m.Done == nil {
		t.Fatalf("%q: %+v", args, m)
	}
	return m.Done
}

// plainly compiles args below dir as a build without hpcc does, and returns what
// the files hold that it left, and what was printed.
func plainly(t *testing.T, dir string, left []string, args ...string) (map[string]string, string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return take(dir, left), string(out)
}

// take reads files, and removes them.
func take(dir string, names []string) map[string]string {
	held := map[string]string{}
	for _, n := range names {
		if b, err := os.ReadFile(filepath.Join(dir, n)); err == nil {
			held[n] = string(b)
			os.Remove(filepath.Join(dir, n))
		}
	}
	return held
}

// TestAway compiles on a worker, from no more than a guess of what is read, what
// a compiler of this machine compiles with everything at hand: both must leave
// the same, and say the same.
func TestAway(t *testing.T) {
	w := newMachineWorker(t)
	for _, c := range []struct {
		name  string
		files map[string]string
		args  []string
		left  []string
		exit  int32
	}{
		{"one file", map[string]string{"a.c": "int a;\n"}, []string{"gcc", "-c", "a.c"}, []string{"a.o"}, 0},
		{"headers", map[string]string{
			"src/a.c": "#include \"b.h\"\n#include <c.h>\n#include \"../d.h\"\nint a = B + C + D;\n", "src/b.h": "#include <stddef.h>\n#define B 1\n",
			"inc/c.h": "#include \"e.h\"\n#define C E\n", "inc/e.h": "#define E 2\n", "d.h": "#define D 4\n", "unused.h": "",
		}, []string{"gcc", "-O2", "-Iinc", "-c", "src/a.c", "-o", "a.o", "-MMD", "-MP"}, []string{"a.o", "a.d"}, 0},
		{"shadowing", map[string]string{
			"a.c": "#include <x.h>\nint a = X;\n", "one/x.h": "#define X 1\n#include_next <x.h>\n", "two/x.h": "#undef X\n#define X 2\n", "three/x.h": "#error\n",
		}, []string{"gcc", "-Ione", "-Itwo", "-Ithree", "-c", "a.c"}, []string{"a.o"}, 0},
		{"questions", map[string]string{
			"a.c":   "#if __has_include(\"opt.h\")\n#include \"opt.h\"\n#else\n#define O 0\n#endif\n#if __has_include(<none.h>)\n#error\n#endif\nint a = O;\n",
			"opt.h": "#define O 7\n",
		}, []string{"gcc", "-c", "a.c"}, []string{"a.o"}, 0},
		{"a name made by macros", map[string]string{
			"a.c": "#define P(x) <sub/x.h>\n#include P(b)\n#define Q \"c.h\"\n#include Q\nint a = B + C;\n", "sub/b.h": "#define B 1\n#include \"c.h\"\n", "sub/c.h": "#define C 2\n", "c.h": "",
		}, []string{"gcc", "-I.", "-c", "a.c"}, []string{"a.o"}, 0},
		{"links", map[string]string{
			"real/deep/a.h": "#include \"../w.h\"\n", "real/w.h": "#define W 1\n", "w.h": "#define W 2\n", "inc": "-> real/deep", "b.h": "-> real/w.h",
			"a.c": "#include <a.h>\n#include \"b.h\"\nint a = W;\n",
		}, []string{"gcc", "-Iinc", "-c", "a.c"}, []string{"a.o"}, 0},
		{"a directory on the way", map[string]string{"a.c": "#include \"way/../b.h\"\nint a = B;\n", "way/none": "", "b.h": "#define B 3\n"},
			[]string{"gcc", "-c", "a.c"}, []string{"a.o"}, 0},
		{"assembler", map[string]string{
			"a.S": "#include \"b.h\"\n.incbin \"data.bin\"\n.include \"more.s\"\n", "b.h": "#define B\n", "data.bin": "12345", "more.s": ".long 1\n",
		}, []string{"gcc", "-c", "a.S"}, []string{"a.o"}, 0},
		{"warnings", map[string]string{"a.c": "int f(void) { int unused; return 'ab'; }\n"}, []string{"gcc", "-Wall", "-c", "a.c"}, []string{"a.o"}, 0},
		{"an error", map[string]string{"a.c": "#include \"b.h\"\nint a = ;\n", "b.h": "\n"}, []string{"gcc", "-c", "a.c"}, []string{"a.o"}, 1},
		{"-Werror", map[string]string{"a.c": "int f(void) { int unused; return 0; }\n"}, []string{"gcc", "-Wall", "-Werror", "-c", "a.c"}, []string{"a.o"}, 1},
		{"assembly", map[string]string{"a.c": "int a(void) { return 1; }\n"}, []string{"gcc", "-S", "a.c"}, []string{"a.s"}, 0},
		{"C++", map[string]string{"a.cc": "#include <vector>\n#include \"b.hh\"\nint a(std::vector<B> &v) { return v.size(); }\n", "b.hh": "#pragma once\nstruct B { int b; };\n"},
			[]string{"g++", "-O1", "-c", "a.cc"}, []string{"a.o"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := awayEngine(t, w, nil)
			dir := project(t, c.files)
			want, said := plainly(t, dir, c.left, c.args...)
			before := w.jobs.Load()
			for _, hit := range []bool{false, true} {
				done := away(t, e, dir, c.args...)
				if done.ExitCode != c.exit || string(done.Stderr)+string(done.Stdout) != said {
					t.Errorf("hit %v: exit %d, %s%s\nwant %d, %s", hit, done.ExitCode, done.Stdout, done.Stderr, c.exit, said)
				}
				got := take(dir, c.left)
				for n, text := range want {
					if strings.HasSuffix(n, ".d") {
						// What is not here, make could not make.
						if got[n] != text {
							t.Errorf("%s: %q, want %q", n, got[n], text)
						}
					} else if got[n] != text {
						t.Errorf("hit %v: %s differs from the plain compiler's", hit, n)
					}
				}
				if len(got) != len(want) {
					t.Errorf("left %d files, want %d", len(got), len(want))
				}
			}
			if ran := w.jobs.Load() - before; c.exit == 0 && ran > 1+w.rounds.Load() {
				t.Errorf("%d jobs", ran)
			}
			e.Drain()
			s, err := ReadStats(e.cache)
			if err != nil {
				t.Fatal(err)
			}
			if c.exit == 0 && (s.HitsDirect != 1 || s.Misses != 1) || s.Errors != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}
