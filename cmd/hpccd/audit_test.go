package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/digest"
)

var auditTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// writeAudit makes a log with 60 rows: ten hours apart, the tenants in turn.
func writeAudit(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	j, err := audit.OpenJournal(dir, audit.Options{SegmentBytes: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	object := audit.Digest(digest.Of([]byte("object")))
	for i := range 60 {
		r := &audit.Row{
			Time: auditTime.Add(time.Duration(i) * 10 * time.Hour), Tenant: []string{"acme", "zeta"}[i%2],
			Subject: "jo\x1b[31m", Worker: "w1", VM: "m-1", Image: "sha256:abc", Cache: audit.Miss, Accepted: true,
			Command: audit.Command{Source: fmt.Sprintf("/hpcc/src/%d.c", i+1), Argv: []string{"gcc", "a b"}, Env: []string{"LANG=C"}, Cwd: "/hpcc/src",
				Roots: []string{"/hpcc/src"}, Declared: []audit.Declared{{Role: "object", Path: "/hpcc/out/object"}}},
			Reads: audit.Reads{
				Inputs: []audit.Input{{Path: "/hpcc/src/a.c", Digest: object}, {Path: "/hpcc/src/inc"}, {Path: "/hpcc/src/l", Target: "a.c"}},
				Absent: []audit.Name{"/hpcc/src/\xff"},
			},
			Duration:  1500 * time.Millisecond,
			Isolation: audit.Isolation{Runtime: "firecracker", Version: "1.13", Digests: map[string]string{"kernel": "sha256:2"}},
			Versions:  audit.Versions{HPCC: "v1"},
		}
		switch i {
		case 56:
			r.Exit = 1
		case 57:
			r.Signal = 11
		case 58:
			r.Limit = "time"
		default:
			r.Outputs = []audit.Output{{Role: "object", Digest: object}}
		}
		if _, err := r.Fit(); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Append(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAuditResult(t *testing.T) {
	for want, r := range map[string]audit.Row{
		"ok": {Cache: audit.Miss, Accepted: true}, "not accepted": {Cache: audit.Miss}, "exit 1": {Cache: audit.Miss, Exit: 1},
		"offered": {Cache: audit.Hit, Offered: true}, "error": {Cache: audit.Miss, Error: "x"}, "limit: time": {Cache: audit.Miss, Limit: "time"},
	} {
		if got := auditResult(&r); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := auditResult(&audit.Row{Cache: audit.Hit, Accepted: true}); got != "offered" {
		t.Errorf("a hit of old: %q", got)
	}
}

func TestAuditShow(t *testing.T) {
	dir := writeAudit(t)
	a, stdout, stderr := fixture(t)
	show := func(want int, args ...string) []string {
		t.Helper()
		stdout.Reset()
		stderr.Reset()
		if got := a.run(append([]string{"audit", "show"}, args...)); got != want {
			t.Errorf("hpcc audit show %q: exit status %d, want %d\n%s", args, got, want, stderr)
		}
		return strings.Split(strings.TrimSuffix(stdout.String(), "\n"), "\n")
	}
	said := func(what string) {
		t.Helper()
		if !strings.Contains(stderr.String(), what) {
			t.Errorf("stderr is %q, want %q", stderr, what)
		}
	}

	lines := show(0, "--dir", dir)
	if len(lines) != 50 || !strings.HasPrefix(lines[0], "11\t2026-01-06T07:04:05Z\tacme\tjo\\x1b[31m\tmiss\tok\t1.500\t/hpcc/src/11.c\t"+digest.Of([]byte("object")).Hex()) {
		t.Errorf("%d lines, %q first", len(lines), lines[0])
	}
	said("the last 50 of 60 rows; --last 0 shows all")
	var results []string
	for _, l := range lines[45:] {
		results = append(results, strings.Split(l, "\t")[5])
	}
	if got := strings.Join(results, ", "); got != "ok, exit 1, signal 11, limit: time, ok" {
		t.Errorf("results %s", got)
	}
	if lines := show(0, "--dir", dir, "--last", "0"); len(lines) != 60 || stderr.Len() > 0 {
		t.Errorf("%d lines, %s", len(lines), stderr)
	}
	for i, l := range show(0, "--dir", dir, "--tenant", "zeta", "--last", "3") {
		if want := []string{"56", "58", "60"}[i]; strings.Split(l, "\t")[0] != want {
			t.Errorf("row %q, want %s", l, want)
		}
	}
	if lines := show(0, "--dir", dir, "--since", "2026-01-26T03:04:05Z"); len(lines) != 2 || !strings.HasPrefix(lines[0], "59\t") {
		t.Errorf("since: %q", lines)
	}
	show(0, "--dir", dir, "--tenant", "nobody")
	said("no rows")

	// Its lines are the log's own.
	t.Setenv("HPCC_WORKER_AUDIT_DIR", dir)
	lines = show(0, "--json")
	if len(lines) != 60 {
		t.Errorf("%d lines", len(lines))
	}
	files, err := filepath.Glob(filepath.Join(dir, "journal-*"))
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	var written []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		written = append(written, strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")[1:]...)
	}
	if strings.Join(lines, "\n") != strings.Join(written, "\n") {
		t.Error("--json is not what the log holds")
	}
	var line struct {
		Number uint64
		Row    audit.Row
	}
	if err := json.Unmarshal([]byte(show(0, "--json", "7")[0]), &line); err != nil || line.Number != 7 || line.Row.Source != "/hpcc/src/7.c" {
		t.Errorf("%+v, %v", line, err)
	}

	one := strings.Join(show(0, "7"), "\n")
	for _, want := range []string{
		"row\t7\nchain\t", "\nmachine\tm-1\n", "\nsubject\tjo\\x1b[31m\n", "\ncommand\tgcc 'a b'\nvariable\tLANG=C\n", "\nentered\t/hpcc/src/inc\n", "\nlink\t/hpcc/src/l\ta.c\n",
		"\nabsent\t/hpcc/src/\\xff\n", "\noutput\tobject\t", "\nruntime\tfirecracker 1.13\nkernel\tsha256:2\nnetwork interfaces\tnone\n",
	} {
		if !strings.Contains(one, want) {
			t.Errorf("a row lacks %q:\n%s", want, one)
		}
	}

	show(1, "61")
	said("no row 61")
	show(2, "0")
	said("rows are numbered from 1")
	show(2, "--since", "soon")
	said("must be an age")
	show(2, "1", "2")
	show(1, "--dir", filepath.Join(dir, "none"))
	said("no audit log")
	t.Setenv("HPCC_WORKER_AUDIT_DIR", "")
	show(1)
	said("--dir")

	// On a terminal: a table, short digests, nothing that moves the cursor.
	a.terminal = true
	lines = show(0, "--dir", dir, "--last", "1")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "ROW  TIME") || !strings.HasSuffix(lines[1], " "+digest.Of([]byte("object")).Hex()[:12]) {
		t.Errorf("%q", lines)
	}
	a.terminal = false

	// What lies before damage is shown.
	b, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-20] ^= 1
	if err := os.WriteFile(files[len(files)-1], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if lines := show(1, "--dir", dir, "--last", "0"); len(lines) != 59 {
		t.Errorf("%d rows before the damage", len(lines))
	}
	said("is damaged at byte")
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	show(1, "--dir", dir, "1")
	said("the log begins with row")
}

func TestAuditVerify(t *testing.T) {
	dir := writeAudit(t)
	a, stdout, stderr := fixture(t)
	verify := func(want int, args ...string) auditVerdict {
		t.Helper()
		stdout.Reset()
		stderr.Reset()
		if got := a.run(append([]string{"audit", "verify", "--json"}, args...)); got != want {
			t.Errorf("hpcc audit verify %q: exit status %d, want %d\n%s%s", args, got, want, stdout, stderr)
		}
		var v auditVerdict
		if stdout.Len() > 0 {
			if err := json.Unmarshal(stdout.Bytes(), &v); err != nil {
				t.Fatal(err)
			}
			if v.OK == (want != 0) || v.OK == (v.Damage != nil) {
				t.Errorf("%+v", v)
			}
		}
		return v
	}
	files, err := filepath.Glob(filepath.Join(dir, "journal-*"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	whole := verify(0, dir)
	if whole.First != 1 || whole.Last != 60 || whole.Files != len(files) || len(whole.Chain) != 64 || whole.Unfinished {
		t.Errorf("%+v", whole)
	}
	kept := "60:" + whole.Chain
	verify(0, dir, "--kept", kept)
	t.Setenv("HPCC_WORKER_AUDIT_DIR", dir)
	last := verify(0, files[len(files)-1])
	if v := verify(0); v != whole || last.Chain != whole.Chain || last.Files != 1 || last.First <= 1 {
		t.Errorf("%+v, %+v", v, last)
	}
	stdout.Reset()
	if code := a.run([]string{"audit", "verify", dir}); code != 0 || !strings.HasSuffix(stdout.String(), "whole rows\t1 to 60\nchain\t"+whole.Chain+"\nresult\tok\n") {
		t.Errorf("%d: %s%s", code, stdout, stderr)
	}

	// What is called wrongly.
	for _, bad := range []string{"60", "0:" + whole.Chain, "60:" + whole.Chain[1:], "x:" + whole.Chain} {
		verify(2, dir, "--kept", bad)
	}
	verify(2, dir, dir)
	verify(1, filepath.Join(dir, "none"))

	// What was kept elsewhere tells of an end that is missing, and of rows that
	// were written anew.
	if v := verify(1, dir, "--kept", "61:"+whole.Chain); !strings.Contains(v.Damage.Reason, "missing at the end") || v.Damage.File != "" {
		t.Errorf("%+v", v.Damage)
	}
	if v := verify(1, dir, "--kept", "59:"+whole.Chain); !strings.Contains(v.Damage.Reason, "written anew") {
		t.Errorf("%+v", v.Damage)
	}
	if v := verify(1, files[1], "--kept", "1:"+whole.Chain); !strings.Contains(v.Damage.Reason, "moved elsewhere") {
		t.Errorf("%+v", v.Damage)
	}

	// One byte.
	b, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	line := strings.IndexByte(string(b), '\n') + 1
	b[line+100] ^= 1
	if err := os.WriteFile(files[1], b, 0o600); err != nil {
		t.Fatal(err)
	}
	v := verify(1, dir)
	if v.Damage.File != files[1] || v.Damage.Offset != int64(line) || v.Last == 0 || v.Last >= 60 || !strings.Contains(v.Damage.Reason, fmt.Sprintf("row %d", v.Last+1)) {
		t.Errorf("%+v, %+v", v, v.Damage)
	}
	verify(0, files[2])
	stdout.Reset()
	if code := a.run([]string{"audit", "verify"}); code != 1 || !strings.Contains(stdout.String(), "result\tdamaged\nfile\t"+files[1]+"\nbyte\t") {
		t.Errorf("%d: %s", code, stdout)
	}
}
