package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/remote"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// TestAwayAfterChanges compiles, changes one thing, and compiles again: what is
// left must be what the plain compiler leaves now.
func TestAwayAfterChanges(t *testing.T) {
	w := newMachineWorker(t)
	files := map[string]string{
		"a.c":   "#include <x.h>\n#if __has_include(\"opt.h\")\n#include \"opt.h\"\n#else\n#define O 0\n#endif\n#include \"l.h\"\nint a = X + O + L;\n",
		"p/q":   "",
		"i/x.h": "#define X 1\n", "l.h": "-> m/one.h", "m/one.h": "#define L 10\n", "m/two.h": "#define L 20\n",
		"d": "-> m",
	}
	for name, change := range map[string]func(t *testing.T, dir string){
		"nothing":    func(*testing.T, string) {},
		"a header":   func(t *testing.T, dir string) { put(t, dir+"/i/x.h", "#define X 2\n") },
		"the source": func(t *testing.T, dir string) { put(t, dir+"/a.c", files["a.c"]+"int b;\n") },
		"a shadow":   func(t *testing.T, dir string) { put(t, dir+"/p/x.h", "#define X 3\n") },
		"a shadow by link": func(t *testing.T, dir string) {
			put(t, dir+"/p/x.h", "-> ../i/x.h")
			put(t, dir+"/i/x.h", "#define X 4\n")
		},
		"what was asked":    func(t *testing.T, dir string) { put(t, dir+"/opt.h", "#define O 5\n") },
		"where a link goes": func(t *testing.T, dir string) { put(t, dir+"/l.h", "-> m/two.h") },
		"behind a link":     func(t *testing.T, dir string) { put(t, dir+"/m/one.h", "#define L 30\n") },
		"a link's kind":     func(t *testing.T, dir string) { os.Remove(dir + "/l.h"); put(t, dir+"/l.h", "#define L 40\n") },
		"a directory":       func(t *testing.T, dir string) { os.Rename(dir+"/i", dir+"/i2"); put(t, dir+"/i", "-> i2") },
	} {
		t.Run(name, func(t *testing.T) {
			dir, e := project(t, files), awayEngine(t, w, nil)
			args := []string{"gcc", "-Ip", "-Ii", "-c", "a.c"}
			for range 2 { // the second is a hit
				if done := away(t, e, dir, args...); done.ExitCode != 0 {
					t.Fatalf("%s", done.Stderr)
				}
				take(dir, []string{"a.o"})
			}
			time.Sleep(20 * time.Millisecond) // a tick of a coarse clock
			change(t, dir)
			want, said := plainly(t, dir, []string{"a.o"}, args...)
			for range 2 {
				if done := away(t, e, dir, args...); string(done.Stderr) != said {
					t.Errorf("%s, want %s", done.Stderr, said)
				}
				if got := take(dir, []string{"a.o"}); got["a.o"] != want["a.o"] {
					t.Error("not what the plain compiler leaves")
				}
			}
		})
	}
}

// TestAwayElsewhere builds the same in two places: the second needs no job.
func TestAwayElsewhere(t *testing.T) {
	w := newMachineWorker(t)
	e := awayEngine(t, w, nil)
	files := map[string]string{"s/a.c": "#include \"b.h\"\nint a = B;\nconst char *f = __FILE__;\n", "i/b.h": "#define B 1\nvoid g(void); int h(void) { g(); }\n"}
	var objects []string
	for i := range 2 {
		dir := project(t, files)
		done := away(t, e, filepath.Join(dir, "s"), "gcc", "-g", "-Wall", "-I"+dir+"/i", "-c", dir+"/s/a.c", "-o", "a.o", "-MD", "-MF", dir+"/deps", "-MT", "it")
		if done.ExitCode != 0 || !strings.Contains(string(done.Stderr), dir+"/i/b.h:2") || strings.Contains(string(done.Stderr), "/hpcc/") {
			t.Errorf("%d: %s", i, done.Stderr)
		}
		left := take(dir, []string{"s/a.o", "deps"})
		if want := "it: " + dir + "/s/a.c "; !strings.HasPrefix(left["deps"], want) || !strings.Contains(left["deps"], dir+"/i/b.h") {
			t.Errorf("%q", left["deps"])
		}
		if strings.Contains(left["s/a.o"], dir) || !strings.Contains(left["s/a.o"], "/hpcc/src/s/a.c") {
			t.Error("the object says where the checkout lies")
		}
		objects = append(objects, left["s/a.o"])
	}
	if objects[0] != objects[1] {
		t.Error("two checkouts, two objects")
	}
	if w.jobs.Load()-w.rounds.Load() != 1 {
		t.Errorf("%d jobs", w.jobs.Load())
	}
}

