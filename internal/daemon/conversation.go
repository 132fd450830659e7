package daemon

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/ipc"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// waitEvery is how often a wrapper hears that the daemon is alive; wrappers
// give up after several of these.
const waitEvery = time.Second

// conversation is the daemon's end of one connection. It is a Client for the
// engine.
type conversation struct {
	conn net.Conn
	ipc  *ipc.Conn
	mu   sync.Mutex // guards writes, which Wait messages come between
	// answers carries what the wrapper says after its first message.
	answers chan *ipcv1.ClientMessage
	gone    chan struct{}
}

func newConversation(conn net.Conn) *conversation {
	return &conversation{conn: conn, ipc: ipc.NewServerConn(conn), answers: make(chan *ipcv1.ClientMessage, 1), gone: make(chan struct{})}
}

func (c *conversation) read() (*ipcv1.ClientMessage, error) {
	m := &ipcv1.ClientMessage{}
	return m, c.ipc.Receive(m)
}

// sendTimeout bounds a write to a wrapper that reads nothing.
const sendTimeout = 30 * time.Second

func (c *conversation) send(m *ipcv1.ServerMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	return c.ipc.Send(m)
}

var errGone = errors.New("the wrapper is gone")

// watch begins to read what the wrapper says, and to tell it each second that
// the daemon lives. The context ends when the wrapper goes away; stop ends
// the telling.
func (c *conversation) watch() (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		defer close(c.gone)
		for {
			m, err := c.read()
			if err != nil {
				return
			}
			select {
			case c.answers <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	var timer *time.Timer
	var mu sync.Mutex
	stopped := false
	mu.Lock()
	timer = time.AfterFunc(waitEvery, func() {
		mu.Lock()
		defer mu.Unlock()
		if !stopped && c.send(&ipcv1.ServerMessage{Wait: &ipcv1.Wait{}}) == nil {
			timer.Reset(waitEvery)
		}
	})
	mu.Unlock()
	return ctx, func() {
		mu.Lock()
		stopped = true
		mu.Unlock()
		timer.Stop()
		cancel()
	}
}

// Run has the wrapper run a command. One of a race is cancelled where ctx ends
// before it; any other ends by itself, or with the wrapper.
func (c *conversation) Run(ctx context.Context, run *ipcv1.Run) (*ipcv1.Ran, error) {
	if err := c.send(&ipcv1.ServerMessage{Run: run}); err != nil {
		return nil, err
	}
	var unwanted <-chan struct{}
	if run.GetStage() == ipcv1.Run_STAGE_RACE {
		unwanted = ctx.Done()
	}
	for {
		select {
		case m := <-c.answers:
			if m.GetRan() == nil {
				return nil, errors.New("the wrapper answered with something else than what it ran")
			}
			return m.GetRan(), nil
		case <-c.gone:
			// What it said last may still lie in the channel.
			select {
			case m := <-c.answers:
				if m.GetRan() != nil {
					return m.GetRan(), nil
				}
			default:
			}
			return nil, errGone
		case <-unwanted:
			unwanted = nil
			// Its answer is still to come; where it cannot be told, it is gone.
			_ = c.send(&ipcv1.ServerMessage{Cancel: &ipcv1.Cancel{}})
		}
	}
}
