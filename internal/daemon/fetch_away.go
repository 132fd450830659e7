package daemon

import (
	"context"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/remote"
	"hpcc.dev/hpcc/internal/shared"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// fetchAway is fetch for a compile that a worker would make: what workers wrote
// to the shared caches needs none.
func (j *job) fetchAway(ctx context.Context, id manifestID, evicted *candidate) *ipcv1.ServerMessage {
	if j.checkOutputs() != nil {
		return nil // and that is what the compile says
	}
	var res *remote.Result
	var tier string
	if evicted != nil {
		res, tier = j.workOf(ctx, evicted.action)
	} else {
		seen := map[*file]digest.Digest{}
		res, tier = j.fetchWork(ctx, id.key, func(c *action.Candidate) bool {
			ok, _ := j.e.resolveCandidate(c, j.prep.place).check(j.e.files, seen)
			return ok
		})
	}
	// Whoever else asked for it may have refused it as well, after it was stored.
	if res == nil || j.checkRead(j.prep.work, res) != nil {
		return nil
	}
	msg, err := j.leaveAway(ctx, id, res, tier)
	if err != nil {
		j.outcome.why = err.Error()
		return nil
	}
	return msg
}

// fetchText is fetchAway for the source text.
func (j *job) fetchText(ctx context.Context, key digest.Key, t *sourceText) *ipcv1.ServerMessage {
	if !j.sharing() || j.checkOutputs() != nil {
		return nil
	}
	res, tier := j.fetchWork(ctx, key, t.holds)
	if res == nil || len(res.Stdout)+len(res.Stderr) > 0 {
		return nil
	}
	msg, err := j.leaveText(ctx, key, t, res, tier)
	if err != nil {
		j.outcome.why = err.Error()
		return nil
	}
	return msg
}

// fetchWork returns a worker's result that the shared caches have under a
// manifest, as the worker would have said it, and which of them has it; nil if
// none is right. holds checks a candidate against what is here.
func (j *job) fetchWork(ctx context.Context, manifest digest.Key, holds func(*action.Candidate) bool) (res *remote.Result, tier string) {
	listed := func(c *action.Candidate) bool {
		if !holds(c) {
			return false
		}
		a, err := j.prep.work.Action(c.Tree(), c.Found(), c.Absent)
		return err == nil && a.Key() == c.Action
	}
	var doubt shared.Doubt
	// A tier is asked when those nearer have led to nothing.
	for m := range j.e.opt.Shared.Manifests(ctx, manifest) {
		for c := range doubt.Candidates(m, listed) {
			if res, tier = j.workOf(ctx, c.Action); res != nil {
				return res, tier
			}
		}
		if doubt.Over() {
			break
		}
	}
	return nil, ""
}

// workOf fetches the result of an action of a worker's. What it declares is in the
// action, so that no other outputs belong to it.
func (j *job) workOf(ctx context.Context, key digest.Key) (*remote.Result, string) {
	f := j.fetchResult(ctx, key, "")
	if f == nil || !declared(j.prep.work, &f.Entry.Result) {
		return nil, ""
	}
	stored := &f.Entry.Result
	res := &remote.Result{
		Action: &f.Entry.Action, Key: key, Hit: true, Stored: true,
		Stdout: stored.Stdout, Stderr: stored.Stderr, CompileTime: stored.CompileTime,
	}
	for _, o := range stored.Outputs {
		res.Outputs = append(res.Outputs, remote.Output{Role: o.Role, Data: f.Blobs[o.Digest], Digest: o.Digest, Executable: o.Executable})
	}
	return res, f.Tier
}
