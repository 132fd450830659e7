//go:build e2e && linux

package tiers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hpcc.dev/hpcc/test/s3"
)

// inHub tells the test binary that it runs in a network of its own.
const inHub = "HPCC_TEST_TIERS_HUB"

// TestMain runs the tests in a network namespace, to which those of the machines are
// wired: whatever becomes of the tests, nothing stays behind.
func TestMain(m *testing.M) {
	if os.Getenv(inHub) != "" {
		if err := run("ip", "link", "set", "lo", "up"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	os.Exit(hub())
}

func hub() int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Getuid() != 0 {
		return fail(errors.New("network namespaces need root"))
	}
	// What comes from a network comes now.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "hpcc-tiers-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	server, err := s3.Launch(ctx, s3.Versity, dir)
	if err != nil {
		return fail(err)
	}
	server.Stop()
	if err := run("../../scripts/fetch-source", "redis", filepath.Join(dir, "redis")); err != nil {
		return fail(err)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inHub+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		return fail(err)
	}
	return 0
}

// run runs a command of the hub's.
func run(args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%q: %w\n%s", args, err, out)
	}
	return nil
}

// machine is a network namespace with one wire, and a user's home with a checkout of
// redis, an hpcc and a daemon of its own.
type machine struct {
	t       *testing.T
	name    string
	gateway string // the hub's end of its wire
	dir     string // home
	project string
	holder  *exec.Cmd
	daemon  *exec.Cmd
	log     bytes.Buffer
	env     []string
}

var machines int

// newMachine makes a machine whose checkout lies in a directory called place.
func newMachine(t *testing.T, source, place string, env []string) *machine {
	t.Helper()
	machines++
	m := &machine{t: t, name: fmt.Sprintf("m%d", machines), gateway: fmt.Sprintf("10.77.%d.1", machines), env: env}
	m.dir = filepath.Join(t.TempDir(), m.name)
	m.project = filepath.Join(m.dir, place, "redis")
	for _, d := range []string{"config", "cache", place} {
		m.must(os.MkdirAll(filepath.Join(m.dir, d), 0o700))
	}
	m.must(run("cp", "-a", source, m.project))
	m.must(os.MkdirAll(filepath.Join(m.project, ".git"), 0o755))

	m.holder = exec.Command("sleep", "infinity")
	m.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	m.must(m.holder.Start())
	t.Cleanup(func() {
		m.stop()
		_ = m.holder.Process.Kill()
		_ = m.holder.Wait()
	})
	pid := fmt.Sprint(m.holder.Process.Pid)
	m.must(run("ip", "link", "add", m.name, "type", "veth", "peer", "name", "eth0", "netns", pid))
	m.must(run("ip", "addr", "add", m.gateway+"/30", "dev", m.name))
	m.must(run("ip", "link", "set", m.name, "up"))
	for _, args := range [][]string{
		{"ip", "link", "set", "lo", "up"}, {"ip", "addr", "add", strings.TrimSuffix(m.gateway, "1") + "2/30", "dev", "eth0"}, {"ip", "link", "set", "eth0", "up"},
	} {
		m.must(run(append([]string{"nsenter", "-t", pid, "-n"}, args...)...))
	}
	return m
}

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// bin has hpcc and hpccd.
func bin(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/hpccd"); err != nil {
		t.Fatalf("%v: run make build", err)
	}
	return dir
}

// command is one of the machine's.
func (m *machine) command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"-t", fmt.Sprint(m.holder.Process.Pid), "-n", "--"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append([]string{
		"PATH=" + m.dir + "/links:/usr/bin:/bin", "HOME=" + m.dir, "LC_ALL=C.UTF-8", "TMPDIR=" + os.TempDir(), "PWD=" + dir,
		"HPCC_CONFIG_DIR=" + m.dir + "/config", "HPCC_CACHE_DIR=" + m.dir + "/cache", "HPCC_DAEMON_TIMEOUT=1m",
		"SOURCE_DATE_EPOCH=1700000000", // redis stamps its build with the time
	}, m.env...)
	return cmd
}

// settings writes client.toml.
func (m *machine) settings(text string) {
	m.t.Helper()
	m.must(os.WriteFile(m.dir+"/config/client.toml", []byte(text), 0o600))
}

