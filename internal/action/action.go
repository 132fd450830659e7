// Package action defines what the cache keeps.
//
// An Action is everything that decides what a compile produces: toolchain,
// normalised command, environment, the files that were read and the paths
// that were looked for in vain. A Result is what it produced. A Manifest
// lists, for one source and command, the input sets seen so far, each naming
// an action: it is how a look-up gets from a command to an action without
// running the compiler.
package action

import (
	"slices"
	"strings"
	"time"

	"hpcc.dev/hpcc/internal/digest"
)

// Input is a path that the compile read, with what it held.
type Input struct {
	Path   string
	Digest digest.Digest
}

// Action is everything that decides a result. Paths below a project root are
// neutral (see compiler.PathMap).
type Action struct {
	Toolchain digest.Key
	// Command is the normalised command line, in order.
	Command []string
	// Env holds NAME=value of the variables that the compiler reads.
	Env []string
	// Cwd is the working directory where an output holds it, else "".
	Cwd    string
	Inputs []Input
	// Absent are paths that were looked for and must not exist.
	Absent []string
	// Present are paths whose existence alone was asked for.
	Present []string
	// Preprocessed is the digest of the preprocessed text, where the key
	// was made from it.
	Preprocessed digest.Digest
}

// Normalise sorts the lists whose order carries no meaning and drops what
// stands in them twice. Key and EncodeEntry call it.
func (a *Action) Normalise() {
	slices.SortFunc(a.Inputs, func(x, y Input) int { return strings.Compare(x.Path, y.Path) })
	a.Inputs = slices.Compact(a.Inputs)
	for _, list := range []*[]string{&a.Env, &a.Absent, &a.Present} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
}

// Key names the action. Whoever reads a result recomputes it from what they
// checked.
func (a *Action) Key() digest.Key {
	a.Normalise()
	k := digest.NewKey("action").
		Bytes("toolchain", a.Toolchain[:]).
		Field("command", a.Command...).
		Field("env", a.Env...).
		Field("cwd", a.Cwd).
		Field("absent", a.Absent...).
		Field("present", a.Present...)
	if !a.Preprocessed.IsZero() {
		k.Field("preprocessed", a.Preprocessed.String())
	}
	for _, in := range a.Inputs {
		k.Field("input", in.Path, in.Digest.String())
	}
	return k.Sum()
}

// Output is one file of a result.
type Output struct {
	// Role is compiler.Output's: "object", "dwo", ….
	Role       string
	Digest     digest.Digest
	Executable bool
}

// Dependency is one entry of the dependency list, in the compiler's order.
type Dependency struct {
	Path string
	// System is true for what -MD lists and -MMD does not.
	System bool
}

// Result is what a successful compile left; failing ones are not kept.
type Result struct {
	Stdout, Stderr []byte
	Outputs        []Output
	Dependencies   []Dependency
	// CompileTime is the wall time that the compile took.
	CompileTime time.Duration
	// StdioContext is a digest over what the diagnostics depend on, or ""
	// where nothing was printed.
	StdioContext string
}

// Entry is an action with its result: one file of the action cache.
type Entry struct {
	Action Action
	Result Result
}

// MaxCandidates bounds a manifest. Thirty-two input sets of one command are
// more than any branch-hopping developer has been seen to need; the oldest
// goes first.
const MaxCandidates = 32

// Candidate is one input set of a manifest.
type Candidate struct {
	Action          digest.Key
	Inputs          []Input
	Absent, Present []string
	StdioContext    string
}

// Manifest lists candidates, newest first.
type Manifest struct {
	// Preprocess says why only the preprocessed text can tell results apart;
	// "" where the candidates do.
	Preprocess string
	Candidates []Candidate
}
