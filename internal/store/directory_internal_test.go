//go:build unix

package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func root(t *testing.T) (*os.Root, string) {
	t.Helper()
	dir := t.TempDir()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, dir
}

// Where locks are worth nothing, as on some shares, Absent holds all the same.
func TestAbsentNeedsNoLock(t *testing.T) {
	r, dir := root(t)
	for _, name := range []string{"temp", "name"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Nobody had the name when it was looked for.
	if err := publish(r, "temp", "name", false, true); !errors.Is(err, ErrConflict) {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "name")); err != nil || string(b) != "name" {
		t.Errorf("%q, %v", b, err)
	}
	// Without a condition the later writer wins.
	if err := publish(r, "temp", "name", false, false); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "name")); err != nil || string(b) != "temp" {
		t.Errorf("%q, %v", b, err)
	}
}

// A version is another one, even if the clock stands still or goes back.
func TestStampIsAnother(t *testing.T) {
	r, dir := root(t)
	for _, name := range []string{"temp", "old"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("same size"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		// The old file's time is about to be now.
		soon := time.Now().Add(50 * time.Microsecond)
		if err := r.Chtimes("old", soon, soon); err != nil {
			t.Fatal(err)
		}
		old, err := r.Lstat("old")
		if err != nil {
			t.Fatal(err)
		}
		v, err := stamp(r, "temp", old)
		if err != nil || v == versionOf(old) {
			t.Fatalf("%v, %v", v, err)
		}
		if fi, err := r.Lstat("temp"); err != nil || versionOf(fi) != v {
			t.Fatalf("%v, %v", fi, err)
		}
	}
	// The same moment to the nanosecond.
	old, err := r.Lstat("temp")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := stampAt(r, "temp", old, old.ModTime()); err != nil || v == versionOf(old) {
		t.Errorf("%v, %v", v, err)
	}
}
