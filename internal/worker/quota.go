package worker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Quotas bound what one tenant takes of a worker, so that there is room for the
// others.
type Quotas struct {
	// Compiles is how many of a tenant's may be under way or wait; 0 is half of
	// Options.MaxStreams.
	Compiles int
	// UploadRate is how many bytes a second all of a tenant's clients may send, in
	// the long run and uncompressed; 0 is no bound.
	UploadRate int64
}

const (
	// uploadBurst is for how long a tenant that has sent nothing may send ahead of
	// its rate: a new checkout's headers come at once, and then not again.
	uploadBurst = 10 * time.Second
	// uploadQueue is how long an upload waits for its turn here; one that would
	// have to wait longer is sent away.
	uploadQueue = 5 * time.Second
	// A rate below leastUploadRate would have uploads run out of time, and a burst
	// must have room for a chunk.
	leastUploadRate = 1 << 20
	maxUploadRate   = 1 << 40
	// quotaRetry is when a tenant with too many compiles may come again.
	quotaRetry = time.Second
)

// QuotaError says that a tenant has reached one of its quotas. The client may try
// another worker, or this one later.
type QuotaError struct {
	// Quota is its name in the settings.
	Quota  string
	Detail string
	// RetryAfter is when it may be otherwise.
	RetryAfter time.Duration
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("the tenant's quota on this worker is reached (limits.%s): %s", e.Quota, e.Detail)
}

// quotas are those of all tenants that were ever here: as many as the scheduler
// has.
type quotas struct {
	Quotas
	mu      sync.Mutex
	tenants map[string]*quota
}

// quota is what a tenant has taken.
type quota struct {
	compiles int           // with quotas.mu held
	uploads  *rate.Limiter // nil for no bound
}

// of returns a tenant's, with mu held.
func (q *quotas) of(tenant string) *quota {
	t := q.tenants[tenant]
	if t == nil {
		t = &quota{}
		if q.UploadRate > 0 {
			t.uploads = rate.NewLimiter(rate.Limit(q.UploadRate), int(q.UploadRate*int64(uploadBurst/time.Second)))
		}
		if q.tenants == nil {
			q.tenants = map[string]*quota{}
		}
		q.tenants[tenant] = t
	}
	return t
}

// begin counts a call of a tenant's in, until end.
func (q *quotas) begin(tenant string) (end func(), err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.of(tenant)
	if t.compiles >= q.Compiles {
		return nil, &QuotaError{"tenant_compiles", fmt.Sprintf("%d compiles are under way already", t.compiles), quotaRetry}
	}
	t.compiles++
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		t.compiles--
	}, nil
}

// upload waits until a tenant's client may send n bytes, or as much of them as a
// burst has; take has it wait for the rest as it comes. The bytes are the
// tenant's, whether they are sent or not.
func (q *quotas) upload(ctx context.Context, tenant string, n int64) (*meter, error) {
	q.mu.Lock()
	l := q.of(tenant).uploads
	q.mu.Unlock()
	if l == nil || n == 0 {
		return &meter{}, nil
	}
	m := &meter{l, min(n, int64(l.Burst()))}
	turn := l.ReserveN(time.Now(), int(m.granted))
	wait := turn.Delay()
	if wait > uploadQueue {
		turn.Cancel()
		return nil, &QuotaError{"tenant_upload_rate", fmt.Sprintf("its clients send more than %d bytes a second", q.UploadRate), wait}
	}
	if err := sleep(ctx, wait); err != nil {
		turn.Cancel()
		return nil, err
	}
	return m, nil
}

// sleep waits, unless ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// meter measures an upload.
type meter struct {
	limiter *rate.Limiter // nil for no bound
	granted int64
}

// take waits until n bytes more, a chunk at most, may have come. Until then no
// others are read, so that the client is slowed down.
func (m *meter) take(ctx context.Context, n int) error {
	if m.limiter == nil {
		return nil
	}
	free := min(int64(n), m.granted)
	m.granted -= free
	if n -= int(free); n == 0 {
		return nil
	}
	return sleep(ctx, m.limiter.ReserveN(time.Now(), n).Delay())
}
