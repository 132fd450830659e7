package daemon

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/remote"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// withCompiler compiles args below dir, where a compiler of this machine is at
// hand.
func withCompiler(t *testing.T, e *Engine, dir string, args ...string) *ipcv1.Done {
	t.Helper()
	path, err := exec.LookPath(args[0])
	if err != nil {
		t.Fatal(err)
	}
	m := e.Compile(t.Context(), &ipcv1.Compile{Args: args, Compiler: path, Cwd: dir, Umask: 0o022}, &here{dir: dir})
	if m.Done == nil {
		t.Fatalf("%q: %+v", args, m)
	}
	return m.Done
}

func textEngine(t *testing.T, w Worker, change func(*Options)) *Engine {
	return awayEngine(t, w, func(o *Options) {
		o.Away.Preprocess = true
		if change != nil {
			change(o)
		}
	})
}

// TestSourceText compiles on a worker what the compiler of this machine has
// preprocessed. What is left and what is said must be the plain compiler's, for
// each unit and under each set of options, whether the text took the place of
// the files or, for the reason in refused, could not.
func TestSourceText(t *testing.T) {
	w := newMachineWorker(t)
	const macros = "#define MAX(a,b) ((a)>(b)?(a):(b))\n#define TWO f(); f()\n"
	units := map[string]map[string]string{
		"macros":      {"a.c": "#include \"b.h\"\n#include <stdio.h>\nint a(int x) { return printf(\"%d %s %s\", MAX(x, 2), __FILE__, __func__) + __LINE__; }\n", "b.h": "#pragma once\n" + macros},
		"counters":    {"a.c": "int a = __COUNTER__;\n#include \"b.h\"\nint b = __COUNTER__, l = __INCLUDE_LEVEL__;\n", "b.h": "static int h = __COUNTER__, hl = __INCLUDE_LEVEL__;\nconst char *n = __BASE_FILE__;\n"},
		"multi":       {"a.c": "#include \"b.h\"\nvoid f(void);\nvoid g(int x) { if (x) TWO; }\n", "b.h": macros},
		"system":      {"a.c": "#include <b.h>\nchar c = BIG;\nunsigned char u = NEG;\nint g(int x) { return SHIFT(x) + ZERO; }\n", "sys/b.h": "#define BIG 300\n#define NEG -300\n#define SHIFT(x) ((x) << 40)\n#define ZERO (1 / 0)\n"},
		"system text": {"a.c": "#include <b.h>\nint g(void) { return h(); }\n", "sys/b.h": "static int h(void) { int z; return 'ab'; }\n"},
		"fallthrough": {"a.c": "int f(int x) { switch (x) { case 1: x++; /* fallthrough */ case 2: x--; break; case 3: x++; // FALLTHRU\n case 4: x = 2; } return x; }\n"},
		"fall":        {"a.c": "int f(int x) { switch (x) { case 1: x++; case 2: x--; } return x; }\n"},
		"indentation": {"a.c": "int f(int x) {\n\tif (x)\n\t\tx++;\n\t\tx--;\n\treturn x; }\n"},
		"pragma":      {"a.c": "#define P _Pragma(\"GCC diagnostic push\") _Pragma(\"GCC diagnostic ignored \\\"-Wunused-variable\\\"\")\n#define Q _Pragma(\"GCC diagnostic pop\")\nvoid f(void) { P int x; Q int y; }\n"},
		"quiet":       {"a.c": "#define P _Pragma(\"GCC diagnostic ignored \\\"-Wunused-variable\\\"\")\nP void f(void) { int x; }\n"},
		"indents":     {"a.c": "#pragma GCC diagnostic warning \"-Wmisleading-indentation\"\nint f(int x) {\n\tif (x)\n\t\tx++;\n\t\tx--;\n\treturn x; }\n"},
		"push macro":  {"a.c": "#define A 1\n#pragma push_macro(\"A\")\n#undef A\n#define A 2\nint two = A;\n#pragma pop_macro(\"A\")\nint one = A;\n#define LONG(a, \\\n  b) a + \\\n  b\nint x = LONG(1,\n   2);\n#pragma GCC poison gets\n#ident \"me\"\n"},
		"unused":      {"a.c": "#include \"b.h\"\n#define UNUSED 1\n#define U2(x) x\nint a = MAX(1, 2);\n", "b.h": macros},
		"#line":       {"a.c": "#line 77 \"other.y\"\nint y = __LINE__; const char *z = __FILE__;\nint f(void) { int u; return 0; }\n"},
		"#warning":    {"a.c": "#warning \"hear\"\nint a;\n"},
		"an error":    {"a.c": "#include \"b.h\"\nint a = MAX(1, ;\n", "b.h": macros},
		"no header":   {"a.c": "#include \"none.h\"\nint a;\n"},
		"assembly":    {"a.c": "__asm__(\".incbin \\\"data\\\"\");\nint a;\n", "data": "123"},
		"date":        {"a.c": "const char *d = __DATE__;\n"},
		"precompiled": {"a.c": "#include \"b.h\"\nint a = MAX(1, 2);\n", "b.h": macros, "b.h.gch": "none, in truth"},
		"questions":   {"a.c": "#define HAS(x) __has_include(x)\n#if __has_include(\"b.h\") && HAS(<none.h>)\n#error\n#elif __has_include(\"b.h\")\n#include \"b.h\"\n#endif\nint a = MAX(1, 2);\n", "b.h": macros},
		"comparison":  {"a.c": "#include \"b.h\"\nint f(int x, unsigned y) { int y2; if (x = 5) ; if (x) x = x; return x < y || MAX(x, 1) && y < 0; }\nlong g(int *p) { return p == '\\0'; }\n", "b.h": macros},
		"C++":         {"a.cc": "#include <vector>\n#include <cstdio>\n#include \"b.h\"\nstatic struct A { A() { puts(\"x\"); } } a;\nint s(std::vector<int> &v) { auto l = [&](int x) { return MAX(x, 1); }; return l(v.size()); }\nconst char *r = R\"(\n# 5 \"x\"\n#include <none.h>\n)\";\n", "b.h": macros},
		"C++ start":   {"a.cc": "static struct A { A(); int x; } a;\n"},
		"C++ system":  {"a.cc": "#include <cassert>\n#include <cstddef>\nvoid f(int *p, int n) { assert(p != NULL); int k = NULL; if (n) ; int *q = 0; }\n"},
		"utf-8":       {"a.c": "\xef\xbb\xbfint a; const char *s = \"\u00e4\";\n/* \u00e4 */ int f(void) { return 1; }\n"},
		"crlf":        {"a.c": "#define A(x) \\\r\n  x\r\nint a = A(1);\r\nint f(void) { return a; }\r\n"},
		"trigraphs":   {"a.c": "??=define A 1\nint a = A ??( 0 ??) ;\n"},
	}
	gcc := [][]string{
		{"-g"}, {"-O2", "-g3"}, {"-Wall", "-Werror"}, {"-MMD", "-MP", "-g", "-gsplit-dwarf"},
		{"-Wno-misleading-indentation", "-Wall", "-Wextra", "-Wunused-macros", "-Wundef", "-Wsystem-headers", "-Wtraditional", "-Wpedantic", "-Wmissing-include-dirs"},
		{"-trigraphs", "-S", "-MD", "-MF", "deps"},
	}
	clang := [][]string{{"-g"}, {"-g", "-gdwarf-4", "-MMD"}, {"-Weverything", "-Werror"}, {"-trigraphs", "-S", "-MD", "-MF", "deps"}}
	left := []string{"a.o", "a.s", "a.dwo", "a.su", "a.d", "deps"}
	refused := map[string]int64{}
	var taken atomic.Int64
	var mu sync.Mutex
	t.Run("units", func(t *testing.T) {
		for name, files := range units {
			for _, driver := range []string{"gcc", "clang"} {
				sets, source, program := gcc, "a.c", driver
				if driver == "clang" {
					sets = clang
				}
				if _, cxx := files["a.cc"]; cxx {
					source, program = "a.cc", map[string]string{"gcc": "g++", "clang": "clang++"}[driver]
				}
				t.Run(driver+" "+name, func(t *testing.T) {
					t.Parallel()
					e, byFiles := textEngine(t, w, nil), awayEngine(t, w, nil)
					dir := project(t, files)
					for _, set := range sets {
						args := append([]string{program, "-c"}, set...)
						args = append(args, "-isystem", "sys", "-I", "inc", source)
						want, said := plainly(t, dir, left, args...)
						failed := want["a.o"] == "" && want["a.s"] == ""
						if slices.Contains(set, "-g") || slices.Contains(set, "-g3") {
							// Debug information says where the files lie, in a
							// machine always at one place.
							away(t, byFiles, dir, args...)
							want = take(dir, left)
						}
						for _, hit := range []bool{false, true} {
							done := withCompiler(t, e, dir, args...)
							if (done.ExitCode != 0) != failed || string(done.Stdout)+string(done.Stderr) != said {
								t.Errorf("%q (hit %v): exit %d\n%s\nwant\n%s", args, hit, done.ExitCode, done.Stderr, said)
							}
							got := take(dir, left)
							for n := range want {
								if got[n] != want[n] && !failed {
									t.Errorf("%q (hit %v): %s differs from the plain compiler's", args, hit, n)
								}
							}
							if len(got) != len(want) && !failed {
								t.Errorf("%q: left %d files, want %d", args, len(got), len(want))
							}
						}
					}
					e.Drain()
					s, err := ReadStats(e.cache)
					if err != nil {
						t.Fatal(err)
					}
					mu.Lock()
					defer mu.Unlock()
					for why, n := range s.NotPreprocessed {
						refused[why] += n
					}
					taken.Add(s.HitsPreprocessed)
				})
			}
		}
	})
	t.Logf("%d by text, by files: %v", taken.Load(), refused)
	if taken.Load() < 50 {
		t.Errorf("only %d compiles went as text", taken.Load())
	}
	for _, r := range []compiler.Reason{reasonTextMessages, reasonTextLookup, compiler.ReasonTextContent, compiler.ReasonTextDebug, compiler.ReasonTextWarning} {
		if refused[string(r)] == 0 {
			t.Errorf("no unit had its files sent for %s", r)
		}
	}
}

