// Package registry reads images from OCI registries (OCI distribution
// specification), by tag or by digest, directly or through mirrors.
//
// It knows references, credentials and authentication by
// github.com/google/go-containerregistry, which nothing else of hpcc imports.
// Requests are its own: what comes back is bounded and checked by package
// rootfs, whose reasons for refusing an image would be lost else.
package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"hpcc.dev/hpcc/internal/rootfs"
)

// Options say where images may come from.
type Options struct {
	// Mirrors holds, by registry ("docker.io"), what to ask before it: hosts,
	// with a path to put before the repository's if need be
	// ("mirror.example.com/hub"). "http://" in front does without TLS. A mirror
	// is not trusted with a digest, but it is with a tag: who answers for a tag
	// chooses the image.
	Mirrors map[string][]string
	// Keychain finds credentials; nil means those of docker login and podman
	// login, with their credential helpers.
	Keychain authn.Keychain
	// Stall is how long a registry may send nothing; 0 means a minute.
	Stall time.Duration
}

// ParseMirrors reads entries of the form REGISTRY=MIRROR; several of one
// registry are asked in their order.
func ParseMirrors(entries []string) (map[string][]string, error) {
	m := map[string][]string{}
	for _, e := range entries {
		host, mirror, ok := strings.Cut(e, "=")
		if !ok || host == "" || mirror == "" {
			return nil, fmt.Errorf("mirror %q: must be REGISTRY=MIRROR, such as docker.io=mirror.example.com/hub", e)
		}
		if _, err := mirrored(mirror, "library/image"); err != nil {
			return nil, fmt.Errorf("mirror %q: %w", e, err)
		}
		host = hostName(host)
		m[host] = append(m[host], mirror)
	}
	return m, nil
}

// hostName writes Docker's registry as people do.
func hostName(host string) string {
	if host == name.DefaultRegistry || host == "registry-1.docker.io" {
		return "docker.io"
	}
	return host
}

func mirrored(mirror, repository string) (name.Repository, error) {
	var opts []name.Option
	rest, plain := strings.CutPrefix(mirror, "http://")
	if plain {
		opts = append(opts, name.Insecure)
	}
	rest = strings.Trim(strings.TrimPrefix(rest, "https://"), "/")
	return name.NewRepository(rest+"/"+repository, opts...)
}

// Source is a rootfs.Source for one reference.
type Source struct {
	ref       name.Reference
	text      string
	endpoints []*endpoint
	stall     time.Duration
}

// endpoint is a repository of a registry or a mirror.
type endpoint struct {
	repo   name.Repository
	mirror bool

	mu     sync.Mutex
	client *http.Client
	down   error // set once it did not answer: then it is not asked again
}

// New makes a source for a reference such as "gcc:12",
// "registry.example.com/toolchains/gcc:12" or "…@sha256:…". Nothing is asked
// before it is read from.
func New(reference string, opt Options) (*Source, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return nil, fmt.Errorf("image reference: %w", err)
	}
	if d, ok := ref.(name.Digest); ok && !rootfs.IsDigest(d.DigestStr()) {
		return nil, fmt.Errorf("image reference %q: only digests by sha256 are read", reference)
	}
	s := &Source{ref: ref, text: reference, stall: opt.Stall}
	if s.stall <= 0 {
		s.stall = time.Minute
	}
	keychain := opt.Keychain
	if keychain == nil {
		keychain = authn.DefaultKeychain
	}
	for _, m := range opt.Mirrors[hostName(ref.Context().RegistryStr())] {
		repo, err := mirrored(m, ref.Context().RepositoryStr())
		if err != nil {
			return nil, fmt.Errorf("mirror %q: %w", m, err)
		}
		s.endpoints = append(s.endpoints, &endpoint{repo: repo, mirror: true})
	}
	s.endpoints = append(s.endpoints, &endpoint{repo: ref.Context()})
	for _, e := range s.endpoints {
		e.client = &http.Client{Transport: &lazyAuth{repo: e.repo, keychain: keychain}, CheckRedirect: checkRedirect}
	}
	return s, nil
}

// Repository is the registry and repository that the reference names, whatever
// mirror answers.
func (s *Source) Repository() string {
	return hostName(s.ref.Context().RegistryStr()) + "/" + s.ref.Context().RepositoryStr()
}

// Digest is the reference's, or "" for a tag.
func (s *Source) Digest() string {
	if d, ok := s.ref.(name.Digest); ok {
		return d.DigestStr()
	}
	return ""
}

// Name is the reference in full.
func (s *Source) Name() string {
	sep := ":"
	if _, ok := s.ref.(name.Digest); ok {
		sep = "@"
	}
	return s.Repository() + sep + s.ref.Identifier()
}

// lazyAuth authenticates with the first request.
type lazyAuth struct {
	repo     name.Repository
	keychain authn.Keychain

	mu sync.Mutex
	rt http.RoundTripper
}

func (l *lazyAuth) RoundTrip(req *http.Request) (*http.Response, error) {
	rt, err := l.transport(req.Context())
	if err != nil {
		return nil, err
	}
	return rt.RoundTrip(req)
}

