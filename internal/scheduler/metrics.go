package scheduler

import (
	"time"

	"hpcc.dev/hpcc/internal/telemetry"
)

// metrics are what the scheduler counts.
type metrics struct {
	routes, heartbeats, refusals *telemetry.Counter
}

// newMetrics makes the metrics in r, or in a registry of nobody's.
func (s *Scheduler) newMetrics(r *telemetry.Registry) *metrics {
	if r == nil {
		r = telemetry.New()
	}
	m := &metrics{
		routes: r.Counter("hpcc_scheduler_routes_total",
			"Clients that asked for workers, by outcome: routed, overloaded, no_worker, image_refused, invalid, gone, error.", "tenant", "outcome"),
		heartbeats: r.Counter("hpcc_scheduler_heartbeats_total", "Heartbeats of workers, by outcome: taken, invalid.", "outcome"),
		refusals: r.Counter("hpcc_scheduler_refusals_total",
			"Calls refused for who made them: credential-refused, role-refused, image-refused, worker-refused.", "event"),
	}
	r.Gauges("hpcc_scheduler_workers", "Workers by platform and state: ready, full, draining, silent.", []string{"platform", "state"},
		func(set telemetry.Set) {
			for _, w := range s.registry.states(time.Now()) {
				set(1, w.last.Platform, w.what)
			}
		})
	// What a silent worker said last is no load of now.
	each := func(set telemetry.Set, value func(w *state)) {
		for _, w := range s.registry.states(time.Now()) {
			if w.what != "silent" {
				value(&w)
			}
		}
	}
	r.Gauges("hpcc_scheduler_worker_jobs", "Compiles that each worker last said it has: running, queued.", []string{"worker", "state"},
		func(set telemetry.Set) {
			each(set, func(w *state) {
				set(float64(w.last.Running), w.last.Worker, "running")
				set(float64(w.last.Queued), w.last.Worker, "queued")
			})
		})
	r.Gauges("hpcc_scheduler_worker_capacity", "Compiles that each worker runs at a time.", []string{"worker"},
		func(set telemetry.Set) {
			each(set, func(w *state) { set(float64(w.last.Capacity), w.last.Worker) })
		})
	r.Totals("hpcc_scheduler_worker_vm_crashes_total", "Machines that ended on their own, since each worker started.", []string{"worker"},
		func(set telemetry.Set) {
			each(set, func(w *state) { set(float64(w.last.VmCrashes), w.last.Worker) })
		})
	return m
}
