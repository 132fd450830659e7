package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/store"
)

// library makes a directory tier "near" with ten results and their manifest, a
// client.toml that names it, and what calls hpcc cache.
func library(t *testing.T) (hpcc func(want int, args ...string) string, dir string, a *app) {
	t.Helper()
	a, stdout, stderr := fixture(t)
	work := t.TempDir()
	dir = filepath.Join(work, "near")
	hpcc = func(want int, args ...string) string {
		t.Helper()
		stdout.Reset()
		stderr.Reset()
		if got := a.run(append([]string{"cache"}, args...)); got != want {
			t.Fatalf("hpcc cache %s: exit status %d, want %d\n%s%s", strings.Join(args, " "), got, want, stdout, stderr)
		}
		if want != 0 {
			return stderr.String()
		}
		return stdout.String()
	}
	key := filepath.Join(work, "alice.key")
	line := hpcc(0, "keygen", "--name", "alice", key)
	trusted := filepath.Join(work, "trusted")
	if err := os.WriteFile(trusted, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	toml := fmt.Sprintf(`[cache]
signing_key_file = %q
trusted_keys_file = %q
[[cache.tiers]]
name = "near"
url = "file://%s"
max_size = "1GB"
[[cache.tiers]]
name = "locked"
url = "file://%[3]s-locked"
access = "read-only"
`, key, trusted, dir)
	if err := os.WriteFile(filepath.Join(os.Getenv("HPCC_CONFIG_DIR"), "client.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := shared.ReadSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenDirectory(dir, store.DirectoryOptions{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	putResults(t, s, signer, 0, 10)
	if err := os.WriteFile(filepath.Join(dir, "default", "readme.txt"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	return hpcc, dir, a
}

// putResults puts results of numbers into a store.
func putResults(t *testing.T, s store.Store, by *shared.Signer, from, to int) {
	t.Helper()
	c, err := shared.New(shared.Options{Tiers: []shared.Tier{{Name: "x", Store: s, Write: true}}, Signer: by})
	if err != nil {
		t.Fatal(err)
	}
	for i := from; i < to; i++ {
		object := make([]byte, 1000)
		_, _ = rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}).Read(object)
		d := digest.Of(object)
		e := &action.Entry{
			Action: action.Action{Command: []string{"-c", fmt.Sprint(i, ".c")}, Inputs: []action.Input{{Path: "a.c", Digest: d}}},
			Result: action.Result{Outputs: []action.Output{{Role: "object", Digest: d}}},
		}
		c.Put(digest.NewKey("manifest").Sum(), "", e, map[digest.Digest][]byte{d: object})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// fixtureLike is fixture with the directories as they are.
func fixtureLike(t *testing.T) (a *app, stdout, stderr *bytes.Buffer) {
	t.Helper()
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	return &app{stdout: stdout, stderr: stderr}, stdout, stderr
}

// results are the files of results below a directory.
func results(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "default", "result", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestCacheLs(t *testing.T) {
	hpcc, dir, a := library(t)
	out := hpcc(0, "ls", "near")
	if strings.Count(out, "\n") != 12 || strings.Count(out, "result\t") != 10 || !strings.Contains(out, "foreign\t4\t") {
		t.Errorf("%q", out)
	}
	if again := hpcc(0, "ls", "file://"+dir); again != out {
		t.Errorf("by its URL: %q", again)
	}
	if again := hpcc(0, "ls", dir, "--all-tenants"); again != out {
		t.Errorf("by its path: %q", again)
	}
	oldest := results(t, dir)[7]
	old := time.Now().Add(-100 * time.Hour)
	if err := os.Chtimes(oldest, old, old); err != nil {
		t.Fatal(err)
	}
	var list []listedObject
	if err := json.Unmarshal([]byte(hpcc(0, "ls", "near", "--kind", "result", "--oldest", "--limit", "3", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 3 || filepath.Base(list[0].Name) != filepath.Base(oldest) || list[0].Bytes < 1000 || list[0].Tenant != "default" {
		t.Errorf("%+v", list)
	}
	if out := hpcc(0, "ls", "near", "--tenant", "other", "--json"); out != "[]\n" {
		t.Errorf("of another tenant: %q", out)
	}
	a.terminal = true
	if out := hpcc(0, "ls", "near"); !strings.Contains(out, "KIND") || !strings.Contains(out, "4 days ago") || !strings.Contains(out, "just now") {
		t.Errorf("on a terminal:\n%s", out)
	}
}

func TestCacheStat(t *testing.T) {
	hpcc, _, a := library(t)
	var x cacheStat
	if err := json.Unmarshal([]byte(hpcc(0, "stat", "near", "--json")), &x); err != nil {
		t.Fatal(err)
	}
	if x.Objects != 11 || x.Foreign != 1 || x.MaxSize != 1_000_000_000 || x.Bytes < 10_000 || len(x.Totals) != 2 || len(x.Estimates) != 0 {
		t.Errorf("%+v", x)
	}
	hpcc(0, "evict", "near")
	a.terminal = true
	if out := hpcc(0, "stat", "near"); !strings.Contains(out, "estimate") || !strings.Contains(out, "max_size") || !strings.Contains(out, "listed just now") {
		t.Errorf("%s", out)
	}
}

func TestCacheVerify(t *testing.T) {
	hpcc, dir, _ := library(t)
	if out := hpcc(0, "verify", "near"); !strings.Contains(out, "objects\t11\nwrong\t0\n") {
		t.Errorf("%q", out)
	}
	bent := results(t, dir)[3]
	body, err := os.ReadFile(bent)
	if err != nil {
		t.Fatal(err)
	}
	body[len(body)-1] ^= 1
	if err := os.WriteFile(bent, body, 0o600); err != nil {
		t.Fatal(err)
	}
	mallory, err := shared.NewSigner(make([]byte, 32), "mallory")
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenDirectory(dir, store.DirectoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	putResults(t, s, mallory, 100, 102)
	_ = s.Close()

	report := func(want int, args ...string) (r struct {
		shared.CheckReport
		List []shared.Wrong
	}) {
		t.Helper()
		a, stdout, _ := fixtureLike(t)
		if got := a.run(append([]string{"cache", "verify", "near", "--json"}, args...)); got != want {
			t.Fatalf("%v: exit status %d, want %d", args, got, want)
		}
		if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := report(1); r.Wrong != 3 || r.Reasons[shared.ReasonTampered] != 1 || r.Reasons[shared.ReasonStranger] != 2 || len(r.List) != 3 || r.Removed != 0 {
		t.Errorf("%+v", r)
	}
	if out := hpcc(1, "verify", "near"); !strings.Contains(out, "--repair") {
		t.Errorf("no next step: %q", out)
	}
	if r := report(1, "--repair"); r.Removed != 1 || r.Wrong != 3 {
		t.Errorf("%+v", r)
	}
	if r := report(0, "--repair", "--strangers"); r.Removed != 2 || r.Wrong != 2 {
		t.Errorf("%+v", r)
	}
	if r := report(0); r.Wrong != 0 || r.Foreign != 1 {
		t.Errorf("%+v", r)
	}
	if n := len(results(t, dir)); n != 9 {
		t.Errorf("%d results are left", n)
	}
	if _, err := os.Stat(filepath.Join(dir, "default", "readme.txt")); err != nil {
		t.Error(err)
	}
}

func TestCacheCopy(t *testing.T) {
	hpcc, dir, _ := library(t)
	mirror := filepath.Join(t.TempDir(), "mirror")
	if out := hpcc(0, "copy", "near", mirror); !strings.Contains(out, "copied\t11\nthere already\t0\n") {
		t.Errorf("%q", out)
	}
	if a, b := results(t, dir), results(t, mirror); len(a) != len(b) {
		t.Errorf("%d and %d results", len(a), len(b))
	}
	if out := hpcc(0, "copy", "near", mirror); !strings.Contains(out, "copied\t0\nthere already\t11\n") {
		t.Errorf("again: %q", out)
	}
	old := time.Now().Add(-100 * time.Hour)
	for _, file := range results(t, dir)[:4] {
		if err := os.Chtimes(file, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if out := hpcc(0, "copy", "near", mirror+"2", "--newer-than", "2d"); !strings.Contains(out, "copied\t7\n") || !strings.Contains(out, "older\t4\n") {
		t.Errorf("the newer: %q", out)
	}
	// What is copied into a tier with max_size counts there.
	hpcc(0, "evict", "near", "--older-than", "1ms")
	hpcc(0, "copy", mirror, "near")
	var x cacheStat
	if err := json.Unmarshal([]byte(hpcc(0, "stat", "near", "--json")), &x); err != nil || len(x.Estimates) != 1 || x.Estimates[0].Bytes != x.Bytes || x.Bytes == 0 {
		t.Errorf("%+v, %v", x, err)
	}
	// Encrypted for a disk that others carry, and back.
	key := filepath.Join(t.TempDir(), "key")
	hpcc(0, "keygen", "--encryption", key)
	if out := hpcc(0, "copy", "--encryption-key", key, "near", mirror+"3"); !strings.Contains(out, "copied\t11\n") {
		t.Errorf("encrypted: %q", out)
	}
	if out := hpcc(1, "verify", mirror+"4"); !strings.Contains(out, "hint: ") {
		t.Errorf("of nothing: %q", out)
	}
	if out := hpcc(0, "verify", mirror+"3"); !strings.Contains(out, "objects\t0\n") || !strings.Contains(out, "encrypted with another key\t11\n") {
		t.Errorf("without the key: %q", out)
	}
	if out := hpcc(0, "verify", "--encryption-key", key, mirror+"3"); !strings.Contains(out, "objects\t11\nwrong\t0\n") {
		t.Errorf("with the key: %q", out)
	}
	if out := hpcc(1, "copy", mirror+"3", mirror+"4"); !strings.Contains(out, "--raw") {
		t.Errorf("without the key: %q", out)
	}
	if out := hpcc(0, "copy", "--raw", mirror+"3", mirror+"4"); !strings.Contains(out, "copied\t11\n") {
		t.Errorf("as they are: %q", out)
	}
}

func TestCacheEvict(t *testing.T) {
	hpcc, dir, _ := library(t)
	files := results(t, dir)
	for i, file := range files {
		when := time.Now().Add(-time.Duration(i+2) * time.Hour)
		if err := os.Chtimes(file, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if out := hpcc(0, "evict", "near"); out != "removed\t0\t0\nleft\t11\t"+strings.Split(out, "\t")[4] {
		t.Errorf("%q", out)
	}
	// Half of it: the five that are oldest, at least.
	var r shared.SweepReport
	if err := json.Unmarshal([]byte(hpcc(0, "evict", "near", "--max-size", "8kB", "--json")), &r); err != nil {
		t.Fatal(err)
	}
	left := results(t, dir)
	if r.Removed == 0 || len(left) != len(files)-int(r.Removed) || r.Left() > 8000 {
		t.Errorf("%+v", r)
	}
	for i, file := range files {
		if got, want := slices.Contains(left, file), i < len(left); got != want {
			t.Errorf("%d hours old: there %v, want %v", i+2, got, want)
		}
	}
	hpcc(0, "evict", "near", "--older-than", "3h30m")
	if left := results(t, dir); len(left) != 2 {
		t.Errorf("%d are left", len(left))
	}
}

func TestCacheErrors(t *testing.T) {
	hpcc, dir, _ := library(t)
	for _, c := range []struct {
		want int
		args string
		text string
	}{
		{2, "ls", "tier is missing"},
		{2, "ls nearby", `hint: it has near, locked`},
		{2, "ls near --kind odd", "--kind"},
		{2, "ls near --limit -1", "--limit"},
		{2, "ls near --role king", "--role"},
		{2, "ls near --tenant A", "--tenant"},
		{2, "ls near --tenant a --all-tenants", "exclude"},
		{2, "ls ftp://host/x", "a place is"},
		{2, "ls s3://a", "a place is"},
		{1, "ls " + dir + "-none", "hint: see that the bucket or directory exists"},
		{1, "ls " + dir + " --encryption-key " + dir + "/none", "no such file"},
		{2, "verify near --strangers", "--repair"},
		{1, "verify near --trusted-keys " + dir + "/none", "trusted keys"},
		{1, "verify locked --repair", `access = "read-write"`},
		{1, "evict locked", `access = "read-write"`},
		{2, "evict " + dir, "--max-size"},
		{2, "evict near --older-than soon", "--older-than"},
		{2, "evict near --max-size big", "--max-size"},
		{1, "evict near --role worker", "settings"},
		{2, "copy near", "from, and to"},
		{2, "copy near near", "one place"},
		{2, "copy near " + dir, "one place"},
		{2, "copy near x --newer-than soon", "--newer-than"},
		{1, "copy near locked", "read-only"},
		{2, "keygen x --kms alias/a", "--encryption"},
		{2, "keygen x --encryption --public", "public half"},
		{1, "keygen --public " + dir + "/none", "a key is made"},
		{2, "keygen x --role king", "--role"},
		{2, "fetch", "unknown command"},
	} {
		if out := hpcc(c.want, strings.Fields(c.args)...); !strings.Contains(out, c.text) {
			t.Errorf("hpcc cache %s: %q", c.args, out)
		}
	}
}

func TestCacheCompletion(t *testing.T) {
	_, _, _ = library(t)
	for args, want := range map[string]string{
		"cache ls ":             "near\tfile://",
		"cache copy near ":      "locked\tfile://",
		"cache ls near --kind ": "manifest\n",
	} {
		a, stdout, _ := fixtureLike(t)
		if got := a.run(append([]string{"__complete"}, strings.Split(args, " ")...)); got != 0 || !strings.Contains(stdout.String(), want) {
			t.Errorf("%s: %d, %q", args, got, stdout)
		}
	}
}

func TestCacheKeygen(t *testing.T) {
	hpcc, _, _ := library(t)
	key := filepath.Join(t.TempDir(), "key")
	line := hpcc(0, "key", "--name", "bob", "--role", "worker", key)
	if again := hpcc(0, "keygen", "--public", "--role", "worker", key); again != line || !strings.HasPrefix(line, "worker bob ") {
		t.Errorf("%q, %q", line, again)
	}
	if out := hpcc(1, "keygen", "--name", "bob", key); !strings.Contains(out, "hint: ") {
		t.Errorf("%q", out)
	}
}

func TestProgressBar(t *testing.T) {
	a, _, stderr := fixture(t)
	a.stderrTerminal = true
	p := a.newProgress("verified")
	for _, done := range []int64{0, 50, 100, 150} {
		p.last = time.Time{}
		p.bar(done, 100, "text")
	}
	p.end()
	lines := strings.Split(stderr.String(), "\r")
	if len(lines) != 7 || !strings.HasPrefix(lines[2], "hpcc: verified [############            ] 50 %, text") || !strings.Contains(lines[4], "] 100 %") || strings.TrimSpace(lines[5]) != "" {
		t.Errorf("%q", lines)
	}
}
