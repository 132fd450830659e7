package main

import "github.com/spf13/cobra"

// newCompile makes the hidden command by which hpcc hands over a compile that
// no daemon can take.
func (a *app) newCompile() *cobra.Command {
	return &cobra.Command{
		Use:                "compile",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return absent("the one-shot compile")
		},
	}
}
