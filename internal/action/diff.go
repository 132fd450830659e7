package action

import (
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/digest"
)

// Kinds of Change, the most telling first: a different compiler explains every
// header that differs with it, and a changed header explains what else is
// included now.
const (
	KindCompiler     = "compiler"
	KindNative       = "native" // what -march=native and its like mean
	KindMode         = "mode"   // reproducible or not
	KindRoot         = "root"   // where the project lies
	KindFlag         = "flag"
	KindEnvironment  = "environment"
	KindDirectory    = "directory"
	KindNewFile      = "new-file"     // exists now, or is read now
	KindGoneFile     = "gone-file"    // existed, or was read
	KindInput        = "input"        // holds something else
	KindPreprocessed = "preprocessed" // the preprocessed text, where nothing else differs
	KindLookup       = "lookup"       // what was looked for, where nothing else differs
	KindDiagnostics  = "diagnostics"  // what messages depend on
)

// How a flag differs.
const (
	HowAdded     = "added"
	HowRemoved   = "removed"
	HowChanged   = "changed"
	HowReordered = "reordered"
)

// Change is one difference between two actions. Diff leaves empty what only
// the files and the search path tell, for whoever has those to fill in.
type Change struct {
	// Kind is one of the constants above.
	Kind string `json:"kind"`
	// Name is what differs: a path, an option, a variable, a compiler's part.
	Name string `json:"name"`
	// How is one of the constants above for a flag, else "".
	How string `json:"how,omitempty"`
	// Old and New are what it was and is, "" where it was not or is not:
	// arguments joined by spaces, NAME=value, a directory, the first 16 hex
	// digits of a digest, or "absent" for a file that was looked for in vain.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// Via is the chain of inclusions that leads to a file: the source first,
	// the file last.
	Via []string `json:"via,omitempty"`
	// Directive is what looks for a file ("#include <x.h>"), and In the file
	// that it stands in.
	Directive string `json:"directive,omitempty"`
	In        string `json:"in,omitempty"`
	// Hides is the file that is not found any more because this one is found
	// before it.
	Hides string `json:"hides,omitempty"`
}

// Absent is the Old or New of a path that is known not to exist.
const Absent = "absent"

// String is the change as a line of text. It holds names as they are, control
// characters included.
func (c Change) String() string {
	switch c.Kind {
	case KindNewFile, KindGoneFile, KindInput:
		return c.file() + c.where()
	case KindCompiler:
		return "compiler: " + c.oldNew(c.Name)
	case KindPreprocessed:
		return c.Name + " changed"
	case KindLookup:
		return "other paths are looked for, such as " + c.Name
	case KindFlag:
		switch c.How {
		case HowAdded:
			return "flag " + c.New + " is new"
		case HowRemoved:
			return "flag " + c.Old + " is gone"
		case HowReordered:
			return "flags stand in another order: " + c.Name
		}
		return "flag " + c.Old + " is now " + c.New
	case KindEnvironment:
		switch {
		case c.Old == "":
			return "variable " + c.New + " is set now"
		case c.New == "":
			return "variable " + c.Old + " is not set any more"
		}
		return "variable " + c.Old + " is now " + c.New
	case KindDiagnostics:
		return "messages: " + c.oldNew(c.Name)
	}
	return c.oldNew(c.Name)
}

func (c Change) file() string {
	switch {
	case c.Kind == KindInput:
		return c.Name + " changed"
	case c.Kind == KindNewFile && c.Hides != "":
		return c.Name + " exists now and hides " + c.Hides
	case c.Kind == KindNewFile && c.Old == Absent:
		return c.Name + " exists now where it was looked for in vain"
	case c.Kind == KindNewFile:
		return c.Name + " is read now"
	case c.New == Absent:
		return c.Name + " does not exist any more"
	}
	return c.Name + " is not read any more"
}

// where tells who includes a file.
func (c Change) where() string {
	switch {
	case c.Directive != "" && len(c.Via) > 2:
		return " (" + c.Directive + " in " + c.In + ", " + strings.Join(c.Via, " -> ") + ")"
	case c.Directive != "":
		return " (" + c.Directive + " in " + c.In + ")"
	case len(c.Via) > 1:
		return " (" + strings.Join(c.Via, " -> ") + ")"
	}
	return ""
}

func (c Change) oldNew(what string) string {
	switch {
	case c.Old == "" && c.New == "":
		return what + " changed"
	case c.Old == "":
		return what + " is new: " + c.New
	case c.New == "":
		return what + " is gone: " + c.Old
	}
	return what + " was " + c.Old + " and is now " + c.New
}

// Diff lists what differs between two actions, the most telling first. It is
// empty only for actions of one key.
func Diff(old, new *Action) []Change {
	var d []Change
	if old.Toolchain != new.Toolchain {
		d = append(d, Change{Kind: KindCompiler, Name: "the compiler", Old: short(old.Toolchain), New: short(new.Toolchain)})
	}
	oldCommand, oldMarks := splitMarks(old.Command)
	newCommand, newMarks := splitMarks(new.Command)
	d = append(d, diffMarks(oldMarks, newMarks)...)
	d = append(d, diffCommand(oldCommand, newCommand)...)
	d = append(d, diffEnv(old.Env, new.Env)...)
	if old.Cwd != new.Cwd {
		d = append(d, Change{Kind: KindDirectory, Name: "the working directory", Old: old.Cwd, New: new.Cwd})
	}
	d = append(d, diffFiles(old, new)...)
	if len(d) > 0 {
		return d
	}
	if old.Preprocessed != new.Preprocessed {
		return []Change{{Kind: KindPreprocessed, Name: "the preprocessed text", Old: short(old.Preprocessed.Sum()), New: short(new.Preprocessed.Sum())}}
	}
	if old.Key() != new.Key() {
		// A hundred directories more in which a header was not found say as
		// much as one.
		return []Change{{Kind: KindLookup, Name: firstLookup(old, new)}}
	}
	return nil
}

