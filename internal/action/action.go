// Package action defines what the cache keeps.
//
// An Action is everything that decides what a compile produces: toolchain,
// normalised command, environment, the files that were read and the paths
// that were looked for in vain. A Result is what the compile left. An Entry
// joins the two; it is stored under the action's Key. A Manifest gets from a
// command to an action without running the compiler: for one source and
// command it lists Candidates, the input sets seen so far, each naming an
// action.
//
// Diff tells how two actions differ, in the words of `hpcc explain`. The codecs
// write sealed records (package digest) and check every count, length and
// index of what they read, since files of a cache can be damaged, and those of
// a shared one hostile.
package action

import (
	"cmp"
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

// Pair is two paths.
type Pair struct{ A, B string }

// Action is everything that decides a result. Paths below a project root are
// neutral, so that two checkouts have one action. Paths are bytes, not
// necessarily UTF-8.
type Action struct {
	// Toolchain is the compiler's identity.
	Toolchain digest.Key
	// Command is the normalised command line; its order matters. What decides
	// the result besides, such as the meaning of -march=native, is in it as
	// Marks.
	Command []string
	// Env holds NAME=value of the variables that the compiler reads.
	Env []string
	// Cwd is the working directory where an output holds it, else "".
	Cwd string
	// Inputs are the files read. Their order is the compiler's and means
	// nothing to the key, but Diff follows it.
	Inputs []Input
	// Absent are paths that were looked for and must not exist.
	Absent []string
	// Present are paths whose existence alone was asked for.
	Present []string
	// Chain are the directories of the search path. Those that exist are each
	// a directory of its own, but for what Same says: of two names of one
	// directory a compiler searches one only.
	Chain []string
	// Same are pairs of paths that lead to one file or directory, where that
	// decides.
	Same []Pair
	// Links are symbolic links that were followed: A is the link's own path, B
	// what it holds. Only a Job's actions have any; others count what a link
	// leads to.
	Links []Pair
	// Preprocessed names the preprocessed text, where the key was made from
	// it; else zero.
	Preprocessed digest.Digest
}

// Names of marks.
const (
	MarkNative   = "native"   // what -march=native and its like mean
	MarkMode     = "mode"     // "reproducible"; plain results have none
	MarkRoots    = "roots"    // where the project lies, if the result depends on it
	MarkMessages = "messages" // the streams that what was printed depends on
)

// Mark makes a word for Command that no argument can be, since those hold no
// NUL, and no neutral path, since there a digit follows. name is of letters.
func Mark(name, value string) string { return "\x00" + name + "=" + value }

// ParseMark reads what Mark made.
func ParseMark(word string) (name, value string, ok bool) {
	rest, ok := strings.CutPrefix(word, "\x00")
	if !ok || rest == "" || rest[0] >= '0' && rest[0] <= '9' {
		return "", "", false
	}
	return strings.Cut(rest, "=")
}

// Key names the action: the SHA-256 of its canonical encoding, in which Env,
// Inputs, Absent, Present, Chain, Same and Links are sorted and hold nothing
// twice. Whoever reads a result recomputes it from what they checked. Key does
// not change a.
func (a *Action) Key() digest.Key {
	k := digest.NewKey("action").
		Bytes("toolchain", a.Toolchain[:]).
		Field("command", a.Command...).
		Field("env", sorted(a.Env, cmp.Compare)...).
		Field("cwd", a.Cwd)
	inputs := sorted(a.Inputs, compareInputs)
	fields := make([]string, 0, 2*len(inputs))
	for _, in := range inputs {
		sum := in.Digest.Sum()
		// 32 bytes of sum make the path's field unambiguous; the size follows
		// from the sum.
		fields = append(fields, in.Path, string(sum[:]))
	}
	k.Field("inputs", fields...).
		Field("absent", sorted(a.Absent, cmp.Compare)...).
		Field("present", sorted(a.Present, cmp.Compare)...).
		Field("chain", sorted(a.Chain, cmp.Compare)...).
		Field("same", flat(sorted(a.Same, comparePairs))...)
	if len(a.Links) > 0 {
		k.Field("links", flat(sorted(a.Links, comparePairs))...)
	}
	if !a.Preprocessed.IsZero() {
		k.Field("preprocessed", a.Preprocessed.String())
	}
	return k.Sum()
}

func comparePairs(x, y Pair) int {
	return cmp.Or(cmp.Compare(x.A, y.A), cmp.Compare(x.B, y.B))
}

// flat is a list of pairs as one of paths.
func flat(pairs []Pair) []string {
	paths := make([]string, 0, 2*len(pairs))
	for _, p := range pairs {
		paths = append(paths, p.A, p.B)
	}
	return paths
}

// Compact sorts the lists whose order means nothing and drops what they hold
// twice, which changes nothing of the action.
func (a *Action) Compact() {
	a.Env = sorted(a.Env, cmp.Compare)
	a.Inputs = sorted(a.Inputs, compareInputs)
	a.Absent = sorted(a.Absent, cmp.Compare)
	a.Present = sorted(a.Present, cmp.Compare)
	a.Chain = sorted(a.Chain, cmp.Compare)
	a.Same = sorted(a.Same, comparePairs)
	a.Links = sorted(a.Links, comparePairs)
}

func compareInputs(x, y Input) int {
	if c := cmp.Compare(x.Path, y.Path); c != 0 {
		return c
	}
	xs, ys := x.Digest.Sum(), y.Digest.Sum()
	return slices.Compare(xs[:], ys[:])
}

// sorted returns list in order and without repetitions: list itself where it
// is so already, else a copy.
func sorted[E comparable](list []E, compare func(x, y E) int) []E {
	inOrder := true
	for i := 1; i < len(list) && inOrder; i++ {
		inOrder = compare(list[i-1], list[i]) < 0
	}
	if inOrder {
		return list
	}
	list = slices.Clone(list)
	slices.SortFunc(list, compare)
	return slices.Compact(list)
}

// Output is one file of a result.
type Output struct {
	// Role says which of the declared outputs it is: "object", "assembly",
	// "dwo", "gcno", "su", ….
	Role   string
	Digest digest.Digest
	// Executable files have the execute bits that the umask leaves.
	Executable bool
}

// Dependency is one entry of the dependency list, in the compiler's order.
type Dependency struct {
	Path string
	// System is true for what -MD lists and -MMD does not.
	System bool
}

// Result is what a successful compile left; failing ones are not kept. Its
// texts and paths are neutral, as the action's are.
type Result struct {
	Stdout, Stderr []byte
	Outputs        []Output
	Dependencies   []Dependency
	// CompileTime is the wall time that the compile took.
	CompileTime time.Duration
	// StdioContext is a digest over what the diagnostics depend on (terminal,
	// width, colours); "" where nothing was printed, so that the result serves
	// every stream.
	StdioContext string
}

// Entry is an action with its result.
type Entry struct {
	Action Action
	Result Result
}

// MaxCandidates bounds a manifest. A look-up checks every candidate before it
// is a miss, so that more would cost each miss more than the rare return to an
// input set of 32 changes ago saves.
const MaxCandidates = 32

// Candidate is one input set of a manifest: where all Inputs, Absent, Present,
// Chain, Same and Links hold, Action's result is right.
type Candidate struct {
	Action          digest.Key
	Inputs          []Input
	Absent, Present []string
	Chain           []string
	Same, Links     []Pair
	// StdioContext is the result's.
	StdioContext string
}

// Manifest lists what is known of one source and command.
type Manifest struct {
	// Preprocess says why only the preprocessed text can tell results apart;
	// "" where the candidates do.
	Preprocess string
	// Candidates are at most MaxCandidates, newest first.
	Candidates []Candidate
}

// Add puts c first, drops an older candidate of the same action, and the
// oldest beyond MaxCandidates.
func (m *Manifest) Add(c Candidate) {
	rest := slices.DeleteFunc(m.Candidates, func(old Candidate) bool { return old.Action == c.Action })
	m.Candidates = slices.Insert(rest, 0, c)
	if len(m.Candidates) > MaxCandidates {
		clear(m.Candidates[MaxCandidates:])
		m.Candidates = m.Candidates[:MaxCandidates]
	}
}
