package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/wirezip"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// Compile has a job done on a worker, and returns what it left. When ctx ends,
// the job is killed. Nothing of a result that was not checked is returned, and
// nothing is written anywhere.
func (c *Client) Compile(ctx context.Context, r *Request) (*Result, error) {
	w, err := newWork(r, c.sent)
	if err != nil {
		return nil, err
	}
	var result *Result
	err = c.try(ctx, r.Job.Image, func(a *assignment) error {
		var err error
		result, err = c.compile(ctx, a, w)
		return err
	})
	if err != nil {
		return nil, err
	}
	result.Attempts, result.SentBlobs, result.SentBytes, result.SentPatches = w.attempts, w.blobs, w.blobBytes, int64(len(w.patched))
	return result, nil
}

// stream is a call of Compile; gRPC's, but for tests.
type stream interface {
	Send(*workerv1.CompileRequest) error
	Recv() (*workerv1.CompileResponse, error)
	CloseSend() error
}

// compile has the job done on one worker.
func (c *Client) compile(ctx context.Context, a *assignment, w *work) (*Result, error) {
	l, err := c.link(a)
	if err != nil {
		return nil, err
	}
	// The call outlives this function by a moment, and ends with ctx until then.
	call, cancel := context.WithCancel(authorize(context.WithoutCancel(ctx), a.token))
	unlink := context.AfterFunc(ctx, cancel)
	end := func() {
		unlink()
		cancel()
		c.conns.put(l)
	}
	codec := newCodec()
	s, err := workerv1.NewWorkerServiceClient(l.conn).Compile(call, grpc.ForceCodecV2(codec), grpc.UseCompressor(wirezip.Name))
	if err != nil {
		defer end()
		return nil, c.notBegun(ctx, l, err, codec)
	}
	x := &exchange{ctx: ctx, s: s, codec: codec, w: w, worker: a.worker, patience: c.opt.Patience}
	x.watchdog = time.AfterFunc(x.patience, func() {
		x.silent.Store(true)
		cancel()
	})
	result, err := x.run()
	x.watchdog.Stop()
	if err != nil {
		end()
		return nil, err
	}
	// What a worker says after the end changes nothing of what was checked, but
	// it is seen. A hit's worker has waited for this side until now.
	unlink()
	if !c.background(func(ctx context.Context) {
		defer end()
		stop := context.AfterFunc(ctx, cancel)
		defer stop()
		limit := time.AfterFunc(lingering, cancel)
		defer limit.Stop()
		if m, err := s.Recv(); err == nil && m != nil {
			c.health.lied(a.worker, &LyingError{a.worker, "a message after the end"})
			c.log.Warn("worker-lied", "worker", a.worker, "reason", "a message after the end")
		}
	}) {
		end()
	}
	return result, nil
}

// lingering is how long a worker may take to end a call that is done.
const lingering = 5 * time.Second

// notBegun says why a call could not be started.
func (c *Client) notBegun(ctx context.Context, l *link, err error, codec *codec) error {
	if ctx.Err() == nil && status.Code(err) == codes.Unavailable {
		c.conns.drop(l)
		return &failure{unreachable, 0, err}
	}
	return failed(ctx, err, codec)
}

// exchange is one call of Compile.
type exchange struct {
	ctx    context.Context // the caller's
	s      stream
	codec  *codec
	w      *work
	worker string

	// watchdog ends the call if it is not put back in patience.
	patience time.Duration
	watchdog *time.Timer
	silent   atomic.Bool
}

func (x *exchange) failed(err error) error {
	if x.silent.Load() && x.ctx.Err() == nil {
		return &failure{lost, 0, fmt.Errorf("it has said nothing for %v", x.patience)}
	}
	return failed(x.ctx, err, x.codec)
}

// run sends the job, with what is found to be missing, until it is answered and
// all that it did not find is confirmed.
func (x *exchange) run() (*Result, error) {
	for again := 0; ; again++ {
		x.w.attempts++
		x.w.compare(x.ctx)
		if err := x.send(x.w.message); err != nil {
			return nil, err
		}
		a := newAnswer(x.w, x.worker)
		if err := x.until(a, outcome); err != nil {
			return nil, err
		}
		x.w.settle()
		more, err := x.confirm(a)
		if err != nil {
			return nil, err
		}
		if !more {
			return x.accept(a)
		}
		if again == workerv1.MaxAttempts {
			return nil, &RefusedError{Reason: fmt.Sprintf("the job looked for other files in each of %d attempts: compile it here", again+1)}
		}
		if a.result.Hit {
			// Its outputs are on their way. To send before they are read could
			// have both sides wait for each other.
			if err := x.until(a, finished); err != nil {
				return nil, err
			}
		}
	}
}

