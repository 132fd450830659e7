//go:build linux

// Package jail is what is said between the worker, which is nobody in
// particular, and hpcc-jail, its helper, which is root: the messages, and the
// worker's side of the talk.
//
// One connection is one jail. The worker connects (Unix socket, SOCK_SEQPACKET,
// so that a message has a length and descriptors travel with it), asks for a
// start, and holds the connection for as long as the jail shall live: when it
// closes, by intent or because the worker was killed, the helper ends the jail.
// Nothing can be left by a worker that dies.
//
//	worker: Start + kernel, initrd, drive, console      helper: Started + pidfd
//	worker: ConnectAPI or ConnectVsock, any number      helper: Connected + socket
//	worker: End, or nothing                             helper: Ended, once
//
// or, on a connection of its own, Sweep, answered by Swept. A request that fails
// is answered by Failed; a failed Start leaves nothing and ends the connection.
//
// There are no paths in it. The worker gives files as open descriptors, so that
// the helper opens nothing for it that it could not open itself; what it names
// is an id, and numbers within the limits of the helper's own configuration.
// The helper chooses the user of a jail, connects to sockets in it under fixed
// names, and hands over connections: the worker needs no access to the tree.
package jail

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Kind says what a message is.
type Kind byte

// The messages.
const (
	Start Kind = iota + 1
	ConnectAPI
	ConnectVsock
	End
	Sweep

	Started
	Connected
	Ended
	Swept
	Failed

	last = Failed
)

// Descriptors that come with Start, in this order, and what the jail's root has
// them as.
const (
	Kernel  = iota // "/vmlinux"
	Initrd         // "/initrd"
	Drive          // "/drive"
	Console        // the write end of a pipe: stdout and stderr of the monitor
	Descriptors
)

// Names are the files of a jail's root, by descriptor.
var Names = [...]string{Kernel: "vmlinux", Initrd: "initrd", Drive: "drive"}

// VsockName is the socket of the vsock device in a jail's root; the worker must
// configure it so.
const VsockName = "v.sock"

// MaxText bounds the text of an error.
const MaxText = 512

// maxMessage is the length of the longest message: Ended with a text.
const maxMessage = 2 + 4 + 8 + 8 + 2 + MaxText

// MaxID bounds an id; the path of a jail's sockets stays short by it.
const MaxID = 32

// Message is one message. What a kind does not list is zero.
type Message struct {
	Kind Kind

	// Start.
	ID     string
	Memory uint64 // bytes, of the control group
	PIDs   uint32

	// Started.
	UID    uint32
	PID    uint32
	Digest [32]byte // SHA-256 of the monitor's program

	// Ended: a wait status as wait(2) gives it, how often the control group ran
	// out of memory, and its peak in bytes (0 if the kernel does not tell).
	Status   uint32
	OOMKills uint64
	Peak     uint64

	// Ended, Swept: what could not be removed. Failed: why.
	Text string
	// Failed: what a program can tell apart.
	Code Code
}

// Code tells failures apart.
type Code byte

// The codes.
const (
	Other  Code = iota
	Exists      // the id is in use
	NotYet      // nobody listens there yet
	Full        // no user is free
)

const version = 1

// Encode returns the message's bytes.
func (m *Message) Encode() ([]byte, error) {
	b := []byte{version, byte(m.Kind)}
	switch m.Kind {
	case Start:
		b = binary.LittleEndian.AppendUint64(b, m.Memory)
		b = binary.LittleEndian.AppendUint32(b, m.PIDs)
		b = append(b, m.ID...)
	case Started:
		b = binary.LittleEndian.AppendUint32(b, m.UID)
		b = binary.LittleEndian.AppendUint32(b, m.PID)
		b = append(b, m.Digest[:]...)
	case Ended:
		b = binary.LittleEndian.AppendUint32(b, m.Status)
		b = binary.LittleEndian.AppendUint64(b, m.OOMKills)
		b = binary.LittleEndian.AppendUint64(b, m.Peak)
		b = append(b, m.Text...)
	case Swept:
		b = append(b, m.Text...)
	case Failed:
		b = append(b, byte(m.Code))
		b = append(b, m.Text...)
	case ConnectAPI, ConnectVsock, End, Sweep, Connected:
	default:
		return nil, fmt.Errorf("message of kind %d", m.Kind)
	}
	if _, err := Decode(b); err != nil {
		return nil, err
	}
	return b, nil
}