// TestSourceTextElsewhere: another checkout, whose command names its own paths,
// makes the same text, needs no job, and gets the dependencies by its own names.
func TestSourceTextElsewhere(t *testing.T) {
	w := newMachineWorker(t)
	files := map[string]string{
		"s/a.c": "#include \"b.h\"\n#include <c.h>\nint a = B + C;\nconst char *f = __FILE__, *g = F;\n", "i/b.h": "#define B 1\n", "i/c.h": "#define C 2\n#define F __FILE__\n",
	}
	e, byFiles := textEngine(t, w, nil), awayEngine(t, w, nil)
	for i := range 2 {
		dir := project(t, files)
		args := []string{"gcc", "-g3", "-I" + dir + "/i", "-c", dir + "/s/a.c", "-o", "a.o", "-MD", "-MF", dir + "/deps", "-MT", "it"}
		left := []string{"s/a.o", "deps"}
		away(t, byFiles, filepath.Join(dir, "s"), args...)
		want := take(dir, left)
		before := w.jobs.Load()
		done := withCompiler(t, e, filepath.Join(dir, "s"), args...)
		got := take(dir, left)
		if done.ExitCode != 0 || len(done.Stderr) > 0 || got["s/a.o"] != want["s/a.o"] || got["deps"] != want["deps"] {
			t.Errorf("%d: exit %d, %s, %q, want %q", i, done.ExitCode, done.Stderr, got["deps"], want["deps"])
		}
		// The first asks for the macros, and compiles.
		if ran := w.jobs.Load() - before; ran != int64(2-2*i) {
			t.Errorf("%d: %d jobs", i, ran)
		}
	}
	e.Drain()
	if s, err := ReadStats(e.cache); err != nil || s.HitsPreprocessed != 1 || s.Misses != 1 || len(s.NotPreprocessed) != 0 {
		t.Errorf("%+v: %v", s, err)
	}
}

