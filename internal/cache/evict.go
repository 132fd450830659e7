package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
)

// Usage is what a cache holds.
type Usage struct {
	// Bytes of file content, without the file system's own overhead.
	Bytes    int64 `json:"bytes"`
	MaxBytes int64 `json:"max_bytes"`
	// Files of all kinds.
	Files int64 `json:"files"`
	// Entries of the action cache.
	Entries int64 `json:"entries"`
}

// usage is a running total that all processes share. Each adds what it wrote
// in steps, since exactness is not needed between two scans.
type usage struct {
	path  string
	mu    sync.Mutex
	bytes int64 // not yet added to the file
	files int64
	total int64 // as of the last look at the file
	looks int
}

type usageFile struct {
	Bytes int64 `json:"bytes"`
	Files int64 `json:"files"`
}

// usageStep is how much a process writes before it tells the others.
const usageStep = 1 << 20

// add accounts for a change and returns the estimated total.
func (u *usage) add(bytes, files int64) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.bytes += bytes
	u.files += files
	u.looks++
	if u.looks == 1 || u.bytes >= usageStep || u.bytes <= -usageStep {
		u.flush()
	}
	return u.total + u.bytes
}

// flush adds the pending change to the file; u.mu is held. Failing to count
// must not fail a compile: the next scan counts anew.
func (u *usage) flush() {
	total, err := u.change(func(f *usageFile) { f.Bytes += u.bytes; f.Files += u.files })
	if err == nil {
		u.total, u.bytes, u.files = total.Bytes, 0, 0
	}
}

func (u *usage) change(edit func(*usageFile)) (usageFile, error) {
	f, err := os.OpenFile(u.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return usageFile{}, err
	}
	defer f.Close()
	if err := flock(f, unix.LOCK_EX); err != nil {
		return usageFile{}, err
	}
	var v usageFile
	_ = json.NewDecoder(f).Decode(&v) // an empty or damaged file counts nothing
	edit(&v)
	v.Bytes, v.Files = max(v.Bytes, 0), max(v.Files, 0)
	b, err := json.Marshal(v)
	if err != nil {
		return v, err
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		return v, err
	}
	return v, f.Truncate(int64(len(b)))
}

// Usage scans the cache and returns what it holds.
func (c *Disk) Usage() (Usage, error) {
	u := Usage{MaxBytes: c.max}
	for _, area := range []string{"cas", "ac", "manifest", "memo"} {
		err := c.walk(area, func(_ string, info fs.FileInfo) {
			u.Bytes += info.Size()
			u.Files++
			if area == "ac" {
				u.Entries++
			}
		})
		if err != nil {
			return u, err
		}
	}
	c.usage.mu.Lock()
	defer c.usage.mu.Unlock()
	_, err := c.usage.change(func(f *usageFile) { *f = usageFile{u.Bytes, u.Files} })
	if err == nil {
		c.usage.total, c.usage.bytes, c.usage.files = u.Bytes, 0, 0
	}
	return u, nil
}

// lowWater is the share of the maximum that eviction leaves, in percent:
// evicting a tenth at once makes scans rare.
const lowWater = 90

// Evict removes what was used least recently until the cache is below 90 % of
// its maximum. One process at a time evicts; others go on without waiting.
func (c *Disk) Evict() error {
	f, err := os.OpenFile(filepath.Join(c.dir, "lock", "evict"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // somebody is at it
	}
	type item struct {
		path string
		size int64
		used time.Time
	}
	var items []item
	var total int64
	for _, area := range []string{"cas", "ac", "manifest", "memo"} {
		err := c.walk(area, func(path string, info fs.FileInfo) {
			items = append(items, item{path, info.Size(), info.ModTime()})
			total += info.Size()
		})
		if err != nil {
			return err
		}
	}
	if total > c.max {
		slices.SortFunc(items, func(a, b item) int { return a.used.Compare(b.used) })
		for _, it := range items {
			if total <= c.max/100*lowWater {
				break
			}
			// Readers that have it open keep it; those that come later find
			// nothing, and compile.
			if err := os.Remove(it.path); err == nil || errors.Is(err, fs.ErrNotExist) {
				total -= it.size
			}
		}
	}
	_, err = c.Usage()
	return err
}

// CleanReport says what was removed.
type CleanReport struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
}

