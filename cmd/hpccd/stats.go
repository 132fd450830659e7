package main

import (
	"fmt"
	"sort"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/daemon"
	"hpcc.dev/hpcc/internal/shared"
)

func (a *app) newStats() *cobra.Command {
	var asJSON, zero bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Show hits, misses and the size of the cache",
		Long: `Stats counts every compiler call that went through hpcc: hits, misses, and
those that were passed to the compiler as they were, each with its reason.
The numbers come from the daemon if one runs, else from the cache directory; what
is said of the shared caches, the daemon counts since it started.`,
		Example: `  hpcc stats
  hpcc stats --zero && make && hpcc stats
  hpcc stats --json | jq .misses`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.settings()
			if err != nil {
				return err
			}
			if a.readStats == nil || a.zeroStats == nil {
				return absent("statistics")
			}
			s, err := a.readStats(c)
			if err != nil {
				return withHint(fmt.Errorf("statistics: %w", err), "hpcc config shows which cache directory is used")
			}
			// With --zero the numbers shown are those that end here.
			if zero {
				if err := a.zeroStats(c); err != nil {
					return fmt.Errorf("zeroing the statistics: %w", err)
				}
			}
			var tiers *shared.Stats
			if a.sharedStats != nil {
				tiers = a.sharedStats(c)
			}
			if asJSON {
				s.Complete()
				return a.printJSON(struct {
					*daemon.Stats
					// Shared counts since the daemon started; it is missing without one.
					Shared *shared.Stats `json:"shared,omitempty"`
				}{s, tiers})
			}
			return a.printStats(s, tiers)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.Flags().BoolVar(&zero, "zero", false, "start counting anew, after printing")
	return cmd
}

func (a *app) printStats(s *daemon.Stats, tiers *shared.Stats) error {
	if !a.terminal {
		return a.printPlainStats(s, tiers)
	}
	t := a.newTable()
	count := func(name string, n int64) { t.row(name, strconv.FormatInt(n, 10)) }
	t.row("hits", fmt.Sprintf("%d", s.Hits()), percent(s.Hits(), s.Hits()+s.Misses))
	count("  direct", s.HitsDirect)
	count("  preprocessed", s.HitsPreprocessed)
	if s.HitsRemote > 0 {
		count("  remote", s.HitsRemote)
	}
	for _, tier := range byCount(s.HitsByTier) {
		count("    from "+tier, s.HitsByTier[tier])
	}
	t.row("misses", fmt.Sprintf("%d", s.Misses), percent(s.Misses, s.Hits()+s.Misses))
	if s.CompilesFailed > 0 {
		count("  failed to compile", s.CompilesFailed)
	}
	count("not cacheable", passed(s))
	for _, reason := range byCount(s.Uncacheable) {
		t.row("  "+reason, strconv.FormatInt(s.Uncacheable[reason], 10), daemon.DescribeReason(reason))
	}
	if len(s.NotRemote) > 0 {
		t.row("compiled here, not on a worker", "")
	}
	for _, reason := range byCount(s.NotRemote) {
		t.row("  "+reason, strconv.FormatInt(s.NotRemote[reason], 10), daemon.DescribeReason(reason))
	}
	if r := &s.Races; r.Started > 0 {
		t.row("raced with a worker", strconv.FormatInt(r.Started, 10))
		count("  ready here first", r.WonHere)
		count("  ready there first", r.WonThere)
	}
	if len(s.NotPreprocessed) > 0 {
		t.row("sent as files, not preprocessed", "")
	}
	for _, reason := range byCount(s.NotPreprocessed) {
		t.row("  "+reason, strconv.FormatInt(s.NotPreprocessed[reason], 10), daemon.DescribeReason(reason))
	}
	if s.Errors > 0 {
		count("errors", s.Errors)
	}
	if s.ListHits+s.ListMisses > 0 {
		t.row("dependency lists", fmt.Sprintf("%d", s.ListHits+s.ListMisses), fmt.Sprintf("%d of them from the cache", s.ListHits))
	}
	if s.Damaged > 0 {
		count("damaged cache files", s.Damaged)
	}
	if v := &s.Verify; v.Checked > 0 || len(v.Skipped) > 0 {
		count("hits verified", v.Checked)
		if v.Mismatched > 0 {
			t.row("  mismatched", strconv.FormatInt(v.Mismatched, 10), "their entries are in quarantine: hpcc inspect quarantine")
		}
		for _, reason := range byCount(v.Skipped) {
			t.row("  skipped: "+reason, strconv.FormatInt(v.Skipped[reason], 10))
		}
	}
	t.row("compile time saved", humanSeconds(s.CompileSecondsSaved))
	t.row("cache", config.HumanSize(s.CacheBytes)+" of "+config.HumanSize(s.CacheMaxBytes), percent(s.CacheBytes, s.CacheMaxBytes))
	count("  entries", s.Entries)
	showShared(t, tiers)
	if !s.Since.IsZero() {
		t.row("since", s.Since.Local().Format("2006-01-02 15:04:05"))
	}
	return t.flush()
}

