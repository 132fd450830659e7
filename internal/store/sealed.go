package store

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// SealKeySize is the length of a key of Sealed, in bytes.
const SealKeySize = 32

// A sealed object is sealMagic, a random nonce of 12 bytes, and what AES-256-GCM
// makes of the plain text, its tag of 16 bytes last. The plain text is the body's
// length (8 bytes, big-endian), the body, and zeros. The key is the name's own
// (objectKey); associated data are sealMagic and the clear name.
const (
	sealMagic   = "hpcc-s1\n"
	sealNonce   = 12
	sealTag     = 16
	sealPrefix  = 8 // the body's length
	sealAround  = len(sealMagic) + sealNonce + sealTag
	sealMaxBody = MaxObject - sealAround - sealPrefix
)

// sealed encrypts what it hands to another store.
type sealed struct {
	under   Store
	content []byte // from which each object's key is derived
	names   nameSeal
}

// Sealed returns a store that encrypts bodies and names before they reach s, so
// that whoever holds s's objects reads neither and can make none. key is
// SealKeySize random bytes that the store's users share; it is not kept.
//
// A body is encrypted by AES-256-GCM under a key of its own name, so that an
// object that was changed, or moved under another name, is ErrCorrupt. Of a name,
// the first two directories stay in clear ("TENANT/result/"), so that s lists by
// tenant and kind; the rest is encrypted, always to the same name. Objects under
// other names, or under another key, cannot be reached.
//
// What s's owner still sees: tenant, kind, the number of objects, when each is
// written and read, and its size to one part in eight at worst (padded). What they
// can still do: remove an object, or put back one that was under the same name
// before. Whoever uses the objects must bear both.
//
// Two things differ from other stores. Info.Size is what the object takes in s.
// List holds all it finds in memory, some 300 bytes for each, for names sort
// otherwise once they are opened. Objects of sealed stores of other keys are listed
// under the names that they have in s (IsSealedName), and Stat, Touch and Delete
// take these names too, so that what an older key left behind can be removed. Names
// of s that are not sealed are not listed.
//
// A body is at most MaxObject less 44 bytes. A name is at most some 200 bytes; a
// longer one is an error that wraps ErrName.
func Sealed(s Store, key []byte) (Store, error) {
	if len(key) != SealKeySize {
		return nil, fmt.Errorf("an encryption key of %d bytes, want %d", len(key), SealKeySize)
	}
	derive := func(info string) []byte {
		// Fails for lengths that SHA-256 cannot give only.
		k, err := hkdf.Key(sha256.New, key, []byte("hpcc sealed store 1"), info, 32)
		if err != nil {
			panic(err)
		}
		return k
	}
	names, err := newNameSeal(derive("names: mac"), derive("names: cipher"))
	if err != nil {
		return nil, err
	}
	return &sealed{under: s, content: derive("content"), names: names}, nil
}

// aead returns the cipher of the object of a clear name. Each name has a key of
// its own, so that random nonces need not differ among all objects that a tenant
// ever writes, which AES-GCM promises for 2^32 of them, but among those of one
// name.
func (s *sealed) aead(name string) (cipher.AEAD, error) {
	key, err := hkdf.Expand(sha256.New, s.content, "object "+name, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	// It draws the nonce itself and puts it first.
	return cipher.NewGCMWithRandomNonce(block)
}

// padded is the length of the plain text for a body of n bytes: rounded up so that
// it tells n to one part in eight at worst, and to fewer for larger ones (PADMÉ:
// the mantissa is no longer than the exponent). It is 64 at least.
func padded(n int) int {
	n = max(n+sealPrefix, 64)
	e := bits.Len(uint(n)) - 1
	drop := e - bits.Len(uint(e))
	if drop <= 0 {
		return n
	}
	mask := 1<<drop - 1
	return min((n+mask)&^mask, MaxObject-sealAround)
}

func (s *sealed) seal(name string, body []byte) ([]byte, error) {
	if len(body) > sealMaxBody {
		return nil, fmt.Errorf("%w: %d bytes to be encrypted", ErrTooLarge, len(body))
	}
	aead, err := s.aead(name)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, padded(len(body)))
	binary.BigEndian.PutUint64(plain, uint64(len(body)))
	copy(plain[sealPrefix:], body)
	out := make([]byte, len(sealMagic), sealAround+len(plain))
	copy(out, sealMagic)
	return aead.Seal(out, nil, plain, []byte(sealMagic+name)), nil
}

