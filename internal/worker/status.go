package worker

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/shared"
)

// Status is what a worker says of itself to people. It names tenants, as metrics
// do: it is served where those are.
type Status struct {
	Worker   string    `json:"worker"`
	Version  string    `json:"version"`
	Platform string    `json:"platform"`
	Address  string    `json:"address"`
	Started  time.Time `json:"started"`
	Draining bool      `json:"draining"`

	Scheduler string `json:"scheduler"`
	// Answered is when the scheduler last answered a heartbeat, zero if it never
	// did; Error is the last one's.
	Answered time.Time `json:"answered,omitzero"`
	Error    string    `json:"error,omitempty"`

	// Streams is how many compiles are under way or wait for anything. The rest is
	// as in Load.
	Streams  int `json:"streams"`
	Capacity int `json:"capacity"`
	Running  int `json:"running"`
	Waiting  int `json:"waiting"`
	Machines struct {
		Booting      int    `json:"booting"`
		Ready        int    `json:"ready"`
		Ending       int    `json:"ending"`
		Boots        uint64 `json:"boots"`
		BootFailures uint64 `json:"boot_failures"`
		Crashes      uint64 `json:"crashes"`
	} `json:"machines"`
	Sessions []Session `json:"sessions"`
	Images   []string  `json:"images"`
	Tenants  []Tenant  `json:"tenants"`
	// Shared says how each tenant that had a compile here does with the caches that
	// workers share; empty without any.
	Shared []shared.Stats `json:"shared,omitempty"`
}

// Tenant is a tenant's store.
type Tenant struct {
	Name     string `json:"name"`
	Bytes    int64  `json:"bytes"`
	MaxBytes int64  `json:"max_bytes"`
	Results  int64  `json:"results"`
}

func (s *Service) status(reg *registrar) *Status {
	load := s.opt.Machines.Load()
	st := &Status{
		Worker: s.opt.Name, Version: s.opt.Version, Platform: reg.Platform, Address: reg.Advertise, Started: s.started, Draining: s.Draining(),
		Scheduler: reg.Scheduler, Streams: s.Streams(), Capacity: load.Capacity, Running: load.Running, Waiting: load.Waiting,
		Sessions: append([]Session{}, load.Sessions...), Images: []string{}, Tenants: []Tenant{}, // [] rather than null
	}
	m := &st.Machines
	m.Booting, m.Ready, m.Ending, m.Boots, m.BootFailures, m.Crashes = load.Booting, load.Ready, load.Ending, load.Boots, load.BootFailures, load.Crashes
	answered, err := reg.state()
	st.Answered = answered
	if err != nil {
		st.Error = err.Error()
	}
	if images, err := reg.Images(); err == nil {
		st.Images = append(st.Images, images...)
	}
	s.stores.usage(func(tenant string, u cache.Usage) {
		st.Tenants = append(st.Tenants, Tenant{tenant, u.Bytes, u.MaxBytes, u.Entries})
	})
	s.EachShared(func(stats *shared.Stats) { st.Shared = append(st.Shared, *stats) })
	slices.SortFunc(st.Shared, func(a, b shared.Stats) int { return strings.Compare(a.Tenant, b.Tenant) })
	slices.SortFunc(st.Tenants, func(a, b Tenant) int { return strings.Compare(a.Name, b.Name) })
	return st
}

func writeStatus(w http.ResponseWriter, st *Status) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(st) // whoever asked has gone, if it fails
}
