package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
)

// Inspection is what the cache has under one key. Its JSON is what `hpcc
// inspect --json` prints. Texts are valid UTF-8: other bytes stand as \xNN.
// Paths below a project root begin with ${root}, those below further ones with
// ${root1}, ….
type Inspection struct {
	// Kind is "entry", "manifest", "quarantined", "blob", "toolchain" or
	// "quarantine", and says which of the fields below is the first one set.
	Kind string `json:"kind"`
	Key  string `json:"key,omitempty"`

	Entry     *InspectedEntry     `json:"entry,omitempty"`
	Manifest  *InspectedManifest  `json:"manifest,omitempty"`
	Blob      *InspectedBlob      `json:"blob,omitempty"`
	Toolchain *InspectedToolchain `json:"toolchain,omitempty"`
	// Quarantined is the report of the verification that found an entry wrong.
	// The entry in Entry is then that one, or one that was stored since.
	Quarantined *Quarantined `json:"quarantined,omitempty"`
	// Quarantine lists the keys of all of them, newest first.
	Quarantine []string `json:"quarantine,omitempty"`
}

// InspectedEntry is an action with its result.
type InspectedEntry struct {
	// KeyHolds is true where the action's key, made anew, is the entry's.
	KeyHolds  bool               `json:"key_holds"`
	Toolchain InspectedToolchain `json:"toolchain"`
	// Command is the normalised command, and Marks what decides the result
	// besides ("mode=reproducible").
	Command []string         `json:"command"`
	Marks   []string         `json:"marks,omitempty"`
	Env     []string         `json:"env"`
	Cwd     string           `json:"cwd,omitempty"`
	Inputs  []InspectedInput `json:"inputs"`
	Absent  []string         `json:"absent"`
	Present []string         `json:"present"`
	// Chain is the search path, and Same pairs of names for one file.
	Chain        []string        `json:"chain,omitempty"`
	Same         [][2]string     `json:"same,omitempty"`
	Preprocessed string          `json:"preprocessed,omitempty"`
	Result       InspectedResult `json:"result"`
}

// InspectedResult is what a compile left. Only those are kept that succeeded.
type InspectedResult struct {
	ExitCode     int               `json:"exit_code"`
	Outputs      []InspectedOutput `json:"outputs"`
	Stdout       string            `json:"stdout,omitempty"`
	Stderr       string            `json:"stderr,omitempty"`
	StdioContext string            `json:"stdio_context,omitempty"`
	Dependencies []InspectedDep    `json:"dependencies"`
	// CompileSeconds is the wall time of the compile.
	CompileSeconds float64 `json:"compile_seconds"`
}

