package daemon

import (
	"os"
	"sync/atomic"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
)

// result is a stored result with its blobs, each verified when it was read.
type result struct {
	*action.Result
	outputs map[string]output
	digests map[string]digest.Digest
	// used is when the disk last heard that the result is in use, in Unix
	// seconds.
	used atomic.Int64
}

// result returns a stored result, from memory if it is there.
func (e *Engine) result(manifest, key digest.Key) (*result, error) {
	if r, ok := e.results.get(key); ok {
		e.touch(manifest, key, r)
		return r, nil
	}
	stored, err := e.cache.Result(key)
	if err != nil {
		return nil, err
	}
	outputs := make(map[string]output, len(stored.Outputs))
	for _, o := range stored.Outputs {
		data, err := e.cache.Blob(o.Digest)
		if err != nil {
			return nil, err
		}
		outputs[o.Role] = output{data}
	}
	return e.keepResult(key, stored, outputs), nil
}

// touchEvery is how often the disk hears of a result that memory answers: often
// enough for eviction, which goes by the hour.
const touchEvery = 30 * time.Minute

func (e *Engine) touch(manifest, key digest.Key, r *result) {
	now := time.Now().Unix()
	last := r.used.Load()
	if now-last > int64(touchEvery/time.Second) && r.used.CompareAndSwap(last, now) {
		e.storing.Add(1)
		go func() {
			defer e.storing.Done()
			e.cache.Touch(manifest, key, r.Result)
		}()
	}
}

func (e *Engine) keepResult(key digest.Key, stored *action.Result, outputs map[string]output) *result {
	r := &result{Result: stored, outputs: outputs, digests: map[string]digest.Digest{}}
	r.used.Store(time.Now().Unix())
	weight := int64(len(stored.Stderr)+len(stored.Stdout)) + 4096
	for _, o := range stored.Outputs {
		r.digests[o.Role] = o.Digest
		weight += o.Digest.Size()
	}
	e.results.putWeighted(key, r, weight)
	return r
}

// clone returns a function that shares the stored blob's blocks with an
// output, for file systems that can.
func (r *result) clone(e *Engine, role string) func(*os.File) (bool, error) {
	d := r.digests[role]
	return func(f *os.File) (bool, error) { return e.cache.CloneBlob(d, f) }
}
