package rootfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// entry is one of a layer that a test makes.
type entry struct {
	name string
	typ  byte // 0 is a regular file
	body string
	link string
	mode int64 // 0 is 0644, of directories 0755
	uid  int
	pax  map[string]string
	time int64
}

func file(name, body string) entry   { return entry{name: name, body: body} }
func directory(name string) entry    { return entry{name: name, typ: tar.TypeDir} }
func symlink(name, to string) entry  { return entry{name: name, typ: tar.TypeSymlink, link: to} }
func hardlink(name, to string) entry { return entry{name: name, typ: tar.TypeLink, link: to} }

func xattrs(e entry, kv ...string) entry {
	e.pax = map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		e.pax[paxXattr+kv[i]] = kv[i+1]
	}
	return e
}

// layerOf makes an archive.
func layerOf(entries ...entry) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{
			Name: e.name, Typeflag: e.typ, Linkname: e.link, Mode: e.mode, Uid: e.uid, Gid: e.uid,
			Size: int64(len(e.body)), PAXRecords: e.pax, ModTime: time.Unix(e.time, 0), Format: tar.FormatPAX,
		}
		if e.typ == 0 {
			h.Typeflag = tar.TypeReg
		}
		if e.mode == 0 {
			h.Mode = map[bool]int64{true: 0o755, false: 0o644}[e.typ == tar.TypeDir]
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func gzipped(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(b)
	w.Close()
	return z.Bytes()
}

// memImage is an image in memory, and a Source.
type memImage struct {
	name, repository string
	top              string
	blobs            map[string][]byte
	served           atomic.Int64 // manifests and blobs
	byDigest         bool
}

func (m *memImage) put(b []byte) string {
	m.blobs[digestOf(b)] = b
	return digestOf(b)
}

func (m *memImage) putJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return m.put(b)
}

func (m *memImage) Manifest(_ context.Context, digest string, _ int64) ([]byte, error) {
	if digest == "" {
		digest = m.top
	}
	m.served.Add(1)
	b, ok := m.blobs[digest]
	if !ok {
		return nil, fmt.Errorf("no manifest %s", digest)
	}
	return b, nil
}

func (m *memImage) Blob(_ context.Context, d Descriptor) (io.ReadCloser, error) {
	m.served.Add(1)
	b, ok := m.blobs[d.Digest]
	if !ok {
		return nil, fmt.Errorf("no blob %s", d.Digest)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (m *memImage) Digest() string {
	if m.byDigest {
		return m.top
	}
	return ""
}

func (m *memImage) Repository() string { return m.repository }
func (m *memImage) Name() string       { return m.name }

var thisPlatform = Platform{OS: "linux", Architecture: runtime.GOARCH}

// imageOf makes an image of layers, each an archive that may be compressed.
func imageOf(layers ...[]byte) *memImage { return imageFor(thisPlatform, layers...) }

func imageFor(p Platform, layers ...[]byte) *memImage {
	m := &memImage{name: "test", blobs: map[string][]byte{}}
	ids := []string{}
	descs := []Descriptor{}
	for _, l := range layers {
		plain, kind := l, layerTypes[0]
		if bytes.HasPrefix(l, []byte{0x1f, 0x8b}) {
			kind = layerTypes[1]
			z, err := gzip.NewReader(bytes.NewReader(l))
			if err != nil {
				panic(err)
			}
			if plain, err = io.ReadAll(z); err != nil {
				panic(err)
			}
		}
		ids = append(ids, digestOf(plain))
		descs = append(descs, Descriptor{MediaType: kind, Digest: m.put(l), Size: int64(len(l))})
	}
	config, err := json.Marshal(map[string]any{
		"os": p.OS, "architecture": p.Architecture,
		"config": map[string]any{"Env": []string{"PATH=/usr/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
	if err != nil {
		panic(err)
	}
	m.top = m.putJSON(document{
		SchemaVersion: 2, MediaType: ociManifest, Layers: descs,
		Config: &Descriptor{MediaType: configTypes[0], Digest: m.put(config), Size: int64(len(config))},
	})
	return m
}

// edit changes the manifest of an image.
func (m *memImage) edit(change func(*document)) *memImage {
	var d document
	if err := json.Unmarshal(m.blobs[m.top], &d); err != nil {
		panic(err)
	}
	change(&d)
	m.top = m.putJSON(d)
	return m
}

// layout writes the image as an OCI layout, tagged "latest".
func (m *memImage) layout(t *testing.T, dir string) {
	t.Helper()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	index, err := json.Marshal(document{SchemaVersion: 2, Manifests: []Descriptor{{
		MediaType: ociManifest, Digest: m.top, Size: int64(len(m.blobs[m.top])),
		Annotations: map[string]string{refNames[0]: "latest"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": index}
	for d, b := range m.blobs {
		files[blobPath(d)] = b
	}
	for path, b := range files {
		if err := os.WriteFile(filepath.Join(dir, path), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// openStore opens a store of the test's own.
func openStore(t testing.TB, change ...func(*Options)) *Store {
	t.Helper()
	opt := Options{Dir: filepath.Join(t.TempDir(), "images")}
	for _, c := range change {
		c(&opt)
	}
	s, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// build builds an image that must be fine.
func build(t *testing.T, s *Store, src Source) Image {
	t.Helper()
	img, err := s.Build(t.Context(), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// left lists the files of a store.
func left(t *testing.T, s *Store) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(s.opt.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
