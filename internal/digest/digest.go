// Package digest names bytes by what they are.
//
// A Digest is a SHA-256 and a size, as in the Remote Execution API: OCI, in-toto
// and FIPS 140-3 speak the same function, so that one name serves from a
// laptop's cache to an audit row. A Key is the SHA-256 of a canonical list of
// fields and names what was not itself stored under its bytes: an action, a
// manifest, a toolchain; Seal binds what is stored under a Key to it. Values of
// both types are valid by construction and comparable; strings stop at Parse and
// ParseKey.
package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strconv"
	"strings"
)

// ErrMismatch says that bytes are not those that a digest names.
var ErrMismatch = errors.New("content does not match its digest")

// Digest is a SHA-256 and a size in bytes. The zero value names nothing.
type Digest struct {
	sum  [sha256.Size]byte
	size int64
}

// Of returns the digest of b.
func Of(b []byte) Digest {
	return Digest{sha256.Sum256(b), int64(len(b))}
}

// New joins a sum and a size; the size must not be negative.
func New(sum [sha256.Size]byte, size int64) (Digest, error) {
	if size < 0 {
		return Digest{}, fmt.Errorf("digest: negative size %d", size)
	}
	return Digest{sum, size}, nil
}

// FromBytes is New for a sum that comes as a slice, which must hold 32 bytes.
func FromBytes(sum []byte, size int64) (Digest, error) {
	if len(sum) != sha256.Size {
		return Digest{}, fmt.Errorf("digest: sum of %d bytes, want %d", len(sum), sha256.Size)
	}
	return New([sha256.Size]byte(sum), size)
}

// Parse reads what String writes: 64 lower-case hex digits, a slash, the size
// in decimal.
func Parse(s string) (Digest, error) {
	h, n, ok := strings.Cut(s, "/")
	if !ok {
		return Digest{}, fmt.Errorf("digest: %q has no size", clip(s))
	}
	key, err := ParseKey(h)
	if err != nil {
		return Digest{}, err
	}
	size, err := strconv.ParseInt(n, 10, 64)
	if err != nil || strconv.FormatInt(size, 10) != n {
		return Digest{}, fmt.Errorf("digest: %q is not a size", clip(n))
	}
	return New(key, size)
}

// String writes the digest as Parse reads it.
func (d Digest) String() string { return d.Hex() + "/" + strconv.FormatInt(d.size, 10) }

// Hex is the sum alone, in lower-case hex.
func (d Digest) Hex() string { return hex.EncodeToString(d.sum[:]) }

// Sum is the SHA-256.
func (d Digest) Sum() [sha256.Size]byte { return d.sum }

// Size is the number of bytes named.
func (d Digest) Size() int64 { return d.size }

// IsZero reports whether d names nothing. (The empty string of bytes has a
// sum and is not zero.)
func (d Digest) IsZero() bool { return d == Digest{} }

// Copy copies src to dst and returns the digest of what was copied.
func Copy(dst io.Writer, src io.Reader) (Digest, error) {
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(dst, h), src)
	if err != nil {
		return Digest{}, err
	}
	return Digest{[sha256.Size]byte(h.Sum(nil)), n}, nil
}

// OfFile returns the digest of what the regular file at path holds.
func OfFile(path string) (Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return Digest{}, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return Digest{}, err
	} else if !st.Mode().IsRegular() {
		return Digest{}, fmt.Errorf("%s is not a regular file", strconv.Quote(path))
	}
	return Copy(io.Discard, f)
}

// NewVerifier returns a reader of r that ends with ErrMismatch instead of
// io.EOF unless exactly the bytes that want names were read. It reads at most
// one byte more than want.Size() from r.
func NewVerifier(r io.Reader, want Digest) io.Reader {
	return &verifier{r: io.LimitReader(r, want.size+1), h: sha256.New(), want: want}
}

type verifier struct {
	r    io.Reader
	h    hash.Hash
	n    int64
	want Digest
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	v.n += int64(n)
	if v.n > v.want.size || err == io.EOF && (Digest{[sha256.Size]byte(v.h.Sum(nil)), v.n}) != v.want {
		return 0, ErrMismatch
	}
	return n, err
}

// clip keeps hostile text out of error messages beyond a length that helps.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
