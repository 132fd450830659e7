//go:build unix

package wrapper

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/ipc"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// defaultTimeout is how long the daemon may be silent; it says Wait each
// second while it works. HPCC_DAEMON_TIMEOUT (a duration like 500ms) replaces
// it.
const defaultTimeout = 5 * time.Second

// process is the one call of a wrapper's process. It is a variable of the package
// for the sake of its memory: see ipc.Client.
var process call

// Main is the program hpcc. It returns the exit code, if it did not become
// another program on the way.
func Main() int {
	environ := environment(runtimeEnviron())
	mode, args := parse(os.Args)
	switch mode {
	case modeDelegate:
		return delegate(environ, args)
	case modeUsage:
		complain("no compiler given; for example: hpcc wrap gcc -c hello.c")
		return 2
	}
	c := &process
	c.args, c.show, c.environ = args, mode == modeShow, environ
	cwd, cwdErr := getwd()
	if cwdErr != nil {
		cwd = "/" // nothing relative will be found, and nothing cached
	}
	c.cwd, c.finder = cwd, newFinder(environ, cwd)
	active := environ.active()
	c.compiler, c.missing = c.finder.compiler(args[0], active)
	if cwdErr != nil || len(active) > 0 || environ.on("HPCC_DISABLE") || c.missing != nil && c.missing != errNotFound {
		return c.plain()
	}
	return c.cached()
}

// delegate becomes hpccd for a command that is not a compile.
func delegate(environ environment, args []string) int {
	cwd, _ := getwd()
	find := newFinder(environ, cwd)
	path, err := find.hpccd()
	if err == nil {
		err = syscall.Exec(path, append([]string{path}, args...), environ)
	}
	complain("cannot start hpccd: " + err.Error() + "; install it beside hpcc or put its directory in PATH")
	return statusOf(err)
}

// call is one compiler invocation of a build.
type call struct {
	Runner
	finder finder
	args   []string // argv as the build wrote it
	cwd    string
	show   bool   // only print what would run
	config string // the configuration directory, or empty
	// missing is why there is no compiler of that name here. A worker may still
	// have one; only the settings know, and this program does not read them.
	missing error

	// The conversation, here for the same reason as its parts are in Runner.
	daemon ipc.Client
	hello  ipcv1.Hello
	client ipcv1.ClientMessage
	server ipcv1.ServerMessage
}

// cached has the daemon lead the call, or goes on without it.
func (c *call) cached() int {
	var err error
	if c.config, err = ipc.ConfigDir(c.environ.get); err != nil {
		return c.oneShot()
	}
	endpoint, err := c.daemon.ReadEndpoint(c.config)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c.oneShot() // no daemon is wanted, so nothing is amiss
	case err != nil:
		c.note(noteEndpoint, "the daemon's address is not usable ("+err.Error()+"); compiling without it")
		return c.oneShot()
	case c.isHung(endpoint.Pid):
		return c.oneShot()
	}
	err = c.daemon.Dial(&endpoint, c.timeout())
	switch {
	case err == ipc.ErrTimeout:
		return c.hung(endpoint.Pid)
	case err == ipc.ErrForeignPeer:
		c.note(noteForeign, "what answers in the daemon's place belongs to another user; compiling without it, "+restartHint)
		return c.oneShot()
	case err != nil:
		c.note(noteStale, "the daemon is not running any more; compiling without it, "+restartHint)
		return c.oneShot()
	}
	return c.converse(&c.daemon.Conn, &endpoint)
}

const restartHint = "restart it with: hpcc start"

// converse does what the daemon says until that ends the call.
func (c *call) converse(conn *ipc.Conn, endpoint *ipc.Endpoint) int {
	// Its last compile, which is all there is to show if the daemon is lost.
	var compiled *ipcv1.Ran
	var incomplete bool

	c.hello = ipcv1.Hello{Protocol: ipc.Protocol, Version: ipc.Version, Token: endpoint.Token}
	c.client = ipcv1.ClientMessage{Hello: &c.hello, Compile: c.request(c.args, c.cwd)}
	c.client.Compile.ShowCommand = c.show
	err := conn.Send(&c.client)
	for err == nil {
		m := &c.server
		m.Reset()
		if err = conn.Receive(m); err != nil {
			break
		}
		switch {
		case m.Wait != nil:
		case m.Cancel != nil: // of what has ended by itself meanwhile
		case m.Run != nil && c.show:
			return c.Show(m.Run.Args)
		case m.Run != nil && m.Run.Stage == ipcv1.Run_STAGE_RACE:
			// What it leaves is nothing to go on with, so that a daemon that is
			// lost meanwhile has led nothing yet.
			ran, lost := c.race(conn, m.Run)
			if err = lost; err == nil {
				err = conn.Send(&ipcv1.ClientMessage{Ran: ran})
			}
			if ran.Signal != 0 {
				return end(ran)
			}
		case m.Run != nil:
			ran := c.Run(m.Run)
			if m.Run.Stage != ipcv1.Run_STAGE_QUIET {
				compiled, incomplete = ran, m.Run.Incomplete
			}
			err = conn.Send(&ipcv1.ClientMessage{Ran: ran})
			if ran.Signal != 0 {
				return end(ran)
			}
		case m.Done != nil:
			return c.Finish(c.args, m.Done)
		case m.Pass != nil:
			return c.plain()
		case m.OneShot != nil:
			return c.oneShot()
		case m.Refused != nil:
			c.refused(m.Refused)
			return c.oneShot()
		default:
			err = errNotUnderstood
		}
	}
	conn.Close()
	return c.lost(err, endpoint.Pid, compiled, incomplete)
}

