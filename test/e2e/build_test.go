//go:build e2e && linux

package e2e

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// jobs is the parallelism of the builds that are not about parallelism: it
// finds two compiles of one unit under way at once, on any machine.
const jobs = "-j4"

// TestPrograms builds each program by the plain compiler and through hpcc in
// every way that a user would, and compares.
func TestPrograms(t *testing.T) {
	for _, p := range all {
		for _, compiler := range []string{"gcc", "clang"} {
			if !soak() && !slices.Contains(p.compilers, compiler) {
				continue
			}
			t.Run(p.source+"/"+compiler, func(t *testing.T) {
				base := t.TempDir()
				tr := p.unpack(t, filepath.Join(base, "one"), compiler)
				plain, calls := recordedBuild(t, tr)
				t.Run("closures", func(t *testing.T) { testClosures(t, tr, calls) })
				t.Run("links", func(t *testing.T) { testLinks(t, tr, plain, calls) })
				if !p.everyWay || compiler != "gcc" {
					return
				}
				t.Run("prefix", func(t *testing.T) { testPrefix(t, tr, plain, calls) })
				t.Run("no daemon", func(t *testing.T) { testNoDaemon(t, tr, plain, calls) })
				t.Run("killed daemon", func(t *testing.T) { testKilledDaemon(t, tr, plain) })
				t.Run("second directory", func(t *testing.T) {
					testSecondDirectory(t, tr, p.unpack(t, filepath.Join(base, "one-and-another"), compiler), calls)
				})
			})
		}
	}
}

// recordedBuild builds with the plain compiler, behind the recorder and under
// strace, and returns what it left and the calls it made. In a long run it
// builds twice: where the plain compiler does not agree with itself, there is
// nothing to compare with.
func recordedBuild(t *testing.T, tr *tree) (map[string][]byte, []call) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, traces := t.TempDir(), t.TempDir()
	for _, name := range []string{"gcc", "g++", "cc", "c++", "clang", "clang++", "hpcc"} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	record := filepath.Join(dir, "record")
	tr.clean(t)
	env := append(plainEnv(dir), "E2E_RECORD="+record, "E2E_REAL_PATH="+realPath())
	took := tr.make(t, append(env, "E2E_TRACE="+traces), jobs)
	plain := tr.outputs(t)
	calls := readCalls(t, tr, record)
	n := len(cacheableOf(calls))
	t.Logf("plain, traced: %s; %d compiler calls, %d of them cacheable", took, len(calls), n)
	if n < 30 {
		t.Fatalf("only %d cacheable calls were recorded: the build went around the recorder", n)
	}
	if soak() {
		tr.clean(t)
		t.Logf("plain: %s", tr.make(t, env, jobs))
		same(t, "plain, again", plain, tr.outputs(t))
	}
	return plain, calls
}

// coldAndWarm builds twice in w, compares both with plain, and holds what hpcc
// says of each compile against the record. It returns what was made of the
// calls in the first build.
func coldAndWarm(t *testing.T, w *world, tr *tree, env []string, plain map[string][]byte, calls []call, more ...string) (cold []compiled) {
	t.Helper()
	w.count()
	for _, warm := range []bool{false, true} {
		what := map[bool]string{false: "cold", true: "warm"}[warm]
		tr.clean(t)
		t.Logf("%s: %s", what, tr.make(t, env, append(more, jobs)...))
		same(t, what, plain, tr.outputs(t))
		if compiles := w.check(tr, calls, warm); !warm {
			cold = compiles
		}
	}
	return cold
}

// testLinks puts links named after the compilers first in PATH, or the
// launcher that the build's files name.
func testLinks(t *testing.T, tr *tree, plain map[string][]byte, calls []call) {
	w := newWorld(t, "")
	w.start()
	env := w.env(w.bin)
	if !tr.launched {
		env = w.masquerade()
	}
	cold := coldAndWarm(t, w, tr, env, plain, calls)
	checkLookups(t, w, cold)
}

// testPrefix sets CC="hpcc gcc".
func testPrefix(t *testing.T, tr *tree, plain map[string][]byte, calls []call) {
	if tr.cc == nil {
		t.Logf("%s: its configuration fixes the compiler's name; built by links only", tr.source)
		return
	}
	w := newWorld(t, "")
	w.start()
	coldAndWarm(t, w, tr, w.env(w.bin), plain, calls, tr.cc...)
}

// testNoDaemon builds without a daemon, each compile in a process of its own.
func testNoDaemon(t *testing.T, tr *tree, plain map[string][]byte, calls []call) {
	if tr.source != "lua5.4" && !soak() {
		return
	}
	w := newWorld(t, "")
	coldAndWarm(t, w, tr, w.masquerade(), plain, calls)
}

