package store_test

import (
	"context"
	"sync/atomic"

	"hpcc.dev/hpcc/internal/store"
)

// pair makes every second call by another opening of the same directory.
type pair struct {
	*store.Directory
	other *store.Directory
	calls atomic.Int64
}

func (p *pair) next() *store.Directory {
	if p.calls.Add(1)%2 == 0 {
		return p.other
	}
	return p.Directory
}

func (p *pair) Get(ctx context.Context, name string, limit int64) (store.Object, error) {
	return p.next().Get(ctx, name, limit)
}

func (p *pair) Put(ctx context.Context, name string, body []byte, when store.Condition) (store.Version, error) {
	return p.next().Put(ctx, name, body, when)
}

func (p *pair) Delete(ctx context.Context, name string) error { return p.next().Delete(ctx, name) }
