package worker

import (
	"context"
	"maps"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/vm"
)

// rowPatience bounds the wait for a row to be durable.
const rowPatience = 30 * time.Second

// emptyRow is the row of a job of which nothing is known but what was asked for.
func (c *compile) emptyRow(j *checked, from audit.Cache) *audit.Row {
	row := &audit.Row{
		Time: time.Now(), Tenant: c.task.Tenant, Subject: c.task.Subject, Worker: c.opt.Name, Image: j.Image, Cache: from,
		Command:  audit.Command{Argv: j.Argv, Env: j.Env, Cwd: j.Cwd, Roots: j.Roots, Source: j.Source},
		Versions: audit.Versions{HPCC: c.opt.Version},
	}
	for _, o := range j.Outputs {
		row.Declared = append(row.Declared, audit.Declared{Role: o.Role, Path: o.Path, Optional: o.Optional})
	}
	return row
}

// fill puts what a job came to into its row.
func (a *answer) fill(row *audit.Row) {
	row.Action = audit.Key(a.key)
	row.Exit, row.Signal, row.Limit = a.exit, a.signal, a.limit
	row.Tier, row.Signer = a.tier, a.signer
	if !a.hit {
		row.Duration = a.time
	}
	if len(a.stdout) > 0 {
		row.Stdout = audit.Digest(digest.Of(a.stdout))
	}
	if len(a.stderr) > 0 {
		row.Stderr = audit.Digest(digest.Of(a.stderr))
	}
	for _, o := range a.outputs {
		row.Outputs = append(row.Outputs, audit.Output{Role: o.role, Digest: audit.Digest(o.digest), Executable: o.executable})
	}
}

// fillReads puts in what it read.
func (a *answer) fillReads(row *audit.Row) {
	act := a.action
	row.Inputs = make([]audit.Input, 0, len(act.Inputs)+len(act.Links)+len(act.Present))
	for _, in := range act.Inputs {
		row.Inputs = append(row.Inputs, audit.Input{Path: audit.Name(in.Path), Digest: audit.Digest(in.Digest)})
	}
	for _, l := range act.Links {
		row.Inputs = append(row.Inputs, audit.Input{Path: audit.Name(l.A), Target: audit.Name(l.B)})
	}
	for _, p := range act.Present {
		row.Inputs = append(row.Inputs, audit.Input{Path: audit.Name(strings.TrimSuffix(p, "/."))})
	}
	row.Absent = make([]audit.Name, len(act.Absent))
	for i, p := range act.Absent {
		row.Absent[i] = audit.Name(p)
	}
}

// describe puts what ran a job into its row.
func describe(row *audit.Row, info vm.Info) {
	row.VM = info.ID
	row.Isolation = audit.Isolation{
		Runtime: info.Runtime.Name, Version: info.Runtime.Version, Digests: maps.Clone(info.Digests),
		NICs: append([]string{}, info.NICs...), // [] says that there is none
	}
	row.Versions.Agent = audit.Clip(info.Agent.AgentVersion)
}

// appendHit makes the row of a hit durable, and returns its number.
func (c *compile) appendHit(j *checked, a *answer) (number uint64, err error) {
	row := c.emptyRow(j, audit.Hit)
	row.Offered = true
	a.fill(row)
	return c.appendFitted(row, c.fitHit(row, func() { a.fillReads(row) }))
}

// append makes any other row durable, whatever becomes of the stream, and returns
// its number.
func (c *compile) append(row *audit.Row) (number uint64, err error) {
	return c.appendFitted(row, c.fit(row))
}

// fit is Row.Fit. The blob that the row names is in the store then.
func (c *compile) fit(row *audit.Row) error {
	detail, err := row.Fit()
	if err == nil && detail != nil {
		_, err = c.store.PutBlob(detail)
	}
	return err
}

// fitting fits a row while its answer is offered, which for long lists takes longer
// than to make it durable. Until wait has returned the row is nobody else's.
func (c *compile) fitting(row *audit.Row) (wait func() error) {
	done := make(chan error, 1)
	go func() { done <- c.fit(row) }()
	return sync.OnceValue(func() error { return <-done })
}

// appendOwn makes the row of an answer durable, once change has been made to it.
func (c *compile) appendOwn(a *answer, change func(*audit.Row)) (number uint64, err error) {
	failed := a.fitted()
	if change != nil {
		change(a.row)
	}
	return c.appendFitted(a.row, failed)
}

func (c *compile) appendFitted(row *audit.Row, err error) (uint64, error) {
	var number uint64
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.stream.Context()), rowPatience)
		defer cancel()
		number, err = c.opt.Audit.Append(ctx, row)
	}
	if err != nil {
		c.opt.Log.Error("audit row not written", "tenant", c.task.Tenant, "error", err)
		return 0, failf(codes.Internal, "the audit row could not be written, and without it no result is handed out")
	}
	return number, nil
}
