package ipc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"

	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// stream is a buffer as a connection.
type stream struct{ io.ReadWriter }

func (stream) Close() error { return nil }

func TestConnRoundTrip(t *testing.T) {
	var wire bytes.Buffer
	client, server := NewClientConn(stream{&wire}), NewServerConn(stream{&wire})
	// Larger than the first buffers, then smaller again.
	for _, size := range []int{0, 1, 100, 3 * firstRead, 5} {
		sent := &ipcv1.ClientMessage{
			Hello:   &ipcv1.Hello{Protocol: Protocol, Version: "1", Token: bytes.Repeat([]byte{7}, TokenSize)},
			Compile: &ipcv1.Compile{Args: []string{"gcc", "", "-c"}, Umask: 0o22},
			Ran:     &ipcv1.Ran{Stdout: bytes.Repeat([]byte("x"), size), ExitCode: -1},
		}
		if err := client.Send(sent); err != nil {
			t.Fatal(err)
		}
		var got ipcv1.ClientMessage
		if err := server.Receive(&got); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Compile.Args, sent.Compile.Args) || got.Compile.Umask != 0o22 ||
			!bytes.Equal(got.Ran.Stdout, sent.Ran.Stdout) || got.Ran.ExitCode != -1 || !bytes.Equal(got.Hello.Token, sent.Hello.Token) {
			t.Errorf("size %d: received another message than was sent", size)
		}
	}
	if err := server.Receive(new(ipcv1.ClientMessage)); err != io.EOF {
		t.Errorf("at the end: %v, want io.EOF", err)
	}
}

func TestFrameLimits(t *testing.T) {
	header := func(size uint32) io.Reader { return bytes.NewReader(binary.BigEndian.AppendUint32(nil, size)) }
	for _, size := range []uint32{101, 1 << 31, 1<<32 - 1} {
		var tooLarge *FrameTooLargeError
		if _, err := readFrame(header(size), nil, 100); !errors.As(err, &tooLarge) || tooLarge.Size != int64(size) {
			t.Errorf("frame of %d: %v, want FrameTooLargeError", size, err)
		}
	}

	// Before the first message is there, the peer could be anybody.
	server := NewServerConn(stream{readOnly{header(MaxFirstFrame + 1)}})
	var tooLarge *FrameTooLargeError
	if err := server.Receive(new(ipcv1.ClientMessage)); !errors.As(err, &tooLarge) {
		t.Errorf("large first frame: %v, want FrameTooLargeError", err)
	}

	var wire bytes.Buffer
	client := NewClientConn(stream{&wire})
	err := client.Send(&ipcv1.ClientMessage{Ran: &ipcv1.Ran{Stdout: make([]byte, MaxClientFrame)}})
	if !errors.As(err, &tooLarge) || wire.Len() != 0 {
		t.Errorf("sending too much: %v and %d bytes written, want FrameTooLargeError and none", err, wire.Len())
	}
}

type readOnly struct{ io.Reader }

func (readOnly) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// A peer that announces a large frame and sends little makes us allocate
// little.
func TestFrameGrowsWithWhatArrives(t *testing.T) {
	sent := 100 << 10
	wire := append(binary.BigEndian.AppendUint32(nil, MaxClientFrame), make([]byte, sent)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := readFrame(bytes.NewReader(wire), nil, MaxClientFrame)
	runtime.ReadMemStats(&after)
	if err != io.ErrUnexpectedEOF {
		t.Errorf("truncated frame: %v, want io.ErrUnexpectedEOF", err)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > uint64(5*sent) {
		t.Errorf("allocated %d bytes for %d that came", allocated, sent)
	}
}

func FuzzReceive(f *testing.F) {
	var wire bytes.Buffer
	client := NewClientConn(stream{&wire})
	client.Send(&ipcv1.ClientMessage{
		Hello:   &ipcv1.Hello{Version: "v", Token: []byte("t")},
		Compile: &ipcv1.Compile{Args: []string{"gcc"}, Place: &ipcv1.Place{Groups: []uint32{1, 2}}},
	})
	client.Send(&ipcv1.ClientMessage{Ran: &ipcv1.Ran{Stderr: []byte("e"), Signal: 9}})
	f.Add(wire.Bytes())
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, wire []byte) {
		receive := func(r io.Reader) (count int) {
			server := NewServerConn(stream{readOnly{r}})
			for {
				var m ipcv1.ClientMessage
				if server.Receive(&m) != nil {
					return count
				}
				count++
				// What was accepted can be sent, and is received as the same.
				var again bytes.Buffer
				if err := NewClientConn(stream{&again}).Send(&m); err != nil || again.Len() != frameHeader+m.SizeVT() {
					t.Fatalf("cannot send what was received: %v", err)
				}
				sent := bytes.Clone(again.Bytes()[frameHeader:])
				var same ipcv1.ClientMessage
				if err := NewServerConn(stream{&again}).Receive(&same); err != nil {
					t.Fatalf("cannot receive what was sent: %v", err)
				}
				if b, err := same.MarshalVT(); err != nil || !bytes.Equal(b, sent) {
					t.Fatalf("%q was received as %q, %v", sent, b, err)
				}
			}
		}
		if whole, pieces := receive(bytes.NewReader(wire)), receive(iotest.OneByteReader(bytes.NewReader(wire))); whole != pieces {
			t.Fatalf("%d messages in one piece, %d byte by byte", whole, pieces)
		}
		var m, same ipcv1.ServerMessage
		if m.UnmarshalVT(wire) != nil {
			return
		}
		sent, err := m.MarshalVT()
		if err != nil || same.UnmarshalVT(sent) != nil {
			t.Fatalf("cannot send what was received: %v", err)
		}
		if b, err := same.MarshalVT(); err != nil || !bytes.Equal(b, sent) {
			t.Fatalf("%q was received as %q, %v", sent, b, err)
		}
	})
}
