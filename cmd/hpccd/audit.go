package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/digest"
)

func (a *app) newAudit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Read a worker's audit log",
		Long: `A worker writes a row for each job before it hands out the result: who asked,
what was run in which machine, from which inputs, and what came out. Rows are
numbered and chained by SHA-256; every command checks what it reads.`,
		Example: `  hpcc audit show
  hpcc audit show 1234
  hpcc audit verify`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage{withHint(fmt.Errorf("unknown command %q", args[0]), "see hpcc audit --help")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.newAuditShow(), a.newAuditVerify())
	return cmd
}

// auditFilter says which rows to show.
type auditFilter struct {
	tenant string
	since  time.Time
	last   int // the last so many; 0 is all
}

func (a *app) newAuditShow() *cobra.Command {
	var dir, since string
	var f auditFilter
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show [ROW]",
		Short: "Show rows of the audit log",
		Long: `Show prints the last rows of the audit log, or everything that one row has. The
log may be in use. It is that of the worker's settings, unless --dir or
HPCC_WORKER_AUDIT_DIR names its directory.

With --json it prints each row's line as the log holds it: number, chain and row.
Then all rows are shown, unless --last says otherwise.`,
		Example: `  hpcc audit show --tenant acme --since 2h
  hpcc audit show --since 2026-11-01 --json | jq -r '.row.outputs[].digest'
  hpcc audit show 1234`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage{withHint(fmt.Errorf("%s takes one row, not %d", cmd.CommandPath(), len(args)), "see %s --help", cmd.CommandPath())}
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.last < 0 {
				return usage{fmt.Errorf("--last is %d: must be a number of rows", f.last)}
			}
			if since != "" {
				t, err := parseSince(since, time.Now())
				if err != nil {
					return usage{fmt.Errorf("--since is %q: %w", since, err)}
				}
				f.since = t
			}
			if asJSON && !cmd.Flags().Changed("last") {
				f.last = 0
			}
			var number uint64
			if len(args) > 0 {
				n, err := strconv.ParseUint(args[0], 10, 64)
				if err != nil || n == 0 {
					return usage{fmt.Errorf("%q is no row: rows are numbered from 1", args[0])}
				}
				number = n
			}
			dir, err := auditDir(dir)
			if err != nil {
				return err
			}
			if number != 0 {
				err = a.showRow(dir, number, asJSON)
			} else {
				err = a.showRows(dir, f, asJSON)
			}
			var damage *audit.DamageError
			switch {
			case errors.As(err, &damage):
				return withHint(err, "the rows before it are good; keep the directory as it is, and find out what happened to its disk")
			case errors.Is(err, os.ErrNotExist):
				return withHint(fmt.Errorf("no audit log: %w", err), "name the worker's with --dir")
			}
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "directory of the log (default that of the worker's settings)")
	cmd.Flags().StringVar(&f.tenant, "tenant", "", "only this tenant's rows")
	cmd.Flags().StringVar(&since, "since", "", "only rows since then: an age such as 2h or 7d, a date or an RFC 3339 time")
	cmd.Flags().IntVar(&f.last, "last", 50, "only the last so many rows of these; 0 is all")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each row's line as the log holds it")
	return cmd
}

// auditDir is where the log lies, if the flag --dir does not say.
func auditDir(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	if dir := os.Getenv("HPCC_WORKER_AUDIT_DIR"); dir != "" {
		return dir, nil
	}
	w, err := config.LoadWorker()
	if err != nil {
		return "", withHint(fmt.Errorf("the worker's settings do not say where the log is: %w", err), "name its directory with --dir")
	}
	return w.Audit.Dir, nil
}

