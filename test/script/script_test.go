// Package script holds the scenarios that users meet, each as a script that
// runs the real programs with real compilers. After each step a script checks
// the counters and that the object equals what the plain compiler makes.
package script

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "hpcc-script-bin-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		bin = dir
		if err := os.Chmod(dir, 0o755); err != nil { // other users run them, too
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		build := exec.Command("go", "build", "-o", dir+"/", "hpcc.dev/hpcc/cmd/hpcc", "hpcc.dev/hpcc/cmd/hpccd")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the programs: %v\n%s", err, out)
			return 1
		}
		// The same wrapper as another release would ship it.
		build = exec.Command("go", "build", "-ldflags", "-X hpcc.dev/hpcc/internal/ipc.Version=other", "-o", dir+"/other/", "hpcc.dev/hpcc/cmd/hpcc")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the other version: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// TestDaemon runs every scenario with a daemon.
func TestDaemon(t *testing.T) { run(t, "daemon") }

// TestOneShot runs those that need no daemon without one: the same results
// and counters must come from processes that share nothing but the disk.
func TestOneShot(t *testing.T) { run(t, "oneshot") }

func run(t *testing.T, mode string) {
	// Not testscript's own: others must be able to pass it, and a script that
	// sees to that while others compile changes a directory on their way.
	root, err := os.MkdirTemp("", "hpcc-script-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		WorkdirRoot: root,
		Dir:         "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
			e.Setenv("HPCC_CONFIG_DIR", filepath.Join(e.WorkDir, ".config"))
			e.Setenv("HPCC_CACHE_DIR", filepath.Join(e.WorkDir, ".cache"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("MODE", mode)
			e.Setenv("BIN", bin)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "daemon" || cond == "oneshot" {
				return cond == mode, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon":   startDaemon,
			"counters": counters,
			"same":     same,
			"settle":   settle,
			"parallel": parallel,
			"signal":   signalDaemon,
			"tamper":   tamper,
		},
	})
}

// startDaemon starts a daemon for the script and waits until it answers; it
// ends with the script. Without daemons ("oneshot") it does nothing.
func startDaemon(ts *testscript.TestScript, neg bool, args []string) {
	if ts.Getenv("MODE") != "daemon" {
		return
	}
	cmd := exec.Command(filepath.Join(bin, "hpcc"), "start")
	cmd.Env = environ(ts)
	cmd.Dir = ts.Getenv("WORK")
	log, err := os.Create(filepath.Join(ts.Getenv("WORK"), ".daemon.log"))
	ts.Check(err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	ts.Check(cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	ts.Setenv("DAEMON_PID", strconv.Itoa(cmd.Process.Pid))
	ts.Defer(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			cmd.Process.Kill()
		}
	})
	file := filepath.Join(ts.Getenv("HPCC_CONFIG_DIR"), "daemon.json")
	for range 2400 {
		if _, err := os.Stat(file); err == nil {
			return
		}
		select {
		case err := <-done:
			text, _ := os.ReadFile(log.Name())
			ts.Fatalf("the daemon ended: %v\n%s", err, text)
		case <-time.After(50 * time.Millisecond):
		}
	}
	ts.Fatalf("the daemon did not start within two minutes")
}

func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "HPCC_CONFIG_DIR", "HPCC_CACHE_DIR", "HPCC_REPRODUCIBLE_ENABLED", "HPCC_CACHE_MAX_SIZE"} {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// counters checks fields of `hpcc stats --json`: name=value, where the fields of
// an object are named "uncacheable.REASON".
func counters(ts *testscript.TestScript, neg bool, args []string) {
	out, err := hpcc(ts, "stats", "--json")
	ts.Check(err)
	var stats map[string]any
	ts.Check(json.Unmarshal(out, &stats))
	for _, arg := range args {
		name, want, _ := strings.Cut(arg, "=")
		// A name that is not there is a mistake, but for those of reasons.
		got, rest := any(stats), name
		for rest != "" && got != nil {
			object := got.(map[string]any)
			field, more, _ := strings.Cut(rest, ".")
			value, ok := object[field]
			if !ok && !strings.HasPrefix(name, "uncacheable.") && !strings.HasPrefix(name, "verify.skipped.") {
				ts.Fatalf("no counter %s in %s", name, out)
			}
			got, rest = value, more
		}
		if got == nil {
			got = 0.0
		}
		if fmt.Sprint(got) != want {
			log, _ := os.ReadFile(filepath.Join(ts.Getenv("WORK"), ".daemon.log"))
			ts.Fatalf("%s is %v, want %s\n%s\n%s", name, got, want, out, log)
		}
	}
}

func hpcc(ts *testscript.TestScript, args ...string) ([]byte, error) {
	cmd := exec.Command(filepath.Join(bin, "hpcc"), args...)
	cmd.Env, cmd.Dir = environ(ts), ts.Getenv("WORK")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("hpcc %s: %w\n%s", strings.Join(args, " "), err, exit.Stderr)
	}
	return out, err
}

// settle waits until the clock that stamps files is past the last write, so
// that what was just written counts as older than the next compile.
func settle(ts *testscript.TestScript, neg bool, args []string) { time.Sleep(30 * time.Millisecond) }

// parallel N CMD…: runs a command N times at once; %d in the arguments is the
// number of the run.
func parallel(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	errs := make(chan error, n)
	for i := range n {
		go func() {
			var argv []string
			for _, a := range args[1:] {
				argv = append(argv, strings.ReplaceAll(a, "%d", strconv.Itoa(i)))
			}
			cmd := exec.Command(filepath.Join(bin, argv[0]), argv[1:]...)
			cmd.Env, cmd.Dir = environ(ts), ts.Getenv("WORK")
			out, err := cmd.CombinedOutput()
			if err == nil && len(out) > 0 {
				err = fmt.Errorf("printed %q", out)
			}
			errs <- err
		}()
	}
	for range n {
		ts.Check(<-errs)
	}
}

// signalDaemon NAME: sends the daemon a signal.
func signalDaemon(ts *testscript.TestScript, neg bool, args []string) {
	pid, err := strconv.Atoi(ts.Getenv("DAEMON_PID"))
	ts.Check(err)
	signals := map[string]syscall.Signal{"KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT, "TERM": syscall.SIGTERM}
	ts.Check(syscall.Kill(pid, signals[args[0]]))
	// The kernel stops all its threads before long. A killed one's sockets are
	// closed once it has been reaped.
	time.Sleep(50 * time.Millisecond)
	for i := 0; args[0] == "KILL" && i < 12000 && syscall.Kill(pid, 0) == nil; i++ {
		time.Sleep(10 * time.Millisecond)
	}
}
