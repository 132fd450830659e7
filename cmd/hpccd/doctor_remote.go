package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/remote"
)

// workersPatience bounds the question to a worker: it may have to fetch the
// image's index, and no more.
const workersPatience = 30 * time.Second

// workers asks scheduler and worker, as a compile would.
func (d *doctor) workers() {
	if d.cfg == nil || !d.cfg.Remote.Enabled() {
		return
	}
	r := &d.cfg.Remote
	if r.CredentialFile != "" {
		if fi, err := os.Stat(r.CredentialFile); err == nil && fi.Mode().Perm()&0o077 != 0 {
			d.fail("credential", "chmod 600 "+r.CredentialFile, "%s has mode %#o: others can compile in this tenant's name", r.CredentialFile, fi.Mode().Perm())
		}
	}
	away, err := openAway(d.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		d.fail("workers", hintOf(err, "mend the remote table of client.toml"), "%s", err)
		return
	}
	client, _ := away.Worker.(*remote.Client)
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(d.ctx, workersPatience)
	defer cancel()
	began := time.Now()
	var refused *remote.RefusedError
	var lying *remote.LyingError
	switch _, err = client.Describe(ctx, r.Image, []string{"/"}); {
	case err == nil:
		d.ok("workers", "scheduler %s and a worker for image %.19s… answer (%.0f ms)", r.Scheduler, r.Image, time.Since(began).Seconds()*1000)
	case errors.As(err, &refused):
		d.fail("workers", "ask who runs the scheduler for a credential, or for the image", "%s", refused)
	case errors.As(err, &lying):
		d.fail("workers", "tell who runs the worker: it is broken, or not theirs", "%s", lying)
	default:
		d.warn("workers", fmt.Sprintf("see that %s can be reached; meanwhile remote.fallback = %q counts", r.Scheduler, r.Fallback), "%s", err)
	}
	if r.Mode == config.ModeCAS && r.Fallback == config.FallbackAny {
		d.warn("fallback", `set remote.fallback = "same", unless any compiler will do`, "where no worker compiles, whatever compiler is here does: toolchains may mix")
	}
}

// hintOf is the next step that an error names, or another.
func hintOf(err error, otherwise string) string {
	var h hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return otherwise
}