func (l *lazyAuth) transport(ctx context.Context) (http.RoundTripper, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rt != nil {
		return l.rt, nil
	}
	auth, err := authn.Resolve(ctx, l.keychain, l.repo)
	if err != nil {
		return nil, fmt.Errorf("credentials for %s: %w", l.repo.RegistryStr(), err)
	}
	base := transport.NewRetry(transport.NewUserAgent(remote.DefaultTransport, "hpcc"))
	l.rt, err = transport.NewWithContext(ctx, l.repo.Registry, auth, base, []string{l.repo.Scope(transport.PullScope)})
	return l.rt, err
}

// checkRedirect lets a registry send its readers to the store that holds its
// blobs, but neither away from TLS nor, from a public host, to an address of
// this machine's own networks.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("more than 10 redirects")
	}
	from, to := via[0].URL, req.URL
	if from.Scheme == "https" && to.Scheme != "https" {
		return fmt.Errorf("redirect from https to %s refused", to.Scheme)
	}
	if inside(to) && !inside(from) {
		return fmt.Errorf("redirect from %s to the private address %s refused", from.Hostname(), to.Hostname())
	}
	return nil
}

func inside(u *url.URL) bool {
	if u.Hostname() == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(u.Hostname())
	a = a.Unmap()
	return err == nil && (a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified())
}

var acceptManifests = strings.Join([]string{
	"application/vnd.oci.image.index.v1+json",
	"application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v2+json",
}, ", ")

// ErrAbsent says that registry and mirrors have answered, and none has what was
// asked for.
var ErrAbsent = errors.New("it is not in the repository")

// Manifest implements rootfs.Source. A mirror that gives other bytes than a
// digest names is passed over. Its error may wrap ErrAbsent.
func (s *Source) Manifest(ctx context.Context, digest string, limit int64) ([]byte, error) {
	id := digest
	if id == "" {
		id = s.ref.Identifier()
	}
	var raw []byte
	err := s.each(func(e *endpoint) error {
		body, err := s.get(ctx, e, "manifests/"+id, acceptManifests)
		if err != nil {
			return err
		}
		defer func() { _ = body.Close() }()
		if raw, err = io.ReadAll(io.LimitReader(body, limit+1)); err != nil {
			return err
		}
		if int64(len(raw)) > limit {
			return &rootfs.Refusal{Reason: rootfs.TooManyBytes, Detail: fmt.Sprintf("a manifest of more than %d bytes", limit)}
		}
		if sum := sha256.Sum256(raw); rootfs.IsDigest(id) && "sha256:"+hex.EncodeToString(sum[:]) != id {
			return &rootfs.Refusal{Reason: rootfs.WrongDigest, Detail: fmt.Sprintf("%s answered for %s with sha256:%x", e.repo.RegistryStr(), id, sum)}
		}
		return nil
	})
	return raw, err
}

// Blob implements rootfs.Source.
func (s *Source) Blob(ctx context.Context, d rootfs.Descriptor) (io.ReadCloser, error) {
	if !rootfs.IsDigest(d.Digest) {
		return nil, fmt.Errorf("%q is no digest", d.Digest)
	}
	var body io.ReadCloser
	err := s.each(func(e *endpoint) (err error) {
		body, err = s.get(ctx, e, "blobs/"+d.Digest, "")
		return err
	})
	return body, err
}

// each asks one endpoint after the other until one answers.
func (s *Source) each(ask func(*endpoint) error) error {
	var errs []error
	absent := true
	for _, e := range s.endpoints {
		e.mu.Lock()
		err := e.down
		e.mu.Unlock()
		if err == nil {
			err = ask(e)
		}
		if err == nil {
			return nil
		}
		var answered *transport.Error
		var refused *rootfs.Refusal
		if !errors.As(err, &answered) && e.mirror && !errors.As(err, &refused) {
			e.mu.Lock()
			e.down = err
			e.mu.Unlock()
		}
		errs = append(errs, err)
		absent = absent && answered != nil && answered.StatusCode == http.StatusNotFound
	}
	err := errs[0]
	if len(errs) > 1 {
		err = errors.Join(errs...)
	}
	if absent {
		return fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	return err
}

// get opens what lies at a path of a repository. The body fails when ctx ends,
// or when nothing comes for as long as the source may stall.
func (s *Source) get(ctx context.Context, e *endpoint, path, accept string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stalled := time.AfterFunc(s.stall, func() {
		cancel(fmt.Errorf("%s sent nothing for %s", e.repo.RegistryStr(), s.stall))
	})
	fail := func(err error) error {
		stalled.Stop()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return err
	}
	u := url.URL{Scheme: e.repo.Scheme(), Host: e.repo.RegistryStr(), Path: "/v2/" + e.repo.RepositoryStr() + "/" + path}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fail(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, fail(err)
	}
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		_ = resp.Body.Close()
		return nil, fail(err)
	}
	return &body{resp.Body, ctx, stalled, s.stall, fail}, nil
}

type body struct {
	io.ReadCloser
	ctx     context.Context
	stalled *time.Timer
	stall   time.Duration
	fail    func(error) error
}

func (b *body) Read(p []byte) (int, error) {
	b.stalled.Reset(b.stall)
	n, err := b.ReadCloser.Read(p)
	b.stalled.Stop() // who reads slowly is not stalled
	if err != nil && !errors.Is(err, io.EOF) && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *body) Close() error {
	_ = b.fail(nil)
	return b.ReadCloser.Close()
}
