package vmtest

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/test/strace"
)

// units are compiles whose lookups strace judges.
var units = []struct {
	name  string
	files map[string]string
	links map[string]string
	argv  []string
}{
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
	{"clang", sources, nil, []string{"clang", "-g", "-c", "a.c", "-o", "out"}},
	{"clang++", sources, nil, []string{"clang++", "-std=c++17", "-c", "a.cc", "-o", "out"}},
	{"-save-temps and precompiled", map[string]string{"a.c": "#include \"p.h\"\n", "p.h": "#define P\n"}, nil, []string{"gcc", "-include", "p.h", "-Winvalid-pch", "-c", "a.c", "-o", "out"}},
	{"shell", map[string]string{"d/f": ""}, nil, []string{"sh", "-c", "cat d/f ./d/../g d//none/x; stat d/f; test -x d/f; ls >out; readlink d/f; cp -r d e; rm -r e; cat d/f/"}},
}

// TestLookupsEqualStrace runs each unit under the agent, and without it under
// strace. Both must tell of the same names below the root.
func TestLookupsEqualStrace(t *testing.T) {
	agent, dir := buildAgent(t), shortDir(t)
	runtime := &Process{Agent: agent, Dir: dir}
	m, err := runtime.Start(t.Context(), vm.Spec{ID: "oracle", Rootfs: vm.Rootfs{Path: "/"}, VCPUs: 1, MemoryMiB: 1024})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	for _, u := range units {
		t.Run(u.name, func(t *testing.T) {
			job, blobs := NewJob(u.files, u.argv...)
			tree := write(t, u.files)
			for name, target := range u.links {
				job.Inputs = append(job.Inputs, agentapi.Input{Path: Root + "/" + name, Kind: agentapi.Symlink, Target: target})
				if err := os.Symlink(target, filepath.Join(tree, name)); err != nil {
					t.Fatal(err)
				}
			}
			r := Exec(t, m, job, blobs)
			if r.LookupsTruncated {
				t.Error("truncated")
			}
			traces := t.TempDir()
			// The judge resolves names as they were before the job.
			names := snapshot(t, tree)
			if err := plain(t, tree, traces, append(strace.Command("/traces/t"), u.argv...)); (err != nil) != (r.ExitCode != 0) {
				t.Fatalf("plain: %v; under the agent: exit %d\n%s", err, r.ExitCode, r.Stderr.String())
			}
			processes, err := strace.Read(filepath.Join(traces, "t"))
			if err != nil {
				t.Fatal(err)
			}
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
			for _, l := range sorted(got) {
				if !want[l] {
					t.Errorf("recorded, and not seen by strace: %s", l)
				}
			}
			for _, l := range sorted(want) {
				if !got[l] {
					t.Errorf("seen by strace, and not recorded: %s", l)
				}
			}
		})
	}
	if err := m.Kill(); err != nil {
		t.Error(err)
	}
	nothingLeft(t, agent, dir)
}

// random is how clang names an object until it is whole.
var random = regexp.MustCompile(`out-[0-9a-f]{8}\.tmp`)

func sorted(set map[string]bool) []string {
	var all []string
	for l := range set {
		all = append(all, l)
	}
	slices.Sort(all)
	return all
}

// followed tells whether a call follows a link at the end of its path. strace
// shows flags, but the reader drops them: in these units lstat-like calls meet
// no links.
func followed(call string) bool {
	return call != "lstat" && call != "readlink" && call != "readlinkat" && call != "unlink" && call != "unlinkat"
}

// names are what is below the root, by path in the job: "" is a directory, "-"
// a file, else a link's target.
type names map[string]string

func snapshot(t *testing.T, tree string) names {
	t.Helper()
	n := names{}
	err := filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		p = path.Join(Root, strings.TrimPrefix(p, tree))
		switch {
		case d.IsDir():
			n[p] = ""
		case d.Type() == fs.ModeSymlink:
			n[p], err = os.Readlink(filepath.Join(tree, strings.TrimPrefix(p, Root)))
		default:
			n[p] = "-"
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
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
