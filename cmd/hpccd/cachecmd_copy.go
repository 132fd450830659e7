package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/shared"
)

func (a *app) newCacheCopy() *cobra.Command {
	var (
		f        cacheFlags
		opt      shared.MirrorOptions
		raw      bool
		noVerify bool
		newer    string
	)
	cmd := &cobra.Command{
		Use:   "copy FROM TO",
		Short: "Copy a shared cache to another place",
		Long: `Copy copies hpcc's objects from one tier or place to another: from a bucket to a
directory, for a site without a network, and back into a bucket there. The directory
is a tier like any other (url = "file:///…").

Each object is verified on the way, as hpcc cache verify does; what is wrong is left
out, and makes copy end with status 1. What is there already stays, so that a copy
that was stopped goes on where it was, and one that is repeated brings what is new.
Manifests are joined. What is not hpcc's is left alone on both sides; ccache's entries,
which nobody signs, go along with --no-verify only.

--raw copies objects that are encrypted (encryption_key_file) as they are, without the
key and without verification.`,
		Example: `  hpcc cache copy regional /mnt/usb/hpcc-mirror
  hpcc cache copy /mnt/usb/hpcc-mirror s3://bucket --endpoint https://s3.example.com --path-style
  hpcc cache copy regional /mnt/usb/hpcc-mirror --newer-than 7d
  hpcc cache copy --raw central file:///backup/hpcc`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usage{withHint(fmt.Errorf("%s takes two tiers or places: from, and to", cmd.CommandPath()), "see %s --help", cmd.CommandPath())}
			}
			return nil
		},
		ValidArgsFunction: a.completeTiers(&f, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if newer != "" {
				d, err := parseAge(newer)
				if err != nil {
					return usage{fmt.Errorf("--newer-than is %q: %w", newer, err)}
				}
				opt.NewerThan = time.Now().Add(-d)
			}
			c, err := a.caches(&f)
			if err != nil {
				return err
			}
			if opt.Verify = !noVerify && !raw; opt.Verify {
				if opt.Trust, err = c.trust(&f); err != nil {
					return err
				}
			}
			from, err := openPlace(&f, c, args[0], how{raw: raw})
			if err != nil {
				return err
			}
			defer func() { _ = from.Close() }()
			to, err := openPlace(&f, c, args[1], how{raw: raw, write: true, create: true})
			if err != nil {
				return err
			}
			defer func() { _ = to.Close() }()
			if from.String() == to.String() && from.tier.Endpoint == to.tier.Endpoint {
				return usage{errors.New("both are one place")}
			}
			ctx, stop := untilSignal(cmd)
			defer stop()
			opt.Tenant = c.tenant
			opt.SameSizes = from.tier.EncryptionKeyFile == "" && to.tier.EncryptionKeyFile == ""
			return a.copyCache(ctx, &f, from, to, opt, !raw)
		},
	}
	f.registerAll(cmd)
	cmd.Flags().BoolVar(&noVerify, "no-verify", false, "copy without looking at more than names")
	cmd.Flags().BoolVar(&raw, "raw", false, "copy encrypted objects as they are; implies --no-verify")
	cmd.Flags().StringVar(&newer, "newer-than", "", "copy only what was put or used since, such as 7d, 12h or 2w")
	cmd.Flags().StringVar(&f.trustedKeys, "trusted-keys", "", "file with the public keys of those who are believed (default the settings')")
	return cmd
}

// copyCache copies; tell says that the estimate of to's size may be told of it.
func (a *app) copyCache(ctx context.Context, f *cacheFlags, from, to *place, opt shared.MirrorOptions, tell bool) error {
	wrong := []shared.Wrong{}
	opt.Wrong = func(w shared.Wrong) { wrong = append(wrong, w) }
	p := a.newProgress("copied")
	total, _, err := p.count(ctx, from, opt.Tenant)
	var r shared.MirrorReport
	if err == nil {
		opt.Progress = func(r shared.MirrorReport) {
			p.bar(r.Objects+r.Older+r.Sealed+r.Ccache, total, config.HumanSize(r.CopiedBytes))
		}
		r, err = shared.Mirror(ctx, from, to, opt)
		if tell && opt.Tenant != "" && to.tier.MaxSize > 0 {
			err = errors.Join(err, tellCopied(context.WithoutCancel(ctx), to, opt.Tenant, r.CopiedBytes))
		}
	}
	p.end()
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted; what was copied stays, and the same command goes on from there")
	}
	if err != nil {
		return storeError(from.name+" to "+to.name, err)
	}
	sortWrong(wrong)
	if f.asJSON {
		err = a.printJSON(struct {
			From string `json:"from"`
			To   string `json:"to"`
			shared.MirrorReport
			List []shared.Wrong `json:"list"`
		}{from.String(), to.String(), r, wrong})
	} else {
		err = a.printTallies([]tally{
			{"objects", r.Objects, true}, {"copied", r.Copied, true}, {"there already", r.Present, true},
			{"older", r.Older, false}, {"different there, kept", r.Different, false}, {"wrong, left out", r.Wrong, false},
			{"encrypted, left out", r.Sealed, false}, {"ccache's, left out", r.Ccache, false}, {"foreign", r.Foreign, false},
		}, "size copied", r.CopiedBytes, wrong)
	}
	if err != nil {
		return err
	}
	if r.Sealed > 0 {
		a.note("hint: %d objects are encrypted, and their key was not given; --raw copies them as they are", r.Sealed)
	}
	if r.Wrong > 0 || r.Sealed > 0 {
		return exitStatus(1)
	}
	return nil
}

// tellCopied adds what was copied to a tier to the estimate of its size, by which
// clients evict.
func tellCopied(ctx context.Context, to *place, tenant string, n int64) error {
	e, err := shared.NewEvictor(shared.EvictorOptions{Store: to, Tenant: tenant, MaxBytes: to.tier.MaxSize})
	if err != nil {
		return err
	}
	e.Wrote(n)
	return e.Close(ctx)
}
