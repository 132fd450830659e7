package compiler

import (
	pathpkg "path"
	"slices"
)

// Trace tells how the files of a compile were found, for people: through which
// inclusions, and by which directive. It goes by the same text as FindLookups
// and ignores conditionals as well, so where two files could have included a
// third it may name the wrong one.
type Trace struct {
	files  []File
	index  map[string]int
	parent []int // index of the file that first included each, or -1
	chain  chain
	fs     FileSystem
}

// NewTrace works out who included whom among the files that a compile read, in
// the order of its dependency list.
func NewTrace(inv *Invocation, sp SearchPath, files []File, fs FileSystem) *Trace {
	t := &Trace{
		files: files, index: make(map[string]int, len(files)), parent: make([]int, len(files)),
		chain: newChain(sp, fs), fs: fs,
	}
	for i := range files {
		p := trimDotSlash(files[i].Path)
		if _, dup := t.index[p]; !dup {
			t.index[p] = i
		}
	}
	main := mainFile(inv, files)
	includers := make([][]int, len(files))
	for i := range files {
		t.parent[i] = -1
		for _, d := range files[i].Scan.Directives {
			if d.Kind == HasInclude || d.Kind == HasIncludeNext || d.Kind == HasEmbed {
				continue
			}
			for _, c := range t.candidates(dirOf(trimDotSlash(files[i].Path)), d) {
				to, ok := t.find(c)
				if !ok {
					continue
				}
				if to > i && to > main {
					includers[to] = append(includers[to], i)
				}
				if d.Kind != IncludeNext {
					break // the search ends at the first file that is there
				}
			}
		}
	}
	// The list is in the order of first inclusion: what includes a file first is
	// the file before it in the list, or one that had included that.
	for i := main + 1; i < len(files); i++ {
		for at := i - 1; at >= 0; at = t.parent[at] {
			if slices.Contains(includers[i], at) {
				t.parent[i] = at
				break
			}
		}
		if t.parent[i] < 0 && len(includers[i]) > 0 {
			t.parent[i] = includers[i][0]
		}
	}
	return t
}

// Chain is the chain of inclusions that leads to a file, as the dependency
// list spells it: the source first, the file itself last. It is nil for a file
// that is not in the list; of what an option includes it has that alone.
func (t *Trace) Chain(path string) []string {
	i, ok := t.index[trimDotSlash(path)]
	if !ok {
		return nil
	}
	var chain []string
	for ; i >= 0; i = t.parent[i] {
		chain = append(chain, t.files[i].Path)
	}
	slices.Reverse(chain)
	return chain
}

// Finding is a directive that looks at a path.
type Finding struct {
	// In is the file that the directive stands in.
	In        string
	Directive Directive
	// Next is the file that the search would go on to find if there were
	// nothing at the path, "" for none.
	Next string
}

// Finds returns the directive whose search looks at path, the one that decides
// if there are several; ok is false if there is none.
func (t *Trace) Finds(path string) (f Finding, ok bool) {
	path = trimDotSlash(path)
	includer := -1
	if i, listed := t.index[path]; listed {
		includer = t.parent[i]
	}
	for i := range t.files {
		if ok && i != includer {
			continue // only the one that is known to include it is better
		}
		for _, d := range t.files[i].Scan.Directives {
			all := t.candidates(dirOf(trimDotSlash(t.files[i].Path)), d)
			at := slices.Index(all, path)
			if at < 0 || d.Kind != IncludeNext && t.foundBefore(all[:at]) {
				continue
			}
			f, ok = Finding{In: t.files[i].Path, Directive: d}, true
			for _, c := range all[at+1:] {
				if kind, _ := t.fs.Look(c); kind == Regular && c != path {
					f.Next = c
					break
				}
			}
			break
		}
	}
	return f, ok
}

// foundBefore reports whether a search ends at one of some candidates.
func (t *Trace) foundBefore(candidates []string) bool {
	return slices.ContainsFunc(candidates, func(c string) bool {
		_, read := t.find(c)
		return read
	})
}

// find returns the index of a file of the list. gcc spells files in system
// directories by their real path where that is shorter.
func (t *Trace) find(path string) (int, bool) {
	i, ok := t.index[path]
	if !ok {
		i, ok = t.index[pathpkg.Clean(path)]
	}
	return i, ok
}

// candidates are the paths at which a directive in a file of directory dir
// looks, in order.
func (t *Trace) candidates(dir string, d Directive) []string {
	if len(d.Name) > 0 && d.Name[0] == '/' {
		return []string{d.Name}
	}
	var list []string
	if !d.Angle {
		list = append(list, joinPath(dir, d.Name))
	}
	dirs := t.chain.dirs
	if d.Angle {
		dirs = dirs[t.chain.angle:]
	}
	for _, in := range dirs {
		list = append(list, joinPath(in.path, d.Name))
	}
	return list
}

// String is the directive as a source has it.
func (d Directive) String() string {
	name := `"` + d.Name + `"`
	if d.Angle {
		name = "<" + d.Name + ">"
	}
	switch d.Kind {
	case HasInclude, HasIncludeNext, HasEmbed:
		return d.Kind.String() + "(" + name + ")"
	}
	return d.Kind.String() + " " + name
}
