package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A sealed name is the clear name's first two directories, at most; the first two
// digits of hex, a slash, hex and sealSuffix. hex is the lower-case hex of a
// synthetic initial value of 16 bytes and of the encrypted rest of the clear name
// (the SIV construction: the value is HMAC-SHA-256, truncated, of directories and
// rest, and what AES-256-CTR starts from; one name is always sealed to one name, and
// a name that was not sealed with the same keys is told by the value). A slash stands
// after each 200 digits, since file systems take no longer names.
//
// The rest is written as a form and its bytes. Names that differ in their digest and
// size only have one length, so that a blob's name does not tell its size.
const (
	sealSuffix = ".s1"
	sealSIV    = 16
	sealPiece  = 200

	formText   = 0 // the rest, byte by byte
	formDigest = 1 // "ab/HEX64": 32 bytes, and 8 zeros
	formSized  = 2 // "ab/HEX64-SIZE": 32 bytes, and SIZE in 8, big-endian
)

// errOtherSeal says that a name was sealed with other keys, or was never sealed.
var errOtherSeal = errors.New("the name was not sealed with this key")

// nameSeal seals names.
type nameSeal struct {
	mac    []byte
	cipher cipher.Block
}

func newNameSeal(mac, key []byte) (nameSeal, error) {
	block, err := aes.NewCipher(key)
	return nameSeal{mac, block}, err
}

// clearDirs splits a name, or the beginning of one, after its second slash, or
// after its last if it has fewer.
func clearDirs(name string) (dirs, rest string) {
	n := 0
	for range 2 {
		i := strings.IndexByte(name[n:], '/')
		if i < 0 {
			break
		}
		n += i + 1
	}
	return name[:n], name[n:]
}

// IsSealedName reports whether name has the form of those that Sealed makes. No
// other store's users should give such names.
func IsSealedName(name string) bool {
	if !strings.HasSuffix(name, sealSuffix) {
		return false
	}
	for dirs := range sealedDirs(name) {
		if _, ok := sealedBytes(name[len(dirs):]); ok {
			return true
		}
	}
	return false
}

// sealedDirs yields what may be the clear directories of a sealed name: which of
// its directories are hex, and which were called so, only open can tell.
func sealedDirs(name string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for n, i := 0, 0; n <= 2; n++ {
			if !yield(name[:i]) {
				return
			}
			next := strings.IndexByte(name[i:], '/')
			if next < 0 {
				return
			}
			i += next + 1
		}
	}
}

// sealedBytes undoes sealedText.
func sealedBytes(s string) ([]byte, bool) {
	digits := strings.ReplaceAll(strings.TrimSuffix(s, sealSuffix), "/", "")
	if len(digits) < 2+2*(sealSIV+1) {
		return nil, false
	}
	b, err := hex.DecodeString(digits[2:])
	if err != nil || sealedText(b) != s {
		return nil, false
	}
	return b, true
}

// sealedText writes the bytes of a sealed name as such.
func sealedText(b []byte) string {
	digits := hex.EncodeToString(b)
	var s strings.Builder
	s.WriteString(digits[:2])
	for len(digits) > 0 {
		piece := digits[:min(len(digits), sealPiece)]
		s.WriteString("/" + piece)
		digits = digits[len(piece):]
	}
	return s.String() + sealSuffix
}

// seal returns the name under which the object of a clear name lies.
func (k nameSeal) seal(name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	if IsSealedName(name) {
		return "", fmt.Errorf("%w: %q is an encrypted one", ErrName, name)
	}
	dirs, rest := clearDirs(name)
	plain := packRest(rest)
	b := make([]byte, sealSIV+len(plain))
	copy(b, k.siv(dirs, plain))
	cipher.NewCTR(k.cipher, b[:sealSIV]).XORKeyStream(b[sealSIV:], plain)
	raw := dirs + sealedText(b)
	if len(raw) > MaxName {
		return "", fmt.Errorf("%w: %d bytes are too many for an encrypted one", ErrName, len(name))
	}
	return raw, nil
}

// open returns the clear name of a sealed one, or errOtherSeal.
func (k nameSeal) open(raw string) (string, error) {
	for dirs := range sealedDirs(raw) {
		b, ok := sealedBytes(raw[len(dirs):])
		if !ok {
			continue
		}
		plain := make([]byte, len(b)-sealSIV)
		cipher.NewCTR(k.cipher, b[:sealSIV]).XORKeyStream(plain, b[sealSIV:])
		if !hmac.Equal(k.siv(dirs, plain), b[:sealSIV]) {
			continue
		}
		if rest, ok := unpackRest(plain); ok {
			return dirs + rest, nil
		}
	}
	return "", errOtherSeal
}

// siv is the synthetic initial value of a name. No directory holds a zero byte.
func (k nameSeal) siv(dirs string, plain []byte) []byte {
	h := hmac.New(sha256.New, k.mac)
	h.Write([]byte(dirs + "\x00"))
	h.Write(plain)
	return h.Sum(nil)[:sealSIV]
}

// packRest writes the part of a name that is encrypted.
func packRest(rest string) []byte {
	text := append([]byte{formText}, rest...)
	dir, file, ok := strings.Cut(rest, "/")
	digits, sizeText, sized := strings.Cut(file, "-")
	if !ok || len(digits) != 64 || dir != digits[:2] {
		return text
	}
	sum, err := hex.DecodeString(digits)
	if err != nil || hex.EncodeToString(sum) != digits {
		return text
	}
	form, size := byte(formDigest), int64(0)
	if sized {
		form = formSized
		size, err = strconv.ParseInt(sizeText, 10, 64)
		if err != nil || size < 0 || strconv.FormatInt(size, 10) != sizeText {
			return text
		}
	}
	return binary.BigEndian.AppendUint64(append([]byte{form}, sum...), uint64(size))
}

// unpackRest undoes packRest; it takes nothing else.
func unpackRest(plain []byte) (string, bool) {
	switch {
	case len(plain) > 1 && plain[0] == formText:
		return string(plain[1:]), true
	case len(plain) == 1+32+8 && (plain[0] == formDigest || plain[0] == formSized):
		digits := hex.EncodeToString(plain[1:33])
		name := digits[:2] + "/" + digits
		size := binary.BigEndian.Uint64(plain[33:])
		if plain[0] == formSized && size <= math.MaxInt64 {
			return name + "-" + strconv.FormatUint(size, 10), true
		}
		return name, plain[0] == formDigest && size == 0
	}
	return "", false
}
