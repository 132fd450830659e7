package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/remote"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// Quarantined is the report on an entry that verification found wrong. Its
// JSON is kept with the entry, and printed by `hpcc inspect --json`.
type Quarantined struct {
	Time    time.Time `json:"time"`
	Source  string    `json:"source"`
	Cwd     string    `json:"cwd"`
	Command []string  `json:"command"`
	// Action is the key of the entry, and Manifest that of the manifest that
	// named it.
	Action   string `json:"action"`
	Manifest string `json:"manifest"`
	// Compiled is the action key of the compile that was to confirm it: another
	// one means that the manifest led to the wrong entry. It is "" where none
	// could be made, and CompiledNote says why.
	Compiled     string `json:"compiled,omitempty"`
	CompiledNote string `json:"compiled_note,omitempty"`
	// Differs lists what differed: roles of outputs, "messages",
	// "dependencies", "exit status".
	Differs []string `json:"differs"`
	// Stored and Made are both results' outputs. The blobs are in the cache
	// until they are evicted.
	Stored []QuarantinedOutput `json:"stored"`
	Made   []QuarantinedOutput `json:"made"`
}

// QuarantinedOutput is one output of either result, in hex and bytes.
type QuarantinedOutput struct {
	Role   string `json:"role"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// verdict is what came of verifying a hit.
type verdict struct {
	// skipped is why it could not be judged; "" if it was, or was not asked.
	skipped             string
	checked, mismatched bool
}

// verifies reports whether a hit of this job is to be compiled anyway and
// compared: by the share that the build's own HPCC_VERIFY names, or else the
// settings. A command that leaves something else each time is not.
func (j *job) verifies() bool {
	share := j.e.opt.Verify
	if v := getenv(j.req.GetEnv(), "HPCC_VERIFY"); v != "" {
		// What does not parse was refused where the settings are read.
		switch v {
		case "true", "yes", "on":
			share = 1
		case "false", "no", "off":
			share = 0
		default:
			if f, err := strconv.ParseFloat(v, 64); err == nil {
				share = f
			}
		}
	}
	if share <= 0 || rand.Float64() >= share {
		return false
	}
	given := j.prep.extra
	if j.prep.work != nil {
		given = j.prep.work.Argv
	}
	seeded := j.prep.inv.RandomSeed != "" ||
		slices.ContainsFunc(given, func(o string) bool { return strings.HasPrefix(o, "-frandom-seed=") })
	j.outcome.verify.skipped = j.prep.inv.Unrepeatable(seeded)
	return j.outcome.verify.skipped == ""
}

// verification is a hit that a compile is to confirm.
type verification struct {
	manifest manifestID
	// action is the entry's key, and found the candidate that led to it, nil if it
	// was not here.
	action digest.Key
	found  *candidate
	result *result
	// tier is where the result was fetched from, "" if it was here.
	tier string
	// unchanged tells whether the inputs are still those of the result.
	unchanged func() bool
	// again compiles on a worker, and left is what is left of such a result.
	// Compiles here have no use for them.
	again func(context.Context) (*remote.Result, error)
	left  func(*result) *result
}

// confirmed completes the verification of a hit that a candidate led to.
func (j *job) confirmed(v *verification) *verification {
	v.action = v.found.action
	v.unchanged = func() bool {
		ok, _ := v.found.check(j.e.files, nil)
		return ok
	}
	v.again, v.left = j.compileAgain, func(r *result) *result { return r }
	return v
}

// compare judges a stored result by a compile just made. One that differs goes
// into quarantine, and the user is told: either hpcc missed an input, or the
// compiler does not give the same bytes twice.
func (j *job) compare(ctx context.Context, c *compiled, done *ipcv1.Done) {
	v := j.verifying
	paths := j.prep.place.paths
	var differs []string
	for role, stored := range v.result.outputs {
		out, ok := c.outputs[role]
		if !ok || !j.prep.inv.SameOutput(role, out.data, stored.data) {
			differs = append(differs, role)
		}
	}
	for role := range c.outputs {
		if _, ok := v.result.outputs[role]; !ok {
			differs = append(differs, role)
		}
	}
	slices.Sort(differs)
	if !bytes.Equal(paths.LocalText(v.result.Stderr), c.stderr) || !bytes.Equal(paths.LocalText(v.result.Stdout), c.stdout) {
		differs = append(differs, "messages")
	}
	if j.prep.inv.Deps.Requested && !j.sameDependencies(c) {
		differs = append(differs, "dependencies")
	}
	j.outcome = outcome{kind: j.hitKind(v.tier), tier: v.tier, action: v.action, manifest: v.manifest.key, verify: verdict{checked: true}}
	if len(differs) == 0 {
		return
	}
	// What the compile was made from. An input that changed meanwhile makes
	// another result of it, and no fault.
	a, err := j.action(ctx, c)
	var refused *compiler.NotCacheable
	if errors.As(err, &refused) && refused.Reason == reasonModified {
		j.outcome.verify = verdict{skipped: string(reasonModified)}
		return
	}
	q := j.report(differs)
	switch {
	case err != nil:
		q.CompiledNote = err.Error()
	case a == nil:
		q.CompiledNote = "only the preprocessed text would tell"
	default:
		made := *a
		j.prep.messages.mark(&made, j.prep.messages.context(c))
		q.Compiled = made.Key().String()
	}
	for role, out := range c.outputs {
		d, err := j.e.cache.PutBlob(out.data)
		if err != nil {
			d = digest.Of(out.data)
		}
		q.Made = append(q.Made, QuarantinedOutput{role, d.Hex(), d.Size()})
	}
	j.quarantine(q, done)
}

// sameDependencies reports whether the list of files read is the stored one.
func (j *job) sameDependencies(c *compiled) bool {
	stored := j.verifying.result.Dependencies
	if len(stored) != len(c.deps) {
		return false
	}
	for i, d := range stored {
		if j.prep.place.paths.Local(d.Path) != c.deps[i] || c.user != nil && d.System == c.user[i] {
			return false
		}
	}
	return true
}

// compareFailed judges a stored result by a compile that failed: results of
// such are never stored.
func (j *job) compareFailed(ran *ipcv1.Ran, done *ipcv1.Done) {
	v := j.verifying
	if v == nil {
		return
	}
	switch {
	case ran.GetSignal() != 0:
		j.outcome.verify.skipped = "interrupted"
	case !v.unchanged():
		j.outcome.verify.skipped = string(reasonModified)
	default:
		j.outcome.verify.checked = true
		q := j.report([]string{"exit status"})
		q.CompiledNote = "the compile ended with status " + strconv.Itoa(int(ran.GetExitCode()))
		j.quarantine(q, done)
	}
}

// report begins a report on the entry that is verified.
func (j *job) report(differs []string) *Quarantined {
	v := j.verifying
	q := &Quarantined{
		Time: j.started.UTC(), Source: j.prep.place.absolute(j.prep.inv.Source), Cwd: j.req.GetCwd(), Command: j.req.GetArgs(),
		Action: v.action.String(), Manifest: v.manifest.key.String(),
		Differs: differs, Stored: []QuarantinedOutput{}, Made: []QuarantinedOutput{},
	}
	for _, o := range v.result.Outputs {
		q.Stored = append(q.Stored, QuarantinedOutput{o.Role, o.Digest.Hex(), o.Digest.Size()})
	}
	return q
}

// quarantine takes the entry that was verified out of every look-up's reach.
func (j *job) quarantine(q *Quarantined, done *ipcv1.Done) {
	v := j.verifying
	j.outcome.verify.mismatched = true
	j.outcome.kind, j.outcome.reason = uncacheable, reasonVerify
	j.outcome.detail = strings.Join(q.Differs, ", ")
	slices.SortFunc(q.Made, func(a, b QuarantinedOutput) int { return strings.Compare(a.Role, b.Role) })
	j.e.results.remove(v.action)
	report, err := json.Marshal(q)
	if err == nil && len(report) > cache.MaxReport {
		q.Command = []string{"(too long)"}
		report, err = json.Marshal(q)
	}
	if err == nil {
		err = j.e.cache.Quarantine(v.action, report)
	}
	if err != nil {
		j.e.log.Error("quarantine-failed", "action", q.Action, "error", err.Error())
	}
	if _, _, err = j.e.cache.Manifest(v.manifest.key); err == nil {
		_, err = j.e.cache.UpdateManifest(v.manifest.key, func(m *action.Manifest) error {
			m.Candidates = slices.DeleteFunc(m.Candidates, func(c action.Candidate) bool { return c.Action == v.action })
			return nil
		})
	} else if errors.Is(err, cache.ErrNotFound) {
		err = nil // no look-up here leads to it
	}
	if err != nil {
		j.e.log.Error("quarantine-failed", "manifest", q.Manifest, "error", err.Error())
	}
	j.e.manifests.remove(v.manifest)
	j.e.mismatched.Store(true)
	j.e.log.Error("verify-mismatch", "source", q.Source, "manifest", q.Manifest, "action", q.Action,
		"compiled", q.Compiled, "differs", j.outcome.detail)
	done.Note = "verification: the cached " + j.outcome.detail + " of " + j.source() +
		" is not what the compiler makes; quarantined action " + q.Action + " of manifest " + q.Manifest +
		"; hpcc inspect " + q.Action[:16] + " shows both"
}

// Mismatched reports whether a verified hit has differed. Then other processes
// that hold results in memory should be told to forget them.
func (e *Engine) Mismatched() bool { return e.mismatched.Load() }
