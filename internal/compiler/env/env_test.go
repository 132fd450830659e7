package env

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// untraced begins the part of the list that is written by hand.
const untraced = "# Not traced:"

var update = flag.Bool("update-getenv", false, "write testdata/getenv.txt anew from a trace")

// list reads testdata/getenv.txt: by program, the names that it looks up, and
// the text of the part that is written by hand.
func list(t *testing.T) (traced, byHand map[string][]string, hand string) {
	t.Helper()
	data, err := os.ReadFile("testdata/getenv.txt")
	if err != nil {
		t.Fatal(err)
	}
	text, hand, ok := strings.Cut(string(data), untraced)
	if !ok {
		t.Fatalf("no line %q", untraced)
	}
	parse := func(text string) map[string][]string {
		m := map[string][]string{}
		for line := range strings.Lines(text) {
			if program, names, ok := strings.Cut(line, ": "); ok && line[0] != '#' {
				m[program] = append(m[program], strings.Fields(names)...)
			}
		}
		return m
	}
	return parse(text), parse(hand), hand
}

// TestTracedNamesAreDecided: whatever a compiler was seen to look up has a row.
func TestTracedNamesAreDecided(t *testing.T) {
	traced, byHand, _ := list(t)
	if len(traced) < 8 || len(byHand) < 2 {
		t.Fatalf("%d programs traced, %d not", len(traced), len(byHand))
	}
	for _, m := range []map[string][]string{traced, byHand} {
		for program, names := range m {
			for _, name := range names {
				if Roles(name) == 0 {
					t.Errorf("%s looks %s up: decide what it means", program, name)
				}
			}
		}
	}
}

// traces are the compiles that are traced, each by every compiler: between
// them they go through all that decides by variables. $O is the output.
var traces = []struct {
	args  string
	only  string // the begin of a compiler's name
	fails bool
}{
	{args: "-g -O2 -Wall -MD -c warn.c -o $O"},
	{args: "-x c++ --coverage -fdiagnostics-color=auto -c warn.c -o $O"},
	{args: "-flto -c warn.c -o $O"},
	{args: "-g -gsplit-dwarf -c plain.c -o $O"},
	{args: "-S -g3 plain.c -o $O"},
	{args: "-c date.c -o $O"},
	{args: "-c s.s -o $O"},
	{args: "-g -Wa,--noexecstack -c S.S -o $O"},
	{args: "-x objective-c -c plain.c -o $O"},
	{args: "-fno-integrated-as -c plain.c -o $O", only: "clang"},
	{args: "-march=native -c plain.c -o $O"},
	{args: "-pipe -c plain.c -o $O"},
	{args: "-c bad.c -o $O", fails: true},
	{args: "-c missing.c -o $O", fails: true},
}

// otherTraces are compiles by compilers that do not know all of those options.
var otherTraces = []struct {
	compiler, args string
	fails          bool
}{
	{"clang-cl-14", "/Z7 /O2 /W4 /showIncludes /c warn.c /Fo$O", false},
	{"clang-cl-14", "-flto --coverage -march=native /c plain.c /Fo$O", false},
	{"clang-cl-14", "/FA /Fa$O.asm /winsysroot . /c date.c /Fo$O", false},
	{"clang-cl-14", "/c bad.c /Fo$O", true},
	{"x86_64-w64-mingw32-gcc-win32", "-g -O2 -Wall -MD -c warn.c -o $O", false},
	{"x86_64-w64-mingw32-gcc-win32", "-flto --coverage -c date.c -o $O", false},
	{"x86_64-w64-mingw32-gcc-win32", "-c bad.c -o $O", true},
}