// InspectedInput is a file that was read.
type InspectedInput struct {
	Path   string `json:"path"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// InspectedOutput is a file that was made. Held is false where its bytes are
// not in the cache any more.
type InspectedOutput struct {
	Role       string `json:"role"`
	Digest     string `json:"digest"`
	Size       int64  `json:"size"`
	Executable bool   `json:"executable,omitempty"`
	Held       bool   `json:"held"`
}

// InspectedDep is an entry of the dependency list.
type InspectedDep struct {
	Path   string `json:"path"`
	System bool   `json:"system,omitempty"`
}

// InspectedManifest lists what is known for one source and command.
type InspectedManifest struct {
	Preprocess string               `json:"preprocess,omitempty"`
	Candidates []InspectedCandidate `json:"candidates"`
}

// InspectedCandidate is one set of inputs. Held is false where its entry is
// not in the cache any more.
type InspectedCandidate struct {
	Action       string           `json:"action"`
	Held         bool             `json:"held"`
	StdioContext string           `json:"stdio_context,omitempty"`
	Inputs       []InspectedInput `json:"inputs"`
	Absent       int              `json:"absent"`
	Present      int              `json:"present"`
}

// InspectedBlob is some output's bytes.
type InspectedBlob struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// InspectedToolchain is a compiler's identity.
type InspectedToolchain struct {
	Identity string `json:"identity"`
	// Text is the compiler in words, "" where nothing is recorded of it.
	Text  string              `json:"text,omitempty"`
	Facts []compiler.Fact     `json:"facts,omitempty"`
	Parts []InspectedToolPart `json:"parts,omitempty"`
}

// InspectedToolPart is one file of a compiler.
type InspectedToolPart struct {
	Name   string `json:"name"`
	Path   string `json:"path"`
	Digest string `json:"digest"`
}

// Inspect shows what the cache has under a key, a digest or an unambiguous
// prefix of one; "quarantine" lists what is in quarantine. The errors are
// cache.ErrNotFound, *AmbiguousError and the file system's.
func Inspect(c *cache.Disk, key string) (*Inspection, error) {
	if key == "quarantine" {
		x := &Inspection{Kind: key, Quarantine: []string{}}
		for _, k := range c.QuarantinedKeys() {
			x.Quarantine = append(x.Quarantine, k.String())
		}
		return x, nil
	}
	name, err := resolve(c, key)
	if err != nil {
		return nil, err
	}
	x := &Inspection{Key: name}
	if sum, size, ok := strings.Cut(name, "-"); ok {
		n, _ := strconv.ParseInt(size, 10, 64)
		x.Kind, x.Blob = "blob", &InspectedBlob{sum, n}
		return x, nil
	}
	k, err := digest.ParseKey(name)
	if err != nil {
		return nil, err
	}
	kind := func(name string) {
		if x.Kind == "" {
			x.Kind = name
		}
	}
	if e, err := c.Entry(k); err == nil {
		kind("entry")
		x.Entry = inspectEntry(c, k, e)
	}
	if m, _, err := c.Manifest(k); err == nil {
		kind("manifest")
		x.Manifest = inspectManifest(c, m)
	}
	if report, e, err := c.Quarantined(k); err == nil {
		kind("quarantined")
		q := &Quarantined{}
		if json.Unmarshal(report, q) == nil {
			x.Quarantined = q
		}
		if x.Entry == nil && e != nil {
			x.Entry = inspectEntry(c, k, e)
		}
	}
	if t := inspectToolchain(c, k); t.Text != "" {
		kind("toolchain")
		x.Toolchain = &t
	}
	if x.Kind == "" {
		return nil, cache.ErrNotFound
	}
	return x, nil
}

func inspectEntry(c *cache.Disk, key digest.Key, e *action.Entry) *InspectedEntry {
	a, r := &e.Action, &e.Result
	x := &InspectedEntry{
		KeyHolds: a.Key() == key, Toolchain: inspectToolchain(c, a.Toolchain),
		Command: []string{}, Env: shownAll(a.Env), Cwd: shown(a.Cwd),
		Inputs: inspectInputs(a.Inputs), Absent: shownAll(a.Absent), Present: shownAll(a.Present),
		Result: InspectedResult{
			Outputs: []InspectedOutput{}, Dependencies: []InspectedDep{},
			Stdout: shown(string(r.Stdout)), Stderr: shown(string(r.Stderr)), StdioContext: shown(r.StdioContext),
			CompileSeconds: r.CompileTime.Round(time.Microsecond).Seconds(),
		},
	}
	for _, word := range a.Command {
		if name, value, ok := action.ParseMark(word); ok {
			x.Marks = append(x.Marks, shown(name+"="+value))
		} else {
			x.Command = append(x.Command, shown(word))
		}
	}
	x.Chain = shownAll(a.Chain)
	for _, p := range a.Same {
		x.Same = append(x.Same, [2]string{shown(p.A), shown(p.B)})
	}
	if !a.Preprocessed.IsZero() {
		x.Preprocessed = a.Preprocessed.String()
	}
	for _, o := range r.Outputs {
		held, err := c.Find(cache.KindBlob, o.Digest.Hex(), 1)
		x.Result.Outputs = append(x.Result.Outputs, InspectedOutput{
			Role: shown(o.Role), Digest: o.Digest.Hex(), Size: o.Digest.Size(), Executable: o.Executable,
			Held: err == nil && len(held) > 0,
		})
	}
	for _, d := range r.Dependencies {
		x.Result.Dependencies = append(x.Result.Dependencies, InspectedDep{shown(d.Path), d.System})
	}
	return x
}

func inspectInputs(inputs []action.Input) []InspectedInput {
	list := make([]InspectedInput, len(inputs))
	for i, in := range inputs {
		list[i] = InspectedInput{shown(in.Path), in.Digest.Hex(), in.Digest.Size()}
	}
	return list
}

func inspectManifest(c *cache.Disk, m *action.Manifest) *InspectedManifest {
	x := &InspectedManifest{Preprocess: shown(m.Preprocess), Candidates: []InspectedCandidate{}}
	for i := range m.Candidates {
		cand := &m.Candidates[i]
		_, err := c.Result(cand.Action)
		x.Candidates = append(x.Candidates, InspectedCandidate{
			Action: cand.Action.String(), Held: err == nil, StdioContext: shown(cand.StdioContext),
			Inputs: inspectInputs(cand.Inputs), Absent: len(cand.Absent), Present: len(cand.Present),
		})
	}
	return x
}

func inspectToolchain(c *cache.Disk, identity digest.Key) InspectedToolchain {
	t := InspectedToolchain{Identity: identity.String()}
	d, err := compiler.Describe(c, identity)
	if err != nil {
		return t
	}
	t.Text = shown(d.String())
	for _, f := range d.Facts {
		t.Facts = append(t.Facts, compiler.Fact{Label: shown(f.Label), Values: shownAll(f.Values)})
	}
	for _, p := range d.Parts {
		t.Parts = append(t.Parts, InspectedToolPart{shown(p.Name), shown(p.Path), p.Digest.Hex()})
	}
	return t
}

// shownRoots write neutral paths for people.
var shownRoots = func() *compiler.PathMap {
	m := &compiler.PathMap{}
	for i := range compiler.MaxRoots {
		name := "${root}"
		if i > 0 {
			name = "${root" + strconv.Itoa(i) + "}"
		}
		m.Roots = append(m.Roots, compiler.Root{Dir: name})
	}
	return m
}()

// shown makes valid UTF-8 of what the cache holds.
func shown(s string) string {
	s = string(shownRoots.LocalText([]byte(s)))
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, s[i])
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

func shownAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = shown(s)
	}
	return out
}

// madeBy marks the role of an output that a verifying compile made.
const madeBy = "made/"

// InspectBlob returns the bytes of an output of the entry under a key: its role,
// "stdout" or "stderr", and with "made/" before it what the compile made that
// found a quarantined entry wrong. Without a role, key is the blob's digest.
func InspectBlob(c *cache.Disk, key, role string) ([]byte, error) {
	name, err := resolve(c, key)
	if err != nil {
		return nil, err
	}
	if sum, size, ok := strings.Cut(name, "-"); ok {
		d, err := digest.Parse(sum + "/" + size)
		if err != nil {
			return nil, err
		}
		return c.Blob(d)
	}
	k, err := digest.ParseKey(name)
	if err != nil {
		return nil, err
	}
	report, quarantined, qErr := c.Quarantined(k)
	if made, ok := strings.CutPrefix(role, madeBy); ok {
		var q Quarantined
		if qErr != nil || json.Unmarshal(report, &q) != nil {
			return nil, fmt.Errorf("%s is not in quarantine: %w", name, cache.ErrNotFound)
		}
		for _, o := range q.Made {
			if o.Role == made {
				d, err := digest.Parse(o.Digest + "/" + strconv.FormatInt(o.Size, 10))
				if err != nil {
					return nil, err
				}
				return c.Blob(d)
			}
		}
		return nil, fmt.Errorf("the compile made no %s: %w", made, cache.ErrNotFound)
	}
	e, err := c.Entry(k)
	if err != nil && quarantined != nil {
		e, err = quarantined, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s is no entry: %w", name, err)
	}
	switch role {
	case "":
		return nil, errors.New("the key of an entry: say which of its outputs")
	case "stdout":
		return e.Result.Stdout, nil
	case "stderr":
		return e.Result.Stderr, nil
	}
	var roles []string
	for _, o := range e.Result.Outputs {
		if o.Role == role {
			return c.Blob(o.Digest)
		}
		roles = append(roles, o.Role)
	}
	return nil, fmt.Errorf("no output %q, but %s: %w", role, strings.Join(roles, ", "), cache.ErrNotFound)
}
