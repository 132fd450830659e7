package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/shared"
)

// unbounded is a size that no cache reaches.
const unbounded = 1 << 62

func (a *app) newCacheEvict() *cobra.Command {
	var f cacheFlags
	var maxSize, older string
	cmd := &cobra.Command{
		Use:   "evict TIER",
		Short: "Remove what was not used for longest from a shared cache",
		Long: `Evict does now what clients do by themselves when a tier is a tenth above its
max_size: it lists one tenant's objects and removes those that were not used for
longest, until nine tenths of max_size are left. What was put or used within the hour
stays, as does what is not hpcc's. Builds may go on meanwhile; only one client, or
one of these commands, evicts at a time.

--older-than removes what was not used for so long, whatever the size, and then even
if that is less than an hour.`,
		Example: `  hpcc cache evict regional
  hpcc cache evict regional --max-size 100GB
  hpcc cache evict s3://bucket --older-than 30d`,
		Args:              oneArg("tier"),
		ValidArgsFunction: a.completeTiers(&f, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var sweep shared.SweepOptions
			var err error
			if older != "" {
				if sweep.OlderThan, err = parseAge(older); err != nil {
					return usage{fmt.Errorf("--older-than is %q: %w", older, err)}
				}
			}
			c, err := a.caches(&f)
			if err != nil {
				return err
			}
			if c.tenant == "" {
				return usage{withHint(errors.New("whose objects?"), "--tenant NAME says so: each tenant is kept to max_size by itself")}
			}
			return atPlace(cmd, &f, c, args[0], how{write: true}, func(ctx context.Context, s *place) error {
				size := s.tier.MaxSize
				if maxSize != "" {
					var err error
					if size, err = config.ParseSize(maxSize); err != nil {
						return usage{fmt.Errorf("--max-size is %q: %w", maxSize, err)}
					}
				}
				if size <= 0 {
					if older == "" {
						return usage{withHint(fmt.Errorf("%s has no max_size", s.name), "say --max-size SIZE or --older-than AGE")}
					}
					size = unbounded
				}
				return a.evict(ctx, &f, s, shared.EvictorOptions{Store: s, Tenant: c.tenant, MaxBytes: size}, sweep)
			})
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&maxSize, "max-size", "", "keep at most so much, instead of the tier's max_size")
	cmd.Flags().StringVar(&older, "older-than", "", "remove what was not used for this long, such as 30d, 12h or 2w")
	return cmd
}

func (a *app) evict(ctx context.Context, f *cacheFlags, s *place, opt shared.EvictorOptions, sweep shared.SweepOptions) error {
	e, err := shared.NewEvictor(opt)
	if err != nil {
		return err
	}
	p := a.newProgress("listed")
	sweep.Progress = func(r shared.SweepReport) {
		if r.Removed == 0 {
			p.objects(r.Objects)
			return
		}
		p.line(fmt.Sprintf("%d objects, removed %d (%s)", r.Objects, r.Removed, config.HumanSize(r.RemovedBytes)))
	}
	r, err := e.Sweep(ctx, sweep)
	p.end()
	err = errors.Join(err, e.Close(context.WithoutCancel(ctx)))
	switch {
	case errors.Is(err, shared.ErrEvicting):
		return withHint(fmt.Errorf("%s: %w", s.name, err), "try again then; a client that died is taken over for")
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted; %d objects were removed", r.Removed)
	case err != nil:
		return storeError(s.name, err)
	}
	if f.asJSON {
		return a.printJSON(struct {
			Where string `json:"where"`
			shared.SweepReport
			Left int64 `json:"left_bytes"`
		}{s.String(), r, r.Left()})
	}
	t := a.newTable("", "OBJECTS", "SIZE")
	t.row("removed", strconv.FormatInt(r.Removed, 10), a.size(r.RemovedBytes))
	t.row("left", strconv.FormatInt(r.Objects-r.Removed, 10), a.size(r.Left()))
	if err := t.flush(); err != nil {
		return err
	}
	if r.Left() > opt.MaxBytes {
		a.note("hint: %s were used within the last hour and stay; try again later, or give max_size more", config.HumanSize(r.FreshBytes))
	}
	return nil
}
