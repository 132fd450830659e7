package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/cache"
)

func (a *app) newFsck() *cobra.Command {
	var repair, asJSON bool
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check every file of the cache",
		Long: `Fsck reads the whole cache: it checks every digest and checksum, recomputes the
key of every result, and follows every name. Files that are damaged, or are
none of the cache's, make it end with status 1, unless --repair removes them. A
damaged file is no danger to builds: they find it out as well, and compile.

What names something that is gone ("dangling") is what the removal of old results
leaves, and no fault; --repair tidies it up. Builds may go on meanwhile.`,
		Example: `  hpcc fsck
  hpcc fsck --repair
  hpcc fsck --json | jq '.problems[]'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.settings()
			if err != nil {
				return err
			}
			if a.fsck == nil {
				return absent("the cache's check")
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			p := a.newProgress("checked")
			r, err := a.fsck(ctx, c, repair, p.show)
			p.end()
			if errors.Is(err, context.Canceled) {
				return errors.New("interrupted; what was repaired stays so")
			}
			if err != nil {
				return withHint(fmt.Errorf("%s: %w", c.Cache.Dir, err), "hpcc config shows which cache directory is used, hpcc doctor what is wrong with it")
			}
			if asJSON {
				err = a.printJSON(r)
			} else {
				err = a.printFsck(r, repair)
			}
			if err == nil && !r.Clean() && !repair {
				a.note("hint: hpcc fsck --repair removes what is damaged; the next compiles make it anew")
				return exitStatus(1)
			}
			if left := r.Damaged + r.Stray + r.Dangling - r.Repaired; err == nil && repair && left > 0 {
				return withHint(fmt.Errorf("%d problems could not be repaired", left), "see that %s can be written", c.Cache.Dir)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "remove what is damaged, stray or dangling")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// maxProblems is how many problems people are shown.
const maxProblems = 20

func (a *app) printFsck(r *cache.FsckReport, repair bool) error {
	t := a.newTable()
	count := func(name string, n int64, rest ...string) {
		t.row(append([]string{name, strconv.FormatInt(n, 10)}, rest...)...)
	}
	count("blobs", r.Blobs)
	count("entries", r.Entries)
	count("manifests", r.Manifests)
	count("memos", r.Memos)
	count("quarantined", r.Quarantined)
	t.row("size", a.size(r.Bytes))
	count("damaged", r.Damaged)
	count("stray", r.Stray)
	count("dangling", r.Dangling)
	if repair {
		count("repaired", r.Repaired)
	}
	for i, p := range r.Problems {
		if i == maxProblems {
			a.note("and %d more, which --json lists", len(r.Problems)-i)
			break
		}
		if p.What == "dangling" && a.terminal {
			continue // no fault, and there may be thousands
		}
		t.row(p.What, p.Path, p.Detail)
	}
	return t.flush()
}
