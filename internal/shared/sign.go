package shared

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// PublicKey names a signer.
type PublicKey [ed25519.PublicKeySize]byte

// ID is a short name of the key for people: 16 hex digits.
func (k PublicKey) ID() string {
	sum := sha256.Sum256(k[:])
	return hex.EncodeToString(sum[:8])
}

// String is the key in base64, as the file of trusted keys has it.
func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// Signer signs the results that this machine made. It may be used concurrently.
type Signer struct {
	key    ed25519.PrivateKey
	public PublicKey
	name   string
	packed int // maxPacked; less where a test is to be quick
}

// NewSigner makes a signer of a private key, which is Ed25519's seed of 32 bytes or
// the 64 of ed25519.PrivateKey. name is what people call it.
func NewSigner(key []byte, name string) (*Signer, error) {
	s := &Signer{name: name, packed: maxPacked}
	switch len(key) {
	case ed25519.SeedSize:
		s.key = ed25519.NewKeyFromSeed(key)
	case ed25519.PrivateKeySize:
		s.key = ed25519.NewKeyFromSeed(key[:ed25519.SeedSize])
		if !bytes.Equal(s.key, key) {
			return nil, errors.New("signing key: its halves are not of one key")
		}
	default:
		return nil, fmt.Errorf("signing key: %d bytes, want a seed of %d", len(key), ed25519.SeedSize)
	}
	if !validName(name) {
		return nil, fmt.Errorf("signing key: %q is not a name", clip(name))
	}
	s.public = PublicKey(s.key.Public().(ed25519.PublicKey))
	return s, nil
}

// Public is the key that others must trust to believe what s signs.
func (s *Signer) Public() PublicKey { return s.public }

// Name is what people call the signer.
func (s *Signer) Name() string { return s.name }

// keyHeader begins the file of a signing key.
const keyHeader = "hpcc-signing-key"

// maxKeyFile is far more than GenerateKey writes.
const maxKeyFile = 4096

// GenerateKey makes a signing key, writes it to a new file that only its owner can
// read, and returns the line for the files of trusted keys of those who shall
// believe what it signs. An existing file is left alone, which is an error that
// wraps fs.ErrExist.
func GenerateKey(file string, role Role, name string) (line string, err error) {
	if !role.valid() {
		return "", fmt.Errorf("signing key: %q is not a role: want %q or %q", role, RoleWorker, RoleClient)
	}
	seed := make([]byte, ed25519.SeedSize)
	if _, err := rand.Read(seed); err != nil {
		return "", fmt.Errorf("signing key: %w", err)
	}
	s, err := NewSigner(seed, name)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("signing key: %w", err)
	}
	_, err = fmt.Fprintf(f, "# The private key that signs results of hpcc: who has it can make others believe wrong ones.\n%s %s %s\n",
		keyHeader, name, base64.StdEncoding.EncodeToString(seed))
	if err == nil {
		err = f.Sync()
	}
	if errClose := f.Close(); err == nil {
		err = errClose
	}
	if err != nil {
		os.Remove(file)
		return "", fmt.Errorf("signing key: %w", err)
	}
	return s.Line(role), nil
}

// Line is the signer's line for files of trusted keys.
func (s *Signer) Line(role Role) string { return string(role) + " " + s.name + " " + s.public.String() }

// ReadSigner reads a file that GenerateKey wrote. One that anybody but its owner may
// use is an error that wraps store.ErrKeyFile: who reads it signs in this machine's
// name.
func ReadSigner(file string) (*Signer, error) {
	b, err := store.ReadPrivate(file, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	s, err := parseSigner(b)
	if err != nil {
		return nil, fmt.Errorf("signing key: %s: %w", file, err)
	}
	return s, nil
}

// parseSigner never puts into an error what it has read: it may be a secret.
func parseSigner(b []byte) (*Signer, error) {
	var s *Signer
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		if s != nil {
			return nil, errors.New("more than one key")
		}
		if len(fields) != 3 || fields[0] != keyHeader {
			return nil, fmt.Errorf("not a signing key: want %q, a name and a key", keyHeader)
		}
		seed, err := base64.StdEncoding.Strict().DecodeString(fields[2])
		if err != nil || len(seed) != ed25519.SeedSize {
			return nil, fmt.Errorf("the key is not %d bytes in base64", ed25519.SeedSize)
		}
		if s, err = NewSigner(seed, fields[1]); err != nil {
			return nil, err
		}
	}
	if s == nil {
		return nil, errors.New("no key in it")
	}
	return s, nil
}

// signedDomain begins what is signed, so that no signature that the key makes for
// another purpose can be taken for one of a result.
const signedDomain = "hpcc result v1\x00"

// signedMessage is what the signature of a pack covers. Every field but the
// tenant's name has a fixed length, and that has its length before it.
func signedMessage(tenant string, key, result digest.Key, body []byte) []byte {
	sum := sha256.Sum256(body)
	m := make([]byte, 0, len(signedDomain)+1+maxTenant+3*sha256.Size)
	m = append(m, signedDomain...)
	m = append(m, byte(len(tenant)))
	m = append(m, tenant...)
	m = append(m, key[:]...)
	m = append(m, result[:]...)
	return append(m, sum[:]...)
}