// TestAwayDateTime: a unit with the date in it compiles, and is nobody else's.
func TestAwayDateTime(t *testing.T) {
	w := newMachineWorker(t)
	dir := project(t, map[string]string{"a.c": "const char *d = __DATE__ __TIME__;\n"})
	for policy, c := range map[string]struct {
		exit   int32
		misses int64
	}{"warn": {0, 0}, "error": {1, 0}, "pin": {0, 1}, "allow": {0, 1}} {
		e := awayEngine(t, w, func(o *Options) { o.DateTime = policy })
		done := away(t, e, dir, "gcc", "-c", "a.c")
		e.Drain()
		s, err := ReadStats(e.cache)
		if err != nil {
			t.Fatal(err)
		}
		if done.ExitCode != c.exit || s.Misses != c.misses || policy == "warn" && s.Uncacheable["date-time"] != 1 {
			t.Errorf("%s: exit %d, %s%+v", policy, done.ExitCode, done.Stderr, s)
		}
		if left := take(dir, []string{"a.o"}); (left["a.o"] != "") != (c.exit == 0) || policy == "pin" && !strings.Contains(left["a.o"], "Jan  1 1980") {
			t.Errorf("%s: left %d bytes", policy, len(left["a.o"]))
		}
	}
}

// TestFallback: what happens to a compile that no worker makes.
func TestFallback(t *testing.T) {
	w := newMachineWorker(t)
	w.fails = errors.New("nobody is there")
	for name, c := range map[string]struct {
		policy   Fallback
		compiler string
		describe error
		args     []string
		exit     int32
		says     string
		runs     int
	}{
		"any":                {FallbackAny, "/usr/bin/gcc", nil, []string{"gcc", "-c", "a.c"}, 0, "", 1},
		"fail":               {FallbackFail, "/usr/bin/gcc", nil, []string{"gcc", "-c", "a.c"}, 1, "nobody is there", 0},
		"same, and it is":    {FallbackSame, "/usr/bin/gcc", nil, []string{"gcc", "-c", "a.c"}, 0, "", 1},
		"same, and unknown":  {FallbackSame, "/usr/bin/gcc", errors.New("cannot tell"), []string{"gcc", "-c", "a.c"}, 1, "is not known", 0},
		"same, and it isn't": {FallbackSame, "/usr/bin/x86_64-linux-gnu-gcc-12", nil, []string{"gcc", "-c", "a.c"}, 1, "must not mix", 0},
		"no compiler":        {FallbackAny, "", nil, []string{"gcc", "-c", "a.c"}, 1, "no such compiler here", 0},
		"native":             {FallbackAny, "/usr/bin/gcc", nil, []string{"gcc", "-march=native", "-c", "a.c"}, 0, "", 1},
		"native, forbidden":  {FallbackFail, "/usr/bin/gcc", nil, []string{"gcc", "-march=native", "-c", "a.c"}, 1, "only this computer", 0},
		"link, no linker":    {FallbackAny, "", nil, []string{"gcc", "a.o", "-o", "a"}, 1, "workers do not link", 0},
		"several sources":    {FallbackAny, "/usr/bin/gcc", nil, []string{"gcc", "-c", "a.c", "b.c"}, 0, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			dir := project(t, map[string]string{"a.c": "int a;\n", "b.c": "int b;\n"})
			e := awayEngine(t, &describer{w, c.describe, name == "same, and it isn't"}, func(o *Options) { o.Away.Fallback = c.policy })
			client := &here{dir: dir}
			m := e.Compile(t.Context(), &ipcv1.Compile{Args: c.args, Compiler: c.compiler, Cwd: dir, Umask: 0o022}, client)
			if m.Done == nil || m.Done.ExitCode != c.exit || client.runs != c.runs || !strings.Contains(string(m.Done.Stderr), c.says) {
				t.Errorf("%+v, %d runs", m, client.runs)
			}
			if left := take(dir, []string{"a.o"}); (left["a.o"] != "") != (c.exit == 0) {
				t.Errorf("left %d bytes", len(left["a.o"]))
			}
			e.Drain()
			s, err := ReadStats(e.cache)
			if err != nil {
				t.Fatal(err)
			}
			if len(s.NotRemote) != c.runs {
				t.Errorf("%+v", s)
			}
		})
	}
	t.Run("link", func(t *testing.T) {
		e := awayEngine(t, w, nil)
		m := e.Compile(t.Context(), &ipcv1.Compile{Args: []string{"gcc", "a.o", "-o", "a"}, Compiler: "/usr/bin/gcc", Cwd: t.TempDir()}, &here{})
		if m.Pass == nil || m.Pass.Reason != string(compiler.ReasonLinking) {
			t.Errorf("%+v", m)
		}
	})
}

