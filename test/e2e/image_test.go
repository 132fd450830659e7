//go:build e2e && linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/rootfs"
	"hpcc.dev/hpcc/test/images"
)

// built is what `hpcc image build --json` says of an image.
type built struct {
	Digest     string `json:"digest"`
	Path       string `json:"path"`
	Size       int64  `json:"size"`
	DataBlocks int64  `json:"data_blocks"`
	RootHash   string `json:"root_hash"`
	Content    int64  `json:"content_bytes"`
}

// maxImageMemory bounds what building the gcc image takes at its peak: 28 MB
// were seen (Linux charges a program with what the one that started it had,
// which is this test). It does not grow with the bytes of an image, but with its files, by
// about a kilobyte each.
const maxImageMemory = 96 << 20

// A real toolchain, from Debian's packages to a root file system: pushed to a
// real registry that wants a login, by skopeo, pulled by digest and judged by
// e2fsck, veritysetup, Linux, and what umoci unpacks.
func TestGCCImage(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root, to mount the image and to unpack owners")
	}
	img, err := images.GCC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	reg, err := images.StartRegistry(t.Context(), t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Stop()
	ref, err := reg.Push(t.Context(), img, "toolchains/gcc", true)
	if err != nil {
		t.Fatal(err)
	}

	w := newWorld(t, "")
	store := filepath.Join(w.dir, "images")
	// image runs hpcc image and returns its stdout, stderr, peak memory and
	// processor time.
	var cpu time.Duration
	image := func(login bool, args ...string) (stdout, stderr string, memory int64, err error) {
		// The kernel counts the memory of whoever starts a program as the
		// program's until it does; that of time(1) is small.
		peak := filepath.Join(w.dir, "peak")
		cmd := exec.Command("time", append([]string{"--quiet", "--format=%M", "--output=" + peak, filepath.Join(w.bin, "hpcc"), "image"}, args...)...)
		cmd.Env = append(w.env(""), "HPCC_IMAGE_DIR="+store, "HPCC_IMAGE_ALLOW="+reg.Addr+"/toolchains/*")
		if login {
			cmd.Env = append(cmd.Env, "DOCKER_CONFIG="+filepath.Join(w.dir, "docker"))
		}
		var out, log bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &log
		err = cmd.Run()
		if text, err := os.ReadFile(peak); err == nil {
			kib, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			memory = kib << 10
		}
		cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		return out.String(), log.String(), memory, err
	}
	login, err := json.Marshal(map[string]any{"auths": map[string]any{reg.Addr: map[string]string{"username": images.User, "password": images.Password}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(w.dir, "docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "docker", "config.json"), login, 0o600); err != nil {
		t.Fatal(err)
	}

	if _, stderr, _, err := image(false, "build", ref+":"+img.Tag); err == nil || !strings.Contains(stderr, "UNAUTHORIZED") {
		t.Errorf("without a login: %v\n%s", err, stderr)
	}
	start := time.Now()
	stdout, stderr, memory, err := image(true, "build", "--json", ref+"@"+img.Digest)
	took, work := time.Since(start), cpu
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	var b built
	if err := json.Unmarshal([]byte(stdout), &b); err != nil {
		t.Fatal(err)
	}
	tree := unpackedSize(t, img)
	rate := float64(tree) / took.Seconds() / 1e6
	perProcessor := float64(tree) / work.Seconds() / 1e6
	t.Logf("%d MB of layers, unpacked, in %.1f s: %.0f MB/s (%.0f for each second of processor time), at a peak of %d MB; the image has %d MB",
		tree/1e6, took.Seconds(), rate, perProcessor, memory>>20, b.Size/1e6)
	// The clock also tells what else the machine was at, and on a busy one even the
	// processor time does, by half. 106 were seen; half of the time is gzip's.
	if soak() && perProcessor < 50 {
		t.Errorf("%.0f MB for each second of processor time", perProcessor)
	}
	if memory == 0 || memory > maxImageMemory {
		t.Errorf("a peak of %d bytes of memory", memory)
	}
	if b.Digest != img.Digest {
		t.Errorf("the image is %s, not %s", b.Digest, img.Digest)
	}
	// The tag means the same, says so, and builds nothing.
	stdout, stderr, _, err = image(true, "build", "--json", ref+":"+img.Tag)
	var again built
	if err != nil || json.Unmarshal([]byte(stdout), &again) != nil || again != b {
		t.Errorf("by tag: %v\n%s\n%s", err, stdout, stderr)
	}
	if !strings.Contains(stderr, ref+"@"+img.Digest) {
		t.Errorf("the tag's digest is not told:\n%s", stderr)
	}

	judgeImage(t, b)
	for _, d := range images.Diff(mountedTree(t, b), unpackedTree(t, img)) {
		t.Error(d)
	}
	judgeIndex(t, b, store)

	if stdout, stderr, _, err := image(true, "list"); err != nil || !strings.HasPrefix(stdout, img.Digest+"\t") {
		t.Errorf("list: %v\n%s%s", err, stdout, stderr)
	}
	if _, stderr, _, err := image(true, "build", reg.Addr+"/elsewhere/gcc:12"); err == nil || !strings.Contains(stderr, "not-allowed") {
		t.Errorf("another repository: %v\n%s", err, stderr)
	}
	if _, stderr, _, err := image(true, "remove", img.Digest[:20]); err != nil {
		t.Errorf("remove: %v\n%s", err, stderr)
	}
	if left, err := os.ReadDir(store); err != nil || len(left) > 0 {
		t.Errorf("left in the store: %v, %v", left, err)
	}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// judgeImage lets e2fsck and veritysetup read an image, and veritysetup find a
// flipped byte in the middle of it.
func judgeImage(t *testing.T, b built) {
	t.Helper()
	fs := b.DataBlocks * 4096
	copied := filepath.Join(t.TempDir(), "copy")
	command(t, "cp", b.Path, copied)
	args := []string{"verify", fmt.Sprintf("--hash-offset=%d", fs), copied, copied, b.RootHash}
	command(t, "veritysetup", args...)
	f, err := os.OpenFile(copied, os.O_RDWR, 0)
	if err == nil {
		// The copy keeps the mode, which root need not care about.
		defer f.Close()
		_, err = f.WriteAt([]byte("flipped"), fs/2)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("veritysetup", args...).CombinedOutput(); err == nil {
		t.Errorf("veritysetup finds nothing wrong with flipped bytes\n%s", out)
	}
	command(t, "cp", "--remove-destination", b.Path, copied)
	if err := os.Truncate(copied, fs); err != nil {
		t.Fatal(err)
	}
	command(t, "e2fsck", "-fn", copied)
}

// judgeIndex compares what a store says of each name in an image with what Linux
// finds there, with the mounted image for a root.
func judgeIndex(t *testing.T, b built, store string) {
	t.Helper()
	s, err := rootfs.Open(rootfs.Options{Dir: store})
	if err != nil {
		t.Fatal(err)
	}
	dir, unmount := mountImage(t, b)
	defer unmount()
	names, err := images.Names(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, name := range append(names, "/lib/../bin/gcc", "/usr/bin/nothing") {
		want, err := images.InRoot(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		d, ok, err := s.Lookup(b.Digest, name)
		if err != nil || ok != (want != "") || ok && d.String() != want {
			t.Errorf("%q: %v, %v, %v; Linux finds %q", name, d, ok, err, want)
		}
		if ok {
			files++
		}
	}
	if files < 2000 {
		t.Errorf("%d files in the index", files)
	}
}

func mountImage(t *testing.T, b built) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	command(t, "mount", "-o", fmt.Sprintf("ro,loop,sizelimit=%d", b.DataBlocks*4096), b.Path, dir)
	return dir, func() { command(t, "umount", dir) }
}

func mountedTree(t *testing.T, b built) map[string]string {
	t.Helper()
	dir, unmount := mountImage(t, b)
	defer unmount()
	tree, err := images.Tree(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func unpackedTree(t *testing.T, img images.Image) map[string]string {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "bundle")
	command(t, "umoci", "unpack", "--image", img.Layout+":"+img.Tag, bundle)
	tree, err := images.Tree(filepath.Join(bundle, "rootfs"))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree) < 3000 {
		t.Errorf("umoci unpacked %d files", len(tree))
	}
	return tree
}

// unpackedSize is how many bytes the layers unpack to, by gzip.
func unpackedSize(t *testing.T, img images.Image) (total int64) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(img.Layout, "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		head := make([]byte, 2)
		f, err := os.Open(b)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadFull(f, head)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if head[0] != 0x1f || head[1] != 0x8b {
			continue
		}
		cmd := exec.Command("sh", "-c", `gzip -dc "$0" | wc -c`, b)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		var n int64
		if _, err := fmt.Sscan(string(out), &n); err != nil {
			t.Fatal(err)
		}
		total += n
	}
	return total
}
