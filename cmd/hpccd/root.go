package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/config"
)

// app is one run of the command line.
type app struct {
	services
	stdout, stderr io.Writer
	// terminal is true where stdout is a terminal, stderrTerminal where stderr
	// is.
	terminal, stderrTerminal bool
}

// run carries out args and returns the exit status: 0, 1 for a failure, 2 for
// a command that was called wrongly.
func (a *app) run(args []string) int {
	root := a.newRoot()
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.Execute()
	if err == nil {
		return 0
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	a.report(err)
	var u usage
	if errors.As(err, &u) {
		return 2
	}
	return 1
}

// exitStatus is the error of a command that has said all it had to say.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func (a *app) newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "hpcc",
		Short: "Compiler cache for C, C++ and Objective-C",
		Long: `hpcc caches compiles: a compile that was made before, from equal inputs with
an equal compiler and equal flags, is answered from the cache. What it leaves
behind equals what the compiler itself would have left, byte for byte.

Put hpcc before the compiler's name, or put links named after the compilers
first in PATH. A daemon started by "hpcc start" makes hits several times
faster; without one, everything works as well.`,
		Example: `  hpcc start &                        # once per login
  make CC='hpcc gcc' CXX='hpcc g++'
  cmake -B build -DCMAKE_C_COMPILER_LAUNCHER=hpcc -DCMAKE_CXX_COMPILER_LAUNCHER=hpcc
  eval "$(hpcc masquerade ~/.hpcc/bin)" && ./configure && make
  hpcc stats`,
		SilenceErrors: true, // run reports them by the rules of ui.go
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			err := fmt.Errorf("unknown command %q", args[0])
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				return usage{withHint(err, "did you mean hpcc %s?", strings.Join(near, " or hpcc "))}
			}
			return usage{withHint(err, "see hpcc --help; if %s is a compiler, write: hpcc wrap %s", args[0], args[0])}
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage{withHint(err, "see %s --help", cmd.CommandPath())}
	})
	root.AddCommand(
		a.newWrap(),
		a.newMasquerade(),
		a.newStart(),
		a.newStats(),
		a.newTop(),
		a.newExplain(),
		a.newInspect(),
		a.newClean(),
		a.newFsck(),
		a.newCache(),
		a.newImage(),
		a.newConfig(),
		a.newDoctor(),
		a.newGuest(),
		a.newCA(),
		a.newScheduler(),
		a.newWorker(),
		a.newAudit(),
		a.newVersion(),
	)
	return root
}

// settings loads the settings; a command that needs none does not call it, so
// that a broken file breaks as little as possible.
func (a *app) settings() (*config.Config, error) {
	c, err := config.Load()
	if err != nil {
		return nil, withHint(err, "hpcc config --help lists the settings")
	}
	return c, nil
}

// noArgs refuses arguments, by the rules of ui.go.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage{withHint(fmt.Errorf("%s takes no argument: %q", cmd.CommandPath(), args[0]), "see %s --help", cmd.CommandPath())}
	}
	return nil
}

// oneArg asks for exactly one argument, called name in the error.
func oneArg(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return usage{withHint(fmt.Errorf("%s: %s is missing", cmd.CommandPath(), name), "see %s --help", cmd.CommandPath())}
		case len(args) > 1:
			return usage{withHint(fmt.Errorf("%s takes one %s, not %d", cmd.CommandPath(), name, len(args)), "see %s --help", cmd.CommandPath())}
		}
		return nil
	}
}

// absent is the error of a service that this program was built without.
func absent(what string) error {
	return fmt.Errorf("this build of hpccd lacks %s", what)
}