// TestAwayRefusals: what no worker is asked, and why.
func TestAwayRefusals(t *testing.T) {
	w := newMachineWorker(t)
	for name, c := range map[string]struct {
		files  map[string]string
		args   []string
		reason compiler.Reason
	}{
		"two copies":            {map[string]string{"a.c": "#include \"b.h\"\n#include \"c/b.h\"\n", "b.h": "#pragma once\nint b;\n", "c/b.h": "#pragma once\nint b;\n"}, nil, reasonOnceCopies},
		"a link out":            {map[string]string{"a.c": "#include \"b.h\"\n", "b.h": "-> ../../../../../../etc/hostname"}, nil, compiler.ReasonOutsideRoots},
		"a time of a file":      {map[string]string{"a.c": "#include \"b.h\"\nconst char *t = T;\n", "b.h": "#define T __TIMESTAMP__\n"}, nil, reasonDateTime},
		"no such directory":     {map[string]string{"a.c": ""}, []string{"gcc", "-c", "a.c", "-o", "none/a.o"}, reasonOutputDir},
		"a compiler in it":      {map[string]string{"a.c": "", "cc/gcc": ""}, []string{"./cc/gcc", "-c", "a.c"}, reasonProjectCC},
		"a source elsewhere":    {map[string]string{"a.c": ""}, []string{"gcc", "-c", "/usr/include/stdio.h", "-x", "c"}, ""},
		"a device for a header": {map[string]string{"a.c": "#include \"b.h\"\n", "b.h": "-> /dev/zero"}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir, e := project(t, c.files), awayEngine(t, w, nil)
			if c.args == nil {
				c.args = []string{"gcc", "-c", "a.c"}
			}
			done := away(t, e, dir, c.args...)
			e.Drain()
			s, err := ReadStats(e.cache)
			if err != nil {
				t.Fatal(err)
			}
			if done.ExitCode == 0 || c.reason != "" && s.Uncacheable[string(c.reason)] != 1 {
				t.Errorf("%+v %+v", done, s)
			}
		})
	}
}

// TestAwayQuestions: what configure scripts ask, of a machine without a compiler.
func TestAwayQuestions(t *testing.T) {
	w := newMachineWorker(t)
	e := awayEngine(t, w, nil)
	dir := project(t, map[string]string{"a.c": "#include \"b.h\"\nint a = B; // __FILE__\n", "b.h": "#define B 1\n"})
	for _, args := range [][]string{{"gcc", "--version"}, {"gcc", "-dumpmachine"}, {"g++", "-print-file-name=libstdc++.so"}, {"gcc", "-E", "a.c"}, {"gcc", "-E", "-P", dir + "/a.c"}} {
		_, want := plainly(t, dir, nil, args...)
		for range 2 {
			if done := away(t, e, dir, args...); string(done.Stdout) != want || done.ExitCode != 0 {
				t.Errorf("%q: %+v, want %s", args, done, want)
			}
		}
	}
	if n := w.jobs.Load() - w.rounds.Load(); n != 3+4 {
		t.Errorf("%d jobs: an answer is remembered", n)
	}
	want, _ := plainly(t, dir, []string{"a.i"}, "gcc", "-E", "a.c", "-o", "a.i")
	away(t, e, dir, "gcc", "-E", "a.c", "-o", "a.i")
	if got := take(dir, []string{"a.i"}); got["a.i"] != want["a.i"] || got["a.i"] == "" {
		t.Errorf("%q, want %q", got, want)
	}
}

// asked keeps what a worker was asked for.
type asked struct {
	Worker
	last *remote.Request
}

func (a *asked) Compile(_ context.Context, r *remote.Request) (*remote.Result, error) {
	a.last = r
	return nil, errors.New("only asked")
}