// TestTraceNow traces the installed compilers, on a terminal too, and compares
// with the list.
func TestTraceNow(t *testing.T) {
	for _, name := range []string{"gcc", "g++", "clang", "clang++", "clang-cl-14", "x86_64-w64-mingw32-gcc-win32", "script"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("HPCC_TEST_REQUIRE") != "" {
				t.Fatalf("%s is missing, and HPCC_TEST_REQUIRE is set", name)
			}
			t.Skipf("%s is missing", name)
		}
	}
	dir := t.TempDir()
	preload, log, out := filepath.Join(dir, "getenv.so"), filepath.Join(dir, "log"), filepath.Join(dir, "out.o")
	run := func(fails bool, environ []string, args ...string) {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = "testdata"
		cmd.Env = append(environ, "PATH="+os.Getenv("PATH"), "TERM=xterm-256color", "LC_ALL=C.UTF-8")
		if out, err := cmd.CombinedOutput(); (err != nil) != fails {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	run(false, nil, "gcc", "-shared", "-fPIC", "-o", preload, "getenv.c")
	for name, text := range map[string]string{
		"warn.c": "int f(void) { int unused; return 0; }\n", "plain.c": "int x;\n", "date.c": "const char *d = __DATE__ __TIME__;\n",
		"s.s": "nop\n", "S.S": "#define N nop\nN\n", "bad.c": "int f(\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, compiler := range []string{"gcc", "g++", "clang", "clang++"} {
		for _, trace := range traces {
			if !strings.HasPrefix(compiler, trace.only) {
				continue
			}
			command := fmt.Sprintf("cd %s; LD_PRELOAD=%s GETENV_LOG=%s %s %s", dir, preload, log, compiler, strings.ReplaceAll(trace.args, "$O", out))
			run(trace.fails, nil, "sh", "-c", command)
		}
		// script(1) runs it on a terminal and ends as it ended.
		for _, source := range []string{"warn.c", "bad.c"} {
			run(source == "bad.c", nil, "script", "-qec", fmt.Sprintf("cd %s; LD_PRELOAD=%s GETENV_LOG=%s %s -Wall -c %s -o %s",
				dir, preload, log, compiler, source, out), "/dev/null")
		}
	}
	for _, trace := range otherTraces {
		run(trace.fails, nil, "sh", "-c", fmt.Sprintf("cd %s; LD_PRELOAD=%s GETENV_LOG=%s %s %s",
			dir, preload, log, trace.compiler, strings.ReplaceAll(trace.args, "$O", out)))
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	now := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		if program, name, _ := strings.Cut(strings.TrimSpace(line), " "); !slices.Contains([]string{"sh", "dash", "LD_PRELOAD"}, program) {
			now[program] = append(now[program], name)
		}
	}
	var text strings.Builder
	for _, program := range slices.Sorted(maps.Keys(now)) {
		slices.Sort(now[program])
		now[program] = slices.Compact(now[program])
		fmt.Fprintf(&text, "%s: %s\n", program, strings.Join(now[program], " "))
	}
	known, _, hand := list(t)
	if *update {
		head := "# Variables that gcc 12.2, mingw's, binutils 2.40 and clang 14 of Debian 12 look up while\n" +
			"# compiling (traces in env_test.go), as getenv.c logs them. Written by\n" +
			"# go test ./internal/compiler/env -update-getenv.\n"
		if err := os.WriteFile("testdata/getenv.txt", []byte(head+text.String()+"\n"+untraced+hand), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for program, names := range now {
		for _, name := range names {
			if !slices.Contains(known[program], name) {
				t.Errorf("%s looks %s up, which is not in the list: decide what it means, and run with -update-getenv", program, name)
			}
		}
	}
	for program, names := range known {
		for _, name := range names {
			if !slices.Contains(now[program], name) {
				t.Errorf("%s was seen to look %s up, and does not any more", program, name)
			}
		}
	}
}

func TestRoles(t *testing.T) {
	for name, want := range map[string]Role{
		"CPATH": Search, "SOURCE_DATE_EPOCH": Key | Time, "PWD": Cwd, "PATH": Identity, "COLUMNS": Stdio, "TMPDIR": Ignore,
		"DEPENDENCIES_OUTPUT": Refuse, "OUTPUT": 0, "C_INCLUDE": 0, "PATHS": 0, "INCLUDE_PATH": 0, "": 0, "EDITOR": 0,
	} {
		if got := Roles(name); got != want {
			t.Errorf("Roles(%q) = %b, want %b", name, got, want)
		}
	}
}

func TestSelect(t *testing.T) {
	got := Select([]string{"PATH=/bin", "EDITOR=vi", "TMPDIR=/tmp", "LANG=C", "CPATH", "CPATH=", "GCC_COMPARE_DEBUG=1"})
	if want := []string{"PATH=/bin", "LANG=C", "CPATH=", "GCC_COMPARE_DEBUG=1"}; !slices.Equal(got, want) {
		t.Errorf("Select gives %q, want %q", got, want)
	}
	// Into an array that is too short, too.
	var room [1]string
	got = AppendSelected(room[:0], []string{"EDITOR=vi", "PATH=/bin", "HPCC_ROOT=/w"})
	if want := []string{"PATH=/bin", "HPCC_ROOT=/w"}; !slices.Equal(got, want) || room[0] != want[0] {
		t.Errorf("AppendSelected gives %q, want %q", got, want)
	}
}

func BenchmarkSelect(b *testing.B) {
	environ := os.Environ()
	for b.Loop() {
		Select(environ)
	}
}
