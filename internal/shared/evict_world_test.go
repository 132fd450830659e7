package shared

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// world is a bucket with a clock of its own, in which clients' stores are. It judges
// every removal.
type world struct {
	t     *testing.T
	skew  time.Duration // of the bucket's clock against the clients'
	grace time.Duration

	mu      sync.Mutex
	objects map[string]store.Object
	puts    int
	// holder put the lock last, and until is when its lease ends by true time.
	holder string
	until  time.Time
	// removals counts them by client.
	removals map[string]int
	largest  int64
}

func newWorld(t *testing.T) *world {
	return &world{t: t, grace: defaultGrace, objects: map[string]store.Object{}, removals: map[string]int{}}
}

// now is the bucket's time, in whole seconds as S3 tells it.
func (w *world) now() time.Time { return time.Now().Add(w.skew).Truncate(time.Second) }

// add puts an object of n bytes that was last used some time ago.
func (w *world) add(name string, n int, ago time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.puts++
	w.objects[name] = store.Object{Body: make([]byte, n), Version: store.Version(fmt.Sprint(w.puts)), Modified: w.now().Add(-ago)}
}

func (w *world) names() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.objects))
}

// size is that of the tenant's manifests, results and blobs. The caller holds mu.
func (w *world) size() (n int64) {
	for name, o := range w.objects {
		if tenant, _, _, ok := ParseName(name); ok && tenant == "t" || store.IsSealedName(name) {
			n += int64(len(o.Body))
		}
	}
	return n
}

func (w *world) sized() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.size()
}

func (w *world) removed(client string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.removals[client]
}

func (w *world) client(name string) *client { return &client{world: w, name: name} }

// client is one client's way to the bucket.
type client struct {
	*world
	name string
	// before, if set, is called before each call, without a lock; its error is the
	// call's.
	before func(call, name string) error
	// listed, if set, is called after each object that is listed.
	listed func(n int) error
}

func (c *client) enter(ctx context.Context, call, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.before != nil {
		if err := c.before(call, name); err != nil {
			return err
		}
		return ctx.Err()
	}
	return nil
}

func (c *client) Get(ctx context.Context, name string, limit int64) (store.Object, error) {
	if err := c.enter(ctx, "get", name); err != nil {
		return store.Object{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.objects[name]
	switch {
	case !ok:
		return o, store.ErrNotFound
	case int64(len(o.Body)) > limit:
		return store.Object{}, store.ErrTooLarge
	}
	return o, nil
}

func (c *client) Put(ctx context.Context, name string, body []byte, when store.Condition) (store.Version, error) {
	if err := c.enter(ctx, "put", name); err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.objects[name]
	if when.Absent && ok || when.Version != "" && o.Version != when.Version {
		return "", store.ErrConflict
	}
	c.puts++
	v := store.Version(fmt.Sprint(c.puts))
	c.objects[name] = store.Object{Body: bytes.Clone(body), Version: v, Modified: c.now()}
	if name == "t/lock/evict" {
		l := decodeLock(body)
		c.holder, c.until = c.name, time.Now().Add(time.Duration(l.Seconds)*time.Second)
	}
	if c.puts%16 == 0 {
		c.largest = max(c.largest, c.size())
	}
	return v, nil
}

func (c *client) Stat(ctx context.Context, name string) (store.Info, error) {
	if err := c.enter(ctx, "stat", name); err != nil {
		return store.Info{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.objects[name]
	if !ok {
		return store.Info{}, store.ErrNotFound
	}
	return store.Info{Name: name, Size: int64(len(o.Body)), Version: o.Version, Modified: o.Modified}, nil
}

func (c *client) Touch(ctx context.Context, name string) error {
	if err := c.enter(ctx, "touch", name); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.objects[name]
	if !ok {
		return store.ErrNotFound
	}
	o.Modified = c.now()
	c.objects[name] = o
	return nil
}

func (c *client) Delete(ctx context.Context, name string) error {
	if err := c.enter(ctx, "delete", name); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o, ok := c.objects[name]
	tenant, _, _, ours := ParseName(name)
	switch {
	case !ok:
		return nil
	case !(ours && tenant == "t") && !store.IsSealedName(name):
		c.t.Errorf("%s removed %s, which is not the tenant's", c.name, name)
	case c.now().Sub(o.Modified) < c.grace:
		c.t.Errorf("%s removed %s, used %s ago", c.name, name, c.now().Sub(o.Modified))
	case c.holder != c.name || time.Now().After(c.until):
		c.t.Errorf("%s removed %s, and the lease is that of %q until %s", c.name, name, c.holder, c.until)
	}
	delete(c.objects, name)
	c.removals[c.name]++
	return nil
}

func (c *client) List(ctx context.Context, prefix string, visit func(store.Info) error) error {
	if err := c.enter(ctx, "list", prefix); err != nil {
		return err
	}
	n := 0
	for _, name := range c.names() {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		info, err := (&client{world: c.world}).Stat(ctx, name)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		// Listings of some services are finer than what else they tell.
		info.Modified = info.Modified.Add(7 * time.Millisecond)
		if err := visit(info); err != nil {
			return err
		}
		if n++; c.listed != nil {
			if err := c.listed(n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *client) String() string { return c.name }
func (c *client) Close() error   { return nil }

func (c *client) evictor(maxBytes int64) *Evictor {
	c.t.Helper()
	return evictorOver(c.t, c, maxBytes, c.grace)
}

func evictorOver(t *testing.T, s store.Store, maxBytes int64, grace time.Duration) *Evictor {
	t.Helper()
	e, err := NewEvictor(EvictorOptions{Store: s, Tenant: "t", MaxBytes: maxBytes, Grace: grace})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func closeEvictor(t *testing.T, e *Evictor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		t.Error(err)
	}
}

// key is a key of a number.
func keyOf(i int) digest.Key {
	return digest.NewKey("test").Field("number", fmt.Sprint(i)).Sum()
}

// fill puts 100 objects of 1000 bytes each, the i-th used i hours ago, and what is
// not to be touched; it returns the names of the 100.
func (w *world) fill() []string {
	var names []string
	for i := range 100 {
		var name string
		switch k := keyOf(i); i % 4 {
		case 0:
			name = ManifestName("t", k)
		case 1:
			name = ResultName("t", k)
		case 2:
			name = BlobName("t", digest.Of([]byte(fmt.Sprint(i))))
		case 3:
			name = CcacheName("t", [CcacheKeySize]byte(k[:]))
		}
		w.add(name, 1000, time.Duration(i)*time.Hour)
		names = append(names, name)
	}
	for _, name := range foreign {
		w.add(name, 1000, 10000*time.Hour)
	}
	return names
}

var foreign = []string{
	"t/notes.txt", "t/result/readme", "t/result/00/" + strings.Repeat("1", 64), "t/blob/ab/" + strings.Repeat("ab", 32),
	"t/other/ab/" + strings.Repeat("ab", 32), "t2/result/ab/" + strings.Repeat("ab", 32), "u/result/ab/" + strings.Repeat("ab", 32),
	"result/ab/" + strings.Repeat("ab", 32),
}

func (w *world) checkForeign() {
	w.t.Helper()
	names := w.names()
	for _, name := range foreign {
		if !slices.Contains(names, name) {
			w.t.Errorf("%s is gone", name)
		}
	}
}

func (w *world) usage() usage {
	w.mu.Lock()
	defer w.mu.Unlock()
	return decodeUsage(w.objects["t/usage"].Body)
}
