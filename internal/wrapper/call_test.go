//go:build unix

package wrapper

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/ipc"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

const sayArgs = `echo "$0" "$@"`

func TestHit(t *testing.T) {
	w := newWorld(t)
	gcc := w.script("gcc", "echo compiled")
	d := w.daemon(func(c *ipc.Conn, _ *ipcv1.ClientMessage) {
		c.Send(&ipcv1.ServerMessage{Wait: &ipcv1.Wait{}})
		c.Send(&ipcv1.ServerMessage{Done: &ipcv1.Done{
			ExitCode: 3, Stdout: []byte("out"), Stderr: []byte(strings.Repeat("warning\n", 50000)), Note: "said once",
		}})
	})
	for _, command := range [][]string{
		{"gcc", "-c", "a.c"}, {"hpcc", "gcc", "-c", "a.c"}, {"hpcc", "wrap", "gcc", "-c", "a.c"}, {"hpcc", gcc, "-c", "a.c"},
	} {
		w.expect(w.run(command...), result{code: 3, stdout: "out", stderr: strings.Repeat("warning\n", 50000) + "hpcc: said once\n"})
	}
	for _, m := range d.requests() {
		c := m.Compile
		if c.Compiler != gcc || !slices.Equal(c.Args[1:], []string{"-c", "a.c"}) || c.Cwd != w.dir || c.ShowCommand {
			t.Errorf("request: compiler %s, args %q, cwd %s", c.Compiler, c.Args, c.Cwd)
		}
		if !slices.Contains(c.Env, "LANG=C") || slices.Contains(c.Env, "NOT_FOR_THE_DAEMON=1") {
			t.Errorf("environment %q", c.Env)
		}
		if c.Place.Uid != uint32(os.Geteuid()) || c.Place.RootInode == 0 || c.Place.CwdInode == 0 || c.Stderr.IsTerminal {
			t.Errorf("place %+v, stderr %+v", c.Place, c.Stderr)
		}
		if m.Hello.Version != ipc.Version || m.Hello.Protocol != ipc.Protocol || len(m.Hello.Token) != ipc.TokenSize {
			t.Errorf("hello %+v", m.Hello)
		}
	}
	if n := len(d.requests()); n != 4 {
		t.Errorf("%d requests, want 4", n)
	}
}

// A hit whose messages nobody reads ends as the compiler does in such a case.
func TestHitWithReaderGone(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", `trap '' PIPE; echo lost || echo "$@" >&2; exit 6`)
	w.daemon(answer(&ipcv1.ServerMessage{Done: &ipcv1.Done{Stdout: make([]byte, 1<<20), Stderr: []byte("warning")}}))
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	var stdout, stderr strings.Builder
	cmd := w.command("gcc", "-c", "a.c")
	cmd.Stdout, cmd.Stderr = write, &stderr
	cmd.Run()
	got := w.result(cmd, stdout.String(), stderr.String())
	if got.code != 6 || !strings.HasSuffix(got.stderr, "-c a.c\n") {
		t.Errorf("ended %+v", got)
	}
}

func TestPass(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", sayArgs+`; cat; exit 4`)
	w.stdin = "from stdin"
	w.daemon(answer(&ipcv1.ServerMessage{Pass: &ipcv1.Pass{Reason: "link"}}))
	w.expect(w.run("gcc", "-o", "a b"), result{code: 4, stdout: "$W/bin/gcc -o a b\nfrom stdin"})
}

func TestOneShot(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", "echo compiled")
	w.script("hpccd", sayArgs+`; echo "$HPCC_ACTIVE" >&2; exit 5`)
	oneShot := result{code: 5, stdout: "$W/bin/hpccd compile -- $W/bin/gcc -c a.c\n", stderr: "$W/bin/gcc\n"}

	// Without a daemon nothing is amiss, so nothing is said.
	w.expect(w.run("gcc", "-c", "a.c"), oneShot)
	w.daemon(answer(&ipcv1.ServerMessage{OneShot: &ipcv1.OneShot{}}))
	w.expect(w.run("gcc", "-c", "a.c"), oneShot)

	w.env = append(w.env, "HPCC_DISABLE=1")
	w.expect(w.run("gcc", "-c", "a.c"), result{stdout: "compiled\n"})
}

func TestNoHpccd(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", "echo compiled")
	first, second := w.run("gcc"), w.run("gcc")
	if first.stdout != "compiled\n" {
		t.Errorf("%+v", first)
	}
	w.expectNote(first, "cannot start hpccd", "")
	w.expect(second, result{stdout: "compiled\n"})

	other := w.run("hpcc", "stats")
	w.expectNote(other, "cannot start hpccd", "")
	if other.code != 127 {
		t.Errorf("exit code %d, want 127", other.code)
	}
}

