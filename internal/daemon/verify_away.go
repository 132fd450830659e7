package daemon

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/remote"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// judge has a worker make again what a hit has left, looking for no result and
// keeping none, and compares. What differs goes into quarantine here, and the new
// result is left in the hit's place; no store of a worker's or of others' is
// touched, but their result by that key is not taken again. Where nothing can be
// said, since no worker is to be had or an input has changed, the hit stands, and
// it is counted why.
func (j *job) judge(ctx context.Context, v *verification, msg *ipcv1.ServerMessage) (*ipcv1.ServerMessage, error) {
	j.verifying = v
	j.outcome.saved = 0
	res, err := v.again(ctx)
	var fresh *result
	if err == nil {
		fresh, err = j.resultOf(res)
	}
	var home goHome
	switch {
	case errors.As(err, &home):
		j.outcome.verify.skipped = string(home.Reason)
		return msg, nil
	case err != nil || res.Signal != 0:
		j.outcome.verify.skipped = "interrupted"
		return msg, nil //nolint:nilerr // the hit is as good as any
	}
	differs := []string{"exit status"}
	if res.ExitCode == 0 {
		differs = j.differ(v.result, fresh)
	}
	if len(differs) == 0 {
		j.outcome.verify.checked = true
		return msg, nil
	}
	if !v.unchanged() {
		j.outcome.verify.skipped = string(reasonModified)
		return msg, nil
	}
	j.behind = nil
	q := j.report(differs)
	q.Compiled = res.Key.String()
	for _, o := range fresh.Outputs {
		q.Made = append(q.Made, QuarantinedOutput{o.Role, o.Digest.Hex(), o.Digest.Size()})
	}
	j.keepToCompare(v.result, fresh)
	if res.ExitCode == 0 {
		if msg, err = j.leave(v.left(fresh)); err != nil {
			return nil, err
		}
	} else {
		for _, path := range j.written() {
			var st unix.Stat_t
			if unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
				removeAll(path)
			}
		}
		j.leaveFailed(res)
		msg = j.failAway(res)
	}
	j.outcome.verify = verdict{checked: true}
	j.outcome.action, j.outcome.manifest = v.action, v.manifest.key
	j.quarantine(q, msg.GetDone())
	return msg, nil
}

// differ lists in what two results of one job differ, byte for byte.
func (j *job) differ(stored, made *result) (differs []string) {
	for role, out := range stored.outputs {
		other, ok := made.outputs[role]
		if !ok || !j.prep.inv.SameOutput(role, other.data, out.data) {
			differs = append(differs, role)
		}
	}
	for role := range made.outputs {
		if _, ok := stored.outputs[role]; !ok {
			differs = append(differs, role)
		}
	}
	slices.Sort(differs)
	if !bytes.Equal(stored.Stdout, made.Stdout) || !bytes.Equal(stored.Stderr, made.Stderr) {
		differs = append(differs, "messages")
	}
	if !slices.EqualFunc(stored.Dependencies, made.Dependencies, func(a, b action.Dependency) bool { return a.Path == b.Path }) {
		differs = append(differs, "dependencies")
	}
	return differs
}

// keepToCompare keeps the outputs of two results for whoever looks at the
// quarantine. A paranoid client keeps none.
func (j *job) keepToCompare(results ...*result) {
	if j.e.paranoid() {
		return
	}
	for _, r := range results {
		for _, out := range r.outputs {
			if _, err := j.e.cache.PutBlob(out.data); err != nil {
				j.e.log.Warn("result-not-stored", "error", err.Error(), "source", j.source())
				return
			}
		}
	}
}

// hitOf is a verification of a worker's hit, or of a tier's.
func (j *job) hitOf(id manifestID, res *remote.Result, r *result, tier string) *verification {
	return &verification{
		manifest: id, action: res.Key, result: r, tier: tier, unchanged: func() bool { return j.holdsStill(res.Action) },
		again: j.compileAgain, left: func(r *result) *result { return r },
	}
}

// compileAgain has a worker compile the files as they are, beside all stores.
func (j *job) compileAgain(ctx context.Context) (*remote.Result, error) {
	return j.sendAway(ctx, j.prep.work, true)
}

// holdsStill tells whether what an action found and missed is so at this moment.
func (j *job) holdsStill(a *action.Action) bool {
	p := j.prep.place
	return !slices.ContainsFunc(a.Inputs, func(in action.Input) bool {
		sum, _, err := j.e.files.digest(j.e.files.at(p.local(in.Path)))
		return err != nil || sum != in.Digest
	}) && !slices.ContainsFunc(a.Absent, func(name string) bool {
		var st unix.Stat_t
		return unix.Lstat(p.local(name), &st) == nil
	})
}

// banned tells whether a result that somebody has was found wrong here.
func (j *job) banned(key digest.Key) bool { return j.e.cache.IsQuarantined(key) }
