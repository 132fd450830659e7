package compiler

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// PathKind says what stands at a path.
type PathKind uint8

// What a look at a path can find. Symbolic links are followed.
const (
	// Missing: nothing, or a symbolic link that leads nowhere.
	Missing PathKind = iota
	// Regular is anything that a compiler would open and read.
	Regular
	// Directory is a directory, which compilers pass over when they look for
	// a header.
	Directory
)

// FileID tells files apart, whatever their names.
type FileID struct{ Dev, Ino uint64 }

// FileSystem is the view of the files that FindLookups needs. Paths are as the
// compiler spells them: relative ones are relative to the compile's working
// directory, and ".." is left to the file system, since a directory may be a
// link.
type FileSystem interface {
	// Look says what is at path, and for a missing path the shortest prefix
	// of it, at a component's end, that is missing.
	Look(path string) (kind PathKind, missing string)
	// ID names the file at path; ok is false if there is none.
	ID(path string) (id FileID, ok bool)
}

// DirCache is a FileSystem that reads each directory at most once and then
// answers from memory: for the thousands of names that one compile looks for
// in a few directories, this is cheaper than a system call each. It shows the
// state at the time of the first look, so it must be made after the compile,
// used for that compile alone, and dropped. It must not be used by two
// goroutines at once.
type DirCache struct {
	// Entries, if not nil, is asked for the listing of an absolute directory
	// before that is read: what ReadEntries returned, if it is so still. The
	// map is not changed.
	Entries func(dir string) (entries map[string]PathKind, ok bool)

	cwd  string
	dirs map[string]*dirListing
}

// NewDirCache returns an empty cache for a compile in the absolute directory
// cwd.
func NewDirCache(cwd string) *DirCache {
	return &DirCache{cwd: cwd, dirs: make(map[string]*dirListing)}
}

// dirListing is what one directory holds.
type dirListing struct {
	// missing is the shortest missing prefix where there is no such directory;
	// "" where there is.
	missing string
	// partial listings answer for the names they have; others are asked for.
	partial bool
	entries map[string]PathKind // may be shared with others
	// asked holds what the kernel said of names that entries cannot tell.
	asked map[string]PathKind
}

// Unlisted marks links and what else a listing does not tell the kind of.
const Unlisted PathKind = 0xff

// maxListed is the size of a directory above which names are asked for one by
// one: reading 4,096 entries takes about a millisecond, as do a thousand
// questions.
const maxListed = 4096

// caseFolding is true where any name that a listing lacks may still be found.
const caseFolding = runtime.GOOS != "linux"

// Look implements FileSystem.
func (c *DirCache) Look(path string) (PathKind, string) {
	dir, base := splitLast(path)
	if base == "" {
		return c.stat(path), ""
	}
	d := c.list(dir)
	if d.missing != "" {
		return Missing, d.missing
	}
	kind, listed := d.entries[base]
	if !listed && !d.complete(base) || listed && kind == Unlisted {
		var known bool
		if kind, known = d.asked[base]; !known {
			kind = c.stat(path)
			if d.asked == nil {
				d.asked = make(map[string]PathKind)
			}
			d.asked[base] = kind
		}
	}
	if kind == Missing {
		return Missing, path
	}
	return kind, ""
}

// complete reports whether a name that the listing lacks does not exist. Some
// file systems, and some directories of ext4, find a name in any case of
// letters, and in other encodings of what is not ASCII: the kernel is asked for
// names that might be found so (see ReadEntries).
func (d *dirListing) complete(base string) bool {
	if d.partial || base == "." || base == ".." {
		return false
	}
	lower := strings.ToLower(base)
	_, similar := d.entries[lower]
	return !similar && !strings.ContainsFunc(base, func(r rune) bool { return r >= 0x80 })
}

// list returns the listing of dir, spelled as in a path ("" is the working
// directory).
func (c *DirCache) list(dir string) *dirListing {
	if d, ok := c.dirs[dir]; ok {
		return d
	}
	d := &dirListing{}
	c.dirs[dir] = d
	if dir != "" && dir != "/" {
		switch kind, missing := c.Look(dir); kind {
		case Missing:
			d.missing = missing
			return d
		case Regular:
			return d // nothing is below a file; each name is its own absence
		}
	}
	abs := c.abs(dir)
	if c.Entries != nil {
		if entries, ok := c.Entries(abs); ok {
			d.entries = entries
			return d
		}
	}
	entries, complete := ReadEntries(abs)
	d.entries, d.partial = entries, !complete
	return d
}

// ReadEntries reads what a directory holds, as far as its listing alone tells:
// Regular, Directory or Unlisted. A listing that is not complete (too large,
// not readable, or of a file system that finds names spelled in other ways)
// says nothing about names that it lacks. Names with capital letters stand in
// small ones besides, as Unlisted.
func ReadEntries(dir string) (entries map[string]PathKind, complete bool) {
	if caseFolding {
		return nil, false
	}
	list, complete, err := readDir(dir, maxListed)
	if err != nil {
		return nil, false // searchable but not readable, perhaps
	}
	entries = make(map[string]PathKind, len(list))
	for _, e := range list {
		entries[e.name] = e.kind
		if lower := strings.ToLower(e.name); lower != e.name {
			if _, taken := entries[lower]; !taken {
				entries[lower] = Unlisted
			}
		}
	}
	return entries, complete && len(list) < maxListed
}

// abs makes path absolute without cleaning it.
func (c *DirCache) abs(path string) string {
	if path == "" {
		return c.cwd
	}
	if filepath.IsAbs(path) {
		return path
	}
	return c.cwd + "/" + path
}

func (c *DirCache) stat(path string) PathKind {
	info, err := os.Stat(c.abs(path))
	switch {
	case err == nil && info.IsDir():
		return Directory
	case err == nil:
		return Regular
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return Missing
	}
	// It exists but cannot be looked at: the compiler would not have passed it
	// over in silence.
	return Regular
}

// ID implements FileSystem.
func (c *DirCache) ID(path string) (FileID, bool) {
	return fileID(c.abs(path))
}

// splitLast splits a path before its last component; the directory of a plain
// name is "", that of a name below the root "/".
func splitLast(path string) (dir, base string) {
	path = strings.TrimRight(path, "/")
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path
	}
	base = path[i+1:]
	dir = strings.TrimRight(path[:i], "/")
	if dir == "" {
		dir = "/"
	}
	return dir, base
}
