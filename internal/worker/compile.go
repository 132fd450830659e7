package worker

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/cache"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

const (
	defaultTime = agentv1.DefaultTime

	// jobPatience is how long the first message may take: a client opens a stream
	// when it has a job.
	jobPatience = 30 * time.Second
	// acceptPatience is how long a client may look for absences on its disk. What
	// the job left is held so long.
	acceptPatience = 2 * time.Minute
)

// compile is one stream.
type compile struct {
	*Service
	stream grpc.BidiStreamingServer[workerv1.CompileRequest, workerv1.CompileResponse]
	task   auth.Task
	store  *cache.Disk
	// shared are the caches that the tenant shares, nil for none.
	shared Shared
	end    func()

	// fresh is what is being stored, by storing.
	fresh   fresh
	storing *errgroup.Group

	in chan incoming
	// live ends when the client can no longer accept a run: it has gone, or ended
	// its half of the stream.
	live context.Context
	die  context.CancelCauseFunc
}

// incoming is a message, or why none comes any more.
type incoming struct {
	m   *workerv1.CompileRequest
	err error
}

func newCompile(s *Service, stream grpc.BidiStreamingServer[workerv1.CompileRequest, workerv1.CompileResponse], task auth.Task, store *cache.Disk, end func()) *compile {
	c := &compile{
		Service: s, stream: stream, task: task, store: store, end: end,
		in: make(chan incoming), fresh: fresh{}, storing: new(errgroup.Group),
	}
	c.live, c.die = context.WithCancelCause(stream.Context())
	go c.listen()
	return c
}

func (c *compile) close() {
	c.die(errEnded)
	c.end()
}

// listen takes messages, one ahead of who wants them, so that the end of the
// stream is noticed while a job runs. It ends with the stream, at the latest when
// the service has returned.
func (c *compile) listen() {
	for {
		m, err := c.stream.Recv()
		if err != nil {
			err = c.ended(err)
			c.die(err)
		}
		select {
		case c.in <- incoming{m, err}:
		case <-c.stream.Context().Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// ended says why Recv returned err.
func (c *compile) ended(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return errEnded
	case c.stream.Context().Err() != nil:
		return c.stream.Context().Err()
	case status.Code(err) == codes.ResourceExhausted:
		return failf(codes.InvalidArgument, "a message of more than %d bytes", workerv1.MaxMessage)
	case status.Code(err) == codes.Internal:
		return failf(codes.InvalidArgument, "a message that cannot be decoded")
	}
	return err
}

// next waits for the client's next message, until the timer.
func (c *compile) next(timeout <-chan time.Time) (*workerv1.CompileRequest, error) {
	select {
	case in := <-c.in:
		return in.m, in.err
	case <-timeout:
		return nil, errSilent
	case <-c.stream.Context().Done():
		return nil, c.stream.Context().Err()
	}
}

// within is next with a timer of its own.
func (c *compile) within(patience time.Duration) (*workerv1.CompileRequest, error) {
	t := time.NewTimer(patience)
	defer t.Stop()
	return c.next(t.C)
}

// serve answers the stream.
func (c *compile) serve() error {
	m, err := c.within(jobPatience)
	if err != nil {
		return err
	}
	job := m.GetJob()
	if job == nil {
		return failf(codes.InvalidArgument, "the stream does not begin with a job")
	}
	for range workerv1.MaxAttempts + 1 {
		j, err := check(job, c.task.Image, c.opt.Limits.Time)
		if errors.Is(err, errOtherImage) {
			return failf(codes.PermissionDenied, "%v", err)
		}
		if err != nil {
			return failf(codes.InvalidArgument, "%v", err)
		}
		if job, err = c.attempt(j); err != nil || job == nil {
			return err
		}
	}
	return failf(codes.InvalidArgument, "the job was sent again more than %d times", workerv1.MaxAttempts)
}

// attempt answers one job. It returns the job that the client sent instead of
// accepting, if it did.
func (c *compile) attempt(j *checked) (again *workerv1.Job, err error) {
	end, land := abandoned, func(landing) {}
	// Even after a panic: for a flight that is lost each equal job would wait as long
	// as a compile may take.
	defer func() { land(end) }()
	if !j.uncached {
		if done, err := c.answerHit(j, c.find); err != nil {
			return nil, err
		} else if done {
			return c.afterHit()
		}
		leave, err := c.flights.enter(c.live, j.flightKey(c.task.Tenant), j.time)
		if err != nil {
			return nil, err
		}
		if leave != nil {
			land = leave
		}
		// Another may have run it, since it was looked for or while it was waited
		// for. Who has not waited asks elsewhere, too, for all who wait now.
		find := c.find
		if leave != nil {
			find = c.findOrFetch
		}
		done, err := c.answerHit(j, find)
		if err != nil {
			return nil, err
		} else if done {
			land(stored) // and not once the client is content
			land = func(landing) {}
			return c.afterHit()
		}
	}
	if err := c.receive(j); err != nil {
		_ = c.stored() // what ends the stream is err
		return nil, err
	}
	a, err := c.run(j)
	// What the row of a result names is there before the row.
	failed := c.stored()
	if err != nil {
		return nil, err
	}
	defer a.close()
	if failed != nil {
		c.count(outcomeError)
		if _, err := c.appendOwn(a, func(r *audit.Row) { r.Error = audit.Clip(failed.Error()) }); err != nil {
			return nil, err
		}
		return nil, failed
	}
	accepted, again, err := c.offer(a)
	if err != nil || again != nil {
		c.count(outcomeUnaccepted)
		if _, failed := c.appendOwn(a, nil); err == nil {
			err = failed
		}
		return again, err
	}
	end = unstorable
	if err := c.deliver(a, accepted); err != nil {
		return nil, err
	}
	if a.stored {
		end = stored
		c.keep(j, a)
	}
	return nil, nil
}

// afterHit waits for the client to end the stream, which accepts a hit, or to send
// the job again.
func (c *compile) afterHit() (*workerv1.Job, error) {
	m, err := c.within(acceptPatience)
	switch {
	case err != nil: // it was answered, and nothing can fail any more
		return nil, nil //nolint:nilerr // see above
	case m.GetJob() != nil:
		return m.GetJob(), nil
	}
	return nil, failf(codes.InvalidArgument, "after a hit comes the end of the stream, or a job")
}

// offer says what a run came to, and waits for what the client says to that.
func (c *compile) offer(a *answer) (*workerv1.Accept, *workerv1.Job, error) {
	if err := c.sendOutcome(a); err != nil {
		return nil, nil, err
	}
	m, err := c.within(acceptPatience)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case m.GetAccept() != nil:
		if err := a.checkHeld(m.GetAccept().GetHeld()); err != nil {
			return nil, nil, failf(codes.InvalidArgument, "%v", err)
		}
		return m.GetAccept(), nil, nil
	case m.GetJob() != nil:
		return nil, m.GetJob(), nil
	}
	return nil, nil, failf(codes.InvalidArgument, "after an outcome comes a word of acceptance, or a job")
}

// deliver makes a run's row durable, and then hands its outputs out.
func (c *compile) deliver(a *answer, accepted *workerv1.Accept) error {
	row, err := c.appendOwn(a, func(r *audit.Row) { r.Accepted = true })
	if err != nil {
		return err
	}
	c.count(a.outcome())
	c.metrics.seconds.Observe(a.time.Seconds(), a.outcome())
	return c.sendOutputs(a, accepted.GetHeld(), row)
}

// count counts how a job of the stream ended.
func (c *compile) count(outcome string) { c.metrics.compiles.Inc(c.task.Tenant, outcome) }