// Clean removes what was not used for the given time; with 0, everything.
// Statistics stay.
func (c *Disk) Clean(olderThan time.Duration) (CleanReport, error) {
	var r CleanReport
	now := time.Now()
	for _, area := range []string{"manifest", "ac", "cas", "memo"} {
		err := c.walk(area, func(path string, info fs.FileInfo) {
			if olderThan == 0 || now.Sub(info.ModTime()) > olderThan {
				if os.Remove(path) == nil {
					r.Files++
					r.Bytes += info.Size()
				}
			}
		})
		if err != nil {
			return r, err
		}
	}
	_, err := c.Usage()
	return r, err
}

// FsckReport lists what a check found; Problems are one line each.
type FsckReport struct {
	Files    int64    `json:"files"`
	Problems []string `json:"problems"`
	Removed  int64    `json:"removed"`
}

// Fsck reads everything and checks it: blobs against their digests, entries
// against their keys and for their blobs, manifests against their keys. Files
// that are damaged are removed with repair. Entries without their blobs are
// problems of no consequence (eviction leaves them; they read as misses) and
// removed with repair too.
func (c *Disk) Fsck(repair bool) (FsckReport, error) {
	r := FsckReport{Problems: []string{}}
	problem := func(path, what string) {
		rel, _ := filepath.Rel(c.dir, path)
		r.Problems = append(r.Problems, rel+": "+what)
		if repair && os.Remove(path) == nil {
			r.Removed++
		}
	}
	err := c.walk("cas", func(path string, _ fs.FileInfo) {
		r.Files++
		if err := c.checkBlob(path); err != nil {
			problem(path, err.Error())
		}
	})
	if err != nil {
		return r, err
	}
	err = c.walk("ac", func(path string, _ fs.FileInfo) {
		r.Files++
		if err := c.checkEntry(path); err != nil {
			problem(path, err.Error())
		}
	})
	if err != nil {
		return r, err
	}
	err = c.walk("manifest", func(path string, _ fs.FileInfo) {
		r.Files++
		if err := checkFile(path, func(key digest.Key, b []byte) error {
			_, err := decodeManifest(key, b)
			return err
		}); err != nil {
			problem(path, err.Error())
		}
	})
	return r, err
}

func (c *Disk) checkBlob(path string) error {
	name, packed := strings.CutSuffix(filepath.Base(path), ".zst")
	d, err := digest.Parse(strings.Replace(name, "-", "/", 1))
	if err != nil {
		return errors.New("not a blob's name")
	}
	b, err := os.ReadFile(path)
	if err == nil && packed {
		b, err = unpack(b, uint64(d.Size()))
	}
	if err != nil {
		return err
	}
	if digest.Of(b) != d {
		return digest.ErrMismatch
	}
	return nil
}

func (c *Disk) checkEntry(path string) error {
	return checkFile(path, func(key digest.Key, b []byte) error {
		e, err := action.DecodeEntry(b)
		if err != nil {
			return err
		}
		if e.Action.Key() != key {
			return errors.New("the entry is another action's")
		}
		for _, o := range e.Result.Outputs {
			raw, packed := c.blobPath(o.Digest)
			_, errRaw := os.Stat(raw)
			if _, err := os.Stat(packed); err != nil && errRaw != nil {
				return fmt.Errorf("its %s is missing", o.Role)
			}
		}
		return nil
	})
}

func checkFile(path string, check func(digest.Key, []byte) error) error {
	key, err := digest.ParseKey(filepath.Base(path))
	if err != nil {
		return err
	}
	packed, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b, err := unpack(packed, maxRecord)
	if err != nil {
		return err
	}
	return check(key, b)
}
