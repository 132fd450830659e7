package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/digest"
)

// Explanation says what became of the last compile of one source file, and
// why. Its JSON is what `hpcc explain --json` prints.
type Explanation struct {
	// File is the source file, absolute.
	File string `json:"file"`
	// Output is what the compile made of it, absolute.
	Output string `json:"output,omitempty"`
	// Time is when it was compiled.
	Time time.Time `json:"time"`
	// Command is the compiler call, argv[0] first, and Cwd its working
	// directory.
	Command []string `json:"command"`
	Cwd     string   `json:"cwd"`
	// Outcome is "hit", "hit-preprocessed", "hit-remote", "miss", "failed" or
	// "uncacheable".
	Outcome string `json:"outcome"`
	// Tier is the shared cache that had the result of a "hit-remote"; "" for a
	// worker's.
	Tier string `json:"tier,omitempty"`
	// Reason is why a unit is not cacheable, and Detail the option, variable or
	// file that decided.
	Reason string `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Next says what can be done about it, or "".
	Next string `json:"next,omitempty"`
	// Action is the action key in hex, "" if the unit is uncacheable, and
	// Manifest the key of the manifest that names it.
	Action   string `json:"action,omitempty"`
	Manifest string `json:"manifest,omitempty"`
	// Differs is the first path that kept a stored result from being a hit.
	Differs string `json:"differs,omitempty"`
	// Against names what a miss was compared with: "the compile before", or
	// "the nearest entry". It is "" where there was nothing to compare with.
	// AgainstAction is its action key.
	Against       string `json:"against,omitempty"`
	AgainstAction string `json:"against_action,omitempty"`
	// Note says what the changes do not, or "".
	Note string `json:"note,omitempty"`
	// Changes are what made it a miss, most telling first.
	Changes []ExplainedChange `json:"changes,omitempty"`
}

// ExplainedChange is one difference between two compiles. Its paths are as the
// compile spells them, relative ones relative to its working directory.
type ExplainedChange = action.Change

// What an Explanation is made against.
const (
	againstBefore  = "the compile before"
	againstNearest = "the nearest entry"
)

// ErrNoHistory says that no compile of a file was seen.
var ErrNoHistory = errors.New("no compile of this file was seen")

// Explain compares the last compile of a source file, or of the source of an
// object, with the compile of it before, or with the entry that is nearest to
// it. path is absolute. It reads the cache, the files of the compile as they
// are now, and may ask the compiler for its search path.
func Explain(ctx context.Context, c *cache.Disk, path string) (*Explanation, error) {
	rec, last := findAttempt(c, filepath.Clean(path))
	if rec == nil {
		return nil, ErrNoHistory
	}
	x := &Explanation{
		File: rec.Source, Time: last.Time, Command: last.Command, Cwd: last.Cwd, Outcome: last.Outcome,
		Reason: string(last.Reason), Detail: last.Detail, Differs: last.Differs, Tier: last.Tier,
		Action: last.Action, Manifest: last.Manifest,
	}
	if last.Output != "" {
		x.Output = filepath.Clean(last.place().absolute(last.Output))
	}
	if last.Reason != "" {
		x.Next = nextStep(last.Reason)
	}
	if last.Outcome != miss.String() {
		return x, nil
	}
	now, err := storedEntry(c, last.Action)
	if err != nil {
		x.Note = "its result is not in the cache any more"
		return x, nil //nolint:nilerr // that is the explanation
	}
	compare(ctx, c, x, rec, last, now)
	return x, nil
}

// findAttempt returns the record and the newest attempt of a source or of an
// output.
func findAttempt(c *cache.Disk, path string) (*sourceRecord, *Attempt) {
	names := []string{path}
	if real, err := filepath.EvalSymlinks(path); err == nil && real != path {
		names = append(names, real)
	}
	for _, n := range names {
		if rec, err := readHistory(c, n); err == nil && len(rec.Attempts) > 0 {
			return rec, &rec.Attempts[0]
		}
	}
	// The source by another name of its directory, or an output: there is no
	// index of those, since each compile would pay for it.
	info, _ := os.Stat(path)
	var found *sourceRecord
	var at int
	c.EachMemo("explain", func(b []byte) bool {
		rec := &sourceRecord{}
		if json.Unmarshal(b, rec) != nil || len(rec.Attempts) == 0 || !filepath.IsAbs(rec.Source) {
			return true
		}
		if filepath.Base(rec.Source) == filepath.Base(path) && info != nil {
			if other, err := os.Stat(rec.Source); err == nil && os.SameFile(info, other) {
				found, at = rec, 0
				return false
			}
		}
		for i := range rec.Attempts {
			a := &rec.Attempts[i]
			if slices.Contains(names, filepath.Clean(a.place().absolute(a.Output))) &&
				(found == nil || a.Time.After(found.Attempts[at].Time)) {
				found, at = rec, i
				break
			}
		}
		return true
	})
	if found == nil {
		return nil, nil
	}
	// Those after it are of other outputs.
	found.Attempts = found.Attempts[at:]
	return found, &found.Attempts[0]
}

// place is where the attempt was made.
func (a *Attempt) place() place {
	p := place{cwd: a.Cwd}
	if len(a.Roots) > 0 {
		p.paths = pathMapOf(a.Roots)
	}
	return p
}

// compare fills in what last, whose entry is now, is compared with and how the
// two differ.
func compare(ctx context.Context, c *cache.Disk, x *Explanation, rec *sourceRecord, last *Attempt, now *action.Entry) {
	older := rec.Attempts[1:]
	for i := range older {
		if older[i].Action != last.Action {
			continue
		}
		x.Against, x.AgainstAction = againstBefore, last.Action
		x.Note = "the same compile was in the cache before: its result was evicted, removed or damaged since"
		x.Next = "see hpcc stats for the size of the cache and its limit"
		return
	}
	before, against := nearest(c, older, last, now)
	if before == nil {
		// Another checkout's compile of the same source, as far as its path
		// below the root tells.
		if neutral := last.place().paths.Neutral(rec.Source); neutral != rec.Source {
			if shared, err := readHistory(c, neutral); err == nil {
				before, _ = nearest(c, shared.Attempts, last, now)
			}
		}
		against = againstNearest
	}
	if before == nil {
		before = nearestCandidate(c, last, now)
	}
	if before == nil {
		x.Note = "nothing like it is in the cache"
		return
	}
	x.Against, x.AgainstAction = against, before.key.String()
	t := newTracer(ctx, c, last, now)
	x.Changes = t.describe(c, &before.entry.Action, &now.Action, before.roots, last.Roots)
}

// stored is an entry of the cache under its key. roots are those of the
// attempt that it is known from, nil for none.
type stored struct {
	key   digest.Key
	entry *action.Entry
	roots []string
}

// nearest returns the entry of an older compile that differs least from now,
// the newer one of equals. Where the last compile before it, of the same
// command, left an entry, it is that one: what was changed since is what its
// user did.
func nearest(c *cache.Disk, older []Attempt, last *Attempt, now *action.Entry) (best *stored, against string) {
	var before *stored
	seen := map[string]bool{"": true, last.Action: true}
	fewest := 0
	for i := range older {
		a := &older[i]
		if seen[a.Action] {
			continue
		}
		seen[a.Action] = true
		entry, err := storedEntry(c, a.Action)
		if err != nil {
			continue
		}
		key, _ := digest.ParseKey(a.Action)
		s := &stored{key, entry, a.Roots}
		if before == nil {
			before = s
			if a.Manifest == last.Manifest {
				return s, againstBefore
			}
		}
		if n := distance(action.Diff(&entry.Action, &now.Action)); best == nil || n < fewest {
			best, fewest = s, n
		}
	}
	if best != nil && best == before {
		return best, againstBefore
	}
	return best, againstNearest
}

// nearestCandidate returns the entry that differs least among those of the
// last compile's own manifest, where the source has no history. Without a
// root, other directories' sources of the same name share it.
func nearestCandidate(c *cache.Disk, last *Attempt, now *action.Entry) (best *stored) {
	key, err := digest.ParseKey(last.Manifest)
	if err != nil {
		return nil
	}
	m, _, err := c.Manifest(key)
	if err != nil {
		return nil
	}
	fewest := 0
	for i := range m.Candidates {
		k := m.Candidates[i].Action
		if k.String() == last.Action {
			continue
		}
		if entry, err := c.Entry(k); err == nil {
			if n := distance(action.Diff(&entry.Action, &now.Action)); best == nil || n < fewest {
				best, fewest = &stored{k, entry, nil}, n
			}
		}
	}
	return best
}

// distance is how much a list of changes is: what a change of the compiler or
// of a flag entails weighs less than that itself.
func distance(changes []action.Change) int {
	n := 0
	for _, c := range changes {
		switch c.Kind {
		case action.KindCompiler, action.KindMode:
			n += 8
		case action.KindFlag, action.KindEnvironment, action.KindDirectory, action.KindNative:
			n += 4
		default:
			n++
		}
	}
	return n
}

func storedEntry(c *cache.Disk, key string) (*action.Entry, error) {
	k, err := digest.ParseKey(key)
	if err != nil {
		return nil, err
	}
	return c.Entry(k)
}
