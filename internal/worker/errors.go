package worker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/vm"
)

// maxMessage bounds the text of a status: parts of it come from clients and
// guests.
const maxMessage = 500

// failf makes a status that a client is given as it is.
func failf(code codes.Code, format string, args ...any) error {
	text := strings.ToValidUTF8(fmt.Sprintf(format, args...), "\uFFFD")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return status.Error(code, text)
}

// retryLater is RESOURCE_EXHAUSTED with a RetryInfo.
func retryLater(after time.Duration, err error) error {
	s := status.Convert(failf(codes.ResourceExhausted, "%v", err))
	if with, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)}); err == nil {
		s = with
	}
	return s.Err()
}

var (
	// errEnded: the client ended its half of the stream before it was answered.
	errEnded = errors.New("the stream ended before the compile did")
	// errHung: neither the job's own limit nor the agent ended it.
	errHung = errors.New("the machine did not end the job at its time limit")
	// errSilent: nothing came for too long.
	errSilent = errors.New("nothing came from the client for too long")
)

// spoolRetry is when what many large blobs hold up may be gone.
const spoolRetry = 5 * time.Second

// toStatus says what an error of a compile is to a client. Those that are a
// status already stay.
func toStatus(err error) error {
	var (
		full    *vm.FullError
		over    *QuotaError
		image   *ImageError
		guest   *agentapi.GuestError
		lost    *agentapi.LostError
		refused *agentapi.RefusedError
		source  *agentapi.SourceError
	)
	// Not status.FromError: it would find what a guest's connection ended with.
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return err
	}
	switch {
	case errors.As(err, &full):
		return retryLater(full.RetryAfter, full)
	case errors.As(err, &over):
		return retryLater(over.RetryAfter, over)
	case errors.Is(err, errSpoolFull):
		return retryLater(spoolRetry, errSpoolFull)
	case errors.As(err, &image), errors.As(err, &refused):
		return failf(codes.FailedPrecondition, "%v", err)
	case errors.As(err, &guest):
		return failf(codes.DataLoss, "%v", err)
	case errors.As(err, &lost), errors.Is(err, errHung):
		return failf(codes.Unavailable, "%v", err)
	case errors.As(err, &source) && errors.Is(err, cache.ErrNotFound):
		return failf(codes.Unavailable, "an input was evicted, or found damaged, before the job had it: send the job again")
	case errors.Is(err, errEnded), errors.Is(err, context.Canceled):
		return failf(codes.Canceled, "%v", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, errSilent):
		return failf(codes.DeadlineExceeded, "%v", err)
	}
	return failf(codes.Internal, "%v", err)
}
