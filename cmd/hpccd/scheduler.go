package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"reflect"
	"syscall"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/ipc"
	"hpcc.dev/hpcc/internal/scheduler"
	"hpcc.dev/hpcc/internal/telemetry"
)

func (a *app) newScheduler() *cobra.Command {
	return &cobra.Command{
		Use:   "scheduler",
		Short: "Run the scheduler that sends compiles to workers",
		Long: `Scheduler runs the service that tells clients which worker compiles for them.
Workers report to it what they have and do; clients get an address, the pin of
the worker's key, and a token that is good for minutes. Sources and objects never
come here, and a restart breaks no build.

It is set up by scheduler.toml in $HPCC_CONFIG_DIR, or in hpcc/ below the user's
configuration directory; deploy/examples/scheduler.toml shows all there is. The
certificate comes from hpcc ca issue or from the site's own authority, the hashes
of credentials from hpcc ca credential.

SIGHUP reads tenants, workers, operators and their credentials again. The first
SIGINT or SIGTERM lets it finish what is under way; the second ends it at once.`,
		Example: `  hpcc ca init --dir ca
  hpcc ca issue --dir ca --name scheduler --host build.example.com --out /etc/hpcc
  HPCC_CONFIG_DIR=/etc/hpcc hpcc scheduler
  kill -HUP "$(pidof hpccd)"      # after a change of the credentials`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := config.LoadScheduler()
			if err != nil {
				return withHint(err, "deploy/examples/scheduler.toml shows all settings")
			}
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			// The second signal is to find the default action: exit.
			context.AfterFunc(ctx, stop)
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP)
			defer signal.Stop(hup)
			logger := newLogger(c.Log, a.stderr)
			return runScheduler(ctx, c, hup, logger, func(grpc, http string) {
				a.note("routing on %s", grpc)
				if http != "" {
					a.note("metrics and keys on https://%s", http)
				}
			})
		},
	}
}

// runScheduler serves as c says until ctx ends, and reads the credentials again
// at each value of reload. It calls ready, with the addresses, once it answers;
// that of HTTP is "" if there is none.
func runScheduler(ctx context.Context, c *config.Scheduler, reload <-chan os.Signal, logger *slog.Logger, ready func(grpc, http string)) error {
	credentials, err := schedulerCredentials(c)
	if err != nil {
		return err
	}
	cert, pin, err := auth.ServerTLS(c.TLSCert, c.TLSKey, logger)
	if err != nil {
		return withHint(err, "hpcc ca issue makes a certificate and its key; tls_cert and tls_key in %s name them", c.File)
	}
	keys, err := auth.OpenKeyring(c.KeyDir, auth.KeyringOptions{
		// A worker that has lost two heartbeats has heard of a key by then.
		Announce: max(auth.DefaultAnnounce, 3*c.Heartbeat.Interval), Log: logger,
	})
	if err != nil {
		return withHint(err, "key_dir in %s names the directory, which must be the scheduler's alone", c.File)
	}
	metrics := telemetry.New()
	metrics.Build("scheduler", ipc.Version)
	s, err := scheduler.New(scheduler.Options{
		Keys: keys, Credentials: credentials, Token: c.Token,
		Interval: c.Heartbeat.Interval, Expiry: c.Heartbeat.Expiry, Rotate: c.Rotate,
		Metrics: metrics, Log: logger,
	})
	if err != nil {
		return err
	}
	ln, err := listen("listen", c.Listen)
	if err != nil {
		return err
	}
	httpAddr := ""
	var web net.Listener
	if c.HTTPListen != "" {
		if web, err = listen("http_listen", c.HTTPListen); err != nil {
			ln.Close()
			return err
		}
		httpAddr = web.Addr().String()
	}
	logger.LogAttrs(ctx, slog.LevelInfo, "scheduler", slog.String("version", ipc.Version), slog.String("listen", ln.Addr().String()),
		slog.String("http_listen", httpAddr), slog.String("tls_pin", pin().String()),
		slog.Int("tenants", len(c.Tenants)), slog.Int("workers", len(c.Workers)))
	switch {
	case len(c.Tenants) == 0:
		logger.LogAttrs(ctx, slog.LevelWarn, "no tenant in the settings: nobody can compile", slog.String("file", c.File))
	case len(c.Workers) == 0:
		logger.LogAttrs(ctx, slog.LevelWarn, "no worker in the settings: none can register", slog.String("file", c.File))
	}

	ctx, cancel := context.WithCancel(ctx)
	reloaded := make(chan struct{})
	go func() {
		defer close(reloaded)
		for {
			select {
			case <-ctx.Done():
				return
			case <-reload:
				reloadScheduler(ctx, s, c, logger)
			}
		}
	}()
	defer func() {
		cancel()
		<-reloaded
	}()
	ready(ln.Addr().String(), httpAddr)
	return s.Serve(ctx, ln, web, cert)
}

