package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/rootfs"
	"hpcc.dev/hpcc/internal/rootfs/registry"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/internal/worker"
)

// pullPatience bounds one pull: images of toolchains have gigabytes.
const pullPatience = time.Hour

// workerImages are a worker's images, and the tenants' copies of them. It
// implements worker.Images.
type workerImages struct {
	store   *rootfs.Store
	allow   []string
	mirrors map[string][]string
	log     *slog.Logger

	dir string // of drives
	max int64

	mu     sync.Mutex
	pulls  map[string]*pull
	drives map[string]*drive // by path
}

// pull is one that is under way, for all who wait for it.
type pull struct {
	done chan struct{}
	err  error
}

// drive is a tenant's copy of an image: so tenants share no page cache, in which
// one could see what another reads.
type drive struct {
	users int
	used  time.Time
	size  int64
	made  bool
	ready chan struct{} // closed once it is made, or has failed
	err   error
}

func openWorkerImages(c *config.Worker, log *slog.Logger) (*workerImages, error) {
	opt := rootfs.Options{Dir: c.Images.Dir, MaxBytes: c.Images.MaxSize, Log: log}
	w := &workerImages{allow: c.Images.Allow, log: log, dir: drivesDir(c), max: c.Images.MaxSize, pulls: map[string]*pull{}, drives: map[string]*drive{}}
	var err error
	if opt.Platform, err = rootfs.ParsePlatform(c.Images.Platform); err != nil {
		return nil, fmt.Errorf("%s: images.platform: %w", c.File, err)
	}
	if len(c.Images.Allow) > 0 {
		if opt.Allow, err = rootfs.ParseAllowList(c.Images.Allow); err != nil {
			return nil, fmt.Errorf("%s: images.allow: %w", c.File, err)
		}
	}
	if w.mirrors, err = registry.ParseMirrors(c.Images.Mirrors); err != nil {
		return nil, fmt.Errorf("%s: images.mirrors: %w", c.File, err)
	}
	if w.store, err = rootfs.Open(opt); err != nil {
		return nil, withHint(err, "images.dir in %s names the directory", c.File)
	}
	// Whether a copy that an earlier worker left is whole, nobody knows, and no
	// machine uses it any more.
	if err := os.RemoveAll(w.dir); err != nil {
		return nil, err
	}
	return w, os.MkdirAll(w.dir, 0o700)
}

// held are the digests of the images that are there.
func (w *workerImages) held() ([]string, error) {
	images, err := w.store.List()
	if err != nil {
		return nil, err
	}
	list := make([]string, len(images))
	for i, img := range images {
		list[i] = img.Digest
	}
	return list, nil
}

// File implements worker.Images.
func (w *workerImages) File(ctx context.Context, image, path string) (digest.Digest, bool, error) {
	if err := w.prepare(ctx, image); err != nil {
		return digest.Digest{}, false, err
	}
	d, ok, err := w.store.Lookup(image, path)
	return d, ok, refusedImage(image, err)
}

// refusedImage marks errors that stay as they are, however often an image is
// asked for.
func refusedImage(image string, err error) error {
	var refusal *rootfs.Refusal
	if errors.As(err, &refusal) {
		return &worker.ImageError{Image: image, Err: err}
	}
	return err
}

