package script

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asPlain is one case of TestAsPlain: a shell command that runs a compiler,
// $CC, in a directory. What it leaves (files, their kinds, modes and links,
// stdout, stderr, exit code) must be the same when $CC is the plain compiler,
// when hpcc has to compile, and when it finds the result.
type asPlain struct {
	name string
	// only is the one compiler that the case is for, or "".
	only string
	// prepare are shell commands that make the directory, which holds base's
	// files already.
	prepare string
	command string
	// want is what the two runs under hpcc count, first and second; "" stands
	// for "miss hit". One word is for both.
	want string
	// varies names files whose bytes differ between two runs of the plain
	// compiler: only that they exist is compared.
	varies string
}

// base is what each case's directory holds. %s is the case, so that no case
// finds another's results.
var base = map[string]string{
	"a.c":   "#include \"a.h\"\nconst char name[] = \"%s\";\nint f(int x) { return x ? f(x - 1) + A : 0; }\n",
	"a.h":   "#define A 1\n",
	"w.c":   "const char name[] = \"%s\";\nint g(void) { int unused; return 1; }\n",
	"bad.c": "const char *name = \"%s\";\nint g( { return 1; }\n",
}

// plainMode is one way to run hpcc, with a cache and maybe a daemon of its own.
type plainMode struct {
	dir  string
	name string
	env  []string
}

func TestAsPlain(t *testing.T) {
	requireRoot(t)
	for _, mode := range []string{"daemon", "oneshot"} {
		m := newPlainMode(t, mode)
		for _, cc := range []string{"gcc", "clang"} {
			for _, c := range asPlainCases {
				if c.only == "" || c.only == cc {
					t.Run(mode+"/"+cc+"/"+c.name, func(t *testing.T) {
						t.Parallel()
						c.run(t, m, cc)
					})
				}
			}
		}
	}
}

// requireRoot ends a test that cannot be run as an ordinary user: with
// HPCC_TEST_REQUIRE set it fails, as a skip there proves nothing.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("HPCC_TEST_REQUIRE") != "" {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}

// newPlainMode makes a cache and, if asked, starts a daemon, for all cases.
func newPlainMode(t *testing.T, name string, extra ...string) *plainMode {
	t.Helper()
	dir := t.TempDir()
	m := &plainMode{name: name, dir: dir, env: append([]string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C", "BIN=" + bin,
		"HPCC_CONFIG_DIR=" + dir + "/config", "HPCC_CACHE_DIR=" + dir + "/cache",
	}, extra...)}
	if name == "daemon" {
		m.start(t, dir)
	}
	return m
}

