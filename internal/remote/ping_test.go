package remote

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// stallable is a way to a worker that can stop carrying anything, without a word
// to either end: a cable that was pulled.
type stallable struct {
	*listener
	stalled chan struct{}
}

func newStallable(t *testing.T, to string) *stallable {
	s := &stallable{listen(t), make(chan struct{})}
	var carriers sync.WaitGroup
	carry := func(from, to net.Conn) {
		defer from.Close()
		defer to.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			select {
			case <-s.stalled:
				// Takes what comes, and goes on saying nothing.
				_, _ = io.Copy(io.Discard, from)
				return
			default:
			}
			if err != nil {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	s.each(t, func(c net.Conn) {
		far, err := net.Dial("tcp", to)
		if err != nil {
			c.Close()
			return
		}
		t.Cleanup(func() { c.Close(); far.Close(); carriers.Wait() })
		carriers.Go(func() { carry(c, far) })
		carriers.Go(func() { carry(far, c) })
	})
	return s
}

// TestDeadConnection: a worker that has gone without a word is noticed while it
// compiles, and another does the job.
func TestDeadConnection(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	way := newStallable(t, f.workers[0].address)
	f.scheduler.set(func() { f.workers[0].address = way.Addr().String() })
	f.workers[0].cut = func(ctx context.Context, m *reply) error {
		if isOutcome(m) {
			close(way.stalled)
			<-ctx.Done()
		}
		return ctx.Err()
	}
	r, err := f.client.Compile(within(t), project.request(all...))
	if err != nil || r.Worker != "worker-1" || string(r.Outputs[0].Data) != object {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestLongCompile: pings do not disturb a job that says nothing for long. gRPC's
// servers end a connection at the third ping that they find too early, which is
// the client's fourth.
func TestLongCompile(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0)
	realWorker(t, f, &machine{begun: func(ctx context.Context) error {
		select {
		case <-time.After(4*workerv1.PingAfter + time.Second):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}})
	r, err := f.client.Compile(within(t), project.request(all...))
	if err != nil || r.Worker != "real" || string(r.Outputs[0].Data) != object {
		t.Errorf("%+v, %v", r, err)
	}
}
