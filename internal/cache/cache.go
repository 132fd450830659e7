// Package cache keeps results on disk: an action cache (entries under action
// keys), a content store (blobs under digests) and manifests, shared by every
// process of a user.
//
// Nothing that is read back is trusted. A blob must have the size and digest
// of its name, entries and manifests carry checksums and are checked against
// the key that they are asked for; what fails is removed, counted and
// reported as not found. That is also why writes are not synced: a crash of
// the machine may cost entries, never a wrong object.
//
// Layout below the cache directory:
//
//	cas/ab/HEX-SIZE[.zst]   blobs, raw or as one zstd frame
//	ac/ab/HEX               entries (package action), zstd
//	manifest/ab/HEX         manifests (package action), zstd
//	memo/KIND/ab/HEX        small records of other packages, checksummed
//	lock/ab                 held while a manifest of that shard is rewritten
//	tmp/                    files on their way; swept of old ones when opened
package cache

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
)

// ErrNotFound says that the cache does not hold what was asked for, or held
// it damaged and has removed it.
var ErrNotFound = errors.New("not in the cache")

// DefaultMaxBytes bounds a cache whose owner set no bound.
const DefaultMaxBytes = 10_000_000_000

// maxBlob bounds one blob; larger outputs are not cached.
const maxBlob = 1 << 30

// Options say where a cache lies and how large it may grow.
type Options struct {
	Dir      string
	MaxBytes int64 // of file content; 0 means DefaultMaxBytes
}

// Disk is a cache directory. Safe for concurrent use, in one process and by
// many.
type Disk struct {
	dir     string
	max     int64
	reflink bool
	damaged atomic.Int64
	usage   usage
	// verified remembers raw blobs whose content was checked, by stat, so
	// that cloning one again need not read it.
	verified sync.Map // string -> stampKey
}

var areas = []string{"cas", "ac", "manifest", "memo", "lock", "tmp"}

// Open opens a cache directory and makes it if need be, readable by its owner
// only.
func Open(opt Options) (*Disk, error) {
	if !filepath.IsAbs(opt.Dir) {
		return nil, fmt.Errorf("cache directory %q is not an absolute path", opt.Dir)
	}
	if opt.MaxBytes == 0 {
		opt.MaxBytes = DefaultMaxBytes
	}
	c := &Disk{dir: opt.Dir, max: opt.MaxBytes}
	for _, area := range areas {
		if err := os.MkdirAll(filepath.Join(c.dir, area), 0o700); err != nil {
			return nil, fmt.Errorf("making the cache: %w", err)
		}
	}
	c.usage.path = filepath.Join(c.dir, "usage")
	c.reflink = c.canReflink()
	c.sweepTemp()
	return c, nil
}

// Dir is the cache directory.
func (c *Disk) Dir() string { return c.dir }

// TempDir is a directory for files on their way, on the cache's own file
// system. Files older than a day are removed when a cache is opened.
func (c *Disk) TempDir() string { return filepath.Join(c.dir, "tmp") }

// Damaged counts the files that this process found damaged and removed.
func (c *Disk) Damaged() int64 { return c.damaged.Load() }

const tempAge = 24 * time.Hour

func (c *Disk) sweepTemp() {
	entries, _ := os.ReadDir(c.TempDir())
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > tempAge {
			os.Remove(filepath.Join(c.TempDir(), e.Name()))
		}
	}
}

func (c *Disk) path(area, hex, rest string) string {
	return filepath.Join(c.dir, area, hex[:2], hex+rest)
}

// put writes a file of the cache and accounts for it. The shard's directory
// is made when it is missing, which it also is after somebody emptied the
// cache under way.
func (c *Disk) put(path string, data []byte) error {
	write := func() error { return c.writeFile(path, data) }
	err := write()
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.MkdirAll(c.TempDir(), 0o700); err != nil {
			return err
		}
		err = write()
	}
	if err != nil {
		return err
	}
	if c.usage.add(int64(len(data)), 1) > c.max {
		return c.Evict()
	}
	return nil
}

