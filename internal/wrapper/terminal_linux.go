package wrapper

import (
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

func pipeCloexec(p *[2]int) error { return unix.Pipe2(p[:], unix.O_CLOEXEC) }

// openTerminal returns the two ends of a new pseudo-terminal that looks like
// the terminal fd, but does not touch what is written: newlines become line
// ends in the real terminal, to which the bytes go.
func openTerminal(fd int, size *unix.Winsize) (ours, command int, err error) {
	ours, err = unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return closed, closed, err
	}
	command, err = openPeer(ours)
	if err == nil {
		err = unix.IoctlSetWinsize(command, unix.TIOCSWINSZ, size)
	}
	var mode *unix.Termios
	if err == nil {
		mode, err = unix.IoctlGetTermios(fd, unix.TCGETS)
	}
	if err == nil {
		mode.Oflag &^= unix.OPOST
		mode.Lflag &^= unix.ECHO
		err = unix.IoctlSetTermios(command, unix.TCSETS, mode)
	}
	if err != nil {
		unix.Close(ours)
		if command >= 0 {
			unix.Close(command)
		}
		return closed, closed, err
	}
	return ours, command, nil
}

// openPeer opens the command's end of the pseudo-terminal.
func openPeer(ours int) (int, error) {
	if err := unix.IoctlSetPointerInt(ours, unix.TIOCSPTLCK, 0); err != nil {
		return closed, err
	}
	n, err := unix.IoctlGetUint32(ours, unix.TIOCGPTN)
	if err != nil {
		return closed, err
	}
	return unix.Open("/dev/pts/"+strconv.Itoa(int(n)), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
}

// dieBySignal ends the process as sig ends one that does not handle it. The Go
// runtime handles nearly all signals (by SIGQUIT it prints stacks), and os/signal
// only gives them back to it, so the kernel is asked directly.
func dieBySignal(sig unix.Signal) {
	// The core to look at, if any, is the compiler's.
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	// A zero struct sigaction, of whatever layout, is the default action.
	var action [16]uint64
	const sigsetSize = 8
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, sigsetSize, 0, 0)
	// To this thread, which does not get past it; a signal to the process may go
	// to another, and this one would exit first.
	runtime.LockOSThread()
	unix.Tgkill(unix.Getpid(), unix.Gettid(), sig)
}
