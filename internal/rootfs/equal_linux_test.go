package rootfs

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hpcc.dev/hpcc/test/images"
)

// run runs a program that must succeed, and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// needJudges fails, or where HPCC_TEST_REQUIRE is not set skips, without the
// programs that judge, and root, whom mounting and unpacking owners take.
func needJudges(t *testing.T) {
	t.Helper()
	missing := ""
	for _, name := range []string{"e2fsck", "veritysetup", "umoci", "skopeo"} {
		if _, err := exec.LookPath(name); err != nil {
			missing = name
		}
	}
	if os.Getuid() != 0 {
		missing = "root"
	}
	switch {
	case missing == "":
	case os.Getenv("HPCC_TEST_REQUIRE") != "":
		t.Fatalf("%s is missing: run make setup, as root", missing)
	default:
		t.Skipf("%s is missing", missing)
	}
}

// mount mounts an image until unmount is called.
func mount(t *testing.T, img Image) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	run(t, "mount", "-o", "ro,loop,sizelimit="+fmt.Sprint(img.DataBlocks*4096), img.Path, dir)
	return dir, func() { run(t, "umount", dir) }
}

// mounted is the tree of an image as Linux reads it.
func mounted(t *testing.T, img Image) map[string]string {
	t.Helper()
	dir, unmount := mount(t, img)
	defer unmount()
	tree, err := images.Tree(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// unpacked is the tree of a layout's image as umoci unpacks it.
func unpacked(t *testing.T, layout string) map[string]string {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "bundle")
	run(t, "umoci", "unpack", "--image", layout+":latest", bundle)
	tree, err := images.Tree(filepath.Join(bundle, "rootfs"))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// checkImage lets e2fsck and veritysetup judge an image.
func checkImage(t *testing.T, img Image) {
	t.Helper()
	fsOnly := filepath.Join(t.TempDir(), "fs")
	data, err := os.ReadFile(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(data)) != img.Size {
		t.Fatalf("%d bytes, the record says %d", len(data), img.Size)
	}
	if err := os.WriteFile(fsOnly, data[:img.DataBlocks*4096], 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "e2fsck", "-fn", fsOnly)
	verify(t, img, img.Path)
}

func verifyArgs(img Image, path string) []string {
	return []string{"verify", fmt.Sprintf("--hash-offset=%d", img.DataBlocks*4096), path, path, img.RootHash}
}

func verify(t *testing.T, img Image, path string) {
	t.Helper()
	run(t, "veritysetup", verifyArgs(img, path)...)
}

// features is an image with one of everything that layers can say and umoci
// reads as hpcc does.
func features() [][]byte {
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	big := make([]byte, 3<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(big)
	// A directory that changes and has no entry gets another time from each
	// program: so all have one.
	var deep []entry
	for i := range 60 {
		deep = append(deep, directory(strings.Repeat("p/", i+1)))
	}
	return [][]byte{
		gzipped(layerOf(append(deep,
			entry{name: "./", typ: tar.TypeDir, mode: 0o711, time: 1_500_000_000},
			entry{name: "bin", typ: tar.TypeDir, mode: 0o755, time: 1},
			entry{name: "bin/tool", body: "tool", mode: 0o4755, uid: 0, time: 1_600_000_000},
			entry{name: "bin/sgid", body: "sgid", mode: 0o2750, uid: 1234},
			entry{name: "tmp", typ: tar.TypeDir, mode: 0o1777},
			entry{name: "owner", body: "x", uid: 4_000_000_000, mode: 0o600},
			xattrs(file("ping", "ping"), "security.capability", capability),
			xattrs(file("attrs", "a"), "user.b", "2", "user.a", "1", "user.longer", strings.Repeat("v", 1000), "user.c", strings.Repeat("w", 500)),
			xattrs(directory("attrdir"), "user.x", "y"),
			file("empty", ""),
			file("one", "1"),
			entry{name: "big", body: string(big)},
			file("block", strings.Repeat("b", 4096)),
			file("name with spaces and ünïcode", ""),
			file("newline\nname", ""),
			file("latin1\xe9", "not UTF-8"),
			file(strings.Repeat("n", 255), "long name"),
			file(strings.Repeat("p/", 60)+"deep", "deep"),
			entry{name: "fifo", typ: tar.TypeFifo, mode: 0o640},
			symlink("abs", "/bin/tool"),
			symlink("rel", "../../../out/of/here"),
			symlink("target59", strings.Repeat("t", 59)),
			symlink("target60", strings.Repeat("t", 60)),
			symlink("target4095", strings.Repeat("t/", 2047)+"t"),
			symlink("dangling", "nowhere"),
			hardlink("bin/alias", "bin/tool"),
			hardlink("abs2", "abs"), // of a symbolic link
			file("gone", "gone"),
			directory("gonedir"),
			directory("gonedir/a"),
			file("gonedir/a/b", "gone"),
			directory("opaque"),
			file("opaque/old", "old"),
			directory("opaque/olddir"),
			file("opaque/olddir/x", "old"),
			file("replaced", "old"),
			file("todir", "file"),
			directory("tofile"),
			file("tofile/a", "a"),
			hardlink("kept-name", "gone"),
			file("late", "1"),
			hardlink("late-link", "late"),
		)...)),
		gzipped(layerOf(
			file(".wh.gone", ""),
			file(".wh.gonedir", ""),
			directory("opaque"),
			file("opaque/.wh..wh..opq", ""),
			file("opaque/new", "new"),
			file("replaced", "new, and longer"),
			directory("todir"),
			file("todir/inside", "x"),
			file("tofile", "now a file"),
			file("late", "2"), // late-link keeps the old content
			entry{name: "bin", typ: tar.TypeDir, mode: 0o700, uid: 7, time: 2},
			file(".wh.nothing-of-that-name", ""),
			directory("deep"),
			directory("deep/er"),
			file("deep/er/f", "f"),
		)),
		gzipped(layerOf(
			entry{name: "./", typ: tar.TypeDir, mode: 0o711, time: 1_500_000_000},
			directory("deep"),
			file("deep/.wh.er", ""),
			directory("gonedir"),
			file("gonedir/back", "again"),
			hardlink("third-name", "bin/alias"),
			file(".wh.one", ""),
		)),
	}
}

// An image equals its layers' tree as an independent program unpacks it, and
// e2fsck, Linux and veritysetup find nothing wrong with it.
func TestEqualsLayers(t *testing.T) {
	needJudges(t)
	m := imageOf(features()...)
	layout := t.TempDir()
	m.layout(t, layout)
	src, closer, err := Layout(layout, "latest")
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	s := openStore(t)
	img := build(t, s, src)
	checkImage(t, img)
	dir, unmount := mount(t, img)
	if n := compareLookups(t, s, img.Digest, dir); n < 20 {
		t.Errorf("the index has %d files", n)
	}
	unmount()
	want := unpacked(t, layout)
	for _, d := range images.Diff(mounted(t, img), want) {
		t.Error(d)
	}
	for path, is := range map[string]bool{"gone": false, "kept-name": true, "opaque/new": true, "opaque/old": false, "todir/inside": true, "gonedir/back": true, "third-name": true, "one": false} {
		if _, ok := want[path]; ok != is {
			t.Errorf("the judge has %s: %v", path, ok)
		}
	}
	if len(want) < 90 {
		t.Errorf("the judge unpacked %d files", len(want))
	}
	if len(img.Env) != 1 || img.Env[0] != "PATH=/usr/bin" {
		t.Errorf("environment %q", img.Env)
	}
}

// What umoci reads otherwise or refuses: the order of whiteouts in their layer,
// and links of lower layers in a path.
func TestOrderInLayer(t *testing.T) {
	needJudges(t)
	lower := layerOf(directory("d"), file("d/old", "old"), file("x", "old"), directory("usr/bin"), symlink("bin", "usr/bin"), symlink("absbin", "/usr/bin"), directory("y"), file("y/old", ""))
	upper := layerOf(
		file("x", "new"), file(".wh.x", ""), // a whiteout never reaches its own layer
		file("d/new", "new"), file("d/.wh..wh..opq", ""), // nor an opaque one
		file("y/new", "new"), file(".wh.y", ""),
		file("bin/tool", "tool"), file("absbin/tool2", "tool2"), file("/absolute/name", "n"),
		hardlink("link", "bin/tool"), // through a link of the lower layer
		file("implicit/parent/f", ""),
		xattrs(entry{name: ".", typ: tar.TypeDir, mode: 0o750, uid: 3, time: 7}, "user.root", "r"),
		entry{name: "lost+found", typ: tar.TypeDir, mode: 0o711, uid: 5, time: 9}, file("lost+found/f", ""),
	)
	got := mounted(t, build(t, openStore(t), imageOf(lower, upper)))
	for path, is := range map[string]bool{
		"x": true, "d/new": true, "d/old": false, "y/new": true, "y/old": false,
		"usr/bin/tool": true, "usr/bin/tool2": true, "absolute/name": true, "link": true, "implicit/parent/f": true,
	} {
		if _, ok := got[path]; ok != is {
			t.Errorf("%s: %v", path, ok)
		}
	}
	if !strings.HasPrefix(got["bin"], "Lrwxrwxrwx") || !strings.Contains(got["link"], "2 names") {
		t.Errorf("bin is %s, link %s", got["bin"], got["link"])
	}
	if want := "drwxr-x--- 3:3 7.000000000 user.root=72"; got["."] != want {
		t.Errorf("the root: %q", got["."])
	}
	if want := "drwx--x--x 5:5 9.000000000"; got["lost+found"] != want || got["lost+found/f"] == "" {
		t.Errorf("an image's own lost+found: %q", got["lost+found"])
	}
	if want := "drwxr-xr-x 0:0 0.000000000"; got["implicit"] != want {
		t.Errorf("a directory that no entry names: %q", got["implicit"])
	}
}

// The same image gives the same bytes, whatever came between and wherever it
// comes from; another image does not give the same salt.
func TestDeterministic(t *testing.T) {
	m := imageOf(features()...)
	a := build(t, openStore(t), m)
	b := build(t, openStore(t), m)
	one, err := os.ReadFile(a.Path)
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(b.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) || a.RootHash != b.RootHash {
		t.Error("two builds differ")
	}
	other := build(t, openStore(t), imageOf(append(features(), layerOf())...))
	if other.Salt == a.Salt || other.RootHash == a.RootHash {
		t.Error("another image has the same salt or root hash")
	}
}

// veritysetup finds every flipped byte, of data and of the tree.
func TestVerityFindsFlippedByte(t *testing.T) {
	needJudges(t)
	img := build(t, openStore(t), imageOf(features()...))
	data, err := os.ReadFile(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	fs := img.DataBlocks * 4096
	copied := filepath.Join(t.TempDir(), "image")
	for _, at := range []int64{0, 1024 + 56, fs / 2, fs - 1, fs + 4096, img.Size - 4096} {
		flipped := bytes.Clone(data)
		flipped[at] ^= 0x10
		if err := os.WriteFile(copied, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("veritysetup", verifyArgs(img, copied)...).CombinedOutput(); err == nil {
			t.Errorf("byte %d of %d (file system: %d): not found\n%s", at, img.Size, fs, out)
		}
	}
	if err := os.WriteFile(copied, data, 0o600); err != nil {
		t.Fatal(err)
	}
	verify(t, img, copied)
}

// What skopeo makes of a layout in docker save's format builds the same tree.
func TestDockerArchive(t *testing.T) {
	needJudges(t)
	m := imageOf(features()...)
	dir := t.TempDir()
	m.layout(t, dir)
	want := mounted(t, build(t, openStore(t), m))
	for _, format := range []string{"docker-archive", "oci-archive"} {
		t.Run(format, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "image.tar")
			run(t, "skopeo", "--insecure-policy", "copy", "oci:"+dir+":latest", format+":"+file+":example.com/test:latest")
			for _, ref := range []string{"", "example.com/test:latest"} {
				src, closer, err := Archive(t.Context(), file, ref)
				if err != nil {
					t.Fatal(err)
				}
				defer closer.Close()
				img := build(t, openStore(t), src)
				for _, d := range images.Diff(mounted(t, img), want) {
					t.Error(d)
				}
				if format == "oci-archive" && img.Digest != m.top {
					t.Errorf("the manifest is %s, not %s", img.Digest, m.top)
				}
			}
			if _, _, err := Archive(t.Context(), file, "example.com/other:latest"); err == nil {
				t.Error("an image that is not in the archive was found")
			}
		})
	}
}

// The root hash and the record survive being written down.
func TestRecord(t *testing.T) {
	s := openStore(t)
	img := build(t, s, imageOf(layerOf(file("a", "a"))))
	got, err := s.Get(img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	got.Used, img.Used = img.Built, img.Built
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(img)
	if !bytes.Equal(a, b) {
		t.Errorf("got  %s\nwant %s", a, b)
	}
}

// The bytes of an image are the same for every build of hpcc: else root hashes
// that were recorded no longer hold. If this fails since the writer of the file
// system has changed, count up format in record.go.
func TestGolden(t *testing.T) {
	const want = "13c48348c5c1a9eb32eee1132f5820a7a82d2e3ffc9a1316288ab97171d968cf"
	m := imageFor(Platform{OS: "linux", Architecture: "amd64"}, features()...)
	img := build(t, openStore(t, func(o *Options) { o.Platform = Platform{OS: "linux", Architecture: "amd64"} }), m)
	// The compressor of the test's layers is not what is tested: only salt and
	// UUID depend on the digest, so the file system alone counts.
	f, err := os.Open(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyN(h, f, img.DataBlocks*4096); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("format %d wrote %s, this program %s", format, want, got)
	}
}