// writeFile goes through tmp/, so that a writer that is killed leaves nothing
// among the cache's files.
func (c *Disk) writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(c.TempDir(), "put-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// discard removes a file of the cache that turned out to be damaged.
func (c *Disk) discard(path string) {
	c.damaged.Add(1)
	if st, err := os.Stat(path); err == nil && os.Remove(path) == nil {
		c.usage.add(-st.Size(), -1)
	}
}

// Entry returns the entry of an action key.
func (c *Disk) Entry(key digest.Key) (*action.Entry, error) {
	path := c.path("ac", key.String(), "")
	b, err := c.readRecord(path)
	if err != nil {
		return nil, err
	}
	e, err := action.DecodeEntry(b)
	if err == nil && e.Action.Key() != key {
		err = errors.New("the entry is another action's")
	}
	if err != nil {
		c.discard(path)
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return e, nil
}

// PutEntry stores an entry whose blobs are stored.
func (c *Disk) PutEntry(key digest.Key, e *action.Entry) error {
	return c.put(c.path("ac", key.String(), ""), compress(action.EncodeEntry(e)))
}

// Stamp tells versions of a file apart; comparable. The zero Stamp is that of
// a file that does not exist.
type Stamp struct {
	dev, ino           uint64
	size, mtime, ctime int64
}

func stampOf(st *unix.Stat_t) Stamp {
	return Stamp{st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
}

// ManifestStamp tells whether a manifest changed, without reading it.
func (c *Disk) ManifestStamp(key digest.Key) (Stamp, error) {
	var st unix.Stat_t
	if err := unix.Stat(c.path("manifest", key.String(), ""), &st); err != nil {
		if err == unix.ENOENT {
			return Stamp{}, nil
		}
		return Stamp{}, err
	}
	return stampOf(&st), nil
}

// Manifest returns a manifest and its stamp.
func (c *Disk) Manifest(key digest.Key) (*action.Manifest, Stamp, error) {
	path := c.path("manifest", key.String(), "")
	// Before the content: a manifest that is replaced in between is read
	// again because of its stamp, not missed.
	stamp, err := c.ManifestStamp(key)
	if err != nil {
		return nil, Stamp{}, err
	}
	if stamp == (Stamp{}) {
		return nil, stamp, ErrNotFound
	}
	b, err := c.readRecord(path)
	if err != nil {
		return nil, Stamp{}, err
	}
	m, err := decodeManifest(key, b)
	if err != nil {
		c.discard(path)
		return nil, Stamp{}, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return m, stamp, nil
}

// A manifest is stored behind its own key, so that one that lies under
// another's name is noticed.
func decodeManifest(key digest.Key, b []byte) (*action.Manifest, error) {
	rest, ok := strings.CutPrefix(string(b), string(key[:]))
	if !ok {
		return nil, errors.New("the manifest is another command's")
	}
	return action.DecodeManifest([]byte(rest))
}

// UpdateManifest changes a manifest under a lock that all processes take, so
// that no writer loses another's candidate. A missing or damaged manifest is
// an empty one.
func (c *Disk) UpdateManifest(key digest.Key, change func(*action.Manifest) error) (Stamp, error) {
	unlock, err := c.lock(key.String()[:2])
	if err != nil {
		return Stamp{}, err
	}
	defer unlock()
	m, _, err := c.Manifest(key)
	if err != nil {
		if !errors.Is(err, ErrNotFound) {
			return Stamp{}, err
		}
		m = &action.Manifest{}
	}
	if err := change(m); err != nil {
		return Stamp{}, err
	}
	path := c.path("manifest", key.String(), "")
	if st, err := os.Stat(path); err == nil {
		c.usage.add(-st.Size(), -1)
	}
	if err := c.put(path, compress(append(key[:], action.EncodeManifest(m)...))); err != nil {
		return Stamp{}, err
	}
	return c.ManifestStamp(key)
}

// lock takes one of 256 locks and returns how to release it.
func (c *Disk) lock(name string) (unlock func(), err error) {
	path := filepath.Join(c.dir, "lock", name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	}
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

func flock(f *os.File, how int) error {
	for {
		// Signals that the Go runtime sends itself interrupt the wait.
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// Memo returns a small record of another package, stored under "kind/HEX".
func (c *Disk) Memo(name string) ([]byte, error) {
	path, err := c.memoPath(name)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, notFound(err)
	}
	body, ok := checkMemo(name, b)
	if !ok {
		c.discard(path)
		return nil, ErrNotFound
	}
	return body, nil
}

// PutMemo stores a record, in place of an older one.
func (c *Disk) PutMemo(name string, b []byte) error {
	path, err := c.memoPath(name)
	if err != nil {
		return err
	}
	if st, err := os.Stat(path); err == nil {
		c.usage.add(-st.Size(), -1)
	}
	sum := memoSum(name, b)
	return c.put(path, append(sum[:], b...))
}

func (c *Disk) memoPath(name string) (string, error) {
	kind, hex, ok := strings.Cut(name, "/")
	if _, err := digest.ParseKey(hex); err != nil || !ok || kind == "" || strings.ContainsAny(kind, "./") {
		return "", fmt.Errorf("%q is not the name of a record", name)
	}
	return filepath.Join(c.dir, "memo", kind, hex[:2], hex), nil
}

// memoSum covers the name, so that a record under another's name is noticed.
func memoSum(name string, b []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte(name+"\x00"), b...))
}

func checkMemo(name string, b []byte) ([]byte, bool) {
	if len(b) < sha256.Size {
		return nil, false
	}
	body := b[sha256.Size:]
	return body, memoSum(name, body) == [sha256.Size]byte(b)
}

func notFound(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotFound
	}
	return err
}