// listen opens a listener for a setting.
func listen(key, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, withHint(fmt.Errorf("%s: %w", key, err), "another program has the port, perhaps this one: stop it, or set %s to another", key)
	case err != nil:
		return nil, withHint(fmt.Errorf("%s: %w", key, err), "set %s to an address of this machine, or to a port alone, such as :7500", key)
	}
	return ln, nil
}

// reloadScheduler reads the settings again, of which it takes the credentials.
// If it cannot, what there is stays: a slip in a file must not lock out
// everybody.
func reloadScheduler(ctx context.Context, s *scheduler.Scheduler, started *config.Scheduler, logger *slog.Logger) {
	c, err := config.LoadScheduler()
	var credentials *auth.Credentials
	if err == nil {
		credentials, err = schedulerCredentials(c)
	}
	if err != nil {
		logger.LogAttrs(ctx, slog.LevelError, "settings not reloaded, the old ones stay", slog.String("error", err.Error()))
		return
	}
	s.SetCredentials(credentials)
	logger.LogAttrs(ctx, slog.LevelInfo, "credentials reloaded", slog.Int("tenants", len(c.Tenants)), slog.Int("workers", len(c.Workers)))
	a, b := *started, *c
	for _, x := range []*config.Scheduler{&a, &b} {
		x.Place = config.Place{}
		x.Tenants, x.Workers, x.Operators = nil, nil, nil
	}
	if !reflect.DeepEqual(a, b) {
		logger.LogAttrs(ctx, slog.LevelWarn, "settings besides the credentials have changed: they count after a restart", slog.String("file", c.File))
	}
}

// schedulerCredentials is the list of who may do what.
func schedulerCredentials(c *config.Scheduler) (*auth.Credentials, error) {
	var list []auth.Credential
	add := func(hash string, id auth.Identity) error {
		h, err := auth.ParseCredentialHash(hash)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", c.File, id.Subject, err)
		}
		list = append(list, auth.Credential{Hash: h, Identity: id})
		return nil
	}
	for _, t := range c.Tenants {
		for _, k := range t.Credentials {
			if err := add(k.SHA256, auth.Identity{Role: auth.Client, Tenant: t.Name, Subject: k.Subject, Images: t.Images}); err != nil {
				return nil, err
			}
		}
	}
	for _, w := range c.Workers {
		if err := add(w.SHA256, auth.Identity{Role: auth.Worker, Subject: w.Name}); err != nil {
			return nil, err
		}
	}
	for _, o := range c.Operators {
		if err := add(o.SHA256, auth.Identity{Role: auth.Operator, Subject: o.Subject}); err != nil {
			return nil, err
		}
	}
	all, err := auth.NewCredentials(list)
	if err != nil {
		return nil, withHint(fmt.Errorf("%s: %w", c.File, err), "correct the entry of its tenant, worker or operator")
	}
	return all, nil
}
