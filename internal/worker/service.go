package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/telemetry"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// Verifier tells what a task token says; see auth.Verifier.
type Verifier interface {
	Verify(token, worker string) (auth.Task, error)
}

// Images are the images that the worker has, or can get.
type Images interface {
	// File returns the digest of a regular file of an image, with links followed
	// within the image; false if there is none. Errors: *ImageError, and others
	// that another worker, or a later time, may not have.
	File(ctx context.Context, image, path string) (digest.Digest, bool, error)
}

// Options of a Service. All but Limits, Metrics and Log are required.
type Options struct {
	// Name is the worker's: tokens for other workers are refused.
	Name string
	// Version is hpcc's, for the rows.
	Version string
	// Dir is the worker's own directory: tenants' stores lie in tenants/NAME.
	Dir string
	// StoreBytes is the limit of each tenant's store.
	StoreBytes int64
	// Shared, if it is not nil, makes a tenant's part of the caches that workers
	// share. The service closes it. It is called once for a tenant, when that has
	// its first compile.
	Shared func(tenant string) (Shared, error)

	Verifier Verifier
	Machines Machines
	Images   Images
	Audit    audit.Log

	// Limits of one job; zeros are the agent's defaults. What a job prints is
	// bounded by MaxStdio in any case.
	Limits agentapi.Limits
	// MaxStreams bounds the compiles that are under way or wait; 0 is 2048.
	MaxStreams int
	// Quotas are each tenant's.
	Quotas Quotas

	Metrics *telemetry.Registry
	Log     *slog.Logger
}

// Service implements the worker's gRPC service. It may be used by many goroutines
// at once.
type Service struct {
	workerv1.UnimplementedWorkerServiceServer

	opt     Options
	stores  stores
	memory  *memory
	flights flights
	fits    fits
	quotas  quotas
	metrics *metrics
	started time.Time
	// refresh asks the scheduler for its keys; nil where nobody reports to one.
	refresh func(context.Context)

	draining atomic.Bool
	streams  atomic.Int64
}

// defaultStreams are a few hundred laptops' worth of make -j.
const defaultStreams = 2048

