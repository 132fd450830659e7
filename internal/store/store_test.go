//go:build unix

package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/leaktest"
	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/store/storetest"
)

func TestMain(m *testing.M) {
	if job := os.Getenv("STORE_TEST_CHILD"); job != "" {
		if err := child(job, os.Getenv("STORE_TEST_DIR")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(leaktest.Run(m))
}

func directory(t *testing.T, dir string, opt store.DirectoryOptions) *store.Directory {
	t.Helper()
	d, err := store.OpenDirectory(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestMemory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return store.NewMemory(0) }, storetest.Features{Listed: 500})
}

func TestDirectory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		return directory(t, filepath.Join(t.TempDir(), "store"), store.DirectoryOptions{Create: true})
	}, storetest.Features{Listed: 500})
}

// Two openings share no memory, as two processes.
func TestDirectoryOfTwo(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		dir := t.TempDir()
		return &pair{Directory: directory(t, dir, store.DirectoryOptions{}), other: directory(t, dir, store.DirectoryOptions{})}
	}, storetest.Features{})
}

func TestGuarded(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		g := store.Guard(store.NewMemory(0), store.GuardOptions{Read: time.Minute, Write: time.Minute, List: time.Minute})
		t.Cleanup(func() { g.Close() })
		return g
	}, storetest.Features{})
}
