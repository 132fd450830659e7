//go:build unix

package wrapper

import (
	"errors"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/ipc"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// patienceOfTests bounds waits for what happens at once on an idle machine.
const patienceOfTests = time.Minute

// race is a daemon's handler that races the user's command, and cancels it once
// the command has written the file ready, unless that is "". Then it ends the
// call with what a worker said, or the command if it was not cancelled.
func race(w *world, ready string, ran chan<- *ipcv1.Ran) func(*ipc.Conn, *ipcv1.ClientMessage) {
	return func(c *ipc.Conn, first *ipcv1.ClientMessage) {
		c.Send(raceOf(first))
		if ready != "" {
			awaitFile(w.t, ready)
			c.Send(&ipcv1.ServerMessage{Wait: &ipcv1.Wait{}})
			c.Send(&ipcv1.ServerMessage{Cancel: &ipcv1.Cancel{}})
		}
		var m ipcv1.ClientMessage
		if c.Receive(&m) != nil {
			close(ran)
			return
		}
		ran <- m.Ran
		done := &ipcv1.Done{ExitCode: m.Ran.ExitCode, Stdout: m.Ran.Stdout, Stderr: m.Ran.Stderr}
		if m.Ran.Cancelled {
			done = &ipcv1.Done{ExitCode: 4, Stdout: []byte("of the worker\n")}
		}
		c.Send(&ipcv1.ServerMessage{Done: done})
	}
}

func raceOf(first *ipcv1.ClientMessage) *ipcv1.ServerMessage {
	return &ipcv1.ServerMessage{Run: &ipcv1.Run{
		Stage: ipcv1.Run_STAGE_RACE, Args: append([]string{first.Compile.Compiler}, first.Compile.Args[1:]...), CaptureLimit: 1 << 20,
	}}
}

// awaitFile waits for a file with something in it, and returns that.
func awaitFile(t *testing.T, path string) string {
	for deadline := time.Now().Add(patienceOfTests); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if b, err := os.ReadFile(path); err == nil && strings.HasSuffix(string(b), "\n") {
			return strings.TrimSpace(string(b))
		}
	}
	t.Errorf("%s did not come", path)
	return ""
}

// killChild kills the process that a command left behind, which runs.
func killChild(t *testing.T, w *world) {
	t.Helper()
	pid, err := strconv.Atoi(awaitFile(t, w.dir+"/child"))
	if err == nil {
		err = unix.Kill(pid, unix.SIGKILL)
	}
	if err != nil {
		t.Error(err)
	}
}

// expectGone checks that the process named in a file does not run.
func expectGone(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process %d of %s: %v", pid, path, err)
	}
}

// What a Cancel ends is gone with all its children, however these take it, before
// the wrapper reports; and nobody sees what it printed.
func TestRaceCancelled(t *testing.T) {
	for name, commands := range map[string]string{
		"sleeps":           `sleep 1000 & echo $! >child; echo up >ready; wait`,
		"ignores":          `trap '' TERM; (while :; do sleep 0.05; done) & echo $! >child; echo up >ready; while :; do sleep 0.05; done`,
		"child ignores":    `(trap '' TERM; echo set >trap; while :; do sleep 0.05; done) & echo $! >child; until test -s trap; do sleep 0.01; done; echo up >ready; wait`,
		"child with stdio": `sh -c 'echo $$ >child; echo up >ready; while :; do echo noise; sleep 0.01; done'; echo not reached`,
		"tidies up":        `echo tmp >tmp; trap 'rm tmp; exit 3' TERM; sleep 1000 & echo $! >child; echo up >ready; wait`,
		"stopped":          `echo $$ >child; echo up >ready; kill -STOP $$`,
		"grandchild":       `sh -c 'sh -c "sleep 1000 & echo \$! >child; echo up >ready; wait" & wait' & wait`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.script("gcc", `echo shown; echo shown too >&2; echo $$ >leader; `+commands)
			w.stdin = "nobody reads this"
			if name == "tidies up" {
				w.env = append(w.env, "HPCC_TEST_PATIENCE="+patienceOfTests.String())
			}
			ran := make(chan *ipcv1.Ran, 1)
			w.daemon(race(w, w.dir+"/ready", ran))
			w.expect(w.run("gcc", "-c", "a.c"), result{code: 4, stdout: "of the worker\n"})
			if r := <-ran; !r.Cancelled || r.Signal != 0 || r.ExitCode != 0 || len(r.Stdout)+len(r.Stderr) > 0 {
				t.Errorf("reported %+v", r)
			}
			expectGone(t, w.dir+"/leader")
			expectGone(t, w.dir+"/child")
			if _, err := os.Stat(w.dir + "/tmp"); err == nil {
				t.Error("a temporary file was left")
			}
		})
	}
}

