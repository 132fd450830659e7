package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/daemon"
)

func (a *app) newExplain() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain FILE",
		Short: "Say why the last compile of a source file was a hit or a miss",
		Long: `Explain shows what became of the last compile of a source file. For a miss it
names what had changed since the compile before: the header, flag, variable or
compiler, or the new file that is now found first.`,
		Example: `  hpcc explain src/server.c
  hpcc explain --json src/server.c | jq '.changes[0]'`,
		Args: oneArg("source file"),
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
			e, err := a.explain(c, file)
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

func (a *app) printExplanation(e *daemon.Explanation) error {
	t := a.newTable()
	outcome := e.Outcome
	if e.Reason != "" {
		outcome += " (" + e.Reason + ")"
	}
	t.row("file", e.File)
	t.row("outcome", outcome)
	t.row("time", e.Time.Local().Format("2006-01-02 15:04:05"))
	t.row("command", shellLine(e.Command))
	if e.Action != "" {
		t.row("action", e.Action)
	}
	if e.Outcome == "miss" || e.Outcome == "failed" {
		switch {
		case e.Against == "":
			t.row("cause", "nothing like it is in the cache")
		case len(e.Changes) == 0:
			t.row("cause", "no difference to "+e.Against+": its result was evicted or damaged")
		default:
			t.row("compared with", e.Against)
		}
	}
	for _, c := range e.Changes {
		t.row("changed", changeText(c))
	}
	return t.flush()
}

// changeText words one change.
func changeText(c daemon.ExplainedChange) string {
	fromTo := func(what string) string {
		switch {
		case c.Old == "" && c.New == "":
			return what
		case c.Old == "":
			return what + " is now " + c.New
		case c.New == "":
			return what + " was " + c.Old + " and is gone"
		}
		return what + " was " + c.Old + " and is now " + c.New
	}
	switch c.Kind {
	case "input":
		switch {
		case c.Old == "":
			return "file " + c.Name + " is read now and was not before"
		case c.New == "":
			return "file " + c.Name + " is no longer read"
		}
		return "file " + c.Name + " has other content"
	case "new-file":
		return "file " + c.Name + " did not exist when the compiler looked for it, and does now"
	case "gone-file":
		return "file " + c.Name + " existed when the compiler looked for it, and is gone"
	case "flag":
		switch {
		case c.Old == "":
			return "flag " + c.Name + " is new"
		case c.New == "":
			return "flag " + c.Name + " is gone"
		}
		return fromTo("flag " + c.Name)
	case "environment":
		return fromTo("variable " + c.Name)
	case "compiler":
		return fromTo("compiler " + c.Name)
	case "directory":
		return fromTo("working directory")
	}
	return fromTo(c.Kind + " " + c.Name)
}
