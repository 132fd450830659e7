package vmtest

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/test/strace"
)

// Unit is a compile whose lookups strace judges. Files and links are by path
// below Root, where it runs; it makes a file "out".
type Unit struct {
	Name  string
	Files map[string]string
	Links map[string]string
	Argv  []string
}

// Job describes a unit as a job.
func (u *Unit) Job() (agentapi.Job, Blobs) {
	job, blobs := NewJob(u.Files, u.Argv...)
	for name, target := range u.Links {
		job.Inputs = append(job.Inputs, agentapi.Input{Path: Root + "/" + name, Kind: agentapi.Symlink, Target: target})
	}
	return job, blobs
}

// Units are such compiles, each for something that compilers look up in a way of
// its own.
var Units = []Unit{
	{"C", sources, nil, []string{"gcc", "-c", "a.c", "-o", "out"}},
	{"C++", sources, nil, []string{"g++", "-O2", "-c", "a.cc", "-o", "out"}},
	{"error", sources, nil, []string{"gcc", "-c", "bad.c", "-o", "out"}},
	{"include not found", map[string]string{"a.c": "#include \"sub/none.h\"\n", "sub/x.h": ""}, nil, []string{"gcc", "-Isub", "-Inone", "-c", "a.c", "-o", "out"}},
	{"__has_include", map[string]string{"a.cc": "#if __has_include(\"a.h\") || __has_include(<sub/b.h>)\n#include \"c.h\"\n#endif\n#include <vector>\n", "inc/sub/b.h": "", "inc/c.h": "#include \"sub/b.h\"\n"}, nil,
		[]string{"g++", "-Iinc", "-MD", "-MF", "out.d", "-c", "a.cc", "-o", "out"}},
	{"dot-dot and absolute", map[string]string{"src/a.c": "#include \"../inc/x.h\"\n#include \"" + Root + "/inc/y.h\"\n", "inc/x.h": "#include \"./../inc/y.h\"\n", "inc/y.h": ""}, nil,
		[]string{"gcc", "-I", Root + "/inc", "-I../src/none", "-iquote", "src/../none", "-c", "src/a.c", "-o", "out"}},
	{"links", map[string]string{"a.c": "#include \"w.h\"\n#include <real.h>\n", "real/inc/w.h": "#include \"../near.h\"\n", "real/near.h": "", "real/inc/real.h": ""},
		map[string]string{"inc": "real/inc", "abs": Root + "/real/inc", "dangling": "nowhere"},
		[]string{"gcc", "-Idangling", "-Iinc", "-Iabs", "-c", "a.c", "-o", "out"}},
	{"assembler", map[string]string{"a.S": "#include \"c.h\"\n.incbin \"data/blob\"\n.include \"m.inc\"\n", "c.h": "", "data/blob": "x", "inc/m.inc": ""}, nil,
		[]string{"gcc", "-Wa,-Iinc", "-c", "a.S", "-o", "out"}},
	{"-save-temps and precompiled", map[string]string{"a.c": "#include \"p.h\"\n", "p.h": "#define P\n"}, nil, []string{"gcc", "-include", "p.h", "-Winvalid-pch", "-c", "a.c", "-o", "out"}},
	{"shell", map[string]string{"d/f": ""}, nil, []string{"sh", "-c", "cat d/f ./d/../g d//none/x; stat d/f; test -x d/f; ls >out; readlink d/f; cp -r d e; rm -r e; cat d/f/"}},
	{"#include_next and symlinked headers", map[string]string{"a.c": "#include <limits.h>\n#include \"api.h\"\n", "wrap/limits.h": "#include_next <limits.h>\n#include_next <absent.h>\n#define W\n",
		"wrap/absent.h": "", "third/absent.h": "", "store/v1/api.h": "#include \"part.h\"\n", "store/v1/part.h": "", "inc/other.h": ""},
		map[string]string{"inc/api.h": "../store/v1/api.h", "current": "store/v1"},
		[]string{"gcc", "-Iwrap", "-Inone", "-Ithird", "-Iinc", "-isystem", "current", "-c", "a.c", "-o", "out"}},
	{"-M", sources, nil, []string{"gcc", "-M", "-MG", "-MT", "x", "-Iinc", "-Inone", "-MF", "out", "a.c"}},
	{"-MD -MP", sources, nil, []string{"gcc", "-O1", "-MD", "-MP", "-MF", "out.d", "-c", "a.c", "-o", "out"}},
	{"inline .incbin", map[string]string{"a.c": "__asm__(\".section .rodata\\n.incbin \\\"data/blob\\\"\\n\");\n", "more/data/blob": "x"}, nil,
		[]string{"gcc", "-Wa,-Inone", "-Wa,-Imore", "-c", "a.c", "-o", "out"}},
	{"-include and -iquote", map[string]string{"src/a.c": "#include \"q.h\"\n#include <q.h>\n", "q/q.h": "#pragma once\n", "conf.h": "#define C\n", "i/q.h": ""}, nil,
		[]string{"gcc", "-include", "conf.h", "-imacros", "conf.h", "-iquote", "q", "-I", "i", "-idirafter", "none", "-c", "src/a.c", "-o", "out"}},
}

