package registry

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"hpcc.dev/hpcc/internal/rootfs"
)

// server is a registry, in front of which a test can put what it likes.
type server struct {
	addr     string
	requests atomic.Int64
	front    atomic.Pointer[func(http.ResponseWriter, *http.Request) bool] // true: it has answered
}

func start(t *testing.T) *server {
	t.Helper()
	s := &server{}
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		if f := s.front.Load(); f != nil && (*f)(w, r) {
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(ts.Close)
	s.addr = strings.TrimPrefix(ts.URL, "http://")
	return s
}

func (s *server) put(f func(http.ResponseWriter, *http.Request) bool) { s.front.Store(&f) }

// image is a small image for a platform.
func image(t *testing.T, platform v1.Platform, content string) v1.Image {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "file", Size: int64(len(content)), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c.OS, c.Architecture = platform.OS, platform.Architecture
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

var here = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}

func push(t *testing.T, s *server, ref string, img v1.Image) string {
	t.Helper()
	n, err := name.ParseReference(s.addr + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(n, img); err != nil {
		t.Fatal(err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// pull builds the image of a reference in a new store.
func pull(t *testing.T, ref string, opt Options) (rootfs.Image, error) {
	t.Helper()
	s, err := rootfs.Open(rootfs.Options{Dir: filepath.Join(t.TempDir(), "images")})
	if err != nil {
		t.Fatal(err)
	}
	src, err := New(ref, opt)
	if err != nil {
		t.Fatal(err)
	}
	return s.Build(t.Context(), src, nil)
}

func TestPull(t *testing.T) {
	s := start(t)
	mine := image(t, here, "mine")
	digest := push(t, s, "tools/gcc:12", mine)
	other := image(t, v1.Platform{OS: "linux", Architecture: "s390x"}, "other")
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: mine, Descriptor: v1.Descriptor{Platform: &here}})
	ref, err := name.ParseReference(s.addr + "/tools/gcc:all")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	top, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{":12", "@" + digest, ":12@" + digest, ":all", "@" + top.String()} {
		img, err := pull(t, s.addr+"/tools/gcc"+ref, Options{})
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if img.Digest != digest {
			t.Errorf("%s is %s, not the platform's %s", ref, img.Digest, digest)
		}
		if o := img.Sources[0]; o.Repository != s.addr+"/tools/gcc" || !strings.HasPrefix(o.Name, o.Repository) {
			t.Errorf("%s: %+v", ref, o)
		}
	}
	if _, err := pull(t, s.addr+"/tools/gcc:none", Options{}); err == nil || !strings.Contains(err.Error(), "MANIFEST_UNKNOWN") {
		t.Errorf("a tag that is not there: %v", err)
	}
}

func TestLogin(t *testing.T) {
	s := start(t)
	push(t, s, "a:1", image(t, here, "x"))
	s.put(func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, _ := r.BasicAuth(); u == "user" && p == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	if _, err := pull(t, s.addr+"/a:1", Options{Keychain: keychain{}}); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without a login: %v", err)
	}
	if _, err := pull(t, s.addr+"/a:1", Options{Keychain: keychain{s.addr: {Username: "user", Password: "secret"}}}); err != nil {
		t.Error(err)
	}
}

type keychain map[string]authn.AuthConfig

func (k keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if c, ok := k[r.RegistryStr()]; ok {
		return authn.FromConfig(c), nil
	}
	return authn.Anonymous, nil
}

func TestMirrors(t *testing.T) {
	img := image(t, here, "content")
	origin, mirror := start(t), start(t)
	digest := push(t, origin, "tools/gcc:12", img)
	push(t, mirror, "hub/tools/gcc:12", img)
	push(t, mirror, "hub/tools/only:12", img)
	opt := Options{Mirrors: map[string][]string{origin.addr: {"http://" + mirror.addr + "/hub"}}}
	ref := origin.addr + "/tools/gcc@" + digest

	asked := func(f func()) int64 {
		before := origin.requests.Load()
		f()
		return origin.requests.Load() - before
	}
	if n := asked(func() {
		if img, err := pull(t, ref, opt); err != nil || img.Sources[0].Repository != origin.addr+"/tools/gcc" {
			t.Errorf("from the mirror: %v, %+v", err, img.Sources)
		}
	}); n > 0 {
		t.Errorf("the origin was asked %d times", n)
	}
	if _, err := pull(t, origin.addr+"/tools/only:12", opt); err != nil {
		t.Errorf("what only the mirror has: %v", err)
	}
	empty := start(t)
	opt.Mirrors[origin.addr] = []string{"http://127.0.0.1:1", "http://" + empty.addr}
	if _, err := pull(t, ref, opt); err != nil {
		t.Errorf("a dead mirror and one that has nothing: %v", err)
	}

	none := origin.addr + "/tools/none@" + digest
	for mirror, absent := range map[string]bool{"http://" + empty.addr: true, "http://127.0.0.1:1": false} {
		opt.Mirrors[origin.addr] = []string{mirror}
		if _, err := pull(t, none, opt); err == nil || errors.Is(err, ErrAbsent) != absent {
			t.Errorf("what the origin does not have, with a mirror at %s: %v", mirror, err)
		}
	}

	// A mirror that lies about a manifest is passed over; one that lies about a
	// layer is found out.
	opt.Mirrors[origin.addr] = []string{"http://" + mirror.addr + "/hub"}
	lie := func(part string) {
		mirror.put(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, part) {
				return false
			}
			_, _ = io.WriteString(w, `{"schemaVersion":2}`)
			return true
		})
	}
	lie("/manifests/")
	if _, err := pull(t, ref, opt); err != nil {
		t.Errorf("a mirror's wrong manifest: %v", err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	lie("/blobs/" + d.String())
	_, err = pull(t, ref, opt)
	if r := (*rootfs.Refusal)(nil); !errors.As(err, &r) || r.Reason != rootfs.WrongDigest && r.Reason != rootfs.Truncated {
		t.Errorf("a mirror's wrong layer: %v", err)
	}
}

func TestHostileRegistry(t *testing.T) {
	s := start(t)
	digest := push(t, s, "a:1", image(t, here, strings.Repeat("x", 100_000)))
	answer := func(part string, f http.HandlerFunc) {
		s.put(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, part) {
				f(w, r)
				return true
			}
			return false
		})
	}
	var r *rootfs.Refusal

	answer("/manifests/", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte(" "), 5<<20))
	})
	if _, err := pull(t, s.addr+"/a:1", Options{}); !errors.As(err, &r) || r.Reason != rootfs.TooManyBytes {
		t.Errorf("an endless manifest: %v", err)
	}
	answer("/manifests/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") })
	if _, err := pull(t, s.addr+"/a@"+digest, Options{}); !errors.As(err, &r) || r.Reason != rootfs.WrongDigest {
		t.Errorf("another manifest: %v", err)
	}
	answer("/blobs/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000000")
		_, _ = io.WriteString(w, "short")
	})
	if _, err := pull(t, s.addr+"/a:1", Options{}); !errors.As(err, &r) || r.Reason != rootfs.Truncated {
		t.Errorf("a body that ends early: %v", err)
	}
	for _, part := range []string{"/manifests/", "/blobs/"} {
		release := make(chan struct{})
		answer(part, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-release
		})
		_, err := pull(t, s.addr+"/a:1", Options{Stall: 200 * time.Millisecond})
		close(release)
		if err == nil || !strings.Contains(err.Error(), "sent nothing for 200ms") {
			t.Errorf("a registry that hangs at %s: %v", part, err)
		}
	}
	answer("/blobs/", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) })
	if _, err := pull(t, s.addr+"/a:1", Options{}); err == nil || !strings.Contains(err.Error(), "redirects") {
		t.Errorf("redirects without end: %v", err)
	}
}

