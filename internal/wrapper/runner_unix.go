//go:build unix

package wrapper

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/compiler/env"
	"hpcc.dev/hpcc/internal/ipc"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// maxCapture is how much of one stream a Ran can carry: two of them and their
// headers fit a frame.
const maxCapture = (ipc.MaxClientFrame - 64<<10) / 2

// Runner does in this process what a compile needs done: it describes the
// process to whoever leads (Request), runs commands with the process's own
// stdio (Run), and ends the call (Finish, Exec). It is for one call and one
// goroutine.
type Runner struct {
	environ  environment
	compiler string // what Exec executes
	active   bool   // environ lists compiler in HPCC_ACTIVE already

	// The request's parts are here, and not each by itself, because what an
	// allocation costs so short a process is the first touch of a page: see
	// ipc.Client.
	compile         ipcv1.Compile
	place           ipcv1.Place
	ins, outs, errs ipcv1.Terminal
	env             [16]string // as many as most calls send

	killed *ipcv1.Ran // the compile that a signal ended, and this process with it
}

// NewRunner returns a Runner for the process's own environment.
func NewRunner() *Runner { return &Runner{environ: os.Environ()} }

// ErrNoCompiler says that there is no compiler of the name here.
var ErrNoCompiler = errNotFound

// Request describes the call of the compiler args[0] with the arguments that
// follow. It fails if there is no working directory. With ErrNoCompiler comes a
// description all the same, without a compiler: a worker may have one. The umask
// is read by setting it for a moment, so nothing else may be creating files.
func (r *Runner) Request(args []string) (*ipcv1.Compile, error) {
	if len(args) == 0 {
		return nil, errors.New("no compiler given")
	}
	cwd, err := getwd()
	if err != nil {
		return nil, err
	}
	find := newFinder(r.environ, cwd)
	if path, err := find.other("hpcc"); err == nil {
		find.link, _, _ = identify([]byte(path))
	}
	r.compiler, err = find.compiler(args[0], nil)
	if err == errNotFound {
		return r.request(args, cwd), ErrNoCompiler
	}
	if err != nil {
		return nil, err
	}
	// A wrapper that execs hpccd says whose call it is.
	active := r.environ.active()
	r.active = len(active) > 0 && active[len(active)-1] == r.compiler
	return r.request(args, cwd), nil
}

// environment is what the commands of this call get.
func (r *Runner) environment() environment {
	if r.active || r.compiler == "" {
		return r.environ
	}
	return r.environ.withActive(r.compiler)
}

// request is Request for a compiler that was found.
func (r *Runner) request(args []string, cwd string) *ipcv1.Compile {
	umask := unix.Umask(0)
	unix.Umask(umask)
	ipc.FillPlace(&r.place)
	fillTerminal(&r.outs, stdout)
	fillTerminal(&r.errs, stderr)
	if r.errs.IsTerminal {
		fillTerminal(&r.ins, stdin)
	}
	r.compile = ipcv1.Compile{
		Args:     args,
		Compiler: r.compiler,
		Cwd:      cwd,
		Env:      env.AppendSelected(r.env[:0], r.environ),
		Umask:    uint32(umask),
		Place:    &r.place,
		Stdout:   &r.outs,
		Stderr:   &r.errs,
		Stdin:    &r.ins,
		Merged:   sameFile(stdout, stderr),
	}
	return &r.compile
}

func fillTerminal(t *ipcv1.Terminal, fd int) {
	if size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
		t.IsTerminal, t.Columns = true, uint32(size.Col)
	}
}

// Run runs one command to its end and reports it; it does not fail otherwise.
// The command inherits what the build gave this process: in STAGE_COMPILE
// stdin, in both stages all descriptors beyond stderr, so that a job server is
// at hand. Signals that would end this process are the command's meanwhile.
func (r *Runner) Run(run *ipcv1.Run) *ipcv1.Ran {
	if len(run.Args) == 0 {
		return cannotRun(errors.New("no command given"))
	}
	environ := r.environment().with(run.SetEnv, run.UnsetEnv)
	limit := int(min(run.CaptureLimit, maxCapture))
	var io *stdio
	var err error
	if run.Stage == ipcv1.Run_STAGE_QUIET {
		io, err = quietStdio(limit)
	} else {
		io, err = compileStdio(limit)
	}
	if err != nil {
		return cannotRun(err)
	}
	defer io.close()
	forward, stop := holdSignals()
	defer stop()
	pid, err := start(run.Args, environ, io.child[:], nil)
	if err != nil {
		return cannotRun(err)
	}
	forward(pid)
	status, err := io.pass(pid)
	if err != nil {
		return cannotRun(err)
	}
	ran := io.report()
	if status.Signaled() {
		ran.Signal = int32(status.Signal())
		if run.Stage != ipcv1.Run_STAGE_QUIET {
			r.killed = ran
		}
	} else {
		ran.ExitCode = int32(status.ExitStatus())
	}
	return ran
}

