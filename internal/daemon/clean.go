package daemon

import (
	"context"

	"hpcc.dev/hpcc/internal/cache"
)

// CleanCache removes what opt names, or without that what is over the limit,
// and says what is left. Results that a running daemon holds in memory stay
// there until it is told to forget them.
func CleanCache(ctx context.Context, c *cache.Disk, opt CleanOptions) (*CleanReport, error) {
	before, err := c.Usage()
	if err != nil {
		return nil, err
	}
	if opt.All || opt.OlderThan > 0 {
		_, err = c.Clean(ctx, cache.CleanOptions{All: opt.All, OlderThan: opt.OlderThan})
	} else {
		err = c.Evict(ctx)
	}
	if err != nil {
		return nil, err
	}
	after, err := c.Usage()
	if err != nil {
		return nil, err
	}
	return &CleanReport{
		Entries: before.Entries - after.Entries, Bytes: before.Bytes - after.Bytes,
		EntriesLeft: after.Entries, BytesLeft: after.Bytes,
	}, nil
}
