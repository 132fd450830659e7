package worker

import (
	"context"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
)

// blobs is the tenant's store as a source.
func (c *compile) blobs() blobSource { return blobSource{c.memory, c.store} }

// keep stores a result: blobs first, so that who finds the manifest finds the
// rest. What fails costs the next compile a miss.
func (c *compile) keep(j *checked, a *answer) {
	if err := c.storeResult(j, a); err != nil {
		c.metrics.storeErrors.Inc()
		c.opt.Log.Warn("result not stored", "tenant", c.task.Tenant, "action", a.key, "error", err)
	}
}

func (c *compile) storeResult(j *checked, a *answer) error {
	e := &action.Entry{Action: *a.action, Result: action.Result{Stdout: a.stdout, Stderr: a.stderr, CompileTime: a.time}}
	for _, o := range a.outputs {
		if err := c.putOutput(o); err != nil {
			return err
		}
		e.Result.Outputs = append(e.Result.Outputs, action.Output{Role: o.role, Digest: o.digest, Executable: o.executable})
	}
	if err := c.store.PutEntry(a.key, e); err != nil {
		return err
	}
	_, err := c.store.UpdateManifest(j.Manifest(j.source), func(m *action.Manifest) error {
		m.Add(a.action.Candidate())
		return nil
	})
	return err
}

func (c *compile) putOutput(o output) error {
	// The stream may have ended: the result is the tenant's, not the stream's.
	b, release, err := o.data.bytes(context.WithoutCancel(c.stream.Context()))
	if err != nil {
		return err
	}
	defer release()
	d, err := c.store.PutBlob(b)
	if err == nil && d != o.digest {
		err = digest.ErrMismatch // of a file that was read back
	}
	return err
}
