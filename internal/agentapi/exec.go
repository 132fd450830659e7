package agentapi

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/digest"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// Exec runs one job. When ctx ends the job is killed with all its processes, and
// Exec returns ctx's error; so does any other error kill it. After an error
// nothing that the sinks took counts.
func (c *Client) Exec(ctx context.Context, job Job, blobs Blobs, sinks Sinks) (*Result, error) {
	header := job.header()
	if err := header.Check(); err != nil {
		return nil, &RefusedError{err.Error(), err}
	}
	if err := header.Limits.Fill(); err != nil {
		return nil, &RefusedError{err.Error(), err}
	}
	// Ends the stream, and so the job, however this returns.
	call, cancel := context.WithCancel(ctx)
	defer cancel()
	codec := newCodec()
	stream, err := c.rpc.Exec(call, grpc.ForceCodecV2(codec))
	if err != nil {
		return nil, failed(ctx, err, codec)
	}
	// The agent's end of the stream is io.EOF here: Recv tells why.
	if err := stream.Send(&agentv1.ExecRequest{Kind: &agentv1.ExecRequest_Header{Header: header}}); status.Code(err) == codes.ResourceExhausted {
		return nil, &RefusedError{fmt.Sprintf("its description is longer than %d bytes", agentv1.MaxMessage), err}
	} else if err != nil && !errors.Is(err, io.EOF) {
		return nil, failed(ctx, err, codec)
	}
	r := newReceiver(&job, header, sinks)
	for {
		m, err := stream.Recv()
		if err != nil {
			return nil, failed(ctx, err, codec)
		}
		if err := r.take(m); err != nil {
			return nil, err
		}
		if m.GetNeeded() != nil {
			if err := sendBlobs(call, stream, r.needed, blobs); err != nil {
				var source *SourceError
				if errors.As(err, &source) && ctx.Err() == nil {
					return nil, err
				}
				// The stream has ended; what it still holds is bounded.
				for errors.Is(err, io.EOF) && codec.err == nil {
					if _, why := stream.Recv(); why != nil {
						return nil, failed(ctx, why, codec)
					}
				}
				return nil, failed(ctx, err, codec)
			}
			r.result.Sent = Sent{Blobs: len(r.needed)}
			for _, d := range r.needed {
				r.result.Sent.Bytes += d.Size()
			}
		}
		if r.done {
			return &r.result, nil
		}
	}
}

func sendBlobs(ctx context.Context, stream grpc.BidiStreamingClient[agentv1.ExecRequest, agentv1.ExecResponse], needed []digest.Digest, blobs Blobs) error {
	buf := make([]byte, agentv1.ChunkSize)
	for _, d := range needed {
		if err := sendBlob(ctx, stream, d, blobs, buf); err != nil {
			return err
		}
	}
	return stream.CloseSend()
}

func sendBlob(ctx context.Context, stream grpc.BidiStreamingClient[agentv1.ExecRequest, agentv1.ExecResponse], d digest.Digest, blobs Blobs, buf []byte) error {
	f, err := blobs.Open(ctx, d)
	if err != nil {
		return &SourceError{d, err}
	}
	defer f.Close()
	// The agent would find out, too; here the error names the culprit.
	verified := digest.NewVerifier(f, d)
	for left := d.Size(); left > 0; {
		n, err := io.ReadFull(verified, buf[:min(left, int64(len(buf)))])
		if err != nil {
			return &SourceError{d, err}
		}
		left -= int64(n)
		if left == 0 {
			if _, err := io.ReadFull(verified, make([]byte, 1)); err != io.EOF {
				return &SourceError{d, digest.ErrMismatch}
			}
		}
		// Send has serialised the chunk when it returns: buf can be used again.
		if err := stream.Send(&agentv1.ExecRequest{Kind: &agentv1.ExecRequest_Blob{Blob: buf[:n]}}); err != nil {
			return err
		}
	}
	return nil
}

// failed says what an error of a call means for the caller. The agent gives its
// own errors as the codes that agent.proto lists; others are this side's, about
// what the guest sent, or tell that the connection has ended.
func failed(ctx context.Context, err error, codec *codec) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if codec.err != nil {
		return broken("a message that cannot be decoded: %s", clip(codec.err.Error()))
	}
	if errors.Is(err, io.EOF) {
		return broken("the stream ended without a result")
	}
	switch s := status.Convert(err); s.Code() {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.Unimplemented:
		return &RefusedError{Reason: clip(s.Message())}
	case codes.ResourceExhausted:
		return broken("a message of more than %d bytes", agentv1.MaxMessage)
	}
	return &LostError{err}
}

