package shared

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// MirrorOptions say what Mirror copies.
type MirrorOptions struct {
	// Tenant's objects alone are copied; "" is all tenants'.
	Tenant string
	// NewerThan leaves out what was not put or touched since; zero leaves out nothing.
	NewerThan time.Time
	// Verify copies what is believed only, by Trust; without it only names are looked
	// at, so that encrypted objects go as they are.
	Verify bool
	Trust  *Trust
	// SameSizes says that an object has one size in both stores: neither encrypts, or
	// both are looked at without their keys.
	SameSizes bool
	// Wrong is told of each object that is not believed, one at a time. It may be nil.
	Wrong func(Wrong)
	// Progress, if not nil, is called now and then, one at a time.
	Progress func(MirrorReport)
}

// MirrorReport counts what Mirror did.
type MirrorReport struct {
	// Objects are hpcc's of the source that are new enough.
	Objects     int64 `json:"objects"`
	Copied      int64 `json:"copied"`
	CopiedBytes int64 `json:"copied_bytes"`
	// Present were there already.
	Present int64 `json:"present"`
	// Older were left out by NewerThan, Wrong since they are not believed, Different
	// since the destination has another one, Sealed since they cannot be read and were
	// to be verified, Foreign since they are not hpcc's.
	Older     int64 `json:"older"`
	Wrong     int64 `json:"wrong"`
	Different int64 `json:"different"`
	Sealed    int64 `json:"sealed"`
	Ccache    int64 `json:"ccache"`
	Foreign   int64 `json:"foreign"`
}

// Mirror copies a tenant's objects from one store to another. What is there stays:
// a result is copied once, a manifest gets the candidates that it lacks. So it can be
// stopped and run again, and copied back and forth.
func Mirror(ctx context.Context, from, to store.Store, opt MirrorOptions) (MirrorReport, error) {
	m := &mirror{MirrorOptions: opt, from: from, to: to}
	// Blobs first, results last: who finds a result finds what it names, even if the
	// copy is stopped.
	for _, kind := range []Kind{KindBlob, KindResult, KindManifest, KindCcache} {
		err := each(ctx, from, opt.Tenant, func(ctx context.Context, info store.Info) error {
			return m.object(ctx, info, kind)
		})
		if err != nil {
			return m.report, err
		}
	}
	return m.report, nil
}

type mirror struct {
	MirrorOptions
	from, to store.Store

	mu     sync.Mutex
	report MirrorReport
}

// count adds one to counts of the report.
func (m *mirror) count(counts ...*int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range counts {
		*n++
	}
	m.tell()
}

// tell is called with mu held.
func (m *mirror) tell() {
	if m.Progress != nil {
		m.Progress(m.report)
	}
}

// object copies an object if it is of a kind.
func (m *mirror) object(ctx context.Context, info store.Info, want Kind) error {
	r := &m.report
	class, _, kind := Classify(info.Name)
	switch {
	case class == ClassForeign && want == KindBlob: // once is enough
		m.count(&r.Foreign)
		return nil
	case class != ClassObject && class != ClassSealed || kind != want:
		return nil
	case class == ClassSealed && m.Verify:
		m.count(&r.Sealed)
		return nil
	case kind == KindCcache && m.Verify:
		m.count(&r.Ccache)
		return nil
	case info.Modified.Before(m.NewerThan):
		m.count(&r.Older)
		return nil
	case kind == KindManifest && class == ClassObject:
		return m.manifest(ctx, info)
	}
	there, err := m.to.Stat(ctx, info.Name)
	switch {
	case err == nil:
		return m.present(ctx, info, there)
	case !errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("%s: %s: %w", m.to, info.Name, err)
	}
	return m.copy(ctx, info, store.Condition{Absent: true})
}

// present decides about an object that the destination has: what is believed stays.
func (m *mirror) present(ctx context.Context, info, there store.Info) error {
	r := &m.report
	if m.SameSizes && there.Size == info.Size {
		m.count(&r.Objects, &r.Present)
		return nil
	}
	if !m.Verify {
		if m.SameSizes {
			m.count(&r.Objects, &r.Different)
		} else {
			m.count(&r.Objects, &r.Present)
		}
		return nil
	}
	_, err := VerifyObject(ctx, m.to, info.Name, m.Trust)
	switch {
	case err == nil:
		m.count(&r.Objects, &r.Present)
		return nil
	case reasonOf(err) == "" && !errors.Is(err, store.ErrCorrupt):
		return fmt.Errorf("%s: %w", m.to, err)
	}
	return m.copy(ctx, info, store.Condition{Version: there.Version})
}

