package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"hpcc.dev/hpcc/internal/digest"
)

// fuzzLimits keep an input's cost small; every limit can be reached.
var fuzzLimits = Limits{Bytes: 1 << 20, Entries: 200, Metadata: 1 << 16, Depth: 12, Layers: 4}

// flatten applies layers and returns the tree, or why not.
func flatten(tb testing.TB, layers ...[]byte) (*tree, error) {
	f, err := os.CreateTemp("", "spool")
	if err != nil {
		tb.Fatal(err)
	}
	os.Remove(f.Name())
	tb.Cleanup(func() { f.Close() })
	t := newTree(newSpool(f), fuzzLimits.withDefaults())
	for _, l := range layers {
		plain := l
		if r, done, err := decompress(bytes.NewReader(l)); err == nil {
			// As much as the limit lets through: an error comes again below.
			plain, _ = io.ReadAll(io.LimitReader(r, 4<<20))
			done()
		}
		d := Descriptor{Digest: digestOf(l), Size: int64(len(l))}
		if err := t.applyLayer(context.Background(), bytes.NewReader(l), d, digestOf(plain)); err != nil {
			return nil, err
		}
	}
	_, err = t.finish()
	return t, err
}

// FuzzLayer reads arbitrary bytes as a layer on top of another. Whatever is
// taken must be a tree that the writer takes, of plain names, parents first.
func FuzzLayer(f *testing.F) {
	base := layerOf(
		directory("bin"), file("bin/tool", "tool"), hardlink("bin/alias", "bin/tool"), symlink("rel", "bin"), symlink("abs", "/bin"),
		symlink("out", "../.."), symlink("loop", "loop"), directory("d"), directory("d/e"), file("d/e/f", "f"), directory("opaque"), file("opaque/old", ""),
	)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	for _, l := range features()[1:] {
		f.Add(l)
	}
	plain := layerOf(directory("d"), file("d/f", "f"), hardlink("h", "d/f"), symlink("s", "d"), file("d/.wh..wh..opq", ""), xattrs(file("x", ""), "user.a", "b"))
	f.Add(plain)
	f.Add(gzipped(plain))
	f.Add(z.EncodeAll(plain, nil))
	f.Add(layerOf(file("bin/new", ""), file("rel/x", ""), file(".wh.bin", "")))
	f.Fuzz(func(t *testing.T, layer []byte) {
		tree, err := flatten(t, base, layer)
		if err != nil {
			var r *Refusal
			if !errors.As(err, &r) {
				t.Fatalf("an error without a reason: %v", err)
			}
			return
		}
		checkStream(t, tree)
		out, err := os.CreateTemp("", "image")
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(out.Name())
		defer out.Close()
		if _, err := writeFileSystem(context.Background(), tree, out, func(int64) {}); err != nil {
			t.Fatalf("the writer does not take it: %v", err)
		}
	})
}

// checkStream reads what the tree emits, by the rules that ext4.Write states.
// Emitting is done twice in these tests, so the tree's notes are taken back.
func checkStream(t *testing.T, tree *tree) {
	t.Helper()
	var b bytes.Buffer
	if err := tree.emit(context.Background(), &b, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]byte{}
	sums := map[string]digest.Digest{}
	defer func() { checkFiles(t, tree, kinds, sums) }()
	for tr := tar.NewReader(&b); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		if name != path.Clean(name) || path.IsAbs(name) || strings.HasPrefix(name, "../") || name == ".." {
			t.Fatalf("%q is no plain name", h.Name)
		}
		if _, ok := kinds[name]; ok {
			t.Fatalf("%q twice", h.Name)
		}
		if dir := path.Dir(name); name != "." && kinds[dir] != tar.TypeDir {
			t.Fatalf("%q without its directory", h.Name)
		}
		kinds[name] = h.Typeflag
		if h.Typeflag == tar.TypeReg {
			if sums[name], err = digest.Copy(io.Discard, tr); err != nil {
				t.Fatal(err)
			}
		}
		switch h.Typeflag {
		case tar.TypeLink:
			sums[name] = sums[h.Linkname]
			if k, ok := kinds[h.Linkname]; !ok || k == tar.TypeDir || k == tar.TypeLink {
				t.Fatalf("%q links to %q, which did not come before", h.Name, h.Linkname)
			}
		case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeFifo:
		default:
			t.Fatalf("%q is of type %q", h.Name, h.Typeflag)
		}
		for k := range h.PAXRecords {
			if attr, ok := strings.CutPrefix(k, paxXattr); ok && attr != "security.capability" && (!strings.HasPrefix(attr, "user.") || strings.HasPrefix(attr, "user.overlay.")) {
				t.Fatalf("attribute %q", attr)
			}
		}
	}
	var forget func(*inode)
	forget = func(n *inode) {
		for _, c := range n.dir.children {
			c.path = ""
			if c.dir != nil {
				forget(c.inode)
			}
		}
	}
	forget(tree.root)
}

