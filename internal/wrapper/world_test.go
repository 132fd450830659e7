//go:build unix

package wrapper

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/ipc"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// The test binary is hpcc when it is started under another name than its own. Its
// patience and drainTime are then those of the environment, if they are there.
func TestMain(m *testing.M) {
	if strings.HasSuffix(os.Args[0], ".test") {
		os.Exit(m.Run())
	}
	if d, err := time.ParseDuration(os.Getenv("HPCC_TEST_PATIENCE")); err == nil {
		patience = d
	}
	if n, err := strconv.Atoi(os.Getenv("HPCC_TEST_DRAIN")); err == nil {
		drainTime = n
	}
	os.Exit(Main())
}

// world is a machine with hpcc's links first in PATH, and programs that are
// shell scripts.
type world struct {
	t      *testing.T
	dir    string // cwd of all runs
	links  string
	bin    string
	config string
	env    []string
	stdin  string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, dir: dir, links: dir + "/links", bin: dir + "/bin", config: dir + "/config"}
	for _, d := range []string{w.links, w.bin} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w.link("hpcc")
	w.link("gcc")
	w.env = []string{
		"PATH=" + w.links + ":" + w.bin + ":/usr/bin:/bin",
		"HPCC_CONFIG_DIR=" + w.config, "HPCC_DAEMON_TIMEOUT=5m", "LANG=C", "NOT_FOR_THE_DAEMON=1",
	}
	return w
}

func (w *world) link(name string) {
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, w.links+"/"+name)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// script makes a program of shell commands in bin, and returns its path.
func (w *world) script(name, commands string) string {
	w.t.Helper()
	path := filepath.Join(w.bin, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+commands+"\n"), 0o700); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// result is how a program ended and what it wrote.
type result struct {
	stdout, stderr string
	code           int
	signal         syscall.Signal
}

func (w *world) command(args ...string) *exec.Cmd {
	path := args[0]
	if !strings.Contains(path, "/") {
		path = w.links + "/" + path
	}
	return &exec.Cmd{Path: path, Args: args, Env: w.env, Dir: w.dir, Stdin: strings.NewReader(w.stdin)}
}

// run runs a link with args; args[0] is its name, and argv[0].
func (w *world) run(args ...string) result {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := w.command(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = patienceOfTests
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("%q: %v", args, err)
	}
	return w.result(cmd, stdout.String(), stderr.String())
}

func (w *world) result(cmd *exec.Cmd, stdout, stderr string) result {
	r := result{stdout: stdout, stderr: stderr}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		r.signal = status.Signal()
	} else {
		r.code = status.ExitStatus()
	}
	return r
}

// expect compares a run's result, where each "$W" in want is the world's dir.
func (w *world) expect(got, want result) {
	w.t.Helper()
	want.stdout = strings.ReplaceAll(want.stdout, "$W", w.dir)
	want.stderr = strings.ReplaceAll(want.stderr, "$W", w.dir)
	if got != want {
		w.t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// expectNote checks that stderr is one line of hpcc's own about what, and then
// rest.
func (w *world) expectNote(got result, what, rest string) {
	w.t.Helper()
	line, after, _ := strings.Cut(got.stderr, "\n")
	if !strings.HasPrefix(line, "hpcc: ") || !strings.Contains(line, what) || after != rest {
		w.t.Errorf("stderr %q, want one line of hpcc with %q and then %q", got.stderr, what, rest)
	}
}

// daemon is a stand-in for the real one: each connection's first message, and
// what follows, is for handle.
type daemon struct {
	t      *testing.T
	listen net.Listener
	mu     sync.Mutex
	seen   []*ipcv1.ClientMessage
}

func (w *world) daemon(handle func(c *ipc.Conn, first *ipcv1.ClientMessage)) *daemon {
	w.t.Helper()
	listen, err := net.Listen("unix", w.dir+"/socket")
	if err != nil {
		w.t.Fatal(err)
	}
	d := &daemon{t: w.t, listen: listen}
	w.t.Cleanup(func() { listen.Close() })
	w.publish(os.Getpid())
	go func() {
		for {
			stream, err := listen.Accept()
			if err != nil {
				return
			}
			go func() {
				c := ipc.NewServerConn(stream)
				defer c.Close()
				first := new(ipcv1.ClientMessage)
				if c.Receive(first) != nil {
					return
				}
				d.mu.Lock()
				d.seen = append(d.seen, first)
				d.mu.Unlock()
				handle(c, first)
			}()
		}
	}()
	return d
}

func (w *world) publish(pid int) {
	w.t.Helper()
	err := ipc.PublishEndpoint(w.config, &ipc.Endpoint{Socket: w.dir + "/socket", Pid: pid, Token: make([]byte, ipc.TokenSize)})
	if err != nil {
		w.t.Fatal(err)
	}
}

// requests returns the first messages that came so far.
func (d *daemon) requests() []*ipcv1.ClientMessage {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.seen
}

// answer is a daemon's handler that says one thing.
func answer(m *ipcv1.ServerMessage) func(*ipc.Conn, *ipcv1.ClientMessage) {
	return func(c *ipc.Conn, _ *ipcv1.ClientMessage) { c.Send(m) }
}

// compileWith is a handler that has the user's command run and answers with
// its exit code; ran gets the report. edit may change what is asked for.
func compileWith(edit func(*ipcv1.Run), ran chan<- *ipcv1.Ran) func(*ipc.Conn, *ipcv1.ClientMessage) {
	return func(c *ipc.Conn, first *ipcv1.ClientMessage) {
		run := &ipcv1.Run{
			Stage:        ipcv1.Run_STAGE_COMPILE,
			Args:         append([]string{first.Compile.Compiler}, first.Compile.Args[1:]...),
			CaptureLimit: 1 << 20,
		}
		if edit != nil {
			edit(run)
		}
		c.Send(&ipcv1.ServerMessage{Run: run})
		var m ipcv1.ClientMessage
		if err := c.Receive(&m); err != nil {
			close(ran)
			return
		}
		ran <- m.Ran
		c.Send(&ipcv1.ServerMessage{Done: &ipcv1.Done{ExitCode: m.Ran.ExitCode}})
	}
}
