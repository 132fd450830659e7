package compiler

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

var updateCalls = flag.Bool("update-calls", false, "write testdata/calls.txt anew from what Parse says")

// call is one case of testdata/calls.txt.
type call struct {
	line int
	text string
	args []string
	want string
}

// readCalls returns the cases, and the lines of the file with the index of the
// case that each belongs to or -1, so that the file can be written anew.
func readCalls(t testing.TB) (calls []call, lines []string) {
	t.Helper()
	data, err := os.ReadFile("testdata/calls.txt")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimRight(string(data), "\n"), "\n") {
		text, isCall := strings.CutPrefix(line, "$ ")
		switch {
		case isCall:
			args, ok := splitResponse(text)
			if !ok {
				t.Fatalf("calls.txt:%d: not a command line", i+1)
			}
			calls = append(calls, call{line: i + 1, text: text, args: args})
		case line != "" && line[0] != '#':
			calls[len(calls)-1].want = line
			continue
		}
		lines = append(lines, line)
	}
	return calls, lines
}

// sources is what the calls find in their working directory.
var sources = map[string]string{
	"a.c":      "int f(int x){return x+1;}\n",
	"sub/a.c":  "int f(int x){return x+1;}\n",
	"a.cc":     "int f(int x){return x+1;}\n",
	"a.C":      "int f(int x){return x+1;}\n",
	"a.i":      "int f(int x){return x+1;}\n",
	"a.ii":     "int f(int x){return x+1;}\n",
	"m.m":      "int f(int x){return x+1;}\n",
	"a b$#.c":  "int f(int x){return x+1;}\n",
	"nofn.c":   "int x;\n",
	"inc.c":    "#include \"h.h\"\n",
	"h.h":      "#define H 1\n",
	"s.s":      ".globl f\n",
	"s.S":      "#define G .globl\nG f\n",
	"s.sx":     ".globl f\n",
	"d/keep":   "",
	"r.rsp":    "-O2 -DX='a b' \"a.c\"\n",
	"loop.rsp": "@loop.rsp",
	// Names are relative to the working directory, not to the file.
	"nested.rsp": "-c @sub/r2.rsp",
	"sub/r2.rsp": "@r.rsp",
	"ignore.txt": "fun:g\n",
	"w.rsp":      "/O2 \"/DX=\\\"a b\\\"\" @w2.rsp \"a.c\"\n",
	"u16.rsp":    utf16File("/O2 \"/DÜ=1\" @w2.rsp a.c\r\n"),
	"w2.rsp":     "\xef\xbb\xbf/GR- /DY",
	"open.rsp":   "/c \"a.c",
}

// utf16File is text as Visual Studio writes it: UTF-16, little end first, with
// a byte order mark.
func utf16File(text string) string {
	var b []byte
	for _, u := range utf16.Encode([]rune("\ufeff" + text)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return string(b)
}

func parseCall(args []string, cwd string) (*Invocation, error) { return Parse(commandOf(args, cwd)) }

func commandOf(args []string, cwd string) Command {
	return Command{
		Compiler: "/usr/bin/" + args[0],
		Args:     args,
		Cwd:      cwd,
		ReadFile: func(path string) ([]byte, error) {
			rel, err := filepath.Rel(cwd, path)
			if err != nil {
				return nil, err
			}
			text, ok := sources[rel]
			if !ok {
				return nil, os.ErrNotExist
			}
			return []byte(text), nil
		},
	}
}

// describe writes what Parse says as calls.txt does.
func describe(inv *Invocation, err error) string {
	if err != nil {
		return err.Error()
	}
	parts := []string{inv.Language}
	if inv.Mode == Listing {
		style := "-M"
		if inv.ListsUser {
			style = "-MM"
		}
		parts = append(parts, style+" "+strings.Join(inv.Sources, " "))
	}
	for _, o := range inv.Outputs {
		part := o.Role + " " + o.Path
		if o.Optional {
			part += "?"
		}
		parts = append(parts, part)
	}
	if d := inv.Deps; d.Requested {
		style := "-MMD"
		if d.SystemHeaders {
			style = "-MD"
		}
		if d.Phony {
			style += " -MP"
		}
		parts = append(parts, fmt.Sprintf("%s %s: %s", style, d.File, makeTargets(d.Targets)))
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"cwd", inv.HoldsCwd}, {"output-name", inv.HoldsOutputName}, {"debug", inv.Debug}, {"macros", inv.DebugMacros},
		{"coverage", inv.Coverage}, {"lto", inv.LTO}, {"native", inv.Native}, {"command", inv.RecordsCommand},
		{"no time", inv.Family.MSVC() && !inv.Timestamped},
		{"time", !inv.Family.MSVC() && inv.Timestamped}, {"stack", !inv.Family.MSVC() && inv.StackSearch}, {"shows includes", inv.showIncludes == showAll},
		{"shows the user's includes", inv.showIncludes == showUser},
	} {
		if f.set {
			parts = append(parts, f.name)
		}
	}
	for _, list := range []struct {
		name string
		dirs []string
	}{
		{"quote", inv.Includes.Quote}, {"angle", inv.Includes.Angle}, {"system", inv.Includes.System}, {"after", inv.Includes.After},
		{"forced", inv.Includes.Forced}, {"imacros", inv.Includes.Macros}, {"asm-dirs", inv.AsmIncludeDirs},
		{"reads", inv.ReadFiles}, {"probe", inv.Probe},
	} {
		if len(list.dirs) > 0 {
			parts = append(parts, list.name+" "+strings.Join(list.dirs, " "))
		}
	}
	return strings.Join(parts, "; ")
}