func TestDelegation(t *testing.T) {
	w := newWorld(t)
	w.script("hpccd", sayArgs)
	for _, args := range [][]string{{}, {"stats", "--json"}, {"--help"}, {"version"}, {"wrap", "--help"}} {
		want := strings.Join(append([]string{"$W/bin/hpccd"}, args...), " ") + "\n"
		w.expect(w.run(append([]string{"hpcc"}, args...)...), result{stdout: want})
	}
	if r := w.run("hpcc", "wrap"); r.code != 2 || !strings.Contains(r.stderr, "for example") {
		t.Errorf("wrap without a compiler: %+v", r)
	}
}

func TestShowCommand(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", "echo compiled")
	show := []string{"hpcc", "wrap", "--show-command", "gcc", "-c", "it's.c"}
	if r := w.run(show...); r.stdout != w.bin+`/gcc -c 'it'\''s.c'`+"\n" {
		t.Errorf("without hpccd: %+v", r)
	}
	w.script("hpccd", sayArgs)
	w.expect(w.run(show...), result{stdout: "$W/bin/hpccd compile --show-command -- $W/bin/gcc -c it's.c\n"})
	d := w.daemon(answer(&ipcv1.ServerMessage{Done: &ipcv1.Done{Stdout: []byte("gcc -MD\n")}}))
	w.expect(w.run(show...), result{stdout: "gcc -MD\n"})
	if !d.requests()[0].Compile.ShowCommand {
		t.Error("the daemon was not told")
	}
}

// Each way to be without the daemon ends in the one-shot path, with one line
// the first time and none the second.
func TestDaemonUnusable(t *testing.T) {
	refuse := func(why ipcv1.Refused_Why) func(*world) {
		return func(w *world) {
			w.daemon(answer(&ipcv1.ServerMessage{Refused: &ipcv1.Refused{Why: why, Detail: "9.9"}}))
		}
	}
	for name, test := range map[string]struct {
		prepare func(*world)
		note    string
	}{
		"stale file": {func(w *world) { w.publish(1) }, "not running"},
		"open to others": {func(w *world) {
			w.daemon(answer(&ipcv1.ServerMessage{Done: &ipcv1.Done{}}))
			os.Chmod(w.config+"/"+ipc.EndpointFile, 0o644)
		}, "not a private file"},
		"damaged file": {func(w *world) {
			w.publish(1)
			os.WriteFile(w.config+"/"+ipc.EndpointFile, []byte("{"), 0o600)
		}, "not usable"},
		"token":         {refuse(ipcv1.Refused_WHY_TOKEN), "token"},
		"version":       {refuse(ipcv1.Refused_WHY_VERSION), "another version than hpcc dev (9.9)"},
		"protocol":      {refuse(ipcv1.Refused_WHY_PROTOCOL), "another version"},
		"gone at once":  {func(w *world) { w.daemon(func(c *ipc.Conn, _ *ipcv1.ClientMessage) {}) }, "lost the daemon"},
		"empty answer":  {func(w *world) { w.daemon(answer(&ipcv1.ServerMessage{})) }, "not understood"},
		"gone in quiet": {func(w *world) { w.daemon(dieAfter(ipcv1.Run_STAGE_QUIET, false)) }, "lost the daemon"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.script("gcc", "echo compiled")
			w.script("hpccd", "echo one-shot")
			test.prepare(w)
			first, second := w.run("gcc", "-c", "a.c"), w.run("gcc", "-c", "a.c")
			w.expectNote(first, test.note, "")
			if first.stdout != "one-shot\n" || first.code != 0 {
				t.Errorf("%+v", first)
			}
			w.expect(second, result{stdout: "one-shot\n"})
		})
	}
}

// dieAfter is a daemon that has the compiler run and hears nothing more.
func dieAfter(stage ipcv1.Run_Stage, incomplete bool) func(*ipc.Conn, *ipcv1.ClientMessage) {
	return func(c *ipc.Conn, first *ipcv1.ClientMessage) {
		c.Send(&ipcv1.ServerMessage{Run: &ipcv1.Run{
			Stage: stage, Args: []string{first.Compile.Compiler, "instead"}, Incomplete: incomplete, CaptureLimit: 1 << 20,
		}})
	}
}

func TestDaemonKilledInTheMiddle(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", `sleep 0.1; echo "$@"; exit 6`)
	w.script("hpccd", "echo one-shot")

	// What the daemon had run was all that the user's command does.
	w.daemon(dieAfter(ipcv1.Run_STAGE_COMPILE, false))
	r := w.run("gcc", "-c", "a.c")
	w.expectNote(r, "lost the daemon while", "")
	if r.stdout != "instead\n" || r.code != 6 {
		t.Errorf("complete: %+v", r)
	}

	// It was not, so the user's command has to follow.
	w2 := newWorld(t)
	w2.script("gcc", `sleep 0.1; echo "$@"; exit 6`)
	w2.daemon(dieAfter(ipcv1.Run_STAGE_COMPILE, true))
	r = w2.run("gcc", "-c", "a.c")
	w2.expectNote(r, "lost the daemon while", "")
	if r.stdout != "instead\n-c a.c\n" || r.code != 6 {
		t.Errorf("incomplete: %+v", r)
	}
}