// TestSourceTextAfterChanges: each change to what is read shows in the object, at
// once.
func TestSourceTextAfterChanges(t *testing.T) {
	w := newMachineWorker(t)
	e := textEngine(t, w, nil)
	dir := project(t, map[string]string{"a.c": "#include <x.h>\nint a = X;\n", "p/q": "", "i/x.h": "#define X 1\n"})
	args := []string{"gcc", "-Ip", "-Ii", "-c", "a.c"}
	for _, change := range []func(){
		func() {},
		func() { put(t, dir+"/i/x.h", "#define X 2\n") },
		func() { put(t, dir+"/p/x.h", "#define X 3\n") },
		func() { put(t, dir+"/p/x.h", "#define X 3\n#warning hear\n") },
		func() { os.Remove(dir + "/p/x.h") },
	} {
		change()
		want, said := plainly(t, dir, []string{"a.o"}, args...)
		for range 2 {
			done := withCompiler(t, e, dir, args...)
			if got := take(dir, []string{"a.o"}); got["a.o"] != want["a.o"] || string(done.Stderr) != said {
				t.Errorf("%q, want %q", done.Stderr, said)
			}
		}
	}
}

// otherMacros is a worker in whose image the compiler predefines one more macro.
type otherMacros struct{ *machineWorker }

