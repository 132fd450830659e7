package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/daemon"
)

func (a *app) newInspect() *cobra.Command {
	var (
		asJSON       bool
		output, file string
	)
	cmd := &cobra.Command{
		Use:   "inspect KEY",
		Short: "Show what the cache has under a key",
		Long: `Inspect shows a result with all that it was made from, a manifest with the
results it names, a compiler's identity with its parts, or a blob. KEY is an
action key or a manifest key, as hpcc explain --json gives them, a toolchain's
identity, or a blob's digest; its first digits are enough where they name one
thing.

"hpcc inspect quarantine" lists the results that verification found wrong. Under
their keys stand both what was stored and what the compiler made.

With --output it writes the bytes of one output: object, assembly, dwo, …,
stdout or stderr; of a quarantined result made/object is the compiler's own.`,
		Example: `  hpcc inspect 3fa9c1
  hpcc inspect --json "$(hpcc explain --json a.c | jq -r .action)" | jq .entry.absent
  hpcc inspect 3fa9c1 --output object --file a.o
  hpcc inspect quarantine`,
		Args: oneArg("key"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			c, err := config.Load()
			if err != nil || len(args) > 0 || a.keys == nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return append(a.keys(c, typed), "quarantine"), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.settings()
			if err != nil {
				return err
			}
			if a.inspect == nil || a.blob == nil {
				return absent("the cache's inspection")
			}
			if cmd.Flags().Changed("output") || file != "" {
				b, err := a.blob(c, args[0], output)
				if err != nil {
					return a.inspectError(c, args[0], err)
				}
				return a.writeBlob(b, file)
			}
			x, err := a.inspect(c, args[0])
			if err != nil {
				return a.inspectError(c, args[0], err)
			}
			if asJSON {
				return a.printJSON(x)
			}
			return a.printInspection(x)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object, with nothing left out")
	cmd.Flags().StringVar(&output, "output", "", "write the bytes of this output instead")
	cmd.Flags().StringVar(&file, "file", "", "write them to this file, not to stdout")
	return cmd
}

func (a *app) inspectError(c *config.Config, key string, err error) error {
	var ambiguous *daemon.AmbiguousError
	switch {
	case errors.As(err, &ambiguous):
		return withHint(err, "give more digits")
	case errors.Is(err, cache.ErrNotFound):
		return withHint(fmt.Errorf("%s: %w", key, err),
			"keys have %d to 64 digits; hpcc explain FILE shows a compile's; the cache is %s", daemon.MinPrefix, c.Cache.Dir)
	}
	return fmt.Errorf("inspecting %s: %w", key, err)
}

func (a *app) writeBlob(b []byte, file string) error {
	if file != "" {
		return os.WriteFile(file, b, 0o666)
	}
	if a.terminal {
		return usage{withHint(errors.New("the bytes of an output are not for a terminal"), "name a file: --file FILE, or redirect stdout")}
	}
	_, err := a.stdout.Write(b)
	return err
}

// maxListed is how many lines of one kind people are shown.
const maxListed = 40

// list writes at most maxListed rows.
func list[T any](t *table, items []T, row func(T)) {
	for i, it := range items {
		if i == maxListed {
			t.row("", "and "+strconv.Itoa(len(items)-i)+" more, which --json lists")
			return
		}
		row(it)
	}
}

func (a *app) printInspection(x *daemon.Inspection) error {
	t := a.newTable()
	t.row("kind", x.Kind)
	if x.Key != "" {
		t.row("key", x.Key)
	}
	if q := x.Quarantined; q != nil {
		a.printQuarantined(t, q)
	}
	if x.Entry != nil {
		a.printEntry(t, x.Entry)
	}
	if m := x.Manifest; m != nil {
		if m.Preprocess != "" {
			t.row("told apart by", "the preprocessed text, for "+m.Preprocess)
		}
		list(t, m.Candidates, func(c daemon.InspectedCandidate) {
			held := ""
			if !c.Held {
				held = ", evicted"
			}
			t.row("candidate", c.Action, fmt.Sprintf("%d inputs, %d absent, %d present%s", len(c.Inputs), c.Absent, c.Present, held))
		})
	}
	if b := x.Blob; b != nil {
		t.row("digest", b.Digest)
		t.row("size", a.size(b.Size))
	}
	if x.Toolchain != nil {
		printToolchain(t, x.Toolchain)
	}
	for _, key := range x.Quarantine {
		t.row("quarantined", key)
	}
	if x.Kind == "quarantine" && len(x.Quarantine) == 0 {
		a.note("nothing is in quarantine")
	}
	return t.flush()
}

func (a *app) printQuarantined(t *table, q *daemon.Quarantined) {
	t.row("quarantined", q.Time.Local().Format("2006-01-02 15:04:05"))
	t.row("source", q.Source)
	t.row("verified by", clip(shellLine(q.Command), 4000))
	t.row("directory", q.Cwd)
	for _, d := range q.Differs {
		t.row("differs", d)
	}
	t.row("manifest", q.Manifest)
	switch {
	case q.Compiled == q.Action:
		t.row("compiled as", "the same action: the compiler does not make the same twice, or the result was exchanged")
	case q.Compiled != "":
		t.row("compiled as", q.Compiled, "another action: the manifest led to the wrong one")
	default:
		t.row("compiled as", q.CompiledNote)
	}
	for _, o := range q.Stored {
		t.row("stored "+o.Role, o.Digest, a.size(o.Size))
	}
	for _, o := range q.Made {
		t.row("made "+o.Role, o.Digest, a.size(o.Size))
	}
}

func printToolchain(t *table, c *daemon.InspectedToolchain) {
	text := c.Text
	if text == "" {
		text = "nothing is recorded of it"
	}
	t.row("toolchain", text, c.Identity)
	list(t, c.Parts, func(p daemon.InspectedToolPart) { t.row("part", p.Name+": "+p.Path, p.Digest[:16]) })
}

func (a *app) printEntry(t *table, e *daemon.InspectedEntry) {
	if !e.KeyHolds {
		t.row("damaged", "this is the entry of another action: hpcc fsck --repair removes it")
	}
	printToolchain(t, &e.Toolchain)
	t.row("command", clip(shellLine(e.Command), 4000))
	for _, m := range e.Marks {
		t.row("mark", m)
	}
	list(t, e.Env, func(v string) { t.row("variable", v) })
	if e.Cwd != "" {
		t.row("directory", e.Cwd)
	}
	if e.Preprocessed != "" {
		t.row("preprocessed", e.Preprocessed)
	}
	list(t, e.Inputs, func(in daemon.InspectedInput) { t.row("input", in.Path, in.Digest[:16], a.size(in.Size)) })
	list(t, e.Absent, func(p string) { t.row("absent", p) })
	list(t, e.Present, func(p string) { t.row("present", p) })
	list(t, e.Chain, func(p string) { t.row("searched", p) })
	list(t, e.Same, func(p [2]string) { t.row("same file", p[0], p[1]) })
	r := &e.Result
	t.row("exit status", strconv.Itoa(r.ExitCode))
	for _, o := range r.Outputs {
		row := []string{"output " + o.Role, o.Digest, a.size(o.Size)}
		if o.Executable {
			row = append(row, "executable")
		}
		if !o.Held {
			row = append(row, "evicted")
		}
		t.row(row...)
	}
	for _, s := range [2][2]string{{"stdout", r.Stdout}, {"stderr", r.Stderr}} {
		if s[1] != "" {
			t.row(s[0], clip(s[1], 400), a.size(int64(len(s[1]))))
		}
	}
	list(t, r.Dependencies, func(d daemon.InspectedDep) {
		if d.System {
			t.row("dependency", d.Path, "system")
		} else {
			t.row("dependency", d.Path)
		}
	})
	t.row("compile time", time.Duration(r.CompileSeconds*float64(time.Second)).Round(time.Millisecond).String())
}

// clip shortens a text to some bytes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return s[:n] + "…"
}
