package ipc

import (
	"encoding/binary"
	"errors"
	"io"
	"strconv"
)

// Limits of one frame's message, in bytes. They bound what a peer can make us
// allocate, and are far above what honest peers send.
const (
	// MaxFirstFrame bounds what comes before the peer's token was checked:
	// Linux refuses an argv and environment beyond 6 MiB.
	MaxFirstFrame = 8 << 20
	// MaxClientFrame bounds a wrapper's report (Ran) with both its streams.
	MaxClientFrame = 32 << 20
	// MaxServerFrame bounds an answer of the daemon.
	MaxServerFrame = 64 << 20
)

// frameHeader is the length before each message, big endian.
const frameHeader = 4

// firstRead is how much of a frame is allocated on the word of its header
// alone. Beyond it the buffer only doubles once it has been filled, so a peer
// that announces much and sends little costs little. All of a usual hit fits.
const firstRead = 64 << 10

// ErrTimeout says that the peer was silent, or took nothing in, for longer
// than the time that Dial was given.
var ErrTimeout = errors.New("peer does not answer")

// FrameTooLargeError says that a message is over the limit of its direction.
// What follows on the connection cannot be read.
type FrameTooLargeError struct {
	Size, Limit int64 // bytes
}

func (e *FrameTooLargeError) Error() string {
	return "frame of " + strconv.FormatInt(e.Size, 10) + " bytes, limit " + strconv.FormatInt(e.Limit, 10)
}

// Message is what a frame carries: any generated type of proto/hpcc/ipc/v1.
type Message interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

// Conn carries messages over a byte stream. One goroutine may send while
// another receives; several senders need a lock of their own.
type Conn struct {
	// Not one io.ReadWriteCloser: turning that into the interfaces below would
	// look up method tables at each call, in tables that a wrapper touches for
	// nothing else.
	reader io.Reader
	writer io.Writer
	closer io.Closer
	fd     int // of the stream, or -1

	maxSend  int
	maxFirst int // limit of the first frame received
	maxNext  int // limit of all later ones

	in, out []byte // buffers of the last frame each way
}

// NewServerConn is the daemon's end of a stream. Until the first message is
// there it accepts no more than MaxFirstFrame: the peer has not yet said who
// it is.
func NewServerConn(stream io.ReadWriteCloser) *Conn {
	return &Conn{
		reader: stream, writer: stream, closer: stream, fd: -1,
		maxSend: MaxServerFrame, maxFirst: MaxFirstFrame, maxNext: MaxClientFrame,
	}
}

// NewClientConn is the wrapper's end of a stream, for other streams than those
// of Dial.
func NewClientConn(stream io.ReadWriteCloser) *Conn {
	return &Conn{
		reader: stream, writer: stream, closer: stream, fd: -1,
		maxSend: MaxClientFrame, maxFirst: MaxServerFrame, maxNext: MaxServerFrame,
	}
}

// Close closes the stream.
func (c *Conn) Close() error { return c.closer.Close() }

// FD is the stream's descriptor where Dial opened it, for who waits for the next
// message and for something else at once; -1 of other streams. Nothing is read
// ahead: it is readable as long as a message, or the end, is to be received.
func (c *Conn) FD() int { return c.fd }

// Send writes m as one frame, in one write where the stream takes it whole. A
// message over the limit is not sent at all: *FrameTooLargeError.
func (c *Conn) Send(m Message) error {
	size := m.SizeVT()
	if size > c.maxSend {
		return &FrameTooLargeError{Size: int64(size), Limit: int64(c.maxSend)}
	}
	frame := c.out
	if cap(frame) < frameHeader+size {
		frame = make([]byte, frameHeader+size)
	}
	frame = frame[:frameHeader+size]
	c.out = keep(frame)
	binary.BigEndian.PutUint32(frame, uint32(size))
	if _, err := m.MarshalToSizedBufferVT(frame[frameHeader:]); err != nil {
		return err
	}
	_, err := c.writer.Write(frame)
	return err
}

// Receive reads the next frame into m, which must be empty. At a clean end of
// the stream, before a frame, the error is io.EOF; within one it is
// io.ErrUnexpectedEOF. After any other error the stream is out of step and is
// to be closed.
func (c *Conn) Receive(m Message) error {
	frame, err := readFrame(c.reader, c.in, c.maxFirst)
	if err != nil {
		return err
	}
	// Messages copy what they hold, so the next frame may overwrite this one.
	c.in = keep(frame)
	c.maxFirst = c.maxNext
	return m.UnmarshalVT(frame)
}

// keep returns buf for the next frame, unless one large message made it so big
// that it should not live as long as the connection.
func keep(buf []byte) []byte {
	if cap(buf) > firstRead {
		return nil
	}
	return buf[:0]
}

// readFrame reads one frame's message of at most limit bytes, into buf as far
// as that suffices.
func readFrame(r io.Reader, buf []byte, limit int) ([]byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	// Compared as int64: an int of 32 bits could not hold the sender's claim.
	if size := int64(binary.BigEndian.Uint32(header[:])); size > int64(limit) {
		return nil, &FrameTooLargeError{Size: size, Limit: int64(limit)}
	}
	size := int(binary.BigEndian.Uint32(header[:]))
	if cap(buf) < min(size, firstRead) {
		buf = make([]byte, 0, min(size, firstRead))
	}
	buf = buf[:0]
	for len(buf) < size {
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), min(size, 2*cap(buf)))
			copy(grown, buf)
			buf = grown
		}
		part := buf[len(buf):min(size, cap(buf))]
		n, err := io.ReadFull(r, part)
		buf = buf[:len(buf)+n]
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return buf, nil
}