// race runs a command until the daemon cancels it. With an error the daemon is
// lost; the command has ended.
func (c *call) race(conn *ipc.Conn, run *ipcv1.Run) (ran *ipcv1.Ran, lost error) {
	ran = c.Race(run, Cancel{FD: conn.FD(), Look: func() bool {
		var m ipcv1.ServerMessage
		if lost = conn.Receive(&m); lost != nil {
			return true
		}
		if m.Wait == nil && m.Cancel == nil {
			lost = errNotUnderstood
		}
		return m.Wait == nil
	}})
	return ran, lost
}

var errNotUnderstood = errors.New("the daemon's answer is not understood")

// lost goes on after the conversation broke off with err.
func (c *call) lost(err error, pid int, compiled *ipcv1.Ran, incomplete bool) int {
	if compiled == nil || compiled.Error != "" {
		if err == ipc.ErrTimeout {
			return c.hung(pid)
		}
		c.note(noteLost, "lost the daemon ("+err.Error()+"); compiling without it, "+restartHint)
		return c.oneShot()
	}
	if err == ipc.ErrTimeout {
		c.rememberHung(pid)
	}
	c.note(noteLost, "lost the daemon while it stored a result ("+err.Error()+"); "+restartHint)
	if incomplete || compiled.Unwritable {
		return c.plain()
	}
	return end(compiled)
}

// end ends the process as the command did that ran reports.
func end(ran *ipcv1.Ran) int {
	if ran.Signal != 0 {
		dieBySignal(unix.Signal(ran.Signal))
		return 128 + int(ran.Signal) // as a shell reports it, should we live on
	}
	return int(ran.ExitCode)
}

func (c *call) refused(r *ipcv1.Refused) {
	switch r.Why {
	case ipcv1.Refused_WHY_TOKEN:
		c.note(noteToken, "the daemon refused the token of its own daemon.json; compiling without it, "+restartHint)
	default:
		c.note(noteVersion, "the daemon is of another version than hpcc "+ipc.Version+" ("+r.Detail+"); compiling without it, "+restartHint)
	}
}

// hung goes on without a daemon that does not answer, for the next calls too:
// each of a build's hundreds would wait the full time.
func (c *call) hung(pid int) int {
	c.rememberHung(pid)
	c.note(noteHung, "the daemon (process "+strconv.Itoa(pid)+") does not answer; compiling without it for a minute, "+restartHint)
	return c.oneShot()
}

func (c *call) timeout() time.Duration {
	// Nothing is not parsed: it would make an error with a text of its own.
	if text := c.environ.get("HPCC_DAEMON_TIMEOUT"); text != "" {
		if d, err := time.ParseDuration(text); err == nil && d > 0 {
			return d
		}
	}
	return defaultTimeout
}

// oneShot becomes hpccd, which does in this process's place what the daemon
// would have done; failing that, the compiler.
func (c *call) oneShot() int {
	path, err := c.finder.hpccd()
	if err == nil {
		argv := []string{path, "compile"}
		if c.show {
			argv = append(argv, "--show-command")
		}
		args := c.args // with the name alone, a worker may have the compiler
		if c.missing == nil {
			args = c.argv(args)
		}
		argv = append(argv, "--")
		err = syscall.Exec(path, append(argv, args...), c.environment())
	}
	if c.missing == nil {
		c.note(noteNoHpccd, "cannot start hpccd ("+err.Error()+"); compiling without a cache; install it beside hpcc or put its directory in PATH")
	}
	return c.plain()
}

// plain becomes the compiler, with the user's own command.
func (c *call) plain() int {
	if c.missing != nil {
		complain(c.args[0] + ": " + c.missing.Error())
		return statusOf(c.missing)
	}
	if c.show {
		return c.Show(c.argv(c.args))
	}
	return c.Exec(c.args)
}
