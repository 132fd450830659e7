package daemon

import (
	"fmt"
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
)

// AmbiguousError says that a prefix names several things.
type AmbiguousError struct {
	Prefix string
	// Keys are the first of them, each with its kind.
	Keys []string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%s may be %s", e.Prefix, strings.Join(e.Keys, ", "))
}

// MinPrefix is how many digits of a key are asked for.
const MinPrefix = 4

// maxMatches bounds what is said of an ambiguous prefix.
const maxMatches = 10

// match is something that a prefix may stand for.
type match struct{ kind, name string }

func (m match) String() string { return m.kind + " " + m.name }

// inspected are the kinds that a key may name, by the preference among several
// of one key.
var inspected = []struct {
	kind cache.Kind
	name string
}{
	{cache.KindEntry, "entry"}, {cache.KindManifest, "manifest"}, {cache.KindQuarantined, "quarantined"},
	{cache.KindBlob, "blob"}, {cache.KindMemo, "toolchain"},
}

// find lists what a prefix may stand for, at most limit of each kind and one
// more.
func find(c *cache.Disk, prefix string, limit int) ([]match, error) {
	var all []match
	for _, k := range inspected {
		names, err := c.Find(k.kind, prefix, limit)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if k.kind == cache.KindMemo {
				if key, err := digest.ParseKey(n); err != nil || !described(c, key) {
					continue
				}
			}
			all = append(all, match{k.name, n})
		}
	}
	return all, nil
}

func described(c *cache.Disk, key digest.Key) bool {
	_, err := compiler.Describe(c, key)
	return err == nil
}

// KeysFrom lists keys that begin with prefix, for completion.
func KeysFrom(c *cache.Disk, prefix string) []string {
	if len(prefix) < 2 {
		return nil
	}
	all, err := find(c, strings.ToLower(prefix), maxMatches)
	if err != nil {
		return nil
	}
	var keys []string
	for _, m := range all {
		keys = append(keys, m.name)
	}
	return keys
}

// resolve finds the one name that a prefix stands for.
func resolve(c *cache.Disk, key string) (string, error) {
	prefix := strings.ToLower(strings.Replace(key, "/", "-", 1)) // as digests are written
	if len(prefix) < MinPrefix || strings.Trim(prefix, "0123456789abcdef-") != "" {
		return "", fmt.Errorf("%q is no key: %w", key, cache.ErrNotFound)
	}
	all, err := find(c, prefix, maxMatches)
	if err != nil {
		return "", err
	}
	var names []string
	for i := range all {
		all[i].name = strings.TrimSuffix(all[i].name, ".zst")
		if !slices.Contains(names, all[i].name) {
			names = append(names, all[i].name)
		}
	}
	switch {
	case len(names) == 0:
		return "", cache.ErrNotFound
	case len(names) == 1:
		return names[0], nil
	}
	e := &AmbiguousError{Prefix: prefix}
	for _, m := range all[:min(len(all), maxMatches)] {
		e.Keys = append(e.Keys, m.String())
	}
	return "", e
}
