package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ParseTier reads the place of ccache's objects from settings that are not in
// hpcc's own files, for a program that neither signs nor evicts: tenant, and by
// their names those of an entry of cache.tiers that say where it is and how it is
// reached. Values are written as in the environment. What is not set has its
// default; url must be set. Errors repeat no value.
func ParseTier(set map[string]string) (t Tier, tenant string, err error) {
	t.setDefaults()
	tenant = defaultTenant
	keys := map[string]key{"tenant": textKey("tenant", "", &tenant, checkNamespace, "")}
	for _, k := range tierKeys(&t) {
		switch k.name {
		case "name", "access", "max_size", "list_timeout":
		default:
			keys[k.name] = k
		}
	}
	names := slices.Sorted(maps.Keys(keys))
	for _, name := range slices.Sorted(maps.Keys(set)) {
		k, ok := keys[name]
		if !ok {
			err := errors.New("unknown setting " + name)
			if near := nearest(name, names); near != "" {
				err = fmt.Errorf("%w: did you mean %s?", err, near)
			}
			return Tier{}, "", err
		}
		if err := k.set(set[name]); err != nil {
			return Tier{}, "", fmt.Errorf("%s %w", name, err)
		}
	}
	if tenant == "" {
		return Tier{}, "", errors.New("tenant is empty")
	}
	t.Name = "ccache" // checkTier wants one
	if err := checkTier(&t); err != nil {
		return Tier{}, "", err
	}
	return t, tenant, nil
}
