// Package cache keeps results of compiles on disk, shared by every process
// that opens the directory: daemons, one-shot compiles, `hpcc clean`.
//
// It holds five kinds of files. A blob is some output's bytes, named by their
// digest (the content store, CAS). An entry is an action with its result,
// named by the action's key (the action cache, AC); the result names blobs. A
// manifest lists, for one source and command, candidates that name entries. A
// memo is a small record that some part of hpcc keeps for itself, such as the
// identity of a compiler. A quarantined entry is one that was found wrong, kept
// for people and read by no look-up.
//
//	cas/ab/abcd…-1234        a blob of 1,234 bytes
//	cas/ab/abcd…-1234.zst    the same, compressed
//	ac/ab/abcd…              an entry
//	manifest/ab/abcd…        a manifest
//	memo/KIND/ab/abcd…       a memo
//	quarantine/ab/abcd…      a quarantined entry
//	tmp/                     files not complete yet
//	lock/                    lock files, all empty
//	usage                    bytes and entries held, roughly
//	VERSION                  of this layout
//
// # What is promised
//
// Nothing that is read back is trusted. Blobs are checked against their
// digest, the rest carries a checksum that covers the key it is stored under.
// What is damaged, truncated or in another file's place is removed, counted
// (Damaged) and ErrNotFound, so that for the caller it is a miss and the next
// compile repairs it. This is why nothing is synced to disk: a crash of the
// machine costs misses, never a wrong result.
//
// Files appear whole (package atomicfile) and are never changed in place. Any
// process may remove any file at any time, and the whole directory may go: a
// reader that holds a file open reads on, others find nothing, and the next
// writer makes the directories again. A result whose blob was evicted is a
// miss like any other. Only manifests are read, changed and written again,
// which is done under a lock for each.
//
// The last use of a file is its modification time, brought up to date at most
// once an hour: eviction goes by it.
package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/atomicfile"
	"hpcc.dev/hpcc/internal/digest"
)

// DefaultMaxBytes is how large a cache may grow if nothing else is said.
const DefaultMaxBytes = 10_000_000_000

// version is what VERSION holds.
const version = "hpcc cache 1\n"

// touchAfter is how old a time of last use may get before a use renews it. An
// hour keeps the order of eviction right for a cache that lasts for days, and
// hits from writing to the disk.
const touchAfter = time.Hour

// staleAfter is when an unfinished file belongs to nobody any more: far more
// than the longest compile.
const staleAfter = 24 * time.Hour

var (
	// ErrNotFound says that the cache does not have it, or had it damaged.
	ErrNotFound = errors.New("not in the cache")
	// ErrFull says that the disk, a quota or a file size limit is exhausted.
	ErrFull = errors.New("no space left for the cache")
	// ErrReadOnly says that the cache may be read and not written.
	ErrReadOnly = errors.New("the cache cannot be written")
	// ErrVersion says that the directory holds the cache of another version.
	ErrVersion = errors.New("the cache was made by another version of hpcc")
	// ErrBusy says that another process held a lock for too long.
	ErrBusy = errors.New("the cache is locked by another process")
	// ErrTooLarge says that something exceeds what is kept, MaxBlob for blobs.
	ErrTooLarge = action.ErrTooLarge
)

// Options say where a cache is and how large it may grow.
type Options struct {
	// Dir is made, with mode 0700, if it does not exist.
	Dir string
	// MaxBytes is the size beyond which what was not used for longest is
	// evicted, in bytes of the files held; what the file system takes beside
	// them is not counted. 0 means DefaultMaxBytes.
	MaxBytes int64
}

// Disk is an open cache. All methods may be called concurrently.
type Disk struct {
	dir     string
	max     int64
	damaged atomic.Int64

	reflinks func() bool // whether the file system can share blocks; probed once
	verified verified
	usage    usage

	evicting   atomic.Bool
	background sync.WaitGroup
}

// Open opens the cache in a directory, and makes it if it is not there. A cache
// that cannot be written still opens if it can be read.
func Open(opt Options) (*Disk, error) {
	if opt.Dir == "" {
		return nil, errors.New("cache: no directory given")
	}
	dir, err := filepath.Abs(opt.Dir)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	c := &Disk{dir: dir, max: opt.MaxBytes}
	if c.max <= 0 {
		c.max = DefaultMaxBytes
	}
	c.reflinks = sync.OnceValue(func() bool { return canClone(c.TempDir()) })
	if err := c.checkVersion(); err != nil {
		return nil, fmt.Errorf("cache %s: %w", dir, err)
	}
	c.sweep(time.Now())
	return c, nil
}

// Peek opens a cache that is there already, to look at: it makes nothing and
// sweeps nothing. It is ErrNotFound where there is none.
func Peek(dir string, maxBytes int64) (*Disk, error) {
	c := &Disk{dir: dir, max: maxBytes, reflinks: func() bool { return false }}
	if _, err := os.Stat(filepath.Join(dir, "VERSION")); errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err := c.checkVersion(); err != nil {
		return nil, fmt.Errorf("cache %s: %w", dir, err)
	}
	return c, nil
}

// Close writes the accounting that is pending and waits for an eviction that is
// under way. No call may follow. Of a Disk that is not closed no more is lost
// than the former, which the next eviction sets right.
func (c *Disk) Close() error {
	err := c.flushUsage(time.Second)
	c.background.Wait()
	return err
}

