package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"time"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/daemon"
	"hpcc.dev/hpcc/internal/ipc"
	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/tiers"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// services is what the commands ask of the rest of hpcc. Tests put fakes in.
type services struct {
	// readStats asks a running daemon, or reads what the last one left.
	readStats func(*config.Config) (*daemon.Stats, error)
	zeroStats func(*config.Config) error
	// sharedStats asks a running daemon how it does with the shared caches; nil if
	// there is none, or no such cache.
	sharedStats func(*config.Config) *shared.Stats
	// watch reads the counters as they are, and what a running daemon compiles.
	watch func(*config.Config) (*daemon.Stats, []daemon.Running, error)
	// explain answers errNeverCompiled for a file of which there is no record.
	explain func(ctx context.Context, c *config.Config, file string) (*daemon.Explanation, error)
	clean   func(context.Context, *config.Config, daemon.CleanOptions) (*daemon.CleanReport, error)
	// fsck checks the cache. progress is called with the bytes checked so far.
	fsck func(ctx context.Context, c *config.Config, repair bool, progress func(int64)) (*cache.FsckReport, error)
	// inspect shows what the cache has under a key.
	inspect func(c *config.Config, key string) (*daemon.Inspection, error)
	// blob returns the bytes of an output of the entry under a key, or of the
	// blob of that digest if role is "".
	blob func(c *config.Config, key, role string) ([]byte, error)
	// keys lists what a prefix may stand for.
	keys func(c *config.Config, prefix string) []string
	// serve runs the daemon until ctx ends, and has finished what was under
	// way when it returns. It calls ready once it answers.
	serve func(ctx context.Context, c *config.Config, ready func(addr string)) error
}

// errNeverCompiled says that hpcc has no record of a file.
var errNeverCompiled = errors.New("hpcc has no record of a compile of it")

// wired is what the shipped program uses.
var wired = services{
	readStats: func(c *config.Config) (*daemon.Stats, error) {
		ask(c, "drain")
		disk, err := openCache(c)
		if err != nil {
			return nil, err
		}
		return daemon.ReadStats(disk)
	},
	zeroStats: func(c *config.Config) error {
		ask(c, "drain")
		disk, err := openCache(c)
		if err != nil {
			return err
		}
		return daemon.ZeroStats(disk)
	},
	sharedStats: func(c *config.Config) *shared.Stats {
		if !c.Cache.Enabled() {
			return nil
		}
		e, err := ipc.ReadEndpoint(c.Dir)
		if err != nil {
			return nil
		}
		answer, err := admin(&e, "shared", askTimeout)
		if err != nil {
			return nil
		}
		s := &shared.Stats{}
		if json.Unmarshal(answer, s) != nil || len(s.Tiers) == 0 {
			return nil
		}
		return s
	},
	watch: func(c *config.Config) (*daemon.Stats, []daemon.Running, error) {
		var now []daemon.Running
		if e, err := ipc.ReadEndpoint(c.Dir); err == nil {
			if answer, err := admin(&e, "running", askTimeout); err == nil {
				_ = json.Unmarshal(answer, &now) // an answer of another version is none
			}
		}
		disk, err := openCache(c)
		if err != nil {
			return nil, nil, err
		}
		s, err := daemon.ReadStats(disk)
		return s, now, err
	},
	explain: func(ctx context.Context, c *config.Config, file string) (*daemon.Explanation, error) {
		ask(c, "drain")
		disk, err := openCache(c)
		if err != nil {
			return nil, err
		}
		x, err := daemon.Explain(ctx, disk, file)
		if errors.Is(err, daemon.ErrNoHistory) {
			return nil, errNeverCompiled
		}
		return x, err
	},
	clean: func(ctx context.Context, c *config.Config, opt daemon.CleanOptions) (*daemon.CleanReport, error) {
		ask(c, "drain")
		disk, err := openCache(c)
		if err != nil {
			return nil, err
		}
		r, err := daemon.CleanCache(ctx, disk, opt)
		ask(c, "forget")
		return r, err
	},
	fsck: func(ctx context.Context, c *config.Config, repair bool, progress func(int64)) (*cache.FsckReport, error) {
		ask(c, "drain")
		disk, err := openCache(c)
		if err != nil {
			return nil, err
		}
		r, err := disk.FsckProgress(ctx, repair, progress)
		if repair {
			ask(c, "forget")
		}
		return &r, err
	},
	inspect: func(c *config.Config, key string) (*daemon.Inspection, error) {
		ask(c, "drain")
		disk, err := openCache(c)
		if err != nil {
			return nil, err
		}
		return daemon.Inspect(disk, key)
	},
	blob: func(c *config.Config, key, role string) ([]byte, error) {
		disk, err := openCache(c)
		if err != nil {
			return nil, err
		}
		return daemon.InspectBlob(disk, key, role)
	},
	keys: func(c *config.Config, prefix string) []string {
		disk, err := openCache(c)
		if err != nil {
			return nil
		}
		return daemon.KeysFrom(disk, prefix)
	},
	serve: func(ctx context.Context, c *config.Config, ready func(addr string)) error {
		log := newLogger(c.Log, os.Stderr)
		engine, err := openEngine(c, true, log)
		if err != nil {
			return err
		}
		stop, err := serveMetrics(c, engine, log)
		if err != nil {
			engine.Close()
			return err
		}
		defer stop()
		err = daemon.Serve(ctx, engine, daemon.ServerOptions{
			ConfigDir: c.Dir, Port: c.Daemon.Port, Socket: c.Daemon.Socket, Log: log,
		}, func(e ipc.Endpoint) { ready(e.Socket) })
		if errors.Is(err, daemon.ErrRunning) {
			return withHint(err, "stop it first, or set HPCC_CONFIG_DIR for a second one")
		}
		return err
	},
}

