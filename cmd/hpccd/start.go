package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/daemon"
	"hpcc.dev/hpcc/internal/ipc"
)

// newLogger writes structured lines to w as the settings say.
func newLogger(cfg *config.Config, w io.Writer) *slog.Logger {
	opt := &slog.HandlerOptions{Level: cfg.Log.Level}
	if cfg.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opt))
	}
	return slog.New(slog.NewTextHandler(w, opt))
}

// openEngine opens the cache and an engine over it.
func openEngine(cfg *config.Config, background bool, log *slog.Logger) (*daemon.Engine, error) {
	disk, err := openCache(cfg)
	if err != nil {
		return nil, err
	}
	return daemon.NewEngine(daemon.Options{
		Cache: disk, Log: log,
		Reproducible: cfg.Reproducible.Enabled, Roots: cfg.Reproducible.Roots,
		DateTime: string(cfg.Reproducible.DateTime), Verify: cfg.Verify,
		StatsLog: cfg.StatsLog, Disabled: cfg.Disable, Background: background,
	}), nil
}

func openCache(cfg *config.Config) (*cache.Disk, error) {
	return cache.Open(cache.Options{Dir: cfg.Cache.Dir, MaxBytes: cfg.Cache.MaxSize})
}

func startCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "start",
		Short: "Run the daemon in the foreground",
		Long: `Run the daemon in the foreground.

The daemon keeps manifests and recent results in memory, so that a hit costs
one round trip. It listens on the loopback interface and on a Unix socket, for
this user only, and needs no privileges. Builds work without it, more slowly.

SIGTERM or SIGINT lets it finish what runs and exit; a second one ends it at
once. deploy/systemd has a user unit that starts it at login.`,
		Example: `  hpcc start &
  HPCC_LOG_LEVEL=debug hpcc start`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load()
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, cmd.ErrOrStderr())
		},
	}
}

func serve(ctx context.Context, cfg *config.Config, stderr io.Writer) error {
	log := newLogger(cfg, stderr)
	engine, err := openEngine(cfg, true, log)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		s := <-signals
		log.Info("daemon-stopping", "signal", s.String())
		stop()
		s = <-signals
		log.Warn("daemon-killed", "signal", s.String())
		os.Exit(1)
	}()
	err = daemon.Serve(ctx, engine, daemon.ServerOptions{
		ConfigDir: cfg.Dir, Port: cfg.Daemon.Port, Socket: cfg.Daemon.Socket, Log: log,
	}, func(e ipc.Endpoint) {
		fmt.Fprintf(stderr, "hpcc: the daemon runs (pid %d); stop it with: kill %d\n", e.Pid, e.Pid)
	})
	if errors.Is(err, daemon.ErrRunning) {
		return fmt.Errorf("%w; stop it first, or set HPCC_CONFIG_DIR for a second one", err)
	}
	return err
}
