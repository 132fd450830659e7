package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/ipc"
	"hpcc.dev/hpcc/internal/telemetry"
	"hpcc.dev/hpcc/internal/tiers"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/internal/worker"
)

func (a *app) newWorker() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Run a worker that compiles in virtual machines",
		Long: `Worker runs the service that makes clients' compiles, each tenant's in virtual
machines of its own, and keeps their results in stores that no other tenant
reaches. Nothing in it is root: hpcc-jail, which has to run beside it, starts and
ends the machines.

It is set up by worker.toml in $HPCC_CONFIG_DIR, or in hpcc/ below the user's
configuration directory; deploy/examples/worker.toml shows all there is. The
certificate comes from hpcc ca issue, the credential from hpcc ca credential,
kernel and initramfs from hpcc guest build. Images are pulled when they are first
asked for, from the repositories that images.allow names; hpcc image build puts
any other into the store.

What a worker left that was killed is removed at the start. The first SIGINT or
SIGTERM has it tell the scheduler that it drains, and finish what is under way;
the second ends it at once. Builds go on elsewhere.`,
		Example: `  HPCC_CONFIG_DIR=/etc/hpcc hpcc worker
  hpcc worker status`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage{withHint(fmt.Errorf("unknown command %q", args[0]), "see hpcc worker --help")}
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			c, err := config.LoadWorker()
			if err != nil {
				return withHint(err, "deploy/examples/worker.toml shows all settings")
			}
			keepPrivate()
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			// The second signal is a hurry, and the third finds the default
			// action: exit. What that leaves, the next start sweeps.
			hurry := make(chan os.Signal, 1)
			context.AfterFunc(ctx, func() {
				stop()
				signal.Notify(hurry, syscall.SIGINT, syscall.SIGTERM)
			})
			ended := make(chan struct{})
			go func() {
				<-hurry
				signal.Stop(hurry)
				close(ended)
			}()
			return runWorker(ctx, c, newRuntime, ended, newLogger(c.Log, a.stderr), func(grpc, http string) {
				a.note("compiling on %s", grpc)
				if http != "" {
					a.note("metrics and status on https://%s", http)
				}
			})
		},
	}
	cmd.AddCommand(a.newWorkerStatus())
	return cmd
}

// runtimeMaker makes what isolates.
type runtimeMaker func(ctx context.Context, c *config.Worker, log *slog.Logger) (vm.Runtime, error)

// stopPatience is how long machines may take to end in order.
const stopPatience = 20 * time.Second

