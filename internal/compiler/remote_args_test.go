package compiler

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// machine are options for a checkout in /w/p, compiled in /w/p/b.
func machine() RemoteOptions {
	return RemoteOptions{Compiler: "cc", Cwd: "/w/p/b", Paths: &PathMap{Roots: []Root{
		{Dir: "/w/p", Neutral: "/hpcc/src"}, {Dir: "/w/q", Neutral: "/hpcc/src1"},
	}}}
}

func remoteArgs(t *testing.T, command string, o RemoteOptions) (*RemoteCommand, error) {
	t.Helper()
	args, ok := splitResponse(command)
	if !ok {
		t.Fatalf("%s: not a command line", command)
	}
	inv, err := parseCall(args, o.Cwd)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return inv.RemoteArgs(o)
}

var seedOption = regexp.MustCompile(`-frandom-seed=[0-9a-f]{16} `)

func TestRemoteArgs(t *testing.T) {
	const colour = "-fdiagnostics-color=always "
	for _, c := range []struct{ command, want, outputs string }{
		{"gcc -c a.c", colour + "-o /hpcc/out/object -c a.c", "object /hpcc/out/object"},
		{"gcc -c /w/p/b/a.c -o /elsewhere/x.o", colour + "-o /hpcc/out/object -c /hpcc/src/b/a.c", "object /hpcc/out/object"},
		{"gcc -S a.c -o-x", colour + "-o /hpcc/out/assembly -S a.c", "assembly /hpcc/out/assembly"},
		{"gcc -O2 -I /w/p/i -I/w/q/i -I../j -I/usr/include/x -iquote/w/p2 -c a.c",
			colour + "-o /hpcc/out/object -O2 -I /hpcc/src/i -I/hpcc/src1/i -I../j -I/usr/include/x -iquote/w/p2 -c a.c", "object /hpcc/out/object"},
		{"gcc -Wp,-I,/w/p/i,-DX=/w/p -Wa,-I,/w/p/i -Wl,-rpath,/w/p/l -DY=/w/p -include /w/p/i.h -c a.c",
			colour + "-o /hpcc/out/object -Wp,-I,/hpcc/src/i,-DX=/w/p -Wa,-I,/hpcc/src/i -Wl,-rpath,/hpcc/src/l -DY=/w/p -include /hpcc/src/i.h -c a.c",
			"object /hpcc/out/object"},
		{"gcc -MD -MP -MT q -MF /elsewhere/x.d -c a.c", colour + "-MD -MF /hpcc/out/dependencies -MT x -o /hpcc/out/object -c a.c",
			"object /hpcc/out/object; dependencies /hpcc/out/dependencies"},
		{"gcc -Wp,-MMD,.x.d,-DX -c a.c", colour + "-MMD -MF /hpcc/out/dependencies -MT x -o /hpcc/out/object -Wp,-DX -c a.c",
			"object /hpcc/out/object; dependencies /hpcc/out/dependencies"},
		{"gcc -fdiagnostics-color=never -c a.c", "-o /hpcc/out/object -fdiagnostics-color=never -c a.c", "object /hpcc/out/object"},
		{"clang -fno-color-diagnostics -c a.c", "-o /hpcc/out/object -fno-color-diagnostics -c a.c", "object /hpcc/out/object"},
		{"gcc -fdiagnostics-color=auto -c a.c", colour + "-o /hpcc/out/object -c a.c", "object /hpcc/out/object"},
		{"gcc -frandom-seed=mine -c a.c", colour + "-o /hpcc/out/object -frandom-seed=mine -c a.c", "object /hpcc/out/object"},
		{"clang -c -- a.c", colour + "-o /hpcc/out/object -c -- a.c", "object /hpcc/out/object"},
		{"clang -c s.s", "-o /hpcc/out/object -c s.s", "object /hpcc/out/object"},
		{"gcc -fstack-usage -fcallgraph-info -aux-info i.txt -Wa,-aln=l.txt -c a.c -o d/x.o",
			colour + "-o /hpcc/out/object -fstack-usage -fcallgraph-info -aux-info /hpcc/out/aux-info -Wa,-aln=/hpcc/out/listing -c a.c",
			"object /hpcc/out/object; su /hpcc/out/object.su; ci /hpcc/out/object.ci; aux-info /hpcc/out/aux-info; listing /hpcc/out/listing"},
		{"gcc -g -gsplit-dwarf -c a.c -o d/x.o", colour + "-g -gsplit-dwarf -c a.c -o d/x.o",
			"object /hpcc/src/b/d/x.o; dwo /hpcc/src/b/d/x.dwo"},
		{"gcc -g -gsplit-dwarf -MD -c a.c -o /w/q/x.o", colour + "-MD -MF /hpcc/out/dependencies -MT x -g -gsplit-dwarf -c a.c -o /hpcc/src1/x.o",
			"object /hpcc/src1/x.o; dwo /hpcc/src1/x.dwo; dependencies /hpcc/out/dependencies"},
		{"gcc -c a.c -o /dev/null", colour + "-c a.c -o /dev/null", ""},
		{"gcc -x c -c /dev/null -o .tmp/x", colour + "-o /hpcc/out/object -x c -c /dev/null", "object /hpcc/out/object"},
		{"gcc -M a.c ../c.c", colour + "-M a.c ../c.c", ""},
		{"gcc -ffile-prefix-map=/w/p/=x/ -fdebug-prefix-map=/w/p/b=. -ffile-prefix-map=..=r -c a.c",
			colour + "-o /hpcc/out/object -ffile-prefix-map=/hpcc/src/=x/ -fdebug-prefix-map=/hpcc/src/b=. -ffile-prefix-map=..=r -c a.c",
			"object /hpcc/out/object"},
		{"gcc -B/usr/bin --prefix=/opt/ -c a.c", colour + "-o /hpcc/out/object -B/usr/bin --prefix=/opt/ -c a.c", "object /hpcc/out/object"},
		{"clang-cl-14 /c a.c /FA /Fax.asm /Fod/x.obj", "/Brepro -fcolor-diagnostics /Fo/hpcc/out/object.obj /Fa/hpcc/out/listing.asm /c a.c /FA",
			"object /hpcc/out/object.obj; listing /hpcc/out/listing.asm"},
	} {
		got, err := remoteArgs(t, c.command, machine())
		if err != nil {
			t.Errorf("%s: %v", c.command, err)
			continue
		}
		if got.Argv[0] != "cc" || got.Cwd != "/hpcc/src/b" || got.Source != "" && !strings.HasPrefix(got.Source, "/hpcc/src/b/") {
			t.Errorf("%s: %s %s in %s", c.command, got.Argv[0], got.Source, got.Cwd)
		}
		text := seedOption.ReplaceAllString(strings.Join(got.Argv[1:], " "), "")
		var outputs []string
		for _, o := range got.Outputs {
			outputs = append(outputs, o.Role+" "+o.Path)
		}
		if text != c.want || strings.Join(outputs, "; ") != c.outputs {
			t.Errorf("%s:\n got %s\nwant %s\n got %q\nwant %s", c.command, text, c.want, outputs, c.outputs)
		}
	}
}