func cannotRun(err error) *ipcv1.Ran {
	return &ipcv1.Ran{ExitCode: int32(statusOf(err)), Error: err.Error()}
}

// start starts args with files as its first descriptors; the others that are
// open now stay open in it, except those that Go itself opened.
func start(args []string, environ environment, files []uintptr, sys *syscall.SysProcAttr) (pid int, err error) {
	attr := &syscall.ProcAttr{Env: environ, Files: files, Sys: sys}
	pid, err = syscall.ForkExec(args[0], args, attr)
	if err == unix.ENOEXEC {
		pid, err = syscall.ForkExec("/bin/sh", script(args), attr)
	}
	return pid, err
}

// script is how execvp runs a text file without a #! line.
func script(args []string) []string { return append([]string{"/bin/sh"}, args...) }

// holdSignals keeps the signals that ask this process to end from doing so
// until stop is called, once, which returns the last one; forward passes them on
// to the process pid (or its group, -pid), also those that came before. Those that
// were ignored stay ignored. Signals of the terminal reach the command by
// themselves as well; a second one changes nothing. A signal in the moment after
// the command ended goes nowhere, as process numbers are not used again so soon.
func holdSignals() (forward func(pid int), stop func() syscall.Signal) {
	received := make(chan os.Signal, 8)
	for _, sig := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
		if !signal.Ignored(sig) {
			signal.Notify(received, sig)
		}
	}
	var last chan syscall.Signal
	forward = func(pid int) {
		last = make(chan syscall.Signal, 1)
		go func() {
			var sig syscall.Signal
			for s := range received {
				sig = s.(syscall.Signal)
				unix.Kill(pid, sig)
			}
			last <- sig
		}()
	}
	return forward, func() syscall.Signal {
		signal.Stop(received)
		close(received)
		if last == nil {
			return 0
		}
		return <-last
	}
}

// Finish ends a call as the daemon said: it writes what the compiler would
// have written and returns the exit code. Where that cannot be written it
// becomes the compiler with the arguments args (Exec), to meet the same. Where a
// signal ended the compile, it ends this process, too.
func (r *Runner) Finish(args []string, done *ipcv1.Done) int {
	if r.killed != nil {
		return end(r.killed)
	}
	if writeAll(stdout, done.Stdout) != nil || writeAll(stderr, done.Stderr) != nil {
		return r.Exec(args)
	}
	if done.Note != "" {
		complain(done.Note)
	}
	return int(done.ExitCode)
}

// Show prints a command in one line that a shell reads back.
func (r *Runner) Show(argv []string) int {
	writeAll(stdout, []byte(quote(argv)+"\n"))
	return 0
}

// Exec becomes the compiler that Request found, with the user's arguments. It
// returns only if that is impossible, after saying why, with the exit code.
func (r *Runner) Exec(args []string) int {
	argv := r.argv(args)
	environ := r.environment()
	err := syscall.Exec(r.compiler, argv, environ)
	if err == unix.ENOEXEC {
		err = syscall.Exec("/bin/sh", script(argv), environ)
	}
	complain(r.compiler + ": " + err.Error())
	return statusOf(err)
}

// argv is the user's own command with the compiler's path as its name: by a
// bare name gcc would look for itself in PATH, find a link to hpcc, and take
// the directory of that for its own installation.
func (r *Runner) argv(args []string) []string {
	return append([]string{r.compiler}, args[1:]...)
}

// writeAll writes b to a descriptor that may be non-blocking or go away.
func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		switch {
		case err == unix.EAGAIN:
			poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1)
		case err != nil && err != unix.EINTR:
			return err
		default:
			b = b[max(n, 0):]
		}
	}
	return nil
}

// complain writes one line of hpcc's own to stderr.
func complain(text string) { writeAll(stderr, []byte(program+": "+text+"\n")) }
