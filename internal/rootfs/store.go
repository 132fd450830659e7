package rootfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrNotFound says that the store has no such image.
var ErrNotFound = errors.New("no such image")

// ErrInUse says that an image cannot be removed, since somebody holds it.
var ErrInUse = errors.New("the image is in use")

// Options say how a store is kept.
type Options struct {
	// Dir is the store's directory, made where it is missing (0700). Whoever
	// can write there is trusted.
	Dir string
	// MaxBytes bounds the images together; 0 means 50 GB. What is being built,
	// and one image's spooled contents, come on top while a build lasts.
	MaxBytes int64
	// Allow is the allow-list; nil allows every image, an empty one none.
	Allow *AllowList
	// Platform is what images are built for; the zero value means Linux on this
	// machine's processor.
	Platform Platform
	Limits   Limits
	// Log gets what was built and removed; nil means none of it.
	Log *slog.Logger
}

// Store keeps images by digest. Several processes may use one directory at
// once, and one Store may be used by several goroutines. It holds
//
//	HEX.json   a record; the image counts once this is there
//	HEX.img    the image
//	HEX.files  the index of its files
//	HEX.part   an image that is being built, by whoever holds the lock
//	HEX.lock   the lock, which dies with its process
type Store struct {
	opt Options

	indexes struct {
		sync.Mutex
		open []openIndex
	}
}

// filesSuffix is that of an index's name.
const filesSuffix = ".files"

