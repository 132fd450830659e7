//go:build unix

package wrapper

import (
	"slices"

	"golang.org/x/sys/unix"

	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// drainTime is how long, in milliseconds, we go on reading when the command
// has ended but a process that it left behind still holds its stdio. What the
// command itself wrote is there at once, from a terminal a moment later. Tests
// change it.
var drainTime = 50

// The standard descriptors; those of package unix are variables.
const (
	stdin  = 0
	stdout = 1
	stderr = 2
)

// closed stands for a descriptor that is not, or no longer, open.
const closed = -1

// stream is one of a command's output streams on its way through us.
type stream struct {
	from  int // the end that we read
	to    int // the descriptor to pass it on to, or closed
	limit int // how much to keep, in bytes
	kept  []byte
	lost  bool // more was written than was kept
	// failed is set once writing to the build's own stream did.
	failed bool
}

// stdio is what a command has as stdin, stdout and stderr.
type stdio struct {
	child  [3]uintptr
	opened []int // of child: to be closed once the command has them
	// One of these per stream that is captured; out and err are the same one if
	// the two are merged.
	out, err *stream
}

// compileStdio gives the build's own stdin, and stdout and stderr that are
// captured on their way to the build's own. A terminal is replaced by a
// pseudo-terminal of its size, so that the compiler colours and folds its
// messages as it would without us.
func compileStdio(limit int) (*stdio, error) {
	io := &stdio{child: [3]uintptr{stdin, stdout, stderr}}
	var err error
	if io.err, err = io.capture(stderr, limit); err != nil {
		io.close()
		return nil, err
	}
	if sameFile(stdout, stderr) {
		io.out, io.child[stdout] = io.err, io.child[stderr]
		return io, nil
	}
	if io.out, err = io.capture(stdout, limit); err != nil {
		io.close()
		return nil, err
	}
	return io, nil
}

// quietStdio gives an empty stdin, and stdout and stderr that are only
// captured, by pipes.
func quietStdio(limit int) (*stdio, error) {
	io := new(stdio)
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	io.give(stdin, null)
	for fd, s := range map[int]**stream{stdout: &io.out, stderr: &io.err} {
		from, child, err := pipe()
		if err != nil {
			io.close()
			return nil, err
		}
		io.give(fd, child)
		*s = &stream{from: from, to: closed, limit: limit}
	}
	return io, nil
}

// give makes opened the command's descriptor fd.
func (io *stdio) give(fd, opened int) {
	io.child[fd] = uintptr(opened)
	io.opened = append(io.opened, opened)
}

// capture puts a pipe or a pseudo-terminal before the build's stream fd.
func (io *stdio) capture(fd, limit int) (*stream, error) {
	if size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
		from, child, err := openTerminal(fd, size)
		if err != nil {
			// The command gets the terminal itself. Being seen as it would be
			// without us matters more than being cached.
			return &stream{from: closed, to: closed, lost: true}, nil //nolint:nilerr // see above
		}
		io.give(fd, child)
		return &stream{from: from, to: fd, limit: limit}, nil
	}
	from, child, err := pipe()
	if err != nil {
		return nil, err
	}
	io.give(fd, child)
	return &stream{from: from, to: fd, limit: limit}, nil
}

// sameFile reports whether two streams were opened as one. Two openings of one
// regular file look the same and would have been a mistake of the caller; of
// /dev/null they are usual, and there no order is to be kept.
func sameFile(a, b int) bool {
	var sa, sb unix.Stat_t
	if unix.Fstat(a, &sa) != nil || unix.Fstat(b, &sb) != nil || sa.Dev != sb.Dev || sa.Ino != sb.Ino {
		return false
	}
	if sa.Mode&unix.S_IFMT != unix.S_IFCHR {
		return true
	}
	_, err := unix.IoctlGetWinsize(a, unix.TIOCGWINSZ)
	return err == nil
}

// pass carries the streams until the command pid has ended, and returns how it
// did.
func (io *stdio) pass(pid int) (unix.WaitStatus, error) {
	io.closeChildEnds()
	ended, result, err := await(pid)
	if err != nil {
		return 0, err
	}
	defer unix.Close(ended)
	io.pump(ended)
	w := <-result
	return w.status, w.err
}

// waited is how a command ended.
type waited struct {
	status unix.WaitStatus
	err    error
}

