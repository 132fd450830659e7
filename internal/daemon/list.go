package daemon

import (
	"bytes"
	"context"
	"time"

	"hpcc.dev/hpcc/internal/compiler"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// list answers a command that lists the dependencies of its sources on stdout
// (-M, -MM), as makefiles do before they compile anything: it preprocesses
// every source, which for a small program takes longer than a warm build.
//
// The compiler is asked for the full list, so that all inputs are known; what
// the user asked for follows from it as in writeUserDeps. Nothing is shown
// until that is done: where it cannot be done, the user's own command runs.
func (j *job) list(ctx context.Context, id manifestID) (*ipcv1.ServerMessage, error) {
	inv := j.prep.inv
	j.settle(ctx, id)
	c := &compiled{inv: inv, start: j.e.files.moment()}
	c.before = j.lookAround(&c.start)
	began := time.Now()
	ran, err := j.client.Run(ctx, &ipcv1.Run{
		Stage:        ipcv1.Run_STAGE_QUIET,
		Args:         append([]string{j.req.GetCompiler()}, inv.ListArgs()...),
		SetEnv:       j.prep.setEnv,
		Incomplete:   true,
		CaptureLimit: captureLimit,
	})
	switch {
	case err != nil:
		return nil, err
	case ran.GetSignal() != 0:
		j.outcome = outcome{kind: failed, reason: reasonFailed}
		return &ipcv1.ServerMessage{Done: &ipcv1.Done{ExitCode: 128 + ran.GetSignal()}}, nil
	case ran.GetError() != "" || ran.GetExitCode() != 0:
		return nil, refuse(reasonFailed, "")
	case ran.GetTruncated():
		return nil, refuse(reasonStdioLarge, "more than %d bytes", captureLimit)
	case len(ran.GetStderr()) > 0:
		// Colours and widths would be another stream's.
		return nil, refuse(compiler.ReasonPreprocessing, "the compiler printed messages")
	}
	c.elapsed = time.Since(began)
	if err := j.readList(ctx, c, ran.GetStdout()); err != nil {
		return nil, err
	}
	done := &ipcv1.Done{Stdout: c.stdout}
	if j.verifying != nil {
		j.compare(ctx, c, done)
	} else {
		j.keep(ctx, id, c)
	}
	return &ipcv1.ServerMessage{Done: done}, nil
}

// readList takes the full list apart, one rule for each source in order, and
// makes the list that the user asked for.
func (j *job) readList(ctx context.Context, c *compiled, full []byte) error {
	for _, inv := range c.inv.Each() {
		_, deps, err := compiler.ParseDepFile(full)
		if err != nil {
			return refuse(reasonDepFile, "%s", err)
		}
		targets := []compiler.DepTarget{compiler.DefaultTarget(inv.Source)}
		render := func(names []string) []byte {
			return compiler.RenderDepFile(inv.Family, targets, names, inv.Source, false)
		}
		part := &compiled{inv: inv, start: c.start, before: c.before, deps: deps}
		rest, ok := bytes.CutPrefix(full, render(deps))
		if !ok {
			return refuse(reasonDepFile, "the list for %s has a form that is not known", inv.Source)
		}
		full = rest
		names := deps
		if inv.ListsUser {
			if !j.tellUserDeps(ctx, part) {
				return refuse(reasonDepFile, "what -MM leaves out cannot be told for %s", inv.Source)
			}
			names = part.userDeps()
		}
		c.stdout = append(c.stdout, render(names)...)
		c.parts = append(c.parts, part)
	}
	if len(full) > 0 {
		return refuse(reasonDepFile, "the list goes on after the last source")
	}
	return nil
}