// start starts the daemon, and makes the links that stand in for compilers.
func (m *machine) start() {
	m.t.Helper()
	hpcc := bin(m.t) + "/hpcc"
	if out, err := m.command(m.dir, hpcc, "masquerade", m.dir+"/links").CombinedOutput(); err != nil {
		m.t.Fatalf("%v\n%s", err, out)
	}
	m.log.Reset()
	m.daemon = m.command(m.dir, bin(m.t)+"/hpccd", "start")
	m.daemon.Stdout, m.daemon.Stderr = &m.log, &m.log
	m.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	m.must(m.daemon.Start())
	for range 2400 {
		if _, err := os.Stat(m.dir + "/config/daemon.json"); err == nil {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	m.t.Fatalf("the daemon of %s does not answer", m.name)
}

// stop ends the daemon, and tells how long that took: what is queued is written
// before.
func (m *machine) stop() time.Duration {
	if m.daemon == nil {
		return 0
	}
	began := time.Now()
	_ = m.daemon.Process.Signal(syscall.SIGTERM)
	if err := m.daemon.Wait(); err != nil {
		m.t.Errorf("the daemon of %s: %v\n%s", m.name, err, m.log.String())
	}
	m.daemon = nil
	return time.Since(began)
}

// written waits until the daemon has written all that is queued. One that ends waits
// for that, too, but not for ever.
func (m *machine) written() {
	m.t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		out, err := m.command(m.dir, bin(m.t)+"/hpcc", "stats", "--json").Output()
		m.must(err)
		var s stats
		m.must(json.Unmarshal(out, &s))
		if s.Shared.Queue.Waiting == 0 {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: %+v", m.name, s.Shared)
		}
	}
}

// target is what is built. The whole of redis with all optimisations is for long
// runs; what is optimised away changes no question.
func target() []string {
	args := []string{"make", "-C", "src", "-j2", "MALLOC=libc", "USE_SYSTEMD=no"}
	if os.Getenv("HPCC_SOAK") == "" {
		args = append(args, "OPTIMIZATION=-O0")
	}
	return append(args, "redis-server")
}

// build builds redis, and returns its objects by their names, and the wall time.
func (m *machine) build() (objects map[string]string, took time.Duration) {
	m.t.Helper()
	began := time.Now()
	cmd := m.command(m.project, target()...)
	out, err := cmd.CombinedOutput()
	took = time.Since(began)
	if err != nil {
		m.t.Fatalf("%v\n%s", err, out[max(0, len(out)-3000):])
	}
	objects = map[string]string{}
	m.must(filepath.WalkDir(m.project, func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".o") {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(m.project, path)
		objects[rel] = string(b)
		return err
	}))
	return objects, took
}

// clean takes away what a build left.
func (m *machine) clean() {
	m.t.Helper()
	if out, err := m.command(m.project, "make", "-C", "src", "distclean").CombinedOutput(); err != nil {
		m.t.Fatalf("%v\n%s", err, out)
	}
}

// doctor returns what hpcc doctor finds of a check.
func (m *machine) doctor(check string) (level, text string) {
	m.t.Helper()
	var found struct {
		Findings []struct{ Check, Level, Text string }
	}
	out, _ := m.command(m.dir, bin(m.t)+"/hpcc", "doctor", "--json").Output() // whose status tells of other checks, too
	m.must(json.Unmarshal(out, &found))
	for _, f := range found.Findings {
		if f.Check == check {
			return f.Level, f.Text
		}
	}
	return "", string(out)
}

// stats are counters of hpcc stats --json.
type stats struct {
	HitsDirect  int            `json:"hits_direct"`
	HitsRemote  int            `json:"hits_remote"`
	HitsByTier  map[string]int `json:"hits_by_tier"`
	Misses      int            `json:"misses"`
	ListHits    int            `json:"list_hits"`
	ListMisses  int            `json:"list_misses"`
	Uncacheable map[string]int `json:"uncacheable"`
	Errors      int            `json:"errors"`
	Shared      struct {
		Queue struct {
			Waiting int `json:"waiting"`
		} `json:"queue"`
		Tiers []struct {
			State    string         `json:"state"`
			Why      string         `json:"why"`
			Hits     int            `json:"hits"`
			Written  int            `json:"written"`
			Timeouts int            `json:"timeouts"`
			Dropped  int            `json:"dropped"`
			Rejected map[string]int `json:"rejected"`
		} `json:"tiers"`
	} `json:"shared"`
}

// count returns the counters since the last call.
func (m *machine) count() (s stats) {
	m.t.Helper()
	out, err := m.command(m.dir, bin(m.t)+"/hpcc", "stats", "--json", "--zero").Output()
	m.must(err)
	m.must(json.Unmarshal(out, &s))
	m.t.Logf("%s: %d remote hits, %d direct, %d misses, %d+%d lists, uncacheable %v; tiers %+v", m.name, s.HitsRemote, s.HitsDirect, s.Misses, s.ListHits, s.ListMisses, s.Uncacheable, s.Shared.Tiers)
	return s
}
