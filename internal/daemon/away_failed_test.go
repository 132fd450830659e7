package daemon

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/remote"
)

// TestAwayFailures: what a compile that fails leaves, writes anew and removes is
// what the plain compiler does, whatever is there from before.
func TestAwayFailures(t *testing.T) {
	w := newMachineWorker(t)
	units := map[string]string{
		"syntax":    "#include \"b.h\"\nint f(void) { return 1; }\nint a = ;\n",
		"header":    "#include \"b.h\"\n#include \"none.h\"\nint f(void) { return 1; }\n",
		"directive": "#include <stddef.h>\n#include \"b.h\"\n#error no\n",
		"warning":   "#include \"b.h\"\nint f(void) { int unused; return 1; }\n",
		"assembler": "#include \"b.h\"\nint f(void) { return 1; }\n__asm__(\"bogus insn\");\n",
	}
	sets := map[string][][]string{
		"gcc": {
			{"-c", "-MD"}, {"-c", "-MMD", "-MP", "-MF", "deps", "-MT", "it", "-o", "out.o"}, {"-c", "-pipe", "-MD"}, {"-S", "-MD", "-MF", "deps"},
			{"-c", "-fstack-usage", "-fcallgraph-info", "-MMD"},
			{"-c", "-g", "-gsplit-dwarf", "-MD"}, {"-c"}, {"-c", "-MD", "-fno-such-thing"}, {"-S", "-MD", "-march=bogus"}, {"-S", "-fno-such-thing"},
		},
		"clang": {
			{"-c", "-MD"}, {"-c", "-MMD", "-MP", "-MF", "deps", "-MT", "it", "-o", "out.o"}, {"-c", "-no-integrated-as", "-MD"}, {"-S", "-MD", "-MF", "deps"},
			{"-c", "-fstack-usage", "-MMD"}, {"-c", "-g", "-gsplit-dwarf", "-MD"}, {"-c"}, {"-c", "-MD", "-fno-such-thing"}, {"-c", "-MD", "-std=c45"}, {"-c", "-MD", "-Wfatal-errors"},
		},
	}
	left := []string{"a.o", "out.o", "a.s", "a.d", "deps", "a.su", "a.ci", "a.dwo"}
	for name, text := range units {
		for program, list := range sets {
			t.Run(program+" "+name, func(t *testing.T) {
				t.Parallel()
				e := awayEngine(t, w, nil)
				dir := project(t, map[string]string{"a.c": text, "b.h": "#define B 1\n"})
				for _, set := range list {
					args := append([]string{program, "-Wall", "-Werror", "a.c"}, set...)
					for _, old := range []bool{false, true} {
						before := func() {
							take(dir, left)
							for _, n := range left {
								if old {
									put(t, filepath.Join(dir, n), "old")
								}
							}
						}
						before()
						want, said := plainly(t, dir, left, args...)
						before()
						done := away(t, e, dir, args...)
						got := take(dir, left)
						if name == "assembler" && slices.Contains(set, "-S") && program == "gcc" {
							continue // it is not asked
						}
						if done.ExitCode != 1 || name != "assembler" && string(done.Stderr) != said {
							t.Errorf("%q: exit %d, %s\nwant 1, %s", args, done.ExitCode, done.Stderr, said)
						}
						for _, n := range left {
							g, isHere := got[n]
							w, wanted := want[n]
							// Debug information says where the files lie.
							same := g == w || n == "a.dwo" && g != "old" && w != "old"
							if isHere != wanted || !same {
								t.Errorf("%q (old files %v): %s: %v %q, want %v %q\n%s", args, old, n, isHere, clip(g), wanted, clip(w), done.Stderr)
							}
						}
					}
				}
			})
		}
	}
}

func clip(s string) string { return s[:min(len(s), 60)] }

// leavesAll is a worker whose compiles end as result says, and leave every output
// that is declared.
type leavesAll struct {
	*machineWorker
	result remote.Result
	deps   string
}

func (l leavesAll) Compile(_ context.Context, r *remote.Request) (*remote.Result, error) {
	res := l.result
	var err error
	if res.Action, err = r.Job.Action(r.Tree, []string{r.Job.Source}, nil); err != nil {
		return nil, err
	}
	for _, o := range r.Job.Outputs {
		data := []byte("made")
		if o.Role == compiler.RoleDependencies {
			data = []byte(l.deps)
		}
		res.Outputs = append(res.Outputs, remote.Output{Role: o.Role, Data: data, Digest: digest.Of(data)})
	}
	return &res, nil
}

// TestAwayFailureLeavesNoObject: whatever a worker sends, no object stands behind a
// compile that failed, and one that was ended leaves nothing.
func TestAwayFailureLeavesNoObject(t *testing.T) {
	for name, c := range map[string]struct {
		worker leavesAll
		want   map[string]string
	}{
		"failed":   {leavesAll{nil, remote.Result{ExitCode: 1}, "x: a.c\n"}, map[string]string{"a.d": "a.o: a.c\n", "a.su": "made"}},
		"no rule":  {leavesAll{nil, remote.Result{ExitCode: 1}, "none"}, map[string]string{}},
		"a signal": {leavesAll{nil, remote.Result{Signal: 9}, "x: a.c\n"}, map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			e := awayEngine(t, c.worker, nil)
			dir := project(t, map[string]string{"a.c": "int a;\n"})
			done := away(t, e, dir, "gcc", "-c", "-MMD", "-fstack-usage", "a.c")
			if got := take(dir, []string{"a.o", "a.d", "a.su"}); done.ExitCode == 0 || !maps.Equal(got, c.want) {
				t.Errorf("exit %d, left %q", done.ExitCode, got)
			}
		})
	}
}
