package vm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// SessionKey is what jobs must have in common to share a machine.
type SessionKey struct {
	Tenant string
	Image  string // sha256:HEX
	// Write is the right to write results that others share. Jobs that have it
	// never share a machine with jobs that have not.
	Write bool
}

// PoolOptions describe a pool.
type PoolOptions struct {
	Runtime Runtime
	// Spec makes the spec of a new machine for a session: the tenant's own copy of
	// the image, above all. ID may be empty; tenant, memory and vCPUs are the
	// pool's to set. release is called once the machine has ended, or was not
	// started; it may be nil. Spec is called with a place in the pool already
	// taken: what takes long, such as pulling an image, is better done before
	// Acquire.
	Spec func(ctx context.Context, key SessionKey) (spec Spec, release func(), err error)

	// MemoryMiB and VCPUs bound all machines together, MachineMemoryMiB and
	// MachineVCPUs are what each has.
	MemoryMiB, VCPUs               int
	MachineMemoryMiB, MachineVCPUs int
	// JobsPerVCPU is how many leases a machine has for each vCPU; 1 by default.
	JobsPerVCPU int
	// MaxWaiting bounds the line of one tenant; 512 by default.
	MaxWaiting int

	// Idle is how long a machine without lease is kept, 10 minutes by default;
	// Lifetime how long one takes new leases, 8 hours by default.
	Idle, Lifetime time.Duration
	// Turn is how long a tenant that has too few machines waits for one that has
	// more, where the pool is full; 30 seconds by default. Shorter is fairer, and
	// boots more.
	Turn time.Duration
	// BootTimeout bounds Spec and Start together; 5 minutes by default.
	BootTimeout time.Duration
	Log         *slog.Logger
}

const (
	// growAfter is how long a line is before its session gets another machine: a
	// burst that is over by then needs none.
	growAfter = 500 * time.Millisecond
	// stopPatience is how long a machine may take to end in order.
	stopPatience = 30 * time.Second
	// firstBackoff is how long a session's second failure in a row keeps it from
	// booting; each further one doubles that, up to maxBackoff.
	firstBackoff = time.Second
	maxBackoff   = time.Minute
	// FullError.RetryAfter lies between these.
	minRetry, maxRetry = time.Second, time.Minute
)

// Pool has machines for sessions, starts them when they are needed, and ends them
// when they are not. All methods may be called by many goroutines at once.
//
// Jobs of one session share its machines, MachineVCPUs times JobsPerVCPU on each.
// A session gets its first machine when it is first asked for, and another while
// its line waits and there is room. Where there is none, a machine that nobody
// uses goes first; then tenants take turns: whoever has the fewest machines comes
// next, and one that has more gives one up once the jobs on it have ended.
type Pool struct {
	opt    PoolOptions
	places int // machines that there can be at once
	slots  int // leases of one machine
	log    *slog.Logger

	ctx     context.Context // of boots; ends with Close
	cancel  context.CancelFunc
	patient context.Context // of orderly ends; ends with what Close was given
	hurry   context.CancelFunc
	lives   sync.WaitGroup // one for each member

	mu       sync.Mutex
	closed   bool
	sessions map[SessionKey]*session
	members  []*member      // that have a place
	waiting  map[string]int // by tenant
	turns    uint64         // starts
	alarm    *time.Timer    // when something is due that nobody calls for
	leased   time.Duration  // what a lease takes, on average
	stats    PoolStats      // its counters alone
	left     []error        // what machines left behind
}

// session is what one key has: machines, and a line of those that wait for one.
// It exists while it has any of it, or failed lately.
type session struct {
	key      SessionKey
	waiters  []*waiter // the first came first
	failures int       // in a row
	retryAt  time.Time // not to boot before
	err      error     // of the last boot, if that failed
	turn     uint64    // the pool's starts when it last got a machine
}

type waiter struct {
	since  time.Time
	result chan result // takes one, without being waited for
}

type result struct {
	lease *Lease
	err   error
}

// FullError says that a tenant's line is too long.
type FullError struct{ RetryAfter time.Duration }

func (e *FullError) Error() string {
	return fmt.Sprintf("too many jobs wait for a machine; try again in %v", e.RetryAfter)
}

