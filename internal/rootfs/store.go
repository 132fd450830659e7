package rootfs

import (
	"cmp"
	"context"
	"encoding/json"
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

	"hpcc.dev/hpcc/internal/atomicfile"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/filelock"
)

// Image is a root file system that lies ready in a store.
type Image struct {
	// Digest names the platform manifest that it was built from:
	// "sha256:" and 64 hex digits. It is the image's identity.
	Digest string `json:"digest"`
	// Path is the file: DataBlocks blocks of 4,096 bytes that are an ext4 file
	// system, then a dm-verity super block and hash tree. It is read-only, and is
	// removed or replaced as a whole: who opened it keeps what it was.
	Path string `json:"path"`
	// Size is the file's, in bytes.
	Size       int64 `json:"size"`
	DataBlocks int64 `json:"data_blocks"`
	// RootHash and Salt are those of the hash tree, in hex (see ext4.Verity).
	RootHash string `json:"root_hash"`
	Salt     string `json:"salt"`

	Platform string `json:"platform"`
	// Env is the environment that the image's configuration asks for, as hostile
	// as the image.
	Env    []string `json:"env,omitempty"`
	Layers int      `json:"layers"`
	// Content is how many bytes of content the files have.
	Content int64 `json:"content_bytes"`
	// Files is the digest of the index of the files (see Store.Lookup), as
	// digest.Parse reads it.
	Files string `json:"files"`
	// Sources are the names under which it was asked for, the latest first.
	Sources []Origin  `json:"sources"`
	Built   time.Time `json:"built"`
	Used    time.Time `json:"used"`
}

// onDisk is what an image takes of a store's bytes.
func (img Image) onDisk() int64 {
	d, _ := digest.Parse(img.Files) // an image without an index counts as absent
	return img.Size + d.Size()
}

// Origin is a name under which an image was asked for.
type Origin struct {
	// Name is as the user wrote it.
	Name string `json:"name"`
	// Repository is "" for files.
	Repository string `json:"repository,omitempty"`
	// Asked is the digest of what the name meant: an index's, where the image is
	// one platform's of several.
	Asked string `json:"asked"`
}

// format is the version of what this package writes. Images of others count as
// absent, so that one digest never means two root hashes at once.
const format = 2

// maxSources bounds what an image remembers of its names.
const maxSources = 16

// record is an image's file beside the image.
type record struct {
	Format int `json:"format"`
	Image
}

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

func (s *Store) write(img Image) error {
	text, err := json.Marshal(record{format, img})
	if err != nil {
		return err
	}
	// Its time of change is when the image was last used.
	return atomicfile.Write(s.path(img.Digest, ".json"), text, atomicfile.Options{Durable: true})
}

// read returns an image's record, or ErrNotFound: also for what is damaged, or
// of another version, for then it is built again.
func (s *Store) read(digest string) (record, error) {
	if !IsDigest(digest) {
		return record{}, fmt.Errorf("%q: %w", clip(digest), ErrNotFound)
	}
	path := s.path(digest, ".json")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, fmt.Errorf("%s: %w", digest, ErrNotFound)
	}
	if err != nil {
		return record{}, fmt.Errorf("image store: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return record{}, fmt.Errorf("image store: %w", err)
	}
	var r record
	if fi.Size() <= maxConfig+1<<20 {
		err = json.NewDecoder(f).Decode(&r)
	}
	r.Path = s.path(digest, ".img") // the store may have been moved
	img, e := os.Stat(r.Path)
	if err != nil || e != nil || r.Format != format || r.Digest != digest || img.Size() != r.Size || !s.hasIndex(r.Image) {
		return record{}, fmt.Errorf("%s: %w", digest, ErrNotFound)
	}
	r.Used = fi.ModTime()
	return r, nil
}

// hasIndex tells whether the index of an image's files is there, as far as its
// size tells.
func (s *Store) hasIndex(img Image) bool {
	want, err := digest.Parse(img.Files)
	if err != nil {
		return false
	}
	fi, err := os.Stat(s.path(img.Digest, filesSuffix))
	return err == nil && fi.Size() == want.Size()
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
