package worker

import (
	"strings"

	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/telemetry"
)

// What becomes of a job.
const (
	outcomeHit        = "hit"
	outcomeMiss       = "miss"       // run, and stored
	outcomeFailed     = "failed"     // run, with an exit code or signal
	outcomeLimit      = "limit"      // a limit was hit
	outcomeUncached   = "uncached"   // run, as the client wanted it
	outcomeUnstorable = "unstorable" // run, and cannot be kept
	outcomeUnaccepted = "unaccepted" // run, and its inputs were others
	outcomeCancelled  = "cancelled"
	outcomeLost       = "lost"   // with its machine
	outcomeBroken     = "broken" // the guest broke the contract
	outcomeError      = "error"
)

// Where blobs and outputs go.
const (
	fromClient = "from_client"
	toClient   = "to_client"
	toGuest    = "to_guest"
)

type metrics struct {
	compiles, refusals, overQuota, blobs, bytes, storeErrors, sharedHits *telemetry.Counter
	seconds                                                              *telemetry.Histogram
}

func newMetrics(r *telemetry.Registry, s *Service) *metrics {
	m := &metrics{
		compiles: r.Counter("hpcc_worker_compiles_total", "Jobs by what became of them.", "tenant", "outcome"),
		refusals: r.Counter("hpcc_worker_refusals_total", "Calls that ended with an error, by its code.", "code"),
		overQuota: r.Counter("hpcc_worker_quota_refusals_total",
			"Calls that were sent away because their tenant had reached a quota, by its name.", "tenant", "quota"),
		blobs: r.Counter("hpcc_worker_transferred_blobs_total", "Inputs that crossed, by direction.", "tenant", "direction"),
		bytes: r.Counter("hpcc_worker_transferred_bytes_total", "Bytes of inputs and outputs that crossed, uncompressed, by direction.", "tenant", "direction"),
		storeErrors: r.Counter("hpcc_worker_store_errors_total",
			"Results that could not be stored."),
		sharedHits: r.Counter("hpcc_worker_shared_hits_total", "Hits whose result was fetched from a shared cache, by its name.", "tenant", "tier"),
		seconds:    r.Histogram("hpcc_worker_compile_seconds", "What jobs took in the machine.", telemetry.Seconds, "outcome"),
	}
	load := func(f func(Load) float64) func() float64 {
		return func() float64 { return f(s.opt.Machines.Load()) }
	}
	r.Gauge("hpcc_worker_streams", "Compiles that are under way or wait for anything.", func() float64 { return float64(s.Streams()) })
	r.Gauge("hpcc_worker_capacity", "Jobs that can run at once.", load(func(l Load) float64 { return float64(l.Capacity) }))
	r.Gauge("hpcc_worker_running", "Jobs that run.", load(func(l Load) float64 { return float64(l.Running) }))
	r.Gauge("hpcc_worker_waiting", "Jobs that wait for a machine.", load(func(l Load) float64 { return float64(l.Waiting) }))
	r.Gauges("hpcc_worker_machines", "Machines by state.", []string{"state"}, func(set telemetry.Set) {
		l := s.opt.Machines.Load()
		set(float64(l.Booting), "booting")
		set(float64(l.Ready), "ready")
		set(float64(l.Ending), "ending")
	})
	r.Gauges("hpcc_worker_sessions", "Images of which a tenant has a machine.", []string{"tenant"}, func(set telemetry.Set) {
		for _, session := range s.opt.Machines.Load().Sessions {
			set(1, session.Tenant)
		}
	})
	r.Totals("hpcc_worker_boots_total", "Machines that were started.", nil, func(set telemetry.Set) { set(float64(s.opt.Machines.Load().Boots)) })
	r.Totals("hpcc_worker_boot_failures_total", "Machines that could not be started.", nil,
		func(set telemetry.Set) { set(float64(s.opt.Machines.Load().BootFailures)) })
	r.Totals("hpcc_worker_crashes_total", "Machines that ended by themselves, or broke the contract.", nil,
		func(set telemetry.Set) { set(float64(s.opt.Machines.Load().Crashes)) })
	r.Gauges("hpcc_worker_cache_bytes", "What a tenant's store holds.", []string{"tenant"}, func(set telemetry.Set) {
		s.stores.usage(func(tenant string, u cache.Usage) { set(float64(u.Bytes), tenant) })
	})
	r.Gauges("hpcc_worker_cache_results", "Results in a tenant's store.", []string{"tenant"}, func(set telemetry.Set) {
		s.stores.usage(func(tenant string, u cache.Usage) { set(float64(u.Entries), tenant) })
	})
	return m
}

// refused counts a call that ended with an error.
func (m *metrics) refused(err error) { m.refusals.Inc(strings.ToLower(status.Code(err).String())) }
