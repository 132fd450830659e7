// Package wire is what the lab and the first process of its environment say to
// each other: frames of one type byte, a length and a payload, in one
// direction, from the environment to the lab.
package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// Types of frames.
const (
	Heartbeat = 'h' // empty, every HeartbeatSeconds
	Log       = 'l' // a line about the environment itself
	Stdout    = 'o' // bytes that the program wrote
	Stderr    = 'e'
	Tar       = 't' // a part of the tar archive of what the program left in Out
	Exit      = 'x' // an Ending as JSON; the last frame
)

// HeartbeatSeconds is how often the environment gives a sign of life.
const HeartbeatSeconds = 2

// MaxPayload bounds a frame.
const MaxPayload = 64 << 10

// Places in the environment.
const (
	Data    = "/data"      // a file system with reflinks, where Job.Files are
	Out     = "/data/out"  // what is left here is given back
	Private = "/data/.lab" // the lab's own files
	Program = Private + "/program"
	Spec    = Private + "/job.json"
	Busybox = Private + "/busybox"
)

// Job is the content of the file Spec.
type Job struct {
	Args []string `json:"args"` // the first is the name that it is called by
	Env  []string `json:"env"`
}

// Ending says how it went.
type Ending struct {
	// Status is the program's exit status, 128 + N if signal N ended it.
	Status int `json:"status"`
	// Error says why the program could not be run to its end; Status means
	// nothing then.
	Error string `json:"error,omitempty"`
}

// Writer writes frames; several goroutines may use it.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Frame writes one frame, or several if the payload is long.
func (w *Writer) Frame(kind byte, payload []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		n := min(len(payload), MaxPayload)
		frame := append([]byte{kind, 0, 0, 0, 0}, payload[:n]...)
		binary.BigEndian.PutUint32(frame[1:], uint32(n))
		if _, err := w.w.Write(frame); err != nil {
			return err
		}
		if payload = payload[n:]; len(payload) == 0 {
			return nil
		}
	}
}

// To returns an io.Writer whose bytes become frames of one kind.
func (w *Writer) To(kind byte) io.Writer { return stream{w, kind} }

type stream struct {
	w    *Writer
	kind byte
}

func (s stream) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.w.Frame(s.kind, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Read reads one frame.
func Read(r io.Reader) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxPayload {
		return 0, nil, fmt.Errorf("a frame of %d bytes", n)
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, fmt.Errorf("within a frame: %w", err)
	}
	return head[0], payload, nil
}
