package script

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
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

// interrupt starts a compile that does not end by itself, sends a signal to its
// process group as a terminal does, and says what came of it.
func interrupt(t *testing.T, m *plainMode, sig syscall.Signal, argv ...string) string {
	t.Helper()
	dir := t.TempDir()
	// The compiler opens it and waits for somebody to write.
	source := filepath.Join(dir, "a.c")
	if err := unix.Mkfifo(source, 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd := exec.Command("env", append(argv, "-c", "a.c", "-o", "a.o")...)
	cmd.Dir, cmd.Env, cmd.Stderr = dir, append(m.env[:len(m.env):len(m.env)], "TMPDIR="+dir), &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Once a writer can open it, the compiler is reading.
	opened := false
	for deadline := time.Now().Add(30 * time.Second); !opened && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if fd, err := unix.Open(source, unix.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			defer unix.Close(fd)
			opened = true
		}
	}
	if !opened {
		t.Fatalf("%q does not read its source: %s", argv, stderr.String())
	}
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
	for deadline := time.Now().Add(10 * time.Second); left && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
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
