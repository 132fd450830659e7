package rootfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Descriptor names a blob, as in the OCI image specification.
type Descriptor struct {
	MediaType string   `json:"mediaType"`
	Digest    string   `json:"digest"`
	Size      int64    `json:"size"`
	URLs      []string `json:"urls,omitempty"`

	Platform    *Platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Platform is what an image runs on, in Go's words: linux, amd64. A variant
// ("v8") need not match unless it is asked for.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// ParsePlatform reads os/architecture or os/architecture/variant.
func ParsePlatform(s string) (Platform, error) {
	f := strings.Split(s, "/")
	if len(f) < 2 || len(f) > 3 || slices.Contains(f, "") {
		return Platform{}, fmt.Errorf("platform is %q: must be such as linux/amd64", clip(s))
	}
	p := Platform{OS: f[0], Architecture: f[1]}
	if len(f) == 3 {
		p.Variant = f[2]
	}
	return p, nil
}

func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

func (p Platform) satisfies(want Platform) bool {
	return p.OS == want.OS && p.Architecture == want.Architecture && (want.Variant == "" || want.Variant == p.Variant)
}

// Source hands out the bytes of one image. What it says is checked, so that it
// need not check. It may be used by one goroutine at a time.
type Source interface {
	// Manifest returns the manifest or index of that digest; for "", the one
	// that the source was made for, by a tag for instance. It reads no more
	// than limit bytes, and fails if there are more.
	Manifest(ctx context.Context, digest string, limit int64) ([]byte, error)
	// Blob opens a blob. The stream may end too early or too late.
	Blob(ctx context.Context, d Descriptor) (io.ReadCloser, error)
	// Digest is the digest that the source was made for, of a manifest or an
	// index; "" if it is not known before Manifest is called.
	Digest() string
	// Repository is where the image comes from, for the allow-list and for
	// people: "registry.example.com/toolchains/gcc"; "" for files.
	Repository() string
	// Name is what the user asked for.
	Name() string
}

const (
	ociIndex       = "application/vnd.oci.image.index.v1+json"
	ociManifest    = "application/vnd.oci.image.manifest.v1+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
)

// layerTypes are the layers that are read. How a layer is compressed is seen
// from its first bytes, since images exist whose types lie about it.
var layerTypes = []string{
	"application/vnd.oci.image.layer.v1.tar",
	"application/vnd.oci.image.layer.v1.tar+gzip",
	"application/vnd.oci.image.layer.v1.tar+zstd",
	"application/vnd.docker.image.rootfs.diff.tar",
	"application/vnd.docker.image.rootfs.diff.tar.gzip",
	"application/vnd.docker.image.rootfs.diff.tar.zstd",
}

var configTypes = []string{
	"application/vnd.oci.image.config.v1+json",
	"application/vnd.docker.container.image.v1+json",
}

// document is a manifest or an index; which of them, its fields tell.
type document struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        *Descriptor  `json:"config"`
	Layers        []Descriptor `json:"layers"`
	Manifests     []Descriptor `json:"manifests"`
}

func (d *document) isIndex() bool { return d.Config == nil && d.Layers == nil }

// parseDocument reads a manifest or an index. One that could be taken for both
// is refused (CVE-2021-41190), as is Docker's first schema, whose layers have no
// digests of their content.
func parseDocument(raw []byte) (*document, error) {
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, refuse(BadManifest, "not JSON: %v", err)
	}
	if d.SchemaVersion != 2 {
		return nil, refuse(BadManifest, "schema version %d: only 2 is read", d.SchemaVersion)
	}
	if (d.Config != nil || d.Layers != nil) == (d.Manifests != nil) {
		return nil, refuse(BadManifest, "neither a manifest nor an index, or both")
	}
	switch d.MediaType {
	case "":
	case ociIndex, dockerIndex:
		if !d.isIndex() {
			return nil, refuse(BadManifest, "a manifest that says it is an index")
		}
	case ociManifest, dockerManifest:
		if d.isIndex() {
			return nil, refuse(BadManifest, "an index that says it is a manifest")
		}
	default:
		return nil, refuse(BadManifest, "media type %q is not read", clip(d.MediaType))
	}
	return &d, nil
}

