//go:build unix

package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/store"
)

// fifo makes one, which hangs whoever opens it to read until the test ends.
func fifo(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o666); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Whoever still waits goes on.
		if f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			f.Close()
		}
	})
}

// within fails the test if f does not return.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal(what + " hangs")
	}
}

// A share whose server is away hangs whoever looks at it. Nobody but the call that
// does waits for that, and not for longer than its context lasts.
func TestDirectoryHangs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "share")
	fifo(t, dir)
	d := directory(t, dir, store.DirectoryOptions{})
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := d.Get(ctx, "name", 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v; want the time-out", err)
		}
		cancel()
	}
	within(t, "Close", func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := d.Get(t.Context(), "name", 1); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%v; want it closed", err)
	}
}

// Whoever may write to a directory may put a FIFO where another file should be.
func TestDirectoryOfFIFOs(t *testing.T) {
	dir := t.TempDir()
	fifo(t, filepath.Join(dir, ".tmp"))
	fifo(t, filepath.Join(dir, "tenant"))
	if err := os.MkdirAll(filepath.Join(dir, ".lock"), 0o777); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "object"), "body")
	d := directory(t, dir, store.DirectoryOptions{})
	within(t, "a call", func() {
		if o, err := d.Get(t.Context(), "object", 10); err != nil || string(o.Body) != "body" {
			t.Errorf("%q, %v", o.Body, err)
		}
		if _, err := d.Put(t.Context(), "other", []byte("body"), store.Condition{}); err == nil {
			t.Error("put without a place for temporary files")
		}
		if err := d.List(t.Context(), "tenant/", func(i store.Info) error {
			t.Error(i)
			return nil
		}); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}
