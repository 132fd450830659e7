package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
)

// The quarantine keeps entries that verification found wrong, for people to
// look at. No look-up reads it. It is bounded by itself, beside eviction and
// cleaning, which treat its files as any others: whoever samples hits of a
// compiler that never makes the same object twice fills it.
const (
	maxQuarantined      = 100
	maxQuarantinedBytes = 64 << 20
	// MaxReport is the longest report, in bytes.
	MaxReport = 1 << 20
)

var tagQuarantined = digest.Tag{'q', 'u', 'a', '1'}

// Quarantine takes the entry stored under key out of the cache and keeps it
// aside with a report about it. The entry is gone in any case; the error says
// that nothing of it could be kept. An entry that was gone before leaves the
// report alone.
func (c *Disk) Quarantine(key digest.Key, report []byte) error {
	if len(report) > MaxReport {
		return fmt.Errorf("report of %d bytes: %w", len(report), ErrTooLarge)
	}
	entry, _, err := c.read(c.path(KindEntry, key), action.MaxEntry)
	if err != nil {
		entry = nil
	}
	if err := c.Remove(KindEntry, key); err != nil {
		return err
	}
	path := c.path(KindQuarantined, key)
	b := append(digest.Seal(nil, tagQuarantined, key, report), entry...)
	grown := int64(len(b))
	if fi, err := os.Stat(path); err == nil {
		grown -= fi.Size()
	}
	if err := c.write(path, b); err != nil {
		return fmt.Errorf("quarantining an entry: %w", err)
	}
	c.account(grown, 0)
	c.boundQuarantine()
	return nil
}

// boundQuarantine removes the oldest of what is too much.
func (c *Disk) boundQuarantine() {
	files := c.quarantined()
	var bytes int64
	for i, f := range files {
		if bytes += f.size; i < maxQuarantined && bytes <= maxQuarantinedBytes || i == 0 {
			continue
		}
		if c.removeUnused(f) {
			c.account(-f.size, 0)
		}
	}
}

// quarantined lists the quarantine's files, newest first.
func (c *Disk) quarantined() []file {
	var files []file
	for _, dir := range subdirs(c.dir + "/" + kinds[KindQuarantined].dir) {
		_ = walkShard(KindQuarantined, dir, func(f file) error {
			files = append(files, f)
			return nil
		})
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(b.used, a.used) })
	return files
}

// QuarantinedKeys lists what is in quarantine, newest first.
func (c *Disk) QuarantinedKeys() []digest.Key {
	var keys []digest.Key
	for _, f := range c.quarantined() {
		if key, err := digest.ParseKey(f.name); err == nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// IsQuarantined tells whether there is an entry in quarantine under key.
func (c *Disk) IsQuarantined(key digest.Key) bool {
	_, err := os.Lstat(c.path(KindQuarantined, key))
	return err == nil
}

// Quarantined returns what Quarantine kept: the report, and the entry, nil if
// that was gone.
func (c *Disk) Quarantined(key digest.Key) (report []byte, entry *action.Entry, err error) {
	type both struct {
		report []byte
		entry  *action.Entry
	}
	b, _, err := record(c, c.path(KindQuarantined, key), MaxReport+digest.SealOverhead+action.MaxEntry, key,
		func(key digest.Key, b []byte) (both, error) {
			report, entry, err := decodeQuarantined(key, b)
			return both{report, entry}, err
		})
	return b.report, b.entry, err
}

func decodeQuarantined(key digest.Key, b []byte) ([]byte, *action.Entry, error) {
	report, rest, err := digest.Unseal(b, tagQuarantined, key)
	if err != nil {
		return nil, nil, err
	}
	if len(rest) == 0 {
		return report, nil, nil
	}
	entry, err := action.DecodeEntry(key, rest)
	return report, entry, err
}

// Find returns the names of the files of a kind that begin with prefix, at
// most limit of them and one more: keys, or digests of blobs. prefix is hex
// digits, two at least.
func (c *Disk) Find(k Kind, prefix string, limit int) ([]string, error) {
	if len(prefix) < 2 {
		return nil, errors.New("cache: a prefix of two digits at least")
	}
	dirs := []string{c.dir + "/" + kinds[k].dir + "/" + prefix[:2]}
	if k == KindMemo {
		dirs = nil
		for _, kind := range subdirs(c.dir + "/memo") {
			dirs = append(dirs, kind+"/"+prefix[:2])
		}
	}
	var found []string
	for _, dir := range dirs {
		err := walkShard(k, dir, func(f file) error {
			if len(f.name) >= len(prefix) && f.name[:len(prefix)] == prefix {
				if found = append(found, f.name); len(found) > limit {
					return context.Canceled
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			return nil, err
		}
	}
	return found, nil
}
