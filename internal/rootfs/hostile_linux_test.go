package rootfs

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"hpcc.dev/hpcc/internal/rootfs/ext4"
)

// A hostile or broken image is refused for its reason, and nothing of it is left
// behind.
func TestHostile(t *testing.T) {
	small := Limits{Bytes: 1 << 20, Entries: 50, Metadata: 20_000, Depth: 10, Layers: 3}
	ok := layerOf(file("a", "content"))
	many := func(n int, e func(i int) entry) (all []entry) {
		for i := range n {
			all = append(all, e(i))
		}
		return all
	}
	cut := func(b []byte, n int) []byte { return b[:len(b)-n] }
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	// exchanged serves other bytes under the first layer's digest.
	exchanged := func(layer, other []byte) *memImage {
		m := imageOf(layer)
		m.blobs[digestOf(layer)] = other
		return m
	}
	bomb := gzipped(layerOf(file("zeros", strings.Repeat("\x00", 2<<20))))
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	zstdBomb := z.EncodeAll(layerOf(file("zeros", strings.Repeat("\x00", 2<<20))), nil)

	// tar.Writer makes no sparse files: GNU's old format says by 'S' and a
	// real size that 512 bytes are a terabyte.
	sparse := func() []byte {
		b := bytes.Clone(layerOf(entry{name: "s", body: strings.Repeat("x", 512)}))
		h := b[:512]
		copy(h[257:265], "ustar  \x00")
		h[156] = 'S'
		copy(h[386:398], "00000000000\x00") // offset of the first piece
		copy(h[398:410], "00000001000\x00") // its size
		copy(h[483:495], "17777777777\x00") // real size: 8 GiB
		sum := 0
		copy(h[148:156], "        ")
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
		return b
	}()

	tests := []struct {
		name  string
		image *memImage
		want  Reason
	}{
		{"dot-dot in a name", imageOf(layerOf(file("a/../../etc/passwd", ""))), PathEscape},
		{"dot-dot alone", imageOf(layerOf(directory(".."))), PathEscape},
		{"dot-dot in a hard link", imageOf(layerOf(hardlink("a", "../../etc/shadow"))), PathEscape},
		{"dot-dot in a whiteout", imageOf(layerOf(file("../.wh.a", ""))), PathEscape},
		{"hard link to an absolute path that is not the image's", imageOf(layerOf(hardlink("a", "/etc/shadow"))), BadLink},
		{"hard link through a link out", imageOf(layerOf(symlink("out", "/etc"), hardlink("a", "out/shadow"))), WriteThroughLink},
		{"hard link to a directory", imageOf(layerOf(directory("d"), hardlink("a", "d"))), BadLink},
		{"hard link to the root", imageOf(layerOf(hardlink("a", "/"))), BadLink},
		{"hard link to itself", imageOf(ok, layerOf(hardlink("a", "./a"))), BadLink},
		{"hard link to what comes later", imageOf(layerOf(hardlink("b", "a"), file("a", ""))), BadLink},
		{"link, then write through it, absolute", imageOf(layerOf(symlink("x", "/etc"), file("x/passwd", "root::0:0"))), WriteThroughLink},
		{"link, then write through it, relative", imageOf(layerOf(symlink("x", "../../etc"), file("x/passwd", ""))), WriteThroughLink},
		{"link, then write through it, in a directory that the layer has", imageOf(layerOf(directory("d"), symlink("x", "d"), file("x/f", ""))), WriteThroughLink},
		{"link, then whiteout through it", imageOf(layerOf(directory("d"), symlink("x", "d"), file("x/.wh.f", ""))), WriteThroughLink},
		{"link out of a lower layer, then write", imageOf(layerOf(symlink("x", "../../etc")), layerOf(file("x/passwd", ""))), PathEscape},
		{"dangling link of a lower layer, then write", imageOf(layerOf(symlink("x", "/nowhere")), layerOf(file("x/f", ""))), NotADirectory},
		{"link to itself of a lower layer, then write", imageOf(layerOf(symlink("x", "x")), layerOf(file("x/f", ""))), TooDeep},
		{"link that grows, then write", imageOf(layerOf(symlink("x", "x"+strings.Repeat("/a", 1000))), layerOf(file("x/f", ""))), TooDeep},
		{"links that double at each step, then write", imageOf(layerOf(directory("l0"), symlink("l1", "l0/../l0/../l0"), symlink("l2", "l1/../l1/../l1"),
			symlink("l3", "l2/../l2/../l2"), symlink("l4", "l3/../l3/../l3")), layerOf(file("l4/f", ""))), TooDeep},
		{"file beneath a file", imageOf(layerOf(file("a", ""), file("a/b", ""))), NotADirectory},
		{"file beneath a lower layer's file", imageOf(ok, layerOf(file("a/b", ""))), NotADirectory},
		{"root as a file", imageOf(layerOf(entry{name: "./", typ: tar.TypeSymlink, link: "/etc"})), NotADirectory},
		{"lost+found as a file", imageOf(layerOf(file("lost+found", ""))), NotADirectory},

		{"character device", imageOf(layerOf(entry{name: "dev/mem", typ: tar.TypeChar})), DeviceNode},
		{"block device", imageOf(layerOf(entry{name: "dev/vda", typ: tar.TypeBlock})), DeviceNode},
		{"overlay's own whiteout", imageOf(layerOf(entry{name: "a", typ: tar.TypeChar})), DeviceNode},
		{"unknown type", imageOf(layerOf(entry{name: "a", typ: 'Z'})), BadType},

		{"file twice", imageOf(layerOf(file("a", "1"), file("a", "2"))), Duplicate},
		{"file twice, spelt otherwise", imageOf(layerOf(file("d/a", "1"), file("./d//./a", "2"))), Duplicate},
		{"file, then directory", imageOf(layerOf(file("a", "1"), directory("a"))), Duplicate},
		{"directory, then file", imageOf(layerOf(directory("a"), file("a", "1"))), Duplicate},
		{"directory that the layer filled, then file", imageOf(layerOf(directory("a")), layerOf(file("a/b", ""), file("a", "1"))), Duplicate},
		{"file, then link", imageOf(layerOf(file("a", "1"), symlink("a", "b"))), Duplicate},

		{"empty symbolic link", imageOf(layerOf(symlink("a", ""))), BadSymlink},
		{"long symbolic link", imageOf(layerOf(symlink("a", strings.Repeat("x", 4096)))), BadSymlink},
		{"whiteout of nothing", imageOf(layerOf(file("d/.wh.", ""))), BadWhiteout},
		{"whiteout of dot-dot", imageOf(layerOf(file("d/.wh...", ""))), BadWhiteout},
		{"whiteout of aufs", imageOf(layerOf(file(".wh..wh.plnk", ""))), BadWhiteout},
		{"overlay's attribute", imageOf(layerOf(xattrs(directory("d"), "trusted.overlay.opaque", "y"))), BadXattr},
		{"overlay's attribute, for users", imageOf(layerOf(xattrs(file("f", ""), "user.overlay.redirect", "/etc"))), BadXattr},
		{"unknown attribute", imageOf(layerOf(xattrs(file("f", ""), "trusted.secret", "1"))), BadXattr},
		{"attribute of a symbolic link", imageOf(layerOf(xattrs(symlink("f", "x"), "user.a", "1"))), BadXattr},
		{"attributes that do not fit", imageOf(layerOf(xattrs(file("f", ""), "user.a", strings.Repeat("x", 4060)))), BadXattr},
		{"owner out of range", imageOf(layerOf(entry{name: "a", uid: 1<<32 - 1})), BadOwner},
		{"negative owner", imageOf(layerOf(entry{name: "a", uid: -1})), BadOwner},

		{"bytes", imageOf(layerOf(file("a", strings.Repeat("x", 2<<20)))), TooManyBytes},
		{"bytes of all layers", imageOf(layerOf(file("a", strings.Repeat("x", 600<<10))), layerOf(file("a", strings.Repeat("y", 600<<10)))), TooManyBytes},
		{"gzip bomb", imageOf(bomb), TooManyBytes},
		{"zstd bomb", imageOf(zstdBomb).edit(func(*document) {}), TooManyBytes},
		{"bomb behind the archive's end", imageOf(gzipped(append(layerOf(), make([]byte, 2<<20)...))), TooManyBytes},
		{"bomb in a whiteout", imageOf(gzipped(layerOf(file(".wh.a", strings.Repeat("\x00", 2<<20))))), TooManyBytes},
		{"sparse file", imageOf(sparse), TooManyBytes},
		{"entries", imageOf(layerOf(many(51, func(i int) entry { return file(fmt.Sprint(i), "") })...)), TooManyEntries},
		{"directories that no entry names", imageOf(layerOf(many(10, func(i int) entry { return file(fmt.Sprint(i, "/a/b/c/d/e/f"), "") })...)), TooManyEntries},
		{"the same directory again and again", imageOf(layerOf(many(51, func(int) entry { return directory("d") })...)), TooManyEntries},
		{"names", imageOf(layerOf(many(9, func(i int) entry { return symlink(fmt.Sprint(i), strings.Repeat("x", 3000)) })...)), TooMuchMetadata},
		{"depth", imageOf(layerOf(file(strings.Repeat("d/", 10)+"f", ""))), TooDeep},
		{"name length", imageOf(layerOf(file(strings.Repeat("x", 256), ""))), NameTooLong},
		{"path length", imageOf(layerOf(file(strings.Repeat("./", 2048)+"a", ""))), NameTooLong},
		{"layers", imageOf(ok, layerOf(), layerOf(directory("d")), layerOf(directory("e"))), TooManyLayers},

		{"truncated blob", exchanged(gzipped(ok), cut(gzipped(ok), 5)), Truncated},
		{"truncated blob without compression", exchanged(ok, cut(ok, 1100)), Truncated},
		{"longer blob", exchanged(gzipped(ok), append(gzipped(ok), 0)), WrongDigest},
		{"flipped byte", exchanged(gzipped(ok), flip(gzipped(ok), 30)), WrongDigest},
		{"flipped byte of content", exchanged(ok, flip(ok, 512)), WrongDigest},
		{"flipped byte of a header", exchanged(ok, flip(ok, 0)), WrongDigest},
		{"exchanged blob", exchanged(ok, layerOf(file("a", "CONTENT"))), WrongDigest},
		{"layer that unpacks to something else", imageOf(ok).edit(func(d *document) {}).withDiffID(digestOf([]byte("other"))), WrongDigest},
		{"truncated archive under its digest", imageOf(cut(layerOf(file("a", strings.Repeat("x", 5000))), 3000)), Truncated},
		{"no archive", imageOf(bytes.Repeat([]byte("no archive "), 100)), BadArchive},
		{"damaged compression under its digest", imageOf(ok).edit(func(d *document) {}).withLayer(flip(gzipped(ok), len(gzipped(ok))-6)), BadArchive},
		{"garbage behind the compressed stream", imageOf(ok).withLayer(append(gzipped(ok), "garbage of some length"...)), BadArchive},

		{"another architecture", imageFor(Platform{OS: "linux", Architecture: "s390x"}, ok), WrongPlatform},
		{"another system", imageFor(Platform{OS: "windows", Architecture: thisPlatform.Architecture}, ok), WrongPlatform},
		{"index without this platform", indexOf(imageFor(Platform{OS: "linux", Architecture: "s390x"}, ok)), WrongPlatform},
		{"index that lies about the platform", imageFor(Platform{OS: "linux", Architecture: "s390x"}, ok).index(thisPlatform), WrongPlatform},
		{"foreign layer", imageOf(ok).edit(func(d *document) { d.Layers[0].URLs = []string{"http://169.254.169.254/"} }), BadMediaType},
		{"encrypted layer", imageOf(ok).edit(func(d *document) { d.Layers[0].MediaType += "+encrypted" }), BadMediaType},
		{"artefact", imageOf(ok).edit(func(d *document) { d.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }), BadManifest},
		{"manifest and index at once", imageOf(ok).edit(func(d *document) { d.Manifests = []Descriptor{} }), BadManifest},
		{"manifest that says it is an index", imageOf(ok).edit(func(d *document) { d.MediaType = ociIndex }), BadManifest},
		{"first schema", imageOf(ok).edit(func(d *document) { d.SchemaVersion = 1 }), BadManifest},
		{"no JSON", imageOf(ok).manifest([]byte("<html>")), BadManifest},
		{"digest that is a path", imageOf(ok).edit(func(d *document) { d.Layers[0].Digest = "sha256:../../../etc/passwd" }), BadManifest},
		{"digest by another function", imageOf(ok).edit(func(d *document) { d.Layers[0].Digest = "sha512:" + strings.Repeat("0", 128) }), BadManifest},
		{"negative size", imageOf(ok).edit(func(d *document) { d.Layers[0].Size = -1 }), TooManyBytes},
		{"fewer layers than the configuration says", imageOf(ok, layerOf()).edit(func(d *document) { d.Layers = d.Layers[:1] }), BadManifest},
		{"large environment", imageOf(ok).withConfig("PATH=/usr/bin", strings.Repeat("x", 70_000)), BadManifest},
		{"large configuration", imageOf(ok).edit(func(d *document) { d.Config.Size = 9 << 20 }), TooManyBytes},
		{"exchanged configuration", imageOf(ok).edit(func(d *document) { d.Config.Digest = d.Layers[0].Digest; d.Config.Size = d.Layers[0].Size }), BadManifest},
	}
	seen := map[Reason]bool{NotAllowed: true /* TestAllowList */, TooManyLinks: true /* TestTooManyLinks */, BadName: true /* the fuzz target */}
	for _, tt := range tests {
		seen[tt.want] = true
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t, func(o *Options) { o.Limits = small })
			_, err := s.Build(t.Context(), tt.image, nil)
			var r *Refusal
			if !errors.As(err, &r) || r.Reason != tt.want {
				t.Errorf("%v, want %s", err, tt.want)
			}
			if names := left(t, s); len(names) > 0 {
				t.Errorf("left behind: %v", names)
			}
		})
	}
	for _, reason := range []Reason{
		NotAllowed, WrongPlatform, BadManifest, BadMediaType, WrongDigest, Truncated, BadArchive, TooManyBytes, TooManyEntries, TooDeep,
		NameTooLong, TooManyLinks, TooManyLayers, TooMuchMetadata, PathEscape, BadName, WriteThroughLink, NotADirectory, DeviceNode,
		BadType, BadLink, BadSymlink, Duplicate, BadWhiteout, BadXattr, BadOwner,
	} {
		if !seen[reason] {
			t.Errorf("no case for %s", reason)
		}
	}
}

