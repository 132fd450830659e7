package auth

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"hpcc.dev/hpcc/internal/atomicfile"
)

// KeyringOptions are settings of a keyring. The zero value has the defaults.
type KeyringOptions struct {
	// Announce is how long a new key is published before it signs: as long as
	// the slowest worker takes to fetch the keys, since a worker refuses what is
	// signed with a key that it has not heard of. Default DefaultAnnounce; less
	// than 0 is none. The first key of a keyring signs at once.
	Announce time.Duration
	// Log receives what goes wrong where no caller can be told; nil is
	// slog.Default().
	Log *slog.Logger
}

// DefaultAnnounce is several heartbeats of a worker.
const DefaultAnnounce = time.Minute

const (
	// refreshEvery is how old what is known of the directory may be: how soon a
	// process signs with, and publishes, a key that another one made.
	refreshEvery = 10 * time.Second
	// overlap is how long a key is published after the next one began to sign:
	// a token may have been signed just before, by a process that had not read
	// the directory yet, with a clock of its own.
	overlap = MaxLifetime + refreshEvery + 2*Skew
)

// Keyring holds the keys that task tokens are signed with, in a directory, one
// file each:
//
//	key-KID.json	{"created", "signs_from", "seed"}, mode 0600, never changed
//
// KID is the key's thumbprint (RFC 7638), so that a damaged file is noticed. The
// key that signs is the one with the latest signs_from that has come. Files are
// only ever added whole and removed, so that processes can share the directory
// without a lock: each takes the others' keys up within seconds. What one has
// signed, all publish the key of.
//
// Its methods may be called by many goroutines.
type Keyring struct {
	dir      string
	announce time.Duration
	log      *slog.Logger

	mu   sync.Mutex
	keys []*signingKey // by signsFrom, earliest first; never empty
	read time.Time     // when the directory was read
}

type signingKey struct {
	id                 string
	created, signsFrom time.Time
	public             ed25519.PublicKey
	signer             jose.Signer
}

// keyFile is what a key's file holds.
type keyFile struct {
	Created   time.Time `json:"created"`
	SignsFrom time.Time `json:"signs_from"`
	Seed      []byte    `json:"seed"` // RFC 8032's private key
}

const (
	keyPrefix, keySuffix = "key-", ".json"
	maxKeyFile           = 4096
)

// OpenKeyring opens the keyring in dir, which is made if it is not there, and
// then has its first key. Files that others can read are refused: such a key is
// known to somebody else already.
func OpenKeyring(dir string, opt KeyringOptions) (*Keyring, error) {
	k := &Keyring{dir: dir, announce: opt.Announce, log: opt.Log}
	if k.announce == 0 {
		k.announce = DefaultAnnounce
	}
	k.announce = max(k.announce, 0)
	if k.log == nil {
		k.log = slog.Default()
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("signing keys: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if err := k.refresh(now); err != nil {
		return nil, err
	}
	k.sweep(now)
	if len(k.keys) == 0 {
		if err := k.add(now, now); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// Sign makes a token of t. It refuses what no worker would take: names that are
// none, a time that is past or further than MaxLifetime away.
func (k *Keyring) Sign(t Task) (string, error) {
	now := time.Now()
	if t.ID == "" {
		t.ID = rand.Text()
	}
	if err := t.check(); err != nil {
		return "", fmt.Errorf("task token: %w", err)
	}
	if left := t.Expires.Sub(now); left < time.Second || left > MaxLifetime {
		return "", fmt.Errorf("task token: it would live for %v: at least a second and at most %v can be", left, MaxLifetime)
	}
	payload, err := json.Marshal(claims{
		Issuer: Issuer, Subject: t.Subject, Audience: t.Worker, Expires: t.Expires.Unix(), NotBefore: now.Unix(), IssuedAt: now.Unix(),
		ID: t.ID, Tenant: t.Tenant, Image: t.Image,
	})
	if err != nil {
		return "", fmt.Errorf("task token: %w", err)
	}
	signed, err := k.signing(now).signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("task token: %w", err)
	}
	return signed.CompactSerialize()
}

// signing is the key that signs at a time.
func (k *Keyring) signing(now time.Time) *signingKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refreshIfOld(now)
	for _, key := range slices.Backward(k.keys) {
		if !key.signsFrom.After(now) {
			return key
		}
	}
	return k.keys[0] // the clock was set back
}

// JWKS is the JSON Web Key Set of all keys that tokens may be signed with, now or
// before they expire.
func (k *Keyring) JWKS() []byte {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refreshIfOld(now)
	var ids []string
	var keys []ed25519.PublicKey
	for i, key := range k.keys {
		if !k.retired(i, now) {
			ids, keys = append(ids, key.id), append(keys, key.public)
		}
	}
	return encodeJWKS(ids, keys)
}

// Rotate adds a key, which is published at once and signs when it has been
// announced for long enough, and removes those that no living token is signed
// with.
func (k *Keyring) Rotate() error {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.refresh(now); err != nil {
		return err
	}
	k.sweep(now)
	if len(k.keys) >= MaxKeys {
		return fmt.Errorf("signing keys: %d within %v are too many: wait until the oldest has gone", len(k.keys), overlap)
	}
	return k.add(now, now.Add(k.announce))
}

// Newest is when the newest key was made, by whichever process: when to rotate
// is told from it.
func (k *Keyring) Newest() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refreshIfOld(time.Now())
	return slices.MaxFunc(k.keys, func(a, b *signingKey) int { return a.created.Compare(b.created) }).created
}

