package main

import (
	"errors"

	"github.com/spf13/cobra"
)

// newWrap makes the command that shows what would run. The compile itself is
// what hpcc does without this program.
func (a *app) newWrap() *cobra.Command {
	return &cobra.Command{
		Use:   "wrap [--show-command] COMPILER [ARG...]",
		Short: "Run a compiler through the cache",
		Long: `Wrap runs a compiler through the cache. The word wrap may be left out unless
the compiler is called like one of hpcc's own commands.

With --show-command it compiles nothing and prints what would run on a miss,
in the shell's syntax: the command itself, or one with the flags that
reproducible builds add.`,
		Example: `  hpcc wrap gcc -O2 -c main.c -o main.o
  hpcc wrap --show-command gcc -O2 -g -c main.c`,
		// The compiler's flags are not ours.
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && (args[0] == "-h" || args[0] == "--help") {
				return cmd.Help()
			}
			if len(args) == 0 {
				return usage{withHint(errors.New("hpcc wrap: the compiler is missing"), "see hpcc wrap --help")}
			}
			return withHint(errors.New("hpccd does not compile"), "run hpcc wrap, not hpccd wrap")
		},
	}
}