func TestRedirects(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		ok       bool
	}{
		{"https://registry.example.com/", "https://storage.example.com/x", true},
		{"https://registry.example.com/", "http://storage.example.com/x", false},
		{"http://mirror.example.com/", "http://storage.example.com/x", true},
		{"https://registry.example.com/", "https://169.254.169.254/latest", false},
		{"https://registry.example.com/", "https://[::1]/", false},
		{"https://registry.example.com/", "https://[::ffff:10.0.0.1]/", false},
		{"https://registry.example.com/", "https://localhost/", false},
		{"https://10.0.0.1/", "https://10.0.0.2/", true},
	} {
		from, err := url.Parse(tt.from)
		if err != nil {
			t.Fatal(err)
		}
		to, err := url.Parse(tt.to)
		if err != nil {
			t.Fatal(err)
		}
		err = checkRedirect(&http.Request{URL: to}, []*http.Request{{URL: from}})
		if (err == nil) != tt.ok {
			t.Errorf("%s to %s: %v", tt.from, tt.to, err)
		}
	}
}

func TestReferences(t *testing.T) {
	hex := strings.Repeat("0", 64)
	for ref, want := range map[string]string{
		"gcc":                             "docker.io/library/gcc:latest",
		"gcc:12":                          "docker.io/library/gcc:12",
		"index.docker.io/library/gcc":     "docker.io/library/gcc:latest",
		"registry.example.com/a/b:1":      "registry.example.com/a/b:1",
		"localhost:5000/a@sha256:" + hex:  "localhost:5000/a@sha256:" + hex,
		"example.com/a:tag@sha256:" + hex: "example.com/a@sha256:" + hex,
	} {
		s, err := New(ref, Options{})
		if err != nil || s.Name() != want {
			t.Errorf("%s: %v, %v; want %s", ref, s.Name(), err, want)
		}
	}
	for _, bad := range []string{"", "UPPER/case", "a b", "a@sha256:12", "a@sha512:" + hex + hex} {
		if _, err := New(bad, Options{}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	for _, bad := range []string{"", "docker.io", "docker.io=", "=x", "docker.io=UP PER"} {
		if _, err := ParseMirrors([]string{bad}); err == nil {
			t.Errorf("mirror %q was taken", bad)
		}
	}
	m, err := ParseMirrors([]string{"index.docker.io=a.example.com/hub", "docker.io=http://b.example.com"})
	if err != nil || len(m["docker.io"]) != 2 {
		t.Errorf("%v, %v", m, err)
	}
}