// retired tells whether no token is alive that key i has signed.
func (k *Keyring) retired(i int, now time.Time) bool {
	return i+1 < len(k.keys) && now.Sub(k.keys[i+1].signsFrom) > overlap
}

// sweep removes the keys that are retired.
func (k *Keyring) sweep(now time.Time) {
	first := 0
	for k.retired(first, now) {
		if err := os.Remove(k.path(k.keys[first].id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			k.log.Warn("an old signing key was not removed", "error", err)
		}
		first++
	}
	k.keys = k.keys[first:]
}

func (k *Keyring) path(id string) string { return filepath.Join(k.dir, keyPrefix+id+keySuffix) }

// add makes a key.
func (k *Keyring) add(created, signsFrom time.Time) error {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := rand.Read(seed); err != nil {
		return fmt.Errorf("signing key: %w", err)
	}
	f := keyFile{created.UTC(), signsFrom.UTC(), seed}
	key, err := newSigningKey(f)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("signing key: %w", err)
	}
	if err := atomicfile.Write(k.path(key.id), append(b, '\n'), atomicfile.Options{Mode: 0o600, Durable: true}); err != nil {
		return fmt.Errorf("signing key: %w", err)
	}
	k.keys = append(k.keys, key)
	k.sort()
	return nil
}

func (k *Keyring) sort() {
	slices.SortFunc(k.keys, func(a, b *signingKey) int {
		return cmp.Or(a.signsFrom.Compare(b.signsFrom), cmp.Compare(a.id, b.id))
	})
}

func (k *Keyring) refreshIfOld(now time.Time) {
	if since := now.Sub(k.read); since >= 0 && since < refreshEvery {
		return
	}
	// A token signed with what is known is better than none.
	if err := k.refresh(now); err != nil {
		k.log.Warn("signing keys were not read again", "error", err)
	}
	k.read = now
}

// refresh reads the keys that are new in the directory, and forgets those that
// have gone. If all have, what was known is kept: an administrator's mistake is
// no reason to refuse every build.
func (k *Keyring) refresh(now time.Time) error {
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return fmt.Errorf("signing keys: %w", err)
	}
	var keys []*signingKey
	for _, e := range entries {
		k.sweepTemp(e, now)
		id, ok := strings.CutPrefix(e.Name(), keyPrefix)
		if !ok {
			continue
		}
		if id, ok = strings.CutSuffix(id, keySuffix); !ok {
			continue
		}
		if i := slices.IndexFunc(k.keys, func(key *signingKey) bool { return key.id == id }); i >= 0 {
			keys = append(keys, k.keys[i])
			continue
		}
		key, err := readKey(filepath.Join(k.dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process removed it just now
		}
		if err != nil {
			return fmt.Errorf("signing keys: %w", err)
		}
		if key.id != id {
			return fmt.Errorf("signing keys: %s is damaged: the key in it is another; remove it", filepath.Join(k.dir, e.Name()))
		}
		if keys = append(keys, key); len(keys) > MaxKeys {
			return fmt.Errorf("signing keys: more than %d in %s", MaxKeys, k.dir)
		}
	}
	if len(keys) > 0 || len(k.keys) == 0 {
		k.keys = keys
		k.sort()
	}
	k.read = now
	return nil
}

// sweepTemp removes a temporary file that a killed process left. It may hold a
// key that nobody knows of.
func (k *Keyring) sweepTemp(e fs.DirEntry, now time.Time) {
	if !atomicfile.IsTemp(e.Name()) {
		return
	}
	if fi, err := e.Info(); err == nil && now.Sub(fi.ModTime()) > time.Hour {
		os.Remove(filepath.Join(k.dir, e.Name()))
	}
}

func readKey(path string) (*signingKey, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	fi, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if runtime.GOOS != "windows" && fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %#o): remove it, so that a new key is made, or chmod 600 if nobody did", path, fi.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return nil, err
	}
	var f keyFile
	if len(b) > maxKeyFile || json.Unmarshal(b, &f) != nil || len(f.Seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s is damaged: it holds no signing key; remove it", path)
	}
	return newSigningKey(f)
}

func newSigningKey(f keyFile) (*signingKey, error) {
	private := ed25519.NewKeyFromSeed(f.Seed)
	public := private.Public().(ed25519.PublicKey)
	id := thumbprint(public)
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: private, KeyID: id}},
		(&jose.SignerOptions{}).WithType(tokenType))
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	return &signingKey{id, f.Created, f.SignsFrom, public, signer}, nil
}

// thumbprint is a key's name after RFC 7638 and RFC 8037.
func thumbprint(public ed25519.PublicKey) string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + base64.RawURLEncoding.EncodeToString(public) + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
