package env

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTracedNamesAreDecided: whatever a compiler was seen to look up has a row.
func TestTracedNamesAreDecided(t *testing.T) {
	data, err := os.ReadFile("testdata/getenv.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		program, names, ok := strings.Cut(line, ": ")
		if !ok || line[0] == '#' {
			continue
		}
		for name := range strings.FieldsSeq(names) {
			if Roles(name) == 0 {
				t.Errorf("%s looks %s up: decide what it means", program, name)
			}
		}
	}
}

// TestTraceNow traces the installed compilers, for names that are new.
func TestTraceNow(t *testing.T) {
	for _, name := range []string{"gcc", "g++", "clang"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("HPCC_TEST_REQUIRE") != "" {
				t.Fatalf("%s is missing, and HPCC_TEST_REQUIRE is set", name)
			}
			t.Skipf("%s is missing", name)
		}
	}
	dir := t.TempDir()
	preload, log := filepath.Join(dir, "getenv.so"), filepath.Join(dir, "log")
	run := func(wantOK bool, environ []string, args ...string) {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), environ...)
		if out, err := cmd.CombinedOutput(); (err == nil) != wantOK {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	run(true, nil, "gcc", "-shared", "-fPIC", "-o", preload, "testdata/getenv.c")
	source, broken := filepath.Join(dir, "a.c"), filepath.Join(dir, "bad.c")
	for name, text := range map[string]string{source: "int f(void) { int x; return x; }\nconst char *d = __DATE__;\n", broken: "int f(\n"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	environ := []string{"LD_PRELOAD=" + preload, "GETENV_LOG=" + log}
	out := filepath.Join(dir, "a.o")
	for _, compiler := range []string{"gcc", "clang"} {
		run(true, environ, compiler, "-g", "-O2", "-Wall", "-MD", "-c", source, "-o", out)
		run(true, environ, compiler, "-x", "c++", "--coverage", "-fdiagnostics-color=auto", "-c", source, "-o", out)
		run(true, environ, compiler, "-flto", "-c", source, "-o", out)
		run(false, environ, compiler, "-c", broken, "-o", out)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(data)) {
		lines = append(lines, strings.TrimSpace(line))
	}
	slices.Sort(lines)
	lines = slices.Compact(lines)
	if len(lines) < 30 {
		t.Fatalf("traced only %q", lines)
	}
	for _, line := range lines {
		if program, name, _ := strings.Cut(line, " "); Roles(name) == 0 {
			t.Errorf("%s looks %s up: decide what it means", program, name)
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
}

func BenchmarkSelect(b *testing.B) {
	environ := os.Environ()
	for b.Loop() {
		Select(environ)
	}
}