// A race that is not cancelled is a compile whose output waits for Done; a Cancel
// that comes late changes nothing.
func TestRaceWon(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", `echo "$@"; cat; echo warning >&2; exit 7`)
	w.stdin = "not to be read"
	ran := make(chan *ipcv1.Ran, 1)
	w.daemon(func(c *ipc.Conn, first *ipcv1.ClientMessage) {
		c.Send(raceOf(first))
		var m ipcv1.ClientMessage
		if c.Receive(&m) != nil {
			return
		}
		ran <- m.Ran
		c.Send(&ipcv1.ServerMessage{Cancel: &ipcv1.Cancel{}})
		c.Send(&ipcv1.ServerMessage{Done: &ipcv1.Done{ExitCode: 7, Stdout: m.Ran.Stdout, Stderr: m.Ran.Stderr}})
	})
	w.expect(w.run("gcc", "-c", "a.c"), result{code: 7, stdout: "-c a.c\n", stderr: "warning\n"})
	if r := <-ran; r.ExitCode != 7 || string(r.Stdout) != "-c a.c\n" || string(r.Stderr) != "warning\n" || r.Cancelled || r.Truncated {
		t.Errorf("reported %+v", r)
	}
}

// Streams that are one stay one, in order, and a process that the command leaves
// behind is left alone, as it is by a compile.
func TestRaceStreams(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", `for i in 1 2 3 4 5; do echo $i; echo e$i >&2; done; sleep 1000 & echo $! >child`)
	ran := make(chan *ipcv1.Ran, 1)
	w.daemon(race(w, "", ran))
	var both strings.Builder
	cmd := w.command("gcc")
	cmd.Stdout, cmd.Stderr = &both, &both
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	const want = "1\ne1\n2\ne2\n3\ne3\n4\ne4\n5\ne5\n"
	if r := <-ran; both.String() != want || string(r.Stderr) != want || !r.Merged {
		t.Errorf("shown %q, reported %+v", both.String(), r)
	}
	killChild(t, w)
}

func TestRaceCannotStart(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", "")
	ran := make(chan *ipcv1.Ran, 1)
	w.daemon(func(c *ipc.Conn, first *ipcv1.ClientMessage) {
		first.Compile.Compiler += "-gone"
		race(w, "", ran)(c, first)
	})
	w.run("gcc", "-c", "a.c")
	if r := <-ran; r.ExitCode != 127 || r.Error == "" || r.Cancelled {
		t.Errorf("reported %+v", r)
	}
}

// What ends the command alone, as lack of memory does, does not end the wrapper.
func TestRaceCommandKilled(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", `kill -KILL $$`)
	ran := make(chan *ipcv1.Ran, 1)
	w.daemon(race(w, "", ran))
	w.expect(w.run("gcc"), result{code: 137})
	if r := <-ran; r.ExitCode != 137 || r.Signal != 0 {
		t.Errorf("reported %+v", r)
	}
}

// A signal ends the command, its children and the wrapper: also where the
// command takes it and ends by itself, and where a child ignores it.
func TestRaceSignals(t *testing.T) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		for name, commands := range map[string]string{
			"dies":      `sleep 1000 & echo $! >child; echo up >ready; wait`,
			"goes away": `trap 'exit 3' ` + sigName(sig) + `; sleep 1000 & echo $! >child; echo up >ready; wait`,
		} {
			w := newWorld(t)
			w.script("gcc", `ulimit -c 0; echo $$ >leader; `+commands)
			ran := make(chan *ipcv1.Ran, 1)
			w.daemon(race(w, "", ran))
			cmd := w.command("gcc")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			awaitFile(t, w.dir+"/ready")
			cmd.Process.Signal(sig)
			cmd.Wait()
			if r := w.result(cmd, "", ""); r.signal != sig {
				t.Errorf("%v, %s: ended %+v", sig, name, r)
			}
			if r := <-ran; r == nil || r.Signal != int32(sig) {
				t.Errorf("%v, %s: reported %+v", sig, name, r)
			}
			expectGone(t, w.dir+"/leader")
			expectGone(t, w.dir+"/child")
		}
	}
}

// Without its daemon a race is over, and the call begins anew: nothing of the
// command runs any more by then.
func TestRaceDaemonLost(t *testing.T) {
	for name, say := range map[string]*ipcv1.ServerMessage{"gone": nil, "talks nonsense": {}} {
		w := newWorld(t)
		w.script("gcc", `echo shown; echo $$ >leader; sleep 1000 & echo $! >child; echo up >ready; wait`)
		w.script("hpccd", `kill -0 $(cat leader) 2>/dev/null && echo it runs; kill -0 $(cat child) 2>/dev/null && echo a child runs; echo one-shot`)
		ran := make(chan *ipcv1.Ran, 1)
		w.daemon(func(c *ipc.Conn, first *ipcv1.ClientMessage) {
			c.Send(raceOf(first))
			awaitFile(t, w.dir+"/ready")
			if say != nil {
				c.Send(say)
				c.Receive(&ipcv1.ClientMessage{}) // until it hangs up
			}
			close(ran)
		})
		r := w.run("gcc", "-c", "a.c")
		w.expectNote(r, "lost the daemon", "")
		if r.stdout != "one-shot\n" || r.code != 0 {
			t.Errorf("%s: %+v", name, r)
		}
		<-ran
	}
}
