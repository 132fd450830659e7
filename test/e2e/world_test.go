//go:build e2e && linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// world is one installation of hpcc with a configuration, a cache and perhaps
// a daemon of its own. Nothing outside its directory is touched.
type world struct {
	t      *testing.T
	bin    string // where hpcc and hpccd are
	dir    string // configuration, cache, links, records
	daemon *exec.Cmd
	log    *lockedBuffer
}

func newWorld(t *testing.T, clientTOML string) *world {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hpcc", "hpccd"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			t.Fatalf("%v: run make build", err)
		}
	}
	w := &world{t: t, bin: bin, dir: t.TempDir()}
	if err := os.MkdirAll(filepath.Join(w.dir, "config"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "config", "client.toml"), []byte(clientTOML), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.stop() })
	return w
}

// realPath is PATH without other compiler caches' links, which Debian's users
// like to put first.
func realPath() string {
	var dirs []string
	for _, d := range filepath.SplitList(os.Getenv("PATH")) {
		if !strings.Contains(d, "ccache") {
			dirs = append(dirs, d)
		}
	}
	return strings.Join(dirs, ":")
}

// plainEnv is the environment of a build without hpcc, first in PATH the
// directory given, if any. It is small and fixed, so that no build depends on
// who runs it.
func plainEnv(first string) []string {
	path := realPath()
	if first != "" {
		path = first + ":" + path
	}
	return []string{
		"PATH=" + path, "HOME=" + os.Getenv("HOME"), "LC_ALL=C.UTF-8", "TMPDIR=" + os.TempDir(),
		// redis stamps its build with the time.
		"SOURCE_DATE_EPOCH=1700000000",
	}
}

// env is the environment of a build in this world, first in PATH the
// directory given, if any.
func (w *world) env(first string) []string {
	return append(plainEnv(first),
		"HPCC_CONFIG_DIR="+filepath.Join(w.dir, "config"),
		"HPCC_CACHE_DIR="+filepath.Join(w.dir, "cache"),
		"HPCC_DAEMON_TIMEOUT=1m", // a busy machine's daemon is silent for a while
		"HPCC_STATS_LOG="+w.logFile())
}

// logFile is where hpcc writes a line for each compile.
func (w *world) logFile() string { return filepath.Join(w.dir, "compiles.json") }

// hpcc runs the command line and returns its stdout.
func (w *world) hpcc(args ...string) []byte {
	w.t.Helper()
	out, err := w.tryHpcc(args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) tryHpcc(args ...string) ([]byte, error) {
	cmd := exec.Command(filepath.Join(w.bin, "hpcc"), args...)
	cmd.Env = w.env("")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("hpcc %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, nil
}

// masquerade makes the links and returns the environment that uses them.
func (w *world) masquerade() []string {
	w.t.Helper()
	links := filepath.Join(w.dir, "links")
	w.hpcc("masquerade", links)
	return w.env(links)
}

// start runs a daemon and waits until it takes connections.
func (w *world) start() {
	w.t.Helper()
	w.daemon = exec.Command(filepath.Join(w.bin, "hpcc"), "start")
	w.daemon.Env = w.env("")
	w.log = new(lockedBuffer)
	w.daemon.Stdout, w.daemon.Stderr = w.log, w.log
	// Not even a test that runs out of time leaves it behind.
	w.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := w.daemon.Start(); err != nil {
		w.t.Fatal(err)
	}
	deadline := time.Now().Add(2 * time.Minute)
	for !w.answers() {
		if time.Now().After(deadline) {
			w.t.Fatalf("the daemon does not answer\n%s", w.log)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// answers says whether the daemon that daemon.json names is this world's
// process and takes connections.
func (w *world) answers() bool {
	text, err := os.ReadFile(filepath.Join(w.dir, "config", "daemon.json"))
	if err != nil {
		return false
	}
	var endpoint struct{ Port, Pid int }
	// hpcc start may stay the parent of hpccd: the process id only tells a
	// stale file from a new one when it can be seen.
	if json.Unmarshal(text, &endpoint) != nil || syscall.Kill(endpoint.Pid, 0) != nil {
		return false
	}
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", endpoint.Port), time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// kill ends the daemon without warning.
func (w *world) kill() {
	w.t.Helper()
	if w.daemon == nil {
		return
	}
	_ = w.daemon.Process.Kill()
	_ = w.daemon.Wait()
	w.daemon = nil
}

// stop ends the daemon as a user would, and reports what it said if it did
// not end well.
func (w *world) stop() {
	if w.daemon == nil {
		return
	}
	_ = w.daemon.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- w.daemon.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			w.t.Errorf("daemon: %v\n%s", err, w.log)
		}
	case <-time.After(2 * time.Minute):
		_ = w.daemon.Process.Kill()
		<-done
		w.t.Errorf("the daemon did not end on SIGTERM\n%s", w.log)
	}
	w.daemon = nil
}

// stats are the counters that `hpcc stats --json` promises.
type stats struct {
	HitsDirect       int            `json:"hits_direct"`
	HitsPreprocessed int            `json:"hits_preprocessed"`
	HitsRemote       int            `json:"hits_remote"`
	Misses           int            `json:"misses"`
	Uncacheable      map[string]int `json:"uncacheable"`
	Errors           int            `json:"errors"`
}

func (s stats) hits() int { return s.HitsDirect + s.HitsPreprocessed + s.HitsRemote }

// count returns the counters since the last call, and zeroes them.
func (w *world) count() stats {
	w.t.Helper()
	var s stats
	if err := json.Unmarshal(w.hpcc("stats", "--json", "--zero"), &s); err != nil {
		w.t.Fatalf("stats: %v", err)
	}
	w.t.Logf("%d hits (%d direct), %d misses, not cacheable %v, %d errors",
		s.hits(), s.HitsDirect, s.Misses, s.Uncacheable, s.Errors)
	return s
}

// lockedBuffer is a log that a process writes while a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return tail(l.b.Bytes())
}
