package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
)

func failing(err error) func(s call) error { return func(call) error { return err } }

// TestElsewhere lists what one worker may say, and what becomes of the compile
// if there is another.
func TestElsewhere(t *testing.T) {
	const nowhere, elsewhere = false, true
	for _, c := range []struct {
		err       error
		elsewhere bool
		blocked   bool // left alone by the next compile
	}{
		{status.Error(codes.Unavailable, "draining"), elsewhere, true},
		{status.Error(codes.DataLoss, "the guest lies"), elsewhere, false},
		{status.Error(codes.Internal, "no disk"), elsewhere, false},
		{status.Error(codes.Unknown, "?"), elsewhere, false},
		{retryIn(codes.ResourceExhausted, time.Minute), elsewhere, true},
		{status.Error(codes.ResourceExhausted, "full"), elsewhere, true},
		{status.Error(codes.PermissionDenied, "not this image"), nowhere, false},
		{status.Error(codes.FailedPrecondition, "no program cc"), nowhere, false},
		{status.Error(codes.InvalidArgument, "path is not clean"), nowhere, false},
		{status.Error(codes.Unimplemented, "no such call"), nowhere, false},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 2)
			f.client.freeze()
			f.workers[0].instead = failing(c.err)
			r, err := f.client.Compile(within(t), project.request(all...))
			if c.elsewhere {
				if err != nil || r.Worker != "worker-1" || string(r.Outputs[0].Data) != object {
					t.Fatalf("%+v, %v", r, err)
				}
			} else {
				var refused *RefusedError
				if !errors.As(err, &refused) || !strings.Contains(refused.Reason, status.Convert(c.err).Message()) || f.workers[1].called() > 0 {
					t.Fatalf("%+v, %v", r, err)
				}
			}
			calls := f.workers[0].called()
			_, _ = f.client.Compile(within(t), project.request(all...))
			if again := f.workers[0].called() > calls; again == c.blocked {
				t.Errorf("called again: %v", again)
			}
		})
	}
}

// TestThreeWorkersAtMost: a job that no worker survives meets three of them.
func TestThreeWorkersAtMost(t *testing.T) {
	f := newFleet(t, 5)
	for _, w := range f.workers {
		w.instead = failing(status.Error(codes.DataLoss, "the guest is gone"))
	}
	_, err := f.client.Compile(within(t), project.request(all...))
	var away *UnavailableError
	if !errors.As(err, &away) || !strings.Contains(err.Error(), `"worker-2" failed: the guest is gone`) {
		t.Error(err)
	}
	calls := 0
	for _, w := range f.workers {
		calls += w.called()
	}
	if calls != 3 {
		t.Errorf("%d calls", calls)
	}
}

// TestDeadWorkers: two connections are tried, not all; afterwards these two are
// left alone.
func TestDeadWorkers(t *testing.T) {
	f := newFleet(t, 0)
	dead := make([]*listener, 5)
	for i := range dead {
		dead[i] = listen(t)
		dead[i].each(t, func(c net.Conn) { c.Close() })
		f.scheduler.workers = append(f.scheduler.workers, &fakeWorker{name: fmt.Sprint("dead-", i), address: dead[i].Addr().String()})
	}
	count := func() (n int64) {
		for _, l := range dead {
			n += l.accepted.Load()
		}
		return n
	}
	for i := range int64(2) {
		r, err := f.client.Compile(within(t), project.request(all...))
		var away *UnavailableError
		if r != nil || !errors.As(err, &away) || !strings.Contains(err.Error(), "cannot be reached") || count() != 2*(i+1) {
			t.Errorf("%d: %+v, %v, %d connections", i, r, err, count())
		}
	}
}

