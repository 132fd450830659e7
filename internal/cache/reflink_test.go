package cache_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/digest"
)

// reflinking mounts a fresh XFS, which can share blocks between files.
func reflinking(t *testing.T) (dir string) {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs.xfs")
	require(t, "mkfs.xfs, of Debian's xfsprogs", err)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// Sparse; mkfs.xfs takes no less than 300 MB.
	if err := os.Truncate(image, 320<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", "-m", "reflink=1", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.xfs: %s", out)
	}
	return mount(t, "-t", "xfs", "-o", "loop", image)
}

func create(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(dir, "out-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestCloneBlob(t *testing.T) {
	place := reflinking(t)
	c := open(t, filepath.Join(place, "cache"))
	content := text(1, 300_000)
	for _, b := range [][]byte{content, {}, []byte("x"), noise(2, 4096), noise(3, 4097)} {
		d, err := c.PutBlob(b)
		if err != nil {
			t.Fatal(err)
		}
		out := create(t, place)
		if ok, err := c.CloneBlob(d, out); err != nil || !ok {
			t.Fatalf("CloneBlob of %d bytes: %v, %v", len(b), ok, err)
		}
		if got, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(got, b) {
			t.Errorf("cloned %d bytes of %d, %v", len(got), len(b), err)
		}
		if got, err := c.Blob(d); err != nil || !bytes.Equal(got, b) {
			t.Errorf("read %d bytes of %d, %v", len(got), len(b), err)
		}
	}

	// What is done to an output does not reach the cache.
	d := digest.Of(content)
	out := create(t, place)
	if ok, err := c.CloneBlob(d, out); err != nil || !ok {
		t.Fatal(ok, err)
	}
	if _, err := out.WriteAt([]byte("mine"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Blob(d); err != nil {
		t.Error(err)
	}

	// To another file system, nothing can be cloned.
	other := create(t, t.TempDir())
	if ok, err := c.CloneBlob(d, other); ok || err != nil {
		t.Errorf("to another file system: %v, %v", ok, err)
	}
	if fi, err := other.Stat(); err != nil || fi.Size() != 0 {
		t.Errorf("it was written to: %v, %v", fi, err)
	}
	if ok, err := c.CloneBlob(digest.Of([]byte("never stored")), out); ok || err != nil {
		t.Errorf("a blob never stored: %v, %v", ok, err)
	}
	clean(t, c)
}

// A file is checked again when it was written to, even where size and
// modification time are as they were.
func TestCloneBlobChecks(t *testing.T) {
	place := reflinking(t)
	c := open(t, filepath.Join(place, "cache"))
	b := noise(1, 10_000)
	d, err := c.PutBlob(b)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // the stamp must settle before it is trusted
	for range 2 {
		if ok, err := c.CloneBlob(d, create(t, place)); err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
	path := blobPath(c, d)
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{b[5000] ^ 1}, 5000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.Chtimes(path, fi.ModTime(), fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	out := create(t, place)
	if ok, err := c.CloneBlob(d, out); ok || err != nil {
		t.Errorf("damaged: %v, %v", ok, err)
	}
	if fi, err := out.Stat(); err != nil || fi.Size() != 0 {
		t.Errorf("it was written to: %v, %v", fi, err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) || c.Damaged() != 1 {
		t.Errorf("the damaged file: %v; %d counted", err, c.Damaged())
	}
}

// A cache may move between file systems: what one kind stores, the other reads.
func TestBlobsOfBothForms(t *testing.T) {
	place := reflinking(t)
	plain, sharing := open(t, t.TempDir()), open(t, filepath.Join(place, "cache"))
	b := text(1, 50_000)
	for _, c := range []*cache.Disk{plain, sharing} {
		if _, err := c.PutBlob(b); err != nil {
			t.Fatal(err)
		}
	}
	packed, raw := only(t, plain, "cas"), only(t, sharing, "cas")
	if !strings.HasSuffix(packed, ".zst") || strings.HasSuffix(raw, ".zst") {
		t.Fatalf("stored as %s and %s", packed, raw)
	}
	move := func(from, to string) {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := digest.Of(b)
	move(packed, raw+".zst")
	move(raw, strings.TrimSuffix(packed, ".zst"))
	for _, p := range []string{packed, raw} {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []*cache.Disk{plain, sharing} {
		if got, err := c.Blob(d); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%d bytes of %d, %v", len(got), len(b), err)
		}
		if ok, err := c.CloneBlob(d, create(t, place)); ok || err != nil {
			t.Errorf("CloneBlob: %v, %v", ok, err)
		}
	}
}