// prepare has an image ready in the store. Of several who want it, one pulls, and
// goes on when who began it has gone.
func (w *workerImages) prepare(ctx context.Context, image string) error {
	if _, err := w.store.Get(image); !errors.Is(err, rootfs.ErrNotFound) {
		return refusedImage(image, err)
	}
	w.mu.Lock()
	p := w.pulls[image]
	if p == nil {
		p = &pull{done: make(chan struct{})}
		w.pulls[image] = p
		go func() {
			pulling, cancel := context.WithTimeout(context.WithoutCancel(ctx), pullPatience)
			defer cancel()
			p.err = w.pull(pulling, image)
			w.mu.Lock()
			delete(w.pulls, image)
			w.mu.Unlock()
			close(p.done)
		}()
	}
	w.mu.Unlock()
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pull builds an image from the first repository of the allow-list that has it. A
// digest says what an image is, and not where; one that none of them has is not
// allowed.
func (w *workerImages) pull(ctx context.Context, image string) error {
	var errs []error
	absent := true
	for _, repository := range w.allow {
		if rootfs.IsDigest(repository) || strings.HasSuffix(repository, "/*") {
			continue
		}
		src, err := registry.New(repository+"@"+image, registry.Options{Mirrors: w.mirrors})
		if err == nil {
			_, err = w.store.Build(ctx, src, nil)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
		absent = absent && errors.Is(err, registry.ErrAbsent)
	}
	err := errors.Join(errs...)
	if err != nil && absent {
		err = &rootfs.Refusal{Reason: rootfs.NotAllowed, Detail: fmt.Sprintf("none of the repositories that images.allow names has it: %v", err)}
	}
	if err == nil {
		return &worker.ImageError{Image: image, Err: errors.New("this worker does not have it, and images.allow names no repository to pull it from: hpcc image build puts it into the store")}
	}
	w.log.Warn("image not pulled", "image", image, "error", err)
	return refusedImage(image, fmt.Errorf("image %s could not be pulled: %w", image, err))
}

// spec makes the spec of a new machine, on the tenant's own copy of the image.
func (w *workerImages) spec(ctx context.Context, key vm.SessionKey) (vm.Spec, func(), error) {
	if err := w.prepare(ctx, key.Image); err != nil {
		return vm.Spec{}, nil, err
	}
	img, release, err := w.store.Hold(key.Image)
	if err != nil {
		return vm.Spec{}, nil, refusedImage(key.Image, err)
	}
	defer release() // the copy stays, whatever becomes of the image
	path, end, err := w.drive(ctx, key.Tenant, &img)
	if err != nil {
		return vm.Spec{}, nil, fmt.Errorf("the tenant's copy of the image: %w", err)
	}
	root := vm.Rootfs{Path: path, DataBlocks: img.DataBlocks, RootHash: img.RootHash, Salt: img.Salt}
	return vm.Spec{Rootfs: root}, end, nil
}

// drive returns the path of a tenant's copy, which stays until end is called.
func (w *workerImages) drive(ctx context.Context, tenant string, img *rootfs.Image) (path string, end func(), err error) {
	path = filepath.Join(w.dir, tenant, strings.TrimPrefix(img.Digest, "sha256:")+".img")
	w.mu.Lock()
	d := w.drives[path]
	if d == nil {
		w.evict(img.Size)
		d = &drive{size: img.Size, ready: make(chan struct{})}
		w.drives[path] = d
		go func() {
			d.err = os.MkdirAll(filepath.Dir(path), 0o700)
			if d.err == nil {
				d.err = cloneDrive(path, img.Path)
			}
			w.mu.Lock()
			if d.made = d.err == nil; !d.made {
				delete(w.drives, path)
			}
			w.mu.Unlock()
			close(d.ready)
		}()
	}
	d.users++
	w.mu.Unlock()
	end = sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		d.users--
		d.used = time.Now()
	})
	select {
	case <-d.ready:
		if err = d.err; err == nil {
			return path, end, nil
		}
	case <-ctx.Done():
		err = ctx.Err()
	}
	end()
	return "", nil, err
}

// evict makes room for a drive of n bytes, under the images' limit: those that no
// machine uses go, the one that was not used for longest first.
func (w *workerImages) evict(n int64) {
	var unused []string
	for path, d := range w.drives {
		n += d.size
		if d.users == 0 && d.made {
			unused = append(unused, path)
		}
	}
	slices.SortFunc(unused, func(a, b string) int {
		return cmp.Or(w.drives[a].used.Compare(w.drives[b].used), cmp.Compare(a, b))
	})
	for _, path := range unused {
		if n <= w.max {
			return
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.log.Warn("drive not removed", "path", path, "error", err)
			continue
		}
		n -= w.drives[path].size
		delete(w.drives, path)
	}
}
