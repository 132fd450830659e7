package rootfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// blobs are named files: a layout's directory, or an archive of one.
type blobs interface {
	// open opens a regular file by its path in the layout; fs.ErrNotExist says
	// that there is none.
	open(path string) (io.ReadCloser, error)
	io.Closer
}

// layout is an OCI image layout, in a directory or an archive.
type layout struct {
	blobs
	name string
	top  Descriptor // what the user asked for
}

// Layout is a Source that an OCI image layout holds (OCI image specification,
// image-layout.md): a directory with index.json and blobs. If it holds several
// images, ref says which: the tag (annotation org.opencontainers.image.ref.name)
// or the digest of a manifest or index. The caller closes it.
func Layout(path, ref string) (Source, io.Closer, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, nil, fmt.Errorf("image layout: %w", err)
	}
	l, err := openLayout(rootBlobs{root}, path, ref)
	if err != nil {
		_ = root.Close()
		return nil, nil, err
	}
	return l, l, nil
}

// rootBlobs are files below a directory, wherever links in it lead.
type rootBlobs struct{ *os.Root }

func (r rootBlobs) open(path string) (io.ReadCloser, error) {
	// A FIFO would block.
	f, err := r.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func openLayout(b blobs, name, ref string) (*layout, error) {
	var marker struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := readJSON(b, "oci-layout", &marker); err != nil {
		return nil, fmt.Errorf("%s is no image layout: %w", name, err)
	}
	if marker.Version != "1.0.0" {
		return nil, refuse(BadManifest, "image layout of version %q: only 1.0.0 is read", clip(marker.Version))
	}
	var index document
	if err := readJSON(b, "index.json", &index); err != nil {
		return nil, fmt.Errorf("image layout %s: %w", name, err)
	}
	if index.Manifests == nil || !index.isIndex() {
		return nil, refuse(BadManifest, "index.json is no index")
	}
	top, err := pick(index.Manifests, ref)
	if err != nil {
		return nil, fmt.Errorf("image layout %s: %w", name, err)
	}
	if _, err := checkedDigest(top); err != nil {
		return nil, err
	}
	if ref != "" {
		name += ":" + ref
	}
	return &layout{b, name, top}, nil
}

// refNames are the annotations that name an image in a layout: OCI's, and the
// one that containerd and Docker write beside it.
var refNames = []string{"org.opencontainers.image.ref.name", "io.containerd.image.name"}

func pick(manifests []Descriptor, ref string) (Descriptor, error) {
	if ref == "" {
		if len(manifests) == 1 {
			return manifests[0], nil
		}
		return Descriptor{}, fmt.Errorf("it holds %d images: say which, by tag or digest: %s", len(manifests), clip(strings.Join(refsOf(manifests), ", ")))
	}
	for _, m := range manifests {
		if m.Digest == ref {
			return m, nil
		}
		for _, a := range refNames {
			if m.Annotations[a] == ref {
				return m, nil
			}
		}
	}
	return Descriptor{}, fmt.Errorf("no image %q in it; there are: %s", clip(ref), clip(strings.Join(refsOf(manifests), ", ")))
}

func refsOf(manifests []Descriptor) (refs []string) {
	for _, m := range manifests {
		ref := m.Digest
		for _, a := range refNames {
			if r := m.Annotations[a]; r != "" {
				ref = r
				break
			}
		}
		refs = append(refs, ref)
	}
	return refs
}

func readJSON(b blobs, path string, v any) error {
	f, err := b.open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	raw, err := readAll(f, maxManifest)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return refuse(BadManifest, "%s: %v", path, err)
	}
	return nil
}

// readAll reads r to its end, which must come within limit bytes.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = refuse(TooManyBytes, "more than %d bytes", limit)
	}
	return raw, err
}

func blobPath(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }

func (l *layout) Manifest(_ context.Context, digest string, limit int64) ([]byte, error) {
	if digest == "" {
		digest = l.top.Digest
	}
	f, err := l.open(blobPath(digest))
	if err != nil {
		return nil, missing(digest, err)
	}
	defer func() { _ = f.Close() }()
	raw, err := readAll(f, limit)
	if err == nil && digestOf(raw) != digest {
		err = refuse(WrongDigest, "manifest is %s, not %s", digestOf(raw), digest)
	}
	return raw, err
}

func (l *layout) Blob(_ context.Context, d Descriptor) (io.ReadCloser, error) {
	f, err := l.open(blobPath(d.Digest))
	return f, missing(d.Digest, err)
}

func missing(digest string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return refuse(Truncated, "%s is missing", digest)
	}
	return err
}

func (l *layout) Digest() string     { return l.top.Digest }
func (l *layout) Repository() string { return "" }
func (l *layout) Name() string       { return l.name }
