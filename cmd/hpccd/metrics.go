package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/daemon"
	"hpcc.dev/hpcc/internal/ipc"
	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/telemetry"
)

// serveMetrics serves a daemon's counters for Prometheus until stop is called,
// if the settings ask for it. They are the cache's, as hpcc stats shows them: a
// restart does not begin at 0.
func serveMetrics(c *config.Config, engine *daemon.Engine, logger *slog.Logger) (stop func(), err error) {
	if c.Daemon.MetricsListen == "" {
		return func() {}, nil
	}
	ln, err := net.Listen("tcp", c.Daemon.MetricsListen)
	if err != nil {
		return nil, withHint(fmt.Errorf("metrics: %w", err), "daemon.metrics_listen is a host:port of this machine that nothing else listens on")
	}
	r := telemetry.New()
	r.Build("daemon", ipc.Version)
	stats := func() *daemon.Stats {
		s, err := engine.Stats()
		if err != nil {
			logger.Warn("stats-not-read", "error", err.Error())
			return nil
		}
		return s
	}
	r.Totals("hpcc_compiles_total", "Compiles by what became of them.", []string{"outcome"}, func(set telemetry.Set) {
		if s := stats(); s != nil {
			set(float64(s.HitsDirect), "hit-direct")
			set(float64(s.HitsPreprocessed), "hit-preprocessed")
			set(float64(s.HitsRemote), "hit-remote")
			set(float64(s.Misses), "miss")
			set(float64(s.CompilesFailed), "failed")
		}
	})
	r.Totals("hpcc_uncacheable_total", "Calls that were not cached, by reason.", []string{"reason"}, func(set telemetry.Set) {
		if s := stats(); s != nil {
			for reason, n := range s.Uncacheable {
				set(float64(n), reason)
			}
		}
	})
	r.Totals("hpcc_races_total", "Compiles made here and on a worker at once, by where they were ready first.", []string{"won"}, func(set telemetry.Set) {
		if s := stats(); s != nil {
			set(float64(s.Races.WonHere), "here")
			set(float64(s.Races.WonThere), "there")
			set(float64(s.Races.Started-s.Races.WonHere-s.Races.WonThere), "nowhere")
		}
	})
	r.Totals("hpcc_errors_total", "Faults of hpcc itself.", nil, func(set telemetry.Set) {
		if s := stats(); s != nil {
			set(float64(s.Errors))
		}
	})
	r.Totals("hpcc_compile_seconds_saved_total", "What the reused results once took, less what reusing them took.", nil, func(set telemetry.Set) {
		if s := stats(); s != nil {
			set(s.CompileSecondsSaved)
		}
	})
	r.Gauges("hpcc_cache_bytes", "Size of the disk cache, and its limit.", []string{"what"}, func(set telemetry.Set) {
		if s := stats(); s != nil {
			set(float64(s.CacheBytes), "used")
			set(float64(s.CacheMaxBytes), "limit")
		}
	})
	if engine.Shared() != nil {
		tierMetrics(r, func(visit func(*shared.Stats)) { visit(engine.Shared()) })
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Serve(ctx, ln); err != nil {
			logger.Warn("metrics-ended", "error", err.Error())
		}
	}()
	return func() {
		cancel()
		<-done
	}, nil
}
