package shared

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// maxManifestObject bounds the object of a manifest.
const maxManifestObject = action.MaxManifest + int64(boxOverhead)

func sealManifest(key digest.Key, m *action.Manifest) ([]byte, error) {
	b, err := action.EncodeManifest(key, m)
	if err != nil {
		return nil, err
	}
	return box(boxManifest, b), nil
}

// openManifest decodes the object of a manifest. All errors are RejectedErrors.
func openManifest(key digest.Key, b []byte) (*action.Manifest, error) {
	raw, err := unbox(boxManifest, b, action.MaxManifest)
	if err != nil {
		return nil, err
	}
	m, err := action.DecodeManifest(key, raw)
	if err != nil {
		return nil, reject(ReasonDamaged, "%v", err)
	}
	return m, nil
}

// Writes of a manifest are begun anew when somebody else wrote meanwhile. Of n
// writers one succeeds in each round, so that the last of 30 takes 30; the waits
// that grow to half a second spread them out long before.
const (
	manifestTries = 50
	firstWait     = 4 * time.Millisecond
	longestWait   = 500 * time.Millisecond
)

// updateManifest changes a tier's manifest so that no other writer's change is
// lost. change reports whether it changed anything; it may be called several times.
func (c *Cache) updateManifest(ctx context.Context, t *tier, key digest.Key, change func(*action.Manifest) bool) error {
	name := ManifestName(c.tenant, key)
	// One at a time in this process: to conflict with oneself helps nobody.
	unlock := c.locks.lock(t.Name + " " + name)
	defer unlock()
	wait := firstWait
	for try := range manifestTries {
		m, modified, when := &action.Manifest{}, time.Time{}, store.Condition{Absent: true}
		// Where a look-up just found none, one request does.
		if _, absent := t.absent.get(name); try > 0 || !absent {
			var err error
			if m, modified, when, err = c.manifestToChange(ctx, t, key, name); err != nil {
				return err
			}
		}
		t.absent.remove(name)
		if !change(m) {
			c.renew(t, name, modified)
			return nil
		}
		b, err := sealManifest(key, m)
		if err != nil {
			return err
		}
		if err = t.put(ctx, name, b, when); !errors.Is(err, store.ErrConflict) {
			return err
		}
		t.conflicts.Add(1)
		if err := sleep(ctx, rand.N(wait)); err != nil { //nolint:gosec // it spreads writers out
			return err
		}
		wait = min(2*wait, longestWait)
	}
	return fmt.Errorf("%s: %w %d times", name, store.ErrConflict, manifestTries)
}

// manifestToChange reads a tier's manifest, and the condition under which another
// takes its place. One that does not decode is as none, and makes place.
func (c *Cache) manifestToChange(ctx context.Context, t *tier, key digest.Key, name string) (*action.Manifest, time.Time, store.Condition, error) {
	o, err := t.get(ctx, name, maxManifestObject)
	if err == nil {
		var m *action.Manifest
		if m, err = openManifest(key, o.Body); err == nil {
			return m, o.Modified, store.Condition{Version: o.Version}, nil
		}
	}
	when := store.Condition{Absent: true}
	if reasonOf(err) != "" {
		t.reject(name, err)
		when, err = c.versionOf(ctx, t, name, o.Version)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, time.Time{}, when, err
	}
	return &action.Manifest{}, time.Time{}, when, nil
}

// versionOf is the condition that an object that is not believed is there still. Of
// one that was too large to read the version is not known yet.
func (c *Cache) versionOf(ctx context.Context, t *tier, name string, known store.Version) (store.Condition, error) {
	if known != "" {
		return store.Condition{Version: known}, nil
	}
	info, err := t.stat(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return store.Condition{Absent: true}, nil
	}
	return store.Condition{Version: info.Version}, err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// add returns a change that makes a candidate, and a mark that is not "", part of a
// manifest.
func add(candidate action.Candidate, preprocess string) func(*action.Manifest) bool {
	return func(m *action.Manifest) bool {
		has := slices.ContainsFunc(m.Candidates, func(c action.Candidate) bool { return c.Action == candidate.Action })
		if !has {
			m.Add(candidate)
		}
		return mark(preprocess)(m) || !has
	}
}

// mark returns a change that marks a manifest; "" marks none.
func mark(preprocess string) func(*action.Manifest) bool {
	return func(m *action.Manifest) bool {
		if preprocess == "" || m.Preprocess == preprocess {
			return false
		}
		m.Preprocess = preprocess
		return true
	}
}

// locks are one for each name that somebody holds or waits for.
type locks struct {
	mu   sync.Mutex
	held map[string]*namedLock
}

type namedLock struct {
	sync.Mutex
	users int // guarded by locks.mu
}

func (l *locks) lock(name string) (unlock func()) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*namedLock{}
	}
	n := l.held[name]
	if n == nil {
		n = &namedLock{}
		l.held[name] = n
	}
	n.users++
	l.mu.Unlock()
	n.Lock()
	return func() {
		n.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if n.users--; n.users == 0 {
			delete(l.held, name)
		}
	}
}
