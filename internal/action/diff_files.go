package action

import "slices"

func (a *Action) files() map[string]known {
	m := make(map[string]known, len(a.Inputs)+len(a.Absent)+len(a.Present))
	for _, p := range a.Absent {
		m[p] = known{}
	}
	for _, p := range a.Present {
		m[p] = known{exists: true}
	}
	for _, in := range a.Inputs {
		m[in.Path] = known{true, in.Digest}
	}
	return m
}

// diffFiles lists files that appeared where none was found, files that are
// gone, files that changed, and then what follows from those: files that only
// one of the compiles read.
func diffFiles(old, new *Action) []Change {
	was, is := old.files(), new.files()
	var appeared, vanished, changed, read, unread []Change
	for _, path := range paths(new) {
		now := is[path]
		before, ok := was[path]
		c := Change{Kind: KindNewFile, Name: path, New: now.String()}
		switch {
		case !ok && isAbsent(was, path):
			c.Old = Absent
			appeared = append(appeared, c)
		case !ok && !now.digest.IsZero():
			read = append(read, c)
		case !ok || !now.exists:
		case !before.exists:
			c.Old = Absent
			appeared = append(appeared, c)
		case !before.digest.IsZero() && !now.digest.IsZero() && before.digest != now.digest:
			c.Kind, c.Old = KindInput, before.String()
			changed = append(changed, c)
		}
	}
	for _, path := range paths(old) {
		before := was[path]
		now, ok := is[path]
		c := Change{Kind: KindGoneFile, Name: path, Old: before.String()}
		switch {
		case ok && before.exists && !now.exists, !ok && isAbsent(is, path):
			c.New = Absent
			vanished = append(vanished, c)
		case !ok && !before.digest.IsZero():
			unread = append(unread, c)
		}
	}
	return slices.Concat(appeared, vanished, changed, read, unread)
}

// isAbsent reports whether a directory on the way to path is known not to
// exist: of what was looked for below a missing directory only that is kept.
func isAbsent(files map[string]known, path string) bool {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '/' {
			if k, ok := files[path[:i]]; ok && !k.exists {
				return true
			}
		}
	}
	return false
}

// paths lists what an action knows to exist, inputs in their order first, each
// path once.
func paths(a *Action) []string {
	list := make([]string, 0, len(a.Inputs)+len(a.Present))
	seen := make(map[string]bool, cap(list))
	add := func(p string) {
		if !seen[p] {
			seen[p] = true
			list = append(list, p)
		}
	}
	for _, in := range a.Inputs {
		add(in.Path)
	}
	for _, p := range a.Present {
		add(p)
	}
	return list
}

// firstLookup is the least path of which one action knows what the other does
// not, or what else tells their searches apart.
func firstLookup(old, new *Action) string {
	was, is := old.files(), new.files()
	first := ""
	for _, pair := range [2][2]map[string]known{{was, is}, {is, was}} {
		for p, k := range pair[0] {
			if other, ok := pair[1][p]; (!ok || other != k) && (first == "" || p < first) {
				first = p
			}
		}
	}
	if first != "" {
		return first
	}
	// Which directories are searched, or are one.
	for _, pair := range [2][2]*Action{{new, old}, {old, new}} {
		for _, p := range slices.Concat(pair[0].Chain, flat(pair[0].Same)) {
			if !slices.Contains(pair[1].Chain, p) && !slices.Contains(flat(pair[1].Same), p) {
				return p
			}
		}
	}
	return "a second name of a directory"
}
