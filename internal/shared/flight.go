package shared

import (
	"context"
	"sync"
)

// flights make what several ask for at a time be fetched once.
type flights[T any] struct {
	mu     sync.Mutex
	active map[string]*flight[T]
}

type flight[T any] struct {
	done    chan struct{}
	value   T
	waiting int // guarded by flights.mu
	cancel  context.CancelFunc
}

// do returns what load returns for a name, or the zero T once ctx ends. load runs
// by itself, under a context of base's: it ends early only when all that wait for
// it have given up. start runs a function behind the caller, or reports false if
// nothing may start any more.
func (f *flights[T]) do(ctx, base context.Context, name string, start func(func()) bool, load func(context.Context) T) (value T) {
	f.mu.Lock()
	fl := f.active[name]
	if fl == nil {
		loadCtx, cancel := context.WithCancel(base)
		fl = &flight[T]{done: make(chan struct{}), cancel: cancel}
		if !start(func() {
			defer cancel()
			fl.value = load(loadCtx)
			f.mu.Lock()
			f.forget(name, fl)
			f.mu.Unlock()
			close(fl.done)
		}) {
			f.mu.Unlock()
			cancel()
			return value
		}
		if f.active == nil {
			f.active = map[string]*flight[T]{}
		}
		f.active[name] = fl
	}
	fl.waiting++
	f.mu.Unlock()

	select {
	case <-fl.done:
		return fl.value
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiting--; fl.waiting == 0 {
		// Who comes now does not get what was cut short.
		f.forget(name, fl)
		fl.cancel()
	}
	return value
}

// forget takes a flight out; the caller holds mu.
func (f *flights[T]) forget(name string, fl *flight[T]) {
	if f.active[name] == fl {
		delete(f.active, name)
	}
}
