package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// builds counts the images that stores with its log have built.
type builds struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *builds) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *builds) log(o *Options) { o.Log = slog.New(slog.NewTextHandler(b, nil)) }

func (b *builds) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.b.String(), `msg="image built"`)
}

// numbered is a small image that differs from others of other numbers.
func numbered(n int) *memImage {
	m := imageOf(layerOf(file("number", fmt.Sprint(n))))
	m.name = fmt.Sprint("test:", n)
	m.repository = "registry.example.com/test/" + fmt.Sprint(n)
	return m
}

func TestBuiltOnce(t *testing.T) {
	var b builds
	s := openStore(t, b.log)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.Build(t.Context(), numbered(1), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	img := build(t, s, numbered(1))
	if n := b.count(); n != 1 {
		t.Errorf("built %d times", n)
	}
	if names := left(t, s); len(names) != 3 {
		t.Errorf("in the store: %v", names)
	}
	// Another name for the same image is remembered; the latest comes first.
	m := numbered(1)
	m.name = "other"
	img = build(t, s, m)
	if len(img.Sources) != 2 || img.Sources[0].Name != "other" {
		t.Errorf("names: %+v", img.Sources)
	}
}

// An image that is there is not asked for again by its digest, and by a tag only
// for what the tag means.
func TestAskedByDigest(t *testing.T) {
	s := openStore(t)
	m := numbered(1)
	build(t, s, m)
	m.served.Store(0)
	build(t, s, m)
	if m.served.Load() != 1 {
		t.Errorf("by tag: asked %d times", m.served.Load())
	}
	m.byDigest = true
	m.served.Store(0)
	img := build(t, s, m)
	if m.served.Load() != 0 {
		t.Errorf("by digest: asked %d times", m.served.Load())
	}
	if err := s.Remove(t.Context(), img.Digest); err != nil {
		t.Fatal(err)
	}
	if got := build(t, s, m); got.RootHash != img.RootHash {
		t.Errorf("built again as %s", got.RootHash)
	}
}

// Of two builds at once, the second goes on if the first fails.
func TestSecondBuildsWhenFirstFails(t *testing.T) {
	s := openStore(t)
	good, bad := numbered(1), numbered(1)
	for d := range bad.blobs {
		if d != bad.top && bytes.HasPrefix(bad.blobs[d], []byte("number")) {
			bad.blobs[d] = []byte("exchanged")
		}
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if i%2 == 0 {
				var r *Refusal
				if _, err := s.Build(t.Context(), bad, nil); err != nil && !errors.As(err, &r) {
					t.Error(err)
				}
			} else if _, err := s.Build(t.Context(), good, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestEviction(t *testing.T) {
	size := build(t, openStore(t), numbered(1)).Size
	s := openStore(t, func(o *Options) { o.MaxBytes = 3*size + size/2 })
	var digests []string
	// Times of use must differ by more than the file system's clock ticks.
	tick := func() { time.Sleep(20 * time.Millisecond) }
	for n := range 3 {
		digests = append(digests, build(t, s, numbered(n)).Digest)
		tick()
	}
	if _, err := s.Get(digests[0]); err != nil {
		t.Fatal(err)
	}
	tick()
	digests = append(digests, build(t, s, numbered(3)).Digest) // evicts 1
	tick()
	has := func() (n []int) {
		images, err := s.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range images {
			n = append(n, slices.Index(digests, img.Digest))
		}
		return n
	}
	if got := has(); !slices.Equal(got, []int{3, 0, 2}) {
		t.Errorf("left: %v", got)
	}
	if _, err := s.Get(digests[1]); !errors.Is(err, ErrNotFound) {
		t.Errorf("an evicted image: %v", err)
	}
	// What is held stays, and cannot be removed either.
	_, release, err := s.Hold(digests[2])
	if err != nil {
		t.Fatal(err)
	}
	tick()
	for n := 4; n < 8; n++ {
		digests = append(digests, build(t, s, numbered(n)).Digest)
		tick()
	}
	if got := has(); !slices.Contains(got, 2) || len(got) != 3 {
		t.Errorf("left: %v", got)
	}
	if err := s.Remove(t.Context(), digests[2]); !errors.Is(err, ErrInUse) {
		t.Errorf("removed while it was held: %v", err)
	}
	release()
	if err := s.Remove(t.Context(), digests[2]); err != nil {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), digests[2]); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if got := has(); len(got) != 2 {
		t.Errorf("left: %v", got)
	}
	if names := left(t, s); len(names) != 6 {
		t.Errorf("files: %v", names)
	}
}

func TestImageLargerThanStore(t *testing.T) {
	s := openStore(t, func(o *Options) { o.MaxBytes = 4096 })
	_, err := s.Build(t.Context(), numbered(1), nil)
	if r := (*Refusal)(nil); !errors.As(err, &r) || r.Reason != TooManyBytes {
		t.Error(err)
	}
	if names := left(t, s); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
}

// What is damaged in the store is built again, not believed.
func TestDamagedStore(t *testing.T) {
	for name, damage := range map[string]func(Image, string) error{
		"image truncated":  func(img Image, _ string) error { return os.Truncate(img.Path, img.Size-1) },
		"image gone":       func(img Image, _ string) error { return os.Remove(img.Path) },
		"record empty":     func(_ Image, rec string) error { return os.WriteFile(rec, nil, 0o600) },
		"record of others": func(_ Image, rec string) error { return os.WriteFile(rec, []byte(`{"format":1}`), 0o600) },
		"record of before": func(_ Image, rec string) error {
			b, err := os.ReadFile(rec)
			if err != nil {
				return err
			}
			return os.WriteFile(rec, bytes.Replace(b, []byte(`"format":2,`), []byte(`"format":1,`), 1), 0o600)
		},
		"index gone":      func(_ Image, rec string) error { return os.Remove(strings.TrimSuffix(rec, ".json") + ".files") },
		"index truncated": func(_ Image, rec string) error { return os.Truncate(strings.TrimSuffix(rec, ".json")+".files", 10) },
		"record gone":     func(_ Image, rec string) error { return os.Remove(rec) },
	} {
		t.Run(name, func(t *testing.T) {
			var b builds
			s := openStore(t, b.log)
			img := build(t, s, numbered(1))
			if err := os.Chmod(img.Path, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := damage(img, s.path(img.Digest, ".json")); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Get(img.Digest); !errors.Is(err, ErrNotFound) {
				t.Errorf("found: %v", err)
			}
			again, err := Open(s.opt) // sweeps
			if err != nil {
				t.Fatal(err)
			}
			if names := left(t, again); len(names) > 0 {
				t.Errorf("not swept: %v", names)
			}
			if got := build(t, again, numbered(1)); got.RootHash != img.RootHash || b.count() != 2 {
				t.Errorf("built %d times, root hash %s", b.count(), got.RootHash)
			}
		})
	}
}

func TestAllowList(t *testing.T) {
	one := numbered(1)
	index := numbered(1)
	index.index(thisPlatform)
	local := numbered(1)
	local.repository = ""
	tests := []struct {
		name  string
		allow []string
		src   *memImage
		ok    bool
	}{
		{"no list", nil, one, true},
		{"repository", []string{"registry.example.com/test/1"}, one, true},
		{"all below", []string{"registry.example.com/test/*"}, one, true},
		{"a whole registry", []string{"registry.example.com/*"}, one, true},
		{"digest", []string{one.top}, one, true},
		{"index's digest", []string{index.top}, index, true},
		{"platform's digest, by index", []string{one.top}, index, true},
		{"file by digest", []string{one.top}, local, true},
		{"another repository", []string{"registry.example.com/test/2"}, one, false},
		{"beginning of a name", []string{"registry.example.com/test"}, one, false},
		{"another registry", []string{"example.com/*"}, one, false},
		{"another digest", []string{numbered(2).top}, one, false},
		{"index's digest, not asked for", []string{index.top}, one, false},
		{"file, by repositories", []string{"registry.example.com/*"}, local, false},
		{"empty list", []string{}, one, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var list *AllowList
			if tt.allow != nil {
				var err error
				if list, err = ParseAllowList(tt.allow); err != nil {
					t.Fatal(err)
				}
			}
			tt.src.served.Store(0)
			s := openStore(t, func(o *Options) { o.Allow = list })
			img, err := s.Build(t.Context(), tt.src, nil)
			var r *Refusal
			switch {
			case tt.ok && err != nil:
				t.Fatal(err)
			case !tt.ok && (!errors.As(err, &r) || r.Reason != NotAllowed):
				t.Errorf("error %v", err)
			case !tt.ok && tt.src.served.Load() > 2: // index and manifest
				t.Errorf("%d blobs were read", tt.src.served.Load())
			case !tt.ok && tt.src.served.Load() > 0 && !slices.ContainsFunc(tt.allow, IsDigest):
				t.Errorf("a repository that is not allowed was asked %d times", tt.src.served.Load())
			}
			if !tt.ok {
				return
			}
			if _, err := s.Get(img.Digest); err != nil {
				t.Error(err)
			}
			// A list that has changed holds for images that are there, too.
			s.opt.Allow = &AllowList{}
			if _, err := s.Get(img.Digest); !errors.As(err, &r) {
				t.Errorf("with an empty list: %v", err)
			}
			if _, err := s.Build(t.Context(), tt.src, nil); !errors.As(err, &r) {
				t.Errorf("with an empty list: %v", err)
			}
		})
	}
	for _, bad := range []string{"", "*", "/x", "sha256:abc", "gcc", "registry.example.com", "a/*/b", "registry.example.com/gcc:12@sha256:0"} {
		if _, err := ParseAllowList([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// stalling is a source that stops in the middle of its first layer, and says so.
type stalling struct {
	*memImage
	reached chan<- struct{}
	ctx     context.Context
}

func (s *stalling) Blob(ctx context.Context, d Descriptor) (io.ReadCloser, error) {
	b, err := s.memImage.Blob(ctx, d)
	if err != nil || d.MediaType == configTypes[0] {
		return b, err
	}
	return io.NopCloser(io.MultiReader(io.LimitReader(b, 600), stallReader{s.ctx, s.reached})), nil
}

type stallReader struct {
	ctx     context.Context
	reached chan<- struct{}
}

func (r stallReader) Read([]byte) (int, error) {
	r.reached <- struct{}{}
	<-r.ctx.Done()
	return 0, r.ctx.Err()
}

// A build that is given up leaves nothing, and lets the next one in.
func TestCancel(t *testing.T) {
	s := openStore(t)
	reached := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() {
		_, err := s.Build(ctx, &stalling{numbered(1), reached, ctx}, nil)
		done <- err
	}()
	<-reached
	// One that waits for it can be given up as well.
	waiting, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if _, err := s.Build(waiting, numbered(1), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another builds: %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if names := left(t, s); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
	build(t, s, numbered(1))
}

func TestOpenFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: path}); err == nil {
		t.Error("a file was taken for a store")
	}
}

// failing is a source whose layers break off with an error of the network's.
type failing struct {
	*memImage
	err error
}

func (f *failing) Blob(ctx context.Context, d Descriptor) (io.ReadCloser, error) {
	b, err := f.memImage.Blob(ctx, d)
	if err != nil || d.MediaType == configTypes[0] {
		return b, err
	}
	return io.NopCloser(io.MultiReader(io.LimitReader(b, 600), errReader{f.err})), nil
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

// What fails on this side is not blamed on the image.
func TestSourceFails(t *testing.T) {
	s := openStore(t)
	for _, layer := range [][]byte{layerOf(file("a", strings.Repeat("a", 1000))), gzipped(layerOf(incompressible(700)...))} {
		reset := errors.New("connection reset by peer")
		_, err := s.Build(t.Context(), &failing{imageOf(layer), reset}, nil)
		if r := (*Refusal)(nil); !errors.Is(err, reset) || errors.As(err, &r) {
			t.Errorf("error %v", err)
		}
	}
	if names := left(t, s); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
}

// incompressible are files that do not compress to little.
func incompressible(n int) (all []entry) {
	for i := range n {
		all = append(all, file(digestOf([]byte{byte(i), byte(i >> 8)}), ""))
	}
	return all
}

// A full disk is an error of this machine's, and leaves nothing behind either.
func TestDiskFull(t *testing.T) {
	needJudges(t)
	dir := t.TempDir()
	run(t, "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", dir)
	defer run(t, "umount", dir)
	s := openStore(t, func(o *Options) { o.Dir = filepath.Join(dir, "images") })
	for _, size := range []int{5 << 20, 1200 << 10} { // while spooling, while writing
		_, err := s.Build(t.Context(), imageOf(layerOf(file("a", strings.Repeat("a", size)))), nil)
		if r := (*Refusal)(nil); !errors.Is(err, syscall.ENOSPC) || errors.As(err, &r) {
			t.Errorf("error %v", err)
		}
		if names := left(t, s); len(names) > 0 {
			t.Errorf("left behind: %v", names)
		}
	}
	build(t, s, numbered(1))
}