// makeTargets writes targets as both compilers do in the simple cases here.
func makeTargets(targets []DepTarget) string {
	var names []string
	for _, t := range targets {
		name := t.Name
		if t.Quoted {
			name = strings.NewReplacer("$", "$$", "#", `\#`, " ", `\ `).Replace(name)
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func TestCalls(t *testing.T) {
	calls, lines := readCalls(t)
	next := 0
	var out bytes.Buffer
	for _, line := range lines {
		fmt.Fprintln(&out, line)
		if !strings.HasPrefix(line, "$ ") {
			continue
		}
		c := calls[next]
		next++
		got := describe(parseCall(c.args, "/w/p"))
		fmt.Fprintln(&out, got)
		if got != c.want && !*updateCalls {
			t.Errorf("calls.txt:%d: %s\n got %s\nwant %s", c.line, c.text, got, c.want)
		}
	}
	if *updateCalls {
		if err := os.WriteFile("testdata/calls.txt", out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEveryRowHasACase: what no case uses, no compiler has confirmed.
func TestEveryRowHasACase(t *testing.T) {
	calls, _ := readCalls(t)
	used := map[*option]bool{}
	mark := func(words []word) {
		for _, w := range words {
			used[w.opt] = true
		}
	}
	for _, c := range calls {
		cmd := commandOf(c.args, "/w/p")
		family, _, _ := FamilyOf(c.args[0])
		args, err := expandResponseFiles(family, cmd)
		if err != nil {
			continue
		}
		p := &parser{inv: &Invocation{Family: family}}
		p.command(args)
		for _, a := range p.inv.parsed {
			mark(a.words)
			mark(a.inner)
		}
	}
	for _, g := range []*grammar{gnuGrammar, frontEndGrammar, assemblerGrammar, msvcGrammar} {
		reported := map[*option]bool{}
		for _, o := range g.options {
			if !used[o.option] && !reported[o.option] {
				reported[o.option] = true
				t.Errorf("no case in calls.txt for the row of %s", o.names)
			}
		}
	}
}

// needCompilers skips without the compilers that the tables describe, or
// fails where they have to be there.
func needCompilers(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("HPCC_TEST_REQUIRE") != "" {
				t.Fatalf("%s is missing, and HPCC_TEST_REQUIRE is set", name)
			}
			t.Skipf("%s is missing", name)
		}
	}
}

func writeSources(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range sources {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// newFiles lists the files below dir that are not among sources.
func newFiles(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if _, ok := sources[rel]; !ok {
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestCallsAgainstCompilers runs every cacheable call of calls.txt: what the
// real compilers leave behind is what Parse says. Then it runs the command for
// a miss, which must leave the same object.
//
// cl does not run here: what is said of it rests on its documentation alone.
func TestCallsAgainstCompilers(t *testing.T) {
	needCompilers(t, "gcc", "g++", "clang", "clang++", "clang-cl-14", "x86_64-w64-mingw32-gcc", "x86_64-w64-mingw32-g++")
	t.Setenv("LC_ALL", "C")
	calls, _ := readCalls(t)
	for _, c := range calls {
		inv, err := parseCall(c.args, "/w/p")
		if err != nil || inv.Family == CL {
			continue
		}
		t.Run(fmt.Sprint(c.line), func(t *testing.T) {
			t.Parallel()
			dir := writeSources(t)
			printed := runIn(t, dir, c.args[0], c.args[1:])
			checkFiles(t, dir, inv, "", c.text)
			if inv.Deps.Requested {
				checkDepFile(t, dir, inv, c.text)
			}
			if inv.Mode != Listing {
				checkMiss(t, dir, inv, c, printed)
			}
		})
	}
}

// checkDepFile compares the user's dependency file with what we would have
// written.
func checkDepFile(t *testing.T, dir string, inv *Invocation, text string) {
	t.Helper()
	d := inv.Deps
	got, err := os.ReadFile(filepath.Join(dir, d.File))
	if err != nil {
		t.Fatal(err)
	}
	_, deps, err := ParseDepFile(got)
	if err != nil {
		t.Fatalf("%s\n%v: %q", text, err, got)
	}
	if want := RenderDepFile(inv.Family, d.Targets, deps, inv.Source, d.Phony); !bytes.Equal(got, want) {
		t.Errorf("%s\ndependency file is %q, rendered %q", text, got, want)
	}
}

// checkFiles compares the files in dir with those that inv declares; depFile
// is another one expected, in place of the user's dependency file.
func checkFiles(t *testing.T, dir string, inv *Invocation, depFile, text string) {
	t.Helper()
	got := newFiles(t, dir)
	var want []string
	for _, o := range inv.Outputs {
		switch {
		case o.Optional && !slices.Contains(got, o.Path), strings.HasPrefix(o.Path, "/"):
		default:
			want = append(want, o.Path)
		}
	}
	switch {
	case depFile != "":
		want = append(want, depFile)
	case inv.Deps.Requested:
		want = append(want, inv.Deps.File)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s\nfiles %q, want %q", text, got, want)
	}
}

// checkMiss runs the command for a miss where the user's own has left its
// outputs, and compares.
func checkMiss(t *testing.T, dir string, inv *Invocation, c call, printed []byte) {
	t.Helper()
	object := filepath.Join(dir, inv.Object)
	if strings.HasPrefix(inv.Object, "/") || inv.LTO || inv.Coverage && inv.RandomSeed == "" {
		return // two plain runs give two objects
	}
	plain, err := os.ReadFile(object)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range newFiles(t, dir) {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	o := RunOptions{DepFile: "all.dep", AsmDepFile: "as,m.dep"}
	list := o.DepFile
	if preprocessed(inv.Language) && inv.InputsFrom() != FromOption {
		o.DepFile = ""
		runIn(t, dir, c.args[0], inv.AllDepsArgs(list))
	}
	got := runIn(t, dir, c.args[0], inv.RunArgs(o))
	if !bytes.Equal(got, printed) {
		t.Errorf("%s\nthe miss prints %q, plain %q", c.text, got, printed)
	}
	again, err := os.ReadFile(object)
	if inv.Timestamped && err == nil {
		copy(plain[4:8], "time")
		copy(again[4:8], "time")
	}
	if err != nil || !bytes.Equal(again, plain) {
		t.Errorf("%s\nobject of the miss is another (%v)", c.text, err)
	}
	if preprocessed(inv.Language) {
		text, err := os.ReadFile(filepath.Join(dir, list))
		if err != nil {
			t.Errorf("%s\n%v", c.text, err)
		}
		if inv.InputsFrom() == FromOutput {
			if _, deps, _ := ParseDepFile(text); !slices.Equal(ParseShowIncludes(inv.Source, got), deps) {
				t.Errorf("%s\nprinted %q, listed %q", c.text, got, deps)
			}
		}
		runIn(t, dir, c.args[0], inv.PreprocessArgs("pp.dep"))
	}
	_, err = os.Stat(filepath.Join(dir, o.AsmDepFile))
	if listed := err == nil; listed != inv.CanListAssembly() {
		t.Errorf("%s\nassembler's list there: %v, want %v", c.text, listed, inv.CanListAssembly())
	}
}

// runIn returns what a program printed on both streams.
func runIn(t *testing.T, dir, name string, args []string) (printed []byte) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, buf.Bytes())
	}
	return buf.Bytes()
}

func TestReasonsAreDescribedAndSeen(t *testing.T) {
	described := map[Reason]bool{}
	for i, r := range Reasons() {
		described[r.Reason] = true
		if r.Description == "" || i > 0 && Reasons()[i-1].Reason >= r.Reason {
			t.Errorf("reason %q: undescribed or out of order", r.Reason)
		}
	}
	seen := map[Reason]bool{ReasonEnvironment: true} // no call, see TestEnvironmentRefused
	calls, _ := readCalls(t)
	for _, c := range calls {
		var refusal *NotCacheable
		if _, err := parseCall(c.args, "/w/p"); errors.As(err, &refusal) {
			seen[refusal.Reason] = true
			if !described[refusal.Reason] {
				t.Errorf("%s: reason %q is not among Reasons()", c.text, refusal.Reason)
			}
		}
	}
	for r := range described {
		if !seen[r] {
			t.Errorf("no case in calls.txt gives reason %q", r)
		}
	}
}

func TestEnvironmentRefused(t *testing.T) {
	_, err := Parse(Command{Compiler: "/usr/bin/gcc", Args: []string{"gcc", "-c", "a.c"}, Env: []string{"LANG=C", "DEPENDENCIES_OUTPUT=x"}})
	if want := "not cacheable: environment: DEPENDENCIES_OUTPUT"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func FuzzParse(f *testing.F) {
	calls, _ := readCalls(f)
	for _, c := range calls {
		f.Add(strings.Join(c.args, "\n"))
	}
	m := &PathMap{Roots: []Root{{Dir: "/w/p"}}}
	f.Fuzz(func(t *testing.T, text string) {
		inv, err := parseCall(strings.Split(text, "\n"), "/w/p")
		if err != nil {
			var refusal *NotCacheable
			if !errors.As(err, &refusal) {
				t.Fatalf("unnamed reason: %v", err)
			}
			return
		}
		// A list goes to stdout, and what is sent to the null device is gone.
		leaves := len(inv.Outputs) > 0 || inv.Mode == Listing || inv.Object == nullDevice
		if inv.Source == "" && inv.Language == "" || !leaves {
			t.Fatalf("understood, but without source or output: %q", text)
		}
		// A key is taken of the command that was parsed: as a command it means
		// the same.
		again, err := parseCall(append(strings.Split(text, "\n")[:1], inv.RunArgs(RunOptions{})...), "/w/p")
		if err != nil || !slices.Equal(again.KeyArgs(m), inv.KeyArgs(m)) {
			t.Fatalf("parsed again, another key: %q (%v)", text, err)
		}
		inv.PreprocessArgs("x")
		remote, err := inv.RemoteArgs(RemoteOptions{Compiler: "cc", Cwd: "/w/p", Paths: &PathMap{Roots: []Root{{Dir: "/w/p", Neutral: "/hpcc/src"}}}})
		if err != nil {
			return
		}
		there, err := parseAs(inv, remote.Argv, remote.Cwd)
		if err != nil || there.Mode != inv.Mode || there.Language != inv.Language || len(there.Outputs) > len(inv.Outputs) {
			t.Fatalf("%q in the machine is %q: %v", text, remote.Argv, err)
		}
	})
}

// parseAs parses a command made of another one's invocation.
func parseAs(inv *Invocation, argv []string, cwd string) (*Invocation, error) {
	cmd := commandOf(argv, cwd)
	if inv.CXX {
		cmd.Args[0] = "g++"
	}
	return ParseAs(inv.Family, cmd)
}
