package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"hpcc.dev/hpcc/internal/auth"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// target is whom a connection leads to: one at the same address with another key
// is another.
type target struct {
	address string
	pin     auth.Pin // zero for the scheduler
}

// link is a connection that calls share, with the number of those that do.
type link struct {
	target
	conn *grpc.ClientConn
	refs int
	gone bool // from the pool: closed when refs is 0
}

// pool keeps one connection for each target.
type pool struct {
	timeout time.Duration
	mu      sync.Mutex
	links   map[target]*link
	all     map[*link]bool // those that are gone from links as well
	closed  bool
}

func newPool(timeout time.Duration) *pool {
	return &pool{timeout: timeout, links: map[target]*link{}, all: map[*link]bool{}}
}

const (
	// A worker that answers no ping is dead, however long the compile; one that is
	// alive answers within milliseconds, unless it swaps.
	pingTimeout = 5 * time.Second

	// idle is when a connection without a call is closed.
	idle = 10 * time.Minute
)

// get returns the connection to a target, which is made when it is first used;
// put gives it back.
func (p *pool) get(t target, config func() *tls.Config) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	if l := p.links[t]; l != nil {
		l.refs++
		return l, nil
	}
	dialer := &net.Dialer{Timeout: p.timeout}
	conn, err := grpc.NewClient("passthrough:///"+t.address,
		grpc.WithTransportCredentials(credentials.NewTLS(config())),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}),
		// MinConnectTimeout bounds the handshakes, too, unless the delay is
		// longer. A link is dropped after the first connection that fails, so
		// that nobody connects to a dead worker but for a call.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: p.timeout, Multiplier: 1, MaxDelay: p.timeout},
			MinConnectTimeout: p.timeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: workerv1.PingAfter, Timeout: pingTimeout}),
		grpc.WithIdleTimeout(idle),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		// What is tried again is for this package to say; gRPC would keep what
		// was sent.
		grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(workerv1.MaxMessage), grpc.MaxCallSendMsgSize(workerv1.MaxMessage)),
		// What one stream, and all of a connection, can make this side hold.
		grpc.WithInitialWindowSize(4<<20), grpc.WithInitialConnWindowSize(16<<20),
	)
	if err != nil {
		return nil, err
	}
	l := &link{target: t, conn: conn, refs: 1}
	p.links[t], p.all[l] = l, true
	return l, nil
}

// put ends the use of a link.
func (p *pool) put(l *link) {
	p.mu.Lock()
	l.refs--
	end := p.ended(l)
	p.mu.Unlock()
	if end {
		_ = l.conn.Close()
	}
}

// drop has the next call make a new connection. Calls on the old one go on: its
// worker may be finishing what it has.
func (p *pool) drop(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(l)
}

func (p *pool) remove(l *link) {
	l.gone = true
	if p.links[l.target] == l {
		delete(p.links, l.target)
	}
}

// ended tells whether l is to be closed now, with mu held.
func (p *pool) ended(l *link) bool {
	if l.refs > 0 || !l.gone || !p.all[l] {
		return false
	}
	delete(p.all, l)
	return true
}

// maxLinks is how many connections are kept to workers that no recent route
// names.
const maxLinks = 64

// keep closes connections that nobody uses, beyond a number, but for those of a
// route.
func (p *pool) keep(r *route) {
	named := map[target]bool{}
	for _, a := range r.workers {
		named[target{a.address, a.pin}] = true
	}
	var end []*link
	p.mu.Lock()
	for t, l := range p.links {
		if len(p.links) > maxLinks && !named[t] && l.refs == 0 {
			p.remove(l)
			if p.ended(l) {
				end = append(end, l)
			}
		}
	}
	p.mu.Unlock()
	for _, l := range end {
		_ = l.conn.Close()
	}
}

// close ends all connections with their calls.
func (p *pool) close() error {
	p.mu.Lock()
	p.closed = true
	var errs []error
	for l := range p.all {
		errs = append(errs, l.conn.Close())
	}
	clear(p.all)
	clear(p.links)
	p.mu.Unlock()
	return errors.Join(errs...)
}
