package daemon

import (
	"context"
	"os"
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/compiler/env"
	"hpcc.dev/hpcc/internal/digest"
)

// tracer words the changes between two compiles as the newer one spells paths.
type tracer struct {
	attempt *Attempt
	place   place
	// trace is nil where the compile cannot be followed any more.
	trace *compiler.Trace
}

// newTracer follows the last compile's inclusions: by the list that it left,
// and the files as they are now.
func newTracer(ctx context.Context, c *cache.Disk, a *Attempt, entry *action.Entry) *tracer {
	t := &tracer{attempt: a, place: a.place()}
	inv, err := compiler.Parse(compiler.Command{
		Compiler: a.Compiler, Args: a.Command, Cwd: a.Cwd, Env: a.Env, ReadFile: readBounded,
	})
	if err != nil {
		return t
	}
	tool, err := compiler.NewDetector(c).Identify(ctx, a.Compiler, a.Compiler, a.Env)
	if err != nil {
		return t
	}
	if inv.Family != tool.Family {
		if inv, err = compiler.ParseAs(tool.Family, compiler.Command{
			Compiler: a.Compiler, Args: a.Command, Cwd: a.Cwd, Env: a.Env, ReadFile: readBounded,
		}); err != nil {
			return t
		}
	}
	sp, err := tool.SearchPath(ctx, inv, a.Cwd, a.Env)
	if err != nil {
		return t
	}
	files := make([]compiler.File, len(entry.Result.Dependencies))
	for i, d := range entry.Result.Dependencies {
		files[i] = compiler.File{Path: t.place.paths.Local(d.Path), Scan: &compiler.FileScan{}}
		if text, err := readBounded(t.place.absolute(files[i].Path)); err == nil {
			files[i].Scan = compiler.Scan(text)
		}
	}
	t.trace = compiler.NewTrace(inv, sp, files, compiler.NewDirCache(a.Cwd))
	return t
}

// maxExplained bounds the files that are read to explain something.
const maxExplained = 64 << 20

func readBounded(name string) ([]byte, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Size() > maxExplained:
		return nil, errIrregular
	}
	return os.ReadFile(name)
}

// describe lists what differs from old to new, each file with the inclusions
// that lead to it.
func (t *tracer) describe(c *cache.Disk, old, new *action.Action, oldRoots, newRoots []string) []ExplainedChange {
	var list []ExplainedChange
	if oldRoots != nil && !slices.Equal(oldRoots, newRoots) {
		list = append(list, ExplainedChange{
			Kind: action.KindRoot, Name: "the project root", Old: strings.Join(oldRoots, ":"), New: strings.Join(newRoots, ":"),
		})
	}
	for _, ch := range action.Diff(old, new) {
		if ch.Kind == action.KindCompiler {
			list = append(list, compilerChanges(c, old.Toolchain, new.Toolchain, ch)...)
			continue
		}
		if ch.Kind == action.KindRoot && len(list) > 0 && list[0].Kind == action.KindRoot {
			continue
		}
		if ch.Kind == action.KindEnvironment && env.Roles(ch.Name)&env.Stdio != 0 {
			ch.Kind = action.KindDiagnostics
			_, ch.Old, _ = strings.Cut(ch.Old, "=")
			_, ch.New, _ = strings.Cut(ch.New, "=")
		}
		ch.Old, ch.New, ch.Name = t.local(ch.Old), t.local(ch.New), t.local(ch.Name)
		t.follow(&ch)
		list = append(list, ch)
	}
	// What messages depend on stands in actions that have some: there is no
	// news in it where only one of the two has.
	isMessages := func(ch ExplainedChange) bool { return ch.Kind == action.KindDiagnostics }
	if hasMessages(old) != hasMessages(new) {
		if rest := slices.DeleteFunc(slices.Clone(list), isMessages); len(rest) > 0 {
			list = rest
		}
	}
	// What a new file hides is not read any more, of course.
	hidden := map[string]bool{}
	for _, ch := range list {
		hidden[ch.Hides] = ch.Hides != ""
	}
	return slices.DeleteFunc(list, func(ch ExplainedChange) bool {
		return ch.Kind == action.KindGoneFile && ch.New == "" && hidden[ch.Name]
	})
}

func hasMessages(a *action.Action) bool {
	return slices.ContainsFunc(a.Command, func(word string) bool {
		name, _, ok := action.ParseMark(word)
		return ok && name == action.MarkMessages
	})
}

// follow adds to a change of a file who looks for it.
func (t *tracer) follow(ch *ExplainedChange) {
	if t.trace == nil {
		return
	}
	switch ch.Kind {
	case action.KindInput, action.KindNewFile:
		ch.Via = t.trace.Chain(ch.Name)
	case action.KindGoneFile:
		if ch.New != action.Absent {
			return
		}
	default:
		return
	}
	if ch.Kind == action.KindInput || ch.Old != action.Absent && ch.New != action.Absent {
		return
	}
	if f, ok := t.trace.Finds(ch.Name); ok {
		ch.Directive, ch.In = f.Directive.String(), f.In
		if ch.Kind == action.KindNewFile && len(ch.Via) > 0 {
			ch.Hides = f.Next
		}
	}
}

// local spells what an action holds as the attempt did.
func (t *tracer) local(s string) string {
	return string(t.place.paths.LocalText([]byte(s)))
}

// compilerChanges says in which of its parts a compiler differs.
func compilerChanges(c *cache.Disk, old, new digest.Key, whole ExplainedChange) []ExplainedChange {
	was, err := compiler.Describe(c, old)
	if err != nil {
		return []ExplainedChange{whole}
	}
	is, err := compiler.Describe(c, new)
	if err != nil {
		return []ExplainedChange{whole}
	}
	var list []ExplainedChange
	for _, d := range is.Differences(was) {
		list = append(list, ExplainedChange{Kind: action.KindCompiler, Name: d.Part, Old: d.Old, New: d.New})
	}
	if len(list) == 0 {
		return []ExplainedChange{whole}
	}
	return list
}
