package compiler

import (
	"path"
	"path/filepath"
	"strings"
)

// inclusion is a set of the contexts in which a file may have been included.
type inclusion uint8

const (
	userContext inclusion = 1 << iota
	systemContext
)

// UserDeps tells which files of a full dependency list (-MD) the compiler would
// list with -MMD, in the same order. ok is false where the text alone cannot
// tell; then only a run of the preprocessor can.
//
// Both compilers take a header for the system's if it was found in a system
// directory or included from a system header. gcc decides at a file's first
// inclusion; clang lists a file as soon as the user includes it. The list is in
// the order of first inclusion, so each file's first includer stands before it.
// For each file, all inclusions that some directive before it could have been
// are followed; they must agree on its context.
//
// It looks at the file system only where the names alone do not say how a file
// was found: gcc spells headers of the system by their real path, and mingw's
// are links.
func UserDeps(family Family, sp SearchPath, inv *Invocation, files []File) (user []bool, ok bool) {
	user, ok = userDepsBy(family, sp, inv, files, false)
	if !ok && family == GCC {
		user, ok = userDepsBy(family, sp, inv, files, true)
	}
	return user, ok
}

func userDepsBy(family Family, sp SearchPath, inv *Invocation, files []File, links bool) (user []bool, ok bool) {
	if len(files) == 0 {
		return nil, true
	}
	u := &userDeps{
		links:  links,
		family: family,
		files:  files,
		chain:  userChain(sp),
		index:  make(map[string]int, len(files)),
		last:   make(map[string]int, len(files)),
		before: make([]inclusion, len(files)),
		after:  make([]inclusion, len(files)),
	}
	for i := range files {
		p := trimDotSlash(files[i].Path)
		if _, dup := u.index[p]; !dup {
			u.index[p] = i
		}
		u.last[p] = i
	}
	main := mainFile(inv, files)
	for i := 0; i <= main; i++ {
		// clang lists files that options name before the source, in both kinds
		// of list.
		u.before[i] = userContext
	}
	for _, name := range append(append([]string(nil), inv.Includes.Macros...), inv.Includes.Forced...) {
		u.follow(-1, "", userContext, Directive{Kind: Include, Name: name})
	}
	u.follow(-1, "", userContext, Directive{Kind: Include, Angle: true, Name: predefName})
	return u.walk()
}

type userDeps struct {
	family Family
	links  bool // links to system headers are followed
	files  []File
	chain  chain
	index  map[string]int // path -> its first place in files
	last   map[string]int // path -> its last place: gcc repeats files
	// before and after hold the contexts of inclusions by files that stand
	// before, or not before, the included one.
	before, after []inclusion
}

// userChain is the chain without the user's directories that are system
// directories as well: both compilers search those in the system's place.
func userChain(sp SearchPath) chain {
	system := make(map[string]struct{})
	var c chain
	for _, d := range append(append([]string(nil), sp.System...), sp.After...) {
		system[path.Clean(d)] = struct{}{}
	}
	for _, d := range sp.Quote {
		c.dirs = append(c.dirs, newChainDir(d, false))
	}
	c.angle = len(c.dirs)
	for _, d := range sp.Angle {
		if _, dup := system[path.Clean(d)]; !dup {
			c.dirs = append(c.dirs, newChainDir(d, false))
		}
	}
	for _, d := range append(append([]string(nil), sp.System...), sp.After...) {
		c.dirs = append(c.dirs, newChainDir(d, true))
	}
	return c
}

