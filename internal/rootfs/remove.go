package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hpcc.dev/hpcc/internal/atomicfile"
)

// Remove removes an image. It fails with ErrNotFound, or ErrInUse.
func (s *Store) Remove(ctx context.Context, digest string) error {
	if !IsDigest(digest) {
		return fmt.Errorf("%q is no digest: sha256: and 64 hex digits", clip(digest))
	}
	unlock, err := s.lock(ctx, digest)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.read(digest); err != nil {
		return err
	}
	return s.remove(digest)
}

// remove removes an image whose lock the caller has.
func (s *Store) remove(digest string) error {
	free, err := unheld(s.path(digest, ".img"))
	if err != nil {
		return err
	}
	defer free()
	if err := os.Remove(s.path(digest, ".json")); err != nil {
		return err
	}
	if err := os.Remove(s.path(digest, ".img")); err != nil {
		return err
	}
	os.Remove(s.path(digest, filesSuffix)) // without a record, Open removes it
	s.opt.Log.Info("image removed", "digest", digest)
	return nil
}

// evict removes images until those that are left fit, the one that was not used
// for longest first, but none that is held, being built, or called keep.
func (s *Store) evict(keep string) error {
	images, err := s.List()
	if err != nil {
		return err
	}
	var total int64
	for _, img := range images {
		total += img.onDisk()
	}
	for _, img := range slices.Backward(images) {
		if total <= s.opt.MaxBytes {
			return nil
		}
		if img.Digest == keep {
			continue
		}
		unlock, ok, err := s.tryLock(img.Digest)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		err = s.remove(img.Digest)
		unlock()
		switch {
		case err == nil:
			total -= img.onDisk()
		case !errors.Is(err, ErrInUse) && !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("image store: %w", err)
		}
	}
	return nil
}

// sweep removes what builds and removals left that did not come to their end.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.opt.Dir)
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	for _, e := range entries {
		if atomicfile.IsTemp(e.Name()) {
			// A record is written in milliseconds.
			if fi, err := e.Info(); err == nil && time.Since(fi.ModTime()) > time.Hour {
				os.Remove(filepath.Join(s.opt.Dir, e.Name()))
			}
			continue
		}
		hex, suffix, _ := strings.Cut(e.Name(), ".")
		digest := "sha256:" + hex
		if !IsDigest(digest) {
			continue
		}
		if suffix == "img" || suffix == "json" || "."+suffix == filesSuffix {
			if _, err := s.read(digest); err == nil {
				continue
			}
		}
		unlock, ok, err := s.tryLock(digest)
		if err != nil {
			return err
		}
		if !ok {
			continue // being built
		}
		os.Remove(s.path(digest, ".part"))
		os.Remove(s.path(digest, ".spool"))
		if _, err := s.read(digest); errors.Is(err, ErrNotFound) {
			// Who holds it has it open.
			os.Remove(s.path(digest, ".json"))
			os.Remove(s.path(digest, ".img"))
			os.Remove(s.path(digest, filesSuffix))
		}
		unlock()
	}
	return nil
}
