package compiler

import (
	"math/bits"
	"slices"
	"strings"
)

// stacks holds, for each includer, the directories that may be searched for
// its "…" includes by MSVC's rule: behind its own those of the files that
// included it, inner ones first, and only then the chain. Which of the files
// that may include it did, and in which order, the text does not tell. So all
// their directories are searched, and a name that is found in one of them does
// not end the search: an absence too many costs at worst a miss.
//
// If a name is found so, the compiler still goes along the chain, to warn if
// that would have led elsewhere.
type stacks struct {
	of     map[includerKey]*stack
	number map[string]int // directories, numbered
	dirs   []string
	// missing has, for a name or its first component with the slash behind it,
	// the directories in which it is known to be missing: a project's files
	// ask for the same names from everywhere.
	missing map[string]dirSet
}

// stack is what is known of one includer.
type stack struct {
	above    dirSet // the directories of those that may have included it
	searched dirSet // those that have been searched
	visited  bool   // targets has what own directory and chain lead to
	queued   bool
	open     []Directive // those of "…" that were not found beside the includer
	targets  map[includerKey]struct{}
}

// dirSet is a set of numbered directories.
type dirSet []uint64

func (s dirSet) has(i int) bool { return i/64 < len(s) && s[i/64]&(1<<(i%64)) != 0 }

func (s *dirSet) add(i int) {
	for len(*s) <= i/64 {
		*s = append(*s, 0)
	}
	(*s)[i/64] |= 1 << (i % 64)
}

// union adds the members of o and reports whether there were new ones.
func (s *dirSet) union(o dirSet) (grew bool) {
	for len(*s) < len(o) {
		*s = append(*s, 0)
	}
	for i, w := range o {
		grew = grew || w&^(*s)[i] != 0
		(*s)[i] |= w
	}
	return grew
}

// without calls f for the members that o has not.
func (s dirSet) without(o dirSet, f func(i int)) {
	for i, w := range s {
		if i < len(o) {
			w &^= o[i]
		}
		for ; w != 0; w &= w - 1 {
			f(i*64 + bits.TrailingZeros64(w))
		}
	}
}

func newStacks() *stacks {
	return &stacks{of: make(map[includerKey]*stack), number: make(map[string]int), missing: make(map[string]dirSet)}
}

func (s *stacks) get(k includerKey) *stack {
	st, ok := s.of[k]
	if !ok {
		st = &stack{targets: make(map[includerKey]struct{})}
		s.of[k] = st
	}
	return st
}

// dir numbers a directory.
func (s *stacks) dir(name string) int {
	i, ok := s.number[name]
	if !ok {
		i = len(s.dirs)
		s.number[name] = i
		s.dirs = append(s.dirs, name)
	}
	return i
}

// upTheStack notes the lookups of "…" includes in the directories of the files
// above. Directories are handed down from includer to included until nothing
// new comes of it; each is searched once for each includer. forced are the
// files that options name: above them is the source.
func (f *finder) upTheStack(forced []string) {
	if f.stacks == nil || len(f.files) == 0 {
		return
	}
	mainDir := dirOf(trimDotSlash(f.files[f.main].Path))
	for _, name := range forced {
		if !strings.HasPrefix(name, "/") && f.look(joinPath("", name)).kind != Regular {
			f.note(f.look(joinPath(mainDir, name)))
		}
	}
	f.drain()
	// First in, first out: an includer's turn comes when most of those above
	// it have had theirs.
	var queue []includerKey
	enqueue := func(k includerKey) {
		if st := f.stacks.get(k); !st.queued {
			st.queued = true
			queue = append(queue, k)
		}
	}
	for k := range f.done {
		if k.file != f.main {
			f.stacks.get(k).above.add(f.stacks.dir(mainDir))
		}
		enqueue(k)
	}
	slices.SortFunc(queue, func(a, b includerKey) int { return a.file - b.file })
	for len(queue) > 0 {
		k := queue[0]
		queue = queue[1:]
		st := f.stacks.get(k)
		st.queued = false
		f.searchStack(k, st)
		handed := slices.Clone(st.above)
		handed.add(f.stacks.dir(k.dir))
		for t := range st.targets {
			to := f.stacks.get(t)
			if to.above.union(handed) || !to.visited {
				enqueue(t)
			}
		}
	}
}

// searchStack searches the directories that are new above an includer, the
// first time also its own and the chain, for what they lead to.
func (f *finder) searchStack(k includerKey, st *stack) {
	if !st.visited {
		st.visited = true
		for _, d := range f.files[k.file].Scan.Directives {
			if strings.HasPrefix(d.Name, "/") {
				f.leadsTo(st, f.look(d.Name))
				continue
			}
			if !d.Angle {
				own := f.look(joinPath(k.dir, d.Name))
				f.leadsTo(st, own)
				if own.kind == Regular {
					continue // found, or in skipped code: resolve has noted it
				}
				st.open = append(st.open, d)
			}
			s := f.along(d.Name, d.Angle)
			for _, c := range s.at[:s.stop] {
				f.leadsTo(st, c)
			}
		}
	}
	for _, d := range st.open {
		f.searchAbove(st, d)
	}
	st.searched.union(st.above)
	f.drain()
}

// searchAbove searches the directories above that have not been searched yet.
func (f *finder) searchAbove(st *stack, d Directive) {
	asks := f.unlisted && d.Kind == HasInclude
	component, _, nested := strings.Cut(d.Name, "/")
	component += "/"
	gone, noWay := f.stacks.missing[d.Name], f.stacks.missing[component]
	st.above.without(st.searched, func(i int) {
		if !asks && (gone.has(i) || nested && noWay.has(i)) {
			return
		}
		c := f.look(joinPath(f.stacks.dirs[i], d.Name))
		f.note(c)
		f.leadsTo(st, c)
		if asks {
			f.ask(c, &search{})
		}
		switch {
		case c.kind != Missing:
		case nested && len(c.missing) < len(c.path)-len(d.Name)+len(component):
			noWay.add(i)
		default:
			gone.add(i)
		}
	})
	if len(gone) > 0 {
		f.stacks.missing[d.Name] = gone
	}
	if len(noWay) > 0 {
		f.stacks.missing[component] = noWay
	}
}

// leadsTo notes that an includer may include what a candidate is.
func (f *finder) leadsTo(st *stack, c candidate) {
	if c.file >= 0 {
		st.targets[includerKey{c.file, dirOf(c.path)}] = struct{}{}
	}
}
