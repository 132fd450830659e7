//go:build unix

package wrapper

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// Cancel is how a command that runs hears that nobody wants its result any more.
type Cancel struct {
	// FD becomes readable when there is something to look at; -1 never does.
	FD int
	// Look reads what there is, and reports whether the command is to end. It
	// is not called again once it said so.
	Look func() bool
}

// patience is how long a command that is asked to end may take to tidy up, before
// it is made to. A driver removes its temporary files within milliseconds; on a
// machine full of compilers it may have to wait for its turn. Tests change it.
var patience = 2 * time.Second

// Race runs a command of STAGE_RACE to its end, or until it is cancelled, and
// reports it; it does not fail otherwise. The command has a process group of its
// own, which is what ends with it: a driver that is killed leaves its compiler
// and its assembler running, and they would write over what comes in the place of
// their output. When Race returns after a Cancel or a signal, none of them runs.
//
// The terminal's signals do not reach another process group by themselves, so
// that they are passed on like all others. Whoever kills this process outright
// kills the driver with it (on Linux).
func (r *Runner) Race(run *ipcv1.Run, cancel Cancel) *ipcv1.Ran {
	if len(run.Args) == 0 {
		return cannotRun(errors.New("no command given"))
	}
	environ := r.environment().with(run.SetEnv, run.UnsetEnv)
	io, err := raceStdio(int(min(run.CaptureLimit, maxCapture)))
	if err != nil {
		return cannotRun(err)
	}
	defer io.close()
	adoptOrphans(true)
	defer adoptOrphans(false)
	forward, stop := holdSignals()
	pid, err := start(run.Args, environ, io.child[:], ownGroup())
	if err != nil {
		stop()
		return cannotRun(err)
	}
	forward(-pid)
	status, cancelled, err := io.passUntil(pid, cancel)
	if cancelled || err != nil {
		endGroup(pid)
	}
	signal := stop()
	ran := io.report()
	switch {
	case signal != 0:
		endGroup(pid) // where a command ignores it, as a shell's & does
		ran = &ipcv1.Ran{Signal: int32(signal), Cancelled: cancelled}
		r.killed = ran
	case cancelled:
		ran = &ipcv1.Ran{Cancelled: true}
	case err != nil:
		ran = cannotRun(err)
	case status.Signaled():
		// Of its own accord, or by somebody who is short of memory: this process
		// has no part in that.
		ran.ExitCode = 128 + int32(status.Signal())
	default:
		ran.ExitCode = int32(status.ExitStatus())
	}
	return ran
}

// raceStdio is compileStdio for a command whose output is shown later, if at all,
// and whose input nobody may miss.
func raceStdio(limit int) (*stdio, error) {
	io, err := compileStdio(limit)
	if err != nil {
		return nil, err
	}
	for _, s := range io.streams() {
		if s.from == closed {
			io.close()
			return nil, errors.New("no pseudo-terminal to keep apart what it prints")
		}
		s.to = closed
	}
	if _, err := unix.IoctlGetWinsize(stdin, unix.TIOCGWINSZ); err != nil {
		null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			io.close()
			return nil, err
		}
		io.give(stdin, null)
	}
	return io, nil
}

// passUntil is pass for a command that can be cancelled: its group is asked to
// end then, and is made to if that takes too long.
func (io *stdio) passUntil(pid int, cancel Cancel) (status unix.WaitStatus, cancelled bool, err error) {
	io.closeChildEnds()
	ended, result, err := await(pid)
	if err != nil {
		return 0, false, err
	}
	defer unix.Close(ended)
	buf := make([]byte, 64<<10)
	streams := io.streams()
	over := false
	var deadline time.Time // of the drain, or of the patience; zero is none
	for {
		fds := []unix.PollFd{{Fd: closed, Events: unix.POLLIN}, {Fd: closed, Events: unix.POLLIN}} // poll skips closed ones
		if !over {
			fds[0].Fd = int32(ended)
		}
		if !cancelled {
			fds[1].Fd = int32(cancel.FD)
		}
		for _, s := range streams {
			fds = append(fds, unix.PollFd{Fd: int32(s.from), Events: unix.POLLIN})
		}
		timeout := -1
		if !deadline.IsZero() {
			timeout = int(max(0, time.Until(deadline).Milliseconds()+1))
		}
		poll(fds, timeout)
		open := false
		for i, s := range streams {
			if fds[2+i].Revents != 0 {
				s.carry(buf)
			}
			open = open || s.from != closed
		}
		if fds[0].Revents != 0 {
			over, deadline = true, time.Now().Add(time.Duration(drainTime)*time.Millisecond)
		}
		if fds[1].Revents != 0 && cancel.Look() {
			cancelled = true
			if !over {
				unix.Kill(-pid, unix.SIGTERM)
				unix.Kill(-pid, unix.SIGCONT) // should it be stopped
				deadline = time.Now().Add(patience)
			}
		}
		// Not only where nothing happened: what is left may print for ever.
		expired := !deadline.IsZero() && time.Now().After(deadline)
		if over && expired && !cancelled {
			io.sweep(buf)
		}
		if over && (cancelled || expired || !open) {
			break
		}
		if expired {
			unix.Kill(-pid, unix.SIGKILL)
			deadline = time.Time{}
		}
	}
	w := <-result
	return w.status, cancelled, w.err
}

// endGroup kills what is left of the group of the command pid, which has ended
// itself, and returns when nothing of it runs. What a command's children leave
// behind becomes this process's own (adoptOrphans), to be waited for.
func endGroup(pid int) {
	if unix.Kill(-pid, unix.SIGKILL) == unix.ESRCH {
		return
	}
	for {
		if _, err := unix.Wait4(-pid, nil, 0, nil); err != nil && err != unix.EINTR {
			break
		}
	}
	// Where orphans are not adopted, init reaps them.
	for deadline := time.Now().Add(patience); unix.Kill(-pid, 0) == nil && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
}