// Open opens or makes a store, and removes what builds that died left there.
func Open(opt Options) (*Store, error) {
	if opt.Platform == (Platform{}) {
		opt.Platform = Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	if opt.MaxBytes <= 0 {
		opt.MaxBytes = 50_000_000_000
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	opt.Limits = opt.Limits.withDefaults()
	if err := os.MkdirAll(opt.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	s := &Store{opt: opt}
	return s, s.sweep()
}

func (s *Store) path(digest, suffix string) string {
	return filepath.Join(s.opt.Dir, strings.TrimPrefix(digest, "sha256:")+suffix)
}

// Build returns the image of what src is, building it if it is not there yet.
// Of two builds of one image, in this process or another, the second waits for
// the first. A source that is asked by digest is not read from if the image is
// there. It fails with a *Refusal for an image that is not to be had, and
// leaves nothing behind then. progress may be nil; it is called often, by one
// goroutine at a time.
//
// The image may be evicted as soon as it is returned: who needs it longer uses
// Acquire.
func (s *Store) Build(ctx context.Context, src Source, progress func(Progress)) (Image, error) {
	img, release, err := s.Acquire(ctx, src, progress)
	if err == nil {
		release()
	}
	return img, err
}

// Acquire is Build and Hold in one step.
func (s *Store) Acquire(ctx context.Context, src Source, progress func(Progress)) (img Image, release func(), err error) {
	if err := s.opt.Allow.repository(src.Repository(), src.Name()); err != nil {
		return img, nil, err
	}
	r := &resolved{digest: src.Digest(), asked: src.Digest()}
	if _, err := s.read(r.digest); err != nil {
		if r, err = resolve(ctx, src, src.Digest(), s.opt.Platform, s.opt.Limits); err != nil {
			return img, nil, named(src, err)
		}
	}
	if err := s.opt.Allow.digest(src.Repository(), r.digest, r.asked); err != nil {
		return img, nil, err
	}
	unlock, err := s.lock(ctx, r.digest)
	if err != nil {
		return img, nil, err
	}
	defer unlock()
	rec, err := s.read(r.digest)
	if errors.Is(err, ErrNotFound) && r.layers == nil {
		// It was there a moment ago, when its manifest was not asked for.
		r, err = resolve(ctx, src, r.digest, s.opt.Platform, s.opt.Limits)
		if err == nil {
			err = ErrNotFound
		}
	}
	if errors.Is(err, ErrNotFound) {
		rec.Image, err = s.build(ctx, src, r, progress)
	}
	if err != nil {
		return img, nil, named(src, err)
	}
	origin := Origin{Name: src.Name(), Repository: src.Repository(), Asked: r.asked}
	if len(rec.Sources) == 0 || rec.Sources[0] != origin {
		rec.Sources = slices.DeleteFunc(rec.Sources, func(o Origin) bool { return o == origin })
		rec.Sources = slices.Insert(rec.Sources, 0, origin)
		rec.Sources = rec.Sources[:min(len(rec.Sources), maxSources)]
		if err := s.write(rec.Image); err != nil {
			return img, nil, err
		}
	}
	if release, err = hold(rec.Path); err != nil {
		return img, nil, err
	}
	rec.Used = s.touch(r.digest)
	if err := s.evict(r.digest); err != nil {
		s.opt.Log.Warn("images not evicted", "error", err)
	}
	return rec.Image, release, nil
}

// touch notes that an image is used now. Losing that costs an eviction too early.
func (s *Store) touch(digest string) time.Time {
	now := time.Now()
	if err := os.Chtimes(s.path(digest, ".json"), now, now); err != nil {
		s.opt.Log.Debug("image's time of use not kept", "error", err)
	}
	return now
}

// named says which image an error is about.
func named(src Source, err error) error { return fmt.Errorf("%s: %w", src.Name(), err) }

// build makes an image; the caller has its lock.
func (s *Store) build(ctx context.Context, src Source, r *resolved, progress func(Progress)) (img Image, err error) {
	start := time.Now()
	part := s.path(r.digest, ".part")
	sp, err := unnamedFile(part)
	if err != nil {
		return img, fmt.Errorf("image store: %w", err)
	}
	defer sp.Close()
	out, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return img, fmt.Errorf("image store: %w", err)
	}
	defer func() {
		out.Close()
		if err != nil {
			os.Remove(part)
		}
	}()
	index := s.path(r.digest, filesSuffix)
	if img, err = write(ctx, src, r, s.opt.Platform, s.opt.Limits, out, sp, index, progress); err != nil {
		return img, err
	}
	defer func() {
		if err != nil {
			os.Remove(index)
		}
	}()
	if img.Size > s.opt.MaxBytes {
		return img, refuse(TooManyBytes, "an image of %d bytes: the store takes %d in all", img.Size, s.opt.MaxBytes)
	}
	if err := out.Chmod(0o444); err != nil {
		return img, err
	}
	// A record must not outlive a crash of the machine without its image.
	if err := out.Sync(); err != nil {
		return img, err
	}
	img.Path, img.Built = s.path(r.digest, ".img"), time.Now().UTC().Truncate(time.Second)
	if err := os.Rename(part, img.Path); err != nil {
		return img, err
	}
	s.opt.Log.Info("image built", "digest", img.Digest, "from", src.Name(), "bytes", img.Size, "duration", time.Since(start))
	return img, nil
}

// Get returns an image that is there, and counts as use. It asks nobody else.
func (s *Store) Get(digest string) (Image, error) {
	img, release, err := s.Hold(digest)
	if err == nil {
		release()
	}
	return img, err
}

// Hold is Get, and keeps the image from being evicted or removed until release
// is called or the process ends. It fails with ErrNotFound, or with a *Refusal if
// the allow-list does not name it (any more).
func (s *Store) Hold(digest string) (img Image, release func(), err error) {
	if !IsDigest(digest) {
		return img, nil, fmt.Errorf("%q is no digest: sha256: and 64 hex digits", clip(digest))
	}
	r, err := s.read(digest)
	if err != nil {
		return img, nil, err
	}
	if err := s.opt.Allow.image(r.Image); err != nil {
		return img, nil, err
	}
	if release, err = hold(r.Path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s: %w", digest, ErrNotFound)
		}
		return img, nil, err
	}
	r.Used = s.touch(digest)
	return r.Image, release, nil
}

// List returns the images, the one that was used last first.
func (s *Store) List() ([]Image, error) {
	entries, err := os.ReadDir(s.opt.Dir)
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	images := []Image{}
	for _, e := range entries {
		hex, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !IsDigest("sha256:"+hex) {
			continue
		}
		r, err := s.read("sha256:" + hex)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		images = append(images, r.Image)
	}
	slices.SortFunc(images, func(a, b Image) int {
		return cmp.Or(b.Used.Compare(a.Used), cmp.Compare(a.Digest, b.Digest))
	})
	return images, nil
}