// printPlainStats writes the JSON's names, for scripts.
func (a *app) printPlainStats(s *daemon.Stats, tiers *shared.Stats) error {
	t := a.newTable()
	for _, r := range []struct {
		name string
		n    int64
	}{
		{"hits_direct", s.HitsDirect}, {"hits_preprocessed", s.HitsPreprocessed}, {"hits_remote", s.HitsRemote},
		{"misses", s.Misses}, {"compiles_failed", s.CompilesFailed}, {"errors", s.Errors}, {"list_hits", s.ListHits}, {"list_misses", s.ListMisses},
		{"damaged", s.Damaged}, {"verify.checked", s.Verify.Checked}, {"verify.mismatched", s.Verify.Mismatched},
		{"races.started", s.Races.Started}, {"races.won_here", s.Races.WonHere}, {"races.won_there", s.Races.WonThere},
		{"cache_bytes", s.CacheBytes}, {"cache_max_bytes", s.CacheMaxBytes}, {"entries", s.Entries},
	} {
		t.row(r.name, strconv.FormatInt(r.n, 10))
	}
	t.row("compile_seconds_saved", strconv.FormatFloat(s.CompileSecondsSaved, 'f', 3, 64))
	for _, tier := range byCount(s.HitsByTier) {
		t.row("hits_by_tier."+tier, strconv.FormatInt(s.HitsByTier[tier], 10))
	}
	showPlainShared(t, tiers)
	for _, reason := range byCount(s.Uncacheable) {
		t.row("uncacheable."+reason, strconv.FormatInt(s.Uncacheable[reason], 10))
	}
	for _, reason := range byCount(s.NotRemote) {
		t.row("not_remote."+reason, strconv.FormatInt(s.NotRemote[reason], 10))
	}
	for _, reason := range byCount(s.NotPreprocessed) {
		t.row("not_preprocessed."+reason, strconv.FormatInt(s.NotPreprocessed[reason], 10))
	}
	for _, reason := range byCount(s.Verify.Skipped) {
		t.row("verify.skipped."+reason, strconv.FormatInt(s.Verify.Skipped[reason], 10))
	}
	return t.flush()
}

// byCount lists the reasons that occurred, the most frequent first.
func byCount(m map[string]int64) []string {
	var names []string
	for name, n := range m {
		if n > 0 {
			names = append(names, name)
		}
	}
	sort.Slice(names, func(i, j int) bool {
		if m[names[i]] != m[names[j]] {
			return m[names[i]] > m[names[j]]
		}
		return names[i] < names[j]
	})
	return names
}

func percent(part, whole int64) string {
	if whole <= 0 {
		return ""
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}

func humanSeconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d < time.Minute {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