// await waits for the command pid in another goroutine. Its end must wake poll(2)
// even if its streams stay open: ended, which the caller closes, is at its end
// then. After an error the command has been killed.
func await(pid int) (ended int, result <-chan waited, err error) {
	ended, signalEnd, err := pipe()
	if err != nil {
		unix.Kill(pid, unix.SIGKILL)
		unix.Wait4(pid, nil, 0, nil)
		return closed, nil, err
	}
	ends := make(chan waited, 1)
	go func() {
		var w waited
		for {
			if _, w.err = unix.Wait4(pid, &w.status, 0, nil); w.err != unix.EINTR {
				break
			}
		}
		ends <- w
		unix.Close(signalEnd)
	}()
	return ended, ends, nil
}

// pump reads and passes on until ended is at its end and nothing more comes.
func (io *stdio) pump(ended int) {
	buf := make([]byte, 64<<10)
	streams := io.streams()
	for timeout := -1; ; {
		fds := make([]unix.PollFd, 0, 3)
		for _, s := range streams {
			fds = append(fds, unix.PollFd{Fd: int32(s.from), Events: unix.POLLIN}) // poll skips closed ones
		}
		if timeout < 0 {
			fds = append(fds, unix.PollFd{Fd: int32(ended), Events: unix.POLLIN})
		}
		if poll(fds, timeout) == 0 {
			return
		}
		open := false
		for i, s := range streams {
			if fds[i].Revents != 0 {
				s.carry(buf)
			}
			open = open || s.from != closed
		}
		if len(fds) > len(streams) && fds[len(streams)].Revents != 0 {
			timeout = drainTime
		}
		if timeout >= 0 && !open {
			return
		}
	}
}

// sweepReads bounds how often sweep reads: a terminal gives 4 KB at a time, and
// holds some 20.
const sweepReads = 64

// sweep carries what is there already, where there is no more time to wait: this
// process may have been kept from the processor for all of that time.
func (io *stdio) sweep(buf []byte) {
	for range sweepReads {
		fds := make([]unix.PollFd, 0, 2)
		streams := io.streams()
		for _, s := range streams {
			fds = append(fds, unix.PollFd{Fd: int32(s.from), Events: unix.POLLIN})
		}
		if poll(fds, 0) == 0 {
			return
		}
		for i, s := range streams {
			if fds[i].Revents != 0 {
				s.carry(buf)
			}
		}
	}
}

// carry passes on and keeps what one read brings.
func (s *stream) carry(buf []byte) {
	n, err := unix.Read(s.from, buf)
	if err == unix.EINTR || err == unix.EAGAIN {
		return
	}
	if n <= 0 { // also EIO, which is how a pseudo-terminal ends
		s.close()
		return
	}
	keep := min(n, s.limit-len(s.kept))
	s.kept = append(s.kept, buf[:keep]...)
	s.lost = s.lost || keep < n
	if s.to != closed && writeAll(s.to, buf[:n]) != nil {
		s.to, s.failed = closed, true
	}
}

func (s *stream) close() {
	if s.from != closed {
		unix.Close(s.from)
		s.from = closed
	}
}

// report is the Ran of what was captured.
func (io *stdio) report() *ipcv1.Ran {
	ran := &ipcv1.Ran{Stderr: io.err.kept, Truncated: io.err.lost, Unwritable: io.err.failed}
	switch io.out {
	case nil:
	case io.err:
		ran.Merged = true
	default:
		ran.Stdout = io.out.kept
		ran.Truncated = ran.Truncated || io.out.lost
		ran.Unwritable = ran.Unwritable || io.out.failed
	}
	return ran
}

func (io *stdio) streams() []*stream {
	return slices.DeleteFunc(slices.Compact([]*stream{io.out, io.err}), func(s *stream) bool { return s == nil })
}

func (io *stdio) closeChildEnds() {
	for _, fd := range io.opened {
		unix.Close(fd)
	}
	io.opened = nil
}

func (io *stdio) close() {
	io.closeChildEnds()
	for _, s := range io.streams() {
		s.close()
	}
}

// pipe returns a pipe whose ends a command does not inherit by accident.
func pipe() (read, write int, err error) {
	var p [2]int
	if err := pipeCloexec(&p); err != nil {
		return closed, closed, err
	}
	return p[0], p[1], nil
}

// poll is poll(2) until something happened or the time, in milliseconds, is
// over (then 0; -1 is no limit).
func poll(fds []unix.PollFd, timeout int) int {
	for {
		n, err := unix.Poll(fds, timeout)
		if err != unix.EINTR {
			return max(n, 0)
		}
	}
}
