package shared

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"hpcc.dev/hpcc/internal/digest"
)

// DefaultTenant is the tenant of who names none.
const DefaultTenant = "default"

// maxTenant is the longest tenant's name: that of a DNS label.
const maxTenant = 63

// ErrTenant says that a name is none that a tenant can have.
var ErrTenant = errors.New("not a tenant's name: want at most 63 of a-z, 0-9, '.', '_' and '-', the first a letter or digit")

// CheckTenant reports an error that wraps ErrTenant unless name is a tenant's.
func CheckTenant(name string) error {
	if name == "" || len(name) > maxTenant {
		return fmt.Errorf("%w: %q", ErrTenant, clip(name))
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return fmt.Errorf("%w: %q", ErrTenant, name)
		}
	}
	return nil
}

// Kind is a kind of object; it is the second part of the object's name.
type Kind string

// The kinds. What else lies under a tenant's name (an eviction's lock, the
// estimate of its size) has none.
const (
	KindManifest Kind = "manifest"
	KindResult   Kind = "result"
	KindBlob     Kind = "blob"
	// KindCcache is an entry of ccache's, which ccache-storage-hpcc keeps beside
	// hpcc's objects: nobody here reads it, but it is evicted as they are.
	KindCcache Kind = "ccache"
)

// CcacheKeySize is the length of ccache's keys, in bytes.
const CcacheKeySize = 20

// ManifestName is the name of a manifest's object.
func ManifestName(tenant string, key digest.Key) string { return objectName(tenant, KindManifest, key) }

// ResultName is the name of the pack that holds the result of the action of a key.
func ResultName(tenant string, key digest.Key) string { return objectName(tenant, KindResult, key) }

// BlobName is the name of a blob's object.
func BlobName(tenant string, d digest.Digest) string {
	return objectName(tenant, KindBlob, d.Sum()) + "-" + strconv.FormatInt(d.Size(), 10)
}

// CcacheName is the name of an entry of ccache's.
func CcacheName(tenant string, key [CcacheKeySize]byte) string {
	var k digest.Key
	copy(k[:], key[:])
	return objectName(tenant, KindCcache, k)
}

func objectName(tenant string, kind Kind, key digest.Key) string {
	h := key.String()
	if kind == KindCcache {
		h = h[:2*CcacheKeySize]
	}
	return tenant + "/" + string(kind) + "/" + h[:2] + "/" + h
}

// ParseName reads the name of a manifest, a result, a blob or an entry of ccache's:
// exactly what ManifestName, ResultName, BlobName and CcacheName write. The key of a
// blob is its SHA-256; ParseBlob tells its size too. The key of ccache's entry is
// ccache's, and zeros behind it. ok is false for every other name.
func ParseName(name string) (tenant string, kind Kind, key digest.Key, ok bool) {
	tenant, kind, key, _, ok = parseName(name)
	return tenant, kind, key, ok
}

// ParseBlob reads the name of a blob.
func ParseBlob(name string) (tenant string, d digest.Digest, ok bool) {
	tenant, kind, key, size, ok := parseName(name)
	if !ok || kind != KindBlob {
		return "", digest.Digest{}, false
	}
	d, err := digest.New(key, size)
	return tenant, d, err == nil
}

func parseName(name string) (tenant string, kind Kind, key digest.Key, size int64, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 || CheckTenant(parts[0]) != nil {
		return "", "", digest.Key{}, 0, false
	}
	tenant, kind = parts[0], Kind(parts[1])
	sum := parts[3]
	switch kind {
	case KindManifest, KindResult:
	case KindCcache:
		if len(sum) != 2*CcacheKeySize {
			return "", "", digest.Key{}, 0, false
		}
		sum += strings.Repeat("00", len(key)-CcacheKeySize)
	case KindBlob:
		var n string
		sum, n, _ = strings.Cut(sum, "-")
		var err error
		if size, err = strconv.ParseInt(n, 10, 64); err != nil || size < 0 || strconv.FormatInt(size, 10) != n {
			return "", "", digest.Key{}, 0, false
		}
	default:
		return "", "", digest.Key{}, 0, false
	}
	key, err := digest.ParseKey(sum)
	if err != nil || parts[2] != sum[:2] {
		return "", "", digest.Key{}, 0, false
	}
	return tenant, kind, key, size, true
}

// clip keeps hostile text out of messages beyond a length that helps.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
