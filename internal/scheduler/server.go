package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/telemetry"
	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
)

// Keys sign task tokens. *auth.Keyring is one.
type Keys interface {
	// Sign makes a token of a task.
	Sign(auth.Task) (string, error)
	// JWKS is the JSON Web Key Set that tokens are checked with.
	JWKS() []byte
	// Newest is when the newest key was made, and Rotate makes another.
	Newest() time.Time
	Rotate() error
}

// Options are what a scheduler is made of.
type Options struct {
	Keys        Keys
	Credentials *auth.Credentials
	// Token is how long task tokens live; 0 is DefaultToken.
	Token time.Duration
	// Interval is how often workers are to report, Expiry how long one may be
	// silent; zeros are 5 and 20 seconds.
	Interval, Expiry time.Duration
	// Rotate is how old the newest key gets before the next is made; 0 is never.
	Rotate time.Duration
	// Metrics gets the scheduler's; nil is for nobody.
	Metrics *telemetry.Registry
	// Log gets what happens; nil for nowhere.
	Log *slog.Logger
}

const (
	// DefaultToken is how long a task token lives: what is revoked, or who is
	// taken out of the settings, goes on for as long.
	DefaultToken = 5 * time.Minute
	// assignments is how many workers a client is told.
	assignments = 3
)

// Scheduler routes. Its methods may be called by many goroutines at once.
type Scheduler struct {
	opt         Options
	log         *slog.Logger
	credentials atomic.Pointer[auth.Credentials]
	registry    *registry
	metrics     *metrics
	pace        pace
	started     time.Time
	stopping    chan struct{} // closed when Serve ends

	schedulerv1.UnimplementedSchedulerServiceServer
	schedulerv1.UnimplementedRegistryServiceServer
}

