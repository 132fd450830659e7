package worker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/auth"
	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
)

// Registration is how a worker makes itself known.
type Registration struct {
	// Scheduler is its address, host:port, TLS how it proves who it is.
	Scheduler string
	TLS       *tls.Config
	// Credential is the worker's own; it is asked for at each heartbeat, so that
	// it can be exchanged.
	Credential func() (string, error)
	// Advertise is where clients reach the worker, host:port.
	Advertise string
	// Platform is what the worker compiles on, such as linux/amd64.
	Platform string
	// Pin is of the key that clients will see, which may change.
	Pin func() auth.Pin
	// Images are the digests of the images that are there.
	Images func() ([]string, error)
	// Keys takes the keys that task tokens are signed with, as they come.
	Keys func(jwks []byte) error
}

const (
	// firstInterval is how often a worker reports that was not told another
	// interval; shorter ones than leastInterval, and longer than mostInterval,
	// nobody means.
	firstInterval = 5 * time.Second
	leastInterval = 100 * time.Millisecond
	mostInterval  = time.Minute
	// beatPatience bounds one heartbeat.
	beatPatience = 5 * time.Second
	// maxKeys bounds an answer.
	maxKeys = 256 << 10

	// What a heartbeat can say of; more is of no use to who routes.
	maxReportedImages   = 1000
	maxReportedSessions = 1000
)

// registrar reports a service to the scheduler until it is told to end. What the
// scheduler does not answer changes nothing here: the keys that it last told of
// stay good.
type registrar struct {
	Registration
	service *Service
	conn    *grpc.ClientConn
	now     chan struct{} // asks for a heartbeat at once; holds one

	mu   sync.Mutex
	last time.Time // of the last answer
	err  error     // of the last heartbeat
	// began is when the last heartbeat was sent, and ended is closed when the one
	// that is under way, or comes next, has ended.
	began   time.Time
	beating bool
	ended   chan struct{}
}

const (
	// refreshEvery is how often strangers' tokens can make a worker ask for keys.
	refreshEvery = time.Second
	// refreshPatience is how long a call waits for keys.
	refreshPatience = 3 * time.Second
)

func newRegistrar(s *Service, r Registration) (*registrar, error) {
	if r.Scheduler == "" || r.TLS == nil || r.Credential == nil || r.Advertise == "" || r.Pin == nil || r.Keys == nil {
		return nil, errors.New("worker: a part of the registration is missing")
	}
	if r.Images == nil {
		r.Images = func() ([]string, error) { return nil, nil }
	}
	conn, err := grpc.NewClient("passthrough:///"+r.Scheduler,
		grpc.WithTransportCredentials(credentials.NewTLS(r.TLS)),
		// A scheduler that is back is found at the next heartbeat.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: beatPatience,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxKeys)),
	)
	if err != nil {
		return nil, err
	}
	return &registrar{Registration: r, service: s, conn: conn, now: make(chan struct{}, 1), ended: make(chan struct{})}, nil
}

// run reports until ctx ends, and then once more: that the worker drains.
func (r *registrar) run(ctx context.Context) {
	defer func() { _ = r.conn.Close() }() // no call is left
	go r.watch(ctx)
	interval := firstInterval
	for {
		told, err := r.beat(ctx)
		if err == nil {
			interval = min(max(told, leastInterval), mostInterval)
		}
		r.note(ctx, err)
		// Not all workers at once.
		t := time.NewTimer(interval - rand.N(interval/5+1))
		select {
		case <-ctx.Done():
			t.Stop()
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_, _ = r.beat(last) // else the scheduler finds out by silence
			return
		case <-t.C:
		case <-r.now:
			t.Stop()
		}
	}
}

// watch asks for a heartbeat whenever the connection has ended, since the scheduler
// sends nobody here until it hears of the worker by another. It ends with ctx, or
// with the connection.
func (r *registrar) watch(ctx context.Context) {
	for state := r.conn.GetState(); r.conn.WaitForStateChange(ctx, state); {
		before := state
		if state = r.conn.GetState(); state == connectivity.Shutdown {
			return
		}
		if before == connectivity.Ready && state != connectivity.Ready {
			r.soon()
		}
	}
}

