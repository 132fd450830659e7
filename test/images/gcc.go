package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Image is an image as an OCI layout of one image, which is tagged Tag.
type Image struct {
	// Layout is the layout's directory. It is shared: do not write to it.
	Layout string
	Tag    string
	// Digest is the manifest's.
	Digest string
}

// recipe is everything that decides what GCC makes, besides Debian's packages:
// change it, and the image is made anew.
const recipe = `2
mmdebstrap --variant=extract --skip=output/dev --include=PACKAGES
whiteouts, hard links, replaced files
`

// gccPackages are the smallest that compile C and C++, and a shell with tools
// for tests to torment the machine with. Nothing is configured: no maintainer
// script runs, and none is needed. strace judges what is recorded of jobs; they
// themselves may not trace.
const gccPackages = "gcc,g++,libc6-dev,dash,coreutils,busybox-static,strace"

// sourceDate is the latest time in the image, so that it only depends on
// Debian's packages.
const sourceDate = 1_700_000_000

// GCC returns an image of this machine's Debian release with gcc and g++. It is
// made once, in half a minute and from the mirror that this machine's apt uses,
// and kept in ${HPCC_TEST_CACHE:-~/.cache/hpcc-test}/image; several processes
// may ask at once. /usr/bin/cc and c++ are hard links, and much of /usr/share is
// hidden by whiteouts, in a second layer.
func GCC(ctx context.Context) (Image, error) {
	cache := os.Getenv("HPCC_TEST_CACHE")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return Image{}, err
		}
		cache = filepath.Join(home, ".cache", "hpcc-test")
	}
	release, err := codename()
	if err != nil {
		return Image{}, err
	}
	sum := sha256.Sum256([]byte(recipe + gccPackages + release + runtime.GOARCH))
	dir := filepath.Join(cache, "image", "gcc-"+hex.EncodeToString(sum[:8]))
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return Image{}, err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return Image{}, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return Image{}, err
	}
	img, err := check(dir)
	if err == nil {
		return img, nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return Image{}, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "tmp.")
	if err != nil {
		return Image{}, err
	}
	defer os.RemoveAll(tmp)
	if err := makeGCC(ctx, tmp, release); err != nil {
		return Image{}, fmt.Errorf("gcc image: %w", err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return Image{}, err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return Image{}, err
	}
	return check(dir)
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        *descriptor  `json:"config,omitempty"`
	Layers        []descriptor `json:"layers,omitempty"`
	Manifests     []descriptor `json:"manifests,omitempty"`
}

const tag = "12"

// check reads every blob of a layout.
func check(dir string) (Image, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return Image{}, err
	}
	var index, m manifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return Image{}, err
	}
	if len(index.Manifests) != 1 {
		return Image{}, errors.New("not one image")
	}
	if raw, err = readBlob(dir, index.Manifests[0].Digest); err != nil {
		return Image{}, err
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return Image{}, err
	}
	if m.Config == nil {
		return Image{}, errors.New("no configuration")
	}
	for _, d := range append(m.Layers, *m.Config) {
		f, err := os.Open(blobPath(dir, d.Digest))
		if err != nil {
			return Image{}, err
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return Image{}, err
		}
		if d.Digest != "sha256:"+hex.EncodeToString(h.Sum(nil)) {
			return Image{}, fmt.Errorf("%s is damaged", d.Digest)
		}
	}
	return Image{Layout: dir, Tag: tag, Digest: index.Manifests[0].Digest}, nil
}

func blobPath(dir, digest string) string {
	return filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
}

func readBlob(dir, digest string) ([]byte, error) {
	b, err := os.ReadFile(blobPath(dir, digest))
	if sum := sha256.Sum256(b); err == nil && digest != "sha256:"+hex.EncodeToString(sum[:]) {
		err = fmt.Errorf("%s is damaged", digest)
	}
	return b, err
}

func codename() (string, error) {
	out, err := exec.Command("sh", "-c", `. /etc/os-release && printf %s "$VERSION_CODENAME"`).Output()
	if err != nil || len(out) == 0 {
		return "", fmt.Errorf("this is no Debian: %w", err)
	}
	return string(out), nil
}

func makeGCC(ctx context.Context, dir, release string) error {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	targets, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--no-release-info", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return fmt.Errorf("apt-get indextargets: %w", err)
	}
	mirror := ""
	for line := range strings.Lines(string(targets)) {
		if f := strings.Fields(line); mirror == "" && len(f) == 3 && f[0] == release && f[1] == "main" {
			mirror = f[2]
		}
	}
	if mirror == "" {
		return fmt.Errorf("this machine's apt has no source for %s main", release)
	}
	cmd := exec.CommandContext(ctx, "mmdebstrap", "--variant=extract", "--skip=output/dev", "--format=tar", `--aptopt=Acquire::Retries "5"`,
		"--include="+gccPackages, release, "-", mirror)
	cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", sourceDate))
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: run make setup", err)
	}
	headers := map[string]*tar.Header{}
	base, err := writeLayer(dir, func(w *tar.Writer) error { return copyTar(w, out, headers) })
	if err != nil {
		_ = cmd.Process.Kill()
	}
	if e := cmd.Wait(); e != nil {
		return fmt.Errorf("mmdebstrap: %w\n%s", errors.Join(e, err), &log)
	}
	if err != nil {
		return err
	}
	top, err := writeLayer(dir, func(w *tar.Writer) error { return secondLayer(w, headers) })
	if err != nil {
		return err
	}
	return writeManifest(dir, base, top)
}

// layer is a blob, and what it unpacks to.
type layer struct {
	descriptor
	diffID string
}

