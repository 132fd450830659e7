package daemon

import (
	"os"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
)

// result is a stored result with its blobs, each verified when it was read.
type result struct {
	entry   *action.Entry
	outputs map[string]output
	digests map[string]digest.Digest
}

// result returns a stored result, from memory if it is there.
func (e *Engine) result(key digest.Key) (*result, error) {
	if r, ok := e.results.get(key); ok {
		return r, nil
	}
	entry, err := e.cache.Entry(key)
	if err != nil {
		return nil, err
	}
	outputs := make(map[string]output, len(entry.Result.Outputs))
	for _, o := range entry.Result.Outputs {
		data, err := e.cache.Blob(o.Digest)
		if err != nil {
			return nil, err
		}
		outputs[o.Role] = output{data, o.Executable}
	}
	e.cache.Touch(key, entry)
	return e.keepResult(key, entry, outputs), nil
}

func (e *Engine) keepResult(key digest.Key, entry *action.Entry, outputs map[string]output) *result {
	r := &result{entry: entry, outputs: outputs, digests: map[string]digest.Digest{}}
	weight := int64(len(entry.Result.Stderr)+len(entry.Result.Stdout)) + 4096
	for _, o := range entry.Result.Outputs {
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
