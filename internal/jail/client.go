//go:build linux

package jail

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Error is the helper's answer to a request that failed.
type Error struct {
	Code Code
	Text string
}

func (e *Error) Error() string { return "hpcc-jail: " + e.Text }

// IsCode tells whether err is the helper's answer of that code.
func IsCode(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// ErrHelperLost says that the helper itself ended. It sweeps what it left when
// it starts again.
var ErrHelperLost = errors.New("hpcc-jail is gone; start it again, it removes what was left")

// answerLimit bounds a request in a running jail, where the helper only makes a
// connection.
const answerLimit = 10 * time.Second

// Jail is one that was started. Its methods may be called by many goroutines.
type Jail struct {
	// UID is the user that the monitor runs as, PID its process.
	UID, PID int
	// Digest is the SHA-256 of the monitor's program.
	Digest [32]byte
	// Process is a pidfd of the monitor: readable once that has ended.
	Process *os.File

	conn    *net.UnixConn
	request sync.Mutex // one under way at a time
	answers chan answer
	done    chan struct{}
	ending  Ending
}

// Ending is how a jail ended.
type Ending struct {
	// Status is the monitor's.
	Status unix.WaitStatus
	// OOMKills counts what the control group's memory limit killed, Peak is its
	// highest use in bytes, or 0.
	OOMKills, Peak uint64
	// Err is nil if nothing of the jail is left.
	Err error
}

type answer struct {
	message *Message
	conn    *os.File
}

// Files are what a jail is started with. They stay the caller's.
type Files struct {
	// Opened for reading. Files that belong to the caller and that others may
	// read are linked into the jail, all others reflinked or copied.
	Kernel, Initrd, Drive *os.File
	// Console is the write end of a pipe.
	Console *os.File
}

func connect(ctx context.Context, socket string) (*net.UnixConn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", socket)
	if err != nil {
		return nil, fmt.Errorf("hpcc-jail: %w; is it running?", err)
	}
	return c.(*net.UnixConn), nil
}

// ask sends a first request and returns the answer to it. The connection is
// closed after an error.
func ask(ctx context.Context, c *net.UnixConn, want Kind, most int, m *Message, fds ...int) (*Message, []int, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err := Send(c, m, fds...)
	var got *Message
	var rights []int
	if err == nil {
		got, rights, err = Receive(c, most)
	}
	switch {
	case !stop():
		err = ctx.Err()
	case err != nil:
		err = fmt.Errorf("hpcc-jail: %w", err)
	case got.Kind == Failed:
		err = &Error{got.Code, got.Text}
	case got.Kind != want || len(rights) != most:
		err = fmt.Errorf("hpcc-jail answers with %d and %d descriptors", got.Kind, len(rights))
	}
	if err != nil {
		Close(rights)
		_ = c.Close()
		return nil, nil, err
	}
	return got, rights, nil
}

// New starts a jail at the helper that listens on socket: the monitor runs in
// it, and waits to be configured. memory is in bytes. ctx bounds the start
// alone.
func New(ctx context.Context, socket, id string, memory int64, pids int, files Files) (*Jail, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	if memory <= 0 || pids <= 0 {
		return nil, fmt.Errorf("jail %s: limits of %d bytes and %d processes", id, memory, pids)
	}
	c, err := connect(ctx, socket)
	if err != nil {
		return nil, err
	}
	// Fd would make the files' descriptors blocking.
	var fds [Descriptors]int
	for i, f := range []*os.File{Kernel: files.Kernel, Initrd: files.Initrd, Drive: files.Drive, Console: files.Console} {
		raw, err := f.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { fds[i] = int(fd) })
		}
		if err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	m, rights, err := ask(ctx, c, Started, 1, &Message{Kind: Start, ID: id, Memory: uint64(memory), PIDs: uint32(pids)}, fds[:]...)
	if err != nil {
		return nil, err
	}
	j := &Jail{
		UID: int(m.UID), PID: int(m.PID), Digest: m.Digest, Process: os.NewFile(uintptr(rights[0]), "pidfd"),
		conn: c, answers: make(chan answer, 1), done: make(chan struct{}),
	}
	go j.receive()
	return j, nil
}

// receive takes all that the helper says until the jail has ended.
func (j *Jail) receive() {
	defer close(j.done)
	defer func() { _ = j.conn.Close() }()
	defer j.Process.Close()
	for {
		m, fds, err := Receive(j.conn, 1)
		if err != nil {
			j.ending.Err = fmt.Errorf("%w (%w)", ErrHelperLost, err)
			return
		}
		a := answer{message: m}
		if len(fds) == 1 {
			a.conn = os.NewFile(uintptr(fds[0]), "socket")
		}
		if m.Kind == Ended {
			j.ending = Ending{Status: unix.WaitStatus(m.Status), OOMKills: m.OOMKills, Peak: m.Peak}
			if m.Text != "" {
				j.ending.Err = &Error{Text: m.Text}
			}
			if a.conn != nil {
				a.conn.Close()
			}
			return
		}
		select {
		case j.answers <- a:
		default: // nobody has asked
			if a.conn != nil {
				a.conn.Close()
			}
		}
	}
}

// Connect makes a connection to the monitor's API (ConnectAPI) or its vsock
// device (ConnectVsock), whose peer is the monitor itself. Where nobody listens
// yet it is an error of code NotYet.
func (j *Jail) Connect(ctx context.Context, to Kind) (net.Conn, error) {
	j.request.Lock()
	defer j.request.Unlock()
	if err := j.conn.SetWriteDeadline(time.Now().Add(answerLimit)); err != nil {
		return nil, j.lost(err)
	}
	if err := Send(j.conn, &Message{Kind: to}); err != nil {
		return nil, j.lost(err)
	}
	// Not given up with ctx: the next answer would be to this request.
	select {
	case <-j.done:
		return nil, j.lost(net.ErrClosed)
	case <-time.After(answerLimit):
		_ = j.conn.Close()
		return nil, fmt.Errorf("hpcc-jail did not answer for %v", answerLimit)
	case a := <-j.answers:
		if a.message.Kind == Failed {
			return nil, &Error{a.message.Code, a.message.Text}
		}
		if a.conn == nil {
			return nil, fmt.Errorf("hpcc-jail answers with %d", a.message.Kind)
		}
		defer a.conn.Close()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return net.FileConn(a.conn)
	}
}

// lost says that the jail has ended, and how if that is known.
func (j *Jail) lost(err error) error {
	select {
	case <-j.done:
		return fmt.Errorf("the jail has ended: %w", err)
	default:
		return err
	}
}

// End asks for the jail's end, at once; Done tells when it has come about.
func (j *Jail) End() {
	// If the helper does not take it, the closed connection says the same.
	if err := j.conn.SetWriteDeadline(time.Now().Add(time.Second)); err == nil {
		err = Send(j.conn, &Message{Kind: End})
		if err == nil {
			return
		}
	}
	_ = j.conn.Close()
}

// Done is closed once the jail has ended, and Ending is known.
func (j *Jail) Done() <-chan struct{} { return j.done }

// Ending may be called once Done is closed.
func (j *Jail) Ending() Ending { return j.ending }

// SweepAll makes the helper end all jails, whoever started them, and remove
// what earlier ones left. Its error tells what it could not remove.
func SweepAll(ctx context.Context, socket string) error {
	c, err := connect(ctx, socket)
	if err != nil {
		return err
	}
	m, _, err := ask(ctx, c, Swept, 0, &Message{Kind: Sweep})
	if err != nil {
		return err
	}
	_ = c.Close()
	if m.Text != "" {
		return &Error{Text: m.Text}
	}
	return nil
}
