package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/auth"
)

// Options of a Client.
type Options struct {
	// Scheduler is where the scheduler listens, host:port.
	Scheduler string
	// TLS is how the scheduler proves who it is: auth.CATLS, for one.
	TLS *tls.Config
	// Credential is the tenant's; it is called before each question to the
	// scheduler, from any goroutine, and ends with ctx.
	Credential func(ctx context.Context) (string, error)
	// Platform of the workers, such as linux/amd64; empty is any that has the
	// image.
	Platform string
	// RouteTimeout bounds a question to the scheduler, DialTimeout a connection
	// to a worker. Zeros are 2 seconds.
	RouteTimeout, DialTimeout time.Duration
	// Patience is how long a worker may say nothing at all before it counts as
	// lost: it queues, boots and compiles in that time. Zero is 20 minutes. A
	// worker that has died is noticed within 15 seconds in any case.
	Patience time.Duration
	// Log is told what a caller does not see because another worker did the
	// job. Nil is slog.Default().
	Log *slog.Logger
}

const (
	defaultTimeout  = 2 * time.Second
	defaultPatience = 20 * time.Minute // a job's own limit is 10, by default

	// maxWorkers is how many workers one call tries, and maxDials how many it
	// tries to connect to without success: a job that kills workers must not
	// go through all of them, and a build waits.
	maxWorkers = 3
	maxDials   = 2
)

// Client talks to one scheduler and its workers, for one tenant. It may be used
// by many goroutines at once. It remembers up to 32 MiB of the files that it sent
// last, so that of one that has changed only the difference goes up.
type Client struct {
	opt    Options
	log    *slog.Logger
	routes *router
	health *health
	conns  *pool
	sent   *sent

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	mu     sync.Mutex // of closed, and of wg from 0
	closed bool
	wg     sync.WaitGroup
}

// New makes a client. It connects to nobody yet.
func New(opt Options) (*Client, error) {
	if _, _, err := net.SplitHostPort(opt.Scheduler); err != nil {
		return nil, errors.New("the scheduler's address is not host:port: " + said(opt.Scheduler))
	}
	if opt.TLS == nil || opt.Credential == nil {
		return nil, errors.New("a client of workers needs TLS and a credential")
	}
	if opt.RouteTimeout <= 0 {
		opt.RouteTimeout = defaultTimeout
	}
	if opt.DialTimeout <= 0 {
		opt.DialTimeout = defaultTimeout
	}
	if opt.Patience <= 0 {
		opt.Patience = defaultPatience
	}
	c := &Client{opt: opt, log: opt.Log, sent: newSent()}
	if c.log == nil {
		c.log = slog.Default()
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.conns = newPool(opt.DialTimeout)
	c.health = newHealth(time.Now)
	c.routes = newRouter(time.Now, c.fetch, c.background)
	return c, nil
}

// Close ends all calls, with ErrClosed, and all connections.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	err := c.conns.close()
	c.wg.Wait()
	return err
}

// background runs f in a goroutine that Close waits for; not at all after Close.
func (c *Client) background(f func(ctx context.Context)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Go(func() { f(c.ctx) })
	return true
}

// link is the connection to a worker.
func (c *Client) link(a *assignment) (*link, error) {
	return c.conns.get(target{a.address, a.pin}, func() *tls.Config { return auth.PinnedTLS(a.pin) })
}

// try does something on a worker for an image, and on others where that one
// fails.
func (c *Client) try(ctx context.Context, image string, do func(a *assignment) error) error {
	route, err := c.routes.get(ctx, image)
	if err != nil {
		return err
	}
	var (
		failures       []error
		tried          = map[string]bool{}
		workers, dials int
		renewed        bool
	)
	// One fresh route serves a call, whatever the old one lacked.
	renew := func() error {
		if renewed {
			return errTooSoon
		}
		renewed = true
		newer, err := c.routes.newer(ctx, image, route, slices.Sorted(maps.Keys(tried)))
		if err == nil {
			route = newer
		}
		return err
	}
	for workers < maxWorkers && dials < maxDials {
		a := c.health.choose(route, tried)
		if a == nil {
			if err := renew(); err == nil {
				continue
			} else if c.terminal(ctx, err) {
				return err
			} else if !errors.Is(err, errTooSoon) {
				failures = append(failures, err)
			}
			break
		}
		workers++
		err := do(a)
		c.health.done(a)
		var lying *LyingError
		var f *failure
		switch {
		case err == nil:
			c.health.ok(a.worker)
			return nil
		case c.ctx.Err() != nil:
			return ErrClosed
		case errors.As(err, &lying):
			lying.Worker = a.worker
			c.health.lied(a.worker, err)
			c.log.Warn("worker-lied", "worker", a.worker, "reason", lying.Reason)
		case !errors.As(err, &f):
			return err
		case f.kind == notAuthenticated:
			// The token has expired, or the keys were exchanged.
			if err := renew(); err != nil {
				if c.terminal(ctx, err) {
					return err
				}
				return &RefusedError{fmt.Sprintf("worker %q does not accept the scheduler's token (%s): compare the clocks of the two", a.worker, f.text()), f}
			}
			workers--
			continue
		default:
			if f.kind == unreachable {
				dials++
			}
			c.health.failed(a.worker, f)
			err = &workerError{a.worker, f}
			c.log.Info("worker-failed", "worker", a.worker, "error", f.text())
		}
		tried[a.worker] = true
		failures = append(failures, err)
	}
	return c.health.unavailable(route, failures)
}

// terminal tells errors that no other worker would change.
func (c *Client) terminal(ctx context.Context, err error) bool {
	var refused *RefusedError
	return ctx.Err() != nil || errors.Is(err, ErrClosed) || errors.As(err, &refused)
}