// splitMarks tells the arguments of a command from the marks in it.
func splitMarks(command []string) (args, marks []string) {
	for _, word := range command {
		if _, _, ok := ParseMark(word); ok {
			marks = append(marks, word)
		} else {
			args = append(args, word)
		}
	}
	return args, marks
}

// diffMarks compares marks as a set; nobody writes one twice.
func diffMarks(old, new []string) []Change {
	if slices.Equal(old, new) {
		return nil
	}
	was, is := map[string]string{}, map[string]string{}
	var names []string
	for i, marks := range [2][]string{old, new} {
		for _, m := range marks {
			name, value, _ := ParseMark(m)
			[2]map[string]string{was, is}[i][name] = value
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var d []Change
	for _, name := range slices.Compact(names) {
		if was[name] == is[name] {
			continue
		}
		c := Change{Kind: name, Name: name, Old: was[name], New: is[name]}
		switch name {
		case MarkMessages:
			c.Kind, c.Name = KindDiagnostics, "where they go"
		case MarkRoots:
			c.Kind, c.Name = KindRoot, "the project root"
		case MarkNative:
			c.Kind, c.Name = KindNative, "what native means"
		case MarkMode:
			c.Kind, c.Name = KindMode, "the mode of builds"
			if c.Old == "" {
				c.Old = "plain"
			}
			if c.New == "" {
				c.New = "plain"
			}
		}
		d = append(d, c)
	}
	if len(d) == 0 {
		// The same in another order, or twice: the keys differ all the same.
		d = append(d, Change{Kind: KindFlag, Name: names[0], How: HowReordered})
	}
	return d
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
			d = append(d, Change{Kind: KindEnvironment, Name: name, Old: kv, New: is[name]})
		}
	}
	for name, kv := range is {
		if _, ok := was[name]; !ok {
			d = append(d, Change{Kind: KindEnvironment, Name: name, New: kv})
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
		return Absent
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
	var runs []flagRun
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
		if i > i0 || j > j0 {
			runs = append(runs, flagRun{before, old[i0:i], new[j0:j]})
		}
		for i < len(old) && j < len(new) && old[i] == new[j] {
			before = old[i]
			i++
			j++
		}
	}
	d := takeMoved(runs, old, new)
	for _, r := range runs {
		d = flagChanges(d, r.before, r.old, r.new)
	}
	return d
}

// flagRun is a run of arguments that stand in one command in the place of
// those in the other. before is the argument that precedes it.
type flagRun struct {
	before   string
	old, new []string
}

// takeMoved takes out of runs the arguments that went at one place and came at
// another, and returns the change that they are. old and new are the part of
// the commands that differs.
func takeMoved(runs []flagRun, old, new []string) []Change {
	went, came := map[string]int{}, map[string]int{}
	for _, r := range runs {
		for _, a := range r.old {
			went[a]++
		}
		for _, a := range r.new {
			came[a]++
		}
	}
	// How many of each are still to be taken out, on either side.
	out, in := map[string]int{}, map[string]int{}
	for a, n := range went {
		out[a] = min(n, came[a])
		in[a] = out[a]
	}
	var moved []string
	take := func(args []string, left map[string]int, taken func(string)) []string {
		// A copy: the runs share memory with the commands.
		return slices.DeleteFunc(slices.Clone(args), func(a string) bool {
			if left[a] == 0 {
				return false
			}
			left[a]--
			taken(a)
			return true
		})
	}
	for i := range runs {
		r := &runs[i]
		r.old = take(r.old, out, func(a string) { moved = append(moved, a) })
		r.new = take(r.new, in, func(string) {})
	}
	if len(moved) == 0 {
		return nil
	}
	return []Change{{
		Kind: KindFlag, Name: strings.Join(moved, " "), How: HowReordered,
		Old: strings.Join(old, " "), New: strings.Join(new, " "),
	}}
}

// flagChanges adds the changes of one run: argument by argument where both
// sides have as many, else as one.
func flagChanges(d []Change, before string, old, new []string) []Change {
	c := Change{Kind: KindFlag, Old: strings.Join(old, " "), New: strings.Join(new, " ")}
	switch {
	case len(old) == 0 && len(new) == 0:
		return d
	case len(old) == len(new):
		for i := range old {
			d = append(d, Change{Kind: KindFlag, Name: flagName(before, old[i], new[i]), How: HowChanged, Old: old[i], New: new[i]})
			before = old[i]
		}
		return d
	case len(old) == 0:
		c.Name, c.How = flagName(before, new[0], new[0]), HowAdded
	case len(new) == 0:
		c.Name, c.How = flagName(before, old[0], old[0]), HowRemoved
	default:
		c.Name, c.How = flagName(before, old[0], new[0]), HowChanged
	}
	return append(d, c)
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
