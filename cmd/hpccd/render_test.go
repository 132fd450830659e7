package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/daemon"
)

// fixture is an app with private directories and nothing wired.
func fixture(t *testing.T) (a *app, stdout, stderr *bytes.Buffer) {
	t.Helper()
	t.Setenv("HPCC_CONFIG_DIR", t.TempDir())
	t.Setenv("HPCC_CACHE_DIR", t.TempDir())
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	return &app{stdout: stdout, stderr: stderr}, stdout, stderr
}

func someStats(*config.Config) (*daemon.Stats, error) {
	return &daemon.Stats{
		HitsDirect: 74, HitsPreprocessed: 1, Misses: 25, CompilesFailed: 2,
		Uncacheable:         map[string]int64{"linking": 7, "preprocessing": 30, "never": 0},
		CompileSecondsSaved: 93.4, Races: daemon.RaceStats{Started: 9, WonHere: 5, WonThere: 3},
		CacheBytes: 23_400_000, CacheMaxBytes: 10e9, Entries: 27,
	}, nil
}

func TestStatsTable(t *testing.T) {
	a, stdout, _ := fixture(t)
	a.terminal = true
	a.readStats, a.zeroStats = someStats, func(*config.Config) error { return nil }
	if code := a.run([]string{"stats"}); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	want := `hits                  75  75.0 %
  direct              74
  preprocessed        1
misses                25  25.0 %
  failed to compile   2
not cacheable         37
  preprocessing       30  preprocessing or dependency output only
  linking             7   the command links
raced with a worker   9
  ready here first    5
  ready there first   3
compile time saved    1m33s
cache                 23.4 MB of 10.0 GB  0.2 %
  entries             27
`
	if got := squeeze(stdout.String()); got != squeeze(want) {
		t.Errorf("got:\n%s\nwant:\n%s", stdout, want)
	}
}

// squeeze makes runs of blanks one blank, since widths are tabwriter's.
func squeeze(s string) string {
	var lines []string
	for _, l := range strings.Split(s, "\n") {
		lines = append(lines, strings.Join(strings.Fields(l), " "))
	}
	return strings.Join(lines, "\n")
}

func TestStatsPiped(t *testing.T) {
	a, stdout, _ := fixture(t)
	a.readStats, a.zeroStats = someStats, func(*config.Config) error { return nil }
	if code := a.run([]string{"stats"}); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	for _, want := range []string{"hits_direct\t74\n", "misses\t25\n", "uncacheable.linking\t7\n", "cache_bytes\t23400000\n", "races.started\t9\n", "races.won_here\t5\n", "races.won_there\t3\n"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("%q is missing in\n%s", want, stdout)
		}
	}
}

// Scripts of users read these names: none may go.
func TestStatsJSON(t *testing.T) {
	a, stdout, _ := fixture(t)
	zeroed := false
	a.readStats = func(*config.Config) (*daemon.Stats, error) {
		if zeroed {
			t.Error("the numbers were zeroed before they were read")
		}
		return &daemon.Stats{}, nil
	}
	a.zeroStats = func(*config.Config) error { zeroed = true; return nil }
	if code := a.run([]string{"stats", "--json", "--zero"}); code != 0 || !zeroed {
		t.Fatalf("exit status %d, zeroed: %v", code, zeroed)
	}
	var got map[string]any
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hits_direct", "hits_preprocessed", "hits_remote", "misses", "uncacheable", "errors",
		"compile_seconds_saved", "cache_bytes", "cache_max_bytes", "entries", "compiles_failed", "since", "verify", "damaged"} {
		if v, ok := got[name]; !ok || v == nil {
			t.Errorf("field %s: %v", name, v)
		}
	}
}

