//go:build e2e && linux

package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// program is a real program from Debian's sources.
type program struct {
	// source is the name of the source package.
	source string
	// prepare makes the unpacked source ready to build, with the plain
	// compiler. It is told "gcc" or "clang"; the commands that it runs have
	// PATH from plainEnv.
	prepare func(t *testing.T, dir, compiler string)
	// build is the make command line, without -j.
	build []string
	// link is a second one, run without -j where the makefile's rules for
	// linking cannot be run in parallel; nil for none.
	link []string
	// clang are the arguments and variables of the environment (NAME=value
	// both) that make it a build by clang, where prepare does not see to that.
	clang, clangEnv []string
	// cc are the arguments that name the compiler as CC=… would; nil where
	// the program's own configuration has fixed it.
	cc []string
	// env are further variables of the build's environment.
	env []string
	// launched: the build calls the compiler as hpcc COMPILER …, so that PATH
	// needs hpcc and no links.
	launched bool
	// result is the program that the build makes.
	result string
	// everyWay: the program is built in every way that a user would, and not
	// by links alone.
	everyWay bool
	// compilers are those of a short run; a long one has both.
	compilers []string
	// refused are the reasons for which hpcc may leave compiles to the compiler.
	refused []refusal
}

// refusal is one reason not to cache, for sources that end in one of some
// suffixes, and why it is right.
type refusal struct {
	reason, sources, why string
}

// all are the programs built here: ordinary ones, and in projects_test.go those
// whose build systems are demanding.
var all = slices.Concat(programs, projects)

var programs = []program{
	{
		source:  "lua5.4",
		prepare: prepareLua,
		// Debian's libtool rules build each file four times: C and C++,
		// with and without -fPIC, with -ffile-prefix-map.
		build:     []string{"make", "-C", "src", "o", "SYSCFLAGS=-DLUA_USE_LINUX", "LIBTOOL=libtool --quiet"},
		link:      []string{"make", "-C", "src", "linux", "LIBTOOL=libtool --quiet"},
		cc:        []string{"CC=hpcc gcc -std=gnu99", "CXX=hpcc g++"},
		clang:     []string{"CC=clang -std=gnu99", "CXX=clang++"},
		result:    "src/lua",
		everyWay:  true,
		compilers: []string{"gcc"},
	},
	{
		source:    "redis",
		build:     []string{"make", "-C", "src", "MALLOC=libc", "USE_SYSTEMD=no", "redis-server"},
		cc:        []string{"CC=hpcc gcc"},
		clang:     []string{"CC=clang"},
		result:    "src/redis-server",
		everyWay:  true,
		compilers: []string{"gcc"},
		refused: []refusal{
			{"input-modified", "foo.c", "the makefile removes the source of its probe as soon as it is compiled"},
		},
	},
	{
		source:  "sqlite3",
		prepare: prepareSqlite,
		// Each file of its own instead of the amalgamation: a hundred
		// compiles that read generated headers, in a directory apart from
		// the sources, named by absolute paths.
		build:     []string{"make", "-C", "bld", "sqlite3"},
		result:    "bld/sqlite3",
		everyWay:  true,
		compilers: []string{"gcc"},
	},
}

func prepareLua(t *testing.T, dir, _ string) {
	// What debian/rules writes before it calls make.
	header := "#ifndef _LUA_DEB_MULTIARCH_\n#define _LUA_DEB_MULTIARCH_\n#define DEB_HOST_MULTIARCH \"host\"\n#endif\n"
	if err := os.WriteFile(filepath.Join(dir, "src", "lua5.4-deb-multiarch.h"), []byte(header), 0o644); err != nil {
		t.Fatal(err)
	}
}

func prepareSqlite(t *testing.T, dir, compiler string) {
	bld := filepath.Join(dir, "bld")
	if err := os.Mkdir(bld, 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{"../configure", "--disable-amalgamation", "--disable-tcl", "--disable-readline", "--disable-load-extension",
		"CC=" + compiler}
	if !soak() { // the shared library compiles every file a second time
		args = append(args, "--disable-shared")
	}
	run(t, bld, args...)
}

// run runs a command with the plain compiler first in PATH.
func run(t *testing.T, dir string, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, plainEnv("")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, tail(out))
	}
}

// by is the program as built by one compiler.
func (p program) by(compiler string) program {
	if compiler == "clang" {
		p.build, p.env = slices.Concat(p.build, p.clang), slices.Concat(p.env, p.clangEnv)
		if p.link != nil {
			p.link = slices.Concat(p.link, p.clang)
		}
		p.cc = nil
	}
	return p
}

