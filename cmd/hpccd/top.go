package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/daemon"
)

func (a *app) newTop() *cobra.Command {
	var (
		interval time.Duration
		count    int
	)
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch hits, misses and the compiles under way",
		Long: `Top shows what has happened since it last looked, and the compiles that the
daemon waits for, until it is interrupted. On a terminal it keeps one screen up
to date; piped, it writes one line for each look: the seconds since it began,
then the hits, misses, calls that were not cacheable, errors, and compiles under
way.`,
		Example: `  hpcc top
  hpcc top --interval 10s
  hpcc top --count 60 >build.tsv`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < 100*time.Millisecond {
				return usage{errors.New("--interval must be 100ms at least")}
			}
			c, err := a.settings()
			if err != nil {
				return err
			}
			if a.watch == nil {
				return absent("statistics")
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return a.top(ctx, c, interval, count)
		},
	}
	cmd.Flags().DurationVar(&interval, "interval", 2*time.Second, "time between two looks")
	cmd.Flags().IntVar(&count, "count", 0, "end after so many looks; 0 goes on")
	return cmd
}

// top looks again and again, until ctx ends or count looks were made.
func (a *app) top(ctx context.Context, c *config.Config, interval time.Duration, count int) error {
	began := time.Now()
	before, _, err := a.watch(c)
	if err != nil {
		return withHint(fmt.Errorf("statistics: %w", err), "hpcc config shows which cache directory is used")
	}
	last := began
	for look := 1; ; look++ {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
		now, running, err := a.watch(c)
		if err != nil {
			return fmt.Errorf("statistics: %w", err)
		}
		// Counting began anew meanwhile (hpcc stats --zero).
		if !now.Since.Equal(before.Since) {
			before = &daemon.Stats{Since: now.Since}
		}
		if a.terminal {
			err = a.showTop(before, now, time.Since(last), running)
		} else {
			t := a.newTable()
			t.row(strconv.FormatFloat(time.Since(began).Seconds(), 'f', 1, 64),
				strconv.FormatInt(now.Hits()-before.Hits(), 10), strconv.FormatInt(now.Misses-before.Misses, 10),
				strconv.FormatInt(passed(now)-passed(before), 10), strconv.FormatInt(now.Errors-before.Errors, 10),
				strconv.Itoa(len(running)))
			err = t.flush()
		}
		if err != nil || look == count {
			return err
		}
		before, last = now, time.Now()
	}
}

// passed is how many calls were not cacheable.
func passed(s *daemon.Stats) (n int64) {
	for _, k := range s.Uncacheable {
		n += k
	}
	return n
}

// maxRunning is how many compiles under way fit on a screen with the rest.
const maxRunning = 12

// showTop writes one screen over the last one.
func (a *app) showTop(before, now *daemon.Stats, over time.Duration, running []daemon.Running) error {
	if _, err := fmt.Fprint(a.stdout, "\x1b[H\x1b[2J"); err != nil {
		return err
	}
	t := a.newTable("", "PER SECOND", "IN ALL")
	rate := func(name string, was, is int64, rest string) {
		t.row(name, strconv.FormatFloat(float64(is-was)/over.Seconds(), 'f', 1, 64), strconv.FormatInt(is, 10), rest)
	}
	rate("hits", before.Hits(), now.Hits(), percent(now.Hits(), now.Hits()+now.Misses))
	rate("misses", before.Misses, now.Misses, "")
	rate("failed to compile", before.CompilesFailed, now.CompilesFailed, "")
	rate("not cacheable", passed(before), passed(now), "")
	rate("errors", before.Errors, now.Errors, "")
	t.row("cache", "", config.HumanSize(now.CacheBytes), percent(now.CacheBytes, now.CacheMaxBytes))
	t.row("compiling", "", strconv.Itoa(len(running)))
	for i, r := range running {
		if i == maxRunning {
			break
		}
		t.row("  "+humanSeconds(r.Seconds), "", r.Source, r.Cwd)
	}
	return t.flush()
}