// withDiffID, withConfig and withLayer exchange what the configuration says of the only
// layer, and the layer, in an image whose other digests fit.
func (m *memImage) withDiffID(id string) *memImage {
	var d document
	if err := json.Unmarshal(m.blobs[m.top], &d); err != nil {
		panic(err)
	}
	return m.withConfig(digestOf(m.blobs[d.Layers[0].Digest]), id)
}

func (m *memImage) withConfig(old, new string) *memImage {
	return m.edit(func(d *document) {
		config := strings.Replace(string(m.blobs[d.Config.Digest]), old, new, 1)
		d.Config.Digest, d.Config.Size = m.put([]byte(config)), int64(len(config))
	})
}

func (m *memImage) withLayer(b []byte) *memImage {
	return m.edit(func(d *document) { d.Layers[0].Digest, d.Layers[0].Size = m.put(b), int64(len(b)) })
}

func (m *memImage) manifest(b []byte) *memImage {
	m.top = m.put(b)
	return m
}

// index makes an index that names the image for a platform.
func (m *memImage) index(p Platform) *memImage {
	m.top = m.putJSON(document{SchemaVersion: 2, MediaType: ociIndex, Manifests: []Descriptor{
		{MediaType: ociManifest, Digest: m.top, Size: int64(len(m.blobs[m.top])), Platform: &p},
	}})
	return m
}

// indexOf names an image for its own platform.
func indexOf(m *memImage) *memImage { return m.index(Platform{OS: "linux", Architecture: "s390x"}) }

// ext4 has bounds for names of a file and for directories in one; up to them
// images are right.
func TestTooManyLinks(t *testing.T) {
	links := []entry{file("a", "x")}
	for i := range ext4.MaxLinks {
		links = append(links, hardlink(fmt.Sprint("d", i%3, "/", i), "a"))
	}
	var dirs []entry
	for i := range ext4.MaxLinks + 1 {
		dirs = append(dirs, directory(fmt.Sprint("d/", i)))
	}
	for name, all := range map[string][]entry{"names of a file": links, "directories in one": dirs} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			_, err := s.Build(t.Context(), imageOf(layerOf(all...)), nil)
			if r := (*Refusal)(nil); !errors.As(err, &r) || r.Reason != TooManyLinks {
				t.Errorf("one too many: %v", err)
			}
			img := build(t, s, imageOf(layerOf(append(all[:len(all)-1], file("d/file", ""))...)))
			needJudges(t)
			checkImage(t, img)
		})
	}
}
