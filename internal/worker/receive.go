package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"

	"hpcc.dev/hpcc/internal/digest"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

const (
	// uploadPatience and uploadRate are how long blobs may take: a slow line is
	// far faster.
	uploadPatience = time.Minute
	uploadRate     = 64 << 10 // bytes a second
)

// receive gets what the tenant's store lacks of the job's inputs.
func (c *compile) receive(j *checked) error {
	var lacking []digest.Digest
	var total int64
	for _, d := range j.blobs {
		if !c.store.HasBlob(d) {
			lacking = append(lacking, d)
			total += d.Size()
		}
	}
	// Before it is asked for: what is sent away has sent nothing.
	meter, err := c.quotas.upload(c.live, c.task.Tenant, total)
	if err != nil {
		return c.overQuota(c.task.Tenant, err)
	}
	var missing []digest.Digest
	needed := &workerv1.Needed{}
	for _, d := range lacking {
		done, err := c.patched(j, d, meter)
		if err != nil {
			return err
		}
		if !done {
			missing = append(missing, d)
			needed.Blobs = append(needed.Blobs, wireDigest(d))
		}
	}
	if err := c.stream.Send(&workerv1.CompileResponse{Kind: &workerv1.CompileResponse_Needed{Needed: needed}}); err != nil {
		return err
	}
	if len(missing) == 0 {
		return nil
	}
	timeout := time.NewTimer(uploadPatience + time.Duration(total/uploadRate)*time.Second)
	defer timeout.Stop()
	for _, d := range missing {
		if err := c.receiveBlob(d, meter, timeout.C); err != nil {
			return err
		}
	}
	c.metrics.blobs.Add(float64(len(missing)), c.task.Tenant, fromClient)
	return nil
}

// stored waits until all that was received is stored.
func (c *compile) stored() error {
	clear(c.fresh)
	return c.storing.Wait()
}

// receiveBlob takes one blob's chunks, and stores it if it is the one.
func (c *compile) receiveBlob(d digest.Digest, meter *meter, timeout <-chan time.Time) error {
	few := int64(smallBytes)
	s := c.memory.spool(c.store.TempDir(), &few)
	defer s.close()
	if d.Size() <= smallBytes {
		s.mem = make([]byte, 0, d.Size())
	}
	hash := sha256.New()
	for {
		m, err := c.next(timeout)
		if err != nil {
			return err
		}
		blob, ok := m.GetKind().(*workerv1.CompileRequest_Blob)
		if !ok {
			return failf(codes.InvalidArgument, "a message that is no blob, while blobs were needed")
		}
		data := blob.Blob.GetData()
		if len(data) > workerv1.ChunkSize || len(data) == 0 && d.Size() > 0 || s.size+int64(len(data)) > d.Size() {
			return failf(codes.InvalidArgument, "a chunk of %d bytes, with %d of blob %s to come", len(data), d.Size()-s.size, d)
		}
		if err := meter.take(c.live, len(data)); err != nil {
			return err
		}
		hash.Write(data)
		c.metrics.bytes.Add(float64(len(data)), c.task.Tenant, fromClient)
		if _, err := s.Write(data); err != nil {
			return fmt.Errorf("blob %s: %w", d, err)
		}
		if s.size == d.Size() {
			break
		}
	}
	if got, err := digest.FromBytes(hash.Sum(nil), s.size); err != nil || got != d {
		return failf(codes.InvalidArgument, "blob %s is not what was sent for it", d)
	}
	b, release, err := s.bytes(c.stream.Context())
	if err != nil {
		return err
	}
	defer release()
	return c.takeInput(d, b)
}

// takeInput has a content stored, which was verified.
func (c *compile) takeInput(d digest.Digest, b []byte) error {
	if c.fresh.take(d, b) {
		c.storing.Go(func() error { return c.putInput(d, b) })
		return nil
	}
	return c.putInput(d, b)
}

func (c *compile) putInput(d digest.Digest, b []byte) error {
	if _, err := c.store.PutBlob(b); err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	return nil
}

// fresh are contents that have just been received, verified, and are being stored:
// a machine gets them from here. They are few, as an edited source is.
type fresh map[digest.Digest][]byte

// take keeps a content, if there is room for it.
func (f fresh) take(d digest.Digest, b []byte) bool {
	left := smallBytes - len(b)
	for _, other := range f {
		left -= len(other)
	}
	if left < 0 || len(f) >= maxFresh {
		return false
	}
	f[d] = b
	return true
}

// inputs are the contents for a machine.
type inputs struct {
	blobSource
	fresh fresh
}

// Open implements agentapi.Blobs.
func (i inputs) Open(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	if b, ok := i.fresh[d]; ok {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	return i.blobSource.Open(ctx, d)
}

// maxFresh bounds the contents that one compile stores at once.
const maxFresh = 4