// until takes messages up to a stage, and sends what is asked for.
func (x *exchange) until(a *answer, end stage) error {
	for a.stage < end {
		m, err := x.s.Recv()
		if err != nil {
			return x.failed(err)
		}
		x.watchdog.Reset(x.patience)
		before := a.stage
		if err := a.take(m); err != nil {
			return err
		}
		if before == first && a.stage == asked {
			if err := x.upload(a.needed); err != nil {
				return err
			}
		}
	}
	return nil
}

// confirm asks the caller about what the job did not find, and tells whether it
// has to be sent again.
func (x *exchange) confirm(a *answer) (bool, error) {
	if len(a.absent) == 0 || x.w.Confirm == nil {
		return false, nil
	}
	more, err := x.w.Confirm(x.ctx, a.absent)
	if err != nil || len(more) == 0 {
		return false, err
	}
	return true, x.w.add(more, a.absent)
}

// accept takes the result.
func (x *exchange) accept(a *answer) (*Result, error) {
	if !a.result.Hit {
		if err := x.send(&workerv1.CompileRequest{Kind: &workerv1.CompileRequest_Accept{Accept: &workerv1.Accept{}}}); err != nil {
			return nil, err
		}
	}
	if err := x.s.CloseSend(); err != nil {
		return nil, x.failed(err)
	}
	if err := x.until(a, finished); err != nil {
		return nil, err
	}
	return &a.result, nil
}

// send sends one message. Where the worker has ended the call, it says why.
func (x *exchange) send(m *workerv1.CompileRequest) error {
	err := x.s.Send(m)
	switch {
	case err == nil:
		x.watchdog.Reset(x.patience)
		return nil
	case errors.Is(err, io.EOF):
		return x.ended()
	case status.Code(err) == codes.ResourceExhausted && x.ctx.Err() == nil:
		return &RefusedError{fmt.Sprintf("the job cannot be sent: its description is longer than %d bytes", workerv1.MaxMessage), err}
	}
	return x.failed(err)
}

// ended reads why the worker ended the call. What it has said before that is
// skipped: a worker that does not take a job out has nothing to say of it.
func (x *exchange) ended() error {
	const most = 16
	for range most {
		if _, err := x.s.Recv(); err != nil {
			return x.failed(err)
		}
	}
	return lie("it goes on talking, and does not listen")
}

// upload sends the contents of files.
func (x *exchange) upload(needed []digest.Digest) error {
	for _, d := range needed {
		if err := x.uploadOne(d); err != nil {
			return err
		}
		x.w.blobs++
		x.w.blobBytes += d.Size()
	}
	return nil
}

// uploadOne sends one content. Its last chunk is sent once all of it was
// verified: what a file holds that changed meanwhile is never whole.
func (x *exchange) uploadOne(d digest.Digest) error {
	path := x.w.contents()[d]
	broken := func(err error) error {
		if errors.Is(err, digest.ErrMismatch) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			err = fmt.Errorf("%w: %w", ErrInputChanged, err)
		}
		return &InputError{path, err}
	}
	if remembered(d) {
		b, err := x.w.read(x.ctx, d)
		if err != nil {
			return broken(err)
		}
		for rest := b; len(rest) > 0; {
			chunk := rest[:min(len(rest), workerv1.ChunkSize)]
			if err := x.sendChunk(chunk); err != nil {
				return err
			}
			rest = rest[len(chunk):]
		}
		x.w.sent.put(&content{path, d, b})
		return nil
	}
	f, err := x.w.Open(x.ctx, d)
	if err != nil {
		return broken(err)
	}
	defer f.Close()
	verified := digest.NewVerifier(f, d)
	buf := make([]byte, min(d.Size(), workerv1.ChunkSize))
	for left := d.Size(); ; {
		n, err := io.ReadFull(verified, buf[:min(left, int64(len(buf)))])
		if err != nil {
			return broken(err)
		}
		if left -= int64(n); left == 0 {
			// The end tells whether the digest is right.
			if _, err := io.Copy(io.Discard, verified); err != nil {
				return broken(err)
			}
		}
		if err := x.sendChunk(buf[:n]); err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
	}
}

// sendChunk has serialised the chunk when it returns, so that it can be used again.
func (x *exchange) sendChunk(data []byte) error {
	return x.send(&workerv1.CompileRequest{Kind: &workerv1.CompileRequest_Blob{Blob: &workerv1.Blob{Data: data}}})
}
