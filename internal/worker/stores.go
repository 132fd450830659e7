package worker

import (
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

	mu     sync.Mutex
	open   map[string]*cache.Disk
	closed bool
}

// get opens a tenant's store, or returns the one that is open. The name comes out
// of a verified token: it is that of one directory.
func (s *stores) get(tenant string) (*cache.Disk, error) {
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
	if s.open == nil {
		s.open = map[string]*cache.Disk{}
	}
	s.open[tenant] = d
	return d, nil
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
		s.mu.Lock()
		d := s.open[e.Name()]
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

func (s *stores) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var errs []error
	for tenant, d := range s.open {
		if err := d.Close(); err != nil {
			errs = append(errs, fmt.Errorf("store of %s: %w", tenant, err))
		}
	}
	s.open = nil
	return errors.Join(errs...)
}
