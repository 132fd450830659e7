//go:build unix

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"hpcc.dev/hpcc/internal/store"
)

// wire is a request as ccache sends it.
func (q request) wire() []byte {
	b := []byte{byte(q.kind)}
	if q.kind == stop || q.kind == info {
		return b
	}
	b = append(append(b, byte(len(q.key))), q.key...)
	if q.kind != put {
		return b
	}
	var flags byte
	if q.overwrite {
		flags = 1
	}
	b = binary.NativeEndian.AppendUint64(append(b, flags), uint64(len(q.value)))
	return append(b, q.value...)
}

func anyRoom(int64) error { return nil }

func TestReadRequest(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 20)
	for _, q := range []request{
		{kind: get, key: key},
		{kind: get, key: []byte{}},
		{kind: put, key: key, value: []byte("value"), overwrite: true},
		{kind: put, key: bytes.Repeat([]byte{1}, 255), value: []byte{}},
		{kind: remove, key: key},
		{kind: exists, key: key},
		{kind: stop},
		{kind: info},
	} {
		wire := q.wire()
		got, err := readRequest(iotest.OneByteReader(bytes.NewReader(wire)), anyRoom)
		if err != nil || got.kind != q.kind || !bytes.Equal(got.key, q.key) || !bytes.Equal(got.value, q.value) || got.overwrite != q.overwrite {
			t.Errorf("%+v: read as %+v: %v", q, got, err)
		}
		for n := range wire {
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if _, err := readRequest(bytes.NewReader(wire[:n]), anyRoom); !errors.Is(err, want) {
				t.Errorf("the first %d bytes of %+v: %v, want %v", n, q, err, want)
			}
		}
	}
}

func TestReadRequestRefuses(t *testing.T) {
	if _, err := readRequest(bytes.NewReader([]byte{9, 0}), anyRoom); !errors.Is(err, errProtocol) {
		t.Errorf("an unknown kind: %v", err)
	}
	announced := func(size uint64) []byte {
		return binary.NativeEndian.AppendUint64([]byte{byte(put), 1, 'k', 0}, size)
	}
	for _, size := range []uint64{store.MaxObject + 1, 1 << 63, 1<<64 - 1} {
		if _, err := readRequest(bytes.NewReader(announced(size)), anyRoom); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("a value of %d bytes: %v", size, err)
		}
	}
	full := errors.New("full")
	if _, err := readRequest(bytes.NewReader(announced(5)), func(size int64) error {
		if size != 5 {
			t.Errorf("room is asked for %d bytes", size)
		}
		return full
	}); !errors.Is(err, full) {
		t.Errorf("without room: %v", err)
	}
	// A gibibyte that is only announced takes no memory.
	if n := testing.AllocsPerRun(1, func() { _, _ = readRequest(bytes.NewReader(announced(store.MaxObject)), anyRoom) }); n > 20 {
		t.Errorf("%v allocations", n)
	}
}

func TestAppendText(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"two\nlines\x00", "two lines "},
		{"\xff", "?"},
		{strings.Repeat("x", 300), strings.Repeat("x", 255)},
		{strings.Repeat("x", 254) + "é", strings.Repeat("x", 254)},
	} {
		got := appendText([]byte{1}, c.in)
		if got[0] != 1 || int(got[1]) != len(c.want) || string(got[2:]) != c.want {
			t.Errorf("%q is written as %q", c.in, got)
		}
	}
	if b := informed("hpcc", make([]string, 300)); b[5] != 255 || len(b) != 1+4+1+255 {
		t.Errorf("300 lines are written as %d in %d bytes", b[5], len(b))
	}
}

func FuzzReadRequest(f *testing.F) {
	for _, q := range []request{{kind: get, key: []byte("key")}, {kind: put, key: []byte("key"), value: []byte("value"), overwrite: true}, {kind: info}} {
		f.Add(q.wire())
	}
	f.Add([]byte{1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		q, err := readRequest(r, anyRoom)
		if err != nil {
			if text := failure(err); len(text) > 2+maxText || !utf8.Valid(text[2:]) {
				t.Fatalf("the answer to %q is %q", b, text)
			}
			return
		}
		used, wire := b[:len(b)-r.Len()], q.wire()
		if q.kind == put {
			used[2+len(q.key)] &= 1
		}
		if !bytes.Equal(used, wire) {
			t.Fatalf("%q is read as %q", used, wire)
		}
	})
}