// LookupsEqualStrace runs each unit in a machine, and has plain run the same
// command on the same files without the agent, under strace, whose arguments
// come before it in argv and write to Traces + "/t"; plain returns the prefix of
// these files, and whether the command failed. Both must tell of the same names
// below the root.
func LookupsEqualStrace(t *testing.T, m vm.Machine, units []Unit, plain func(t *testing.T, u Unit, argv []string) (traces string, failed bool)) {
	for _, u := range units {
		t.Run(u.Name, func(t *testing.T) {
			job, blobs := u.Job()
			r := Exec(t, m, job, blobs)
			if r.LookupsTruncated {
				t.Error("truncated")
			}
			traces, failed := plain(t, u, append(strace.Command(Traces+"/t"), u.Argv...))
			if failed != (r.ExitCode != 0) {
				t.Fatalf("plain: failed %v; under the agent: exit %d\n%s", failed, r.ExitCode, r.Stderr.String())
			}
			processes, err := strace.Read(traces)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, u, r, processes)
		})
	}
}

// Traces is the directory for them, where plain commands run.
const Traces = "/traces"

func compare(t *testing.T, u Unit, r *Ran, processes []strace.Process) {
	t.Helper()
	// The judge resolves names as they were before the job.
	names := u.names()
	want := map[string]bool{}
	for _, p := range processes {
		for _, l := range p.Lookups {
			if l.Path == "" {
				continue
			}
			base := l.Dir
			if base == "" {
				base = Root
			}
			names.judge(want, base, l.Path, followed(l.Call))
		}
	}
	got := map[string]bool{}
	for _, l := range r.Lookups {
		got[random.ReplaceAllString(fmt.Sprintf("%s %v", l.Path, l.Found), "out-X.tmp")] = true
	}
	// The agent's job begins with a chdir that strace did not see.
	delete(got, Root+" directory")
	delete(want, Root+" directory")
	for l := range want {
		if fixed := random.ReplaceAllString(l, "out-X.tmp"); fixed != l {
			delete(want, l)
			want[fixed] = true
		}
	}
	if len(want) < 2 {
		t.Fatalf("strace saw nothing: %v", want)
	}
	for _, l := range slices.Sorted(maps.Keys(got)) {
		if !want[l] {
			t.Errorf("recorded, and not seen by strace: %s", l)
		}
	}
	for _, l := range slices.Sorted(maps.Keys(want)) {
		if !got[l] {
			t.Errorf("seen by strace, and not recorded: %s", l)
		}
	}
	if !t.Failed() {
		t.Logf("%d programs, %d names below the root, all equal", len(processes), len(want))
	}
}

// random is how clang names an object until it is whole.
var random = regexp.MustCompile(`out-[0-9a-f]{8}\.tmp`)

// followed tells whether a call follows a link at the end of its path. strace
// shows flags, but the reader drops them: in these units lstat-like calls meet
// no links.
func followed(call string) bool {
	return call != "lstat" && call != "readlink" && call != "readlinkat" && call != "unlink" && call != "unlinkat"
}

// names are what is below the root, by path in the job: "" is a directory, "-"
// a file, else a link's target.
type names map[string]string

func (u *Unit) names() names {
	n := names{Root: ""}
	add := func(p, what string) {
		p = path.Join(Root, p)
		n[p] = what
		for dir := path.Dir(p); dir != Root; dir = path.Dir(dir) {
			n[dir] = ""
		}
	}
	for p := range u.Files {
		add(p, "-")
	}
	for p, target := range u.Links {
		add(p, target)
	}
	return n
}

func (n names) judge(set map[string]bool, base, p string, follow bool) {
	add := func(p, what string) {
		if p == Root || strings.HasPrefix(p, Root+"/") {
			set[p+" "+what] = true
		}
	}
	inside := func(p string) bool { return p == Root || strings.HasPrefix(p, Root+"/") }
	if path.IsAbs(p) {
		base = "/"
	}
	// A slash at the end asks the same name to be a directory.
	todo := strings.Split(strings.TrimRight(p, "/"), "/")
	for i := 0; len(todo) > 0 && i < 1000; i++ {
		c := todo[0]
		todo = todo[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			add(base, "directory")
			base = path.Dir(base)
			continue
		}
		next := path.Join(base, c)
		what, there := n[next]
		switch {
		case !inside(next):
			base = next
		case !there || what == "-" && len(todo) > 0:
			if there {
				add(next, "file")
			}
			if slices.Contains(todo, "..") {
				add(next, "absent")
			} else {
				add(path.Join(next, path.Join(todo...)), "absent")
			}
			return
		case what != "" && what != "-" && (follow || len(todo) > 0):
			add(next, "symlink")
			if path.IsAbs(what) {
				base = "/"
			}
			todo = append(strings.Split(what, "/"), todo...)
		default:
			base = next
		}
	}
	switch what := n[base]; what {
	case "":
		add(base, "directory")
	case "-":
		add(base, "file")
	default:
		add(base, "symlink")
	}
}
