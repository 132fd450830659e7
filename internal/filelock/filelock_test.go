package filelock_test

import (
	"os"
	"path/filepath"
	"testing"

	"hpcc.dev/hpcc/internal/filelock"
)

func TestTry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	try := func(what string, lock func(*os.File) (bool, error), f *os.File, want bool) {
		t.Helper()
		if got, err := lock(f); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", what, got, err, want)
		}
	}
	a, b, c := open(), open(), open()
	try("the first alone", filelock.Try, a, true)
	try("the second alone", filelock.Try, b, false)
	try("the second beside it", filelock.TryShared, b, false)
	a.Close()
	try("one beside others", filelock.TryShared, b, true)
	try("another beside others", filelock.TryShared, c, true)
	d := open()
	try("alone while others are there", filelock.Try, d, false)
	b.Close()
	c.Close()
	try("alone after all", filelock.Try, d, true)
	d.Close()
	if _, err := filelock.Try(d); err == nil {
		t.Error("a closed file is locked")
	}
}
