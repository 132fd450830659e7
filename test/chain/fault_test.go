//go:build e2e

package chain

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// slowSource takes a compiler many seconds and little memory, and names itself on
// its command line by marker.
func slowSource(n int) string {
	var b strings.Builder
	b.WriteString("extern int g(int);\n#define A(x) if (g(x)) { a += g(a * x); b ^= a; } else { b += g(b - x); a ^= b; }\n")
	b.WriteString("#define B(x) A(x) A(x+1) A(x+2) A(x+3) A(x+4) A(x+5) A(x+6) A(x+7)\n#define C(x) B(x) B(x+8) B(x+16) B(x+24) B(x+32) B(x+40) B(x+48) B(x+56)\n")
	b.WriteString("int f(int a, int b) {\n")
	for i := range n {
		fmt.Fprintf(&b, "C(%d)\n", i*64)
	}
	b.WriteString("return a + b; }\n")
	return b.String()
}

// compilersOf lists this machine's compilers whose command line holds marker.
func compilersOf(marker string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		text, err := os.ReadFile(f)
		if err == nil && bytes.Contains(text, []byte("cc1")) && bytes.Contains(text, []byte(marker)) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func await(t *testing.T, what string, limit time.Duration, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("%s: not within %s", what, limit)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

// slowUnit makes a project with one unit that takes a compiler long: some seconds
// for a size of 20.
func slowUnit(t *testing.T, marker string, size int) (dir string, args []string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "project")
	if err := os.MkdirAll(filepath.Join(dir, ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, marker+".c"), []byte(slowSource(size)), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, []string{"-O2", "-c", marker + ".c", "-o", "a.o"}
}

func plainObject(t *testing.T, dir string, args []string) []byte {
	t.Helper()
	plain := append(args[:len(args)-1:len(args)-1], "plain.o")
	cmd := exec.Command("/usr/bin/gcc", plain...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "plain.o"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCancel: Ctrl-C of make stops the compile in the machine, within a second. Of
// three times one must show that: a machine may do something else for a second.
func TestCancel(t *testing.T) {
	c := startChain(t, 1, "one")
	cl := newClient(t, c, "one", ClientOptions{})
	for i := range 3 {
		took := cancelled(t, cl, fmt.Sprintf("cancelled_%d", i))
		t.Logf("the machine's compiler ended after %s", took)
		if took < time.Second {
			return
		}
	}
	t.Error("the machine's compiler went on for a second each time")
}

// cancelled interrupts a build, and returns after how long its compiler has ended.
func cancelled(t *testing.T, cl *Client, marker string) time.Duration {
	t.Helper()
	dir, args := slowUnit(t, marker, 60)
	if err := os.WriteFile(filepath.Join(dir, "Makefile"), []byte("a.o:\n\tgcc "+strings.Join(args, " ")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	build := cl.Command(dir, "make")
	build.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := build.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "the compile begins", 5*time.Minute, func() bool { return len(compilersOf(marker+".c")) > 0 })
	if err := syscall.Kill(-build.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	took := await(t, "the compile ends", 2*time.Minute, func() bool { return len(compilersOf(marker+".c")) == 0 })
	if err := build.Wait(); err == nil {
		t.Error("make ended well")
	}
	if _, err := os.Stat(filepath.Join(dir, "a.o")); err == nil {
		t.Error("an object was left")
	}
	return took
}

// TestMachineCrash: a machine that dies under a compile is replaced, and the
// build ends right.
func TestMachineCrash(t *testing.T) {
	c := startChain(t, 1, "one")
	cl := newClient(t, c, "one", ClientOptions{})
	dir, args := slowUnit(t, "crashed", 20)
	want := plainObject(t, dir, args)
	build := cl.Command(dir, "gcc", args...)
	var said bytes.Buffer
	build.Stderr = &said
	if err := build.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "the compile begins", 5*time.Minute, func() bool { return len(compilersOf("crashed.c")) > 0 })
	agents, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	killed := 0
	for _, f := range agents {
		if text, err := os.ReadFile(f); err == nil && bytes.Contains(text, []byte(c.Dir+"/m1/")) && bytes.Contains(text, []byte("hpcc-agent")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			_ = syscall.Kill(pid, syscall.SIGKILL)
			killed++
		}
	}
	if err := build.Wait(); err != nil || killed == 0 {
		t.Fatalf("%v: %s; %d agents killed", err, said.Bytes(), killed)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "a.o")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v, or another object", err)
	}
	rows, err := c.Worker(0).Rows()
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for _, r := range rows {
		if r.Error != "" {
			lost++
		}
	}
	if lost == 0 {
		t.Error("no row tells of the machine that was lost")
	}
}

// TestWorkerGone: a worker that goes under a compile is replaced by another.
func TestWorkerGone(t *testing.T) {
	c := startChain(t, 2, "one")
	cl := newClient(t, c, "one", ClientOptions{})
	dir, args := slowUnit(t, "moved", 20)
	want := plainObject(t, dir, args)
	build := cl.Command(dir, "gcc", args...)
	var said bytes.Buffer
	build.Stderr = &said
	if err := build.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "the compile begins", 5*time.Minute, func() bool { return len(compilersOf("moved.c")) > 0 })
	for i := range 2 {
		if c.Worker(i).Busy() {
			c.Worker(i).Break()
		}
	}
	if err := build.Wait(); err != nil {
		t.Fatalf("%v: %s\n%s", err, said.Bytes(), cl.Log())
	}
	if got, err := os.ReadFile(filepath.Join(dir, "a.o")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v, or another object", err)
	}
}

// TestSchedulerRestart: a build goes on without a scheduler, and with a new one.
func TestSchedulerRestart(t *testing.T) {
	c := startChain(t, 1, "one", "two")
	cl := newClient(t, c, "one", ClientOptions{})
	dir := filepath.Join(t.TempDir(), "project")
	compile := func(cl *Client, name string) error {
		if err := os.MkdirAll(filepath.Join(dir, ".git"), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name+".c"), []byte("int "+name+";\n"), 0o644); err != nil {
			return err
		}
		out, err := cl.Command(dir, "gcc", "-c", name+".c").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := compile(cl, "before"); err != nil {
		t.Fatal(err)
	}
	c.KillScheduler()
	if err := compile(cl, "without"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.StartScheduler(ctx); err != nil {
		t.Fatal(err)
	}
	if err := compile(cl, "after"); err != nil {
		t.Error(err)
	}
	// Somebody who comes now, too: the worker is known again with its next
	// heartbeat, and its keys are the old ones.
	two := newClient(t, c, "two", ClientOptions{})
	await(t, "a new client is served", 5*time.Minute, func() bool { return compile(two, "new") == nil })
}

// TestWorkersAway: with nobody there the policy decides.
func TestWorkersAway(t *testing.T) {
	c := startChain(t, 1, "one", "two", "three", "four")
	if err := c.Worker(0).Stop(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "project")
	if err := os.MkdirAll(filepath.Join(dir, ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a.c"), []byte("int a;\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		client    string
		fallback  string
		compilers bool
		noDaemon  bool
		says      string
	}{
		{"one", "any", true, false, ""},
		{"two", "fail", true, false, "allows no local compile"},
		{"three", "any", false, false, "no such compiler here"},
		{"four", "fail", true, true, "allows no local compile"},
	} {
		cl := newClient(t, c, x.client, ClientOptions{Compilers: x.compilers, NoDaemon: x.noDaemon, Settings: fmt.Sprintf("fallback = %q", x.fallback)})
		began := time.Now()
		for i := range 5 {
			os.Remove(filepath.Join(dir, "a.o"))
			out, err := cl.Command(dir, "gcc", "-c", "a.c").CombinedOutput()
			_, missing := os.Stat(filepath.Join(dir, "a.o"))
			if (err == nil) != (x.says == "") || (missing == nil) != (x.says == "") || !strings.Contains(string(out), x.says) {
				t.Errorf("%s %d: %v, %s", x.client, i, err, out)
			}
		}
		t.Logf("%s: 5 compiles in %s", x.client, time.Since(began))
	}
}

// TestDoctor asks scheduler and worker, and says what is wrong with them.
func TestDoctor(t *testing.T) {
	c := startChain(t, 1, "one")
	cl := newClient(t, c, "one", ClientOptions{})
	workers := func() string {
		out, _ := cl.Hpcc("doctor", "--json").Output()
		var all struct {
			Findings []struct{ Check, Level, Text string }
		}
		if err := json.Unmarshal(out, &all); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, f := range all.Findings {
			if f.Check == "workers" {
				return f.Level + ": " + f.Text
			}
		}
		return "nothing"
	}
	if says := workers(); !strings.HasPrefix(says, "ok: ") {
		t.Error(says)
	}
	if err := os.WriteFile(cl.Dir+"/credential", []byte("hpcc_"+strings.Repeat("A", 43)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if says := workers(); !strings.HasPrefix(says, "fail: ") || !strings.Contains(says, "credential") {
		t.Error(says)
	}
	c.KillScheduler()
	if says := workers(); !strings.HasPrefix(says, "warn: ") {
		t.Error(says)
	}
}

// TestDaemonMetrics: the daemon serves its counters, if it is asked to.
func TestDaemonMetrics(t *testing.T) {
	c := startChain(t, 1, "one")
	address, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	cl := newClient(t, c, "one", ClientOptions{Top: fmt.Sprintf("[daemon]\nmetrics_listen = %q", address)})
	dir := filepath.Join(t.TempDir(), "project")
	if err := os.MkdirAll(filepath.Join(dir, ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a.c"), []byte("int a;\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out, err := cl.Command(dir, "gcc", "-c", "a.c").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	// A miss is counted once it is stored, which happens behind the answer.
	wants := []string{`hpcc_compiles_total{outcome="miss"} 1`, `hpcc_compiles_total{outcome="hit-direct"} 1`}
	var text string
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if text, err = scrape("http://" + address + "/metrics"); err != nil {
			t.Fatal(err)
		}
		if containsAll(text, wants) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not all of %q in\n%s", wants, text)
		}
	}
}

func scrape(url string) (string, error) {
	r, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

func containsAll(text string, wants []string) bool {
	for _, w := range wants {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}