// soak is true where rare faults are looked for, at the price of time.
func soak() bool { return os.Getenv("HPCC_SOAK") != "" }

// tree is an unpacked program, built in place again and again, since the
// directory is part of what a compiler writes.
type tree struct {
	program
	dir string
	// original are the files there before the first build.
	original map[string]bool
}

// unpack fetches the program's source and makes it ready to build in dir.
func (p program) unpack(t *testing.T, dir, compiler string) *tree {
	t.Helper()
	out, err := exec.Command("../../scripts/fetch-source", p.source, dir).CombinedOutput()
	if err != nil {
		t.Fatalf("fetch-source: %v\n%s", err, out)
	}
	t.Logf("%s in %s", bytes.TrimSpace(out), dir)
	// Marks the project's root for the reproducible builds.
	if err := os.WriteFile(filepath.Join(dir, ".hpcc.toml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if p.prepare != nil {
		p.prepare(t, dir, compiler)
	}
	tr := &tree{program: p.by(compiler), dir: dir, original: map[string]bool{}}
	tr.walk(t, func(path string) { tr.original[path] = true })
	return tr
}

// walk calls f with each file's path below the tree, relative.
func (tr *tree) walk(t *testing.T, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir(tr.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(tr.dir, path)
		f(rel)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// clean removes everything that builds have made. It is more thorough than
// the programs' own `make clean`, some of which leave objects behind.
func (tr *tree) clean(t *testing.T) {
	t.Helper()
	tr.walk(t, func(path string) {
		if !tr.original[path] {
			if err := os.Remove(filepath.Join(tr.dir, path)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// make runs the build, with env as the environment and more at the end of the
// make command line. It returns what that took, for the log.
func (tr *tree) make(t *testing.T, env []string, more ...string) string {
	t.Helper()
	start, cmd := time.Now(), tr.command(env, more...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: build: %v\n%s", tr.source, err, tail(out))
	}
	used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return fmt.Sprintf("built in %.1f s, %.1f s of processor time", time.Since(start).Seconds(), used.Seconds())
}

// command is the whole build as one command.
func (tr *tree) command(env []string, more ...string) *exec.Cmd {
	script := `"$@"`
	if tr.link != nil {
		script += " && " + strings.Join(quoted(tr.link), " ")
		for _, arg := range more {
			if !strings.HasPrefix(arg, "-j") {
				script += " " + quoted([]string{arg})[0]
			}
		}
	}
	cmd := exec.Command("sh", slices.Concat([]string{"-c", script, "sh"}, tr.build, more)...)
	cmd.Dir = tr.dir
	cmd.Env = slices.Concat(env, tr.env)
	return cmd
}

// quoted writes arguments for the shell; none of them holds a quote.
func quoted(args []string) []string {
	q := make([]string, len(args))
	for i, arg := range args {
		q[i] = "'" + arg + "'"
	}
	return q
}

// outputs reads what compilers leave behind, and the program itself, by path.
func (tr *tree) outputs(t *testing.T) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	tr.walk(t, func(path string) {
		if tr.original[path] {
			return
		}
		switch filepath.Ext(path) {
		case ".o", ".d", ".gcno", ".dwo", ".su", ".s":
		case ".cmd", ".Po": // what kbuild and automake make of dependency files
		case ".deb":
		default:
			if path != tr.result {
				return
			}
		}
		b, err := os.ReadFile(filepath.Join(tr.dir, path))
		if err != nil {
			t.Fatal(err)
		}
		files[path] = b
	})
	if files[tr.result] == nil {
		t.Fatalf("%s: the build did not make %s", tr.source, tr.result)
	}
	return files
}

// same fails unless got holds exactly want's files with their bytes.
func same(t *testing.T, what string, want, got map[string][]byte) {
	t.Helper()
	bad := 0
	report := func(path, how string) {
		if bad++; bad <= 10 {
			t.Errorf("%s: %s %s", what, path, how)
		}
	}
	for path, w := range want {
		g, ok := got[path]
		switch {
		case !ok:
			report(path, "is missing")
		case !bytes.Equal(w, g):
			report(path, "differs from the plain compiler's")
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			report(path, "is there and the plain compiler makes none")
		}
	}
	if bad > 10 {
		t.Errorf("%s: and %d more", what, bad-10)
	}
	if bad == 0 {
		t.Logf("%s: %d files are equal", what, len(want))
	}
}

// tail is the end of a log, which is where the failure stands.
func tail(b []byte) string {
	const keep = 4000
	if len(b) > keep {
		b = b[len(b)-keep:]
	}
	return strings.ToValidUTF8(string(b), "?")
}
