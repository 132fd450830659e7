package script

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSignals ends compiles by the signals of a terminal, of kill and of a lost
// connection: hpcc ends as the compiler does, and none of it stays behind.
func TestSignals(t *testing.T) {
	// Under nohup(1) it would be ignored by all that is started here.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	t.Cleanup(func() { signal.Reset(syscall.SIGHUP) })
	for _, mode := range []string{"daemon", "oneshot"} {
		m := newPlainMode(t, mode)
		for _, cc := range []string{"gcc", "clang"} {
			for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
				t.Run(fmt.Sprint(mode, "/", cc, "/", sig), func(t *testing.T) {
					t.Parallel()
					want := interrupt(t, m, sig, cc)
					if got := interrupt(t, m, sig, "hpcc", cc); got != want {
						t.Errorf("hpcc %s\nplain %s", got, want)
					}
				})
			}
		}
	}
}

// blocked starts a compile that waits for its source, in a process group of its
// own as a shell would have it, and returns the source's other end.
func blocked(t *testing.T, m *plainMode, dir string, argv ...string) (cmd *exec.Cmd, source *os.File) {
	t.Helper()
	name := filepath.Join(dir, "a.c")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command("env", append(argv, "-c", "a.c", "-o", "a.o")...)
	cmd.Dir, cmd.Env = dir, append(m.env[:len(m.env):len(m.env)], "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Once a writer can open it, the compiler is reading.
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if fd, err := unix.Open(name, unix.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			source = os.NewFile(uintptr(fd), name)
			t.Cleanup(func() { source.Close() })
			return cmd, source
		}
	}
	t.Fatalf("%q does not read its source", argv)
	return nil, nil
}

// TestStopped stops a compile by ^Z and lets it go on.
func TestStopped(t *testing.T) {
	for _, mode := range []string{"daemon", "oneshot"} {
		m := newPlainMode(t, mode)
		for _, argv := range [][]string{{"gcc"}, {"hpcc", "gcc"}} {
			dir := t.TempDir()
			cmd, source := blocked(t, m, dir, argv...)
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTSTP); err != nil {
				t.Fatal(err)
			}
			var status syscall.WaitStatus
			if _, err := syscall.Wait4(cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
				t.Fatalf("%s %q was not stopped: %v, %v", mode, argv, status, err)
			}
			if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			if _, err := source.WriteString("int a;\n"); err != nil {
				t.Fatal(err)
			}
			source.Close()
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%s %q: %v", mode, argv, err)
			}
			if out, err := exec.Command("nm", dir+"/a.o").Output(); err != nil || !strings.Contains(string(out), "B a\n") {
				t.Errorf("%s %q left %q, %v", mode, argv, out, err)
			}
		}
	}
}

// interrupt starts a compile that does not end by itself, sends a signal to its
// process group as a terminal does, and says what came of it.
func interrupt(t *testing.T, m *plainMode, sig syscall.Signal, argv ...string) string {
	t.Helper()
	dir := t.TempDir()
	cmd, _ := blocked(t, m, dir, argv...)
	if err := syscall.Kill(-cmd.Process.Pid, sig); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	result := fmt.Sprintf("ended by signal %d, exit %d\n", status.Signal(), status.ExitStatus())
	// No process of the group is left.
	left := true
	for deadline := time.Now().Add(2 * time.Minute); left && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		left = syscall.Kill(-cmd.Process.Pid, 0) == nil
	}
	result += fmt.Sprintf("processes left: %v\n", left)
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		result += n.Name() + "\n"
	}
	return result
}
