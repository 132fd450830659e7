package shared

import (
	"container/list"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/action"
)

// How long a manifest in memory is taken for what its tier has. It is a hint, so
// that an old one costs misses, no more: what other machines have added since.
// Half a minute spares a build that asks again (a second compile of a unit, a
// look-up after a wait) its requests; that there is none is believed shorter,
// since a machine that builds the same at the same time is about to put one there.
const (
	manifestLife = 30 * time.Second
	absenceLife  = 5 * time.Second
)

// memory is the nearest tier: packs as they were read, which are checked at each
// use as at the first, and each tier's manifests for a short while. What was not used
// for longest goes first.
type memory struct {
	max int64
	now func() time.Time

	mu     sync.Mutex
	bytes  int64
	order  *list.List // of *remembered, last used first
	byName map[string]*list.Element

	hits, misses int64 // of results
	manifestHits int64
}

type remembered struct {
	name string
	cost int64

	pack []byte // nil: a manifest
	from *tier  // that the pack was read from

	manifest *action.Manifest // nil: there is none
	until    time.Time
}

// overhead is what an object in memory costs beside its content.
const overhead = 256

func newMemory(limit int64, now func() time.Time) *memory {
	return &memory{max: limit, now: now, order: list.New(), byName: map[string]*list.Element{}}
}

func (m *memory) put(r *remembered) {
	r.cost += overhead + int64(len(r.name))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remove(r.name)
	// One that would push out half of the others is not worth it.
	if r.cost > m.max/2 {
		return
	}
	m.byName[r.name] = m.order.PushFront(r)
	for m.bytes += r.cost; m.bytes > m.max; {
		m.remove(m.order.Back().Value.(*remembered).name)
	}
}

// remove drops an object; the caller holds mu.
func (m *memory) remove(name string) {
	if e := m.byName[name]; e != nil {
		m.bytes -= m.order.Remove(e).(*remembered).cost
		delete(m.byName, name)
	}
}

func (m *memory) get(name string) *remembered {
	e := m.byName[name]
	if e == nil {
		return nil
	}
	m.order.MoveToFront(e)
	return e.Value.(*remembered)
}

func (m *memory) putPack(name string, pack []byte, from *tier) {
	m.put(&remembered{name: name, cost: int64(len(pack)), pack: pack, from: from})
}

// pack returns a pack and the tier that has its large blobs.
func (m *memory) pack(name string) ([]byte, *tier, bool) {
	if m.max <= 0 {
		return nil, nil, false // and no miss of what is not there
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.get(name)
	if r == nil {
		m.misses++
		return nil, nil, false
	}
	return r.pack, r.from, true
}

// used counts what became of a pack.
func (m *memory) used(name string, hit bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if hit {
		m.hits++
		return
	}
	m.misses++
	m.remove(name)
}

// putManifest remembers what a tier has (tier.remembered), nil for nothing. What is
// remembered is not changed any more.
func (m *memory) putManifest(name string, manifest *action.Manifest, life time.Duration) {
	m.put(&remembered{name: name, cost: manifestCost(manifest), manifest: manifest, until: m.now().Add(life)})
}

// manifest returns what is remembered; ok is false where nothing is, or no more.
func (m *memory) manifest(name string) (manifest *action.Manifest, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.get(name)
	if r == nil || !m.now().Before(r.until) {
		m.remove(name)
		return nil, false
	}
	m.manifestHits++
	return r.manifest, true
}

// change makes a remembered manifest what it will be once a write is done.
func (m *memory) change(name string, change func(*action.Manifest) bool) {
	m.mu.Lock()
	r := m.get(name)
	m.mu.Unlock()
	if r == nil || !m.now().Before(r.until) {
		return
	}
	changed := clone(r.manifest)
	if change(changed) {
		m.put(&remembered{name: name, cost: manifestCost(changed), manifest: changed, until: r.until})
	}
}

// manifestCost is roughly the memory of a manifest. Paths are counted for each
// candidate, although those of one manifest share most.
func manifestCost(m *action.Manifest) int64 {
	if m == nil {
		return 0
	}
	n := len(m.Preprocess)
	for i := range m.Candidates {
		c := &m.Candidates[i]
		n += 200 + 56*len(c.Inputs) + 16*(len(c.Absent)+len(c.Present)+len(c.Chain)) + 32*(len(c.Same)+len(c.Links))
		if i > 0 {
			continue
		}
		for _, in := range c.Inputs {
			n += len(in.Path)
		}
		for _, paths := range [][]string{c.Absent, c.Present, c.Chain} {
			for _, p := range paths {
				n += len(p)
			}
		}
	}
	return int64(n)
}

// clone copies a manifest as far as Manifest.Add changes it; of nil it makes an
// empty one.
func clone(m *action.Manifest) *action.Manifest {
	if m == nil {
		return &action.Manifest{}
	}
	return &action.Manifest{Preprocess: m.Preprocess, Candidates: append([]action.Candidate(nil), m.Candidates...)}
}

// recent remembers about as many of the newest values as it is made for, in two
// halves: when the younger is full, the older is forgotten.
type recent[K comparable, V any] struct {
	mu         sync.Mutex
	half       int
	young, old map[K]V
}

func newRecent[K comparable, V any](size int) *recent[K, V] {
	return &recent[K, V]{half: size / 2, young: map[K]V{}}
}

func (r *recent[K, V]) set(k K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.young) >= r.half {
		r.old, r.young = r.young, map[K]V{}
	}
	r.young[k] = v
}

func (r *recent[K, V]) get(k K) (v V, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok = r.young[k]; !ok {
		v, ok = r.old[k]
	}
	return v, ok
}

func (r *recent[K, V]) remove(k K) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.young, k)
	delete(r.old, k)
}