// StartError says that a session's machine could not be started. It wraps what
// Spec or Start returned.
type StartError struct {
	Key SessionKey
	Err error
	// RetryAfter is how long nothing else will be tried for this session.
	RetryAfter time.Duration
}

func (e *StartError) Error() string { return fmt.Sprintf("no machine could be started: %v", e.Err) }
func (e *StartError) Unwrap() error { return e.Err }

// ErrPoolClosed says that a pool was closed.
var ErrPoolClosed = errors.New("the pool of machines is closed")

// NewPool makes a pool without a machine. The error says what in the options is
// impossible.
func NewPool(opt PoolOptions) (*Pool, error) {
	def := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	def(&opt.Idle, 10*time.Minute)
	def(&opt.Lifetime, 8*time.Hour)
	def(&opt.Turn, 30*time.Second)
	def(&opt.BootTimeout, 5*time.Minute)
	if opt.JobsPerVCPU <= 0 {
		opt.JobsPerVCPU = 1
	}
	if opt.MaxWaiting <= 0 {
		opt.MaxWaiting = 512
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	one := Spec{ID: "m", VCPUs: opt.MachineVCPUs, MemoryMiB: opt.MachineMemoryMiB}
	if err := one.Check(); err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	p := &Pool{
		opt: opt, log: opt.Log,
		places:   min(opt.MemoryMiB/opt.MachineMemoryMiB, opt.VCPUs/opt.MachineVCPUs),
		slots:    opt.MachineVCPUs * opt.JobsPerVCPU,
		sessions: map[SessionKey]*session{},
		waiting:  map[string]int{},
	}
	if p.places < 1 {
		return nil, fmt.Errorf("pool: a machine of %d MiB and %d vCPUs does not fit into %d MiB and %d vCPUs",
			opt.MachineMemoryMiB, opt.MachineVCPUs, opt.MemoryMiB, opt.VCPUs)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.patient, p.hurry = context.WithCancel(context.Background())
	return p, nil
}

// Acquire returns a lease of a machine of that session, for one job. It waits in
// the session's line for a place, and for a machine to boot, as long as ctx
// lasts. Errors: *FullError where the tenant's line is too long, *StartError where
// no machine could be started, ErrPoolClosed, ctx's.
func (p *Pool) Acquire(ctx context.Context, key SessionKey) (*Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &waiter{result: make(chan result, 1)}
	if err := p.enqueue(key, w); err != nil {
		return nil, err
	}
	select {
	case r := <-w.result:
		return r.lease, r.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	s := p.sessions[key]
	if s != nil && slices.Contains(s.waiters, w) {
		p.dequeue(s, w)
		p.schedule()
	}
	p.mu.Unlock()
	// Whoever served the waiter first has put the result there under the lock.
	select {
	case r := <-w.result:
		if r.lease != nil {
			r.lease.giveBack()
		}
	default:
	}
	return nil, ctx.Err()
}

// enqueue puts a waiter into its session's line; it may have its result when
// enqueue returns.
func (p *Pool) enqueue(key SessionKey, w *waiter) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrPoolClosed
	}
	now := time.Now()
	s := p.sessions[key]
	if s == nil {
		s = &session{key: key}
	}
	if wait := s.retryAt.Sub(now); s.err != nil && wait > 0 && p.count(func(m *member) bool { return m.session == s && m.serves() }) == 0 {
		return &StartError{key, s.err, wait}
	}
	if n := p.waiting[key.Tenant]; n >= p.opt.MaxWaiting && !p.free(s) {
		p.stats.Refused++
		return &FullError{p.retryAfter(n)}
	}
	p.sessions[key] = s
	w.since = now
	s.waiters = append(s.waiters, w)
	p.waiting[key.Tenant]++
	p.schedule()
	return nil
}

// free tells whether a lease could be had at once.
func (p *Pool) free(s *session) bool {
	return len(s.waiters) == 0 && p.count(func(m *member) bool { return m.session == s && m.state == ready && m.leases < p.slots }) > 0
}

// retryAfter is about how long a line of n will be there.
func (p *Pool) retryAfter(n int) time.Duration {
	return min(max(time.Duration(n)*p.leased/time.Duration(p.slots), minRetry), maxRetry)
}

// dequeue takes a waiter out of its line.
func (p *Pool) dequeue(s *session, w *waiter) {
	s.waiters = slices.DeleteFunc(s.waiters, func(o *waiter) bool { return o == w })
	p.leave(s.key.Tenant)
}

// leave counts one waiter less.
func (p *Pool) leave(tenant string) {
	if p.waiting[tenant]--; p.waiting[tenant] == 0 {
		delete(p.waiting, tenant)
	}
}

// fail ends a line with an error.
func (p *Pool) fail(s *session, err error) {
	for _, w := range s.waiters {
		w.result <- result{err: err}
		p.leave(s.key.Tenant)
	}
	s.waiters = nil
}

// Lease is a machine, or a share of one, for one job.
type Lease struct {
	pool     *Pool
	member   *member
	began    time.Time
	released bool // under the pool's lock
}

// Machine is the machine. It may end at any time; its calls then return
// *agentapi.LostError.
func (l *Lease) Machine() Machine { return l.member.machine }

// Release gives the lease back, once the job has ended or was given up. More than
// once does nothing. Where the job was lost with its machine (*agentapi.LostError)
// call Broken instead: that is how a session whose machines never get anything
// done is told from others.
func (l *Lease) Release() {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.released {
		return
	}
	now := time.Now()
	if m := l.member; m.state != ending && !m.dead() {
		m.served = true
		m.session.failures = 0
		// One in eight: a build's jobs are alike, the next build's are not.
		p.leased += (now.Sub(l.began) - p.leased) / 8
	}
	l.release(now)
	p.schedule()
}

// giveBack is Release without a job.
func (l *Lease) giveBack() {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	l.release(time.Now())
	l.pool.schedule()
}

func (l *Lease) release(now time.Time) {
	if l.released {
		return
	}
	l.released = true
	l.member.leases--
	if l.member.leases == 0 {
		l.member.idleSince = now
	}
}

// Broken says that the machine broke its contract, or that its agent is lost: it
// is killed, with all jobs on it, and nobody gets it any more.
// The lease is released.
func (l *Lease) Broken(err error) {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := l.member; m.state != ending && !m.dead() {
		p.stats.Broken++
		p.log.Warn("machine-broken", "id", m.id, "tenant", m.session.key.Tenant, "image", m.session.key.Image, "err", err)
		p.unserved(m)
		p.end(m, true)
	}
	l.release(time.Now())
	p.schedule()
}

// PoolStats says what a pool has and has done.
type PoolStats struct {
	// Machines by state. Draining ones take no new leases; they and Ending ones
	// will make room.
	Booting, Ready, Draining, Ending int
	// Places is how many machines there can be at once, Capacity how many leases,
	// Leases how many there are, Waiting how many are waited for.
	Places, Capacity, Leases, Waiting int
	// Since the start. A crash is a machine that ended by itself; Broken ones were
	// given up by Lease.Broken. Evicted ones made room for others before their
	// time.
	Boots, BootFailures, Crashes, Broken, Evicted, Refused uint64
	// Sessions that have a machine which takes leases, sorted.
	Sessions []SessionKey
}

// Stats returns the present state.
func (p *Pool) Stats() PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Places, s.Capacity = p.places, p.places*p.slots
	for _, m := range p.members {
		s.Leases += m.leases
		switch m.state {
		case booting:
			s.Booting++
		case ready:
			s.Ready++
			s.Sessions = append(s.Sessions, m.session.key)
		case draining:
			s.Draining++
		case ending:
			s.Ending++
		}
	}
	for _, n := range p.waiting {
		s.Waiting += n
	}
	slices.SortFunc(s.Sessions, compareKeys)
	s.Sessions = slices.Compact(s.Sessions)
	return s
}

// Close ends all: waiting calls get ErrPoolClosed, boots are cancelled, machines
// are stopped with the jobs on them, and killed when ctx ends. It returns when
// nothing of any machine is left, or with errors that say what is.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		for _, s := range p.sessions {
			p.fail(s, ErrPoolClosed)
		}
		for _, m := range p.members {
			p.end(m, false)
		}
		if p.alarm != nil {
			p.alarm.Stop()
		}
	}
	p.mu.Unlock()
	p.cancel()
	defer context.AfterFunc(ctx, p.hurry)()
	p.lives.Wait()
	p.hurry()
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.left...)
}