// runWorker serves as c says until ctx ends and what is under way has ended, or
// hurry is closed. It calls ready, with the addresses, once it answers; that of
// HTTP is "" if there is none.
func runWorker(ctx context.Context, c *config.Worker, makeRuntime runtimeMaker, hurry <-chan struct{}, logger *slog.Logger, ready func(grpc, http string)) (err error) {
	if _, err := c.ReadCredential(); err != nil {
		return withHint(err, "hpcc ca credential makes one; the scheduler's settings get its hash")
	}
	cert, pin, err := auth.ServerTLS(c.TLSCert, c.TLSKey, logger)
	if err != nil {
		return withHint(err, "hpcc ca issue makes a certificate and its key; tls_cert and tls_key in %s name them", c.File)
	}
	toScheduler, err := auth.CATLS(c.Scheduler.CA)
	if err != nil {
		return withHint(err, "scheduler.ca in %s names the file with the authorities", c.File)
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return withHint(err, "state_dir in %s names a directory of the worker's own", c.File)
	}
	// One worker at a time has the directory, since the journal is one's alone:
	// before anything is swept.
	journal, err := audit.OpenJournal(c.Audit.Dir, audit.Options{Log: logger})
	if errors.Is(err, audit.ErrLocked) {
		return withHint(err, "another worker runs with these settings: stop it first")
	} else if err != nil {
		return withHint(err, "audit.dir in %s names the directory", c.File)
	}
	defer func() { err = errors.Join(err, journal.Close()) }()
	runtime, err := makeRuntime(ctx, c, logger)
	if err != nil {
		return err
	}
	if err := runtime.Sweep(ctx); err != nil {
		return withHint(fmt.Errorf("removing what an earlier worker left: %w", err), "hpcc-jail's log says more")
	}
	images, err := openWorkerImages(c, logger)
	if err != nil {
		return err
	}
	s := &c.Sessions
	pool, err := vm.NewPool(vm.PoolOptions{
		Runtime: runtime, Spec: images.spec, MemoryMiB: s.MemoryMiB, VCPUs: s.VCPUs,
		MachineMemoryMiB: s.MachineMemoryMiB, MachineVCPUs: s.MachineVCPUs, JobsPerVCPU: s.JobsPerVCPU,
		Idle: s.Idle, Lifetime: s.Lifetime, Log: logger,
	})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
		defer cancel()
		err = errors.Join(err, pool.Close(end))
	}()
	verifier := auth.NewVerifier()
	metrics := telemetry.New()
	metrics.Build("worker", ipc.Version)
	sharedOf, closeTiers, err := openWorkerTiers(c, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeTiers()) }()
	service, err := worker.New(worker.Options{
		Name: c.Name, Version: ipc.Version, Dir: c.StateDir, StoreBytes: c.Store.MaxSize, Shared: sharedOf,
		Verifier: verifier, Machines: worker.Pooled{Pool: pool, Prepare: images.prepare}, Images: images, Audit: journal,
		Limits: agentapi.Limits{
			MemoryBytes: c.Limits.Memory, Processes: c.Limits.Processes, FileBytes: c.Limits.File, DiskBytes: c.Limits.Disk,
			StdioBytes: c.Limits.Stdio, Time: c.Limits.Time,
		},
		Quotas:  worker.Quotas{Compiles: c.Limits.TenantCompiles, UploadRate: c.Limits.TenantUploadRate},
		Metrics: metrics, Log: logger,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }()
	if sharedOf != nil {
		tierMetrics(metrics, service.EachShared)
	}
	ln, err := listen("listen", c.Listen)
	if err != nil {
		return err
	}
	opt := worker.ServeOptions{TLS: cert, Hurry: hurry, Registration: worker.Registration{
		Scheduler: c.Scheduler.Address, TLS: toScheduler, Advertise: c.Advertise, Platform: c.Images.Platform, Pin: pin,
		Credential: func() (string, error) {
			secret, err := c.ReadCredential()
			return string(secret), err
		},
		Images: images.held, Keys: verifier.Update,
	}}
	httpAddr := ""
	if c.HTTPListen != "" {
		if opt.HTTP, err = listen("http_listen", c.HTTPListen); err != nil {
			return errors.Join(err, ln.Close())
		}
		httpAddr = opt.HTTP.Addr().String()
	}
	logger.LogAttrs(ctx, slog.LevelInfo, "worker", slog.String("name", c.Name), slog.String("version", ipc.Version),
		slog.String("listen", ln.Addr().String()), slog.String("http_listen", httpAddr), slog.String("tls_pin", pin().String()),
		slog.String("runtime", runtime.Info().Name), slog.String("monitor", runtime.Info().Version))
	ready(ln.Addr().String(), httpAddr)
	return service.Serve(ctx, ln, opt)
}

// openWorkerTiers opens the caches that workers share: of makes a tenant's part of
// them, and is nil if there are none.
func openWorkerTiers(c *config.Worker, log *slog.Logger) (of func(tenant string) (worker.Shared, error), closeTiers func() error, err error) {
	if !c.Store.Enabled() {
		return nil, func() error { return nil }, nil
	}
	set, err := tiers.Open(&c.Store.Shared, log)
	if err != nil {
		return nil, nil, withHint(err, "the store table of %s names the files of keys", c.File)
	}
	return func(tenant string) (worker.Shared, error) { return set.Cache(tenant) }, set.Close, nil
}