func TestDaemonHangs(t *testing.T) {
	const waits = 6
	timeout := 300 * time.Millisecond
	for slow := true; slow; timeout *= 2 {
		w := newWorld(t)
		w.script("gcc", "")
		w.script("hpccd", "echo one-shot")
		w.env = append(w.env[:2:2], "HPCC_DAEMON_TIMEOUT="+timeout.String())
		release := make(chan bool)
		longest := make(chan time.Duration, 2)
		start := time.Now()
		d := w.daemon(func(c *ipc.Conn, _ *ipcv1.ClientMessage) {
			last, gap := start, time.Duration(0)
			for range waits { // the time counts from each Wait
				time.Sleep(timeout / 4)
				before := time.Now()
				c.Send(&ipcv1.ServerMessage{Wait: &ipcv1.Wait{}})
				gap = max(gap, time.Since(last))
				last = before
			}
			longest <- gap
			<-release
		})
		first := w.run("gcc", "-c", "a.c")
		waited := time.Since(start)
		// On a busy machine this daemon itself may have been silent for too long.
		slow = <-longest >= timeout && timeout < patienceOfTests
		if least := waits*timeout/4 + timeout; !slow && waited < least {
			t.Errorf("gave up after %v, want %v at least", waited, least)
		}
		w.expectNote(first, "does not answer", "")
		w.expect(w.run("gcc", "-c", "a.c"), result{stdout: "one-shot\n"})
		if n := len(d.requests()); n != 1 {
			t.Errorf("the hung daemon was asked %d times, want once", n)
		}
		// Another daemon is not the one that hung.
		w.publish(os.Getpid() + 1)
		w.run("gcc", "-c", "a.c")
		if n := len(d.requests()); n != 2 {
			t.Errorf("its successor was asked %d times, want once", n-1)
		}
		close(release)
	}
}

func TestNeverLoops(t *testing.T) {
	t.Run("script calls its own name", func(t *testing.T) {
		w := newWorld(t)
		w.script("hpccd", `shift 2; exec "$@"`)
		real := t.TempDir()
		os.WriteFile(real+"/gcc", []byte("#!/bin/sh\necho real\n"), 0o700)
		w.script("gcc", `exec gcc "$@"`)
		w.env[0] += ":" + real
		w.env[0] = strings.Replace(w.env[0], "/usr/bin:/bin", real+":/usr/bin:/bin", 1)
		w.expect(w.run("gcc", "-c", "a.c"), result{stdout: "real\n"})
	})
	t.Run("only itself is left", func(t *testing.T) {
		w := newWorld(t)
		w.env[0] = "PATH=" + w.links + ":" + w.bin + ":/nowhere"
		w.script("gcc", `exec gcc "$@"`)
		r := w.run("gcc", "-c", "a.c")
		if r.code != 126 || !strings.HasSuffix(r.stderr, "calls itself forever\n") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("nothing but links", func(t *testing.T) {
		w := newWorld(t)
		w.env[0] = "PATH=" + w.links
		w.expect(w.run("gcc", "-c", "a.c"), result{code: 127, stderr: "hpcc: gcc: command not found\n"})
		w.expect(w.run("hpcc", w.links+"/gcc"), result{code: 127, stderr: "hpcc: $W/links/gcc: command not found\n"})
	})
	t.Run("link by its path", func(t *testing.T) {
		w := newWorld(t)
		w.script("gcc", "echo real")
		w.script("hpccd", `shift 2; exec "$@"`)
		w.expect(w.run(w.links+"/gcc"), result{stdout: "real\n"})
	})
}

// A real make shares its job server with a compile through inherited
// descriptors.
func TestJobServer(t *testing.T) {
	makePath, err := exec.LookPath("make")
	if err != nil {
		t.Fatal("this test needs make: ", err)
	}
	w := newWorld(t)
	w.script("gcc", `case "$MAKEFLAGS" in *jobserver-auth=*) ;; *) echo no job server; exit 0;; esac
auth=${MAKEFLAGS#*jobserver-auth=}; auth=${auth%% *}
case $auth in
fifo:*) test -p "${auth#fifo:}" && echo token;;
*) eval "head -c1 <&${auth%,*}" | wc -c | tr -d ' '; eval "printf + >&${auth#*,}";;
esac`)
	os.WriteFile(w.dir+"/Makefile", []byte("all:\n\t+@gcc -c a.c\n"), 0o600)
	ran := make(chan *ipcv1.Ran, 1)
	w.daemon(compileWith(nil, ran))
	r := w.run(makePath, "-s", "-j3")
	if r.stdout != "1\n" && r.stdout != "token\n" {
		t.Errorf("%+v", r)
	}
	if got := <-ran; string(got.Stdout) != r.stdout {
		t.Errorf("reported %q", got.Stdout)
	}
}