// TestRemoteArgsAreTheSameEverywhere: another checkout and other names give the
// same command.
func TestRemoteArgsAreTheSameEverywhere(t *testing.T) {
	here, err := remoteArgs(t, "gcc -g -I/w/p/i -I../j -MD -c /w/p/b/a.c -o x/a.o", machine())
	if err != nil {
		t.Fatal(err)
	}
	o := machine()
	o.Cwd, o.Paths = "/home/u/q/b", &PathMap{Roots: []Root{{Dir: "/home/u/q", Neutral: "/hpcc/src"}}}
	there, err := remoteArgs(t, "gcc -g -I/home/u/q/i -I../j -MD -MF z -c /home/u/q/b/a.c -o /tmp/y", o)
	if err != nil || !slices.Equal(here.Argv, there.Argv) {
		t.Errorf("%q\n%q: %v", here.Argv, there.Argv, err)
	}
}

func TestRemoteArgsRefused(t *testing.T) {
	for command, want := range map[string]string{
		"gcc -march=native -c a.c":                              "native",
		"clang-cl-14 /Z7 /c a.c":                                "recorded-command",
		"gcc --coverage -c a.c":                                 "recorded-place",
		"gcc -fprofile-generate -c a.c":                         "recorded-place",
		"gcc -c /elsewhere/a.c":                                 "outside-roots: /elsewhere/a.c",
		"gcc -c ../../a.c":                                      "outside-roots: ../../a.c",
		"gcc -M a.c /x/c.c":                                     "outside-roots: /x/c.c",
		"gcc -I../../q/i -c a.c":                                "outside-roots: ../../q/i",
		"gcc -I/w/p/../q -c a.c":                                "outside-roots: /w/p/../q",
		"gcc -I../../../etc/x -I../../r -c a.c":                 "outside-roots: ../../r",
		"gcc -I/hpcc/src1/x -c a.c":                             "outside-roots: /hpcc/src1/x",
		"gcc -ffile-prefix-map=/w=x -c a.c":                     "outside-roots: /w=x",
		"gcc -g -gsplit-dwarf -c a.c -o /tmp/x.o":               "outside-roots: /tmp/x.o",
		"gcc -B.. -c a.c":                                       "client-tools: ..",
		"gcc --prefix=/w/q/tools -c a.c":                        "client-tools: /w/q/tools",
		"clang -include ../../c.h -Xclang -I -Xclang /x -c a.c": "outside-roots: ../../c.h",
	} {
		_, err := remoteArgs(t, command, machine())
		var refusal *NotCacheable
		if !errors.As(err, &refusal) || err.Error() != "not cacheable: "+want {
			t.Errorf("%s: %v, want %s", command, err, want)
		}
	}
	for _, o := range []RemoteOptions{
		{Cwd: "/w/p/b"},
		{Cwd: "/w", Paths: machine().Paths},
	} {
		if _, err := remoteArgs(t, "gcc -c a.c", o); err == nil {
			t.Errorf("%+v: not refused", o)
		}
	}
	for i, r := range RemoteReasons() {
		if r.Description == "" || i > 0 && RemoteReasons()[i-1].Reason >= r.Reason {
			t.Errorf("reason %q: undescribed or out of order", r.Reason)
		}
	}
}

