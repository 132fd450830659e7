package compiler

import (
	"context"
	"sync"
)

// memoEntries bounds a memo. A machine has a dozen compilers, each used with a
// few environments and sets of machine options; past the bound all is dropped
// and derived again, which costs some milliseconds each.
const memoEntries = 1024

// memo keeps values for as long as the files that they were derived from stay
// as they were. At most one derivation per key runs at a time. The zero value
// is ready.
type memo[V any] struct {
	mu      sync.RWMutex
	entries map[string]*memoEntry[V]
	flights map[string]chan struct{}
}

type memoEntry[V any] struct {
	value   V
	watches watchList
}

// lookup returns the value under key if it still holds. It does not allocate
// beyond what stat does.
func (m *memo[V]) lookup(key []byte) (V, bool) {
	m.mu.RLock()
	e := m.entries[string(key)]
	m.mu.RUnlock()
	return e.ifHolds()
}

func (e *memoEntry[V]) ifHolds() (value V, ok bool) {
	if e == nil || !e.watches.hold() {
		return value, false
	}
	return e.value, true
}

// get returns the value under key, or that of derive. derive says by keep
// whether its value may be remembered.
//
// Those who wait for another's derivation look again when it ends instead of
// taking its value: it may have begun before a change that they have seen, and
// it may have failed only because its caller went away.
func (m *memo[V]) get(ctx context.Context, key string, derive func(context.Context) (value V, watches watchList, keep bool, err error)) (V, error) {
	for {
		m.mu.Lock()
		e, flight := m.entries[key], m.flights[key]
		if flight == nil {
			flight = make(chan struct{})
			if m.flights == nil {
				m.flights = make(map[string]chan struct{})
			}
			m.flights[key] = flight
			m.mu.Unlock()
			return m.fly(ctx, key, flight, e, derive)
		}
		m.mu.Unlock()
		select {
		case <-flight:
		case <-ctx.Done():
			var zero V
			return zero, ctx.Err()
		}
	}
}

// fly is the part of get that one caller per key is in.
func (m *memo[V]) fly(ctx context.Context, key string, flight chan struct{}, e *memoEntry[V], derive func(context.Context) (V, watchList, bool, error)) (V, error) {
	keep := false
	defer func() {
		m.mu.Lock()
		if keep {
			if m.entries == nil || len(m.entries) >= memoEntries {
				m.entries = make(map[string]*memoEntry[V])
			}
			m.entries[key] = e
		}
		delete(m.flights, key)
		m.mu.Unlock()
		close(flight)
	}()
	if v, ok := e.ifHolds(); ok {
		return v, nil
	}
	v, watches, ok, err := derive(ctx)
	if err != nil {
		return v, err
	}
	e, keep = &memoEntry[V]{v, watches}, ok
	return v, nil
}
