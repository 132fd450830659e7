//go:build unix

package wrapper

import (
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// compile runs gcc, a script of commands, under a daemon that has it run once.
func compile(t *testing.T, commands string, edit func(*ipcv1.Run)) (*world, result, *ipcv1.Ran) {
	t.Helper()
	w := newWorld(t)
	w.script("gcc", commands)
	w.stdin = "standard input"
	ran := make(chan *ipcv1.Ran, 1)
	w.daemon(compileWith(edit, ran))
	r := w.run("gcc", "-c", "a.c")
	return w, r, <-ran
}

func TestRunCompile(t *testing.T) {
	w, r, ran := compile(t, `echo "$0" "$@"; echo "$SET-$LANG-$HPCC_ACTIVE" >&2; cat; exit 7`, func(run *ipcv1.Run) {
		run.Args = append(run.Args, "-MD")
		run.SetEnv = []string{"SET=new", "LANG=xx"}
		run.UnsetEnv = []string{"NOT_FOR_THE_DAEMON"}
	})
	w.expect(r, result{code: 7, stdout: "$W/bin/gcc -c a.c -MD\nstandard input", stderr: "new-xx-$W/bin/gcc\n"})
	if string(ran.Stdout) != r.stdout || string(ran.Stderr) != r.stderr || ran.ExitCode != 7 || ran.Signal != 0 || ran.Truncated || ran.Merged || ran.Error != "" {
		t.Errorf("reported %+v", ran)
	}
}

func TestRunCannotStart(t *testing.T) {
	_, _, ran := compile(t, "", func(run *ipcv1.Run) { run.Args[0] += "-gone" })
	if ran.ExitCode != 127 || ran.Error == "" {
		t.Errorf("reported %+v", ran)
	}
	_, _, ran = compile(t, "", func(run *ipcv1.Run) { run.Args = nil })
	if ran.Error == "" {
		t.Errorf("no command: reported %+v", ran)
	}
}

func TestRunScriptWithoutInterpreterLine(t *testing.T) {
	w := newWorld(t)
	os.WriteFile(w.bin+"/gcc", []byte("echo \"$1\"\n"), 0o700)
	ran := make(chan *ipcv1.Ran, 1)
	w.daemon(compileWith(nil, ran))
	w.expect(w.run("gcc", "run"), result{stdout: "run\n"})
	w.env = append(w.env, "HPCC_DISABLE=1")
	w.expect(w.run("gcc", "exec"), result{stdout: "exec\n"})
}

func TestRunQuiet(t *testing.T) {
	_, r, ran := compile(t, `echo out; echo err >&2; cat`, func(run *ipcv1.Run) { run.Stage = ipcv1.Run_STAGE_QUIET })
	if (r != result{}) || string(ran.Stderr) != "err\n" || string(ran.Stdout) != "out\n" || ran.Merged {
		t.Errorf("shown %+v, reported %+v", r, ran)
	}
}

func TestRunCaptureLimit(t *testing.T) {
	_, r, ran := compile(t, `echo 0123456789; echo short >&2`, func(run *ipcv1.Run) { run.CaptureLimit = 6 })
	if r.stdout != "0123456789\n" || string(ran.Stdout) != "012345" || string(ran.Stderr) != "short\n" || !ran.Truncated {
		t.Errorf("shown %+v, reported %+v", r, ran)
	}
}

// A process that the compiler leaves behind with its stdio (a server that
// another wrapper starts) does not hold up the build.
func TestRunLeavesProcessBehind(t *testing.T) {
	w, r, _ := compile(t, `echo done; sleep 1000 & echo $! >child`, nil)
	if r.stdout != "done\n" {
		t.Errorf("%+v", r)
	}
	killChild(t, w)
}

func TestRunMergedStreams(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", `for i in 1 2 3 4 5 6 7 8 9; do echo $i; echo e$i >&2; done`)
	ran := make(chan *ipcv1.Ran, 1)
	w.daemon(compileWith(nil, ran))
	var both strings.Builder
	cmd := w.command("gcc")
	cmd.Stdout, cmd.Stderr = &both, &both // one pipe, as exec.Cmd does it
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	want := "1\ne1\n2\ne2\n3\ne3\n4\ne4\n5\ne5\n6\ne6\n7\ne7\n8\ne8\n9\ne9\n"
	if got := <-ran; both.String() != want || string(got.Stderr) != want || len(got.Stdout) != 0 || !got.Merged {
		t.Errorf("shown %q, reported %+v", both.String(), got)
	}
}

// When the build's reader goes away the command is not disturbed, so that it
// can be told from one that fails by itself.
func TestRunReaderGone(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", `trap '' PIPE; for i in 1 2 3 4 5 6 7 8 9; do echo line || exit 9; sleep 0.02; done`)
	ran := make(chan *ipcv1.Ran, 1)
	w.daemon(compileWith(nil, ran))
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	cmd := w.command("gcc")
	cmd.Stdout = write
	cmd.Run()
	if got := <-ran; got.ExitCode != 0 || !got.Unwritable {
		t.Errorf("reported %+v", got)
	}
}

func TestRunDiesBySignal(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGSEGV, syscall.SIGQUIT, syscall.SIGKILL} {
		_, r, ran := compile(t, "kill -"+sigName(sig)+" $$", nil)
		if r.signal != sig || ran.Signal != int32(sig) || r.stderr != "" {
			t.Errorf("%v: ended %+v, reported %+v", sig, r, ran)
		}
	}
}

func sigName(sig syscall.Signal) string {
	return map[syscall.Signal]string{
		syscall.SIGTERM: "TERM", syscall.SIGSEGV: "SEGV", syscall.SIGQUIT: "QUIT", syscall.SIGKILL: "KILL", syscall.SIGINT: "INT", syscall.SIGHUP: "HUP",
	}[sig]
}

func TestRunForwardsSignals(t *testing.T) {
	// Under nohup(1) it would be ignored by all that is started here.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		w := newWorld(t)
		w.script("gcc", `trap 'echo cleaned up; exit 3' `+sigName(sig)+`; echo ready > `+w.dir+`/ready; while :; do sleep 0.02; done`)
		ran := make(chan *ipcv1.Ran, 1)
		w.daemon(compileWith(nil, ran))
		var stdout strings.Builder
		cmd := w.command("gcc")
		cmd.Stdout = &stdout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		awaitFile(t, w.dir+"/ready")
		cmd.Process.Signal(sig)
		cmd.Wait()
		if r := w.result(cmd, stdout.String(), ""); r.code != 3 || r.stdout != "cleaned up\n" {
			t.Errorf("%v: %+v", sig, r)
		}
	}
}
