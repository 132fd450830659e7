package script

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOnTerminal compares byte by byte what appears on terminals of several
// kinds and widths.
func TestOnTerminal(t *testing.T) {
	wide := "int f(void) { int " + strings.Repeat("a", 70) + ", " + strings.Repeat("b", 70) + "; return 0; }\n"
	cases := []struct {
		name    string
		columns uint16
		env     []string
		args    []string
		stdin   bool // the terminal is stdin, too
		stdout  bool
	}{
		{name: "60 columns", columns: 60, stdin: true, stdout: true},
		{name: "80 columns", columns: 80, stdin: true, stdout: true},
		{name: "200 columns", columns: 200, stdin: true, stdout: true},
		{name: "no size", columns: 0, stdin: true, stdout: true},
		// gcc folds by the width of stdin's terminal, whatever stderr's.
		{name: "60 columns without stdin", columns: 60, stdout: true},
		{name: "60 columns for stderr alone", columns: 60, stdin: true},
		{name: "dumb", columns: 80, stdin: true, stdout: true, env: []string{"TERM=dumb"}},
		{name: "COLUMNS", columns: 80, stdin: true, stdout: true, env: []string{"COLUMNS=50"}},
		{name: "NO_COLOR", columns: 80, stdin: true, stdout: true, env: []string{"NO_COLOR=1"}},
		{name: "GCC_COLORS", columns: 80, stdin: true, stdout: true, env: []string{"GCC_COLORS="}},
		{name: "GCC_URLS", columns: 80, stdin: true, stdout: true, env: []string{"GCC_URLS=no"}},
		{name: "never", columns: 80, stdin: true, stdout: true, args: []string{"-fdiagnostics-color=never"}},
		{name: "always", columns: 80, stdin: true, stdout: true, args: []string{"-fdiagnostics-color=always"}},
	}
	for _, mode := range []string{"daemon", "oneshot"} {
		m := newPlainMode(t, mode)
		for _, cc := range []string{"gcc", "clang"} {
			dir := t.TempDir()
			text := fmt.Sprintf("const char name[] = %q;\n%s", mode+cc, wide)
			if err := os.WriteFile(filepath.Join(dir, "a.c"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, c := range cases {
				t.Run(mode+"/"+cc+"/"+c.name, func(t *testing.T) {
					show := func(log string, argv ...string) string {
						ours, theirs := openTerminal(t, c.columns)
						cmd := exec.Command("env", append(append(argv, c.args...), "-Wall", "-c", "a.c", "-o", "a.o")...)
						cmd.Dir = dir
						cmd.Env = append(append(m.env[:len(m.env):len(m.env)], "TERM=xterm-256color", "HPCC_STATS_LOG="+log), c.env...)
						cmd.Stderr = theirs
						if c.stdin {
							cmd.Stdin = theirs
						}
						if c.stdout {
							cmd.Stdout = theirs
						}
						if err := cmd.Start(); err != nil {
							t.Fatal(err)
						}
						theirs.Close()
						shown, err := io.ReadAll(ours)
						// The end of a terminal is an error.
						if err != nil && !errors.Is(err, unix.EIO) {
							t.Fatal(err)
						}
						if err := cmd.Wait(); err != nil {
							t.Fatalf("%v\n%s", err, shown)
						}
						return string(shown)
					}
					want := show("", cc)
					if !strings.Contains(want, "warning") {
						t.Fatalf("plain %s shows %q", cc, want)
					}
					seen[want] = true
					for i := range 2 {
						log := fmt.Sprintf("%s/log-%s-%d", dir, c.name, i)
						if got := show(log, "hpcc", cc); got != want {
							t.Errorf("run %d shows\n%q\nplain %s shows\n%q", i+1, got, cc, want)
						}
						if counted := readOutcomes(t, log, 1); i == 1 && counted != "hit" {
							t.Errorf("run 2 counts %q", counted)
						}
					}
				})
			}
			// Or all this would show nothing.
			if least := map[string]int{"gcc": 7, "clang": 3}[cc]; len(seen) < least {
				t.Errorf("%s printed only %d different texts", cc, len(seen))
			}
		}
	}
}

// openTerminal returns both ends of a new pseudo-terminal.
func openTerminal(t *testing.T, columns uint16) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal("this test needs pseudo-terminals: ", err)
	}
	t.Cleanup(func() { ours.Close() })
	fd := int(ours.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal("this test needs /dev/pts: ", err)
	}
	if err := unix.IoctlSetWinsize(int(theirs.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}