// Dir is the cache's directory. Whatever lies in it beside the layout above is
// left alone.
func (c *Disk) Dir() string { return c.dir }

// TempDir is a directory on the cache's file system for files that are not
// complete yet, or not needed for long. Open removes what is older than a day.
func (c *Disk) TempDir() string { return filepath.Join(c.dir, "tmp") }

// Damaged is how many damaged files this Disk has come upon.
func (c *Disk) Damaged() int64 { return c.damaged.Load() }

func (c *Disk) checkVersion() error {
	path := filepath.Join(c.dir, "VERSION")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := errors.Join(os.MkdirAll(c.TempDir(), 0o700), os.MkdirAll(filepath.Join(c.dir, "lock"), 0o700)); err != nil {
			return classify(err)
		}
		if _, err := os.Stat(filepath.Join(c.dir, "cas")); errors.Is(err, fs.ErrNotExist) {
			// New and empty: nothing needs to be counted.
			_ = c.write(filepath.Join(c.dir, "usage"), formatUsage(0, 0))
		}
		return c.write(path, []byte(version))
	}
	if err != nil {
		return err
	}
	// A crash may leave it empty.
	if string(b) != version && len(b) > 0 {
		return fmt.Errorf("%w: %q", ErrVersion, b[:min(len(b), 40)])
	}
	return nil
}

// sweep removes unfinished files that nobody will finish.
func (c *Disk) sweep(now time.Time) {
	files, _ := os.ReadDir(c.TempDir())
	for _, e := range files {
		if fi, err := e.Info(); err == nil && now.Sub(fi.ModTime()) > staleAfter {
			os.RemoveAll(filepath.Join(c.TempDir(), e.Name()))
		}
	}
}

// Kind is a kind of file.
type Kind uint8

// The kinds of files.
const (
	KindBlob Kind = iota
	KindEntry
	KindManifest
	KindMemo
	KindQuarantined
)

// kinds names each kind, and the directory of its files.
var kinds = [...]struct{ name, dir string }{
	KindBlob:     {"blob", "cas"},
	KindEntry:    {"entry", "ac"},
	KindManifest: {"manifest", "manifest"},
	KindMemo:     {"memo", "memo"},

	KindQuarantined: {"quarantined entry", "quarantine"},
}

// String is "blob", "entry", "manifest", "memo" or "quarantined entry".
func (k Kind) String() string { return kinds[k].name }

// path is where an entry or a manifest lies.
func (c *Disk) path(k Kind, key digest.Key) string {
	name := key.String()
	return c.dir + "/" + kinds[k].dir + "/" + name[:2] + "/" + name
}

// write puts a complete file at path. The first file of a shard finds no
// directory, and so does any after the cache was deleted under way. A directory
// in the file's place goes.
func (c *Disk) write(path string, data []byte) error {
	opt := atomicfile.Options{TempDir: c.TempDir()}
	err := atomicfile.Write(path, data, opt)
	for try := 0; try < 3 && err != nil; try++ {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.MkdirAll(c.TempDir(), 0o700))
		case isDir(path):
			err = os.RemoveAll(path)
		default:
			return classify(err)
		}
		if err == nil {
			err = atomicfile.Write(path, data, opt)
		}
	}
	return classify(err)
}

func isDir(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.IsDir()
}

// classify joins an error of the file system with the one of ours that callers
// tell apart.
func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return fmt.Errorf("%w: %w", ErrFull, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	return err
}

// Stamp tells versions of a file apart: two equal ones are of one file that
// was not written between. It is comparable; the zero value is no file's.
type Stamp struct {
	dev, ino, size uint64
	mtime, ctime   int64 // nanoseconds
}

// IsZero reports whether s is no file's.
func (s Stamp) IsZero() bool { return s == Stamp{} }

// open opens a file for reading, renews its time of last use, and returns its
// stamp. A file longer than limit is damaged.
func (c *Disk) open(path string, limit int64) (*os.File, Stamp, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Stamp{}, ErrNotFound
	}
	if err != nil {
		return nil, Stamp{}, err
	}
	fi, err := f.Stat()
	if err == nil && touch(path, fi) {
		fi, err = f.Stat()
	}
	if err != nil {
		f.Close()
		return nil, Stamp{}, err
	}
	s := stampOf(fi)
	if !fi.Mode().IsRegular() || fi.Size() > limit {
		f.Close()
		c.discard(path, s)
		return nil, Stamp{}, ErrNotFound
	}
	return f, s, nil
}

// touch renews a file's time of last use if it is old enough, and reports
// whether it did. In a cache that cannot be written times stay as they are.
func touch(path string, fi fs.FileInfo) bool {
	now := time.Now()
	if now.Sub(fi.ModTime()) < touchAfter {
		return false
	}
	return os.Chtimes(path, now, now) == nil
}

// discard counts a damaged file and removes it, unless another process has
// already put a good one in its place.
func (c *Disk) discard(path string, s Stamp) {
	c.damaged.Add(1)
	fi, err := os.Lstat(path)
	if err != nil {
		return
	}
	if now := stampOf(fi); now != s {
		return
	}
	if os.RemoveAll(path) == nil { // RemoveAll, for a directory in a file's place
		c.account(-fi.Size(), 0)
	}
}
