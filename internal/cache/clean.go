package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"hpcc.dev/hpcc/internal/digest"
)

// file is one file of the cache, as a walk finds it.
type file struct {
	kind Kind
	dir  string // shared by all files of a shard
	name string
	size int64
	used int64 // time of last use, Unix nanoseconds
}

func (f *file) path() string { return f.dir + "/" + f.name }

// walk visits the files of the cache: blobs, entries, manifests, memos. Those
// that vanish meanwhile are left out.
func (c *Disk) walk(ctx context.Context, visit func(file) error) error {
	for k := range kinds {
		shards := subdirs(c.dir + "/" + kinds[k].dir)
		if Kind(k) == KindMemo {
			shards = subdirs(shards...)
		}
		for _, dir := range shards {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := walkShard(Kind(k), dir, visit); err != nil {
				return err
			}
		}
	}
	return nil
}

// subdirs lists the directories in some directories.
func subdirs(dirs ...string) (subs []string) {
	for _, dir := range dirs {
		names, _ := os.ReadDir(dir)
		for _, e := range names {
			if e.IsDir() {
				subs = append(subs, dir+"/"+e.Name())
			}
		}
	}
	return subs
}

func walkShard(k Kind, dir string, visit func(file) error) error {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range names {
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := visit(file{k, dir, e.Name(), fi.Size(), fi.ModTime().UnixNano()}); err != nil {
			return err
		}
	}
	return nil
}

// removeUnused removes a file unless it was used or written since the walk
// found it, and reports whether it did.
func (c *Disk) removeUnused(f file) bool {
	if f.kind == KindManifest {
		// Someone who is adding to it renews it: not to be lost between our
		// look and our removal.
		if key, err := digest.ParseKey(f.name); err == nil {
			unlock, err := c.lockManifest(key, 0)
			if err != nil {
				return false
			}
			defer unlock()
		}
	}
	fi, err := os.Lstat(f.path())
	if err != nil || fi.ModTime().UnixNano() != f.used {
		return false
	}
	return os.Remove(f.path()) == nil
}

// evictSoon evicts in the background, if that is not under way.
func (c *Disk) evictSoon() {
	if !c.evicting.CompareAndSwap(false, true) {
		return
	}
	c.background.Go(func() {
		defer c.evicting.Store(false)
		_ = c.Evict(context.Background()) // the next put tries again
	})
}

// Evict removes what was not used for longest until the cache holds 90 % of
// what it may, if it holds more than it may; puts start it by themselves. Only
// one process evicts at a time: another's call returns at once.
//
// It counts the whole cache, which costs some 2 µs and 150 bytes of memory for
// each file: a second for the half million files of a full default cache, once
// for each gigabyte that was added.
func (c *Disk) Evict(ctx context.Context) error {
	unlock, err := c.lock("evict", 0)
	if errors.Is(err, ErrBusy) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("evicting: %w", err)
	}
	defer unlock()
	var files []file
	var held tally
	err = c.walk(ctx, func(f file) error {
		files = append(files, f)
		return held.add(f)
	})
	if err != nil {
		return fmt.Errorf("evicting: %w", err)
	}
	if held.bytes > c.max {
		slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.used, b.used) })
		for _, f := range files {
			if held.bytes <= c.max/10*9 || ctx.Err() != nil {
				break
			}
			if c.removeUnused(f) {
				held.remove(f)
			}
		}
	}
	return errors.Join(c.setUsage(held), ctx.Err())
}

// CleanOptions say what Clean removes.
type CleanOptions struct {
	// All removes everything.
	All bool
	// OlderThan removes what was not used for that long, to the hour; 0 removes
	// nothing.
	OlderThan time.Duration
}

// CleanReport says what Clean removed, and what it left.
type CleanReport struct {
	RemovedFiles, RemovedBytes int64
	RemovedEntries             int64 // of RemovedFiles
	Left                       Usage
}

// Clean removes files from the cache, in use or not: compiles that miss them
// run again. It waits for an eviction that is under way, or returns ErrBusy.
func (c *Disk) Clean(ctx context.Context, opt CleanOptions) (CleanReport, error) {
	var report CleanReport
	unlock, err := c.lock("evict", lockPatience)
	if err != nil {
		return report, fmt.Errorf("cleaning: %w", err)
	}
	defer unlock()
	before := time.Now().Add(-opt.OlderThan).UnixNano()
	var held tally
	var failed error
	err = c.walk(ctx, func(f file) error {
		var removed bool
		switch {
		case opt.All:
			err := os.RemoveAll(f.path())
			removed = err == nil
			if err != nil && failed == nil {
				failed = classify(err)
			}
		case opt.OlderThan > 0 && f.used < before:
			removed = c.removeUnused(f)
		}
		if !removed {
			return held.add(f)
		}
		report.RemovedFiles++
		if f.kind == KindEntry {
			report.RemovedEntries++
		}
		report.RemovedBytes += f.size
		return nil
	})
	if err == nil {
		err = errors.Join(failed, c.setUsage(held))
	}
	report.Left = Usage{held.bytes, c.max, held.entries}
	if err != nil {
		return report, fmt.Errorf("cleaning: %w", err)
	}
	return report, nil
}