func writeLayer(dir string, fill func(*tar.Writer) error) (l layer, err error) {
	f, err := os.CreateTemp(dir, "layer.")
	if err != nil {
		return l, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	blob, plain := sha256.New(), sha256.New()
	z, err := gzip.NewWriterLevel(io.MultiWriter(f, blob), gzip.BestSpeed)
	if err != nil {
		return l, err
	}
	w := tar.NewWriter(io.MultiWriter(z, plain))
	if err := errors.Join(fill(w), w.Close(), z.Close()); err != nil {
		return l, err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return l, err
	}
	l.MediaType, l.Size = "application/vnd.oci.image.layer.v1.tar+gzip", size
	l.Digest, l.diffID = "sha256:"+hex.EncodeToString(blob.Sum(nil)), "sha256:"+hex.EncodeToString(plain.Sum(nil))
	if err := f.Chmod(0o644); err != nil {
		return l, err
	}
	return l, os.Rename(f.Name(), blobPath(dir, l.Digest))
}

func copyTar(w *tar.Writer, r io.Reader, headers map[string]*tar.Header) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, r) // or mmdebstrap dies of SIGPIPE
			return err
		}
		if err != nil {
			return err
		}
		headers[strings.Trim(strings.TrimPrefix(h.Name, "."), "/")] = h
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, tr); err != nil {
			return err
		}
	}
}

var (
	realGCC = regexp.MustCompile(`^usr/bin/[^/]+-linux-gnu[^/]*-gcc-[0-9]+$`)
	realGXX = regexp.MustCompile(`^usr/bin/[^/]+-linux-gnu[^/]*-g\+\+-[0-9]+$`)
)

// secondLayer hides, links and replaces files of the first.
func secondLayer(w *tar.Writer, below map[string]*tar.Header) error {
	var gcc, gxx string
	for name, h := range below {
		switch {
		case h.Typeflag == tar.TypeReg && realGCC.MatchString(name):
			gcc = name
		case h.Typeflag == tar.TypeReg && realGXX.MatchString(name):
			gxx = name
		}
	}
	if gcc == "" || gxx == "" {
		return errors.New("the packages have no gcc or g++ of the names that Debian gives them")
	}
	when := time.Unix(sourceDate, 0)
	var err error
	add := func(h tar.Header, body string) {
		if err == nil {
			h.Size, h.Format = int64(len(body)), tar.FormatPAX
			if h.ModTime.IsZero() {
				h.ModTime = when
			}
			err = w.WriteHeader(&h)
		}
		if err == nil {
			_, err = io.WriteString(w, body)
		}
	}
	// A directory that changes keeps its attributes only if it has an entry.
	keep := func(name string) {
		h := below[name]
		if h == nil {
			err = errors.Join(err, fmt.Errorf("the packages have no /%s", name))
			return
		}
		add(tar.Header{Typeflag: tar.TypeDir, Name: "./" + name, Mode: h.Mode, ModTime: h.ModTime}, "")
	}
	whiteout := func(dir, name string) {
		if below[dir+"/"+name] == nil {
			err = errors.Join(err, fmt.Errorf("the packages have no /%s/%s to hide", dir, name))
		}
		add(tar.Header{Typeflag: tar.TypeReg, Name: dir + "/.wh." + name, Mode: 0o644}, "")
	}
	for _, dir := range []string{"", "etc", "usr", "usr/bin", "usr/share"} {
		keep(dir)
	}
	for _, dir := range []string{"doc", "man", "locale"} {
		whiteout("usr/share", dir)
	}
	keep("usr/share/info")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "usr/share/info/.wh..wh..opq", Mode: 0o644}, "")
	add(tar.Header{Typeflag: tar.TypeLink, Name: "usr/bin/cc", Linkname: gcc}, "")
	add(tar.Header{Typeflag: tar.TypeLink, Name: "usr/bin/c++", Linkname: gxx}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/issue", Mode: 0o644}, "hpcc's gcc image for tests\n")
	add(tar.Header{
		Typeflag: tar.TypeReg, Name: "etc/hpcc-image", Mode: 0o640, Uid: 1000, Gid: 1001,
		PAXRecords: map[string]string{"SCHILY.xattr.user.hpcc": "image"},
	}, "made for tests\n")
	add(tar.Header{Typeflag: tar.TypeLink, Name: "etc/hpcc-link", Linkname: "etc/hpcc-image"}, "")
	return err
}

func writeManifest(dir string, layers ...layer) error {
	put := func(mediaType string, v any) (descriptor, error) {
		b, err := json.Marshal(v)
		if err != nil {
			return descriptor{}, err
		}
		sum := sha256.Sum256(b)
		d := descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(b))}
		return d, os.WriteFile(blobPath(dir, d.Digest), b, 0o644)
	}
	m := manifest{SchemaVersion: 2, MediaType: "application/vnd.oci.image.manifest.v1+json"}
	ids := []string{}
	for _, l := range layers {
		ids, m.Layers = append(ids, l.diffID), append(m.Layers, l.descriptor)
	}
	config, err := put("application/vnd.oci.image.config.v1+json", map[string]any{
		"os": "linux", "architecture": runtime.GOARCH,
		"created": time.Unix(sourceDate, 0).UTC(),
		"config":  map[string]any{"Env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": ids},
	})
	if err != nil {
		return err
	}
	m.Config = &config
	top, err := put(m.MediaType, m)
	if err != nil {
		return err
	}
	top.Annotations = map[string]string{"org.opencontainers.image.ref.name": tag}
	index, err := json.Marshal(manifest{SchemaVersion: 2, MediaType: "application/vnd.oci.image.index.v1+json", Manifests: []descriptor{top}})
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644),
		os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644))
}
