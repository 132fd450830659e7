package cache

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Usage is how much a cache holds.
type Usage struct {
	// Bytes is the size of all files together, and MaxBytes what it may be. A
	// process that was killed takes up to flushBytes unaccounted with it, until
	// the next eviction, Clean or Fsck counts anew.
	Bytes, MaxBytes int64
	// Entries is the number of results.
	Entries int64
}

// usage is what this process has added and removed since it last told the
// others.
type usage struct {
	mu             sync.Mutex
	bytes, entries int64
}

// flushBytes is how much may be unaccounted. With each entry the accounting is
// flushed anyway (some 15 µs for each compile), so that this concerns blobs of
// compiles that are under way.
const flushBytes = 1 << 20

// account notes that the cache has grown.
func (c *Disk) account(bytes, entries int64) {
	u := &c.usage
	u.mu.Lock()
	u.bytes += bytes
	u.entries += entries
	due := entries != 0 || u.bytes >= flushBytes || u.bytes <= -flushBytes
	u.mu.Unlock()
	if due {
		// A compile waits for this; what could not be written stays pending.
		_ = c.flushUsage(50 * time.Millisecond)
	}
}

// flushUsage adds what is pending to the shared accounting, and starts an
// eviction if the cache is now too large.
func (c *Disk) flushUsage(patience time.Duration) error {
	u := &c.usage
	u.mu.Lock()
	bytes, entries := u.bytes, u.entries
	u.bytes, u.entries = 0, 0
	u.mu.Unlock()
	if bytes == 0 && entries == 0 {
		return nil
	}
	var total int64
	known := false
	err := c.withUsage(patience, func(b, e int64, ok bool) (int64, int64, bool) {
		known = ok
		total = b + bytes
		return max(total, 0), max(e+entries, 0), ok
	})
	if err != nil {
		u.mu.Lock()
		u.bytes += bytes
		u.entries += entries
		u.mu.Unlock()
		return err
	}
	if !known || total > c.max {
		c.evictSoon()
	}
	return nil
}

// withUsage calls change with the shared accounting, of which ok says whether
// it is known at all, and stores what change returns if that is.
func (c *Disk) withUsage(patience time.Duration, change func(bytes, entries int64, ok bool) (int64, int64, bool)) error {
	f, err := acquire(filepath.Join(c.dir, "usage"), patience)
	if err != nil {
		return classify(err)
	}
	defer f.Close()
	bytes, entries, ok := readUsage(f)
	b, e, known := change(bytes, entries, ok)
	if !known || ok && b == bytes && e == entries {
		return nil
	}
	// In place, since the lock is on the file, and of constant length, so that a
	// writer killed half-way leaves numbers that are wrong at worst.
	_, err = f.WriteAt(formatUsage(b, e), 0)
	return classify(err)
}

func formatUsage(bytes, entries int64) []byte {
	return fmt.Appendf(nil, "%019d %019d\n", bytes, entries)
}

func readUsage(r io.Reader) (bytes, entries int64, ok bool) {
	n, err := fmt.Fscanf(io.LimitReader(r, 64), "%d %d\n", &bytes, &entries)
	return bytes, entries, n == 2 && err == nil && bytes >= 0 && entries >= 0
}

// Usage returns how much the cache holds. It costs a read, unless the
// accounting was lost.
func (c *Disk) Usage() (Usage, error) {
	u := Usage{MaxBytes: c.max}
	flushErr := c.flushUsage(time.Second)
	f, err := os.Open(filepath.Join(c.dir, "usage"))
	if err == nil {
		var ok bool
		u.Bytes, u.Entries, ok = readUsage(f)
		f.Close()
		if ok && flushErr == nil {
			return u, nil
		}
	}
	// A cache that cannot be written is counted each time.
	files := tally{}
	if err := c.walk(context.Background(), files.add); err != nil {
		return Usage{}, fmt.Errorf("counting the cache: %w", err)
	}
	u.Bytes, u.Entries = files.bytes, files.entries
	_ = c.setUsage(files)
	return u, nil
}

// setUsage stores what a full count found. What is pending was counted with the
// rest; what was added while the count went on, here or elsewhere, may be
// missing until the next.
func (c *Disk) setUsage(t tally) error {
	c.usage.mu.Lock()
	c.usage.bytes, c.usage.entries = 0, 0
	c.usage.mu.Unlock()
	return c.withUsage(time.Second, func(int64, int64, bool) (int64, int64, bool) { return t.bytes, t.entries, true })
}

// tally counts files.
type tally struct{ bytes, entries int64 }

func (t *tally) add(f file) error {
	t.bytes += f.size
	if f.kind == KindEntry {
		t.entries++
	}
	return nil
}

func (t *tally) remove(f file) {
	t.bytes -= f.size
	if f.kind == KindEntry {
		t.entries--
	}
}
