package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// kind says what to do after a failure.
type kind int

const (
	unreachable      kind = iota + 1 // not connected
	lost                             // the call broke, or the worker ends
	broke                            // the worker failed by itself, or its guest
	full                             // for as long as it says
	notAuthenticated                 // needs a new token
)

// failure is a worker's, and lets another try.
type failure struct {
	kind  kind
	delay time.Duration // of full
	err   error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func (f *failure) text() string { return said(status.Convert(f.err).Message()) }

// workerError names the worker of a failure.
type workerError struct {
	worker string
	f      *failure
}

func (e *workerError) Error() string {
	what := map[kind]string{unreachable: "cannot be reached", lost: "was lost", broke: "failed", full: "is full"}
	return fmt.Sprintf("worker %q %s: %s", e.worker, what[e.f.kind], e.f.text())
}

func (e *workerError) Unwrap() error { return e.f }

// defaultFull is for a worker that is full and does not say for how long.
const defaultFull = time.Second

// failed says what the end of a worker's call means: ctx is the caller's, not
// that of the call. A nil error and io.EOF are ends without a result.
func failed(ctx context.Context, err error, codec *codec) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if codec.err != nil {
		return lie("a message that cannot be decoded: %s", said(codec.err.Error()))
	}
	if err == nil || errors.Is(err, io.EOF) {
		return lie("the stream ended without a result")
	}
	s := status.Convert(err)
	switch s.Code() {
	case codes.ResourceExhausted:
		delay, ok := retryInfo(s)
		// gRPC's own words, of a message that passes a limit of this side; what
		// a worker says instead of them harms itself.
		if !ok && strings.HasPrefix(s.Message(), "grpc: ") && strings.Contains(s.Message(), "larger than max") {
			return lie("a message that is too long: %s", said(s.Message()))
		}
		if !ok {
			delay = defaultFull
		}
		return &failure{full, delay, err}
	case codes.Unauthenticated:
		return &failure{notAuthenticated, 0, err}
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
		return &failure{lost, 0, err}
	case codes.PermissionDenied:
		return &RefusedError{"the worker does not allow it: " + said(s.Message()) + " (ask who runs the scheduler which images your tenant may use)", err}
	case codes.FailedPrecondition:
		return &RefusedError{"the image cannot be used, or the job not run in it: " + said(s.Message()) + " (check the image's digest, and that it has the compiler)", err}
	case codes.InvalidArgument, codes.Unimplemented:
		return &RefusedError{"the worker does not understand the job: " + said(s.Message()) + " (are client and worker of one version?)", err}
	}
	return &failure{broke, 0, err}
}

// retryInfo is how long the other side asks to be left alone.
func retryInfo(s *status.Status) (time.Duration, bool) {
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok && info.GetRetryDelay().IsValid() {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

// codec is protobuf's, and keeps the error of a message that was received and
// that is none: gRPC gives it the code of a call that failed by itself. It is of
// one call.
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
