package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/digest"
)

// auditVerdict is what `hpcc audit verify --json` prints.
type auditVerdict struct {
	OK   bool   `json:"ok"`
	Path string `json:"path"`
	// What is whole: to the end, or to the damage.
	Files int    `json:"files"`
	First uint64 `json:"first_row"`
	Last  uint64 `json:"last_row"`
	Chain string `json:"chain,omitempty"`
	// Unfinished tells that the beginning of a row stands behind the last.
	Unfinished bool         `json:"unfinished,omitempty"`
	Damage     *auditDamage `json:"damage,omitempty"`
}

// auditDamage says where a log is not what was written. File and Offset are empty
// where it is what is missing.
type auditDamage struct {
	File   string `json:"file,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	Reason string `json:"reason"`
}

// keptRow is a row whose chain somebody has kept.
type keptRow struct {
	number uint64
	chain  audit.Key
}

func parseKept(s string) (k keptRow, err error) {
	number, chain, ok := strings.Cut(s, ":")
	if k.number, err = strconv.ParseUint(number, 10, 64); err != nil || !ok || k.number == 0 {
		return k, errors.New("must be ROW:CHAIN, as hpcc audit verify prints them")
	}
	parsed, err := digest.ParseKey(chain)
	if err != nil {
		return k, errors.New("the chain behind the colon must be 64 hex digits")
	}
	k.chain = audit.Key(parsed)
	return k, nil
}

func (a *app) newAuditVerify() *cobra.Command {
	var kept string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify [FILE|DIR]",
		Short: "Check that no row of the audit log was changed",
		Long: `Verify reads all of the audit log, or one file of it that was moved elsewhere, and
checks each row and the chain through all of them. The log may be in use. It is
that of the worker's settings, unless HPCC_WORKER_AUDIT_DIR names its directory.

The exit status is 1 if anything was changed, and the message says where.

Rows that were cut off at the end, or a log that was written anew, show only in
comparison with a value that was kept elsewhere: keep the last row's number and
chain, and give them back by --kept.`,
		Example: `  hpcc audit verify
  hpcc audit verify --kept 1234:5f0c…       # what an earlier run printed
  hpcc audit verify /archive/journal-00000000000000000001.jsonl
  hpcc audit verify --json | jq .last_row`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage{withHint(fmt.Errorf("%s takes one file or directory, not %d", cmd.CommandPath(), len(args)), "see %s --help", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var k keptRow
			if kept != "" {
				var err error
				if k, err = parseKept(kept); err != nil {
					return usage{fmt.Errorf("--kept is %q: %w", kept, err)}
				}
			}
			path := ""
			if len(args) > 0 {
				path = args[0]
			}
			path, err := auditDir(path)
			if err != nil {
				return err
			}
			v, err := a.verifyAudit(path, k)
			if errors.Is(err, os.ErrNotExist) {
				return withHint(fmt.Errorf("no audit log: %w", err), "name the worker's directory, or a file of it")
			}
			if err != nil {
				return err
			}
			if asJSON {
				err = a.printJSON(v)
			} else {
				err = a.printVerdict(v)
			}
			if err == nil && !v.OK {
				return exitStatus(1)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&kept, "kept", "", "a row and its chain from an earlier run, `ROW:CHAIN`, which must stand in the log")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// verifyAudit checks a log. Damage is its verdict, and no error.
func (a *app) verifyAudit(path string, k keptRow) (*auditVerdict, error) {
	var there audit.Key
	var bytes int64
	p := a.newProgress("checked")
	x, err := audit.Verify(path, func(e *audit.Entry) error {
		if e.Number == k.number {
			there = e.Chain
		}
		bytes += int64(len(e.Raw))
		p.show(bytes)
		return nil
	})
	p.end()
	v := &auditVerdict{Path: path, Files: x.Files, First: x.First, Last: x.Last, Unfinished: x.Unfinished}
	if x.Last != 0 {
		v.Chain = digest.Key(x.Chain).String()
	}
	var damage *audit.DamageError
	switch {
	case errors.As(err, &damage):
		v.Damage = &auditDamage{damage.File, damage.Offset, damage.Reason}
	case err != nil:
		return nil, err
	case k.number == 0 || there == k.chain:
		v.OK = true
	case k.number > x.Last:
		v.Damage = &auditDamage{Reason: fmt.Sprintf("it ends with row %d, and row %d was there once: rows are missing at the end", x.Last, k.number)}
	case k.number < x.First:
		v.Damage = &auditDamage{Reason: fmt.Sprintf("it begins with row %d, so that row %d cannot be compared: older files were moved elsewhere", x.First, k.number)}
	default:
		v.Damage = &auditDamage{Reason: fmt.Sprintf("row %d has the chain %s, and not the one that was kept: rows up to it were written anew", k.number, digest.Key(there))}
	}
	return v, nil
}

func (a *app) printVerdict(v *auditVerdict) error {
	t := a.newTable()
	t.row("log", v.Path)
	t.row("files", strconv.Itoa(v.Files))
	if v.Last != 0 {
		t.row("whole rows", fmt.Sprintf("%d to %d", v.First, v.Last))
		t.row("chain", v.Chain)
	} else {
		t.row("whole rows", "none")
	}
	if v.Unfinished {
		t.row("end", "the beginning of a row: one that is being written, or that a crash left")
	}
	if v.OK {
		t.row("result", "ok")
		return t.flush()
	}
	t.row("result", "damaged")
	if v.Damage.File != "" {
		t.row("file", v.Damage.File)
		t.row("byte", strconv.FormatInt(v.Damage.Offset, 10))
	}
	t.row("reason", v.Damage.Reason)
	if err := t.flush(); err != nil {
		return err
	}
	a.note("hint: keep the log as it is, and find out what happened to it")
	return nil
}
