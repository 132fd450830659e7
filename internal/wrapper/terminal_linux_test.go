package wrapper

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// newTerminal returns both ends of a terminal of the given width.
func newTerminal(t *testing.T, columns uint16) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal("this test needs pseudo-terminals: ", err)
	}
	fd, err := openPeer(int(ours.Fd()))
	if err != nil {
		t.Fatal("this test needs /dev/pts: ", err)
	}
	theirs = os.NewFile(uintptr(fd), "terminal")
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

// readAll returns what comes until the terminal is quiet.
func readAll(ours *os.File, enough string) string {
	lines := make(chan string)
	go func() {
		var got strings.Builder
		buf := make([]byte, 1024)
		for !strings.Contains(got.String(), enough) {
			n, err := ours.Read(buf)
			if err != nil {
				break
			}
			got.Write(buf[:n])
		}
		lines <- got.String()
	}()
	select {
	case s := <-lines:
		return s
	case <-time.After(patienceOfTests):
		return "nothing came"
	}
}

const describeStdio = `test -t 1 && echo out; test -t 2 && echo err >&2; stty size <&2; echo end >&2`

func TestTerminal(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", describeStdio)
	ran := make(chan *ipcv1.Ran, 1)
	d := w.daemon(compileWith(nil, ran))
	ours, theirs := newTerminal(t, 123)
	cmd := w.command("gcc")
	cmd.Stdout, cmd.Stderr = theirs, theirs
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	// The bytes reported are the compiler's; line ends are the real terminal's.
	const written = "out\nerr\n24 123\nend\n"
	if got := <-ran; string(got.Stderr) != written || !got.Merged || got.Truncated {
		t.Errorf("reported %+v", got)
	}
	if shown := readAll(ours, "end"); !strings.HasPrefix(shown, strings.ReplaceAll("out\nerr\n24 123\nend", "\n", "\r\n")) {
		t.Errorf("shown %q", shown)
	}
	c := d.requests()[0].Compile
	if !c.Stdout.IsTerminal || !c.Stderr.IsTerminal || c.Stderr.Columns != 123 {
		t.Errorf("told %+v and %+v", c.Stdout, c.Stderr)
	}
}

func TestTerminalForStderrOnly(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", describeStdio)
	ran := make(chan *ipcv1.Ran, 1)
	w.daemon(compileWith(nil, ran))
	ours, theirs := newTerminal(t, 77)
	var stdout strings.Builder
	cmd := w.command("gcc")
	cmd.Stdout, cmd.Stderr = &stdout, theirs
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if got := <-ran; string(got.Stderr) != "err\nend\n" || string(got.Stdout) != "24 77\n" || got.Merged {
		t.Errorf("reported %+v", got)
	}
	if shown := readAll(ours, "end"); !strings.HasPrefix(shown, "err\r\nend") || stdout.String() != "24 77\n" {
		t.Errorf("shown %q and %q", shown, stdout.String())
	}
}

// A race keeps the terminal's looks, and shows nothing there before Done; stdin's
// width is at hand.
func TestTerminalRace(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", describeStdio+`; stty size >&2; echo end >&2`)
	ran := make(chan *ipcv1.Ran, 1)
	w.daemon(race(w, "", ran))
	ours, theirs := newTerminal(t, 123)
	cmd := w.command("gcc")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	const written = "out\nerr\n24 123\nend\n24 123\nend\n"
	if got := <-ran; string(got.Stderr) != written || !got.Merged || got.Truncated {
		t.Errorf("reported %+v", got)
	}
	if shown := readAll(ours, "end\r\n24 123\r\nend"); !strings.HasPrefix(shown, strings.TrimSuffix(strings.ReplaceAll(written, "\n", "\r\n"), "\r\n")) {
		t.Errorf("shown %q", shown)
	}
}

// A wrapper that was kept from the processor while its command ended has no time
// left to wait for more, but reports all that was written; a terminal holds some
// 19 KB.
func TestTerminalRaceStalled(t *testing.T) {
	w := newWorld(t)
	w.env = append(w.env, "HPCC_TEST_DRAIN=0")
	w.script("gcc", `sleep 1000 & echo $! >child
(while grep -q ') [^Z]' /proc/$$/stat 2>/dev/null; do sleep 0.01; done; kill -CONT $PPID) &
kill -STOP $PPID
head -c 12000 /dev/zero | tr '\0' x >&2`)
	ran := make(chan *ipcv1.Ran, 1)
	w.daemon(race(w, "", ran))
	ours, theirs := newTerminal(t, 80)
	go io.Copy(io.Discard, ours)
	cmd := w.command("gcc")
	cmd.Stdout, cmd.Stderr = theirs, theirs
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if got := <-ran; len(got.Stderr) != 12000 || got.Truncated {
		t.Errorf("reported %d bytes", len(got.Stderr))
	}
	killChild(t, w)
}
