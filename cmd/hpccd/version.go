package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/ipc"
)

func (a *app) newVersion() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Long: `Version shows the version of hpccd. The wrapper hpcc and the daemon must be of
one version: a wrapper does not use a daemon of another, and says so once.`,
		Example: `  hpcc version
  hpcc version --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{ipc.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if asJSON {
				return a.printJSON(v)
			}
			_, err := fmt.Fprintf(a.stdout, "hpcc %s (%s, %s)\n", v.Version, v.Platform, v.Go)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}
