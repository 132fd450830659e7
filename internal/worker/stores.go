package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"hpcc.dev/hpcc/internal/cache"
)

// stores are the tenants' own: each a directory of its own with a limit of its
// own, so that no look-up can meet another tenant's blob.
type stores struct {
	dir      string
	maxBytes int64
	// makeShared makes a tenant's part of the shared caches; nil if there are none.
	makeShared func(tenant string) (Shared, error)

	mu     sync.Mutex
	open   map[string]*tenantStore
	closed bool
}

// tenantStore is what keeps a tenant's results.
type tenantStore struct {
	*cache.Disk
	shared Shared // nil for none
}

// get opens a tenant's store, or returns the one that is open. The name comes out
// of a verified token: it is that of one directory.
func (s *stores) get(tenant string) (*tenantStore, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("the stores are closed")
	}
	if d := s.open[tenant]; d != nil {
		return d, nil
	}
	if tenant == "" || tenant == "." || tenant == ".." || filepath.Base(tenant) != tenant {
		return nil, fmt.Errorf("tenant %q has no directory", clip(tenant))
	}
	d, err := cache.Open(cache.Options{Dir: filepath.Join(s.dir, tenant), MaxBytes: s.maxBytes})
	if err != nil {
		return nil, err
	}
	t := &tenantStore{Disk: d}
	if s.makeShared != nil {
		if t.shared, err = s.makeShared(tenant); err != nil {
			return nil, errors.Join(fmt.Errorf("shared caches: %w", err), d.Close())
		}
	}
	if s.open == nil {
		s.open = map[string]*tenantStore{}
	}
	s.open[tenant] = t
	return t, nil
}

// usage calls visit for each tenant that has a store, also those that nobody has
// used since the worker began.
func (s *stores) usage(visit func(tenant string, u cache.Usage)) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return // none yet
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		var d *cache.Disk
		s.mu.Lock()
		if t := s.open[e.Name()]; t != nil {
			d = t.Disk
		}
		s.mu.Unlock()
		if d == nil {
			if d, err = cache.Peek(filepath.Join(s.dir, e.Name()), s.maxBytes); err != nil {
				continue
			}
		}
		if u, err := d.Usage(); err == nil {
			visit(e.Name(), u)
		}
	}
}

// sharing calls visit for each tenant that has a part of the shared caches here.
func (s *stores) sharing(visit func(tenant string, shared Shared)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for tenant, t := range s.open {
		if t.shared != nil {
			visit(tenant, t.shared)
		}
	}
}

// close closes all. What ctx leaves no time to write to shared caches is dropped.
func (s *stores) close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var errs []error
	for tenant, t := range s.open {
		if err := t.Close(); err != nil {
			errs = append(errs, fmt.Errorf("store of %s: %w", tenant, err))
		}
	}
	// All at once: each may have to wait for the same slow tier.
	ends := make(chan error, len(s.open))
	for tenant, t := range s.open {
		go func() {
			var err error
			if t.shared != nil {
				if err = t.shared.Close(ctx); err != nil {
					err = fmt.Errorf("shared caches of %s: %w", tenant, err)
				}
			}
			ends <- err
		}()
	}
	for range s.open {
		errs = append(errs, <-ends)
	}
	s.open = nil
	return errors.Join(errs...)
}
