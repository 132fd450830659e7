package main

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/telemetry"
)

func someTiers() *shared.Stats {
	return &shared.Stats{
		Tenant: "red", Signer: "me", Queue: shared.QueueStats{Waiting: 3, Bytes: 4096},
		Tiers: []shared.TierStats{
			{
				Name: "near", Where: "file:///mnt/share", Write: true, State: shared.StateOK, Hits: 7, Misses: 3, BytesIn: 1_500_000, BytesOut: 2_000,
				Written: 4, Different: 1, Rejected: map[shared.Reason]int64{shared.ReasonStranger: 2},
			},
			{
				Name: "far", Where: "s3://bucket/cache", State: shared.StateAway, Until: time.Now().Add(time.Minute), Why: "no answer within 2s\nand more",
				Errors: 5, Timeouts: 1, Dropped: 6,
			},
		},
	}
}

func TestSharedStats(t *testing.T) {
	a, stdout, _ := fixture(t)
	a.readStats, a.zeroStats = someStats, func(*config.Config) error { return nil }
	a.sharedStats = func(*config.Config) *shared.Stats { return someTiers() }
	for _, c := range []struct {
		terminal bool
		args     []string
		want     []string
	}{
		{true, []string{"stats"}, []string{
			"shared caches of tenant red", "  near ok file:///mnt/share", "results 7 of 10 1.50 MB read", "written 4 2.00 kB written", "rejected: stranger 2",
			"different 1", "  far away until ", ": no answer within 2s s3://bucket/cache", "errors 5 1 of them time-outs", "dropped 6", "waiting to be written 3 4.10 kB",
		}},
		{false, []string{"stats"}, []string{"shared.near.hits\t7", "shared.near.rejected.stranger\t2", "shared.far.state\taway", "shared.far.timeouts\t1"}},
		{false, []string{"stats", "--json"}, []string{`"hits_direct": 74`, `"shared": {`, `"state": "away"`, `"stranger": 2`}},
	} {
		stdout.Reset()
		a.terminal = c.terminal
		if code := a.run(c.args); code != 0 {
			t.Fatalf("exit status %d", code)
		}
		got := stdout.String()
		if c.terminal {
			got = squeeze(got)
		}
		for _, want := range c.want {
			if c.terminal {
				want = squeeze(want)
			}
			if !strings.Contains(got, want) {
				t.Errorf("%q lacks %q:\n%s", c.args, want, got)
			}
		}
		if strings.Contains(got, "and more") && c.args[len(c.args)-1] != "--json" {
			t.Errorf("more than a line of an error:\n%s", got)
		}
	}
}

func TestTierMetrics(t *testing.T) {
	r := telemetry.New()
	tierMetrics(r, func(visit func(*shared.Stats)) { visit(someTiers()) })
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`hpcc_tier_up{tenant="red",tier="near"} 1`, `hpcc_tier_up{tenant="red",tier="far"} 0`,
		`hpcc_tier_results_total{tenant="red",tier="near",what="hit"} 7`, `hpcc_tier_results_total{tenant="red",tier="far",what="dropped"} 6`,
		`hpcc_tier_rejected_total{reason="stranger",tenant="red",tier="near"} 2`, `hpcc_tier_bytes_total{direction="in",tenant="red",tier="near"} 1.5e+06`,
		`hpcc_tier_errors_total{kind="timeout",tenant="red",tier="far"} 1`, `hpcc_tier_errors_total{kind="other",tenant="red",tier="far"} 4`,
		`hpcc_tier_queue_bytes{tenant="red"} 4096`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, w.Body)
		}
	}
}