// TestDeadWorkerAmongOthers costs one compile a try, and the others nothing.
func TestDeadWorkerAmongOthers(t *testing.T) {
	f := newFleet(t, 2)
	f.workers[0].server.Stop()
	for range 3 {
		if r, err := f.client.Compile(within(t), project.request(all...)); err != nil || r.Worker != "worker-1" {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if n := f.workers[0].listener.accepted.Load(); n > 0 {
		t.Errorf("%d connections", n)
	}
}

// TestSilentListener: one that takes connections and says nothing costs
// DialTimeout, in which the one after it has to answer.
func TestSilentListener(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0)
	l := listen(t)
	l.each(t, func(c net.Conn) { t.Cleanup(func() { c.Close() }) })
	f.scheduler.workers = append(f.scheduler.workers, &fakeWorker{name: "silent", address: l.Addr().String()})
	good := newWorker(t, f.scheduler, "good")
	c := newClient(t, f.scheduler, func(o *Options) { o.DialTimeout = 20 * time.Second })
	r, err := c.Compile(within(t), project.request(all...))
	if err != nil || r.Worker != good.name {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestWrongKey: who answers at a worker's address with another key is told
// nothing.
func TestWrongKey(t *testing.T) {
	f := newFleet(t, 1)
	f.workers[0].pin[0] ^= 1
	r, err := f.client.Compile(within(t), project.request(all...))
	var away *UnavailableError
	if r != nil || !errors.As(err, &away) || !strings.Contains(err.Error(), "was asked for") || f.workers[0].called() > 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestWrongSchedulerKey: the scheduler's certificate must be of the CA's.
func TestWrongSchedulerKey(t *testing.T) {
	f := newFleet(t, 1)
	c := newClient(t, f.scheduler, func(o *Options) { o.TLS = newScheduler(t).trusted() })
	r, err := c.Compile(within(t), project.request(all...))
	var away *UnavailableError
	if r != nil || !errors.As(err, &away) || !strings.Contains(err.Error(), "x509") || f.scheduler.asked() > 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestFull: a worker that is full is left alone for as long as it says, and the
// caller is told for how long that is.
func TestFull(t *testing.T) {
	f := newFleet(t, 1)
	now := f.client.freeze()
	f.workers[0].instead = failing(retryIn(codes.ResourceExhausted, 40*time.Second))
	for i := range 100 {
		r, err := f.client.Compile(within(t), project.request(all...))
		var away *UnavailableError
		if r != nil || !errors.As(err, &away) {
			t.Fatalf("%d: %+v, %v", i, r, err)
		}
		if left := away.Retry.Sub(now); left != 40*time.Second {
			t.Errorf("again in %v", left)
		}
	}
	if f.workers[0].called() != 1 || f.scheduler.asked() > 2 {
		t.Errorf("%d calls, %d questions", f.workers[0].called(), f.scheduler.asked())
	}
}

// TestTokens: one that is not accepted is exchanged once.
func TestTokens(t *testing.T) {
	f := newFleet(t, 1)
	f.client.freeze()
	if _, err := f.client.Compile(within(t), project.request(all...)); err != nil {
		t.Fatal(err)
	}
	f.scheduler.set(func() { f.scheduler.tokens++ })
	r, err := f.client.Compile(within(t), project.request(all...))
	if err != nil || !r.Hit || f.scheduler.asked() != 2 {
		t.Errorf("%+v, %v, %d questions", r, err, f.scheduler.asked())
	}
	// A worker that accepts none.
	f.workers[0].token = func() string { return "another worker's" }
	for range 3 {
		_, err = f.client.Compile(within(t), project.request(all...))
		var refused *RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "clocks") || f.scheduler.asked() > 3 {
			t.Errorf("%v, %d questions", err, f.scheduler.asked())
		}
	}
}

// TestTokensOfMany: when keys are exchanged, many compiles ask once.
func TestTokensOfMany(t *testing.T) {
	f := newFleet(t, 1)
	if _, err := f.client.Compile(within(t), project.request(all...)); err != nil {
		t.Fatal(err)
	}
	f.scheduler.set(func() { f.scheduler.tokens++ })
	var done sync.WaitGroup
	for range 32 {
		done.Go(func() {
			if r, err := f.client.Compile(within(t), project.request(all...)); err != nil || !r.Hit {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	done.Wait()
	if n := f.scheduler.asked(); n != 2 {
		t.Errorf("%d questions", n)
	}
}

// TestNewWorker: when all of a route are gone, the scheduler is asked again and
// told of it.
func TestNewWorker(t *testing.T) {
	f := newFleet(t, 1)
	if _, err := f.client.Compile(within(t), project.request(all...)); err != nil {
		t.Fatal(err)
	}
	f.workers[0].server.Stop()
	newWorker(t, f.scheduler, "new")
	r, err := f.client.Compile(within(t), project.request(all...))
	if err != nil || r.Worker != "new" {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := f.scheduler.requests[1].GetAvoid(); len(got) != 1 || got[0] != "worker-0" {
		t.Errorf("avoid %q", got)
	}
}

// TestNoCredential, or one that is not known.
func TestNoCredential(t *testing.T) {
	f := newFleet(t, 1)
	own := errors.New("log in first")
	for name, credential := range map[string]func(context.Context) (string, error){
		"none":    func(context.Context) (string, error) { return "", own },
		"unknown": func(context.Context) (string, error) { return "guessed", nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, f.scheduler, func(o *Options) { o.Credential = credential })
			for range 10 {
				_, err := c.Compile(within(t), project.request(all...))
				var refused *RefusedError
				if !errors.As(err, &refused) || !strings.Contains(err.Error(), "credential") {
					t.Error(err)
				}
			}
		})
	}
	if n := f.scheduler.asked(); n > 0 {
		t.Errorf("%d answers", n)
	}
}

// TestSchedulerRefuses is no reason to ask again for each compile.
func TestSchedulerRefuses(t *testing.T) {
	for _, c := range []struct {
		err     error
		refused bool
	}{
		{status.Error(codes.PermissionDenied, "not this image"), true},
		{status.Error(codes.InvalidArgument, "no such platform"), true},
		{retryIn(codes.ResourceExhausted, time.Minute), false},
		{retryIn(codes.Unavailable, time.Minute), false},
		{status.Error(codes.Internal, "broken"), false},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			f := newFleet(t, 1)
			f.scheduler.answer = func(context.Context, *schedulerv1.RouteRequest) (*schedulerv1.RouteResponse, error) {
				return nil, c.err
			}
			begun := time.Now()
			for range 20 {
				_, err := f.client.Compile(within(t), project.request(all...))
				var refused *RefusedError
				var away *UnavailableError
				if errors.As(err, &refused) != c.refused || errors.As(err, &away) == c.refused || away != nil && away.Retry.Before(begun) {
					t.Error(err)
				}
			}
			if n := f.scheduler.asked(); n > 1+int(time.Since(begun)/brokenPause) {
				t.Errorf("%d questions", n)
			}
		})
	}
}

// TestSilentScheduler costs one time-out, not one for each compile.
func TestSilentScheduler(t *testing.T) {
	for name, stall := range map[string]bool{"no handshake": false, "no answer": true} {
		t.Run(name, func(t *testing.T) {
			s := newScheduler(t)
			address, l := s.address, s.listener
			if stall {
				s.answer = func(ctx context.Context, _ *schedulerv1.RouteRequest) (*schedulerv1.RouteResponse, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				}
			} else {
				l = listen(t)
				l.each(t, func(c net.Conn) { t.Cleanup(func() { c.Close() }) })
				address = l.Addr().String()
			}
			c := newClient(t, s, func(o *Options) { o.Scheduler, o.RouteTimeout = address, time.Second })
			var done sync.WaitGroup
			for range 20 {
				done.Go(func() {
					_, err := c.Compile(within(t), project.request(all...))
					var away *UnavailableError
					if !errors.As(err, &away) || time.Until(away.Retry) < silentPause/2 {
						t.Error(err)
					}
				})
			}
			done.Wait()
			for range 100 {
				if _, err := c.Compile(within(t), project.request(all...)); err == nil {
					t.Error("compiled by nobody")
				}
			}
			if n := l.accepted.Load(); n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// TestSchedulerGone: its routes serve until they expire.
func TestSchedulerGone(t *testing.T) {
	f := newFleet(t, 1)
	for i := range 3 {
		r, err := f.client.Compile(within(t), project.request(all...))
		if err != nil {
			t.Fatalf("%d: %+v, %v", i, r, err)
		}
		f.scheduler.listener.Close()
	}
}

// TestBadRoutes are a scheduler's that cannot be used: nobody is dialled.
func TestBadRoutes(t *testing.T) {
	good := func() *schedulerv1.Assignment {
		return &schedulerv1.Assignment{Worker: "w", Address: "127.0.0.1:1", TlsPin: make([]byte, 32), TaskToken: "t"}
	}
	for name, change := range map[string]func(m *schedulerv1.RouteResponse){
		"none":                  func(m *schedulerv1.RouteResponse) { m.Workers = nil },
		"no address":            func(m *schedulerv1.RouteResponse) { m.Workers[0].Address = "" },
		"no port":               func(m *schedulerv1.RouteResponse) { m.Workers[0].Address = "127.0.0.1" },
		"long address":          func(m *schedulerv1.RouteResponse) { m.Workers[0].Address = strings.Repeat("x", 1000) + ":1" },
		"no name":               func(m *schedulerv1.RouteResponse) { m.Workers[0].Worker = "" },
		"long name":             func(m *schedulerv1.RouteResponse) { m.Workers[0].Worker = strings.Repeat("x", 1000) },
		"name with escapes":     func(m *schedulerv1.RouteResponse) { m.Workers[0].Worker = "\x1b[2J" },
		"name twice":            func(m *schedulerv1.RouteResponse) { m.Workers = append(m.Workers, good()) },
		"short pin":             func(m *schedulerv1.RouteResponse) { m.Workers[0].TlsPin = make([]byte, 31) },
		"no pin":                func(m *schedulerv1.RouteResponse) { m.Workers[0].TlsPin = nil },
		"token with a new line": func(m *schedulerv1.RouteResponse) { m.Workers[0].TaskToken = "t\r\nx: y" },
		"long token":            func(m *schedulerv1.RouteResponse) { m.Workers[0].TaskToken = strings.Repeat("x", maxToken+1) },
	} {
		m := &schedulerv1.RouteResponse{Workers: []*schedulerv1.Assignment{good()}, Expires: durationpb.New(time.Minute)}
		if _, err := newRoute(m, time.Now()); err != nil {
			t.Fatal(err)
		}
		change(m)
		if r, err := newRoute(m, time.Now()); err == nil || len(err.Error()) > 500 || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	at := time.Unix(1000, 0)
	for _, c := range []struct {
		expires *durationpb.Duration
		want    time.Duration
	}{
		{nil, minExpiry}, {durationpb.New(-time.Hour), minExpiry}, {durationpb.New(time.Minute), time.Minute}, {durationpb.New(1000 * time.Hour), maxExpiry},
		{&durationpb.Duration{Seconds: 1 << 62, Nanos: -1 << 30}, maxExpiry},
	} {
		r, err := newRoute(&schedulerv1.RouteResponse{Workers: []*schedulerv1.Assignment{good()}, Expires: c.expires}, at)
		if err != nil || r.expires.Sub(at) != c.want || !r.refresh.After(at) || !r.refresh.Before(r.expires) {
			t.Errorf("%v: %+v, %v", c.expires, r, err)
		}
	}
}

func TestOptions(t *testing.T) {
	s := &scheduler{address: "127.0.0.1:1"}
	for name, change := range map[string]func(*Options){
		"no port":       func(o *Options) { o.Scheduler = "scheduler" },
		"no TLS":        func(o *Options) { o.TLS = nil },
		"no credential": func(o *Options) { o.Credential = nil },
	} {
		opt := s.options()
		change(&opt)
		if c, err := New(opt); err == nil {
			c.Close()
			t.Errorf("%s: made", name)
		}
	}
}

// TestSpread: a few compiles share a worker, many have several.
func TestSpread(t *testing.T) {
	for _, c := range []struct {
		compiles int
		want     []int
	}{{1, []int{1, 0, 0}}, {perWorker, []int{perWorker, 0, 0}}, {perWorker + 4, []int{perWorker, 4, 0}}, {64, []int{22, 21, 21}}} {
		t.Run(fmt.Sprint(c.compiles), func(t *testing.T) {
			f := newFleet(t, 3)
			started, goOn := make(chan struct{}), make(chan struct{})
			for _, w := range f.workers {
				w.cut = func(ctx context.Context, m *reply) error {
					if isOutcome(m) {
						started <- struct{}{}
						<-goOn
					}
					return ctx.Err()
				}
			}
			var done sync.WaitGroup
			for range c.compiles {
				done.Go(func() {
					if _, err := f.client.Compile(within(t), project.request(all...)); err != nil {
						t.Error(err)
					}
				})
			}
			for range c.compiles {
				<-started
			}
			for i, w := range f.workers {
				if w.called() != c.want[i] {
					t.Errorf("%s has %d of %d", w.name, w.called(), c.compiles)
				}
			}
			close(goOn)
			done.Wait()
			if n := len(f.client.health.running); n > 0 {
				t.Errorf("%d workers are still counted", n)
			}
		})
	}
}
