// Package tiers opens the shared caches that settings name.
package tiers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/store/s3store"
)

// Set is all tiers of one role's settings, open, with whom their results are
// believed from. It may be used concurrently.
type Set struct {
	opt    shared.Options // but for the tenant
	stores []*store.Guarded
}

// Open opens what c names. It reads the files of keys, which must be right, and asks
// no store anything: one that is away, or comes back, is as good.
func Open(c *config.Shared, logger *slog.Logger) (*Set, error) {
	s := &Set{opt: shared.Options{MemoryBytes: c.Memory, Log: logger}}
	var err error
	if c.SigningKeyFile != "" {
		if s.opt.Signer, err = shared.ReadSigner(c.SigningKeyFile); err != nil {
			return nil, err
		}
	}
	if c.TrustedKeysFile != "" {
		if s.opt.Trust, err = shared.ReadTrust(c.TrustedKeysFile, c.Trust == config.TrustWorkers); err != nil {
			return nil, err
		}
	}
	for i := range c.Tiers {
		t := &c.Tiers[i]
		g, err := OpenTier(t, logger)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.stores = append(s.stores, g)
		s.opt.Tiers = append(s.opt.Tiers, shared.Tier{Name: t.Name, Store: g, Write: t.Access == config.ReadWrite, MaxBytes: t.MaxSize})
	}
	return s, nil
}

// OpenTier opens one tier, with the time-outs that the settings give it. Its store is
// asked nothing yet.
func OpenTier(t *config.Tier, logger *slog.Logger) (*store.Guarded, error) {
	s, err := OpenStore(t)
	if err != nil {
		return nil, err
	}
	if logger != nil {
		logger = logger.With("tier", t.Name)
	}
	return store.Guard(s, store.GuardOptions{Read: t.ReadTimeout, Write: t.WriteTimeout, List: t.ListTimeout, Log: logger}), nil
}

// OpenStore opens a tier's store without any time-outs, for who watches it by
// themselves.
func OpenStore(t *config.Tier) (store.Store, error) {
	s, err := openBare(t)
	if err == nil && t.EncryptionKeyFile != "" {
		s, err = seal(s, t)
	}
	if err != nil {
		return nil, fmt.Errorf("tier %s: %w", t.Name, err)
	}
	return s, nil
}

func openBare(t *config.Tier) (store.Store, error) {
	readOnly := t.Access == config.ReadOnly
	if t.Dir != "" {
		return store.OpenDirectory(t.Dir, store.DirectoryOptions{ReadOnly: readOnly, Create: t.AutoCreate})
	}
	return s3store.Open(context.Background(), s3store.Options{
		Bucket: t.Bucket, Prefix: t.Prefix, Region: t.Region, Profile: t.Profile, Endpoint: t.Endpoint, PathStyle: t.PathStyle,
		ReadOnly: readOnly, AutoCreate: t.AutoCreate, SSE: t.SSE, KMSKey: t.KMSKey,
	})
}

// Cache makes a tenant's part of the tiers. Who closes it does not close the Set.
func (s *Set) Cache(tenant string) (*shared.Cache, error) {
	opt := s.opt
	opt.Tenant = tenant
	return shared.New(opt)
}

// Own is Cache for the only tenant there is: closing it closes the Set.
func (s *Set) Own(tenant string) (*Owned, error) {
	c, err := s.Cache(tenant)
	if err != nil {
		return nil, err
	}
	return &Owned{c, s}, nil
}

// Owned is a Cache with its Set.
type Owned struct {
	*shared.Cache
	set *Set
}

// Close closes both, as Cache.Close does.
func (o *Owned) Close(ctx context.Context) error {
	return errors.Join(o.Cache.Close(ctx), o.set.Close())
}

// Close closes the stores. No Cache may be in use.
func (s *Set) Close() error {
	var errs []error
	for _, g := range s.stores {
		errs = append(errs, g.Close())
	}
	return errors.Join(errs...)
}