// TestAwayPlaces: coverage data go where the object was compiled, by its caller's
// name for it.
func TestAwayPlaces(t *testing.T) {
	for _, c := range []struct{ option, at string }{{"--coverage", ""}, {"-O1", "/hpcc/src"}} {
		a := &asked{}
		e := awayEngine(t, a, nil)
		dir := project(t, map[string]string{"s/a.c": "int main(void) { return 0; }\n"})
		away(t, e, dir+"/s", "gcc", c.option, "-c", "a.c")
		at := c.at
		if at == "" {
			at = dir
		}
		if a.last == nil {
			t.Fatal("nothing was asked")
		}
		if a.last.Job.Cwd != at+"/s" || a.last.Job.Roots[0] != at || a.last.Tree[at+"/s/a.c"].Digest.IsZero() {
			t.Errorf("%s: %+v", c.option, a.last.Job)
		}
	}
}

// TestAwayNamedPlaces: a text that names a file by where the project lies finds
// it only there.
func TestAwayNamedPlaces(t *testing.T) {
	a := &asked{}
	e := awayEngine(t, a, nil)
	dir := project(t, map[string]string{"b.h": ""})
	put(t, dir+"/a.c", "#include \""+dir+"/b.h\"\n")
	for range 2 {
		away(t, e, dir, "gcc", "-c", "a.c")
		if a.last.Job.Cwd != dir || len(a.last.Tree) != 2 {
			t.Errorf("%+v", a.last)
		}
	}
}

// TestAwayRounds: what nobody could guess costs one round with all that hangs on
// it, and none the next time.
func TestAwayRounds(t *testing.T) {
	w := newMachineWorker(t)
	e := awayEngine(t, w, nil)
	files := map[string]string{"a.c": "#define S(x) #x\n#define T(x) S(x)\n#define D gen\n#include T(D/h0.h)\nint a = V;\n"}
	for i := range 12 {
		files[fmt.Sprintf("gen/h%d.h", i)] = fmt.Sprintf("#include \"h%d.h\"\n", i+1)
	}
	files["gen/h12.h"] = "#define V 1\n"
	dir := project(t, files)
	for _, most := range []int64{2, 0} {
		before := w.rounds.Load()
		if done := away(t, e, dir, "gcc", "-I.", "-c", "a.c"); done.ExitCode != 0 {
			t.Fatalf("%s", done.Stderr)
		}
		if n := w.rounds.Load() - before; n > most {
			t.Errorf("%d rounds, want at most %d", n, most)
		}
		put(t, dir+"/a.c", files["a.c"]+"int b;\n")
	}
}

func TestOutermost(t *testing.T) {
	m := outermost(pathMapOf([]string{"/p/build", "/p", "/q", "/p", "/pq"}))
	if got := fmt.Sprint(m.Roots); got != "[{/p /hpcc/src} {/q /hpcc/src1} {/pq /hpcc/src2}]" {
		t.Error(got)
	}
}

// TestAwayParanoid keeps nothing.
func TestAwayParanoid(t *testing.T) {
	w := newMachineWorker(t)
	e := awayEngine(t, w, func(o *Options) { o.Away.Paranoid = true })
	dir := project(t, map[string]string{"a.c": "int a;\n"})
	for range 2 {
		if done := away(t, e, dir, "gcc", "-c", "a.c"); done.ExitCode != 0 {
			t.Fatalf("%s", done.Stderr)
		}
		away(t, e, dir, "gcc", "--version")
	}
	if n := w.jobs.Load() - w.rounds.Load(); n != 4 {
		t.Errorf("%d jobs", n)
	}
	e.Drain()
	for _, kind := range []string{"cas", "ac", "manifest"} {
		filepath.WalkDir(filepath.Join(e.cache.Dir(), kind), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				t.Errorf("left %s", path)
			}
			return nil
		})
	}
}

func TestTame(t *testing.T) {
	for text, want := range map[string]string{
		"plain ü\n":                      "plain ü\n",
		"\x1b[01m\x1b[Kbold\x1b[m\x1b[K": "\x1b[01m\x1b[Kbold\x1b[m\x1b[K",
		"\x1b]0;title\a":                 "^[]0;title^G",
		"\x1b[2J\x1b[H":                  "^[[2J^[[H",
		"\r\b\x7f\x00":                   "^M^H^?^@",
		"\u009b2J":                       "?2J",
		"\x1b":                           "^[",
	} {
		if got := string(tame([]byte(text))); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// describer answers what the image has otherwise than its worker.
type describer struct {
	*machineWorker
	err   error
	other bool
}

func (d *describer) Describe(ctx context.Context, image string, paths []string) ([]digest.Digest, error) {
	if d.err != nil {
		return nil, d.err
	}
	sums, _ := d.machineWorker.Describe(ctx, image, paths)
	if d.other {
		sums[0] = digest.Of([]byte("another"))
	}
	return sums, nil
}