// codec is protobuf's, and keeps the error of a message that the guest sent and
// that is none: gRPC would give it the code of an agent that failed. It is of one
// call.
type codec struct {
	encoding.CodecV2
	err error
}

func newCodec() *codec { return &codec{CodecV2: encoding.GetCodecV2("proto")} }

// Unmarshal is called by Recv, so never at once.
func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	c.err = c.CodecV2.Unmarshal(data, v)
	return c.err
}

// receiver takes the agent's messages one by one and refuses what a job cannot
// say: it is the decoder of all that a guest controls.
type receiver struct {
	job    *Job
	header *agentv1.ExecHeader
	sinks  Sinks

	inputs map[digest.Digest]bool
	asked  bool // Needed has come
	needed []digest.Digest
	stdio  uint64

	output  int // index of the output whose chunks come, -1 before the first
	writer  io.Writer
	hash    hash.Hash
	size    int64
	total   int64
	digests map[int]digest.Digest

	lookups     map[string]bool
	lookupBytes int

	result Result
	done   bool
}

func newReceiver(job *Job, header *agentv1.ExecHeader, sinks Sinks) *receiver {
	r := &receiver{
		job: job, header: header, sinks: sinks, output: -1,
		inputs: map[digest.Digest]bool{}, digests: map[int]digest.Digest{}, lookups: map[string]bool{},
	}
	for _, in := range job.Inputs {
		if in.Kind == File {
			r.inputs[in.Digest] = true
		}
	}
	return r
}

func broken(format string, args ...any) error { return &GuestError{fmt.Sprintf(format, args...)} }

func (r *receiver) take(m *agentv1.ExecResponse) error {
	if r.done {
		return broken("a message after the result")
	}
	if needed := m.GetNeeded(); needed != nil {
		return r.takeNeeded(needed)
	}
	if !r.asked {
		return broken("a message before it said what it needs")
	}
	switch kind := m.GetKind().(type) {
	case *agentv1.ExecResponse_Stdio:
		return r.takeStdio(kind.Stdio)
	case *agentv1.ExecResponse_Output:
		return r.takeOutput(kind.Output)
	case *agentv1.ExecResponse_Lookups:
		return r.takeLookups(kind.Lookups)
	case *agentv1.ExecResponse_Result:
		return r.takeResult(kind.Result)
	}
	return broken("a message of no kind")
}

func (r *receiver) takeNeeded(m *agentv1.Needed) error {
	if r.asked {
		return broken("it said twice what it needs")
	}
	r.asked = true
	seen := make(map[digest.Digest]bool)
	for _, b := range m.GetBlobs() {
		d, err := digest.FromBytes(b.GetSha256(), b.GetSize())
		if err != nil || !r.inputs[d] || seen[d] {
			return broken("it needs a blob that is no input, or one twice")
		}
		seen[d] = true
		r.needed = append(r.needed, d)
	}
	return nil
}

func (r *receiver) takeStdio(m *agentv1.Stdio) error {
	if len(m.GetData()) > agentv1.ChunkSize {
		return broken("a chunk of %d bytes", len(m.GetData()))
	}
	if r.stdio += uint64(len(m.GetData())); r.stdio > r.header.GetLimits().GetStdioBytes() {
		return broken("it prints more than the limit")
	}
	var w io.Writer
	switch m.GetStream() {
	case agentv1.Stdio_STREAM_STDOUT:
		w = r.sinks.Stdout
	case agentv1.Stdio_STREAM_STDERR:
		w = r.sinks.Stderr
	default:
		return broken("it prints to stream %d", m.GetStream())
	}
	return write(w, m.GetData())
}

func write(w io.Writer, p []byte) error {
	if w == nil {
		return nil
	}
	if _, err := w.Write(p); err != nil {
		return &SinkError{err}
	}
	return nil
}

func (r *receiver) takeOutput(m *agentv1.OutputChunk) error {
	i := int(m.GetOutput())
	switch {
	case i < 0 || i >= len(r.job.Outputs):
		return broken("an output that was not declared")
	case i < r.output:
		return broken("outputs out of order")
	case len(m.GetData()) == 0 && i == r.output || len(m.GetData()) > agentv1.ChunkSize:
		return broken("a chunk of %d bytes", len(m.GetData()))
	}
	if i > r.output {
		r.finish()
		if err := r.begin(i); err != nil {
			return err
		}
	}
	r.size += int64(len(m.GetData()))
	if r.total += int64(len(m.GetData())); r.total > agentv1.MaxOutputBytes || uint64(r.size) > r.header.GetLimits().GetFileBytes() {
		return broken("outputs of more bytes than the limit")
	}
	r.hash.Write(m.GetData())
	return write(r.writer, m.GetData())
}

