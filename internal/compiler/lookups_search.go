package compiler

import (
	"path"
	"slices"
	"strings"
)

// chain is the search path as one list: quote directories, then those for
// both forms.
type chain struct {
	dirs  []chainDir
	angle int // index of the first directory for <…>
	same  [][2]string
}

type chainDir struct {
	path   string // without "./" before or slashes behind; "" is the working directory
	system bool
	// clean is how gcc may spell a system directory in its lists: without "..".
	clean string
	// again is true where the same directory stands later in the chain. The
	// compiler drops one of the two, and which one depends on their kinds, so a
	// search must not be taken to end here.
	again bool
}

func newChain(sp SearchPath, fs FileSystem) chain {
	var c chain
	add := func(dirs []string, system bool) {
		for _, d := range dirs {
			c.dirs = append(c.dirs, newChainDir(d, system))
		}
	}
	add(sp.Quote, false)
	c.angle = len(c.dirs)
	add(sp.Angle, false)
	add(sp.System, true)
	add(sp.After, true)
	for _, d := range sp.Duplicates {
		c.same = append(c.same, [2]string{trimDir(d[0]), trimDir(d[1])})
	}
	seen := make(map[FileID]string, len(c.dirs))
	for i := len(c.dirs) - 1; i >= 0; i-- {
		d := &c.dirs[i]
		id, ok := fs.ID(d.path)
		if !ok {
			continue
		}
		other, again := seen[id]
		if d.again = again; again && other != d.path {
			c.same = append(c.same, [2]string{d.path, other})
		}
		seen[id] = d.path
	}
	return c
}

func newChainDir(dir string, system bool) chainDir {
	d := chainDir{path: trimDir(dir), system: system}
	if system {
		d.clean = trimDir(path.Clean(dir))
	}
	return d
}

// trimDir spells a directory so that joinPath gives what a dependency list
// would say.
func trimDir(dir string) string {
	if t := strings.TrimRight(dir, "/"); t != "" || dir == "" {
		dir = t
	} else {
		return "/"
	}
	dir = trimDotSlash(dir)
	if dir == "." {
		return ""
	}
	return dir
}

// joinPath appends a header's name to a directory as spelled by trimDir.
func joinPath(dir, name string) string {
	switch dir {
	case "":
		return trimDotSlash(name)
	case "/":
		return "/" + name
	}
	return dir + "/" + name
}

// dirOf is the directory in which a file's "…" directives look first.
func dirOf(file string) string {
	i := strings.LastIndexByte(file, '/')
	switch {
	case i < 0:
		return ""
	case i == 0:
		return "/"
	}
	return trimDir(file[:i])
}

// searchKey names a search along the chain; searches from different files for
// the same name share it.
type searchKey struct {
	name  string
	angle bool
}

// search is what stands at each candidate of a name along the chain.
type search struct {
	at      []candidate
	stop    int // candidates that a search from the head looks at
	last    int // index of the last candidate that was read, or -1
	emitted int // candidates noted so far
}

type candidate struct {
	path    string
	missing string // the shortest missing prefix
	kind    PathKind
	file    int // index of files, or -1
}

// look classifies one path.
func (f *finder) look(path string) candidate {
	c := candidate{path: path, file: -1}
	if i, ok := f.listed[path]; ok {
		// It was read, so it is there, whatever became of it since.
		c.kind, c.file = Regular, i
		return c
	}
	c.kind, c.missing = f.fs.Look(path)
	if c.kind == Regular {
		c.file = f.sameFile(path)
	}
	return c
}

// sameFile returns the listed file that path names too, or -1. gcc spells
// files in system directories by their real path where that is shorter.
func (f *finder) sameFile(path string) int {
	if f.ids == nil {
		f.ids = make(map[FileID]int, len(f.files))
		for i := len(f.files) - 1; i >= 0; i-- {
			if id, ok := f.fs.ID(f.files[i].Path); ok {
				f.ids[id] = i
			}
		}
	}
	if id, ok := f.fs.ID(path); ok {
		if i, ok := f.ids[id]; ok {
			return i
		}
	}
	return -1
}

