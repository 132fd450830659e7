package shared

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/leaktest"
	"hpcc.dev/hpcc/internal/store"
)

func TestMain(m *testing.M) {
	// Made in a bubble of synctest, they could not be used outside of it.
	appendPart(nil, make([]byte, worthwhile))
	decoder()
	os.Exit(leaktest.Run(m))
}

// patience is what a test waits for what must happen, on a loaded machine too.
const patience = 2 * time.Minute

func withPatience(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// newCache makes a Cache that is closed when the test ends.
func newCache(t testing.TB, opt Options) *Cache {
	t.Helper()
	c, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return c
}

func drain(t testing.TB, c *Cache) {
	t.Helper()
	if err := c.Drain(withPatience(t)); err != nil {
		t.Fatal(err)
	}
}

func tierOf(s store.Store) []Tier { return []Tier{{Name: "far", Store: s, Write: true}} }

// trustFileOf writes a file of trusted keys.
func trustOf(t testing.TB, workersOnly bool, lines ...string) *Trust {
	t.Helper()
	file := filepath.Join(t.TempDir(), "trusted")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	trust, err := ReadTrust(file, workersOnly)
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

// records keeps what was logged.
type records struct {
	slog.Handler
	mu   sync.Mutex
	list []string
}

func (r *records) Enabled(context.Context, slog.Level) bool { return true }
func (r *records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *records) Handle(_ context.Context, rec slog.Record) error {
	line := rec.Message
	rec.Attrs(func(a slog.Attr) bool {
		line += " " + a.String()
		return true
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, line)
	return nil
}

func (r *records) of(text string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, line := range r.list {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// put is what must succeed.
func put(t testing.TB, s store.Store, name string, body []byte) {
	t.Helper()
	if _, err := s.Put(withPatience(t), name, body, store.Condition{}); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, s store.Store, name string) []byte {
	t.Helper()
	o, err := s.Get(withPatience(t), name, store.MaxObject)
	if err != nil {
		t.Fatal(err)
	}
	return o.Body
}

// same fails unless f is the entry with its blobs.
func same(t testing.TB, f *Fetched, e *action.Entry, blobs map[digest.Digest][]byte) {
	t.Helper()
	if f == nil {
		t.Fatal("a miss")
	}
	key := e.Action.Key()
	want, err := action.EncodeEntry(key, e)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := action.EncodeEntry(key, f.Entry); err != nil || !bytes.Equal(got, want) {
		t.Errorf("another entry: %v", err)
	}
	if len(f.Blobs) != len(blobs) {
		t.Errorf("%d blobs, want %d", len(f.Blobs), len(blobs))
	}
	for d, b := range blobs {
		if !bytes.Equal(f.Blobs[d], b) {
			t.Errorf("blob %s is another", d)
		}
	}
}

// recorder is a store that tells what it was asked, and does as it is told.
type recorder struct {
	store.Store
	mu    sync.Mutex
	calls []string
	// before, if set, is called before each call; its error is the call's.
	before func(ctx context.Context, call string) error
}

func (r *recorder) call(ctx context.Context, what, name string) error {
	parts := strings.Split(name, "/")
	what += " " + parts[1]
	r.mu.Lock()
	r.calls = append(r.calls, what)
	before := r.before
	r.mu.Unlock()
	if before != nil {
		return before(ctx, what)
	}
	return nil
}

// asked returns the calls since it was called last.
func (r *recorder) asked() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.calls = nil }()
	return strings.Join(r.calls, ", ")
}

func (r *recorder) set(before func(ctx context.Context, call string) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = before
}

func (r *recorder) Get(ctx context.Context, name string, limit int64) (store.Object, error) {
	if err := r.call(ctx, "get", name); err != nil {
		return store.Object{}, err
	}
	return r.Store.Get(ctx, name, limit)
}

func (r *recorder) Put(ctx context.Context, name string, body []byte, when store.Condition) (store.Version, error) {
	if err := r.call(ctx, "put", name); err != nil {
		return "", err
	}
	return r.Store.Put(ctx, name, body, when)
}

func (r *recorder) Stat(ctx context.Context, name string) (store.Info, error) {
	if err := r.call(ctx, "stat", name); err != nil {
		return store.Info{}, err
	}
	return r.Store.Stat(ctx, name)
}

func (r *recorder) Touch(ctx context.Context, name string) error {
	if err := r.call(ctx, "touch", name); err != nil {
		return err
	}
	return r.Store.Touch(ctx, name)
}

var testManifest = digest.NewKey("manifest").Sum()

// known is all that the tiers have under a key; nil for nothing.
func known(ctx context.Context, c *Cache, key digest.Key) *action.Manifest {
	var all *action.Manifest
	for m := range c.Manifests(ctx, key) {
		if all == nil {
			all = m
			continue
		}
		all.Preprocess += m.Preprocess
		all.Candidates = append(all.Candidates, m.Candidates...)
	}
	return all
}

// fill puts one result into a store.
func fill(t testing.TB, s store.Store, by *Signer, e *action.Entry, blobs map[digest.Digest][]byte) {
	t.Helper()
	c := newCache(t, Options{Tiers: tierOf(s), Signer: by})
	c.Put(testManifest, "", e, blobs)
	drain(t, c)
	if st := c.Stats().Tiers[0]; st.Written != 1 || st.Dropped != 0 {
		t.Fatalf("counted %+v", st)
	}
}

func waitFor(t testing.TB, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}