// begin opens the sink for output i.
func (r *receiver) begin(i int) error {
	r.output, r.hash, r.size, r.writer = i, sha256.New(), 0, nil
	if r.sinks.Output == nil {
		return nil
	}
	w, err := r.sinks.Output(r.job.Outputs[i])
	if err != nil {
		return &SinkError{err}
	}
	r.writer = w
	return nil
}

// finish notes what was received of the output under way.
func (r *receiver) finish() {
	if r.output < 0 || r.hash == nil {
		return
	}
	d, err := digest.FromBytes(r.hash.Sum(nil), r.size)
	if err == nil {
		r.digests[r.output] = d
	}
	r.hash = nil
}

func (r *receiver) takeLookups(m *agentv1.Lookups) error {
	for _, l := range m.GetLookups() {
		if len(r.lookups) >= agentv1.MaxLookups {
			return broken("more than %d lookups", agentv1.MaxLookups)
		}
		p := string(l.GetPath())
		if r.lookupBytes += len(p); r.lookupBytes > agentv1.MaxLookupBytes {
			return broken("lookups of more than %d bytes", agentv1.MaxLookupBytes)
		}
		if err := agentv1.CheckPath(p); err != nil {
			return broken("a lookup: %v", err)
		}
		if agentv1.RootOf(r.job.Roots, p) == "" {
			return broken("a lookup outside the project roots: %q", clip(p))
		}
		if r.lookups[p] {
			return broken("a lookup twice: %q", clip(p))
		}
		f := Found(l.GetFound())
		if f < Absent || f > FoundOther {
			return broken("a lookup that found %d", f)
		}
		r.lookups[p] = true
		r.result.Lookups = append(r.result.Lookups, Lookup{p, f})
	}
	return nil
}

var limits = map[agentv1.ExecResult_Limit]Limit{
	agentv1.ExecResult_LIMIT_UNSPECIFIED: "",
	agentv1.ExecResult_LIMIT_MEMORY:      LimitMemory,
	agentv1.ExecResult_LIMIT_PROCESSES:   LimitProcesses,
	agentv1.ExecResult_LIMIT_FILE:        LimitFile,
	agentv1.ExecResult_LIMIT_DISK:        LimitDisk,
	agentv1.ExecResult_LIMIT_STDIO:       LimitStdio,
	agentv1.ExecResult_LIMIT_TIME:        LimitTime,
}

func (r *receiver) takeResult(m *agentv1.ExecResult) error {
	r.finish()
	limit, known := limits[m.GetLimit()]
	if !known {
		return broken("a limit %d", m.GetLimit())
	}
	if m.GetExitCode() < 0 || m.GetExitCode() > 255 || m.GetSignal() < 0 || m.GetSignal() > 64 || m.GetSignal() != 0 && m.GetExitCode() != 0 {
		return broken("exit status %d, signal %d", m.GetExitCode(), m.GetSignal())
	}
	last := -1
	for _, o := range m.GetOutputs() {
		i := int(o.GetOutput())
		if i <= last || i >= len(r.job.Outputs) {
			return broken("an output that was not declared, or out of order")
		}
		last = i
		said, err := digest.FromBytes(o.GetDigest().GetSha256(), o.GetDigest().GetSize())
		if err != nil {
			return broken("output %q: %v", r.job.Outputs[i], err)
		}
		got, sent := r.digests[i]
		if !sent || got != said {
			return broken("output %q is not what it sent", r.job.Outputs[i])
		}
		delete(r.digests, i)
		if o.GetMode()&^0o777 != 0 {
			return broken("output %q of mode %#o", r.job.Outputs[i], o.GetMode())
		}
		r.result.Outputs = append(r.result.Outputs, Output{r.job.Outputs[i], got, fs.FileMode(o.GetMode())})
	}
	if len(r.digests) > 0 {
		return broken("it sent an output that its result does not name")
	}
	u := m.GetUsage()
	for _, v := range []int64{u.GetUserMicros(), u.GetSystemMicros(), u.GetWallMicros()} {
		if v < 0 || v > int64(1000*24*time.Hour/time.Microsecond) {
			return broken("a time of %d µs", v)
		}
	}
	if u.GetMaxRssBytes() < 0 {
		return broken("a negative size")
	}
	r.result.ExitCode, r.result.Signal, r.result.Limit = int(m.GetExitCode()), int(m.GetSignal()), limit
	r.result.LookupsTruncated = m.GetLookupsTruncated()
	r.result.Usage = Usage{
		User: time.Duration(u.GetUserMicros()) * time.Microsecond, System: time.Duration(u.GetSystemMicros()) * time.Microsecond,
		Wall: time.Duration(u.GetWallMicros()) * time.Microsecond, MaxRSS: u.GetMaxRssBytes(),
	}
	r.done = true
	return nil
}
