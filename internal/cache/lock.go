package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/filelock"
)

// lockPatience is how long a lock is waited for. Whoever has one holds it for a
// millisecond; only a process that was stopped meanwhile holds it longer, and a
// build does better without the cache than to wait for that.
const lockPatience = 5 * time.Second

// lockManifest takes the lock that guards a manifest: one of 256, so that the
// lock files need no cleaning up. Locks hold between goroutines as between
// processes, since each call opens the file anew.
func (c *Disk) lockManifest(key digest.Key, patience time.Duration) (unlock func(), err error) {
	return c.lock("manifest-"+key.String()[:2], patience)
}

// lock takes a lock by name, and waits for it as long as patience lasts: after
// that, it is ErrBusy.
func (c *Disk) lock(name string, patience time.Duration) (unlock func(), err error) {
	path := filepath.Join(c.dir, "lock", name)
	f, err := acquire(path, patience)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			f, err = acquire(path, patience)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, classify(err))
	}
	return func() { f.Close() }, nil
}

// acquire opens a file and locks it until it is closed. The file is never
// removed while the cache is in use, but the whole cache may be: then those who
// wait for the old file and those who find a new one would both get a lock, so
// that a file counts only if it is still the one at path.
func acquire(path string, patience time.Duration) (*os.File, error) {
	deadline := time.Now().Add(patience)
	for pause := 50 * time.Microsecond; ; {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		for {
			ok, err := filelock.Try(f)
			if err != nil {
				f.Close()
				return nil, err
			}
			if ok {
				break
			}
			if time.Now().After(deadline) {
				f.Close()
				return nil, ErrBusy
			}
			// Polling, because a blocked flock cannot be given up; at random
			// intervals, or two waiters would go on meeting each other.
			time.Sleep(pause/2 + rand.N(pause))
			pause = min(2*pause, 5*time.Millisecond)
		}
		held, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		if named, err := os.Stat(path); err == nil && os.SameFile(held, named) {
			return f, nil
		}
		f.Close()
		if time.Now().After(deadline.Add(lockPatience)) {
			return nil, ErrBusy // another file each time
		}
	}
}
