package main

import (
	"context"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func (a *app) newStart() *cobra.Command {
	return &cobra.Command{
		Use:   "start",
		Short: "Run the daemon that answers compiles",
		Long: `Start runs the daemon in the foreground. It answers the compiles of the user
who started it, keeps what it knows in memory, and makes hits several times
faster than a program started for each. The first SIGINT or SIGTERM lets it
finish what is under way; the second ends it at once. Builds that use it go on
either way.`,
		Example: `  hpcc start
  systemctl --user enable --now hpcc   # with deploy/systemd/hpcc.service`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.settings()
			if err != nil {
				return err
			}
			if a.serve == nil {
				return absent("the daemon")
			}
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			// The second signal is to find the default action: exit.
			context.AfterFunc(ctx, stop)
			return a.serve(ctx, c, func(addr string) { a.note("answering on %s", addr) })
		},
	}
}