func (a *app) newWorkerStatus() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what this machine's worker does",
		Long: `Status asks the worker of this machine's settings, by HTTPS at http_listen, what it
has and does: machines, compiles, stores, and whether the scheduler knows it.`,
		Example: `  hpcc worker status
  hpcc worker status --json | jq .machines`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.LoadWorker()
			if err != nil {
				return withHint(err, "status reads the settings that the worker runs with: is HPCC_CONFIG_DIR set as for it?")
			}
			st, err := askWorker(cmd.Context(), c)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(st)
			}
			return a.printWorker(st)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// maxStatus bounds an answer: thousands of sessions fit.
const maxStatus = 16 << 20

// askWorker asks the worker that runs with c. It is known by its key.
func askWorker(ctx context.Context, c *config.Worker) (*worker.Status, error) {
	if c.HTTPListen == "" {
		return nil, withHint(errors.New("this worker answers no questions: http_listen is empty"), "set http_listen in %s", c.File)
	}
	_, pin, err := auth.ServerTLS(c.TLSCert, c.TLSKey, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, withHint(err, "status knows the worker by its key: run it as a user who may read tls_cert and tls_key")
	}
	host, port, err := net.SplitHostPort(c.HTTPListen)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: auth.PinnedTLS(pin()), DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(host, port)+"/status", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, withHint(fmt.Errorf("the worker does not answer: %w", err), "start it by hpcc worker, and look into its log")
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the worker answers %s", resp.Status)
	}
	st := &worker.Status{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxStatus)).Decode(st); err != nil {
		return nil, fmt.Errorf("what the worker answers is no status: %w", err)
	}
	return st, nil
}

func (a *app) printWorker(st *worker.Status) error {
	t := a.newTable()
	state := "ready"
	if st.Draining {
		state = "draining"
	}
	scheduler := st.Scheduler + ", never answered"
	if !st.Answered.IsZero() {
		scheduler = st.Scheduler + ", answered " + ago(time.Since(st.Answered))
	}
	t.row("worker", st.Worker)
	t.row("state", state)
	t.row("version", st.Version)
	t.row("address", st.Address)
	t.row("platform", st.Platform)
	t.row("started", ago(time.Since(st.Started)))
	t.row("scheduler", scheduler)
	if st.Error != "" {
		t.row("error", st.Error)
	}
	t.row("compiles", fmt.Sprintf("%d run, %d wait for a machine, %d can run", st.Running, st.Waiting, st.Capacity))
	m := &st.Machines
	t.row("machines", fmt.Sprintf("%d ready, %d boot, %d end", m.Ready, m.Booting, m.Ending))
	t.row("since the start", fmt.Sprintf("%d boots, %d failed, %d crashes", m.Boots, m.BootFailures, m.Crashes))
	for _, s := range st.Sessions {
		t.row("session", s.Tenant+" with "+s.Image)
	}
	for _, image := range st.Images {
		t.row("image", image)
	}
	for _, tenant := range st.Tenants {
		t.row("store of "+tenant.Name, fmt.Sprintf("%s results in %s of %s", strconv.FormatInt(tenant.Results, 10), config.HumanSize(tenant.Bytes), config.HumanSize(tenant.MaxBytes)))
	}
	for i := range st.Shared {
		s := &st.Shared[i]
		for k := range s.Tiers {
			tier := &s.Tiers[k]
			t.row("shared cache "+tier.Name+" of "+s.Tenant, tierState(tier)+fmt.Sprintf(", %d results found, %d written, %d errors", tier.Hits, tier.Written, tier.Errors))
		}
	}
	return t.flush()
}

// drivesDir holds the tenants' own copies of images.
func drivesDir(c *config.Worker) string { return filepath.Join(c.StateDir, "drives") }
