//go:build unix

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"hpcc.dev/hpcc/internal/store"
)

// The protocol of ccache's storage helpers, version 1: ccache's
// doc/remote_storage_helper_spec.md. A server greets with its capabilities; then
// the client asks, one request at a time. Integers have the machine's byte order,
// since both sides are on one machine.
const (
	version = 1
	// maxText bounds a message to the client, in bytes: its length is one byte.
	maxText = 255
)

// greeting is what a client reads first: the version, and how many and which
// capabilities there are.
var greeting = []byte{version, 3, canStore, canInform, canTell}

const (
	canStore  = 0x00 // get, put, remove
	canInform = 0x01 // info
	// canTell is of ccache 4.14: exists, which saves uploads with reshare.
	canTell = 0x02
)

// kind is what a request asks for.
type kind byte

const (
	get kind = iota
	put
	remove
	stop
	info
	exists
)

// Each answer begins with one of these, but for that to info.
const (
	done   = 0x00
	undone = 0x01 // not found, not stored, not removed
	failed = 0x02 // and a text
)

type request struct {
	kind kind
	key  []byte // get, put, remove, exists
	// overwrite says of a put that it may replace a value.
	overwrite bool
	value     []byte // put
}

// errProtocol says that a client speaks otherwise than agreed. Where its next
// request would begin nobody knows.
var errProtocol = errors.New("not a request")

// readRequest reads one request. io.EOF is a client that left between two. room
// is asked for the bytes of a value before they are read, and may refuse; they
// get memory as they come, not as they are announced.
func readRequest(r io.Reader, room func(size int64) error) (request, error) {
	var b [9]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return request{}, err
	}
	q := request{kind: kind(b[0])}
	switch q.kind {
	case stop, info:
		return q, nil
	case get, put, remove, exists:
	default:
		return q, fmt.Errorf("%w: kind %d", errProtocol, b[0])
	}
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return q, cut(err)
	}
	q.key = make([]byte, b[0])
	if _, err := io.ReadFull(r, q.key); err != nil {
		return q, cut(err)
	}
	if q.kind != put {
		return q, nil
	}
	if _, err := io.ReadFull(r, b[:9]); err != nil {
		return q, cut(err)
	}
	q.overwrite = b[0]&1 != 0 // other bits have no meaning yet
	size := binary.NativeEndian.Uint64(b[1:])
	if size > store.MaxObject {
		return q, fmt.Errorf("%w: %d bytes", store.ErrTooLarge, size)
	}
	if err := room(int64(size)); err != nil {
		return q, err
	}
	var value bytes.Buffer
	if _, err := io.CopyN(&value, r, int64(size)); err != nil {
		return q, cut(err)
	}
	q.value = value.Bytes()
	return q, nil
}

// cut tells an end within a request from one between two.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendText adds s as the protocol has texts: short, of one line.
func appendText(b []byte, s string) []byte {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxText {
		i := maxText
		for !utf8.RuneStart(s[i]) {
			i--
		}
		s = s[:i]
	}
	return append(append(b, byte(len(s))), s...)
}

func failure(err error) []byte {
	return appendText([]byte{failed}, err.Error())
}

// found is what goes before the bytes of a value that is found.
func found(size int) []byte {
	return binary.NativeEndian.AppendUint64([]byte{done}, uint64(size))
}

// informed is the answer to info.
func informed(identity string, diagnostics []string) []byte {
	b := appendText(nil, identity)
	diagnostics = diagnostics[:min(len(diagnostics), 255)]
	b = append(b, byte(len(diagnostics)))
	for _, d := range diagnostics {
		b = appendText(b, d)
	}
	return b
}
