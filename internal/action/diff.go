package action

import (
	"fmt"
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/digest"
)

// Kinds of Change, the most telling first: a different compiler explains every
// header that differs with it, and a changed header explains what else is
// included now.
const (
	KindCompiler     = "compiler"
	KindFlag         = "flag"
	KindEnvironment  = "environment"
	KindDirectory    = "directory"
	KindNewFile      = "new-file"     // exists now, or is read now
	KindGoneFile     = "gone-file"    // existed, or was read
	KindInput        = "input"        // holds something else
	KindPreprocessed = "preprocessed" // the preprocessed text, where nothing else differs
	KindLookup       = "lookup"       // what was looked for, where nothing else differs
)

// Change is one difference between two actions.
type Change struct {
	// Kind is one of the constants above.
	Kind string `json:"kind"`
	// Name is what differs: a path, an option, a variable.
	Name string `json:"name"`
	// Old and New are what it was and is, "" where it was not or is not:
	// arguments joined by spaces, NAME=value, a directory, the first 16 hex
	// digits of a digest, or "absent" for a file that was looked for in vain.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
}

// absent is the Old or New of a path that is known not to exist.
const absent = "absent"

// String is the change as a line of text.
func (c Change) String() string {
	switch {
	case c.Kind == KindNewFile && c.Old == absent:
		return fmt.Sprintf("%s: %s exists now, and is found first", c.Kind, c.Name)
	case c.Kind == KindNewFile:
		return fmt.Sprintf("%s: %s is read now", c.Kind, c.Name)
	case c.Kind == KindGoneFile && c.New == absent:
		return fmt.Sprintf("%s: %s does not exist any more", c.Kind, c.Name)
	case c.Kind == KindGoneFile:
		return fmt.Sprintf("%s: %s is not read any more", c.Kind, c.Name)
	case c.Kind == KindInput || c.Kind == KindCompiler || c.Kind == KindPreprocessed:
		return fmt.Sprintf("%s: %s changed", c.Kind, c.Name)
	case c.Kind == KindLookup:
		return fmt.Sprintf("%s: other paths are looked for, such as %s", c.Kind, c.Name)
	case c.Old == "":
		return fmt.Sprintf("%s: %s is new", c.Kind, c.New)
	case c.New == "":
		return fmt.Sprintf("%s: %s is gone", c.Kind, c.Old)
	default:
		return fmt.Sprintf("%s: %s is now %s", c.Kind, c.Old, c.New)
	}
}

// Diff lists what differs between two actions, the most telling first. It is
// empty only for actions of one key.
func Diff(old, new *Action) []Change {
	var d []Change
	if old.Toolchain != new.Toolchain {
		d = append(d, Change{KindCompiler, "the compiler", short(old.Toolchain), short(new.Toolchain)})
	}
	d = append(d, diffCommand(old.Command, new.Command)...)
	d = append(d, diffEnv(old.Env, new.Env)...)
	if old.Cwd != new.Cwd {
		d = append(d, Change{KindDirectory, "the working directory", old.Cwd, new.Cwd})
	}
	d = append(d, diffFiles(old, new)...)
	if len(d) > 0 {
		return d
	}
	if old.Preprocessed != new.Preprocessed {
		return []Change{{KindPreprocessed, "the preprocessed text", short(old.Preprocessed.Sum()), short(new.Preprocessed.Sum())}}
	}
	if old.Key() != new.Key() {
		// A hundred directories more in which a header was not found say as
		// much as one.
		return []Change{{Kind: KindLookup, Name: firstLookup(old, new)}}
	}
	return nil
}

func short(k digest.Key) string { return k.String()[:16] }

