package daemon

import (
	"context"

	"hpcc.dev/hpcc/internal/cache"
)

// CleanCache removes what opt names, or without that what is over the limit,
// and says what is left. Results that a running daemon holds in memory stay
// there until it is told to forget them.
func CleanCache(ctx context.Context, c *cache.Disk, opt CleanOptions) (*CleanReport, error) {
	if opt.All || opt.OlderThan > 0 {
		r, err := c.Clean(ctx, cache.CleanOptions{All: opt.All, OlderThan: opt.OlderThan})
		if err != nil {
			return nil, err
		}
		return &CleanReport{Entries: r.RemovedEntries, Bytes: r.RemovedBytes, EntriesLeft: r.Left.Entries, BytesLeft: r.Left.Bytes}, nil
	}
	before, err := c.Usage()
	if err != nil {
		return nil, err
	}
	if err := c.Evict(ctx); err != nil {
		return nil, err
	}
	after, err := c.Usage()
	if err != nil {
		return nil, err
	}
	// What a daemon has stored and not yet accounted for is in the later one alone.
	return &CleanReport{
		Entries: max(before.Entries-after.Entries, 0), Bytes: max(before.Bytes-after.Bytes, 0),
		EntriesLeft: after.Entries, BytesLeft: after.Bytes,
	}, nil
}
