package tiers

import (
	"context"
	"fmt"
	"sync"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/store/kms"
)

// seal encrypts what goes to s by the tier's key.
func seal(s store.Store, t *config.Tier) (store.Store, error) {
	if !t.EncryptionKMS {
		key, err := store.ReadKey(t.EncryptionKeyFile)
		if err != nil {
			return nil, err
		}
		return store.Sealed(s, key)
	}
	return &asked{under: s, key: func(ctx context.Context) ([]byte, error) {
		return kms.Key(ctx, t.EncryptionKeyFile, kms.Options{Region: t.Region, Profile: t.Profile})
	}}, nil
}

// asked is a sealed store whose key somebody else has. They are asked by the first
// call, within its time-out, so that a build starts without them: while they do not
// answer, the tier is away like one whose bucket does not.
type asked struct {
	under store.Store
	key   func(context.Context) ([]byte, error)

	mu     sync.Mutex
	sealed store.Store // once the key is known
}

func (a *asked) open(ctx context.Context) (store.Store, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sealed != nil {
		return a.sealed, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err // who waited for the lock may have done so for long
	}
	key, err := a.key(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: the key of the encryption: %w", store.ErrUnavailable, err)
	}
	if a.sealed, err = store.Sealed(a.under, key); err != nil {
		return nil, err
	}
	return a.sealed, nil
}

func (a *asked) Get(ctx context.Context, name string, limit int64) (store.Object, error) {
	s, err := a.open(ctx)
	if err != nil {
		return store.Object{}, err
	}
	return s.Get(ctx, name, limit)
}

func (a *asked) Put(ctx context.Context, name string, body []byte, when store.Condition) (store.Version, error) {
	s, err := a.open(ctx)
	if err != nil {
		return "", err
	}
	return s.Put(ctx, name, body, when)
}

func (a *asked) Stat(ctx context.Context, name string) (store.Info, error) {
	s, err := a.open(ctx)
	if err != nil {
		return store.Info{}, err
	}
	return s.Stat(ctx, name)
}

func (a *asked) Touch(ctx context.Context, name string) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	return s.Touch(ctx, name)
}

func (a *asked) Delete(ctx context.Context, name string) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	return s.Delete(ctx, name)
}

// DeleteMany is for store.DeleteMany.
func (a *asked) DeleteMany(ctx context.Context, names []string) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	return store.DeleteMany(ctx, s, names)
}

func (a *asked) List(ctx context.Context, prefix string, visit func(store.Info) error) error {
	s, err := a.open(ctx)
	if err != nil {
		return err
	}
	return s.List(ctx, prefix, visit)
}

func (a *asked) String() string { return a.under.String() }

func (a *asked) Close() error { return a.under.Close() }