// walk goes through the list in order: what includes a file first has been
// looked at when the file's turn comes.
func (u *userDeps) walk() (user []bool, ok bool) {
	user = make([]bool, len(u.files))
	searched := make(map[string]inclusion) // by directory: who looked for "…" there
	for i := range u.files {
		p := trimDotSlash(u.files[i].Path)
		if first := u.index[p]; first != i {
			user[i] = user[first]
			continue
		}
		if u.before[i] != userContext && u.before[i] != systemContext {
			return nil, false
		}
		user[i] = u.before[i] == userContext
		s := u.files[i].Scan
		from := u.before[i]
		if s.PragmaSystemHeader {
			from |= systemContext
		}
		if s.LineMarkers {
			from = userContext | systemContext
		}
		dir := dirOf(p)
		for _, d := range s.Directives {
			u.follow(i, dir, from, d)
			if !d.Angle {
				searched[dir] |= from
			}
		}
		asks := s.ComputedHasInclude || s.computesAlias
		if s.ComputedInclude || asks && u.family == Clang {
			u.followComputed(i, dir, from)
		}
		if s.ComputedInclude || asks {
			searched[dir] |= from
		}
	}
	for i, isUser := range user {
		// gcc lists repeated files once for each name, clang as soon as the user
		// includes them: a later inclusion must agree, too.
		repeated := u.last[trimDotSlash(u.files[i].Path)] != i
		if u.family == Clang && !isUser && u.after[i]&userContext != 0 ||
			u.family == GCC && repeated && u.after[i]&^u.before[i] != 0 {
			return nil, false
		}
	}
	if u.family == GCC {
		// gcc keeps one entry for a directory in which "…" is looked for, with
		// the context of whoever looked first.
		for _, c := range searched {
			if c == userContext|systemContext {
				return nil, false
			}
		}
	}
	return user, true
}

// include notes that file from (-1: the command line) may include file to.
func (u *userDeps) include(from, to int, c inclusion) {
	if from < to {
		u.before[to] |= c
	} else {
		u.after[to] |= c
	}
}

// follow notes the inclusions that a literal directive may be.
func (u *userDeps) follow(from int, dir string, c inclusion, d Directive) {
	if d.Kind == HasInclude || d.Kind == HasIncludeNext || d.Kind == HasEmbed {
		if u.family == GCC {
			return // gcc does not list what is only asked for
		}
		if c == systemContext {
			// clang then goes by the directory alone.
			c = userContext | systemContext
		}
	}
	if strings.HasPrefix(d.Name, "/") {
		if to, ok := u.index[d.Name]; ok {
			u.include(from, to, c)
		}
		return
	}
	next := d.Kind == IncludeNext || d.Kind == HasIncludeNext
	if !d.Angle {
		if to, ok := u.index[joinPath(dir, d.Name)]; ok {
			u.include(from, to, c)
			if !next {
				return
			}
		}
	}
	dirs := u.chain.dirs
	if d.Angle && !next { // for next see finder.resolve
		dirs = dirs[u.chain.angle:]
	}
	for _, in := range dirs {
		to, ok := u.find(in, d.Name)
		if !ok {
			continue
		}
		if in.system {
			u.include(from, to, systemContext)
		} else {
			u.include(from, to, c)
		}
		if !next {
			// It is there, so the search ends here if it is made at all.
			return
		}
	}
}

// find returns the listed file that a name leads to in a directory. gcc spells
// files in system directories by their real path where that is shorter.
func (u *userDeps) find(in chainDir, name string) (int, bool) {
	p := joinPath(in.path, name)
	to, ok := u.index[p]
	if !ok && in.system {
		if strings.HasPrefix(name, ".") || strings.Contains(name, "/.") || strings.Contains(name, "//") {
			p = path.Clean(p)
		} else {
			p = joinPath(in.clean, name)
		}
		to, ok = u.index[p]
	}
	if !ok && in.system && u.links && strings.HasPrefix(p, "/") {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			to, ok = u.index[real]
		}
	}
	return to, ok
}

// followComputed notes that a file with a computed include may include any
// other, under each name that leads to it.
func (u *userDeps) followComputed(from int, dir string, c inclusion) {
	for to := range u.files {
		p := trimDotSlash(u.files[to].Path)
		if to == from || u.index[p] != to {
			continue
		}
		if _, ok := below(p, dir); ok {
			u.include(from, to, c)
		}
		for _, in := range u.chain.dirs {
			_, ok := below(p, in.path)
			if !ok && in.system {
				_, ok = below(p, in.clean)
			}
			switch {
			case !ok:
			case in.system:
				u.include(from, to, systemContext)
			default:
				u.include(from, to, c)
			}
		}
	}
}