// diffEnv compares variables by name. Of a name that stands twice the first
// counts, as for getenv.
func diffEnv(old, new []string) []Change {
	index := func(env []string) map[string]string {
		m := make(map[string]string, len(env))
		for _, kv := range env {
			name, _, _ := strings.Cut(kv, "=")
			if _, dup := m[name]; !dup {
				m[name] = kv
			}
		}
		return m
	}
	was, is := index(old), index(new)
	var d []Change
	for name, kv := range was {
		if is[name] != kv {
			d = append(d, Change{KindEnvironment, name, kv, is[name]})
		}
	}
	for name, kv := range is {
		if _, ok := was[name]; !ok {
			d = append(d, Change{KindEnvironment, name, "", kv})
		}
	}
	slices.SortFunc(d, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	return d
}

// known is what an action knows of a path.
type known struct {
	exists bool
	digest digest.Digest // zero where only its existence is known
}

func (k known) String() string {
	switch {
	case !k.exists:
		return absent
	case k.digest.IsZero():
		return "present"
	default:
		return short(k.digest.Sum())
	}
}

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
		switch {
		case !ok && !now.digest.IsZero():
			read = append(read, Change{KindNewFile, path, "", now.String()})
		case !ok || !now.exists:
		case !before.exists:
			appeared = append(appeared, Change{KindNewFile, path, absent, now.String()})
		case !before.digest.IsZero() && !now.digest.IsZero() && before.digest != now.digest:
			changed = append(changed, Change{KindInput, path, before.String(), now.String()})
		}
	}
	for _, path := range paths(old) {
		before := was[path]
		now, ok := is[path]
		switch {
		case !ok && !before.digest.IsZero():
			unread = append(unread, Change{KindGoneFile, path, before.String(), ""})
		case ok && before.exists && !now.exists:
			vanished = append(vanished, Change{KindGoneFile, path, before.String(), absent})
		}
	}
	return slices.Concat(appeared, vanished, changed, read, unread)
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
// not.
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
	return first
}

// maxTable bounds the table of diffCommand, 4 MB. Commands of more than a
// thousand arguments, in the middle of which everything differs, come of
// response files.
const maxTable = 1 << 20

// diffCommand compares two commands as sequences, since the order of options
// means something: runs of arguments that stand in one and not in the other.
func diffCommand(old, new []string) []Change {
	start := 0
	for start < len(old) && start < len(new) && old[start] == new[start] {
		start++
	}
	before := ""
	if start > 0 {
		before = old[start-1]
	}
	old, new = old[start:], new[start:]
	for len(old) > 0 && len(new) > 0 && old[len(old)-1] == new[len(new)-1] {
		old, new = old[:len(old)-1], new[:len(new)-1]
	}
	w := len(new) + 1
	if (len(old)+1)*w > maxTable {
		return flagChanges(nil, before, old, new)
	}
	// common[i*w+j] is how many arguments old[i:] and new[j:] have in common.
	common := make([]int32, (len(old)+1)*w)
	for i := len(old) - 1; i >= 0; i-- {
		for j := len(new) - 1; j >= 0; j-- {
			if old[i] == new[j] {
				common[i*w+j] = common[(i+1)*w+j+1] + 1
			} else {
				common[i*w+j] = max(common[(i+1)*w+j], common[i*w+j+1])
			}
		}
	}
	var d []Change
	for i, j := 0, 0; i < len(old) || j < len(new); {
		i0, j0 := i, j
		for i < len(old) || j < len(new) {
			if i < len(old) && j < len(new) && old[i] == new[j] {
				break
			}
			if j == len(new) || i < len(old) && common[(i+1)*w+j] >= common[i*w+j+1] {
				i++
			} else {
				j++
			}
		}
		d = flagChanges(d, before, old[i0:i], new[j0:j])
		for i < len(old) && j < len(new) && old[i] == new[j] {
			before = old[i]
			i++
			j++
		}
	}
	return d
}

// flagChanges adds the changes of one run: argument by argument where both
// sides have as many, else as one. before is the argument that precedes it.
func flagChanges(d []Change, before string, old, new []string) []Change {
	switch {
	case len(old) == 0 && len(new) == 0:
		return d
	case len(old) == len(new):
		for i := range old {
			d = append(d, Change{KindFlag, flagName(before, old[i], new[i]), old[i], new[i]})
			before = old[i]
		}
		return d
	case len(old) == 0:
		return append(d, Change{KindFlag, flagName(before, new[0], new[0]), "", strings.Join(new, " ")})
	case len(new) == 0:
		return append(d, Change{KindFlag, flagName(before, old[0], old[0]), strings.Join(old, " "), ""})
	default:
		return append(d, Change{KindFlag, flagName(before, old[0], new[0]), strings.Join(old, " "), strings.Join(new, " ")})
	}
}

// flagName is the option that one argument or the other belongs to: what two
// spellings have in common ("-O" of -O2 and -O3, "-DX" of -DX=1 and -DX=2), or
// the option before a value that stands alone.
func flagName(before, old, new string) string {
	if !strings.HasPrefix(old, "-") && !strings.HasPrefix(new, "-") && strings.HasPrefix(before, "-") {
		return before
	}
	n := 0
	for n < len(old) && n < len(new) && old[n] == new[n] && (n == 0 || old[n-1] != '=') {
		n++
	}
	if n < 2 || old[0] != '-' {
		if new == "" {
			new = old
		}
		name, _, _ := strings.Cut(new, "=")
		return name
	}
	return strings.TrimSuffix(old[:n], "=")
}
