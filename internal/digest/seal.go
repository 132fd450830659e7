package digest

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrDamaged says that bytes are not a sealed record, or not the one that was
// asked for.
var ErrDamaged = errors.New("damaged record")

// Tag tells kinds of sealed records apart, versions of one kind included: four
// printable bytes.
type Tag [4]byte

// A sealed record is
//
//	"hpcc" | tag, 4 | length of the body, 4, little-endian | key, 32 | body | SHA-256 of all before it, 32
const (
	sealMagic  = "hpcc"
	sealHeader = 4 + 4 + 4 + sha256.Size

	// MaxSealed is the longest body that Seal takes, 64 MiB. Records are held
	// in memory whole; what may be longer is a blob.
	MaxSealed = 64 << 20
)

// SealOverhead is how much longer a sealed record is than its body.
const SealOverhead = sealHeader + sha256.Size

// Seal appends to dst a record that binds body to the kind of record that it
// is and to the key that it is stored under: Unseal finds a flipped bit, a
// truncated file, and a whole record in another one's place. It panics if body
// is longer than MaxSealed.
func Seal(dst []byte, tag Tag, key Key, body []byte) []byte {
	if len(body) > MaxSealed {
		panic(fmt.Sprintf("digest: sealing %d bytes", len(body)))
	}
	start := len(dst)
	dst = append(dst, sealMagic...)
	dst = append(dst, tag[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(body)))
	dst = append(dst, key[:]...)
	dst = append(dst, body...)
	sum := sha256.Sum256(dst[start:])
	return append(dst, sum[:]...)
}

// Unseal returns the body of the record that b begins with, which must be of
// the given tag and key, and what follows the record in b; both share b's
// memory. All errors are ErrDamaged.
func Unseal(b []byte, tag Tag, key Key) (body, rest []byte, err error) {
	if len(b) < SealOverhead || string(b[:len(sealMagic)]) != sealMagic {
		return nil, nil, fmt.Errorf("%w: no header", ErrDamaged)
	}
	n := binary.LittleEndian.Uint32(b[8:])
	if n > MaxSealed || int(n) > len(b)-SealOverhead {
		return nil, nil, fmt.Errorf("%w: truncated", ErrDamaged)
	}
	end := sealHeader + int(n)
	if sha256.Sum256(b[:end]) != [sha256.Size]byte(b[end:]) {
		return nil, nil, fmt.Errorf("%w: checksum", ErrDamaged)
	}
	if Tag(b[4:]) != tag {
		return nil, nil, fmt.Errorf("%w: a record of kind %q, want %q", ErrDamaged, b[4:8], tag[:])
	}
	if Key(b[12:]) != key {
		return nil, nil, fmt.Errorf("%w: the record of another key, %s", ErrDamaged, Key(b[12:]))
	}
	return b[sealHeader:end], b[end+sha256.Size:], nil
}
