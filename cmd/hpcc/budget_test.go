package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// maxSize bounds the program, in bytes: 2.0 MiB were measured on amd64, and a
// quarter more is left for other architectures and releases of Go.
const maxSize = 2_500_000

// heavy are packages that cost the wrapper's start more than they are worth.
var heavy = map[string]string{
	"net":                        "package ipc dials with plain system calls",
	"net/http":                   "hpccd is the program that serves",
	"encoding/json":              "package ipc reads daemon.json by hand",
	"os/exec":                    "package wrapper forks by package syscall",
	"flag":                       "hpccd has the command line",
	"regexp":                     "compile no patterns at each start",
	"log/slog":                   "the wrapper says one line on stderr",
	"crypto/sha256":              "the daemon hashes",
	"google.golang.org/protobuf": "the messages are generated without reflection",
}

// TestDependencies holds all that is linked into hpcc against testdata/deps.txt,
// which a reviewer reads in one go. Do not regenerate it to mend a build: each
// line is paid for at each compile.
func TestDependencies(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the list is Linux's")
	}
	cmd := exec.Command("go", "list", "-deps", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got := slices.DeleteFunc(strings.Fields(string(out)), func(pkg string) bool {
		// What the standard library keeps to itself changes with each release.
		first, _, _ := strings.Cut(pkg, "/")
		return first == "internal" || strings.Contains(pkg, "/internal/") && !strings.Contains(first, ".")
	})
	slices.Sort(got)
	for _, pkg := range got {
		if why, bad := heavy[pkg]; bad {
			t.Errorf("hpcc links %s: %s", pkg, why)
		}
	}
	const file = "testdata/deps.txt"
	if os.Getenv("UPDATE_DEPS") != "" {
		if err := os.WriteFile(file, []byte(strings.Join(got, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(string(b))
	for _, pkg := range got {
		if !slices.Contains(want, pkg) {
			t.Errorf("hpcc now links %s; do without it, or measure its start (bench/run start) and add it to %s", pkg, file)
		}
	}
	for _, pkg := range want {
		if !slices.Contains(got, pkg) {
			t.Errorf("hpcc no longer links %s: take it off %s", pkg, file)
		}
	}
}

// build builds a package as it is released.
func build(t testing.TB, pkg string) string {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "hpcc")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", exe, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return exe
}

func TestSize(t *testing.T) {
	info, err := os.Stat(build(t, "."))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxSize {
		t.Errorf("hpcc has %d bytes, more than %d: see what came in with go version -m and TestDependencies; raise the bound only with a measured start time", info.Size(), maxSize)
	}
}
