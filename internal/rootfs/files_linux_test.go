package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/test/images"
)

// indexed is the index of what layers make.
func indexed(t testing.TB, layers ...[]byte) (*files, []byte) {
	t.Helper()
	tree, err := flatten(t, layers...)
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.emit(context.Background(), io.Discard, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	return encoded(t, tree)
}

func encoded(t testing.TB, tree *tree) (*files, []byte) {
	t.Helper()
	var b bytes.Buffer
	if err := tree.encodeFiles(&b); err != nil {
		t.Fatal(err)
	}
	f, err := openFiles(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return f, b.Bytes()
}

// checkFiles compares a tree's index with what it emitted: kinds and digests by
// name.
func checkFiles(t *testing.T, tree *tree, kinds map[string]byte, sums map[string]digest.Digest) {
	t.Helper()
	f, _ := encoded(t, tree)
	if int(f.count) != len(kinds) {
		t.Fatalf("%d entries for %d names", f.count, len(kinds))
	}
	for name, kind := range kinds {
		if kind == tar.TypeSymlink {
			continue // where it leads is another test's
		}
		d, ok, err := f.lookup("/" + name)
		if err != nil || ok != (sums[name] != digest.Digest{}) || d != sums[name] {
			t.Fatalf("%q: %v, %v, %v; want %v", name, d, ok, err, sums[name])
		}
	}
}

// byKernel is what Linux finds at path with dir for a root.
func byKernel(t testing.TB, dir, path string) (d digest.Digest, ok bool) {
	t.Helper()
	found, err := images.InRoot(dir, path)
	if err != nil {
		t.Fatal(err)
	}
	if found == "" {
		return d, false
	}
	if d, err = digest.Parse(found); err != nil {
		t.Fatal(err)
	}
	return d, true
}

// compareLookups compares every name below dir, by itself and as Linux finds it,
// with what a store says of an image.
func compareLookups(t *testing.T, s *Store, image, dir string) (files int) {
	t.Helper()
	names, err := images.Names(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range append(names, "/", "/nowhere") {
		want, wantOK := byKernel(t, dir, p)
		got, ok, err := s.Lookup(image, p)
		if err != nil || ok != wantOK || got != want {
			t.Errorf("%q: %v, %v, %v; Linux finds %v, %v", p, got, ok, err, want, wantOK)
		}
		if ok {
			files++
		}
	}
	return files
}

// unpackTo makes the entries of one layer in a directory.
func unpackTo(t testing.TB, dir string, entries []entry) {
	t.Helper()
	for _, e := range entries {
		p := filepath.Join(dir, e.name)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		if err == nil {
			switch e.typ {
			case tar.TypeDir:
				err = os.MkdirAll(p, 0o755)
			case tar.TypeSymlink:
				err = os.Symlink(e.link, p)
			case tar.TypeLink:
				err = os.Link(filepath.Join(dir, e.link), p)
			case tar.TypeFifo:
				err = unix.Mkfifo(p, 0o644)
			default:
				err = os.WriteFile(p, []byte(e.body), 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Links lead where they lead on Linux, and never out of the image.
func TestLookup(t *testing.T) {
	entries := []entry{
		directory("usr"), directory("usr/bin"), file("usr/bin/gcc-12", "gcc"), symlink("usr/bin/gcc", "gcc-12"), symlink("usr/bin/cc", "/etc/alternatives/cc"),
		symlink("etc/alternatives/cc", "/usr/bin/gcc"), symlink("bin", "usr/bin"), hardlink("usr/bin/x86_64-linux-gnu-gcc", "usr/bin/gcc-12"),
		file("empty", ""), directory("dir"), {name: "pipe", typ: tar.TypeFifo}, file("etc/passwd", "the image's"),
		symlink("out", "../../../../../../etc/passwd"), symlink("host", "/etc/passwd"), symlink("proc", "/proc/self/exe"), symlink("up", ".."),
		symlink("loop", "loop"), symlink("a", "b"), symlink("b", "a"), symlink("dangling", "nowhere"), symlink("root", "/"), symlink("dot", "."),
		symlink("slash", "usr/bin/gcc/"), symlink("dirslash", "usr/bin/"), symlink("slashes", "///usr//bin//gcc-12"), symlink("todir", "dir"),
		symlink("beneath", "empty/x"), file("Ümlaut and space", "u"),
	}
	// A chain of as many links as are followed, and one more.
	entries = append(entries, file("l0", "end"))
	for i := 1; i <= maxFollowed+1; i++ {
		entries = append(entries, symlink(fmt.Sprint("l", i), fmt.Sprint("l", i-1)))
	}
	f, _ := indexed(t, layerOf(entries...))
	dir := t.TempDir()
	unpackTo(t, dir, entries)
	paths := []string{
		"/", "//", "/.", "/..", "/usr", "/usr/", "/usr/bin/gcc", "/usr/bin/gcc/", "/usr/bin/gcc/.", "/usr/bin/gcc/..", "/usr/bin/gcc/../gcc", "/bin/gcc", "/bin/cc",
		"/bin/../bin/gcc", "/bin/../lib", "/up/up/bin/gcc", "/up/etc/passwd", "/root/root/dot/bin/gcc", "/../../etc/passwd", "/nowhere", "/usr/nowhere/gcc",
		"/usr/bin/../../empty", "/dirslash/gcc", "/dirslashgcc", "/todir/../empty", "/dot/./empty", "/l40/x", "/loop/x", "/root/../etc/passwd", "/proc/x",
		"/usr/bin/GCC", "/usr/bin/gc", "/usr/bin/gccc", "/\x00", "/\xff", "/" + strings.Repeat("x", 300), "/" + strings.Repeat("dot/", 1000) + "empty",
		"/" + strings.Repeat("root/", 41) + "empty", "/" + strings.Repeat("root/", 40) + "empty",
	}
	for _, e := range entries {
		paths = append(paths, "/"+e.name)
	}
	hits := 0
	for _, p := range paths {
		want, wantOK := byKernel(t, dir, p)
		got, ok, err := f.lookup(p)
		if err != nil || ok != wantOK || got != want {
			t.Errorf("%.80q: %v, %v, %v; Linux finds %v, %v", p, got, ok, err, want, wantOK)
		}
		if ok {
			hits++
		}
	}
	if hits < 20 {
		t.Errorf("only %d files were found", hits)
	}
	if d, ok, err := f.lookup("/host"); err != nil || !ok || d != digest.Of([]byte("the image's")) {
		t.Errorf("/host: %v, %v, %v", d, ok, err)
	}
	if d, ok, err := f.lookup("/l40"); err != nil || !ok || d != digest.Of([]byte("end")) {
		t.Errorf("40 links: %v, %v, %v", d, ok, err)
	}
	for _, p := range []string{"", "usr/bin/gcc", "etc/passwd", "/" + strings.Repeat("dot/", 2000) + "empty"} {
		if _, ok, err := f.lookup(p); ok || err != nil {
			t.Errorf("%.80q: found, %v", p, err)
		}
	}
}

// The same for trees and paths at random.
func TestLookupAsLinux(t *testing.T) {
	names := []string{"a", "b", "c"}
	rapid.Check(t, func(r *rapid.T) {
		component := rapid.SampledFrom([]string{"a", "b", "c", ".", "..", "", "d"})
		pathOf := rapid.Custom(func(r *rapid.T) string {
			return strings.Join(rapid.SliceOfN(component, 1, 6).Draw(r, "components"), "/")
		})
		var entries []entry
		kinds := map[string]bool{} // directory?
		for _, p := range rapid.SliceOfNDistinct(rapid.Custom(func(r *rapid.T) string {
			return strings.Join(rapid.SliceOfN(rapid.SampledFrom(names), 1, 3).Draw(r, "name"), "/")
		}), 1, 12, func(s string) string { return s }).Draw(r, "names") {
			fits := true
			for d := path.Dir(p); d != "."; d = path.Dir(d) {
				if isDir, there := kinds[d]; there && !isDir {
					fits = false
				}
			}
			if _, there := kinds[p]; there || !fits {
				continue
			}
			e := entry{name: p}
			switch rapid.IntRange(0, 3).Draw(r, "kind") {
			case 0:
				e.typ = tar.TypeDir
			case 1:
				e.body = p
			default:
				e.typ, e.link = tar.TypeSymlink, pathOf.Draw(r, "target")
				if e.link == "" {
					e.link = "/"
				}
			}
			for d := path.Dir(p); d != "."; d = path.Dir(d) {
				kinds[d] = true
			}
			kinds[p] = e.typ == tar.TypeDir
			entries = append(entries, e)
		}
		dir, err := os.MkdirTemp("", "lookup")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		unpackTo(t, dir, entries)
		f, _ := indexed(t, layerOf(entries...))
		for _, p := range rapid.SliceOfN(pathOf, 20, 20).Draw(r, "paths") {
			p = "/" + p
			want, wantOK := byKernel(t, dir, p)
			if got, ok, err := f.lookup(p); err != nil || ok != wantOK || got != want {
				r.Fatalf("%q: %v, %v, %v; Linux finds %v, %v", p, got, ok, err, want, wantOK)
			}
		}
	})
}

// The index is of what the layers leave, and the same for the same image.
func TestLookupInStore(t *testing.T) {
	m := func() *memImage {
		return imageOf(
			layerOf(file("a", "below"), file("gone", "x"), directory("bin"), file("bin/cc", "old")),
			layerOf(file("a", "above"), file(".wh.gone", ""), file("bin/cc", "new"), symlink("cc", "bin/cc")),
		)
	}
	s := openStore(t)
	img := build(t, s, m())
	for p, body := range map[string]string{"/a": "above", "/bin/cc": "new", "/cc": "new", "/gone": "-", "/bin": "-", "/b": "-"} {
		d, ok, err := s.Lookup(img.Digest, p)
		if err != nil || ok != (body != "-") || ok && d != digest.Of([]byte(body)) {
			t.Errorf("%s: %v, %v, %v", p, d, ok, err)
		}
	}
	if again := build(t, openStore(t), m()); again.Files != img.Files {
		t.Errorf("built again: %s and %s", again.Files, img.Files)
	}
	for _, digest := range []string{"sha256:" + strings.Repeat("0", 64), "", "../x"} {
		if _, _, err := s.Lookup(digest, "/a"); err == nil {
			t.Errorf("image %q has files", digest)
		}
	}
	if err := s.Remove(t.Context(), img.Digest); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Lookup(img.Digest, "/a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after it was removed: %v", err)
	}
	if names := left(t, s); len(names) > 0 {
		t.Errorf("left: %v", names)
	}
}

// More images than indexes are kept open, by many at once.
func TestLookupOfMany(t *testing.T) {
	s := openStore(t)
	var images []Image
	for n := range maxOpenFiles + 3 {
		images = append(images, build(t, s, numbered(n)))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3 {
				for n, img := range images {
					d, ok, err := s.Lookup(img.Digest, "/number")
					if err != nil || !ok || d != digest.Of([]byte(fmt.Sprint(n))) {
						t.Errorf("%d: %v, %v, %v", n, d, ok, err)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := len(s.indexes.open); n != maxOpenFiles {
		t.Errorf("%d are open", n)
	}
}

// A damaged index is found out, and its image built again.
func TestDamagedIndex(t *testing.T) {
	var b builds
	s := openStore(t, b.log)
	img := build(t, s, numbered(1))
	p := s.path(img.Digest, filesSuffix)
	raw, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(p, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Lookup(img.Digest, "/number"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := s.Get(img.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("still there: %v", err)
	}
	build(t, s, numbered(1))
	if d, ok, err := s.Lookup(img.Digest, "/number"); err != nil || !ok || d != digest.Of([]byte("1")) || b.count() != 2 {
		t.Errorf("%v, %v, %v, built %d times", d, ok, err, b.count())
	}
	if _, err := os.Stat(p); errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// FuzzFiles looks names up in any bytes: nothing but an error comes of it.
func FuzzFiles(f *testing.F) {
	entries := []entry{directory("usr"), file("usr/a", "a"), symlink("l", "usr"), symlink("m", "l/a"), symlink("n", "n"), {name: "p", typ: tar.TypeFifo}}
	_, raw := indexed(f, layerOf(entries...))
	f.Add(raw, "/usr/a")
	f.Add(raw, "/m")
	f.Add(raw, "/n")
	f.Add([]byte(filesMark+"\xff\xff\xff\xff"), "/")
	f.Fuzz(func(t *testing.T, raw []byte, path string) {
		list, err := openFiles(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		started := time.Now()
		d, ok, err := list.lookup(path)
		if err != nil && !errors.Is(err, errFiles) {
			t.Fatalf("%v", err)
		}
		if ok != !d.IsZero() {
			t.Fatalf("%v, %v", d, ok)
		}
		if took := time.Since(started); took > time.Minute {
			t.Fatalf("it took %v", took)
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	s := openStore(b)
	img, err := s.Build(context.Background(), generated(30_000, 10), nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, ok, err := s.Lookup(img.Digest, "/directory17/file17123"); !ok || err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	src := generated(2000, 200<<10)
	b.SetBytes(2000 * 200 << 10)
	for b.Loop() {
		s := openStore(b)
		if _, err := s.Build(context.Background(), src, nil); err != nil {
			b.Fatal(err)
		}
	}
}
