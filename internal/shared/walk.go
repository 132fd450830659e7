package shared

import (
	"context"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"hpcc.dev/hpcc/internal/store"
)

const (
	// atOnce is how many objects are read at a time by who goes through a store.
	atOnce = 16
	// inMemory bounds the bodies that they hold together; a larger one goes alone.
	inMemory = 512 << 20
)

// Class is what an object is to hpcc.
type Class string

// The classes.
const (
	// ClassForeign is what has no name of hpcc's. It is never changed nor removed.
	ClassForeign Class = "foreign"
	// ClassObject is a manifest, a result, a blob or an entry of ccache's.
	ClassObject Class = "object"
	// ClassSealed is one that is encrypted, in a store that is looked at without its
	// key or with another one.
	ClassSealed Class = "sealed"
	// ClassState is what evictors keep.
	ClassState Class = "state"
)

// Classify tells by its name what an object is, whose, and of what kind. Of foreign
// ones tenant is "".
func Classify(name string) (class Class, tenant string, kind Kind) {
	if tenant, kind, _, ok := ParseName(name); ok {
		return ClassObject, tenant, kind
	}
	tenant, rest, _ := strings.Cut(name, "/")
	if CheckTenant(tenant) != nil {
		return ClassForeign, "", ""
	}
	if rest == "usage" || rest == "lock/evict" {
		return ClassState, tenant, ""
	}
	if store.IsSealedName(name) {
		part, _, _ := strings.Cut(rest, "/")
		switch kind = Kind(part); kind {
		case KindManifest, KindResult, KindBlob, KindCcache:
			return ClassSealed, tenant, kind
		}
		return ClassState, tenant, ""
	}
	return ClassForeign, "", ""
}

// tenantPrefix is what the names of a tenant's objects begin with, or "" for "", all
// tenants.
func tenantPrefix(tenant string) (string, error) {
	if tenant == "" {
		return "", nil
	}
	return tenant + "/", CheckTenant(tenant)
}

// each calls f for each object of a tenant that is listed, several at a time. The
// first error ends it.
func each(ctx context.Context, s store.Store, tenant string, f func(context.Context, store.Info) error) error {
	prefix, err := tenantPrefix(tenant)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	room := semaphore.NewWeighted(inMemory)
	err = s.List(ctx, prefix, func(info store.Info) error {
		n := min(max(info.Size, 1), inMemory)
		if err := room.Acquire(ctx, n); err != nil {
			return err
		}
		group.Go(func() error {
			defer room.Release(n)
			return f(ctx, info)
		})
		return nil
	})
	// What f said comes first: the listing then ended because of it.
	if e := group.Wait(); e != nil {
		return e
	}
	return err
}

// Totals are what a tenant has of a kind in a store.
type Totals struct {
	Tenant string `json:"tenant"`
	Kind   Kind   `json:"kind"`
	// Sealed says that they are encrypted with another key than was given.
	Sealed  bool      `json:"sealed,omitempty"`
	Objects int64     `json:"objects"`
	Bytes   int64     `json:"bytes"`
	Oldest  time.Time `json:"oldest"`
	Newest  time.Time `json:"newest"`
}

// Estimate is what evictors believe to be a tenant's size.
type Estimate struct {
	Tenant string    `json:"tenant"`
	Bytes  int64     `json:"bytes"`
	Listed time.Time `json:"listed,omitzero"`
}

// Measurement is what Measure found.
type Measurement struct {
	Totals    []Totals   `json:"totals"`
	Estimates []Estimate `json:"estimates"`
	// Foreign are objects that are not hpcc's.
	Foreign      int64 `json:"foreign"`
	ForeignBytes int64 `json:"foreign_bytes"`
}

// Measure lists a tenant's objects, or all tenants' for "", and adds them up.
// progress, if not nil, is called with the number of objects so far.
func Measure(ctx context.Context, s store.Store, tenant string, progress func(objects int64)) (Measurement, error) {
	m := Measurement{Totals: []Totals{}, Estimates: []Estimate{}}
	prefix, err := tenantPrefix(tenant)
	if err != nil {
		return m, err
	}
	type group struct {
		tenant string
		kind   Kind
		sealed bool
	}
	index := map[group]int{}
	n := int64(0)
	var states []string
	err = s.List(ctx, prefix, func(info store.Info) error {
		if n++; progress != nil {
			progress(n)
		}
		class, of, kind := Classify(info.Name)
		switch class {
		case ClassForeign:
			m.Foreign++
			m.ForeignBytes += info.Size
			return nil
		case ClassState:
			if strings.HasSuffix(info.Name, "/usage") {
				states = append(states, of)
			}
			return nil
		}
		g := group{of, kind, class == ClassSealed}
		i, ok := index[g]
		if !ok {
			i = len(m.Totals)
			index[g] = i
			m.Totals = append(m.Totals, Totals{Tenant: of, Kind: kind, Sealed: g.sealed, Oldest: info.Modified, Newest: info.Modified})
		}
		t := &m.Totals[i]
		t.Objects++
		t.Bytes += info.Size
		if info.Modified.Before(t.Oldest) {
			t.Oldest = info.Modified
		}
		if info.Modified.After(t.Newest) {
			t.Newest = info.Modified
		}
		return nil
	})
	if err != nil {
		return m, err
	}
	for _, of := range states {
		o, err := s.Get(ctx, of+"/usage", maxUsage)
		if err != nil {
			continue // it went, or is none: there is no estimate then
		}
		u := decodeUsage(o.Body)
		m.Estimates = append(m.Estimates, Estimate{of, u.Bytes, u.Listed})
	}
	return m, nil
}
