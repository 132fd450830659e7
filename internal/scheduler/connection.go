package scheduler

import (
	"context"
	"log/slog"
	"sync"

	"google.golang.org/grpc/stats"
)

// connection is one that somebody made, and the workers that have reported by it:
// one, or none if it is a client's.
type connection struct {
	mu      sync.Mutex
	workers []string
}

type connectionKey struct{}

// maxReporters bounds the workers of one connection: a proxy may carry several.
const maxReporters = 1000

// connectionOf is the connection of a worker's call, which is noted there.
func connectionOf(ctx context.Context, worker string) *connection {
	c, _ := ctx.Value(connectionKey{}).(*connection)
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.workers {
		if w == worker {
			return c
		}
	}
	if len(c.workers) == maxReporters {
		return nil
	}
	c.workers = append(c.workers, worker)
	return c
}

// connections notices the end of a worker's connection: when its process dies, its
// kernel says so at once, long before it has been silent for too long. The calls
// themselves are none of its business.
type connections struct{ s *Scheduler }

// TagConn gives each connection a context in which its calls are made.
func (connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connection{})
}

// HandleConn is called with the begin and the end of a connection.
func (h connections) HandleConn(ctx context.Context, e stats.ConnStats) {
	c, _ := ctx.Value(connectionKey{}).(*connection)
	if _, ended := e.(*stats.ConnEnd); !ended || c == nil {
		return
	}
	c.mu.Lock()
	workers := c.workers
	c.mu.Unlock()
	for _, w := range workers {
		if h.s.registry.lose(w, c) {
			h.s.log.LogAttrs(ctx, slog.LevelInfo, "worker", slog.String("what", "lost"), slog.String("worker", w))
		}
	}
}

// TagRPC does nothing.
func (connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC does nothing.
func (connections) HandleRPC(context.Context, stats.RPCStats) {}