// testKilledDaemon kills the daemon while a parallel build uses it: the build
// goes on, and what it leaves is right, then and in the next build.
func testKilledDaemon(t *testing.T, tr *tree, plain map[string][]byte) {
	rounds := 1
	if soak() {
		rounds = 20
	}
	for round := range rounds {
		w := newWorld(t, "")
		w.start()
		env := w.masquerade()
		tr.clean(t)
		build := tr.command(env, "-j8")
		var log lockedBuffer
		build.Stdout, build.Stderr = &log, &log
		if err := build.Start(); err != nil {
			t.Fatal(err)
		}
		after := waitForObjects(t, tr, 10+rand.IntN(20))
		w.kill()
		if err := build.Wait(); err != nil {
			t.Fatalf("round %d: the build failed after the daemon was killed: %v\n%s", round, err, &log)
		}
		t.Logf("round %d: daemon killed after %d objects", round, after)
		same(t, "daemon killed", plain, tr.outputs(t))

		// Nothing wrong was stored.
		w.start()
		w.count()
		tr.clean(t)
		tr.make(t, env, "-j8")
		same(t, "after the kill", plain, tr.outputs(t))
		if s := w.count(); s.hits() == 0 {
			t.Errorf("round %d: nothing of the first build was stored: %+v", round, s)
		}
		w.stop()
	}
}

// waitForObjects waits until the build has made n objects or seems to make no
// more, and returns how many there are.
func waitForObjects(t *testing.T, tr *tree, n int) int {
	t.Helper()
	deadline := time.Now().Add(10 * time.Minute)
	for {
		have := 0
		// The build removes temporary files while this looks.
		_ = filepath.WalkDir(tr.dir, func(path string, _ os.DirEntry, _ error) error {
			if strings.HasSuffix(path, ".o") {
				have++
			}
			return nil
		})
		if have >= n {
			return have
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d objects after ten minutes", have)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// testSecondDirectory builds in two directories, one a prefix of the other,
// with reproducible builds on: the second hits throughout, and has the same
// objects as the first.
func testSecondDirectory(t *testing.T, one, two *tree, calls []call) {
	w := newWorld(t, "[reproducible]\nenabled = true\n")
	w.start()
	env := w.masquerade()
	w.count()

	one.clean(t)
	one.make(t, env, jobs)
	first := one.outputs(t)
	w.check(one, calls, false)

	two.make(t, env, jobs)
	second := two.outputs(t)
	w.check(two, calls, true)

	// Dependency files name the directory that they are in; a linker may
	// name it in the program.
	for path, b := range second {
		if filepath.Ext(path) == ".d" {
			second[path] = bytes.ReplaceAll(b, []byte(two.dir+"/"), []byte(one.dir+"/"))
		}
	}
	delete(first, one.result)
	delete(second, two.result)
	same(t, "second directory", first, second)

	testShownCommands(t, w, one, calls, first)
}

// testShownCommands runs what `hpcc wrap --show-command` prints with the plain
// compiler: the objects are those that hpcc left.
func testShownCommands(t *testing.T, w *world, tr *tree, calls []call, want map[string][]byte) {
	step := 10 // every tenth unit is shown and run; all of them are another full build
	if soak() {
		step = 1
	}
	// Where several calls write one object, the last of them made it.
	last := map[string]call{}
	for _, c := range cacheableOf(calls) {
		last[c.output()] = c
	}
	some := slices.SortedFunc(maps.Values(last), func(a, b call) int { return strings.Compare(a.output(), b.output()) })
	checked := 0
	for i := 0; i < len(some); i += step {
		c := some[i]
		rel, err := filepath.Rel(tr.dir, c.output())
		if err != nil {
			t.Fatal(err)
		}
		object, ok := want[rel]
		if !ok {
			continue // compiled and then renamed or removed by the build
		}
		name := filepath.Base(c.Args[0])
		show := exec.Command(filepath.Join(w.bin, "hpcc"), append([]string{"wrap", "--show-command", name}, c.Args[1:]...)...)
		show.Dir, show.Env = c.Dir, w.env("")
		line, err := show.Output()
		if err != nil {
			t.Fatalf("--show-command %s: %v", strings.Join(c.Args, " "), err)
		}
		if err := os.Remove(c.output()); err != nil {
			t.Fatal(err)
		}
		run := exec.Command("sh", "-c", string(line))
		run.Dir, run.Env = c.Dir, plainEnv("")
		if out, err := run.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, tail(out))
		}
		got, err := os.ReadFile(c.output())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, object) {
			t.Errorf("%s: the shown command makes another object:\n%s", rel, line)
		}
		checked++
	}
	if checked == 0 {
		t.Error("no shown command could be checked")
	}
	t.Logf("%d shown commands give the objects that hpcc left", checked)
}
