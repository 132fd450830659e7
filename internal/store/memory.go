package store

import (
	"bytes"
	"container/list"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Memory keeps objects in memory, and forgets those that were not read nor written
// for longest when they become too many.
type Memory struct {
	maxBytes int64

	mu      sync.Mutex
	objects map[string]*list.Element // of *kept
	recent  *list.List               // the latest read or written first
	bytes   int64
	puts    int64
	closed  bool
}

type kept struct {
	name string
	Object
}

// overhead is roughly what an object costs besides its name and body.
const overhead = 200

func (k *kept) cost() int64 { return int64(len(k.name)) + int64(len(k.Body)) + overhead }

// NewMemory returns an empty Memory of at most maxBytes, names and some overhead
// included; 0 is no limit. An object that exceeds it alone is ErrTooLarge.
func NewMemory(maxBytes int64) *Memory {
	return &Memory{maxBytes: maxBytes, objects: make(map[string]*list.Element), recent: list.New()}
}

// enter locks m for a call, unless the call cannot be.
func (m *Memory) enter(ctx context.Context, name string) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := CheckName(name); err != nil {
		return nil, err
	}
	return m.lock()
}

func (m *Memory) lock() (unlock func(), err error) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil, fmt.Errorf("%w: closed", ErrUnavailable)
	}
	return m.mu.Unlock, nil
}

// find returns an object, which it makes the latest.
func (m *Memory) find(name string) (*kept, error) {
	e, ok := m.objects[name]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	m.recent.MoveToFront(e)
	return e.Value.(*kept), nil
}

func (m *Memory) Get(ctx context.Context, name string, limit int64) (Object, error) {
	leave, err := m.enter(ctx, name)
	if err != nil {
		return Object{}, err
	}
	k, err := m.find(name)
	var o Object
	if err == nil {
		o = k.Object
	}
	leave()
	switch {
	case err != nil:
		return Object{}, err
	case int64(len(o.Body)) > limited(limit):
		return Object{}, fmt.Errorf("%w: %s has %d bytes", ErrTooLarge, name, len(o.Body))
	}
	// Nobody changes a body that is kept, so that it need not be copied within the lock.
	o.Body = append([]byte{}, o.Body...)
	return o, nil
}

func (m *Memory) Put(ctx context.Context, name string, body []byte, when Condition) (Version, error) {
	if len(body) > MaxObject {
		return "", fmt.Errorf("%w: %s has %d bytes", ErrTooLarge, name, len(body))
	}
	k := &kept{name: name, Object: Object{Body: bytes.Clone(body)}}
	if m.maxBytes > 0 && k.cost() > m.maxBytes {
		return "", fmt.Errorf("%w: %s has %d bytes", ErrTooLarge, name, len(body))
	}
	leave, err := m.enter(ctx, name)
	if err != nil {
		return "", err
	}
	defer leave()
	old := m.objects[name]
	if when.Absent && old != nil || when.Version != "" && (old == nil || old.Value.(*kept).Version != when.Version) {
		return "", fmt.Errorf("%w: %s", ErrConflict, name)
	}
	if old != nil {
		m.remove(old)
	}
	m.puts++
	k.Version, k.Modified = Version(strconv.FormatInt(m.puts, 10)), time.Now()
	m.objects[name] = m.recent.PushFront(k)
	m.bytes += k.cost()
	for m.maxBytes > 0 && m.bytes > m.maxBytes {
		m.remove(m.recent.Back())
	}
	return k.Version, nil
}

func (m *Memory) remove(e *list.Element) {
	k := m.recent.Remove(e).(*kept)
	delete(m.objects, k.name)
	m.bytes -= k.cost()
}

func (m *Memory) Stat(ctx context.Context, name string) (Info, error) {
	leave, err := m.enter(ctx, name)
	if err != nil {
		return Info{}, err
	}
	defer leave()
	e, ok := m.objects[name]
	if !ok {
		return Info{}, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return e.Value.(*kept).info(), nil
}

func (k *kept) info() Info {
	return Info{Name: k.name, Size: int64(len(k.Body)), Version: k.Version, Modified: k.Modified}
}

func (m *Memory) Touch(ctx context.Context, name string) error {
	leave, err := m.enter(ctx, name)
	if err != nil {
		return err
	}
	defer leave()
	k, err := m.find(name)
	if err == nil {
		k.Modified = time.Now()
	}
	return err
}

func (m *Memory) Delete(ctx context.Context, name string) error {
	leave, err := m.enter(ctx, name)
	if err != nil {
		return err
	}
	defer leave()
	if e, ok := m.objects[name]; ok {
		m.remove(e)
	}
	return nil
}

func (m *Memory) List(ctx context.Context, prefix string, visit func(Info) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	unlock, err := m.lock()
	if err != nil {
		return err
	}
	found := make(map[string]Info)
	for name, e := range m.objects {
		if strings.HasPrefix(name, prefix) {
			found[name] = e.Value.(*kept).info()
		}
	}
	unlock()
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := visit(found[name]); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Bytes is what the objects cost, as NewMemory counts it.
func (m *Memory) Bytes() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}

func (m *Memory) String() string { return "memory" }

// Close forgets all objects; later calls fail.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed, m.bytes = true, 0
	clear(m.objects)
	m.recent.Init()
	return nil
}
