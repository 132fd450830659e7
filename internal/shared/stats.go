package shared

import "time"

// Stats are the counts since New.
type Stats struct {
	Tenant string      `json:"tenant"`
	Memory MemoryStats `json:"memory"`
	Tiers  []TierStats `json:"tiers"`
	Queue  QueueStats  `json:"queue"`
	// Signer is whom results are signed by, "" for nobody: then nothing is written.
	Signer string `json:"signer,omitempty"`
	// TrustError says why nobody in the file of trusted keys is trusted at present.
	TrustError string `json:"trust_error,omitempty"`
}

// MemoryStats are those of the memory tier.
type MemoryStats struct {
	Bytes    int64 `json:"bytes"`
	MaxBytes int64 `json:"max_bytes"`
	Hits     int64 `json:"hits"`
	Misses   int64 `json:"misses"`
	// ManifestHits are tiers that were not asked what they have, since it was known.
	ManifestHits int64 `json:"manifest_hits"`
}

// State is how a tier does.
type State string

// The states. A tier that fails is asked still; one that is away is not, and one that
// denies some kinds of calls not by these.
const (
	StateOK      State = "ok"
	StateFailing State = "failing"
	StateAway    State = "away"
	StateDenied  State = "denied"
)

// TierStats are those of a tier. Hits and misses are results', as is what was
// written, was there already, or was dropped unwritten.
type TierStats struct {
	Name  string `json:"name"`
	Where string `json:"where"`
	Write bool   `json:"write"`
	State State  `json:"state"`
	// Since when it is away or denied, and until when it is not asked.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	Why   string    `json:"why,omitempty"`

	Hits           int64 `json:"hits"`
	Misses         int64 `json:"misses"`
	ManifestHits   int64 `json:"manifest_hits"`
	ManifestMisses int64 `json:"manifest_misses"`
	BytesIn        int64 `json:"bytes_in"`
	BytesOut       int64 `json:"bytes_out"`
	// Errors are of the store, whoever uses it, and Timeouts among them. Refused are
	// calls that were not made, or cut short, while it was away.
	Errors   int64            `json:"errors"`
	Timeouts int64            `json:"timeouts"`
	Refused  int64            `json:"refused"`
	Rejected map[Reason]int64 `json:"rejected"`

	Written    int64 `json:"written"`
	Present    int64 `json:"present"`
	Backfilled int64 `json:"backfilled"`
	// Replaced are results that were not believed and had to make place.
	Replaced int64 `json:"replaced"`
	// Different are results that were kept out, since somebody trusted has another
	// one there for the same action.
	Different int64 `json:"different"`
	Dropped   int64 `json:"dropped"`
	// Conflicts are writes of manifests that were begun anew.
	Conflicts int64 `json:"conflicts"`
	Touched   int64 `json:"touched"`
	// Eviction is nil where this program does not evict.
	Eviction *EvictorStats `json:"eviction,omitempty"`
}

// QueueStats are those of what waits to be written, of all tiers.
type QueueStats struct {
	Waiting  int   `json:"waiting"`
	Bytes    int64 `json:"bytes"`
	MaxBytes int64 `json:"max_bytes"`
}

// Stats returns the counts.
func (c *Cache) Stats() Stats {
	s := Stats{Tenant: c.tenant, Tiers: make([]TierStats, 0, len(c.tiers)), Queue: c.queue.stats()}
	for _, t := range c.tiers {
		s.Tiers = append(s.Tiers, t.stats())
	}
	if c.signer != nil {
		s.Signer = c.signer.name
	}
	if err := c.trust.Err(); err != nil {
		s.TrustError = err.Error()
	}
	m := c.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Memory = MemoryStats{Bytes: m.bytes, MaxBytes: m.max, Hits: m.hits, Misses: m.misses, ManifestHits: m.manifestHits}
	return s
}
