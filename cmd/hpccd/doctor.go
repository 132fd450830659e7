package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/config"
)

// Levels of a finding.
const (
	levelOK   = "ok"
	levelWarn = "warn" // builds are right, and slower or less cached than could be
	levelFail = "fail" // hpcc does not work, or others can meddle with it
)

// finding is what one check of hpcc doctor found.
type finding struct {
	// Check names what was looked at; the names are stable.
	Check string `json:"check"`
	Level string `json:"level"`
	Text  string `json:"text"`
	// Mend says what to do, "" where nothing is to be done.
	Mend string `json:"mend,omitempty"`
}

// doctor looks at a set-up and changes nothing of it.
type doctor struct {
	ctx      context.Context
	progress io.Writer // nil for none
	findings []finding
	// cfg is nil where the settings cannot be read.
	cfg *config.Config
	// hpcc and hpccd are the programs that are installed together, "" for none.
	hpcc, hpccd string
	// works is a compiler that can be cached, by its path, or "".
	works string
	// daemonAnswers is true where a daemon serves.
	daemonAnswers bool
}

func (a *app) newDoctor() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find what is wrong with the set-up, and say how to mend it",
		Long: `Doctor looks at the programs, the daemon, the settings, the cache, the links and
compilers in PATH, the environment and the clock, and compiles a small file
twice with a cache of its own. It changes nothing, but tries with an object of its
own whether shared caches can be written. Each finding is ok, warn
(builds are right, but slower or less cached than they could be) or fail; with a
fail it ends with status 1.`,
		Example: `  hpcc doctor
  hpcc doctor --json | jq '.findings[] | select(.level != "ok")'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &doctor{ctx: cmd.Context()}
			if a.stderrTerminal {
				d.progress = a.stderr
			}
			d.examine()
			var warned, failed int
			for _, f := range d.findings {
				switch f.Level {
				case levelWarn:
					warned++
				case levelFail:
					failed++
				}
			}
			if asJSON {
				err := a.printJSON(struct {
					Findings []finding `json:"findings"`
				}{d.findings})
				if err != nil {
					return err
				}
			} else {
				t := a.newTable("", "CHECK", "FOUND")
				for _, f := range d.findings {
					switch {
					case f.Mend == "":
						t.row(f.Level, f.Check, f.Text)
					case a.terminal:
						t.row(f.Level, f.Check, f.Text)
						t.row("", "", "→ "+f.Mend)
					default:
						t.row(f.Level, f.Check, f.Text, f.Mend)
					}
				}
				if err := t.flush(); err != nil {
					return err
				}
			}
			if failed > 0 {
				a.note("%d failed, %d warned", failed, warned)
				return exitStatus(1)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// examine makes all checks, in the order in which one explains the next.
func (d *doctor) examine() {
	for _, part := range []struct {
		what  string
		check func()
	}{
		{"programs", d.programs}, {"settings", d.settings}, {"daemon", d.daemon}, {"cache", d.cache},
		{"workers", d.workers}, {"shared caches", d.tiers}, {"environment", d.environment}, {"links", d.links}, {"compilers", d.compilers}, {"a compile", d.selfTest},
	} {
		if d.progress != nil {
			fmt.Fprintf(d.progress, "\rhpcc: looking at %-20s\r", part.what)
		}
		part.check()
	}
	if d.progress != nil {
		fmt.Fprintf(d.progress, "\r%40s\r", "")
	}
}

func (d *doctor) ok(check, format string, args ...any) {
	d.findings = append(d.findings, finding{check, levelOK, fmt.Sprintf(format, args...), ""})
}

func (d *doctor) warn(check, mend, format string, args ...any) {
	d.findings = append(d.findings, finding{check, levelWarn, fmt.Sprintf(format, args...), mend})
}

func (d *doctor) fail(check, mend, format string, args ...any) {
	d.findings = append(d.findings, finding{check, levelFail, fmt.Sprintf(format, args...), mend})
}

// settings reads the settings as every other command does.
func (d *doctor) settings() {
	c, err := config.Load()
	if err != nil {
		d.fail("settings", "mend the setting, or remove it; hpcc config --help lists all", "%s", err)
		return
	}
	d.cfg = c
	if _, err := os.Stat(c.File); err != nil {
		d.ok("settings", "all defaults, but for the environment: there is no %s", c.File)
	} else {
		d.ok("settings", "%s", c.File)
	}
	if c.Disable {
		d.warn("settings-disable", "unset HPCC_DISABLE, or set disable = false in client.toml", "hpcc is switched off: every compiler runs untouched")
	}
	if c.Verify >= 1 {
		d.warn("settings-verify", "unset HPCC_VERIFY, or set verify to a small share", "every hit is compiled anyway and compared")
	}
}
