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
