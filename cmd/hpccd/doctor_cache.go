package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/daemon"
)

func itoa(n int) string { return strconv.Itoa(n) }

// cache looks at both directories, what they lie on, and what the cache says
// of itself.
func (d *doctor) cache() {
	if d.cfg == nil {
		return
	}
	d.directory("config-dir", d.cfg.Dir)
	dir := d.cfg.Cache.Dir
	if !d.directory("cache-dir", dir) {
		return
	}
	existing := existingParent(dir)
	d.fileSystem(existing)
	d.clock(existing)
	disk, err := cache.Peek(dir, d.cfg.Cache.MaxSize)
	switch {
	case errors.Is(err, cache.ErrNotFound):
		d.ok("cache", "none yet: the first compile makes it")
		return
	case err != nil:
		d.fail("cache", "remove it, or set cache.dir to another directory", "%s", err)
		return
	}
	stats, err := daemon.ReadStats(disk)
	if err != nil {
		d.fail("cache", "run hpcc fsck", "%s", err)
		return
	}
	if stats.CacheBytes > stats.CacheMaxBytes {
		d.warn("cache", "bring it down: hpcc clean; or raise cache.max_size", "%s, more than the %s that it may be",
			config.HumanSize(stats.CacheBytes), config.HumanSize(stats.CacheMaxBytes))
	} else {
		d.ok("cache", "%s of %s, %d entries", config.HumanSize(stats.CacheBytes), config.HumanSize(stats.CacheMaxBytes), stats.Entries)
	}
	if stats.Damaged > 0 {
		d.warn("cache-damage", "check it: hpcc fsck; if damage comes again, check the disk; hpcc stats --zero starts counting anew",
			"%d files were damaged, and removed when they were read", stats.Damaged)
	}
	if stats.Errors > 0 {
		d.warn("cache-errors", "see the daemon's log; hpcc stats --zero starts counting anew", "%d compiles met a fault of hpcc", stats.Errors)
	}
	if keys := disk.QuarantinedKeys(); len(keys) > 0 {
		d.warn("quarantine", "look at it: hpcc inspect "+keys[0].String()[:16]+"; hpcc clean --all removes it with all the rest",
			"%d results were not what the compiler makes", len(keys))
	}
}

// existingParent is a path or the nearest directory above it that is there.
func existingParent(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

// directory judges owner and modes of a directory of hpcc's, and reports
// whether it is of use.
func (d *doctor) directory(check, dir string) bool {
	var st unix.Stat_t
	err := unix.Stat(dir, &st)
	if errors.Is(err, fs.ErrNotExist) {
		if parent := existingParent(dir); unix.Access(parent, unix.W_OK|unix.X_OK) != nil || readOnly(parent) {
			d.fail(check, "make "+dir+", owned by this user", "%s does not exist and cannot be made", dir)
			return false
		}
		d.ok(check, "%s will be made", dir)
		return true
	}
	switch {
	case err != nil:
		d.fail(check, "see that the directories above it can be entered", "%s: %s", dir, err)
		return false
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		d.fail(check, "remove it, or choose another path", "%s is not a directory", dir)
		return false
	case int(st.Uid) != os.Geteuid():
		d.fail(check, "choose a directory of this user's own", "%s belongs to user %d, not to this one (%d)", dir, st.Uid, os.Geteuid())
		return false
	case st.Mode&0o022 != 0:
		d.fail(check, "chmod 700 "+shellQuote(dir), "others may write to %s, and so put objects of theirs into builds", dir)
	case unix.Access(dir, unix.W_OK|unix.X_OK) != nil || readOnly(dir):
		d.fail(check, "see that this user may write there", "%s cannot be written", dir)
	case st.Mode&0o055 != 0 && check == "cache-dir":
		d.warn(check, "chmod 700 "+shellQuote(dir), "others may read what was compiled, in %s", dir)
	default:
		d.ok(check, "%s", dir)
	}
	return true
}

func readOnly(dir string) bool {
	var sfs unix.Statfs_t
	return unix.Statfs(dir, &sfs) == nil && sfs.Flags&unix.ST_RDONLY != 0
}

// Free space below which the cache is in the way, and below which it soon is.
const (
	spaceFail = 16 << 20
	spaceWarn = 512 << 20
)

// fileSystem judges what the cache lies on.
func (d *doctor) fileSystem(dir string) {
	var sfs unix.Statfs_t
	if err := unix.Statfs(dir, &sfs); err != nil {
		d.warn("cache-space", "", "%s: %s", dir, err)
		return
	}
	free := int64(sfs.Bavail) * sfs.Bsize
	switch {
	case free < spaceFail:
		d.fail("cache-space", "make room, or set cache.dir to another disk", "%s free where the cache lies: results cannot be stored", config.HumanSize(free))
	case free < spaceWarn:
		d.warn("cache-space", "make room, or set cache.dir to another disk", "%s free where the cache lies", config.HumanSize(free))
	default:
		d.ok("cache-space", "%s free", config.HumanSize(free))
	}
	if daemon.LooseTimes(dir) {
		d.warn("cache-filesystem", "set cache.dir to a local disk", "the cache lies on a network or user-space file system: locks and reads are slow there")
	} else if clones(dir) {
		d.ok("cache-filesystem", "hits share the blocks of the cache (reflinks)")
	} else {
		d.ok("cache-filesystem", "hits are copied: the file system has no reflinks")
	}
	if cwd, err := os.Getwd(); err == nil && daemon.LooseTimes(cwd) {
		d.warn("source-filesystem", "build on a local disk",
			"the working directory lies on a network or user-space file system, whose times prove nothing: each hit reads all its inputs")
	}
}

// unnamed makes a file without a name, which leaves nothing behind.
func unnamed(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), dir), nil
}

func clones(dir string) bool {
	src, err := unnamed(dir)
	if err != nil {
		return false
	}
	defer src.Close()
	dst, err := unnamed(dir)
	if err != nil {
		return false
	}
	defer dst.Close()
	if _, err := src.Write(make([]byte, 4096)); err != nil {
		return false
	}
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
}

// clock compares the clock that stamps files with this machine's.
func (d *doctor) clock(dir string) {
	before := time.Now()
	f, err := unnamed(dir)
	if err != nil {
		return // not every file system has such files; those that lag do
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return
	}
	if text := skew(info.ModTime(), before, time.Now()); text != "" {
		d.fail("clock", "set both clocks by one source (NTP)",
			"files are stamped %s: what was just changed looks older or newer than the compile that reads it", text)
		return
	}
	d.ok("clock", "files are stamped by this machine's clock")
}

// maxSkew is longer than any tick of a clock, and shorter than what a build
// can do between two.
const maxSkew = 100 * time.Millisecond

// skew says how a file's time lies outside the moments between which it was
// made, or "".
func skew(stamp, before, after time.Time) string {
	switch {
	case stamp.Before(before.Add(-maxSkew)):
		return before.Sub(stamp).Round(time.Millisecond).String() + " behind the clock"
	case stamp.After(after.Add(maxSkew)):
		return stamp.Sub(after).Round(time.Millisecond).String() + " ahead of the clock"
	}
	return ""
}
