package rootfs

import (
	"fmt"
	"slices"
	"strings"
)

// AllowList says which images may be used. A nil list allows every one.
type AllowList struct {
	digests      []string
	repositories []string // "host/path", or with "/*" behind for all beneath
}

// ParseAllowList reads entries, each a digest ("sha256:…", of the platform
// manifest or of the index that was asked for), a repository with its registry
// ("registry.example.com/toolchains/gcc"), or all repositories below a path
// ("registry.example.com/toolchains/*").
func ParseAllowList(entries []string) (*AllowList, error) {
	a := &AllowList{}
	for _, e := range entries {
		path, _ := strings.CutSuffix(e, "/*")
		switch {
		case IsDigest(e):
			a.digests = append(a.digests, e)
		case path == "" || path == e && !strings.Contains(e, "/") || strings.ContainsAny(path, "*@ ") || strings.HasPrefix(e, "/") || strings.HasSuffix(path, "/"):
			return nil, fmt.Errorf("allow-list: %q is neither a digest nor a repository such as registry.example.com/toolchains/gcc or registry.example.com/toolchains/*", clip(e))
		default:
			a.repositories = append(a.repositories, e)
		}
	}
	return a, nil
}

func (a *AllowList) hasRepository(repository string) bool {
	return repository != "" && slices.ContainsFunc(a.repositories, func(e string) bool {
		if above, ok := strings.CutSuffix(e, "*"); ok {
			return strings.HasPrefix(repository, above)
		}
		return repository == e
	})
}

// repository refuses what cannot be allowed whatever its digest is, so that no
// registry is asked in vain.
func (a *AllowList) repository(repository, name string) error {
	if a == nil || a.hasRepository(repository) {
		return nil
	}
	if len(a.digests) == 0 {
		return refuse(NotAllowed, "%s: the allow-list does not name the repository", clip(name))
	}
	return nil
}

func (a *AllowList) digest(repository string, digests ...string) error {
	if a == nil || a.hasRepository(repository) || slices.ContainsFunc(digests, func(d string) bool { return slices.Contains(a.digests, d) }) {
		return nil
	}
	return refuse(NotAllowed, "the allow-list names neither %s nor its repository", digests[0])
}

// image is digest for an image that is in the store: one of its names must be
// allowed.
func (a *AllowList) image(img Image) error {
	var err error = refuse(NotAllowed, "the allow-list does not name %s", img.Digest)
	if a == nil {
		return nil
	}
	for _, o := range img.Sources {
		if err = a.digest(o.Repository, img.Digest, o.Asked); err == nil {
			return nil
		}
	}
	return err
}