// parseSince reads an age, a date or a time.
func parseSince(s string, now time.Time) (time.Time, error) {
	if age, err := parseAge(s); err == nil {
		return now.Add(-age), nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil {
		return t, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	return time.Time{}, errors.New("must be an age such as 7d or 12h, a date such as 2026-11-01, or an RFC 3339 time")
}

// shownRow is a row that was read, with its line of the log.
type shownRow struct {
	number uint64
	row    *audit.Row
	line   []byte
}

// showRows shows what passes the filter. What was good before damage is shown.
func (a *app) showRows(dir string, f auditFilter, asJSON bool) error {
	var t *table
	if !asJSON {
		t = a.newTable("ROW", "TIME", "TENANT", "SUBJECT", "CACHE", "RESULT", "SECONDS", "SOURCE", "OUTPUT")
	}
	show := func(r shownRow) error {
		if asJSON {
			return a.printLine(r.line)
		}
		t.row(a.auditCells(r.number, r.row)...)
		return nil
	}
	// With a last, a ring of the newest.
	var ring []shownRow
	matched := 0
	failed := func() error {
		for e, err := range audit.Read(dir, 0) {
			if err != nil {
				return err
			}
			row, err := e.Row()
			if err != nil {
				return err
			}
			if f.tenant != "" && row.Tenant != f.tenant || row.Time.Before(f.since) {
				continue
			}
			r := shownRow{e.Number, row, e.Line()}
			switch {
			case f.last == 0:
				if err := show(r); err != nil {
					return err
				}
			case len(ring) < f.last:
				ring = append(ring, r)
			default:
				ring[matched%f.last] = r
			}
			matched++
		}
		return nil
	}()
	for i := range ring {
		if err := show(ring[(max(matched-len(ring), 0)+i)%len(ring)]); err != nil {
			return err
		}
	}
	if t != nil {
		if err := t.flush(); err != nil {
			return err
		}
	}
	if failed != nil {
		return failed
	}
	switch {
	case matched == 0:
		a.note("no rows")
	case matched > len(ring) && f.last > 0:
		a.note("the last %d of %d rows; --last 0 shows all", len(ring), matched)
	}
	return nil
}

// maxCell bounds a command in the list, in bytes.
const maxCell = 60

// auditCells are a row's cells in the list.
func (a *app) auditCells(number uint64, r *audit.Row) []string {
	at, source, output := r.Time.Format(time.RFC3339Nano), r.Source, ""
	if source == "" {
		// A question has no source, and says what it is.
		if source = strings.Join(r.Argv, " "); len(source) > maxCell {
			source = source[:maxCell] + "…"
		}
	}
	for _, o := range r.Outputs {
		if output == "" || o.Role == "object" {
			output = digest.Digest(o.Digest).Hex()
		}
	}
	if a.terminal {
		at = r.Time.Local().Format(time.DateTime)
		if output != "" {
			output = output[:12]
		}
	}
	return []string{
		strconv.FormatUint(number, 10), at, r.Tenant, r.Subject, string(r.Cache), auditResult(r),
		strconv.FormatFloat(r.Duration.Seconds(), 'f', 3, 64), source, output,
	}
}

// auditResult says how a job ended.
func auditResult(r *audit.Row) string {
	switch {
	case r.Error != "":
		return "error"
	case r.Limit != "":
		return "limit: " + r.Limit
	case r.Signal != 0:
		return "signal " + strconv.Itoa(r.Signal)
	case r.Exit != 0:
		return "exit " + strconv.Itoa(r.Exit)
	case r.Cache == audit.Hit:
		return "offered"
	case !r.Accepted:
		return "not accepted"
	}
	return "ok"
}

func (a *app) showRow(dir string, number uint64, asJSON bool) error {
	for e, err := range audit.Read(dir, number) {
		if err != nil {
			return err
		}
		if e.Number != number {
			return withHint(fmt.Errorf("no row %d: the log begins with row %d", number, e.Number), "older files were moved elsewhere")
		}
		if asJSON {
			return a.printLine(e.Line())
		}
		row, err := e.Row()
		if err != nil {
			return err
		}
		return a.printRow(e, row)
	}
	return withHint(fmt.Errorf("no row %d", number), "hpcc audit show lists the last ones")
}

// printLine writes a line of the log: byte for byte to a program, and with
// nothing in it that a terminal would take for an order to a person.
func (a *app) printLine(line []byte) error {
	text := string(line)
	if a.terminal {
		text = escapeOdd(text)
	}
	_, err := io.WriteString(a.stdout, text+"\n")
	return err
}

func (a *app) printRow(e *audit.Entry, r *audit.Row) error {
	t := a.newTable()
	some := func(name string, cells ...string) {
		if cells[0] != "" {
			t.row(append([]string{name}, cells...)...)
		}
	}
	file := func(d audit.Digest) []string {
		if (d == audit.Digest{}) {
			return []string{""}
		}
		return []string{digest.Digest(d).Hex(), a.size(digest.Digest(d).Size())}
	}
	t.row("row", strconv.FormatUint(e.Number, 10))
	t.row("chain", digest.Key(e.Chain).String())
	t.row("time", r.Time.Format(time.RFC3339Nano))
	t.row("tenant", r.Tenant)
	some("subject", r.Subject)
	t.row("worker", r.Worker)
	some("machine", r.VM)
	t.row("image", r.Image)
	t.row("cache", string(r.Cache))
	t.row("result", auditResult(r))
	some("error", r.Error)
	t.row("seconds", strconv.FormatFloat(r.Duration.Seconds(), 'f', 3, 64))
	if (r.Action != audit.Key{}) {
		t.row("action", digest.Key(r.Action).String())
	}
	t.row("inputs digest", digest.Key(r.SourceDigest).String())
	some("source", r.Source)
	if len(r.Argv) > 0 {
		t.row("command", shellLine(r.Argv))
	}
	for _, v := range r.Env {
		t.row("variable", v)
	}
	some("directory", r.Cwd)
	for _, root := range r.Roots {
		t.row("root", root)
	}
	for _, o := range r.Declared {
		kind := "declared"
		if o.Optional {
			kind = "optional"
		}
		t.row(kind, o.Path, o.Role)
	}
	if (r.Detail != audit.Digest{}) {
		t.row(append([]string{"inputs in blob"}, file(r.Detail)...)...)
	}
	list(t, r.Inputs, func(in audit.Input) {
		switch {
		case in.Target != "":
			t.row("link", string(in.Path), string(in.Target))
		case in.Digest != audit.Digest{}:
			t.row("input", string(in.Path), digest.Digest(in.Digest).Hex())
		default:
			t.row("entered", string(in.Path))
		}
	})
	list(t, r.Absent, func(p audit.Name) { t.row("absent", string(p)) })
	for _, o := range r.Outputs {
		t.row(append([]string{"output", o.Role}, file(o.Digest)...)...)
	}
	some("stdout", file(r.Stdout)...)
	some("stderr", file(r.Stderr)...)
	some("shared cache", r.Tier)
	some("signed by", r.Signer)
	some("runtime", strings.TrimSpace(r.Isolation.Runtime+" "+r.Isolation.Version))
	for _, name := range slices.Sorted(maps.Keys(r.Isolation.Digests)) {
		t.row(name, r.Isolation.Digests[name])
	}
	if r.Isolation.NICs != nil {
		nics := strings.Join(r.Isolation.NICs, " ")
		if nics == "" {
			nics = "none"
		}
		t.row("network interfaces", nics)
	}
	t.row("hpcc", r.Versions.HPCC)
	some("agent", r.Versions.Agent)
	return t.flush()
}
