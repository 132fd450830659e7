package worker

import (
	"fmt"

	"google.golang.org/grpc/codes"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/wirezip"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// patch says a content by what differs from base.
type patch struct {
	base digest.Digest
	data []byte
}

// checkPatches takes the patches over, by the content that each stands for; the
// inputs were checked.
func (j *checked) checkPatches(patches []*workerv1.Patch) error {
	if len(patches) > workerv1.MaxPatches {
		return fmt.Errorf("%d patches, more than %d", len(patches), workerv1.MaxPatches)
	}
	inputs := j.message.GetInputs()
	j.patches = make(map[digest.Digest]patch, len(patches))
	seen := make(map[uint32]bool, len(patches))
	var length int
	left := int64(workerv1.MaxPatched)
	for _, p := range patches {
		n := p.GetInput()
		if uint64(n) >= uint64(len(inputs)) || inputs[n].GetKind() != agentv1.Input_KIND_FILE || seen[n] {
			return fmt.Errorf("a patch for input %d, which is no file, or has one already", n)
		}
		seen[n] = true
		base, err := digest.FromBytes(p.GetBase().GetSha256(), p.GetBase().GetSize())
		if err != nil {
			return fmt.Errorf("the base of input %d: %w", n, err)
		}
		content := j.tree[inputs[n].GetPath()].Digest
		length += len(p.GetData())
		// Each is checked before they are added: the sum cannot overflow.
		if base.Size() > left || content.Size() > left-base.Size() || length > workerv1.MaxPatchBytes {
			return fmt.Errorf("patches of more than %d bytes, or between more than %d", workerv1.MaxPatchBytes, workerv1.MaxPatched)
		}
		left -= base.Size() + content.Size()
		j.patches[content] = patch{base, p.GetData()}
	}
	return nil
}

// patched makes a content that the store lacks of its patch, and has it stored. It
// returns false where there is none, or the tenant's store has not the base: then
// the content has to come whole.
func (c *compile) patched(j *checked, d digest.Digest, meter *meter) (bool, error) {
	p, ok := j.patches[d]
	if !ok || !c.store.HasBlob(p.base) {
		return false, nil
	}
	// The quota is of what is sent, uncompressed; this is as much to store.
	if err := meter.take(c.live, int(d.Size())); err != nil {
		return false, err
	}
	release, err := c.memory.reserve(c.stream.Context(), p.base.Size()+d.Size())
	if err != nil {
		return false, err
	}
	defer release()
	base, err := c.store.Blob(p.base)
	if err != nil {
		return false, nil // evicted meanwhile, or damaged: it is only a saving
	}
	b, err := wirezip.Apply(base, p.data, int(d.Size()))
	if err != nil {
		return false, failf(codes.InvalidArgument, "the patch for blob %s: %v", d, err)
	}
	if digest.Of(b) != d {
		return false, failf(codes.InvalidArgument, "blob %s is not what its patch makes of %s", d, p.base)
	}
	c.metrics.blobs.Inc(c.task.Tenant, fromClient)
	c.metrics.bytes.Add(float64(len(p.data)), c.task.Tenant, fromClient)
	return true, c.takeInput(d, b)
}
