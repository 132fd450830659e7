package shared

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

func FuzzName(f *testing.F) {
	k := digest.NewKey("k").Sum()
	for _, name := range []string{ManifestName("default", k), ResultName("a.b", k), BlobName("0", digest.Of(nil)), CcacheName("t", [CcacheKeySize]byte{7}), "default/usage"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		tenant, kind, key, ok := ParseName(name)
		if !ok {
			return
		}
		var again string
		switch kind {
		case KindManifest:
			again = ManifestName(tenant, key)
		case KindResult:
			again = ResultName(tenant, key)
		case KindBlob:
			of, d, ok := ParseBlob(name)
			if !ok || of != tenant || d.Sum() != key {
				t.Errorf("%q is no blob's", name)
			}
			again = BlobName(tenant, d)
		case KindCcache:
			again = CcacheName(tenant, [CcacheKeySize]byte(key[:]))
		}
		if again != name {
			t.Errorf("%q was parsed as %q", name, again)
		}
		if err := store.CheckName(name); err != nil {
			t.Error(err)
		}
	})
}

func TestNames(t *testing.T) {
	k := digest.NewKey("k").Sum()
	for _, bad := range []string{"", "a/b", "-a", "A", "a b", strings.Repeat("a", 64), ".", ".a", "ä"} {
		if CheckTenant(bad) == nil {
			t.Errorf("%q is a tenant", bad)
		}
		if _, err := New(Options{Tenant: bad}); bad != "" && !errors.Is(err, ErrTenant) {
			t.Errorf("%q: %v", bad, err)
		}
		if _, _, _, ok := ParseName(ResultName(bad, k)); ok {
			t.Errorf("a name of tenant %q", bad)
		}
	}
	good := BlobName("default", digest.Of([]byte("x")))
	for _, bad := range []string{
		"default/blob/" + k.String(), good + "0x", strings.TrimSuffix(good, "-1"), good[:len(good)-1] + "01", good[:len(good)-1] + "-1", good + "/x", "/" + good,
		ManifestName("default", k) + "-1", strings.Replace(ResultName("default", k), "/result/", "/results/", 1),
		fmt.Sprintf("default/result/zz/%s", k), strings.ToUpper(ResultName("default", k)),
		strings.Replace(ResultName("default", k), "/result/", "/ccache/", 1), CcacheName("default", [CcacheKeySize]byte{}) + "00",
	} {
		if _, _, _, ok := ParseName(bad); ok {
			t.Errorf("%q was parsed", bad)
		}
	}
}
