package worker

import (
	"context"
	"errors"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/cache"
)

// answerHit answers a job by the result that find returns, if there is one. It
// asks no machine, so that it works while all are busy.
func (c *compile) answerHit(j *checked, find func(*checked) (*answer, error)) (done bool, err error) {
	a, err := find(j)
	if a == nil || err != nil {
		return false, err
	}
	defer a.close()
	row, err := c.appendHit(j, a)
	if err != nil {
		return false, err
	}
	c.count(outcomeHit)
	if err := c.sendOutcome(a); err != nil {
		return false, err
	}
	return true, c.sendOutputs(a, nil, row)
}

// find looks for a result whose inputs and absences hold for the job. An entry
// that cannot be read, or is not what its manifest says, is no result; it is not
// worth an error.
func (c *compile) find(j *checked) (*answer, error) {
	m, _, err := c.store.Manifest(j.Manifest(j.source))
	if err != nil {
		if !errors.Is(err, cache.ErrNotFound) {
			c.opt.Log.Warn("manifest not read", "tenant", c.task.Tenant, "error", err)
		}
		return nil, nil
	}
	for i := range m.Candidates {
		candidate := &m.Candidates[i]
		if !j.Holds(candidate, j.tree) {
			continue
		}
		a, err := c.entry(j, candidate)
		if a != nil || err != nil {
			return a, err
		}
	}
	return nil, nil
}

// entry is the answer that a candidate leads to, with outputs verified; nil if
// something of it is missing.
func (c *compile) entry(j *checked, candidate *action.Candidate) (*answer, error) {
	r := recordOfCandidate(j, candidate)
	if r == nil {
		return nil, nil
	}
	result, err := c.store.Result(candidate.Action)
	if err != nil {
		return nil, nil //nolint:nilerr // evicted or damaged: a miss
	}
	a := &answer{
		record: r, key: candidate.Action, hit: true, stored: true,
		stdout: result.Stdout, stderr: result.Stderr, time: result.CompileTime,
	}
	for _, o := range result.Outputs {
		if !j.Declares(o.Role) {
			a.close()
			return nil, nil
		}
		data, err := c.blobs().open(c.stream.Context(), o.Digest)
		if err != nil {
			a.close()
			if errors.Is(err, context.Canceled) || errors.Is(err, errSpoolFull) {
				return nil, err
			}
			return nil, nil
		}
		a.outputs = append(a.outputs, output{role: o.Role, digest: o.Digest, executable: o.Executable, data: data})
	}
	return a, nil
}

// recordOfCandidate is what a run recorded once, or nil if the candidate does not
// lead to the action that it names: a result is believed by a key that was
// computed from what was checked here.
func recordOfCandidate(j *checked, candidate *action.Candidate) *record {
	r := &record{absent: candidate.Absent, found: candidate.Found()}
	var err error
	if r.action, err = j.Action(j.tree, r.found, r.absent); err != nil || r.action.Key() != candidate.Action {
		return nil
	}
	return r
}
