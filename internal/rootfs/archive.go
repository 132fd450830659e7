package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// Archive is a Source that a file holds: what "docker save" or "podman save"
// write, or an archive of an OCI image layout. If it holds several images, ref
// says which: a tag, or in a layout a digest. The caller closes it.
//
// What docker save writes without a layout has no manifest. One is made from its
// configuration and layers, so that the image has a digest; it is the same for
// the same archive, but not the digest that the image had in a registry.
func Archive(ctx context.Context, file, ref string) (Source, io.Closer, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, fmt.Errorf("image archive: %w", err)
	}
	src, err := openArchive(ctx, f, file, ref)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("image archive %s: %w", file, err)
	}
	return src, f, nil
}

// archiveBlobs are the regular files of an archive that can be read at will.
type archiveBlobs struct {
	f     *os.File
	files map[string]section
}

type section struct {
	offset, size int64
	link         string // of a symbolic or hard link
}

// maxArchiveFiles bounds the files of an archive: 128 layers of three files
// each, for a few images.
const maxArchiveFiles = 10_000

func indexArchive(ctx context.Context, f *os.File) (*archiveBlobs, error) {
	a := &archiveBlobs{f, map[string]section{}}
	// The reader takes from a file no more than headers, and seeks over
	// contents, so that the file's position says where each begins.
	tr := tar.NewReader(f)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return nil, damaged(err)
		}
		if len(a.files) == maxArchiveFiles {
			return nil, refuse(TooManyEntries, "more than %d files", maxArchiveFiles)
		}
		name := path.Clean(h.Name)
		var s section
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			s = section{offset: at, size: h.Size}
		case tar.TypeSymlink:
			s.link = path.Join(path.Dir(name), h.Linkname)
		case tar.TypeLink:
			s.link = path.Clean(h.Linkname)
		default:
			continue
		}
		if _, ok := a.files[name]; ok {
			return nil, &Refusal{Reason: Duplicate, Path: name}
		}
		a.files[name] = s
	}
}

func (a *archiveBlobs) section(name string) (section, error) {
	name = path.Clean(name)
	for range 8 { // docker save links a layer that two images share
		s, ok := a.files[name]
		if !ok {
			break
		}
		if s.link == "" {
			return s, nil
		}
		name = s.link
	}
	return section{}, &fs.PathError{Op: "open", Path: clip(name), Err: fs.ErrNotExist}
}

func (a *archiveBlobs) open(name string) (io.ReadCloser, error) {
	s, err := a.section(name)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(io.NewSectionReader(a.f, s.offset, s.size)), nil
}

func (a *archiveBlobs) Close() error { return a.f.Close() }

func openArchive(ctx context.Context, f *os.File, file, ref string) (Source, error) {
	a, err := indexArchive(ctx, f)
	if err != nil {
		return nil, err
	}
	if _, err := a.section("oci-layout"); err == nil {
		return openLayout(a, file, ref)
	}
	return openDockerArchive(ctx, a, file, ref)
}

// dockerArchive is what docker save writes: manifest.json names, for each image,
// the files of its configuration and layers.
type dockerArchive struct {
	*archiveBlobs
	name     string
	manifest []byte
	paths    map[string]string // of digests
}

func openDockerArchive(ctx context.Context, a *archiveBlobs, file, ref string) (Source, error) {
	var images []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := readJSON(a, "manifest.json", &images); err != nil {
		return nil, fmt.Errorf("neither docker save nor an OCI layout made it: %w", err)
	}
	var tags []string
	which := -1
	for i, img := range images {
		tags = append(tags, img.RepoTags...)
		if slices.Contains(img.RepoTags, ref) {
			which = i
		}
	}
	switch {
	case ref == "" && len(images) == 1:
		which = 0
	case which < 0:
		return nil, fmt.Errorf("say which image of it, by tag: %s", clip(strings.Join(tags, ", ")))
	}
	img := images[which]
	d := &dockerArchive{archiveBlobs: a, name: file, paths: map[string]string{}}
	if ref != "" {
		d.name += ":" + ref
	}
	limits := Limits{}.withDefaults()
	if len(img.Layers) > limits.Layers {
		return nil, refuse(TooManyLayers, "%d layers: %d is the limit", len(img.Layers), limits.Layers)
	}
	config, err := d.add(ctx, img.Config, "application/vnd.docker.container.image.v1+json")
	if err != nil {
		return nil, err
	}
	layers := []Descriptor{}
	for _, l := range img.Layers {
		layer, err := d.add(ctx, l, "application/vnd.docker.image.rootfs.diff.tar")
		if err != nil {
			return nil, err
		}
		if err := d.sniff(&layer); err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	d.manifest, err = json.Marshal(document{SchemaVersion: 2, MediaType: dockerManifest, Config: &config, Layers: layers})
	return d, err
}

// add makes the descriptor of a file.
func (d *dockerArchive) add(ctx context.Context, file, mediaType string) (Descriptor, error) {
	body, err := d.open(file)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = refuse(Truncated, "%q, which manifest.json names, is missing", clip(file))
		}
		return Descriptor{}, err
	}
	h := sha256.New()
	var n int64
	buf := make([]byte, 256<<10)
	for err == nil {
		if err = ctx.Err(); err != nil {
			break
		}
		var k int
		k, err = body.Read(buf)
		h.Write(buf[:k])
		n += int64(k)
	}
	if !errors.Is(err, io.EOF) {
		return Descriptor{}, err
	}
	digest := "sha256:" + hex.EncodeToString(h.Sum(nil))
	d.paths[digest] = file
	return Descriptor{MediaType: mediaType, Digest: digest, Size: n}, nil
}

// sniff completes a layer's media type, as a registry would have it.
func (d *dockerArchive) sniff(l *Descriptor) error {
	f, err := d.open(d.paths[l.Digest])
	if err != nil {
		return err
	}
	head := make([]byte, 4)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	switch head = head[:n]; {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		l.MediaType += ".gzip"
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		l.MediaType += ".zstd"
	}
	return nil
}

func (d *dockerArchive) Manifest(_ context.Context, digest string, _ int64) ([]byte, error) {
	if digest != "" && digest != digestOf(d.manifest) {
		return nil, refuse(Truncated, "%s is missing", digest)
	}
	return d.manifest, nil
}

func (d *dockerArchive) Blob(_ context.Context, desc Descriptor) (io.ReadCloser, error) {
	return d.open(d.paths[desc.Digest])
}

func (d *dockerArchive) Digest() string     { return digestOf(d.manifest) }
func (d *dockerArchive) Repository() string { return "" }
func (d *dockerArchive) Name() string       { return d.name }