// decodeLayers makes layers of few names from bytes, so that entries meet.
func decodeLayers(b []byte) (layers [][]entry) {
	next := func() int {
		if len(b) == 0 {
			return 0
		}
		c := b[0]
		b = b[1:]
		return int(c)
	}
	name := func() string {
		n := next()
		p := string("abc"[n%3])
		for range n / 3 % 3 {
			p += "/" + string("abc"[next()%3])
		}
		return p
	}
	layers = [][]entry{nil}
	for i := 0; len(b) > 0 && i < 60; i++ {
		last := &layers[len(layers)-1]
		switch n := next(); n % 8 {
		case 0, 1:
			*last = append(*last, file(name(), fmt.Sprint(i)))
		case 2:
			*last = append(*last, directory(name()))
		case 3:
			*last = append(*last, symlink(name(), "t"))
		case 4:
			*last = append(*last, hardlink(name(), name()))
		case 5:
			p := name()
			*last = append(*last, file(path.Join(path.Dir(p), ".wh."+path.Base(p)), ""))
		case 6:
			*last = append(*last, file(path.Join(name(), ".wh..wh..opq"), ""))
		case 7:
			if len(layers) < 4 {
				layers = append(layers, nil)
			}
		}
	}
	return layers
}

// model is the specification's own words, slowly: in each layer, first all
// whiteouts, on what the lower layers left, then all entries. It maps paths to
// what is there, or does not know: whether a layer may link to what it hides,
// the specification leaves open.
func model(layers [][]entry) (is map[string]string, known bool) {
	is = map[string]string{}
	below := func(dir string) func(string, string) bool {
		return func(p, _ string) bool { return strings.HasPrefix(p, dir+"/") }
	}
	for _, l := range layers {
		for _, e := range l {
			base := path.Base(e.name)
			hidden, ok := strings.CutPrefix(base, ".wh.")
			switch {
			case !ok:
			case base == ".wh..wh..opq":
				maps.DeleteFunc(is, below(path.Dir(e.name)))
			default:
				p := path.Join(path.Dir(e.name), hidden)
				delete(is, p)
				maps.DeleteFunc(is, below(p))
			}
		}
		for _, e := range l {
			if strings.HasPrefix(path.Base(e.name), ".wh.") {
				continue
			}
			for dir := path.Dir(e.name); dir != "."; dir = path.Dir(dir) {
				is[dir] = "directory"
			}
			what := "file " + e.body
			switch e.typ {
			case tar.TypeDir:
				what = "directory"
			case tar.TypeSymlink:
				what = "link " + e.link
			case tar.TypeLink:
				if what, known = is[e.link]; !known {
					return nil, false
				}
			}
			if what != "directory" {
				maps.DeleteFunc(is, below(e.name))
			}
			is[e.name] = what
		}
	}
	return is, true
}

