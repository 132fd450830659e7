package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/telemetry"
)

// showShared adds a section on the shared caches, as the daemon knows them since it
// started.
func showShared(t *table, s *shared.Stats) {
	if s == nil {
		return
	}
	t.row("shared caches of tenant "+s.Tenant, "")
	for i := range s.Tiers {
		tier := &s.Tiers[i]
		t.row("  "+tier.Name, tierState(tier), tier.Where)
		t.row("    results", fmt.Sprintf("%d of %d", tier.Hits, tier.Hits+tier.Misses), config.HumanSize(tier.BytesIn)+" read")
		if tier.Write && s.Signer != "" {
			t.row("    written", strconv.FormatInt(tier.Written+tier.Backfilled, 10), config.HumanSize(tier.BytesOut)+" written")
		}
		if tier.Errors > 0 {
			t.row("    errors", strconv.FormatInt(tier.Errors, 10), fmt.Sprintf("%d of them time-outs", tier.Timeouts))
		}
		for _, reason := range slices.Sorted(maps.Keys(tier.Rejected)) {
			t.row("    rejected: "+string(reason), strconv.FormatInt(tier.Rejected[reason], 10))
		}
		if tier.Different > 0 {
			t.row("    different", strconv.FormatInt(tier.Different, 10), "results for which another one is there; the log names them")
		}
		if tier.Dropped > 0 {
			t.row("    dropped", strconv.FormatInt(tier.Dropped, 10), "results that could not be written")
		}
		showEviction(t, tier.Eviction)
	}
	if s.Signer == "" {
		t.row("  signed by", "nobody", "nothing is written: cache.signing_key_file is not set")
	}
	if s.Queue.Waiting > 0 {
		t.row("  waiting to be written", strconv.Itoa(s.Queue.Waiting), config.HumanSize(s.Queue.Bytes))
	}
	if s.TrustError != "" {
		t.row("  trusted keys", "none", s.TrustError)
	}
}

// showEviction says what this daemon removed from a tier, and why it cannot.
func showEviction(t *table, e *shared.EvictorStats) {
	if e == nil {
		return
	}
	if e.Removed > 0 {
		t.row("    evicted", strconv.FormatInt(e.Removed, 10), config.HumanSize(e.RemovedBytes)+" from here")
	}
	if e.Error != "" {
		t.row("    not evicted", firstLine(e.Error))
	}
}

// tierState says how a tier does, for people.
func tierState(t *shared.TierStats) string {
	switch t.State {
	case shared.StateAway:
		if !t.Until.IsZero() {
			return "away until " + t.Until.Local().Format(time.TimeOnly) + ": " + firstLine(t.Why)
		}
		return "away: " + firstLine(t.Why)
	case shared.StateFailing:
		return "failing: " + firstLine(t.Why)
	}
	return string(t.State)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// showPlainShared writes the same for scripts.
func showPlainShared(t *table, s *shared.Stats) {
	if s == nil {
		return
	}
	for i := range s.Tiers {
		tier := &s.Tiers[i]
		name := "shared." + tier.Name + "."
		t.row(name+"state", string(tier.State))
		for _, n := range []struct {
			name string
			n    int64
		}{
			{"hits", tier.Hits}, {"misses", tier.Misses}, {"bytes_in", tier.BytesIn}, {"bytes_out", tier.BytesOut},
			{"errors", tier.Errors}, {"timeouts", tier.Timeouts}, {"written", tier.Written}, {"different", tier.Different}, {"dropped", tier.Dropped},
		} {
			t.row(name+n.name, strconv.FormatInt(n.n, 10))
		}
		if e := tier.Eviction; e != nil {
			t.row(name+"evicted", strconv.FormatInt(e.Removed, 10))
		}
		for _, reason := range slices.Sorted(maps.Keys(tier.Rejected)) {
			t.row(name+"rejected."+string(reason), strconv.FormatInt(tier.Rejected[reason], 10))
		}
	}
}

// tierMetrics shows the tiers' counters for Prometheus; each calls its argument for
// every tenant.
func tierMetrics(r *telemetry.Registry, each func(func(*shared.Stats))) {
	tiers := func(visit func(s *shared.Stats, t *shared.TierStats)) {
		each(func(s *shared.Stats) {
			for i := range s.Tiers {
				visit(s, &s.Tiers[i])
			}
		})
	}
	r.Gauges("hpcc_tier_up", "1 where a shared cache is asked, 0 while it is away.", []string{"tenant", "tier"}, func(set telemetry.Set) {
		tiers(func(s *shared.Stats, t *shared.TierStats) {
			up := 1.0
			if t.State == shared.StateAway {
				up = 0
			}
			set(up, s.Tenant, t.Name)
		})
	})
	r.Totals("hpcc_tier_results_total", "Results by what a shared cache did with them.", []string{"tenant", "tier", "what"}, func(set telemetry.Set) {
		tiers(func(s *shared.Stats, t *shared.TierStats) {
			for what, n := range map[string]int64{
				"hit": t.Hits, "miss": t.Misses, "written": t.Written, "backfilled": t.Backfilled, "present": t.Present,
				"replaced": t.Replaced, "different": t.Different, "dropped": t.Dropped,
			} {
				set(float64(n), s.Tenant, t.Name, what)
			}
		})
	})
	r.Totals("hpcc_tier_rejected_total", "Objects of a shared cache that were not believed, by reason.", []string{"tenant", "tier", "reason"}, func(set telemetry.Set) {
		tiers(func(s *shared.Stats, t *shared.TierStats) {
			for reason, n := range t.Rejected {
				set(float64(n), s.Tenant, t.Name, string(reason))
			}
		})
	})
	r.Totals("hpcc_tier_bytes_total", "Bytes that crossed, by direction.", []string{"tenant", "tier", "direction"}, func(set telemetry.Set) {
		tiers(func(s *shared.Stats, t *shared.TierStats) {
			set(float64(t.BytesIn), s.Tenant, t.Name, "in")
			set(float64(t.BytesOut), s.Tenant, t.Name, "out")
		})
	})
	r.Totals("hpcc_tier_errors_total", "Requests that failed: time-outs, and others.", []string{"tenant", "tier", "kind"}, func(set telemetry.Set) {
		tiers(func(s *shared.Stats, t *shared.TierStats) {
			set(float64(t.Timeouts), s.Tenant, t.Name, "timeout")
			set(float64(t.Errors-t.Timeouts), s.Tenant, t.Name, "other")
		})
	})
	r.Gauges("hpcc_tier_queue_bytes", "What waits to be written to the shared caches.", []string{"tenant"}, func(set telemetry.Set) {
		each(func(s *shared.Stats) { set(float64(s.Queue.Bytes), s.Tenant) })
	})
}
