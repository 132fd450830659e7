package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/auth"
	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
)

// assignment is a worker of a route. It is not changed.
type assignment struct {
	worker  string
	address string
	pin     auth.Pin
	token   string
}

// route is what the scheduler answered. It is not changed.
type route struct {
	workers []*assignment
	// refresh is when to ask anew behind the builds' back, expires when the
	// tokens end.
	refresh, expires time.Time
}

const (
	// Bounds of what a scheduler says.
	maxAssignments = 32
	maxAddress     = 300
	maxToken       = 16 << 10
	minExpiry      = time.Second
	maxExpiry      = time.Hour

	// A scheduler that gave no answer in time is not asked again for a minute:
	// one compile waits for it, not each. One that cannot be connected to says
	// so at once.
	silentPause = time.Minute
	brokenPause = 2 * time.Second
	// refusedPause is how long a refusal stands, for one image.
	refusedPause = 10 * time.Second
	// newerPause is between two questions for a route before the one that is
	// there expires.
	newerPause = 5 * time.Second
)

// errTooSoon says that the scheduler was just asked.
var errTooSoon = errors.New("the scheduler was asked a moment ago")

// router keeps a route for each image.
type router struct {
	now   func() time.Time
	fetch func(ctx context.Context, image string, avoid []string) (*route, error)
	// background starts what must end with the client; false is after that.
	background func(func(context.Context)) bool

	mu     sync.Mutex
	images map[string]*routes
	// down is why the scheduler is not asked for anything.
	down *UnavailableError
}

// routes are of one image.
type routes struct {
	current *route
	asking  *question // the one that is under way
	newer   time.Time // when newer was last asked for
	// failed is why there is no other route, and until when nobody asks again.
	failed error
	until  time.Time
}

// question is one that many calls wait for.
type question struct {
	done  chan struct{}
	route *route
	err   error
}

func newRouter(now func() time.Time, fetch func(context.Context, string, []string) (*route, error), background func(func(context.Context)) bool) *router {
	return &router{now: now, fetch: fetch, background: background, images: map[string]*routes{}}
}

// get returns a route that has not expired.
func (r *router) get(ctx context.Context, image string) (*route, error) {
	r.mu.Lock()
	e := r.of(image)
	now := r.now()
	if e.current != nil && now.Before(e.current.expires) {
		defer r.mu.Unlock()
		if now.After(e.current.refresh) && e.asking == nil && r.silent(e) == nil {
			r.ask(e, image, nil)
		}
		return e.current, nil
	}
	return r.wait(ctx, e, image, nil)
}

// newer returns a route that is not old, which has turned out to be of no use:
// avoid are the workers that were not reached. The error is errTooSoon if that
// was asked for a moment ago.
func (r *router) newer(ctx context.Context, image string, old *route, avoid []string) (*route, error) {
	r.mu.Lock()
	e := r.of(image)
	now := r.now()
	if e.current != old && e.current != nil && now.Before(e.current.expires) {
		defer r.mu.Unlock()
		return e.current, nil
	}
	if e.asking == nil {
		if now.Sub(e.newer) < newerPause {
			defer r.mu.Unlock()
			return nil, errTooSoon
		}
		e.newer = now
	}
	return r.wait(ctx, e, image, avoid)
}

