package worker

import (
	"errors"
	"fmt"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/agentapi"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// record is what a job looked up, as a client is told it and as an action has it.
type record struct {
	found, absent []string
	action        *action.Action
	// other says that it met what no input can be (a device, a socket): nobody
	// could tell whether that is there again.
	other bool
}

// errLying says that a guest's record names what its job did not have, or misses
// what it had.
var errLying = errors.New("the guest's record of lookups does not fit its job")

// recordOf turns a machine's lookups into what follows from them. Lookups among
// outputs are left out: of the whole OutputRoot, and those of declared outputs in
// other roots. What was there before a compile is what it overwrites.
func recordOf(j *checked, lookups []agentapi.Lookup) (*record, error) {
	declared := make(map[string]bool, len(j.Outputs))
	for _, o := range j.Outputs {
		declared[o.Path] = true
	}
	r := &record{}
	for _, l := range lookups {
		if agentv1.RootOf([]string{workerv1.OutputRoot}, l.Path) != "" {
			continue
		}
		if _, input := j.tree[l.Path]; declared[l.Path] && !input {
			continue
		}
		switch l.Found {
		case agentapi.Absent:
			r.absent = append(r.absent, l.Path)
		case agentapi.FoundFile, agentapi.FoundSymlink:
			r.found = append(r.found, l.Path)
		case agentapi.FoundDirectory:
			r.found = append(r.found, l.Path+"/.")
		default:
			r.other = true
		}
	}
	var err error
	if r.action, err = j.Action(j.tree, r.found, r.absent); err != nil {
		return nil, fmt.Errorf("%w: %w", errLying, err)
	}
	// A link that the guest calls a file, say, would make another action.
	for _, l := range lookups {
		n, ok := j.tree[l.Path]
		if ok && (l.Found == agentapi.FoundFile && n.Target != "" || l.Found == agentapi.FoundSymlink && n.Target == "") {
			return nil, fmt.Errorf("%w: %q is no %s", errLying, clip(l.Path), l.Found)
		}
	}
	return r, nil
}
