package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/vm"
)

// hangGrace is how much longer than its job an Exec may take, for what crosses to
// the machine and back. The agent ends the job at its limit: one that has not has
// lost itself.
const hangGrace = 5 * time.Minute

// run runs a job; once more, in another machine, if the first was lost.
func (c *compile) run(j *checked) (*answer, error) {
	for try := 0; ; try++ {
		a, err := c.runOnce(j)
		var lost *agentapi.LostError
		if !errors.As(err, &lost) || try > 0 || c.live.Err() != nil {
			return a, err
		}
		c.opt.Log.Warn("machine lost, the job is tried in another", "tenant", c.task.Tenant, "image", j.Image, "error", err)
	}
}

// runOnce runs a job in a machine. Each run has a row: that of an answer is the
// caller's to append, others are appended here.
func (c *compile) runOnce(j *checked) (*answer, error) {
	lease, err := c.opt.Machines.Acquire(c.live, c.task.Tenant, j.Image)
	if err != nil {
		return nil, c.notAcquired(err)
	}
	defer lease.Release()
	from := audit.Miss
	if j.uncached {
		from = audit.Uncached
	}
	row := c.emptyRow(j, from)
	describe(row, lease.Info())
	began := time.Now()
	a, err := c.exec(j, lease)
	if err == nil {
		a.fill(row)
		a.fillReads(row)
		a.row, a.fitted = row, c.fitting(row)
		return a, nil
	}
	var (
		guest *agentapi.GuestError
		lost  *agentapi.LostError
	)
	outcome := outcomeError
	switch {
	case errors.As(err, &guest):
		outcome = outcomeBroken
	case errors.As(err, &lost), errors.Is(err, errHung):
		outcome = outcomeLost
	case c.live.Err() != nil:
		outcome, err = outcomeCancelled, context.Cause(c.live)
	}
	if outcome == outcomeBroken || outcome == outcomeLost {
		c.opt.Log.Error("machine-broken", "tenant", c.task.Tenant, "image", j.Image, "machine", row.VM, "error", err)
		lease.Broken(err)
	}
	c.count(outcome)
	row.Duration, row.Error = time.Since(began), audit.Clip(err.Error())
	if _, failed := c.append(row); failed != nil {
		return nil, failed
	}
	return nil, err
}

// notAcquired says what it means that there is no machine.
func (c *compile) notAcquired(err error) error {
	if c.live.Err() != nil {
		return context.Cause(c.live)
	}
	var full *vm.FullError
	var image *ImageError
	if errors.As(err, &full) || errors.As(err, &image) {
		return err
	}
	c.opt.Log.Error("no machine", "tenant", c.task.Tenant, "error", err)
	return failf(codes.Unavailable, "no machine could be had: %v", err)
}

// exec runs a job in the machine of a lease, and makes an answer of what it left.
func (c *compile) exec(j *checked, lease Lease) (*answer, error) {
	ctx, cancel := context.WithTimeoutCause(c.live, j.time+hangGrace, errHung)
	defer cancel()
	into := c.collector(j)
	began := time.Now()
	r, err := lease.Exec(ctx, j.exec(c.opt.Limits), inputs{c.blobs(), c.fresh}, into.sinks())
	if err == nil {
		c.metrics.blobs.Add(float64(r.Sent.Blobs), c.task.Tenant, toGuest)
		c.metrics.bytes.Add(float64(r.Sent.Bytes), c.task.Tenant, toGuest)
		a, err := into.answer(j, r)
		if err == nil {
			// The guest says how long it took: no longer than it did.
			a.time = min(a.time, time.Since(began))
			return a, nil
		}
		into.close()
		return nil, err
	}
	into.close()
	if errors.Is(context.Cause(ctx), errHung) {
		return nil, fmt.Errorf("%w of %v", errHung, j.time)
	}
	return nil, err
}

// collector takes what a job prints and leaves.
type collector struct {
	stdout, stderr bytes.Buffer // bounded by the job's limit
	few            int64        // of all outputs together
	outputs        map[string]*spool
	newSpool       func() *spool
}

func (c *compile) collector(j *checked) *collector {
	into := &collector{few: smallBytes, outputs: make(map[string]*spool, len(j.Outputs))}
	into.newSpool = func() *spool { return c.memory.spool(c.store.TempDir(), &into.few) }
	return into
}

func (into *collector) sinks() agentapi.Sinks {
	return agentapi.Sinks{Stdout: &into.stdout, Stderr: &into.stderr, Output: func(path string) (io.Writer, error) {
		into.outputs[path] = into.newSpool()
		return into.outputs[path], nil
	}}
}

func (into *collector) close() {
	for _, s := range into.outputs {
		s.close()
	}
}

// errUntold says that a job's inputs are not known.
var errUntold = errors.New("the job looked up more names, or in other ways, than can be recorded: run it without a worker")

// answer makes an answer of a job that ran. What it took is the answer's then.
func (into *collector) answer(j *checked, r *agentapi.Result) (*answer, error) {
	if r.LookupsTruncated {
		return nil, failf(codes.FailedPrecondition, "%v", errUntold)
	}
	record, err := recordOf(j, r.Lookups)
	if errors.Is(err, errLying) {
		return nil, &agentapi.GuestError{Reason: err.Error()}
	}
	if err != nil {
		return nil, err
	}
	a := &answer{
		record: record, key: record.action.Key(), uncached: j.uncached,
		exit: r.ExitCode, signal: r.Signal, limit: string(r.Limit),
		stdout: into.stdout.Bytes(), stderr: into.stderr.Bytes(), time: r.Usage.Wall,
	}
	if a.ended() {
		// Half an object is of no use to anybody.
		into.close()
		return a, nil
	}
	for _, declared := range j.Outputs {
		i := slices.IndexFunc(r.Outputs, func(o agentapi.Output) bool { return o.Path == declared.Path })
		if i < 0 {
			if !declared.Optional && !a.failed() {
				return nil, failf(codes.FailedPrecondition, "the job succeeded without its output %s, at %s", declared.Role, declared.Path)
			}
			continue
		}
		o := r.Outputs[i]
		data := into.outputs[o.Path]
		if data == nil { // no byte of it came: it is empty
			data = into.newSpool()
		}
		a.outputs = append(a.outputs, output{role: declared.Role, digest: o.Digest, executable: o.Mode&0o111 != 0, data: data})
	}
	a.stored = !j.uncached && !record.other && !a.failed()
	return a, nil
}