// wait waits for a question that is under way, or asks one. It is called with mu
// held and releases it.
func (r *router) wait(ctx context.Context, e *routes, image string, avoid []string) (*route, error) {
	q := e.asking
	if q == nil {
		err := r.silent(e)
		if err == nil {
			q = r.ask(e, image, avoid)
			if q == nil {
				err = ErrClosed
			}
		}
		if err != nil {
			r.mu.Unlock()
			return nil, err
		}
	}
	r.mu.Unlock()
	select {
	case <-q.done:
		return q.route, q.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// silent is why the scheduler is not asked now, with mu held.
func (r *router) silent(e *routes) error {
	now := r.now()
	if r.down != nil && now.Before(r.down.Retry) {
		return r.down
	}
	if e.failed != nil && now.Before(e.until) {
		return e.failed
	}
	return nil
}

// ask starts a question, with mu held; nil is after the client's end.
func (r *router) ask(e *routes, image string, avoid []string) *question {
	q := &question{done: make(chan struct{})}
	started := r.background(func(ctx context.Context) {
		q.route, q.err = r.fetch(ctx, image, avoid)
		r.mu.Lock()
		e.asking = nil
		r.note(e, q)
		r.mu.Unlock()
		close(q.done)
	})
	if !started {
		return nil
	}
	e.asking = q
	return q
}

// note keeps an answer, with mu held.
func (r *router) note(e *routes, q *question) {
	var refused *RefusedError
	var down *schedulerDown
	var away *UnavailableError
	switch err := q.err; {
	case err == nil:
		e.current, e.failed, r.down = q.route, nil, nil
	case errors.As(err, &refused):
		e.failed, e.until = err, r.now().Add(refusedPause)
	case errors.As(err, &down):
		r.down = &UnavailableError{Retry: r.now().Add(down.pause), Err: down}
		q.err = r.down
	case errors.As(err, &away):
		e.failed, e.until = err, away.Retry
	}
}

// of returns what is known for an image, with mu held.
func (r *router) of(image string) *routes {
	const most = 64 // a build uses one or two
	e := r.images[image]
	if e == nil {
		for name, old := range r.images {
			if len(r.images) >= most && old.asking == nil {
				delete(r.images, name)
			}
		}
		e = &routes{}
		r.images[image] = e
	}
	return e
}

// schedulerDown says that the scheduler did not answer.
type schedulerDown struct {
	pause time.Duration
	err   error
}

func (e *schedulerDown) Error() string {
	return "the scheduler does not answer: " + said(status.Convert(e.err).Message())
}
func (e *schedulerDown) Unwrap() error { return e.err }

// fetch asks the scheduler for a route, without the workers that are left alone
// and those of avoid.
func (c *Client) fetch(ctx context.Context, image string, avoid []string) (*route, error) {
	begun := time.Now()
	limited, cancel := context.WithTimeout(ctx, c.opt.RouteTimeout)
	defer cancel()
	answer, err := c.ask(limited, &schedulerv1.RouteRequest{Image: image, Platform: c.opt.Platform, Avoid: c.health.avoid(avoid)})
	if ctx.Err() != nil {
		return nil, ErrClosed
	}
	if err != nil {
		return nil, c.noRoute(limited, err)
	}
	r, err := newRoute(answer, begun)
	if err != nil {
		return nil, &schedulerDown{brokenPause, err}
	}
	c.conns.keep(r)
	return r, nil
}

func (c *Client) ask(ctx context.Context, request *schedulerv1.RouteRequest) (*schedulerv1.RouteResponse, error) {
	credential, err := c.opt.Credential(ctx)
	if err != nil {
		return nil, &RefusedError{"no credential for the scheduler: " + said(err.Error()), err}
	}
	l, err := c.conns.get(target{address: c.opt.Scheduler}, func() *tls.Config { return c.opt.TLS.Clone() })
	if err != nil {
		return nil, err
	}
	defer c.conns.put(l)
	answer, err := schedulerv1.NewSchedulerServiceClient(l.conn).Route(authorize(ctx, credential), request)
	if code := status.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled {
		c.conns.drop(l)
	}
	return answer, err
}

// noRoute says what a scheduler's error means; ctx is that of the call.
func (c *Client) noRoute(ctx context.Context, err error) error {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return err
	}
	s := status.Convert(err)
	switch s.Code() {
	case codes.Unauthenticated:
		return &RefusedError{"the scheduler does not know the credential: " + said(s.Message()) + " (check the client's credential, or ask for a new one)", err}
	case codes.PermissionDenied:
		return &RefusedError{"the scheduler does not allow it: " + said(s.Message()) + " (ask who runs the scheduler which images your tenant may use)", err}
	case codes.InvalidArgument, codes.FailedPrecondition, codes.Unimplemented, codes.NotFound:
		return &RefusedError{"the scheduler refuses: " + said(s.Message()) + " (check the image's digest and the platform)", err}
	}
	if delay, ok := retryInfo(s); ok {
		// It is there, and has no worker to name.
		return &UnavailableError{Retry: time.Now().Add(min(max(delay, fullLeast), fullMost)), Err: fmt.Errorf("the scheduler has none: %s", said(s.Message()))}
	}
	pause := brokenPause
	// Its server may notice the end of the time first.
	if ctx.Err() != nil || s.Code() == codes.DeadlineExceeded || s.Code() == codes.Canceled {
		pause = silentPause
	}
	return &schedulerDown{pause, err}
}

// newRoute checks what a scheduler answered at a time.
func newRoute(m *schedulerv1.RouteResponse, at time.Time) (*route, error) {
	expiry := min(max(m.GetExpires().AsDuration(), minExpiry), maxExpiry)
	r := &route{refresh: at.Add(expiry * 2 / 3), expires: at.Add(expiry)}
	seen := map[string]bool{}
	for _, w := range m.GetWorkers() {
		a := &assignment{worker: w.GetWorker(), address: w.GetAddress(), token: w.GetTaskToken()}
		if len(r.workers) == maxAssignments {
			break
		}
		if _, _, err := net.SplitHostPort(a.address); err != nil || len(a.address) > maxAddress {
			return nil, fmt.Errorf("its worker's address is none: %s", said(a.address))
		}
		if err := auth.CheckName(a.worker); err != nil {
			return nil, fmt.Errorf("its worker's name: %w", err)
		}
		if seen[a.worker] {
			return nil, fmt.Errorf("worker %q appears twice", a.worker)
		}
		pin, err := auth.PinFromBytes(w.GetTlsPin())
		if err != nil {
			return nil, fmt.Errorf("its worker's key: %w", err)
		}
		if len(a.token) > maxToken || strings.ContainsFunc(a.token, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, errors.New("its task token is none")
		}
		a.pin = pin
		seen[a.worker] = true
		r.workers = append(r.workers, a)
	}
	if len(r.workers) == 0 {
		return nil, errors.New("it names no worker")
	}
	return r, nil
}

// authorize puts a token on a call.
func authorize(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}
