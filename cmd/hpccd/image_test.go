package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/rootfs"
)

// writeLayout writes an OCI layout with one image, tagged "v1", of one layer.
func writeLayout(t *testing.T, h *tar.Header, platform string) (dir, digest string) {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put := func(b []byte) string {
		sum := sha256.Sum256(b)
		write("blobs/sha256/"+hex.EncodeToString(sum[:]), b)
		return "sha256:" + hex.EncodeToString(sum[:])
	}
	id := put(layer.Bytes())
	config := fmt.Sprintf(`{"os":"linux","architecture":%q,"rootfs":{"type":"layers","diff_ids":[%q]}}`, platform, id)
	const oci = "application/vnd.oci.image."
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		oci+"config.v1+json", put([]byte(config)), len(config), oci+"layer.v1.tar", id, layer.Len())
	digest = put([]byte(manifest))
	write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	write("index.json", []byte(fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"org.opencontainers.image.ref.name":"v1"}}]}`, oci+"manifest.v1+json", digest, len(manifest))))
	return dir, digest
}

var emptyFile = &tar.Header{Typeflag: tar.TypeReg, Name: "file"}

func TestImageCommands(t *testing.T) {
	a, stdout, stderr := fixture(t)
	t.Setenv("HPCC_IMAGE_DIR", filepath.Join(t.TempDir(), "images"))
	hpcc := func(want int, args ...string) string {
		t.Helper()
		stdout.Reset()
		stderr.Reset()
		if got := a.run(append([]string{"image"}, args...)); got != want {
			t.Errorf("hpcc image %s: exit status %d, want %d\n%s", strings.Join(args, " "), got, want, stderr)
		}
		return stdout.String()
	}
	layout, digest := writeLayout(t, emptyFile, runtime.GOARCH)

	if out := hpcc(0, "list"); out != "" || !strings.Contains(stderr.String(), "no images") {
		t.Errorf("empty store: %q, %q", out, stderr)
	}
	if out := hpcc(0, "list", "--json"); out != "[]\n" {
		t.Errorf("empty store: %q", out)
	}
	out := hpcc(0, "build", "--layout", layout, "v1")
	if !strings.HasPrefix(out, "digest\t"+digest+"\n") || !strings.Contains(out, "\nroot hash\t") {
		t.Errorf("build: %q", out)
	}
	var img rootfs.Image
	if err := json.Unmarshal([]byte(hpcc(0, "build", "--json", "--layout", layout)), &img); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(img.Path); err != nil || fi.Size() != img.Size || img.Digest != digest || len(img.RootHash) != 64 || len(img.Salt) != 64 {
		t.Errorf("image %+v, %v", img, err)
	}
	if out := hpcc(0, "list"); strings.Count(out, "\t") != 4 || !strings.HasPrefix(out, digest+"\t") {
		t.Errorf("list: %q", out)
	}
	a.terminal = true
	if out := hpcc(0, "list"); !strings.Contains(out, "DIGEST") || !strings.Contains(out, "just now") || strings.Contains(out, digest) {
		t.Errorf("list on a terminal: %q", out)
	}
	a.terminal = false
	hpcc(1, "remove", "sha256:ffffff")
	hpcc(1, "remove", digest[:10])
	hpcc(0, "remove", strings.TrimPrefix(digest, "sha256:")[:12])
	if out := hpcc(0, "list"); out != "" {
		t.Errorf("after remove: %q", out)
	}
}

func TestImageErrors(t *testing.T) {
	a, _, stderr := fixture(t)
	t.Setenv("HPCC_IMAGE_DIR", filepath.Join(t.TempDir(), "images"))
	layout, _ := writeLayout(t, emptyFile, runtime.GOARCH)
	device, _ := writeLayout(t, &tar.Header{Typeflag: tar.TypeChar, Name: "dev/\x1b[31mnull"}, runtime.GOARCH)
	foreign, _ := writeLayout(t, emptyFile, "s390x")
	for _, tt := range []struct {
		args string
		code int
		want []string
	}{
		{"build", 2, []string{"which image?", "hint: see hpcc image build --help"}},
		{"build a b", 2, []string{"takes one image, not 2"}},
		{"build --layout x --archive y", 2, []string{"exclude each other"}},
		{"build UPPER/Case:x", 2, []string{"image reference"}},
		{"build --mirror docker.io gcc", 2, []string{"REGISTRY=MIRROR"}},
		{"build --platform linux --layout " + layout, 2, []string{"linux/amd64"}},
		{"build --max-size x --layout " + layout, 2, []string{"must be a size"}},
		{"build --allow * --layout " + layout, 2, []string{"allow-list"}},
		{"build --layout /nowhere", 1, []string{"no such file"}},
		{"build --archive /nowhere", 1, []string{"no such file"}},
		{"build --archive /etc/passwd", 1, []string{"image archive /etc/passwd"}},
		{"build --layout " + layout + " v2", 1, []string{`no image "v2"`, "v1"}},
		{"build --allow registry.example.com/* gcc:12", 1, []string{"not-allowed", "hint: who keeps this machine"}},
		{"build --layout " + device, 1, []string{"device-node", `"dev/\x1b[31mnull"`, "hint: build the image without /dev"}},
		{"build --layout " + foreign, 1, []string{"wrong-platform", "linux/s390x", "hint: --platform"}},
		{"remove", 2, []string{"which image?"}},
		{"list x", 2, []string{"takes no argument"}},
	} {
		stderr.Reset()
		if code := a.run(append([]string{"image"}, strings.Fields(tt.args)...)); code != tt.code {
			t.Errorf("hpcc image %s: exit status %d, want %d", tt.args, code, tt.code)
		}
		for _, want := range tt.want {
			if !strings.Contains(stderr.String(), want) {
				t.Errorf("hpcc image %s: %q lacks %q", tt.args, stderr, want)
			}
		}
	}
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "just now", 59 * time.Second: "just now", time.Minute: "1 minute ago", 90 * time.Minute: "1 hour ago",
		47 * time.Hour: "1 day ago", 72 * time.Hour: "3 days ago",
	} {
		if got := ago(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// A line of progress never shows what is left of a longer one.
func TestProgressLine(t *testing.T) {
	var b bytes.Buffer
	a := &app{stderr: &b, stderrTerminal: true}
	p := a.newProgress("")
	for _, now := range []rootfs.Progress{
		{Stage: "pull", Layer: 2, Layers: 3, Bytes: 5_000_000, Total: 130_000_000},
		{Stage: "write", Bytes: 1_000_000, Total: 2_000_000},
		{Stage: "verity", Bytes: 3_000_000, Total: 3_000_000},
	} {
		p.what, p.last = stageText(now), time.Time{}
		p.show(now.Bytes)
	}
	p.end()
	lines := strings.Split(strings.TrimPrefix(b.String(), "\r"), "\r")
	if len(lines) != 5 || lines[0] != "hpcc: layer 2 of 3, 130 MB in all, read 5.00 MB" || strings.TrimSpace(lines[3]) != "" {
		t.Errorf("%q", lines)
	}
	for _, l := range lines[:4] {
		if len(l) != len(lines[0]) {
			t.Errorf("%q does not cover %q", l, lines[0])
		}
	}
}