// New makes a scheduler.
func New(opt Options) (*Scheduler, error) {
	opt.Token = cmp.Or(opt.Token, DefaultToken)
	opt.Interval = cmp.Or(opt.Interval, 5*time.Second)
	opt.Expiry = cmp.Or(opt.Expiry, 20*time.Second)
	switch {
	case opt.Keys == nil || opt.Credentials == nil:
		return nil, errors.New("scheduler: neither keys nor credentials may be missing")
	case opt.Token > auth.MaxLifetime:
		return nil, fmt.Errorf("scheduler: tokens of %v: no worker takes one of more than %v", opt.Token, auth.MaxLifetime)
	case opt.Interval < 0 || opt.Expiry < 2*opt.Interval:
		return nil, fmt.Errorf("scheduler: an expiry of %v at an interval of %v: must be twice as long at least", opt.Expiry, opt.Interval)
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	s := &Scheduler{
		opt: opt, log: opt.Log, registry: newRegistry(opt.Expiry),
		started: time.Now(), stopping: make(chan struct{}),
	}
	s.credentials.Store(opt.Credentials)
	s.metrics = s.newMetrics(opt.Metrics)
	return s, nil
}

// SetCredentials replaces all credentials. Tokens that are out stay good until
// they expire. A worker whose credentials have all gone gets no more clients; one
// that has got a new one instead comes back by its next heartbeat.
func (s *Scheduler) SetCredentials(c *auth.Credentials) {
	before := s.credentials.Swap(c)
	s.registry.drop(c.Revoked(before, auth.Worker))
}

// Route implements SchedulerService.
func (s *Scheduler) Route(ctx context.Context, req *schedulerv1.RouteRequest) (*schedulerv1.RouteResponse, error) {
	id := caller(ctx)
	resp, outcome, err := s.route(ctx, id, req)
	s.metrics.routes.Inc(id.Tenant, outcome)
	return resp, err
}

func (s *Scheduler) route(ctx context.Context, id auth.Identity, req *schedulerv1.RouteRequest) (_ *schedulerv1.RouteResponse, outcome string, _ error) {
	if err := checkRoute(req); err != nil {
		return nil, "invalid", status.Error(codes.InvalidArgument, err.Error())
	}
	if !id.MayUse(req.Image) {
		s.refuse(ctx, "image-refused", req.Image, slog.String("tenant", id.Tenant), slog.String("subject", id.Subject))
		return nil, "image_refused", status.Errorf(codes.PermissionDenied, "tenant %s may not use image %s: whoever runs the scheduler can allow it", id.Tenant, req.Image)
	}
	q := &Query{Tenant: id.Tenant, Image: req.Image, Platform: req.Platform, Avoid: req.Avoid}
	best, err := s.choose(ctx, q)
	var full *OverloadError
	var none *NoWorkerError
	switch {
	case errors.As(err, &full):
		return nil, "overloaded", s.later(codes.ResourceExhausted, err)
	case errors.As(err, &none):
		return nil, "no_worker", s.later(codes.Unavailable, err)
	case err != nil:
		return nil, "gone", status.FromContextError(err).Err()
	}
	expires := time.Now().Add(s.opt.Token)
	resp := &schedulerv1.RouteResponse{
		// A compile that begins at the last moment still has a token that its
		// worker takes.
		Expires: durationpb.New(s.opt.Token * 4 / 5),
	}
	for _, w := range best {
		token, err := s.opt.Keys.Sign(auth.Task{Tenant: id.Tenant, Subject: id.Subject, Image: req.Image, Worker: w.name, Expires: expires})
		if err != nil {
			s.log.LogAttrs(ctx, slog.LevelError, "no task token", slog.String("error", err.Error()))
			return nil, "error", status.Error(codes.Internal, "no task token could be made: see the scheduler's log")
		}
		resp.Workers = append(resp.Workers, &schedulerv1.Assignment{
			Worker: w.name, Address: w.address, TlsPin: w.pin[:], TaskToken: token,
		})
	}
	return resp, "routed", nil
}

// choose routes. Right after a start it waits for workers, which may all be
// there and not have reported yet.
func (s *Scheduler) choose(ctx context.Context, q *Query) ([]choice, error) {
	waiting := s.starting()
	if d, ok := ctx.Deadline(); ok {
		// An answer with a time to try again says more than none in time.
		waiting = min(waiting, time.Until(d)*3/4)
	}
	var end <-chan time.Time
	if waiting > 0 {
		t := time.NewTimer(waiting)
		defer t.Stop()
		end = t.C
	}
	for {
		best, changed, err := s.registry.route(q, assignments, time.Now())
		var none *NoWorkerError
		if !errors.As(err, &none) || end == nil {
			return best, err
		}
		select {
		case <-changed:
		case <-end:
			end = nil
		case <-s.stopping:
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// starting is for how long, after a start, workers may still be about to report:
// one interval for a heartbeat to be due, one for a worker to notice that its
// connection is gone and make another.
func (s *Scheduler) starting() time.Duration { return time.Until(s.started.Add(2 * s.opt.Interval)) }

// later is an error with a time to try again. Before the next heartbeats nothing
// can have changed; and not all who are sent away are to come back at once.
func (s *Scheduler) later(code codes.Code, err error) error {
	base := s.opt.Interval
	if s.starting() > 0 {
		base = max(base/4, 1)
	}
	delay := base + rand.N(base)
	st, detailErr := status.New(code, err.Error()).WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	if detailErr != nil {
		return status.Error(code, err.Error())
	}
	return st.Err()
}

// Heartbeat implements RegistryService.
func (s *Scheduler) Heartbeat(ctx context.Context, req *schedulerv1.HeartbeatRequest) (*schedulerv1.HeartbeatResponse, error) {
	id := caller(ctx)
	if req.Worker != id.Subject {
		s.refuse(ctx, "worker-refused", "another worker's name", slog.String("subject", id.Subject))
		return nil, status.Errorf(codes.PermissionDenied, "this is the credential of worker %s: set that name in the worker's settings, or the credential of its own", id.Subject)
	}
	pin, err := checkHeartbeat(req)
	if err != nil {
		s.metrics.heartbeats.Inc("invalid")
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if c := s.registry.beat(req, pin, connectionOf(ctx, req.Worker), time.Now()); c != unchanged {
		s.log.LogAttrs(ctx, slog.LevelInfo, "worker", slog.String("what", string(c)), slog.String("worker", req.Worker),
			slog.String("address", req.Address), slog.String("platform", req.Platform), slog.String("version", req.Version),
			slog.String("tls_pin", pin.String()), slog.Uint64("capacity", uint64(req.Capacity)))
	}
	s.metrics.heartbeats.Inc("taken")
	return &schedulerv1.HeartbeatResponse{Jwks: s.opt.Keys.JWKS(), Interval: durationpb.New(s.opt.Interval)}, nil
}

// Workers implements RegistryService. A worker sees itself alone: who else
// compiles, and for whom, is no business of a host that may be in an attacker's
// hands.
func (s *Scheduler) Workers(ctx context.Context, _ *schedulerv1.WorkersRequest) (*schedulerv1.WorkersResponse, error) {
	id := caller(ctx)
	resp := &schedulerv1.WorkersResponse{}
	for _, w := range s.registry.states(time.Now()) {
		if id.Role == auth.Operator || w.last.Worker == id.Subject {
			resp.Workers = append(resp.Workers, &schedulerv1.WorkerState{Last: w.last, Age: durationpb.New(w.age)})
		}
	}
	return resp, nil
}