// along returns the search for a name along the chain.
func (f *finder) along(name string, angle bool) *search {
	key := searchKey{name, angle}
	if s, ok := f.memo[key]; ok {
		return s
	}
	dirs := f.chain.dirs
	if angle {
		dirs = dirs[f.chain.angle:]
	}
	s := &search{at: make([]candidate, len(dirs))}
	s.last = -1
	first := -1
	for i, d := range dirs {
		c := f.look(joinPath(d.path, name))
		s.at[i] = c
		if c.kind == Regular && first < 0 && !d.again {
			first = i
		}
		if c.file >= 0 {
			s.last = i
		}
	}
	// From the head the search ends at the first file. If that is not listed,
	// the directive was skipped or is a __has_include; a later one that is
	// listed is kept in view in case the first was made after the compile.
	s.stop = len(dirs)
	if s.last >= 0 {
		s.stop = s.last + 1
	}
	if first >= 0 && (s.last < first || s.at[first].file >= 0) {
		s.stop = first + 1
	}
	f.memo[key] = s
	return s
}

// emit notes the first n candidates of a search.
func (f *finder) emit(s *search, n int) {
	for ; s.emitted < n; s.emitted++ {
		f.note(s.at[s.emitted])
	}
}

// note records what one candidate means.
func (f *finder) note(c candidate) {
	switch {
	case c.kind == Missing:
		f.absent[c.missing] = struct{}{}
	case c.kind == Directory:
		f.present[strings.TrimRight(c.path, "/")+"/."] = struct{}{}
	case c.file < 0:
		f.present[c.path] = struct{}{}
	default:
		f.explained[c.file] = true
		if _, listed := f.listed[c.path]; listed {
			return
		}
		if _, known := f.aliases[c.path]; !known {
			f.aliases[c.path] = c.file
			// clang takes the directory of the name used last for a file's own.
			f.push(c.file, dirOf(c.path))
		}
	}
}

// ask notes that a file could have been at a candidate when the compiler
// looked, without being on its list.
func (f *finder) ask(own candidate, s *search) {
	for _, c := range append(s.at[:s.emitted:s.emitted], own) {
		if c.kind == Missing && c.missing != "" {
			f.asked[c.missing] = struct{}{}
		}
	}
}

func (f *finder) push(file int, dir string) {
	key := includerKey{file, dir}
	if _, ok := f.done[key]; !ok {
		f.done[key] = struct{}{}
		f.pending = append(f.pending, includer(key))
	}
}

// embed notes where #embed and __has_embed may find their file. Which
// directories are searched differs between compilers, and not all list what
// they embed, so each counts and the file is an input wherever it is: an empty
// one is told apart too.
func (f *finder) embed(dir string, d Directive) {
	at := []candidate{f.look(d.Name)}
	if !strings.HasPrefix(d.Name, "/") {
		at = append(slices.Clone(f.along(d.Name, false).at), f.look(joinPath(dir, d.Name)))
	}
	for _, c := range at {
		switch {
		case c.kind == Missing:
			f.absent[c.missing] = struct{}{}
			f.asked[c.missing] = struct{}{}
		case c.kind == Regular && c.file < 0:
			f.embedded[c.path] = struct{}{}
		default:
			f.note(c)
		}
	}
}

// resolve notes the lookups of one directive in a file whose directory is dir.
func (f *finder) resolve(dir string, d Directive) {
	if d.Kind == Embed || d.Kind == HasEmbed {
		f.embed(dir, d)
		return
	}
	if strings.HasPrefix(d.Name, "/") {
		c := f.look(d.Name)
		f.note(c)
		if f.unlisted && (d.Kind == HasInclude || d.Kind == HasIncludeNext) {
			f.ask(c, &search{})
		}
		return
	}
	own := candidate{kind: Missing, file: -1}
	if !d.Angle {
		own = f.look(joinPath(dir, d.Name))
		f.note(own)
	}
	next := d.Kind == IncludeNext || d.Kind == HasIncludeNext
	if f.unlisted && (d.Kind == HasInclude || d.Kind == HasIncludeNext) {
		defer func() { f.ask(own, f.along(d.Name, d.Angle && !next)) }()
	}
	// Behind a file that was found beside its includer gcc goes on with the
	// quote directories, even for <…>.
	s := f.along(d.Name, d.Angle && !next)
	switch {
	case d.Kind == HasIncludeNext || d.Kind == IncludeNext && s.last < 0:
		f.emit(s, len(s.at))
	case d.Kind == IncludeNext:
		// From wherever it started, if it was searched at all it was found.
		f.emit(s, s.last+1)
	case own.kind == Regular && own.file >= 0:
		// Found beside the including file; the chain was not searched.
	case own.kind == Regular:
		// As for the first file of the chain: see along.
		f.emit(s, s.last+1)
	default:
		f.emit(s, s.stop)
	}
}