// open undoes seal. All errors wrap ErrCorrupt.
func (s *sealed) open(name string, object []byte) ([]byte, error) {
	box, ok := strings.CutPrefix(string(object[:min(len(object), len(sealMagic))]), sealMagic)
	if !ok || box != "" || len(object) < sealAround+sealPrefix {
		return nil, fmt.Errorf("%w: not encrypted by hpcc", ErrCorrupt)
	}
	aead, err := s.aead(name)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nil, object[len(sealMagic):], []byte(sealMagic+name))
	if err != nil {
		return nil, fmt.Errorf("%w: it was not encrypted under this name with this key", ErrCorrupt)
	}
	n := binary.BigEndian.Uint64(plain)
	if n > uint64(len(plain)-sealPrefix) {
		return nil, fmt.Errorf("%w: an encrypted body of %d bytes says it has %d", ErrCorrupt, len(plain)-sealPrefix, n)
	}
	return plain[sealPrefix : sealPrefix+n : sealPrefix+n], nil
}

func (s *sealed) Get(ctx context.Context, name string, limit int64) (Object, error) {
	raw, err := s.names.seal(name)
	if err != nil {
		return Object{}, err
	}
	limit = max(min(limit, int64(sealMaxBody)), 0)
	o, err := s.under.Get(ctx, raw, int64(padded(int(limit))+sealAround))
	if err != nil {
		return Object{}, err
	}
	if o.Body, err = s.open(name, o.Body); err != nil {
		return Object{}, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(o.Body)) > limit {
		return Object{}, fmt.Errorf("%s: %w: %d bytes", name, ErrTooLarge, len(o.Body))
	}
	return o, nil
}

func (s *sealed) Put(ctx context.Context, name string, body []byte, when Condition) (Version, error) {
	raw, err := s.names.seal(name)
	if err != nil {
		return "", err
	}
	object, err := s.seal(name, body)
	if err != nil {
		return "", err
	}
	return s.under.Put(ctx, raw, object, when)
}

// raw is the name in the store below of a name that List gave.
func (s *sealed) raw(name string) (string, error) {
	if IsSealedName(name) {
		return name, CheckName(name)
	}
	return s.names.seal(name)
}

func (s *sealed) Stat(ctx context.Context, name string) (Info, error) {
	raw, err := s.raw(name)
	if err != nil {
		return Info{}, err
	}
	info, err := s.under.Stat(ctx, raw)
	info.Name = name
	if err != nil {
		return Info{}, err
	}
	return info, nil
}

func (s *sealed) Touch(ctx context.Context, name string) error {
	raw, err := s.raw(name)
	if err != nil {
		return err
	}
	return s.under.Touch(ctx, raw)
}

func (s *sealed) Delete(ctx context.Context, name string) error {
	raw, err := s.raw(name)
	if err != nil {
		return err
	}
	return s.under.Delete(ctx, raw)
}

// DeleteMany is for the function DeleteMany.
func (s *sealed) DeleteMany(ctx context.Context, names []string) error {
	raws := make([]string, len(names))
	for i, name := range names {
		var err error
		if raws[i], err = s.raw(name); err != nil {
			return err
		}
	}
	return DeleteMany(ctx, s.under, raws)
}

func (s *sealed) List(ctx context.Context, prefix string, visit func(Info) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	var found []Info
	dirs, _ := clearDirs(prefix)
	err := s.under.List(ctx, dirs, func(info Info) error {
		goesOn(ctx)
		if !IsSealedName(info.Name) {
			return nil
		}
		name, err := s.names.open(info.Name)
		switch {
		case err == nil:
			info.Name = name
		case !errors.Is(err, errOtherSeal):
			return err
		}
		if strings.HasPrefix(info.Name, prefix) {
			found = append(found, info)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	for _, info := range found {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := visit(info); err != nil {
			return err
		}
	}
	return nil
}

func (s *sealed) String() string { return s.under.String() + " (encrypted)" }

func (s *sealed) Close() error { return s.under.Close() }

// randomKey draws a key of Sealed.
func randomKey() []byte {
	key := make([]byte, SealKeySize)
	_, _ = rand.Read(key) // never fails
	return key
}
