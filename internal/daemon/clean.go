package daemon

import "hpcc.dev/hpcc/internal/cache"

// CleanCache removes what opt names and says what is left.
func CleanCache(c *cache.Disk, opt CleanOptions) (*CleanReport, error) {
	before, err := c.Usage()
	if err != nil {
		return nil, err
	}
	switch {
	case opt.All:
		_, err = c.Clean(0)
	case opt.OlderThan > 0:
		_, err = c.Clean(opt.OlderThan)
	default:
		err = c.Evict()
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
