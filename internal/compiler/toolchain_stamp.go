package compiler

import (
	"slices"
	"strings"
	"syscall"
	"time"
)

// clockTick is how far a file's times may lag behind the clock. The kernel
// stamps files with a clock that moves once per timer interrupt, 10 ms apart
// at the slowest; a file changed twice within one tick, with one stat between,
// looks unchanged. What is younger than two ticks is used, but not remembered.
const clockTick = 20 * time.Millisecond

// stamp is what stat says of a file. Files with equal stamps have equal
// content, provided the stamp was a tick old when the content was read. The
// zero value stands for a file that is not there.
type stamp struct {
	Dev   uint64 `json:"d"`
	Ino   uint64 `json:"i"`
	Size  int64  `json:"s"`
	Mtime int64  `json:"m"` // nanoseconds since 1970
	Ctime int64  `json:"c"`
}

// stampOf follows symbolic links. A path that cannot be reached for whatever
// reason has the zero stamp: a compiler could not reach it either.
func stampOf(path string) stamp {
	var st syscall.Stat_t
	for {
		err := syscall.Stat(path, &st)
		if err == nil {
			return newStamp(&st)
		}
		if err != syscall.EINTR {
			return stamp{}
		}
	}
}

func (s stamp) exists() bool { return s != stamp{} }

// watch is a path and what stat must say of it.
type watch struct {
	Path string `json:"p"`
	Want stamp  `json:"w"`
}

// watchList is what a remembered fact rests on.
type watchList []watch

// hold reports whether nothing changed. Most lists have 20 to 50 entries, at
// about half a microsecond each.
func (w watchList) hold() bool {
	for i := range w {
		if stampOf(w[i].Path) != w[i].Want {
			return false
		}
	}
	return true
}

// watcher collects the watches of a derivation.
type watcher struct {
	start time.Time
	seen  map[string]stamp
}

func newWatcher() *watcher {
	return &watcher{start: time.Now(), seen: make(map[string]stamp)}
}

// path watches a file or directory. That of a directory changes whenever a
// name is added to it or taken away.
func (w *watcher) path(path string) stamp {
	s, ok := w.seen[path]
	if !ok {
		s = stampOf(path)
		w.seen[path] = s
	}
	return s
}

// absence watches a path that may not be there, and reports whether it is not.
// What is watched is the shortest prefix of it that is missing: one stat of a
// missing directory stands for all names that were looked for below it. (It is
// stat that must fail, not lstat: a dangling link's target may appear without
// any change to the directories on the way.)
func (w *watcher) absence(path string) bool {
	if w.path(path).exists() {
		return false
	}
	delete(w.seen, path)
	missing := path
	for i := 1; i < len(path); i++ {
		if path[i] == '/' && !stampOf(path[:i]).exists() {
			missing = path[:i]
			break
		}
	}
	w.seen[missing] = stamp{}
	return true
}

// settled reports whether what was watched had come to rest when the
// derivation began, so that its result may be remembered: a change since then
// would have left a younger time on one of the paths.
func (w *watcher) settled() bool {
	for _, s := range w.seen {
		if s.exists() && !s.settledAt(w.start) {
			return false
		}
	}
	return true
}

// settledAt reports whether a reading that began at start saw all that the
// stamp stands for. A time ahead of the clock never counts as settled.
func (s stamp) settledAt(start time.Time) bool {
	return max(s.Ctime, s.Mtime) < start.Add(-clockTick).UnixNano()
}

// list is what was watched, in the order of the paths, which keeps what is
// stored reproducible and walks each directory once.
func (w *watcher) list() watchList {
	list := make(watchList, 0, len(w.seen))
	for path, want := range w.seen {
		list = append(list, watch{path, want})
	}
	slices.SortFunc(list, func(a, b watch) int { return strings.Compare(a.Path, b.Path) })
	return list
}
