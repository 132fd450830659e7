package remote

import (
	"context"
	"io"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/wirezip"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// compare puts patches into the message, unless it has them: of inputs that were
// sent before and hold something else now. They go with the job, not once they are
// asked for: most of what has changed is needed, and an answer would cost more than
// an edit does. What cannot be read is left to who needs it.
func (w *work) compare(ctx context.Context) {
	if w.compared {
		return
	}
	w.compared, w.patched = true, nil
	m := w.message.GetJob()
	room, left := workerv1.MaxPatchBytes, int64(workerv1.MaxPatched)
	for i, in := range m.GetInputs() {
		if len(w.patched) == workerv1.MaxPatches {
			return
		}
		d := w.tree[in.GetPath()].Digest
		old := w.sent.before(in.GetPath())
		if old == nil || old.digest == d || !remembered(d) || old.digest.Size()+d.Size() > left {
			continue
		}
		b, err := w.read(ctx, d)
		if err != nil {
			continue
		}
		// What is longer is hardly shorter than the file, compressed.
		data := wirezip.Diff(old.data, b)
		if data == nil || len(data) > min(room, 64+len(b)/8) {
			continue
		}
		room -= len(data)
		left -= old.digest.Size() + d.Size()
		sum := old.digest.Sum()
		m.Patches = append(m.Patches, &workerv1.Patch{
			Input: uint32(i), Base: &agentv1.Digest{Sha256: sum[:], Size: old.digest.Size()}, Data: data,
		})
		w.patched = append(w.patched, &content{in.GetPath(), d, b})
	}
}

// settle remembers what patches stood for: the worker has it now, whether it had it
// before, was sent it, or made it of the patch. (Of a hit it may not, and gets the
// next one whole.)
func (w *work) settle() {
	for _, c := range w.patched {
		w.sent.put(c)
	}
}

// read reads a whole content, and verifies it.
func (w *work) read(ctx context.Context, d digest.Digest) ([]byte, error) {
	f, err := w.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	verified := digest.NewVerifier(f, d)
	b := make([]byte, d.Size())
	if _, err := io.ReadFull(verified, b); err != nil {
		return nil, err
	}
	// The end tells whether the digest is right.
	_, err = io.Copy(io.Discard, verified)
	return b, err
}
