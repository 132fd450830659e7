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
	blobs := make(map[digest.Digest][]byte, len(a.outputs))
	for _, o := range a.outputs {
		b, err := c.putOutput(o)
		if err != nil {
			return err
		}
		if c.shared != nil {
			blobs[o.digest] = b
		}
		e.Result.Outputs = append(e.Result.Outputs, action.Output{Role: o.role, Digest: o.digest, Executable: o.executable})
	}
	manifest := j.Manifest(j.source)
	if err := c.putEntry(manifest, a.key, e); err != nil {
		return err
	}
	if c.shared != nil {
		c.shared.Put(manifest, "", e, blobs)
	}
	return nil
}

// putEntry stores an entry whose blobs are there, and a candidate that leads to it.
func (c *compile) putEntry(manifest, key digest.Key, e *action.Entry) error {
	if err := c.store.PutEntry(key, e); err != nil {
		return err
	}
	_, err := c.store.UpdateManifest(manifest, func(m *action.Manifest) error {
		m.Add(e.Action.Candidate())
		return nil
	})
	return err
}

// putOutput stores an output, and returns what it holds. The budget is given back
// before that is: the queue of a shared cache has one of its own.
func (c *compile) putOutput(o output) ([]byte, error) {
	// The stream may have ended: the result is the tenant's, not the stream's.
	b, release, err := o.data.bytes(context.WithoutCancel(c.stream.Context()))
	if err != nil {
		return nil, err
	}
	defer release()
	d, err := c.store.PutBlob(b)
	if err == nil && d != o.digest {
		err = digest.ErrMismatch // of a file that was read back
	}
	return b, err
}
