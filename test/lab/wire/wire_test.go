package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	long := bytes.Repeat([]byte("x"), 2*MaxPayload+1)
	for _, f := range []struct {
		kind    byte
		payload []byte
	}{{Heartbeat, nil}, {Stdout, []byte("text")}, {Tar, long}} {
		if err := w.Frame(f.kind, f.payload); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := w.To(Stderr).Write([]byte("error")); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	got := map[byte][]byte{}
	frames := 0
	for {
		kind, payload, err := Read(&b)
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		got[kind] = append(got[kind], payload...)
		frames++
	}
	if frames != 6 || string(got[Stdout]) != "text" || !bytes.Equal(got[Tar], long) || string(got[Stderr]) != "error" {
		t.Errorf("%d frames, %d kinds", frames, len(got))
	}
}

// What is read writes to the same bytes again.
func FuzzRead(f *testing.F) {
	f.Add([]byte("o\x00\x00\x00\x04text"))
	f.Add([]byte("h\x00\x00\x00\x00"))
	f.Add([]byte("o\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, payload, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := NewWriter(&b).Frame(kind, payload); err != nil || !bytes.HasPrefix(data, b.Bytes()) {
			t.Errorf("%q became %q, %v", data, b.Bytes(), err)
		}
	})
}