func (o otherMacros) Compile(ctx context.Context, r *remote.Request) (*remote.Result, error) {
	res, err := o.machineWorker.Compile(ctx, r)
	if err == nil && slices.Contains(r.Job.Argv, "-dM") {
		res.Stdout = append(res.Stdout, "#define __OTHER__ 1\n"...)
	}
	return res, err
}

// TestSourceTextNeedsTheCompiler: without the image's own compiler files are
// sent, and the build hears of it once.
func TestSourceTextNeedsTheCompiler(t *testing.T) {
	w := newMachineWorker(t)
	for name, c := range map[string]struct {
		worker   Worker
		compiler string
		says     string
	}{
		"none":                           {w, "", "there is no gcc here"},
		"other files":                    {&describer{w, nil, true}, "/usr/bin/gcc", "is not the compiler of image"},
		"other macros":                   {otherMacros{w}, "/usr/bin/gcc", "other macros"},
		"files unknown, macros the same": {&describer{w, errors.New("an old worker"), false}, "/usr/bin/gcc", ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := textEngine(t, c.worker, nil)
			dir := project(t, map[string]string{"a.c": "int a;\n", "b.c": "int b;\n"})
			for i, source := range []string{"a.c", "b.c"} {
				m := e.Compile(t.Context(), &ipcv1.Compile{Args: []string{"gcc", "-c", source}, Compiler: c.compiler, Cwd: dir, Umask: 0o022}, &here{dir: dir})
				if m.Done == nil || m.Done.ExitCode != 0 {
					t.Fatalf("%+v", m)
				}
				if note := m.Done.Note; (note != "") != (i == 0 && c.says != "") || !strings.Contains(note, c.says) && i == 0 {
					t.Errorf("%s: %q", source, note)
				}
			}
			e.Drain()
			s, err := ReadStats(e.cache)
			if err != nil || s.Misses != 2 {
				t.Errorf("%+v: %v", s, err)
			}
			if n := s.NotPreprocessed[string(reasonTextCompiler)]; (n == 2) != (c.says != "") {
				t.Errorf("%d compiles counted", n)
			}
		})
	}
}

// silenced is a worker that does not answer the question for macros while mute
// says how it ends instead.
type silenced struct {
	*machineWorker
	mute *atomic.Pointer[ending]
}

// ending is how a compile ends.
type ending struct {
	res *remote.Result
	err error
}

func (s silenced) Compile(ctx context.Context, r *remote.Request) (*remote.Result, error) {
	if mute := s.mute.Load(); mute != nil && slices.Contains(r.Job.Argv, "-dM") {
		return mute.res, mute.err
	}
	return s.machineWorker.Compile(ctx, r)
}

// TestSourceTextAsksAgain: that nobody answered says nothing of a compiler. Once a
// worker answers, texts are sent.
func TestSourceTextAsksAgain(t *testing.T) {
	w := newMachineWorker(t)
	for name, mute := range map[string]*ending{
		"no worker": {nil, &remote.UnavailableError{Err: errors.New("all are full")}},
		"a limit":   {&remote.Result{Limit: "memory"}, nil},
		"killed":    {&remote.Result{Signal: 9}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := silenced{w, &atomic.Pointer[ending]{}}
			e := textEngine(t, s, func(o *Options) { o.Away.Fallback = FallbackSame })
			dir := project(t, map[string]string{"a.c": "int a;\n", "b.c": "int b;\n"})
			s.mute.Store(mute)
			if done := withCompiler(t, e, dir, "gcc", "-c", "a.c"); done.ExitCode != 0 {
				t.Fatalf("%+v", done)
			}
			s.mute.Store(nil)
			if done := withCompiler(t, e, dir, "gcc", "-c", "b.c"); done.ExitCode != 0 || done.Note != "" {
				t.Fatalf("%+v", done)
			}
			e.Drain()
			stats, err := ReadStats(e.cache)
			if err != nil || stats.Misses != 2 || len(stats.NotRemote) != 1 || len(stats.NotPreprocessed) != 0 {
				t.Errorf("%+v: %v", stats, err)
			}
		})
	}
}