// copy reads an object, checks it, and puts it into the destination.
func (m *mirror) copy(ctx context.Context, info store.Info, when store.Condition) error {
	o, err := m.from.Get(ctx, info.Name, store.MaxObject)
	if errors.Is(err, store.ErrNotFound) {
		return nil // it went
	}
	if err == nil && m.Verify {
		// The very bytes that are put are those that are checked.
		_, err = VerifyObject(ctx, read{m.from, info.Name, o}, info.Name, m.Trust)
	}
	if reason := reasonOf(err); reason != "" || errors.Is(err, store.ErrCorrupt) {
		m.wrong(info.Name, reason, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", m.from, err)
	}
	_, err = m.to.Put(ctx, info.Name, o.Body, when)
	switch {
	case errors.Is(err, store.ErrConflict): // another was faster
		m.count(&m.report.Objects, &m.report.Present)
		return nil
	case err != nil:
		return fmt.Errorf("%s: %s: %w", m.to, info.Name, err)
	}
	m.copied(int64(len(o.Body)))
	return nil
}

func (m *mirror) copied(n int64) {
	m.mu.Lock()
	m.report.CopiedBytes += n
	m.mu.Unlock()
	m.count(&m.report.Objects, &m.report.Copied)
}

func (m *mirror) wrong(name string, reason Reason, err error) {
	if reason == "" {
		reason = ReasonDamaged
	}
	m.count(&m.report.Objects, &m.report.Wrong)
	if m.Wrong != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.Wrong(Wrong{Name: name, Reason: reason, Detail: detailOf(err)})
	}
}

// mirrorTries bounds how often a manifest is tried that others write.
const mirrorTries = 20

// manifest adds a manifest's candidates to the destination's. One that does not
// decode is not copied even without Verify, for it can be of no use.
func (m *mirror) manifest(ctx context.Context, info store.Info) error {
	_, _, key, _ := ParseName(info.Name)
	o, err := m.from.Get(ctx, info.Name, maxManifestObject)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	var theirs *action.Manifest
	if err == nil {
		theirs, err = openManifest(key, o.Body)
	}
	if reason := reasonOf(err); reason != "" || errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrTooLarge) {
		m.wrong(info.Name, reason, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", m.from, err)
	}
	for range mirrorTries {
		n, err := m.merge(ctx, info.Name, key, theirs, o.Body)
		switch {
		case errors.Is(err, store.ErrConflict):
			continue
		case err != nil:
			return fmt.Errorf("%s: %s: %w", m.to, info.Name, err)
		case n == 0:
			m.count(&m.report.Objects, &m.report.Present)
		default:
			m.copied(n)
		}
		return nil
	}
	return fmt.Errorf("%s: %s: %w %d times", m.to, info.Name, store.ErrConflict, mirrorTries)
}

// merge makes theirs part of the destination's manifest, and returns how many bytes
// it put; body is theirs as it was read.
func (m *mirror) merge(ctx context.Context, name string, key digest.Key, theirs *action.Manifest, body []byte) (int64, error) {
	o, err := m.to.Get(ctx, name, maxManifestObject)
	if errors.Is(err, store.ErrNotFound) {
		_, err = m.to.Put(ctx, name, body, store.Condition{Absent: true})
		return int64(len(body)), err
	}
	var ours *action.Manifest
	if err == nil {
		ours, err = openManifest(key, o.Body)
	}
	if reasonOf(err) != "" || errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrTooLarge) {
		there, err := m.to.Stat(ctx, name)
		if err == nil {
			_, err = m.to.Put(ctx, name, body, store.Condition{Version: there.Version})
		}
		return int64(len(body)), err
	}
	if err != nil {
		return 0, err
	}
	changed := mark(theirs.Preprocess)(ours)
	// The newest stand first, and are to stand first again.
	for _, c := range slices.Backward(theirs.Candidates) {
		changed = add(c, "")(ours) || changed
	}
	if !changed {
		return 0, nil
	}
	sealed, err := sealManifest(key, ours)
	if err != nil {
		return 0, err
	}
	_, err = m.to.Put(ctx, name, sealed, store.Condition{Version: o.Version})
	return int64(len(sealed)), err
}

// read is a store of which one object was read already.
type read struct {
	store.Store
	name   string
	object store.Object
}

func (r read) Get(ctx context.Context, name string, limit int64) (store.Object, error) {
	if name != r.name {
		return r.Store.Get(ctx, name, limit)
	}
	if int64(len(r.object.Body)) > limit {
		return store.Object{}, store.ErrTooLarge
	}
	return r.object, nil
}
