package main

import (
	"context"
	"fmt"
	"log/slog"

	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/daemon"
	"hpcc.dev/hpcc/internal/remote"
)

// openAway makes the client of the workers that the settings name, or nil.
func openAway(c *config.Config, log *slog.Logger) (*daemon.Away, error) {
	r := &c.Remote
	if !r.Enabled() {
		return nil, nil
	}
	if !c.Reproducible.Enabled {
		return nil, withHint(fmt.Errorf("remote.scheduler is set, and reproducible.enabled is not"),
			"compiles on workers are reproducible: remove reproducible.enabled from client.toml")
	}
	scheduler, err := auth.CATLS(r.CA)
	if err != nil {
		return nil, withHint(err, "remote.ca names the file that hpcc ca init made, or your own CA's")
	}
	client, err := remote.New(remote.Options{
		Scheduler: r.Scheduler, TLS: scheduler, Platform: r.Platform,
		// Read anew each time: one that was exchanged is used at once.
		Credential: func(context.Context) (string, error) {
			s, err := r.ReadCredential()
			return string(s), err
		},
		Log: log,
	})
	if err != nil {
		return nil, err
	}
	away := &daemon.Away{
		Worker: client, Image: r.Image, Fallback: daemon.Fallback(r.Fallback), LocalJobs: r.LocalJobs,
		Timeout: r.Timeout, Paranoid: c.Paranoid, Preprocess: r.Mode == config.ModePreprocessed,
	}
	if r.Race {
		away.RaceAfter = r.RaceAfter
	}
	return away, nil
}

// mayNot tells whether a compile must fail if hpcc itself cannot be set up: the
// settings allow no compiler of this machine but the image's.
func mayNot(c *config.Config) bool {
	return c != nil && c.Remote.Enabled() && c.Remote.Fallback != config.FallbackAny
}
