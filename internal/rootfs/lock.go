package rootfs

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"time"

	"hpcc.dev/hpcc/internal/filelock"
)

// lock waits for the lock of a digest: who has it may build or remove the image.
func (s *Store) lock(ctx context.Context, digest string) (unlock func(), err error) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		unlock, ok, err := s.tryLock(digest)
		if ok || err != nil {
			return unlock, err
		}
		// Polling, because a lock that is waited for cannot be given up.
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// tryLock takes the lock of a digest if it is free. The file goes when the lock
// does; so a file counts as locked only while it still has its name.
func (s *Store) tryLock(digest string) (unlock func(), ok bool, err error) {
	path := s.path(digest, ".lock")
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, false, fmt.Errorf("image store: %w", err)
		}
		ok, err := filelock.Try(f)
		if !ok || err != nil {
			f.Close()
			return nil, false, err
		}
		if isAt(f, path) {
			return func() {
				os.Remove(path)
				f.Close()
			}, true, nil
		}
		f.Close()
	}
}

// hold locks an image for reading, so that nobody removes it.
func hold(path string) (release func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	ok, err := filelock.TryShared(f)
	if err == nil && !(ok && isAt(f, path)) {
		err = fmt.Errorf("%s: %w", path, fs.ErrNotExist) // being removed
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// isAt reports whether an open file is still the one that has its name.
func isAt(f *os.File, path string) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(open, named)
}

// unheld locks an image against being held, or fails with ErrInUse.
func unheld(path string) (free func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	ok, err := filelock.Try(f)
	if err == nil && !ok {
		err = ErrInUse
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
