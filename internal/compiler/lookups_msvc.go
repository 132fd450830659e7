package compiler

import "strings"

// stacks holds, for each includer, the directories that may be searched for
// its "…" includes by MSVC's rule: behind its own those of the files that
// included it, inner ones first, and only then the chain. Which of the files
// that may include it did, and in which order, the text does not tell. So all
// their directories are searched, and a name that is found in one of them does
// not end the search: an absence too many costs at worst a miss.
//
// If a name is found so, the compiler still goes along the chain, to warn if
// that would have led elsewhere.
type stacks map[includerKey]*stack

type stack struct {
	dirs     []string // directories above, without duplicates
	known    map[string]struct{}
	searched int  // of dirs, how many have been searched
	visited  bool // targets has what own directory and chain lead to
	queued   bool
	targets  map[includerKey]struct{}
}

func (s stacks) of(k includerKey) *stack {
	st, ok := s[k]
	if !ok {
		st = &stack{known: make(map[string]struct{}), targets: make(map[includerKey]struct{})}
		s[k] = st
	}
	return st
}

// add puts a directory above the includer and reports whether it is new.
func (st *stack) add(dir string) bool {
	if _, ok := st.known[dir]; ok {
		return false
	}
	st.known[dir] = struct{}{}
	st.dirs = append(st.dirs, dir)
	return true
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
	var queue []includerKey
	enqueue := func(k includerKey) {
		if st := f.stacks.of(k); !st.queued {
			st.queued = true
			queue = append(queue, k)
		}
	}
	for k := range f.done {
		if k.file != f.main {
			f.stacks.of(k).add(mainDir)
		}
		enqueue(k)
	}
	for len(queue) > 0 {
		k := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		st := f.stacks.of(k)
		st.queued = false
		f.searchStack(k, st)
		for t := range st.targets {
			to := f.stacks.of(t)
			grew := !to.visited
			for _, dir := range st.dirs {
				grew = to.add(dir) || grew
			}
			if to.add(k.dir) || grew {
				enqueue(t)
			}
		}
	}
}

// searchStack searches the directories that are new above an includer, the
// first time also its own and the chain, for what they lead to.
func (f *finder) searchStack(k includerKey, st *stack) {
	fresh := st.dirs[st.searched:]
	st.searched = len(st.dirs)
	first := !st.visited
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
			for _, dir := range fresh {
				c := f.look(joinPath(dir, d.Name))
				f.note(c)
				f.leadsTo(st, c)
				if f.unlisted && d.Kind == HasInclude {
					f.ask(c, &search{})
				}
			}
		}
		if !first {
			continue
		}
		s := f.along(d.Name, d.Angle)
		for _, c := range s.at[:s.stop] {
			f.leadsTo(st, c)
		}
	}
	f.drain()
}

// leadsTo notes that an includer may include what a candidate is.
func (f *finder) leadsTo(st *stack, c candidate) {
	if c.file >= 0 {
		st.targets[includerKey{c.file, dirOf(c.path)}] = struct{}{}
	}
}
