package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/tiers"
)

// newCache is the parent of what concerns shared caches.
func (a *app) newCache() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Look after the caches that machines share",
		Long: `These commands work on a shared cache as a whole. TIER is the name of a tier of
the settings, cache.tiers of clients or store.tiers of workers (--role worker), or
a place:

  s3://BUCKET[/PREFIX]    a bucket; without a prefix, cache/
  file:///DIRECTORY       a directory; a path with a slash in it will do

A tier has its settings from the file. Of a place, flags say what differs from the
AWS configuration.

The cache on this machine's own disk has other commands: stats, clean, fsck,
inspect.`,
		Example: `  hpcc cache stat regional
  hpcc cache ls regional --kind result --oldest
  hpcc cache verify regional
  hpcc cache copy regional /mnt/usb/hpcc-mirror
  hpcc cache keygen ~/.config/hpcc/signing-key`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage{withHint(fmt.Errorf("unknown command %q", args[0]), "see hpcc cache --help")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.newCacheLs(), a.newCacheStat(), a.newCacheVerify(), a.newCacheCopy(), a.newCacheEvict(), a.newCacheKeygen())
	return cmd
}

// cacheFlags are what all commands on shared caches take.
type cacheFlags struct {
	role                      string
	tenant                    string
	allTenants                bool
	endpoint, region, profile string
	pathStyle                 bool
	encryptionKey             string
	trustedKeys               string
	asJSON                    bool
}

// register adds the flags that say where objects are, and whose.
func (f *cacheFlags) register(cmd *cobra.Command) {
	p := cmd.Flags()
	p.StringVar(&f.role, "role", "client", "whose settings: client, worker")
	p.StringVar(&f.endpoint, "endpoint", "", "of a place, URL of an S3 service other than AWS's")
	p.StringVar(&f.region, "region", "", "of a place, region of the bucket")
	p.StringVar(&f.profile, "profile", "", "of a place, profile of the AWS configuration")
	p.BoolVar(&f.pathStyle, "path-style", false, "of a place, name the bucket in the path")
	p.StringVar(&f.encryptionKey, "encryption-key", "", "of a place, file with the key that encrypts the objects")
	p.StringVar(&f.tenant, "tenant", "", "whose objects (default the settings' tenant; with --role worker, all)")
	p.BoolVar(&f.asJSON, "json", false, "print JSON")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"client", "worker"}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("tenant", cobra.NoFileCompletions)
}

// registerAll adds --all-tenants besides.
func (f *cacheFlags) registerAll(cmd *cobra.Command) {
	f.register(cmd)
	cmd.Flags().BoolVar(&f.allTenants, "all-tenants", false, "the objects of all tenants")
}

// caches are the settings of one role.
type caches struct {
	*config.Shared
	tenant string // "" is all
	table  string // of the settings
	file   string
}

func (a *app) caches(f *cacheFlags) (*caches, error) {
	var c *caches
	switch f.role {
	case "client":
		s, err := a.settings()
		if err != nil {
			return nil, err
		}
		c = &caches{&s.Cache.Shared, s.Cache.Tenant, "cache", s.File}
	case "worker":
		s, err := config.LoadWorker()
		if err != nil {
			return nil, withHint(err, "%s", settingsHint("worker"))
		}
		c = &caches{&s.Store.Shared, "", "store", s.File}
	default:
		return nil, usage{fmt.Errorf("--role is %q: must be client or worker", f.role)}
	}
	switch {
	case f.tenant != "" && f.allTenants:
		return nil, usage{errors.New("--tenant and --all-tenants exclude each other")}
	case f.allTenants:
		c.tenant = ""
	case f.tenant != "":
		if err := shared.CheckTenant(f.tenant); err != nil {
			return nil, usage{fmt.Errorf("--tenant: %w", err)}
		}
		c.tenant = f.tenant
	}
	return c, nil
}

// place is an open tier.
type place struct {
	*store.Guarded
	tier *config.Tier
	name string // as the user wrote it
}

// how says what a place is opened for.
type how struct {
	write  bool
	create bool // a directory that is missing is made
	raw    bool // encrypted objects are left so
}