// New makes a service.
func New(opt Options) (*Service, error) {
	if opt.Name == "" || opt.Dir == "" || opt.Verifier == nil || opt.Machines == nil || opt.Images == nil || opt.Audit == nil {
		return nil, errors.New("worker: a required option is missing")
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Metrics == nil {
		opt.Metrics = telemetry.New()
	}
	if opt.MaxStreams <= 0 {
		opt.MaxStreams = defaultStreams
	}
	if opt.Quotas.Compiles <= 0 {
		opt.Quotas.Compiles = max(1, opt.MaxStreams/2)
	}
	if opt.Quotas.UploadRate < 0 || opt.Quotas.UploadRate > maxUploadRate || opt.Quotas.UploadRate > 0 && opt.Quotas.UploadRate < leastUploadRate {
		return nil, fmt.Errorf("worker: an upload rate of %d bytes a second: want %d to %d", opt.Quotas.UploadRate, leastUploadRate, int64(maxUploadRate))
	}
	if opt.Limits.Time <= 0 {
		opt.Limits.Time = defaultTime
	}
	if opt.Limits.StdioBytes <= 0 || opt.Limits.StdioBytes > workerv1.MaxStdio {
		opt.Limits.StdioBytes = workerv1.MaxStdio
	}
	s := &Service{
		opt: opt, memory: newMemory(), started: time.Now().UTC(), quotas: quotas{Quotas: opt.Quotas},
		stores: stores{dir: filepath.Join(opt.Dir, "tenants"), maxBytes: opt.StoreBytes, makeShared: opt.Shared},
	}
	s.metrics = newMetrics(opt.Metrics, s)
	return s, nil
}

// Drain makes the service refuse what is new. What is under way goes on.
func (s *Service) Drain() { s.draining.Store(true) }

// Draining tells whether Drain was called.
func (s *Service) Draining() bool { return s.draining.Load() }

// Streams is how many compiles are under way or wait.
func (s *Service) Streams() int { return int(s.streams.Load()) }

// Close closes the stores, and waits for a while until what is on its way to the
// shared caches is there. No stream may be left: the server was stopped before.
func (s *Service) Close() error {
	s.Drain()
	ctx, cancel := context.WithTimeout(context.Background(), sharedPatience)
	defer cancel()
	return s.stores.close(ctx)
}

// authenticate returns the task that a call is for.
func (s *Service) authenticate(ctx context.Context) (auth.Task, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 {
		return auth.Task{}, failf(codes.Unauthenticated, "want one authorization, with a task token of the scheduler's")
	}
	token, ok := strings.CutPrefix(values[0], "Bearer ")
	if !ok {
		return auth.Task{}, failf(codes.Unauthenticated, "the authorization is no bearer token")
	}
	task, err := s.opt.Verifier.Verify(token, s.opt.Name)
	var refused *auth.TokenError
	if errors.As(err, &refused) && refused.Problem == auth.UnknownKey && s.refresh != nil {
		s.refresh(ctx)
		task, err = s.opt.Verifier.Verify(token, s.opt.Name)
	}
	if err != nil {
		s.opt.Log.Warn("token-refused", "error", err)
		return auth.Task{}, failf(codes.Unauthenticated, "task token: %v", err)
	}
	return task, nil
}

// begin counts a tenant's call in, unless there are too many or the worker drains.
func (s *Service) begin(tenant string) (end func(), err error) {
	if s.Draining() {
		return nil, failf(codes.Unavailable, "this worker is being drained: ask the scheduler for another")
	}
	if s.streams.Add(1) > int64(s.opt.MaxStreams) {
		s.streams.Add(-1)
		return nil, retryLater(time.Second, fmt.Errorf("%d compiles are under way already", s.opt.MaxStreams))
	}
	leave, err := s.quotas.begin(tenant)
	if err != nil {
		s.streams.Add(-1)
		return nil, s.overQuota(tenant, err)
	}
	return func() {
		leave()
		s.streams.Add(-1)
	}, nil
}

// overQuota counts a quota that was reached.
func (s *Service) overQuota(tenant string, err error) error {
	var over *QuotaError
	if errors.As(err, &over) {
		s.metrics.overQuota.Inc(tenant, over.Quota)
	}
	return err
}

// Compile implements the service.
func (s *Service) Compile(stream grpc.BidiStreamingServer[workerv1.CompileRequest, workerv1.CompileResponse]) error {
	c, err := s.newCompile(stream)
	if err == nil {
		defer c.close()
		err = c.serve()
	}
	if err != nil {
		err = toStatus(err)
		s.metrics.refused(err)
		s.opt.Log.Debug("compile refused", "error", err)
	}
	return err
}

func (s *Service) newCompile(stream grpc.BidiStreamingServer[workerv1.CompileRequest, workerv1.CompileResponse]) (*compile, error) {
	task, err := s.authenticate(stream.Context())
	if err != nil {
		return nil, err
	}
	end, err := s.begin(task.Tenant)
	if err != nil {
		return nil, err
	}
	store, err := s.stores.get(task.Tenant)
	if err != nil {
		end()
		return nil, fmt.Errorf("the tenant's store: %w", err)
	}
	c := newCompile(s, stream, task, store.Disk, end)
	c.shared = store.shared
	return c, nil
}

// Describe implements the service.
func (s *Service) Describe(ctx context.Context, r *workerv1.DescribeRequest) (*workerv1.DescribeResponse, error) {
	answer, err := s.describe(ctx, r)
	if err != nil {
		err = toStatus(err)
		s.metrics.refused(err)
	}
	return answer, err
}

func (s *Service) describe(ctx context.Context, r *workerv1.DescribeRequest) (*workerv1.DescribeResponse, error) {
	task, err := s.authenticate(ctx)
	if err != nil {
		return nil, err
	}
	end, err := s.begin(task.Tenant)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := checkDescribe(r, task.Image); err != nil {
		return nil, err
	}
	answer := &workerv1.DescribeResponse{}
	for _, p := range r.GetPaths() {
		d, ok, err := s.opt.Images.File(ctx, r.GetImage(), p)
		if err != nil {
			var image *ImageError
			if errors.As(err, &image) || ctx.Err() != nil {
				return nil, err
			}
			return nil, failf(codes.Unavailable, "reading image %s: %v", r.GetImage(), err)
		}
		file := wireDigest(d)
		if !ok {
			file.Sha256, file.Size = nil, 0
		}
		answer.Files = append(answer.Files, file)
	}
	return answer, nil
}

// protect turns a panic, which one client's message may have caused, into that
// client's error alone.
func (s *Service) protect(err *error) {
	if p := recover(); p != nil {
		s.opt.Log.Error("panic", "error", p, "stack", string(debug.Stack()))
		*err = failf(codes.Internal, "the worker failed")
	}
}

// ServerOptions are what a gRPC server of the service needs besides credentials.
func (s *Service) ServerOptions() []grpc.ServerOption {
	return append(transportOptions(),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
			defer s.protect(&err)
			return handler(srv, stream)
		}),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (_ any, err error) {
			defer s.protect(&err)
			return handler(ctx, req)
		}))
}
