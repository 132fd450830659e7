//go:build unix

package main

import (
	"context"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/store/s3store"
)

// open returns the backend that the environment names. It asks nobody yet.
func open(ctx context.Context, getenv func(string) string) backend {
	tier, tenant, err := place(getenv)
	if err != nil {
		return backend{broken: err}
	}
	s, err := openTier(ctx, &tier)
	if err != nil {
		return backend{broken: err}
	}
	return backend{tenant: tenant, store: store.Guard(s, store.GuardOptions{Read: tier.ReadTimeout, Write: tier.WriteTimeout})}
}

func openTier(ctx context.Context, t *config.Tier) (s store.Store, err error) {
	var key []byte
	if t.EncryptionKeyFile != "" {
		if key, err = store.ReadKey(t.EncryptionKeyFile); err != nil {
			return nil, err
		}
	}
	if t.Dir != "" {
		s, err = store.OpenDirectory(t.Dir, store.DirectoryOptions{Create: t.AutoCreate})
	} else {
		s, err = s3store.Open(ctx, s3store.Options{
			Bucket: t.Bucket, Prefix: t.Prefix, Region: t.Region, Profile: t.Profile, Endpoint: t.Endpoint, PathStyle: t.PathStyle,
			AutoCreate: t.AutoCreate, SSE: t.SSE, KMSKey: t.KMSKey,
		})
	}
	if err == nil && key != nil {
		s, err = store.Sealed(s, key)
	}
	return s, err
}