// newLogger writes structured lines to w as the settings say.
func newLogger(l config.Log, w io.Writer) *slog.Logger {
	opt := &slog.HandlerOptions{Level: l.Level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opt))
	}
	return slog.New(slog.NewTextHandler(w, opt))
}

func openCache(c *config.Config) (*cache.Disk, error) {
	return cache.Open(cache.Options{Dir: c.Cache.Dir, MaxBytes: c.Cache.MaxSize})
}

// openEngine opens the cache and an engine over it.
func openEngine(c *config.Config, background bool, log *slog.Logger) (*daemon.Engine, error) {
	disk, err := openCache(c)
	if err != nil {
		return nil, err
	}
	away, err := openAway(c, log)
	if err != nil {
		return nil, err
	}
	if away != nil && !background {
		// How many compilers run here only a daemon knows, which starts all of
		// them; and a race is for what is idle.
		away.RaceAfter = 0
	}
	opt := daemon.Options{
		Cache: disk, Log: log,
		Reproducible: c.Reproducible.Enabled, Roots: c.Reproducible.Roots,
		DateTime: string(c.Reproducible.DateTime), Verify: c.Verify,
		StatsLog: c.StatsLog, Disabled: c.Disable, Background: background,
		Away: away,
	}
	// A process that ends with its compile knows of no time-out but its own: a tier
	// that is dead would cost each compile one. It asks none.
	if background && c.Cache.Enabled() {
		set, err := tiers.Open(&c.Cache.Shared, log)
		if err != nil {
			return nil, withHint(err, "the cache table of %s names the files of keys; hpcc doctor looks at them", c.File)
		}
		if opt.Shared, err = set.Own(c.Cache.Tenant); err != nil {
			return nil, errors.Join(err, set.Close())
		}
	}
	return daemon.NewEngine(opt), nil
}

// askTimeout bounds how long a command waits for the daemon to write down what
// it knows; the disk answers without it.
const askTimeout = 30 * time.Second

// ask gives a running daemon a command. All commands work without a daemon, so
// that its absence is no error.
func ask(c *config.Config, command string) {
	if e, err := ipc.ReadEndpoint(c.Dir); err == nil {
		_, _ = admin(&e, command, askTimeout)
	}
}

// errRefused is a daemon's answer to a stranger: another token or version.
type errRefused struct{ *ipcv1.Refused }

func (e errRefused) Error() string { return e.Detail }

// admin gives the daemon at an endpoint a command and returns its answer, as
// JSON.
func admin(e *ipc.Endpoint, command string, timeout time.Duration) ([]byte, error) {
	conn, err := ipc.Dial(e, timeout)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	err = conn.Send(&ipcv1.ClientMessage{
		Hello: &ipcv1.Hello{Protocol: ipc.Protocol, Version: ipc.Version, Token: e.Token},
		Admin: &ipcv1.Admin{Command: command},
	})
	if err != nil {
		return nil, err
	}
	m := &ipcv1.ServerMessage{}
	if err := conn.Receive(m); err != nil {
		return nil, err
	}
	switch {
	case m.Refused != nil:
		return nil, errRefused{m.Refused}
	case m.Admin == nil:
		return nil, errors.New("an answer that is not understood")
	case m.Admin.Error != "":
		return nil, errors.New(m.Admin.Error)
	}
	return m.Admin.Json, nil
}
