package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/daemon"
)

func (a *app) newClean() *cobra.Command {
	var (
		all    bool
		older  string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Remove old results from the cache",
		Long: `Clean brings the cache under its size limit, least recently used first, and
sweeps what programs that died left behind. hpcc does the same by itself; this
command does it now, and can remove more. Builds may go on meanwhile.`,
		Example: `  hpcc clean                # down to the size limit
  hpcc clean --older 7d     # what was not used for a week
  hpcc clean --all          # everything`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all && older != "" {
				return usage{errors.New("--all and --older exclude each other")}
			}
			opt := daemon.CleanOptions{All: all}
			if older != "" {
				d, err := parseAge(older)
				if err != nil {
					return usage{fmt.Errorf("--older is %q: %w", older, err)}
				}
				opt.OlderThan = d
			}
			c, err := a.settings()
			if err != nil {
				return err
			}
			if a.clean == nil {
				return absent("the cleaner")
			}
			r, err := a.clean(cmd.Context(), c, opt)
			if err != nil {
				return withHint(fmt.Errorf("cleaning %s: %w", c.Cache.Dir, err), "hpcc config shows which cache directory is used")
			}
			if asJSON {
				return a.printJSON(r)
			}
			t := a.newTable("", "ENTRIES", "SIZE")
			t.row("removed", strconv.FormatInt(r.Entries, 10), a.size(r.Bytes))
			t.row("left", strconv.FormatInt(r.EntriesLeft, 10), a.size(r.BytesLeft))
			return t.flush()
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove everything")
	cmd.Flags().StringVar(&older, "older", "", "remove what was not used for this long, such as 7d, 12h or 2w")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// size writes a number of bytes, for people on a terminal.
func (a *app) size(n int64) string {
	if a.terminal {
		return config.HumanSize(n)
	}
	return strconv.FormatInt(n, 10)
}

// parseAge reads a duration, with days (d) and weeks (w) besides Go's units.
func parseAge(s string) (time.Duration, error) {
	bad := errors.New("must be an age such as 7d, 12h or 2w")
	var d time.Duration
	if days, ok := strings.CutSuffix(s, "d"); ok {
		return scaledAge(days, 24*time.Hour, bad)
	}
	if weeks, ok := strings.CutSuffix(s, "w"); ok {
		return scaledAge(weeks, 7*24*time.Hour, bad)
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, bad
	}
	return d, nil
}

func scaledAge(number string, unit time.Duration, bad error) (time.Duration, error) {
	f, err := strconv.ParseFloat(number, 64)
	// A century is more than any cache lives, and keeps the product in range.
	if err != nil || !(f > 0 && f*float64(unit) < float64(100*365*24*time.Hour)) {
		return 0, bad
	}
	return time.Duration(f * float64(unit)), nil
}