// IsDigest reports whether s is a digest that images are named by: sha256 and
// 64 lower-case hex digits. No other function is read.
func IsDigest(s string) bool {
	h, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(h) == 2*sha256.Size && strings.Trim(h, "0123456789abcdef") == ""
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// resolved is an image whose manifest has been read and checked.
type resolved struct {
	digest string // of the platform manifest
	// asked is the digest of what the source was made for: an index's, or the
	// same.
	asked  string
	layers []Descriptor
	config Descriptor
}

// maxIndexDepth bounds indexes in indexes.
const maxIndexDepth = 3

// resolve reads manifests from src until it has the one for a platform.
func resolve(ctx context.Context, src Source, want string, p Platform, lim Limits) (*resolved, error) {
	r := &resolved{}
	for depth := 0; ; depth++ {
		raw, err := src.Manifest(ctx, want, maxManifest)
		if err != nil {
			return nil, err
		}
		if int64(len(raw)) > maxManifest {
			return nil, refuse(TooManyBytes, "a manifest of %d bytes: %d is the limit", len(raw), int64(maxManifest))
		}
		got := digestOf(raw)
		if want != "" && got != want {
			return nil, refuse(WrongDigest, "manifest is %s, not %s", got, want)
		}
		if r.asked == "" {
			r.asked = got
		}
		d, err := parseDocument(raw)
		if err != nil {
			return nil, err
		}
		if !d.isIndex() {
			r.digest = got
			return r, r.take(d, lim)
		}
		if depth == maxIndexDepth {
			return nil, refuse(BadManifest, "indexes nested deeper than %d", maxIndexDepth)
		}
		if want, err = choose(d.Manifests, p); err != nil {
			return nil, err
		}
	}
}

// choose returns the digest of the manifest for a platform.
func choose(manifests []Descriptor, p Platform) (string, error) {
	if len(manifests) > maxPlatforms {
		return "", refuse(BadManifest, "an index of %d manifests: %d is the limit", len(manifests), maxPlatforms)
	}
	var has []string
	for _, m := range manifests {
		if m.Platform == nil {
			// Allowed where there is no choice: an image layout holds these.
			if len(manifests) == 1 {
				return checkedDigest(m)
			}
			continue
		}
		if m.Platform.satisfies(p) {
			return checkedDigest(m)
		}
		has = append(has, clip(m.Platform.String()))
	}
	if len(has) > 20 {
		has = append(has[:20], "…")
	}
	return "", refuse(WrongPlatform, "no manifest for %s; there are: %s", p, strings.Join(has, ", "))
}

func checkedDigest(d Descriptor) (string, error) {
	if !IsDigest(d.Digest) {
		return "", refuse(BadManifest, "%q is no digest by SHA-256", clip(d.Digest))
	}
	return d.Digest, nil
}

func (r *resolved) take(d *document, lim Limits) error {
	if d.Config == nil || !slices.Contains(configTypes, d.Config.MediaType) {
		return refuse(BadManifest, "no configuration of an image: is this an artefact of another kind?")
	}
	if len(d.Layers) > lim.Layers {
		return refuse(TooManyLayers, "%d layers: %d is the limit", len(d.Layers), lim.Layers)
	}
	if d.Config.Size < 0 || d.Config.Size > maxConfig {
		return refuse(TooManyBytes, "a configuration of %d bytes: %d is the limit", d.Config.Size, int64(maxConfig))
	}
	var total int64
	for i, l := range d.Layers {
		if !slices.Contains(layerTypes, l.MediaType) || len(l.URLs) > 0 {
			return &Refusal{Reason: BadMediaType, Layer: i + 1, Detail: fmt.Sprintf("%q is not read", clip(l.MediaType))}
		}
		if l.Size < 0 || l.Size > lim.Bytes-total {
			return &Refusal{Reason: TooManyBytes, Layer: i + 1, Detail: fmt.Sprintf("layers of more than %d bytes, compressed", lim.Bytes)}
		}
		total += l.Size
	}
	for _, b := range append([]Descriptor{*d.Config}, d.Layers...) {
		if _, err := checkedDigest(b); err != nil {
			return err
		}
	}
	r.config, r.layers = *d.Config, d.Layers
	return nil
}

// imageConfig is what a configuration says that matters here.
type imageConfig struct {
	Platform
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	Config struct {
		Env []string `json:"Env"`
	} `json:"config"`
}

// readConfig reads and checks an image's configuration.
func readConfig(ctx context.Context, src Source, r *resolved, p Platform) (*imageConfig, error) {
	body, err := src.Blob(ctx, r.config)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	var raw bytes.Buffer
	if _, err := io.Copy(&raw, verified(body, r.config)); err != nil {
		return nil, err
	}
	var c imageConfig
	if err := json.Unmarshal(raw.Bytes(), &c); err != nil {
		return nil, refuse(BadManifest, "configuration: %v", err)
	}
	if !c.satisfies(p) {
		return nil, refuse(WrongPlatform, "the image is for %s, not for %s", clip(c.String()), p)
	}
	if c.RootFS.Type != "layers" || len(c.RootFS.DiffIDs) != len(r.layers) {
		return nil, refuse(BadManifest, "the configuration names %d layers, the manifest %d", len(c.RootFS.DiffIDs), len(r.layers))
	}
	env := 0
	for _, e := range c.Config.Env {
		if env += len(e) + 1; env > maxEnv {
			return nil, refuse(BadManifest, "an environment of more than %d bytes", maxEnv)
		}
	}
	for _, id := range c.RootFS.DiffIDs {
		if !IsDigest(id) {
			return nil, refuse(BadManifest, "%q is no digest by SHA-256", clip(id))
		}
	}
	return &c, nil
}