// isPlace tells a place from a tier's name.
func isPlace(arg string) bool { return strings.ContainsAny(arg, `/\`) || arg == "." || arg == ".." }

// openPlace opens the tier or place that a user named.
func openPlace(f *cacheFlags, c *caches, arg string, how how) (*place, error) {
	var tier *config.Tier
	if isPlace(arg) {
		var err error
		if tier, err = f.parsePlace(arg); err != nil {
			return nil, usage{withHint(fmt.Errorf("%s: %w", arg, err), "a place is s3://BUCKET[/PREFIX], file:///DIRECTORY or a path")}
		}
	} else {
		i := slices.IndexFunc(c.Tiers, func(t config.Tier) bool { return t.Name == arg })
		if i < 0 {
			err := fmt.Errorf("no tier is called %q in %s", arg, c.file)
			if len(c.Tiers) == 0 {
				return nil, usage{withHint(err, "it has none; a place, such as s3://bucket or file:///mnt/share, needs no settings")}
			}
			return nil, usage{withHint(err, "it has %s", strings.Join(tierNames(c), ", "))}
		}
		named := c.Tiers[i]
		tier = &named
		if how.write && tier.Access == config.ReadOnly {
			return nil, withHint(fmt.Errorf("tier %s is read-only", arg), `access = "read-write" in %s changes that`, c.file)
		}
	}
	if !how.write {
		tier.Access = config.ReadOnly // whatever goes wrong
	}
	tier.AutoCreate = tier.AutoCreate || how.create && tier.Dir != ""
	if how.raw {
		tier.EncryptionKeyFile, tier.EncryptionKMS = "", false
	}
	// Nobody's build waits, and objects may be large.
	tier.ReadTimeout, tier.WriteTimeout = max(tier.ReadTimeout, time.Minute), max(tier.WriteTimeout, 5*time.Minute)
	tier.ListTimeout = max(tier.ListTimeout, time.Minute)
	g, err := tiers.OpenTier(tier, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, storeError(arg, err)
	}
	return &place{Guarded: g, tier: tier, name: arg}, nil
}

// atPlace opens a tier or place, has work done there that an interrupt ends, and
// closes it.
func atPlace(cmd *cobra.Command, f *cacheFlags, c *caches, arg string, how how, work func(context.Context, *place) error) error {
	s, err := openPlace(f, c, arg, how)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	ctx, stop := untilSignal(cmd)
	defer stop()
	return work(ctx, s)
}

func (f *cacheFlags) parsePlace(arg string) (*config.Tier, error) {
	set := map[string]string{}
	scheme, rest, isURL := strings.Cut(arg, "://")
	switch {
	case !isURL:
		dir, err := filepath.Abs(arg)
		if err != nil {
			return nil, err
		}
		set["url"] = "file://" + filepath.ToSlash(dir)
	case scheme == "s3":
		bucket, prefix, _ := strings.Cut(rest, "/")
		set["url"] = "s3://" + bucket
		if prefix = strings.TrimRight(prefix, "/"); prefix != "" {
			set["prefix"] = prefix + "/"
		}
		// Of two places one may be a directory, which has none of these.
		for key, value := range map[string]string{"endpoint": f.endpoint, "region": f.region, "profile": f.profile} {
			if value != "" {
				set[key] = value
			}
		}
		if f.pathStyle {
			set["path_style"] = "true"
		}
	default:
		set["url"] = arg
	}
	if f.encryptionKey != "" {
		file, err := filepath.Abs(f.encryptionKey)
		if err != nil {
			return nil, err
		}
		set["encryption_key_file"] = file
	}
	t, _, err := config.ParseTier(set)
	return &t, err
}

func tierNames(c *caches) (names []string) {
	for _, t := range c.Tiers {
		names = append(names, t.Name)
	}
	return names
}

// trust is whose results are believed: by --trusted-keys, or as the settings say.
func (c *caches) trust(f *cacheFlags) (*shared.Trust, error) {
	if f.trustedKeys != "" {
		return shared.ReadTrust(f.trustedKeys, false)
	}
	var t *shared.Trust
	if c.TrustedKeysFile != "" {
		var err error
		if t, err = shared.ReadTrust(c.TrustedKeysFile, c.Trust == config.TrustWorkers); err != nil {
			return nil, err
		}
	}
	if c.SigningKeyFile != "" {
		s, err := shared.ReadSigner(c.SigningKeyFile)
		if err != nil {
			return nil, err
		}
		t = t.With(s)
	}
	if t == nil {
		return nil, withHint(errors.New("it is not known whose results to believe"),
			"name a file of public keys by --trusted-keys, or set %s.trusted_keys_file in %s", c.table, c.file)
	}
	return t, nil
}

// storeError adds the next step to an error of a store.
func storeError(name string, err error) error {
	var away *store.AwayError
	if errors.As(err, &away) {
		err = away.Err // that it is not asked again soon concerns builds
	}
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted")
	case errors.Is(err, store.ErrDenied):
		return withHint(fmt.Errorf("%s: %w", name, err), "the credentials are the AWS configuration's (aws sts get-caller-identity shows whose); docs/shared-caches.md lists the rights that they need")
	case errors.Is(err, store.ErrKeyFile):
		return withHint(fmt.Errorf("%s: %w", name, err), "hpcc cache keygen --encryption FILE makes a key")
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrNotFound):
		return withHint(fmt.Errorf("%s: %w", name, err), "see that the bucket or directory exists, and endpoint and region are right; hpcc doctor tries each tier")
	}
	return fmt.Errorf("%s: %w", name, err)
}

// untilSignal ends with an interrupt.
func untilSignal(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
}

// completeTiers completes up to n names of tiers; places are completed as files.
func (a *app) completeTiers(f *cacheFlags, n int) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := a.caches(f)
		if err != nil || isPlace(typed) {
			return nil, cobra.ShellCompDirectiveDefault
		}
		var names []string
		for _, t := range c.Tiers {
			names = append(names, t.Name+"\t"+t.URL())
		}
		return names, cobra.ShellCompDirectiveDefault
	}
}
