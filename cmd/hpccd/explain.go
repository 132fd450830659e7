package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/daemon"
)

func (a *app) newExplain() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain FILE",
		Short: "Say why the last compile of a source file was a hit or a miss",
		Long: `Explain shows what became of the last compile of a source file, or of the
source of an object file. For a miss it names what differs from the compile
before, or from the nearest result in the cache: the header with the inclusions
that lead to it, the new file that hides another, the flag, the variable, the
part of the compiler. For a call that is not cached it gives the reason and what
can be done.`,
		Example: `  hpcc explain src/server.c
  hpcc explain build/server.o
  hpcc explain --json src/server.c | jq '.changes[0]'`,
		Args: oneArg("file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			c, err := a.settings()
			if err != nil {
				return err
			}
			if a.explain == nil {
				return absent("explanations")
			}
			e, err := a.explain(cmd.Context(), c, file)
			if errors.Is(err, errNeverCompiled) {
				return withHint(fmt.Errorf("%s: %w", args[0], err), "compile it through hpcc first, with the same cache directory (%s)", c.Cache.Dir)
			}
			if err != nil {
				return fmt.Errorf("explaining %s: %w", args[0], err)
			}
			if asJSON {
				return a.printJSON(e)
			}
			return a.printExplanation(e)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// maxChanges is how many changes people are shown: the first are the most
// telling, and another version of a library changes hundreds of files.
const maxChanges = 20

func (a *app) printExplanation(e *daemon.Explanation) error {
	t := a.newTable()
	outcome := e.Outcome
	switch {
	case e.Reason != "":
		outcome += " (" + e.Reason + ")"
	case e.Tier != "":
		outcome += " (from the shared cache " + e.Tier + ")"
	}
	t.row("file", e.File)
	if e.Output != "" {
		t.row("output", e.Output)
	}
	t.row("outcome", outcome)
	if e.Reason != "" {
		reason := daemon.DescribeReason(e.Reason)
		if e.Detail != "" {
			reason += ": " + e.Detail
		}
		t.row("because", reason)
	}
	t.row("time", e.Time.Local().Format("2006-01-02 15:04:05"))
	t.row("directory", e.Cwd)
	t.row("command", shellLine(e.Command))
	if e.Action != "" {
		t.row("action", e.Action)
	}
	if e.Against != "" {
		t.row("compared with", e.Against+" ("+e.AgainstAction[:min(16, len(e.AgainstAction))]+")")
	}
	if e.Note != "" {
		t.row("cause", e.Note)
	}
	for i, c := range e.Changes {
		if i == maxChanges {
			t.row("", "and "+strconv.Itoa(len(e.Changes)-i)+" more, which --json lists")
			break
		}
		t.row("changed", c.String())
	}
	if e.Next != "" {
		t.row("next", e.Next)
	}
	return t.flush()
}
