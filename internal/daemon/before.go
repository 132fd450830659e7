package daemon

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/compiler"
)

// before is what the directories of a compile held when it began. What the
// compiler saw while it ran can only be told afterwards from what it lists; a
// file that __has_include found is on no list of gcc's, and leaves no trace
// once it is gone.
type before struct {
	start *moment
	files *fileTable
	dirs  map[string]*listing
}

// listing is what one directory holds.
type listing struct {
	last    stamp
	entries map[string]compiler.PathKind
	// complete is as compiler.ReadEntries says; else there are just names.
	complete bool
}

// lookAround reads the directories that a compile will search and in which
// builds leave files: the source's, the working directory, and the user's part
// of the search path. Those that stand as they were are remembered, so that
// most compiles pay one stat for each.
func (j *job) lookAround(start *moment) *before {
	b := &before{start: start, files: j.e.files, dirs: map[string]*listing{}}
	for _, d := range j.prep.inv.UserDirs(j.req.GetEnv()) {
		abs := j.prep.place.directory(d)
		if _, known := b.dirs[abs]; !known {
			b.dirs[abs] = j.e.list(abs)
		}
	}
	return b
}

// list reads a directory, or recalls having done so; nil if it cannot be read
// or is too large. Such a one that changes during a compile keeps the unit out
// of the cache if the unit asks for files in it.
func (e *Engine) list(dir string) *listing {
	var st unix.Stat_t
	now := e.files.now()
	if unix.Stat(dir, &st) != nil {
		return nil
	}
	s := e.files.stamp(&st)
	if l, ok := e.listings.get(dir); ok && l.last == s {
		return l
	}
	entries, complete := compiler.ReadEntries(dir)
	if !complete {
		if entries = readNames(dir); entries == nil {
			return nil
		}
	}
	l := &listing{last: s, entries: entries, complete: complete}
	if s.proves(now) && !e.files.looseTimes(dir, s.dev) {
		e.listings.putWeighted(dir, l, int64(len(entries))+16)
	}
	return l
}

// maxNames bounds the directories whose names are read though they are too
// large for compiler.ReadEntries: some 10 ms.
const maxNames = 1 << 16

// readNames reads the names of a large directory; nil if it cannot be read or
// is too large even so.
func readNames(dir string) map[string]compiler.PathKind {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, err := f.Readdirnames(maxNames + 1)
	if err != nil || len(names) > maxNames {
		return nil
	}
	entries := make(map[string]compiler.PathKind, len(names))
	for _, n := range names {
		entries[n] = compiler.Unlisted
	}
	return entries
}

// entries is list for a compiler.DirCache.
func (e *Engine) entries(dir string) (entries map[string]compiler.PathKind, ok bool) {
	l := e.list(dir)
	if l == nil {
		return nil, false
	}
	return l.entries, l.complete
}

// wasAbsent reports whether a path that is missing now was missing when the
// compile began, too.
func (b *before) wasAbsent(path string) bool {
	dir := parent(path)
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return false
	}
	if !b.files.changedSince(b.start, dir, b.files.stamp(&st)) {
		return true // nothing came or went
	}
	l := b.dirs[dir]
	if l == nil || l.last.dev != st.Dev || l.last.ino != st.Ino {
		return false
	}
	_, there := l.entries[path[strings.LastIndexByte(path, '/')+1:]]
	return !there
}

// turned names a link or directory on the way to one of these files that was
// put in its place after the compile began: then what is found on the way now
// is not what the compiler found, whatever its own age. Renaming a directory
// leaves its change time behind; so does adding a file to it, but then the
// time of modification is the same. (Not so where another machine keeps the
// times; there only the directories that were looked at before count.)
func (b *before) turned(p place, files []string) (path string) {
	for dir, l := range b.dirs {
		var st unix.Stat_t
		if l != nil && (unix.Stat(dir, &st) != nil || l.last.dev != st.Dev || l.last.ino != st.Ino) {
			return dir
		}
	}
	seen := map[string]bool{}
	for _, f := range files {
		if t := b.turnedOn(p.absolute(f), seen, maxLinks); t != "" {
			return t
		}
	}
	return ""
}

// maxLinks is how many links the kernel follows in one path.
const maxLinks = 40

// turnedOn looks at each directory and link on the way to path, and on the
// way to where those links lead.
func (b *before) turnedOn(path string, seen map[string]bool, links int) string {
	for i := len(path); i > 0; i-- {
		if i < len(path) && path[i] != '/' {
			continue
		}
		at := path[:i]
		if seen[at] {
			return ""
		}
		seen[at] = true
		var st unix.Stat_t
		if unix.Lstat(at, &st) != nil {
			continue // the file itself is looked at by others
		}
		changed := b.files.changedSince(b.start, at, b.files.stamp(&st))
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			if changed {
				return at
			}
			target, err := os.Readlink(at)
			if err != nil || links == 0 {
				return at
			}
			if target == "" || target[0] != '/' {
				target = parent(at) + "/" + target
			}
			if t := b.turnedOn(target, seen, links-1); t != "" {
				return t
			}
		case unix.S_IFDIR:
			if changed && !b.files.looseTimes(at, st.Dev) && wasRenamed(at, &st) {
				return at
			}
		}
	}
	return ""
}

// wasRenamed reports whether the last change to a directory was to itself, not to
// what it holds: then the times of modification and of change differ. stat(2)
// reads the two one after the other, and what is added between shows in one of
// them (in a busy /tmp, in one call of a hundred, and for as long as whoever
// adds it is kept from the processor), so a difference counts only if it stays.
func wasRenamed(dir string, st *unix.Stat_t) bool {
	ino := st.Ino
	for try := 0; st.Mtim != st.Ctim; try++ {
		if try == wasRenamedTries || unix.Lstat(dir, st) != nil || st.Ino != ino {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

const wasRenamedTries = 200
