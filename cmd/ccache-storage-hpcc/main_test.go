//go:build unix

package main

import (
	"bytes"
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/store"
)

// started runs the program as ccache starts it, until its end.
func started(t *testing.T, set map[string]string) (*running, context.CancelFunc) {
	t.Helper()
	dir, err := os.MkdirTemp("", "crsh")
	if err != nil {
		t.Fatal(err)
	}
	r := &running{filepath.Join(dir, "s"), make(chan error, 1)}
	set["CRSH_IPC_ENDPOINT"], set["CRSH_IDLE_TIMEOUT"] = r.path, "0"
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(r.ended)
		r.ended <- run(ctx, env(set))
	}()
	t.Cleanup(func() {
		cancel()
		for range r.ended {
		}
		os.RemoveAll(dir)
	})
	// As ccache does.
	for {
		if c, err := net.Dial("unix", r.path); err == nil {
			c.Close()
			return r, cancel
		}
		select {
		case err := <-r.ended:
			t.Fatalf("it has ended: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestRun(t *testing.T) {
	share, keyFile := filepath.Join(t.TempDir(), "share"), filepath.Join(t.TempDir(), "key")
	if err := store.CreateKey(keyFile); err != nil {
		t.Fatal(err)
	}
	set := map[string]string{
		"CRSH_URL": "hpcc://" + share, "CRSH_NUM_ATTR": "2",
		"CRSH_ATTR_KEY_0": "auto-create", "CRSH_ATTR_VALUE_0": "true",
		"CRSH_ATTR_KEY_1": "encryption-key-file", "CRSH_ATTR_VALUE_1": keyFile,
	}
	value := []byte(strings.Repeat("an entry of ccache's ", 10))
	r, end := started(t, set)
	if got := r.dial(t).ask(request{kind: put, key: key, value: value, overwrite: true}); got != "done" {
		t.Fatal(got)
	}
	end()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	r, _ = started(t, set)
	if got := r.dial(t).ask(request{kind: get, key: key}); got != string(value) {
		t.Errorf("%q came back", got)
	}
	files := 0
	err := filepath.WalkDir(share, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		if bytes.Contains(b, value[:20]) {
			t.Errorf("%s can be read by anybody", path)
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files: %v", files, err)
	}
}

// What is wrong is told to each client, since ccache would start a program that
// ended again and again.
func TestRunWithWrongSettings(t *testing.T) {
	for want, set := range map[string]map[string]string{
		"must be hpcc://":       {"CRSH_URL": "hpcc://"},
		"did you mean profile?": {"CRSH_URL": "hpcc://bucket", "CRSH_NUM_ATTR": "1", "CRSH_ATTR_KEY_0": "profil"},
		"no such file":          {"CRSH_URL": "hpcc://bucket", "CRSH_NUM_ATTR": "1", "CRSH_ATTR_KEY_0": "encryption-key-file", "CRSH_ATTR_VALUE_0": "/nowhere"},
	} {
		r, _ := started(t, set)
		if got := r.dial(t).ask(request{kind: get, key: key}); !strings.HasPrefix(got, "failed: ") || !strings.Contains(got, want) {
			t.Errorf("%v: %q, want %q", set, got, want)
		}
	}
	if err := run(t.Context(), env(nil)); err == nil {
		t.Error("it runs without ccache")
	}
}