// Decode is Encode's inverse: it accepts nothing but what Encode makes.
func Decode(b []byte) (*Message, error) {
	if len(b) < 2 || b[0] != version {
		return nil, errors.New("not a message of this version")
	}
	m := &Message{Kind: Kind(b[1])}
	if m.Kind == 0 || m.Kind > last {
		return nil, fmt.Errorf("message of kind %d", m.Kind)
	}
	rest, short := b[2:], false
	take := func(n int) []byte {
		if short = short || len(rest) < n; short {
			return make([]byte, n)
		}
		field := rest[:n]
		rest = rest[n:]
		return field
	}
	text := func(most int) string {
		if short = short || len(rest) > most; short {
			return ""
		}
		return string(take(len(rest)))
	}
	switch m.Kind {
	case Start:
		m.Memory = binary.LittleEndian.Uint64(take(8))
		m.PIDs = binary.LittleEndian.Uint32(take(4))
		m.ID = text(MaxID)
		if err := CheckID(m.ID); err != nil {
			return nil, err
		}
	case Started:
		m.UID = binary.LittleEndian.Uint32(take(4))
		m.PID = binary.LittleEndian.Uint32(take(4))
		copy(m.Digest[:], take(32))
	case Ended:
		m.Status = binary.LittleEndian.Uint32(take(4))
		m.OOMKills = binary.LittleEndian.Uint64(take(8))
		m.Peak = binary.LittleEndian.Uint64(take(8))
		m.Text = text(MaxText)
	case Swept:
		m.Text = text(MaxText)
	case Failed:
		if m.Code = Code(take(1)[0]); m.Code > Full {
			return nil, fmt.Errorf("failure of code %d", m.Code)
		}
		m.Text = text(MaxText)
	}
	if short || len(rest) > 0 {
		return nil, fmt.Errorf("message of kind %d has %d bytes", m.Kind, len(b))
	}
	return m, nil
}

// CheckID tells whether an id can name a jail: 1 to MaxID of [a-z0-9-], and
// neither first nor last a hyphen. It can be no path, and no option of a
// program.
func CheckID(id string) error {
	ok := len(id) >= 1 && len(id) <= MaxID && id[0] != '-' && id[len(id)-1] != '-'
	for _, c := range []byte(id) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return fmt.Errorf("jail id %q: want 1 to %d of a-z, 0-9 and inner hyphens", id[:min(len(id), 2*MaxID)], MaxID)
	}
	return nil
}

// Send writes one message and descriptors.
func Send(c *net.UnixConn, m *Message, fds ...int) error {
	m.Text = m.Text[:min(len(m.Text), MaxText)]
	b, err := m.Encode()
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, rights, nil)
	return err
}

// Receive reads one message and the descriptors with it, which are the caller's
// to close: as many as most at most. The end of the connection is io.EOF.
func Receive(c *net.UnixConn, most int) (*Message, []int, error) {
	b := make([]byte, maxMessage+1)
	// Control messages of other kinds count against the room, too. A cut list is
	// closed by the kernel as far as it was cut.
	control := make([]byte, unix.CmsgSpace(4*Descriptors))
	n, controls, flags, _, err := c.ReadMsgUnix(b, control)
	if err != nil {
		return nil, nil, err
	}
	fds, err := descriptors(control[:controls])
	switch {
	case err != nil:
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("a message or its list of descriptors is too long")
	case len(fds) > most:
		err = fmt.Errorf("%d descriptors, want %d", len(fds), most)
	}
	var m *Message
	if err == nil {
		m, err = Decode(b[:n])
	}
	if err != nil {
		Close(fds)
		return nil, nil, err
	}
	return m, fds, nil
}

// descriptors are those of a control message. They are closed after an error.
func descriptors(control []byte) (fds []int, err error) {
	if len(control) == 0 {
		return nil, nil
	}
	all, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Header.Level != unix.SOL_SOCKET || all[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		some, err := unix.ParseUnixRights(&all[i])
		fds = append(fds, some...)
		if err != nil {
			Close(fds)
			return nil, err
		}
	}
	return fds, nil
}

// Close closes descriptors.
func Close(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
