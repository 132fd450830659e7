package tiers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/store/s3store"
)

// Health is what Check found of a tier.
type Health struct {
	// Where names the store, and Endpoint who answered for it; Credentials is where
	// those came from. Both are "" of a directory.
	Where, Endpoint, Credentials string
	// Skew is how far the store's clock is ahead of this machine's.
	Skew time.Duration
	// Writable says that objects were put, and that conditions of it held.
	Writable bool
	// Took is how long the first answer took.
	Took time.Duration
}

// Check tries a tier as it is used: it reads, and, unless the tier is read-only,
// writes an object of its own on conditions. The error says what to do; Health has
// what was found until then.
func Check(ctx context.Context, t *config.Tier) (Health, error) {
	var h Health
	s, err := OpenStore(t)
	if err != nil {
		return h, err
	}
	defer func() { _ = s.Close() }()
	h.Where = s.String()
	if a, ok := s.(*asked); ok {
		if _, err := a.open(ctx); err != nil {
			return h, err
		}
	}
	began := time.Now()
	// Not through the encryption, of which a bucket knows nothing.
	bare, err := openBare(t)
	if err != nil {
		return h, err
	}
	defer func() { _ = bare.Close() }()
	if bucket, ok := bare.(*s3store.Store); ok {
		found, err := bucket.Check(ctx)
		h.Endpoint, h.Credentials, h.Skew, h.Writable = found.Endpoint, found.Credentials, found.Skew, found.Writable
		h.Took = time.Since(began)
		return h, err
	}
	name := "hpcc-check/" + strings.ToLower(rand.Text())
	if _, err := bare.Get(ctx, name, 0); !errors.Is(err, store.ErrNotFound) {
		return h, fmt.Errorf("reading: %w", err)
	}
	h.Took = time.Since(began)
	if t.Access == config.ReadOnly {
		return h, nil
	}
	if err := tryConditions(ctx, bare, name, &h); err != nil {
		return h, err
	}
	h.Writable = true
	return h, nil
}

// tryConditions puts an object on conditions, and removes it.
func tryConditions(ctx context.Context, s store.Store, name string, h *Health) (err error) {
	if _, err := s.Put(ctx, name, []byte("check"), store.Condition{Absent: true}); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	defer func() {
		if e := s.Delete(ctx, name); e != nil && err == nil {
			err = fmt.Errorf("removing: %w", e)
		}
	}()
	if _, err := s.Put(ctx, name, []byte("again"), store.Condition{Absent: true}); !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("an object that is there was put once more as if it were not: %w", orNothing(err))
	}
	i, err := s.Stat(ctx, name)
	if err != nil {
		return fmt.Errorf("reading what was written: %w", err)
	}
	if skew := time.Until(i.Modified); skew.Abs() > 2*time.Second {
		h.Skew = skew.Round(time.Second)
	}
	return nil
}

var errNothing = errors.New("no error")

func orNothing(err error) error {
	if err == nil {
		return errNothing
	}
	return err
}