// soon asks for a heartbeat at once.
func (r *registrar) soon() {
	select {
	case r.now <- struct{}{}:
	default:
	}
}

// refresh waits until the scheduler has told of its keys: it sends clients here as
// soon as it has heard of the worker, or has a new key, and some are faster than
// what it answers to the heartbeat. It waits for nothing if it was asked just now.
func (r *registrar) refresh(ctx context.Context) {
	r.mu.Lock()
	ended, beating := r.ended, r.beating
	fresh := !beating && time.Since(r.began) < refreshEvery
	r.mu.Unlock()
	if fresh {
		return
	}
	if !beating {
		r.soon()
	}
	t := time.NewTimer(refreshPatience)
	defer t.Stop()
	select {
	case <-ended:
	case <-ctx.Done():
	case <-t.C:
	}
}

// begin notes that a heartbeat is sent; end, that it has ended.
func (r *registrar) begin() (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.began, r.beating = time.Now(), true
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.beating = false
		close(r.ended)
		r.ended = make(chan struct{})
	}
}

// note keeps how a heartbeat went, and logs what has changed.
func (r *registrar) note(ctx context.Context, err error) {
	r.mu.Lock()
	before, ever := r.err, !r.last.IsZero()
	r.err = err
	if err == nil {
		r.last = time.Now()
	}
	r.mu.Unlock()
	logger := r.service.opt.Log
	switch {
	case ctx.Err() != nil:
	case err == nil && (before != nil || !ever):
		logger.Info("registered", "scheduler", r.Scheduler)
	case err != nil && (before == nil || before.Error() != err.Error()):
		logger.Warn("the scheduler does not answer; compiles go on with the keys that are known", "scheduler", r.Scheduler, "error", err)
	}
}

// state is when the scheduler last answered, and the error of the last heartbeat.
func (r *registrar) state() (last time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last, r.err
}

// beat reports once, and takes what the scheduler answers.
func (r *registrar) beat(ctx context.Context) (interval time.Duration, err error) {
	defer r.begin()()
	credential, err := r.Credential()
	if err != nil {
		return 0, fmt.Errorf("credential: %w", err)
	}
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+credential), beatPatience)
	defer cancel()
	answer, err := schedulerv1.NewRegistryServiceClient(r.conn).Heartbeat(ctx, r.report())
	if err != nil {
		if code := status.Code(err); code == codes.Unauthenticated || code == codes.PermissionDenied {
			return 0, fmt.Errorf("the scheduler refuses this worker: %s", clip(status.Convert(err).Message()))
		}
		return 0, errors.New(status.Convert(err).Message())
	}
	if err := r.Keys(answer.GetJwks()); err != nil {
		return 0, fmt.Errorf("the scheduler's keys: %w", err)
	}
	if d := answer.GetInterval(); d.IsValid() && d.AsDuration() > 0 {
		return d.AsDuration(), nil
	}
	return firstInterval, nil
}

func (r *registrar) report() *schedulerv1.HeartbeatRequest {
	s := r.service
	load, pin := s.opt.Machines.Load(), r.Pin()
	m := &schedulerv1.HeartbeatRequest{
		Worker: s.opt.Name, Address: r.Advertise, TlsPin: pin[:], Platform: r.Platform, Version: s.opt.Version,
		Capacity: uint32(max(1, load.Capacity)), Running: uint32(load.Running), Queued: uint32(load.Waiting),
		VmCrashes: load.Crashes, Draining: s.Draining(),
	}
	images, err := r.Images()
	if err != nil {
		s.opt.Log.Log(context.Background(), slog.LevelWarn, "images not listed", "error", err)
	}
	m.Images = images[:min(len(images), maxReportedImages)]
	for _, k := range load.Sessions[:min(len(load.Sessions), maxReportedSessions)] {
		m.Sessions = append(m.Sessions, &schedulerv1.Session{Tenant: k.Tenant, Image: k.Image})
	}
	return m
}
