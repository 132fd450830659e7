package digest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
)

// Key names something by the SHA-256 of its canonical fields. The zero value
// names nothing.
type Key [sha256.Size]byte

// ParseKey reads 64 lower-case hex digits.
func ParseKey(s string) (Key, error) {
	var k Key
	if len(s) != 2*len(k) {
		return Key{}, fmt.Errorf("digest: %q is not 64 hex digits", clip(s))
	}
	for _, c := range []byte(s) {
		if c >= 'A' && c <= 'F' {
			return Key{}, fmt.Errorf("digest: %q is not lower-case hex", clip(s))
		}
	}
	if _, err := hex.Decode(k[:], []byte(s)); err != nil {
		return Key{}, fmt.Errorf("digest: %q is not 64 hex digits", clip(s))
	}
	return k, nil
}

// String is the key in lower-case hex.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// IsZero reports whether k names nothing.
func (k Key) IsZero() bool { return k == Key{} }

// KeyWriter builds a Key from labelled fields. Labels, counts and values are
// each preceded by their length, so that no two lists of fields give the same
// bytes. A KeyWriter is for one goroutine.
type KeyWriter struct {
	h   hash.Hash
	buf []byte
}

// NewKey starts a key in a domain: keys of different domains never collide.
func NewKey(domain string) *KeyWriter {
	k := &KeyWriter{h: sha256.New(), buf: make([]byte, 0, 512)}
	k.str("hpcc 1")
	k.str(domain)
	return k
}

// Field adds a labelled list of values, in order.
func (k *KeyWriter) Field(label string, values ...string) *KeyWriter {
	k.str(label)
	k.buf = binary.AppendUvarint(k.buf, uint64(len(values)))
	for _, v := range values {
		k.str(v)
	}
	return k
}

// Bytes adds one labelled value.
func (k *KeyWriter) Bytes(label string, b []byte) *KeyWriter {
	return k.Field(label, string(b))
}

// Sum returns the key of the fields so far.
func (k *KeyWriter) Sum() Key {
	k.h.Write(k.buf)
	k.buf = k.buf[:0]
	return Key(k.h.Sum(nil))
}

func (k *KeyWriter) str(s string) {
	k.buf = binary.AppendUvarint(k.buf, uint64(len(s)))
	k.buf = append(k.buf, s...)
	if len(k.buf) > 4096 {
		k.h.Write(k.buf)
		k.buf = k.buf[:0]
	}
}