func TestExplain(t *testing.T) {
	a, stdout, stderr := fixture(t)
	a.explain = func(_ context.Context, _ *config.Config, file string) (*daemon.Explanation, error) {
		if strings.HasSuffix(file, "/new.c") {
			return nil, errNeverCompiled
		}
		return &daemon.Explanation{
			File: file, Time: time.Now(), Command: []string{"gcc", "-DNAME=a b", "-c", "a.c"},
			Outcome: "miss", Against: "the compile before", AgainstAction: "0123456789abcdef0123",
			Changes: []daemon.ExplainedChange{
				{Kind: "input", Name: "/src/a.h", Old: "aa", New: "bb", Via: []string{"/src/a.c", "/src/\x1b[31mb.h", "/src/a.h"}},
				{Kind: "new-file", Name: "inc1/x.h", Old: "absent", New: "cc", Hides: "inc2/x.h", Directive: `#include "x.h"`, In: "/src/a.c"},
				{Kind: "flag", Name: "-O", How: "changed", Old: "-O2", New: "-O3"},
			},
		}, nil
	}
	if code := a.run([]string{"explain", "/src/a.c"}); code != 0 {
		t.Fatalf("exit status %d: %s", code, stderr)
	}
	for _, want := range []string{
		"command\tgcc '-DNAME=a b' -c a.c\n",
		"compared with\tthe compile before (0123456789abcdef)\n",
		"changed\t/src/a.h changed (/src/a.c -> /src/\\x1b[31mb.h -> /src/a.h)\n",
		"changed\tinc1/x.h exists now and hides inc2/x.h (#include \"x.h\" in /src/a.c)\n",
		"changed\tflag -O2 is now -O3\n",
	} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("%q is missing in\n%s", want, stdout)
		}
	}
	if code := a.run([]string{"explain", "/src/new.c"}); code != 1 || !strings.Contains(stderr.String(), "hpcc: hint: compile it through hpcc first") {
		t.Errorf("exit status %d: %s", code, stderr)
	}
}

func TestClean(t *testing.T) {
	a, stdout, stderr := fixture(t)
	var got daemon.CleanOptions
	a.clean = func(_ context.Context, _ *config.Config, opt daemon.CleanOptions) (*daemon.CleanReport, error) {
		got = opt
		return &daemon.CleanReport{Entries: 3, Bytes: 4096}, nil
	}
	if code := a.run([]string{"clean", "--older", "7d"}); code != 0 || got.OlderThan != 7*24*time.Hour || got.All {
		t.Errorf("exit status %d, options %+v: %s", code, got, stderr)
	}
	if !strings.Contains(stdout.String(), "removed\t3\t4096\n") {
		t.Errorf("got %s", stdout)
	}
	a.clean = func(context.Context, *config.Config, daemon.CleanOptions) (*daemon.CleanReport, error) {
		return nil, errors.New("read-only file system")
	}
	if code := a.run([]string{"clean", "--all"}); code != 1 || !strings.Contains(stderr.String(), "hpcc: hint: hpcc config shows") {
		t.Errorf("exit status %d: %s", code, stderr)
	}
}

func TestParseAge(t *testing.T) {
	for text, want := range map[string]time.Duration{"7d": 168 * time.Hour, "1.5d": 36 * time.Hour, "2w": 336 * time.Hour, "90m": 90 * time.Minute} {
		if got, err := parseAge(text); err != nil || got != want {
			t.Errorf("parseAge(%q) = %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "-1d", "0d", "NaNd", "1e300w", "7", "0s", "-5h"} {
		if got, err := parseAge(text); err == nil {
			t.Errorf("parseAge(%q) = %v, want an error", text, got)
		}
	}
}

// What a cache or a build names may hold anything: nothing of it gives a
// terminal orders, or breaks a line or a column.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"/src/naïve name.c":    "/src/naïve name.c",
		"a\tb\nc":              `a\tb\nc`,
		"\x1b]0;title\x07\x7f": `\x1b]0;title\a\x7f`,
		"\xff\xc3(":            `\xff\xc3(`,
		"\u0085\u202e":         `\u0085\u202e`,
		`back\slash`:           `back\slash`,
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{"": "''", "-O2": "-O2", "-DX=\"a\"": `'-DX="a"'`, "it's": `'it'\''s'`, "a b": "'a b'", "~x": "'~x'"} {
		if got := shellQuote(in); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", in, got, want)
		}
	}
}

// Every command is documented: what it does at length, and an example.
func TestEveryCommandHasHelp(t *testing.T) {
	a, _, _ := fixture(t)
	var check func(*cobra.Command)
	check = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			check(sub)
		}
		if c.Hidden || c.Name() == "help" || c.Parent() != nil && c.Parent().Name() == "completion" || c.Name() == "completion" {
			return
		}
		if c.Short == "" || c.Long == "" || c.Example == "" {
			t.Errorf("%s lacks a short text, a long text or an example", c.CommandPath())
		}
		if strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: the short text ends in a full stop", c.CommandPath())
		}
	}
	check(a.newRoot())
}