// TestSourceTextWithoutWorker: the policy for fallback is the same.
func TestSourceTextWithoutWorker(t *testing.T) {
	w := newMachineWorker(t)
	for policy, exit := range map[Fallback]int32{FallbackFail: 1, FallbackSame: 0} {
		e := textEngine(t, w, func(o *Options) { o.Away.Fallback = policy })
		dir := project(t, map[string]string{"a.c": "int a;\n", "b.c": "int b;\n"})
		w.fails = nil
		if done := withCompiler(t, e, dir, "gcc", "-c", "a.c"); done.ExitCode != 0 {
			t.Fatalf("%s", done.Stderr)
		}
		w.fails = errors.New("nobody is there")
		if done := withCompiler(t, e, dir, "gcc", "-c", "b.c"); done.ExitCode != exit {
			t.Errorf("%s: exit %d, %s", policy, done.ExitCode, done.Stderr)
		}
		if done := withCompiler(t, e, dir, "gcc", "-c", "a.c"); done.ExitCode != 0 {
			t.Errorf("%s: a hit needs no worker: %s", policy, done.Stderr)
		}
	}
}

// TestSourceTextOnce: builds that want one unit at the same time have one job made,
// after one question for the macros.
func TestSourceTextOnce(t *testing.T) {
	w := newMachineWorker(t)
	e := textEngine(t, w, nil)
	var builds sync.WaitGroup
	for range 6 {
		dir := project(t, map[string]string{"a.c": "#include \"b.h\"\nint a = B;\n", "b.h": "#define B 1\n"})
		builds.Add(1)
		go func() {
			defer builds.Done()
			m := e.Compile(t.Context(), &ipcv1.Compile{Args: []string{"gcc", "-c", "a.c"}, Compiler: "/usr/bin/gcc", Cwd: dir, Umask: 0o022}, &here{dir: dir})
			if m.Done == nil || m.Done.ExitCode != 0 || take(dir, []string{"a.o"})["a.o"] == "" {
				t.Errorf("%+v", m)
			}
		}()
	}
	builds.Wait()
	if w.jobs.Load() != 2 {
		t.Errorf("%d jobs", w.jobs.Load())
	}
}

// hitting is a worker that has had each result before.
type hitting struct{ *machineWorker }

func (h hitting) Compile(ctx context.Context, r *remote.Request) (*remote.Result, error) {
	res, err := h.machineWorker.Compile(ctx, r)
	if err == nil {
		res.Hit = true
	}
	return res, err
}

// TestSourceTextParanoid: each hit is the worker's.
func TestSourceTextParanoid(t *testing.T) {
	e := textEngine(t, hitting{newMachineWorker(t)}, func(o *Options) { o.Away.Paranoid = true })
	dir := project(t, map[string]string{"a.c": "int a;\n"})
	for range 2 {
		if done := withCompiler(t, e, dir, "gcc", "-c", "a.c"); done.ExitCode != 0 {
			t.Fatalf("%s", done.Stderr)
		}
	}
	e.Drain()
	if s, err := ReadStats(e.cache); err != nil || s.HitsRemote != 2 || s.HitsPreprocessed != 0 || s.Entries != 0 {
		t.Errorf("%+v: %v", s, err)
	}
}

// TestSourceTextTimes: where the time is pinned, a file's own is not, and no
// worker's object may hold it.
func TestSourceTextTimes(t *testing.T) {
	w := newMachineWorker(t)
	for text, misses := range map[string]int64{"const char *t = __TIMESTAMP__;\n": 0, "const char *t = __DATE__;\n": 1} {
		e := textEngine(t, w, func(o *Options) { o.DateTime, o.Away.Fallback = "pin", FallbackFail })
		dir := project(t, map[string]string{"a.c": text})
		done := withCompiler(t, e, dir, "gcc", "-c", "a.c")
		e.Drain()
		s, err := ReadStats(e.cache)
		if err != nil {
			t.Fatal(err)
		}
		if (done.ExitCode == 0) != (misses > 0) || s.Misses != misses {
			t.Errorf("%s: %+v %+v", text, done, s)
		}
	}
}