func TestMachineText(t *testing.T) {
	m := machine().Paths
	got := m.LocalText(m.Machine().NeutralText([]byte("/hpcc/src/a.c:1: /hpcc/src1/x /hpcc/src12/y /hpcc/srcs")))
	if want := "/w/p/a.c:1: /w/q/x /hpcc/src12/y /hpcc/srcs"; string(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestRemoteArgsAgainstCompilers runs every cacheable call of calls.txt twice:
// by the user's own words where the checkout is, with the options that put the
// machine's root in its place, and as the machine would, in a copy of the
// checkout. Both leave the same.
func TestRemoteArgsAgainstCompilers(t *testing.T) {
	needCompilers(t, "gcc", "g++", "clang", "clang++", "clang-cl-14", "x86_64-w64-mingw32-gcc", "x86_64-w64-mingw32-g++")
	t.Setenv("LC_ALL", "C")
	calls, _ := readCalls(t)
	ran := 0
	for _, c := range calls {
		if inv, err := parseCall(c.args, "/w/p"); err != nil || inv.Family == CL {
			continue
		}
		ran++
		t.Run(fmt.Sprint(c.line), func(t *testing.T) {
			t.Parallel()
			here := realPath(t, writeSources(t))
			inv, err := parseCall(c.args, here)
			if err != nil {
				t.Fatal(err)
			}
			there, out := realPath(t, writeSources(t)), realPath(t, t.TempDir())
			if inv.InPlace() {
				there = here
			}
			o := RemoteOptions{Compiler: c.args[0], Cwd: here, Out: out, Paths: &PathMap{Roots: []Root{{Dir: here, Neutral: there}}}}
			remote, err := inv.RemoteArgs(o)
			var refusal *NotCacheable
			if errors.As(err, &refusal) {
				switch refusal.Reason {
				case ReasonNative, ReasonRecordedCommand, ReasonClientTools:
					return
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if inv.LTO {
				// Its objects hold paths that no option maps.
				here = there
				o.Paths = &PathMap{Roots: []Root{{Dir: there, Neutral: there}}}
			}
			plain := leave(t, here, c.args[0], inv.plainArgs(o), inv.Outputs, inv.Deps)
			machine := leave(t, there, remote.Argv[0], remote.Argv[1:], remote.Outputs, Deps{Requested: inv.Deps.Requested, File: out + "/dependencies"})
			if there != here {
				plain.printed = bytes.ReplaceAll(plain.printed, []byte(here), []byte(there))
				if got := newFiles(t, there); len(got) != 0 {
					t.Errorf("%s\nleaves %q besides", c.text, got)
				}
			}
			if !slices.Equal(plain.deps, machine.deps) {
				t.Errorf("%s\ndependencies %q, in the machine %q", c.text, plain.deps, machine.deps)
			}
			if !bytes.Equal(plain.printed, machine.printed) && inv.Unrepeatable(true) == "" {
				t.Errorf("%s\nprints %q, in the machine %q", c.text, plain.printed, machine.printed)
			}
			for role, want := range plain.outputs {
				got, ok := machine.outputs[role]
				if inv.Unrepeatable(true) != "" && role == "listing" && ok {
					continue
				}
				if !ok || !inv.SameOutput(role, got, want) {
					t.Errorf("%s\n%s differs (%d and %d bytes)\n%q", c.text, role, len(want), len(got), remote.Argv)
				}
			}
		})
	}
	if ran < 150 {
		t.Errorf("only %d calls", ran)
	}
}

// plainArgs is the user's command as it runs here where o's machine is to make
// the same.
func (inv *Invocation) plainArgs(o RemoteOptions) []string {
	var pairs [][2]string
	for _, r := range o.Paths.Roots {
		if r.Dir != r.Neutral {
			pairs = append(pairs, [2]string{r.Dir + "/", r.Neutral + "/"}, [2]string{r.Dir, r.Neutral})
		}
	}
	extra := inv.ReproducibleArgs(pairs)
	if inv.Family == GCC && inv.RandomSeed == "" {
		extra = append(extra, "-frandom-seed="+inv.Seed(o.Paths))
	}
	return inv.RunArgs(RunOptions{Extra: extra})
}

// left is what a command left.
type left struct {
	printed []byte // without colours
	outputs map[string][]byte
	deps    []string
}

var colours = regexp.MustCompile("\x1b\\[[0-9;]*[mK]")

// leave runs a command and takes away what it leaves.
func leave(t *testing.T, dir, name string, args []string, outputs []Output, deps Deps) left {
	t.Helper()
	l := left{outputs: map[string][]byte{}}
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var err error
	if l.printed, err = cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, l.printed)
	}
	l.printed = colours.ReplaceAll(l.printed, nil)
	take := func(name string, optional bool) []byte {
		if !strings.HasPrefix(name, "/") {
			name = dir + "/" + name
		}
		data, err := os.ReadFile(name)
		if err != nil && !optional {
			t.Errorf("%q: %v", args, err)
		}
		os.Remove(name)
		return data
	}
	for _, o := range outputs {
		if o.Role == RoleDependencies {
			continue
		}
		if data := take(o.Path, o.Optional); data != nil || !o.Optional {
			l.outputs[o.Role] = data
		}
	}
	if deps.Requested {
		if _, l.deps, err = ParseDepFile(take(deps.File, false)); err != nil {
			t.Error(err)
		}
	}
	return l
}

func realPath(t *testing.T, dir string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
