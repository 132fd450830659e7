package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/shared"
)

func (a *app) newCacheVerify() *cobra.Command {
	var f cacheFlags
	var opt shared.CheckOptions
	cmd := &cobra.Command{
		Use:   "verify TIER",
		Short: "Read every object of a shared cache and check it",
		Long: `Verify reads every object and checks it as a build does before it believes it:
signature, signer, key and digests. It lists what is wrong, and then ends with
status 1. Such objects are no danger to builds, which find them out as well; they
take space, and may tell of somebody who should not write there.

--repair removes what is wrong. Results of signers that are not among the trusted
keys here may be right to others, and stay unless --strangers is given too. What
is not hpcc's is never touched.`,
		Example: `  hpcc cache verify regional
  hpcc cache verify regional --repair
  hpcc cache verify s3://bucket/cache --trusted-keys trusted-keys --json`,
		Args:              oneArg("tier"),
		ValidArgsFunction: a.completeTiers(&f, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opt.Strangers && !opt.Repair {
				return usage{errors.New("--strangers goes with --repair")}
			}
			c, err := a.caches(&f)
			if err != nil {
				return err
			}
			if opt.Trust, err = c.trust(&f); err != nil {
				return err
			}
			opt.Tenant = c.tenant
			return atPlace(cmd, &f, c, args[0], how{write: opt.Repair}, func(ctx context.Context, s *place) error {
				return a.verifyCache(ctx, &f, s, opt)
			})
		},
	}
	f.registerAll(cmd)
	cmd.Flags().BoolVar(&opt.Repair, "repair", false, "remove what is wrong")
	cmd.Flags().BoolVar(&opt.Strangers, "strangers", false, "with --repair, results of signers that are not trusted here too")
	cmd.Flags().StringVar(&f.trustedKeys, "trusted-keys", "", "file with the public keys of those who are believed (default the settings')")
	return cmd
}

func (a *app) verifyCache(ctx context.Context, f *cacheFlags, s *place, opt shared.CheckOptions) error {
	wrong := []shared.Wrong{}
	opt.Wrong = func(w shared.Wrong) { wrong = append(wrong, w) }
	p := a.newProgress("verified")
	_, total, err := p.count(ctx, s, opt.Tenant)
	var r shared.CheckReport
	if err == nil {
		opt.Progress = func(r shared.CheckReport) { p.bar(r.Bytes, total, ofBytes(r.Bytes, total)) }
		r, err = shared.Check(ctx, s, opt)
	}
	p.end()
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted; what was repaired stays so")
	}
	if err != nil {
		return storeError(s.name, err)
	}
	sortWrong(wrong)
	if f.asJSON {
		err = a.printJSON(struct {
			Where string `json:"where"`
			shared.CheckReport
			List []shared.Wrong `json:"list"`
		}{s.String(), r, wrong})
	} else {
		err = a.printCheck(&r, wrong)
	}
	if err != nil || r.Wrong == r.Removed {
		return err
	}
	switch {
	case !opt.Repair:
		a.note("hint: hpcc cache verify --repair removes what is wrong; the next compiles make it anew")
	case !opt.Strangers:
		a.note("hint: what strangers signed stays; --strangers removes it too")
	}
	return exitStatus(1)
}

func sortWrong(list []shared.Wrong) {
	slices.SortFunc(list, func(x, y shared.Wrong) int { return strings.Compare(x.Name, y.Name) })
}

// tally is one line of a report.
type tally struct {
	what string
	n    int64
	zero bool // shown even if it is 0
}

// printTallies prints counts, a size, and what is wrong.
func (a *app) printTallies(list []tally, sizeOf string, size int64, wrong []shared.Wrong) error {
	t := a.newTable()
	for _, x := range list {
		if x.n > 0 || x.zero {
			t.row(x.what, strconv.FormatInt(x.n, 10))
		}
	}
	t.row(sizeOf, a.size(size))
	for i, w := range wrong {
		if i == maxProblems {
			a.note("and %d more, which --json lists", len(wrong)-i)
			break
		}
		t.row(string(w.Reason), w.Name, w.Detail)
	}
	return t.flush()
}

func (a *app) printCheck(r *shared.CheckReport, wrong []shared.Wrong) error {
	list := []tally{{"objects", r.Objects, true}, {"wrong", r.Wrong, true}}
	for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
		list = append(list, tally{"wrong: " + string(reason), r.Reasons[reason], true})
	}
	list = append(list, tally{"removed", r.Removed, false}, tally{"encrypted with another key", r.Sealed, false}, tally{"ccache's, not looked at", r.Ccache, false}, tally{"foreign", r.Foreign, false})
	return a.printTallies(list, "size", r.Bytes, wrong)
}
