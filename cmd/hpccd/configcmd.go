package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/config"
)

func (a *app) newConfig() *cobra.Command {
	var asJSON bool
	var role string
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show every setting and where its value comes from",
		Long: `Config shows every setting, its value, and whether that comes from the
environment, from a line of client.toml, or is the default. The environment
wins over the file. client.toml stands in $HPCC_CONFIG_DIR, or in hpcc/ below
the user's configuration directory (on Linux ~/.config); so do scheduler.toml and
worker.toml, whose settings --role shows.

Settings of a client:

` + settingsHelp(),
		Example: `  hpcc config
  HPCC_CACHE_MAX_SIZE=20GB hpcc config
  hpcc config --role worker
  hpcc config --json | jq -r '.settings[] | select(.key == "cache.dir").value'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config.Describe(role) == nil {
				return usage{withHint(fmt.Errorf("--role is %q: must be client, scheduler or worker", role), "see %s --help", cmd.CommandPath())}
			}
			file, settings, err := config.Show(role)
			if err != nil {
				return withHint(err, "%s", settingsHint(role))
			}
			if asJSON {
				return a.printJSON(struct {
					File     string           `json:"file"`
					Settings []config.Setting `json:"settings"`
				}{file, settings})
			}
			if _, err := os.Stat(file); err != nil && a.terminal {
				a.note("there is no %s; every setting is its default", file)
			}
			t := a.newTable("SETTING", "VALUE", "FROM")
			for _, s := range settings {
				from := s.Origin
				if from == "environment" {
					from = s.Env
				}
				t.row(s.Key, s.Value, from)
			}
			return t.flush()
		},
	}
	cmd.Flags().StringVar(&role, "role", "client", "whose settings: client, scheduler, worker")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// settingsHint says where the settings of a role are listed.
func settingsHint(role string) string {
	if role == "client" {
		return "hpcc config --help lists the settings"
	}
	return "deploy/examples/" + role + ".toml shows all settings"
}

// settingsHelp is the table of settings as help text.
func settingsHelp() string {
	var b strings.Builder
	for _, s := range config.Describe("client") {
		env := s.Env
		if env == "" {
			env = "(in the file alone)"
		}
		fmt.Fprintf(&b, "  %-22s %s\n      %s\n", s.Key, env, s.Help)
	}
	return strings.TrimRight(b.String(), "\n")
}