// FuzzWhiteouts holds the tree against the model.
func FuzzWhiteouts(f *testing.F) {
	f.Add([]byte{0, 0, 7, 5, 0, 0, 0})
	f.Add([]byte{2, 0, 0, 3, 1, 7, 6, 0, 0, 3, 2})
	f.Add([]byte{0, 6, 0, 1, 4, 1, 6, 0, 1, 7, 5, 6, 0, 1, 7, 0, 6, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		layers := decodeLayers(b)
		var raw [][]byte
		for _, l := range layers {
			raw = append(raw, layerOf(l...))
		}
		tree, err := flatten(t, raw...)
		if r := (*Refusal)(nil); errors.As(err, &r) {
			return // the model takes everything
		}
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		var walk func(string, *inode)
		walk = func(dir string, n *inode) {
			for base, c := range n.dir.children {
				p := path.Join(dir, base)
				switch c.kind {
				case tar.TypeDir:
					got[p] = "directory"
					walk(p, c.inode)
				case tar.TypeSymlink:
					got[p] = "link " + c.target
				case tar.TypeReg:
					body := make([]byte, c.size)
					if _, err := tree.spool.f.ReadAt(body, c.offset); err != nil && len(body) > 0 {
						t.Fatal(err)
					}
					got[p] = "file " + string(body)
				}
			}
		}
		walk("", tree.root)
		want, known := model(layers)
		if known && !maps.Equal(got, want) {
			for _, p := range slices.Sorted(maps.Keys(want)) {
				t.Logf("want %s: %s", p, want[p])
			}
			for _, p := range slices.Sorted(maps.Keys(got)) {
				t.Logf("got  %s: %s", p, got[p])
			}
			for i, l := range layers {
				for _, e := range l {
					t.Logf("layer %d: %q %c %q %q", i+1, e.name, e.typ, e.link, e.body)
				}
			}
			t.Error("the tree is not what the specification says")
		}
	})
}

// FuzzManifest reads arbitrary bytes as a manifest or index. What is taken names
// its blobs by digests, in bounds.
func FuzzManifest(f *testing.F) {
	m := imageOf(layerOf(file("a", "a")))
	f.Add(m.blobs[m.top])
	m.index(thisPlatform)
	f.Add(m.blobs[m.top])
	f.Add([]byte(`{"schemaVersion":2,"config":{},"manifests":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := parseDocument(raw)
		if err == nil && d.isIndex() {
			var digest string
			if digest, err = choose(d.Manifests, thisPlatform); err == nil && !IsDigest(digest) {
				t.Fatalf("chose %q", digest)
			}
		}
		r := &resolved{}
		if err == nil && !d.isIndex() {
			err = r.take(d, fuzzLimits)
		}
		if err != nil {
			if r := (*Refusal)(nil); !errors.As(err, &r) {
				t.Fatalf("an error without a reason: %v", err)
			}
			return
		}
		for _, b := range r.layers {
			if !IsDigest(b.Digest) || b.Size < 0 || b.Size > fuzzLimits.Bytes || len(r.layers) > fuzzLimits.Layers {
				t.Fatalf("took %+v", b)
			}
		}
	})
}

// FuzzArchive reads arbitrary bytes as what docker save wrote, or an archive of a
// layout. Each file in it must come out as it went in.
func FuzzArchive(f *testing.F) {
	m := imageOf(gzipped(layerOf(file("a", "a"))))
	var d document
	if err := json.Unmarshal(m.blobs[m.top], &d); err != nil {
		f.Fatal(err)
	}
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q,"size":%d}]}`, m.top, len(m.blobs[m.top]))
	oci := []entry{file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", index)}
	for digest, b := range m.blobs {
		oci = append(oci, file(blobPath(digest), string(b)))
	}
	f.Add(layerOf(oci...))
	docker := []entry{
		file("manifest.json", `[{"Config":"config.json","RepoTags":["a:1"],"Layers":["one/layer.tar","two/layer.tar"]}]`),
		file("config.json", string(m.blobs[d.Config.Digest])), file("one/layer.tar", string(m.blobs[d.Layers[0].Digest])), symlink("two/layer.tar", "../one/layer.tar"),
	}
	f.Add(layerOf(docker...))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := os.CreateTemp("", "archive")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(file.Name())
		defer file.Close()
		if _, err := file.Write(b); err != nil {
			t.Fatal(err)
		}
		src, closer, err := Archive(t.Context(), file.Name(), "")
		if err != nil {
			return
		}
		defer closer.Close()
		r, err := resolve(t.Context(), src, "", thisPlatform, fuzzLimits)
		if err != nil {
			return
		}
		if raw, err := src.Manifest(t.Context(), r.asked, maxManifest); err != nil || digestOf(raw) != r.asked {
			t.Fatalf("the manifest %s: %v", r.asked, err)
		}
		for _, l := range r.layers {
			body, err := src.Blob(t.Context(), l)
			if err != nil {
				continue
			}
			got, err := io.ReadAll(body)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(b, got) {
				t.Fatalf("%d bytes that the archive does not hold", len(got))
			}
		}
	})
}