func (m *plainMode) start(t *testing.T, dir string) {
	t.Helper()
	log, err := os.Create(dir + "/daemon.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(bin, "hpcc"), "start")
	// Its stdout is a file on purpose: nothing of a compile may end there.
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = m.env, dir, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	for range 2400 {
		if _, err := os.Stat(dir + "/config/daemon.json"); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the daemon did not start within two minutes")
}

// daemonLog is what the mode's daemon has logged so far.
func (m *plainMode) daemonLog() string {
	log, err := os.ReadFile(m.dir + "/daemon.log")
	if err != nil {
		return ""
	}
	return "; the daemon's log:\n" + string(log)
}

func (c *asPlain) run(t *testing.T, m *plainMode, cc string) {
	dir := t.TempDir()
	work := dir + "/w"
	id := m.name + "/" + cc + "/" + c.name
	want := strings.Fields(c.want)
	switch len(want) {
	case 0:
		want = []string{"miss", "hit"}
	case 1:
		want = []string{want[0], want[0]}
	}
	plain := c.once(t, m, work, id, cc, "")
	for i, w := range want {
		log := fmt.Sprintf("%s/log%d", dir, i)
		got := c.once(t, m, work, id, "hpcc "+cc, log)
		if got != plain {
			t.Errorf("run %d under hpcc leaves\n%snot as plain %s\n%s", i+1, lacking(got, plain), cc, lacking(plain, got))
		}
		if w == "-" {
			continue
		}
		if counted := readOutcomes(t, log, 1+strings.Count(w, ",")); counted != w {
			t.Errorf("run %d counts %q, want %q%s", i+1, counted, w, m.daemonLog())
		}
	}
}

// once makes the directory anew, runs the command and describes what is left.
func (c *asPlain) once(t *testing.T, m *plainMode, work, id, cc, log string) string {
	t.Helper()
	// Whatever a case did to its directory's modes.
	exec.Command("chmod", "-R", "u+rwx", work).Run()
	if err := os.RemoveAll(work); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range base {
		if strings.Contains(text, "%s") {
			text = fmt.Sprintf(text, id)
		}
		if err := os.WriteFile(filepath.Join(work, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	shell := func(script string) (stdout, stderr string, code int) {
		var out, errs bytes.Buffer
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir, cmd.Stdout, cmd.Stderr = work, &out, &errs
		cmd.Env = append(m.env[:len(m.env):len(m.env)], "CC="+cc, "HPCC_STATS_LOG="+log, "PWD="+work)
		err := cmd.Run()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return out.String(), errs.String(), cmd.ProcessState.ExitCode()
	}
	if _, errs, code := shell("set -e; " + c.prepare); code != 0 {
		t.Fatalf("prepare: %d\n%s", code, errs)
	}
	// Old, so that what the command writes shows. Their change times are not:
	// nothing here waits before it compiles.
	began := time.Now().Add(-time.Minute)
	filepath.WalkDir(work, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			return os.Chtimes(path, time.Time{}, began.Add(-time.Hour))
		}
		return nil
	})
	stdout, stderr, code := shell(c.command)
	stderr = assemblerTempName.ReplaceAllString(stderr, "/tmp/ccXXXXXX.")
	stdout = assemblerTempName.ReplaceAllString(stdout, "/tmp/ccXXXXXX.")
	return fmt.Sprintf("exit %d\nstdout %q\nstderr %q\n%s", code, stdout, stderr, describeTree(t, work, c.varies, began))
}

// describeTree lists a directory: what each name is, with mode, group, links
// and content, and whether it was written since began.
func describeTree(t *testing.T, dir, varies string, began time.Time) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, dir)
		st := info.Sys().(*syscall.Stat_t)
		what := ""
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			what, _ = os.Readlink(path)
		case info.Mode().IsRegular() && !containsWord(varies, filepath.Base(name)):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what = fmt.Sprintf("%d bytes %.16x", len(text), sha256.Sum256(text))
		}
		if info.Mode().IsRegular() && !info.ModTime().Before(began) {
			what += " new"
		}
		fmt.Fprintf(&b, "%s %v group %d", name, info.Mode(), st.Gid)
		if !info.IsDir() { // a directory's links say how many it holds
			fmt.Fprintf(&b, " links %d", st.Nlink)
		}
		fmt.Fprintln(&b, " "+what)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// lacking returns those lines of a that b lacks.
func lacking(a, b string) string {
	var only strings.Builder
	for line := range strings.Lines(a) {
		if !strings.Contains(b, line) {
			only.WriteString(line)
		}
	}
	return only.String()
}

func containsWord(list, word string) bool {
	for w := range strings.FieldsSeq(list) {
		if w == word {
			return true
		}
	}
	return false
}

// readOutcomes returns what the n compiles of a run counted, one word each, in
// the order in which they began: "hit", "miss", "failed", or the reason of an
// uncacheable one. A daemon counts when it has stored.
func readOutcomes(t *testing.T, log string, n int) string {
	t.Helper()
	type line struct {
		Time            time.Time
		Outcome, Reason string
	}
	var all []line
	for deadline := time.Now().Add(2 * time.Minute); len(all) < n && time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		text, err := os.ReadFile(log)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		all = nil
		for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
			var l line
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
				t.Fatal(err)
			}
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b line) int { return a.Time.Compare(b.Time) })
	var words []string
	for _, l := range all {
		if l.Outcome == "uncacheable" {
			l.Outcome = l.Reason
		}
		words = append(words, l.Outcome)
	}
	return strings.Join(words, ",")
}
