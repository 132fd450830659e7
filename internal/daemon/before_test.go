package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestWasAbsent looks at a directory before and after it changed, small, large,
// and too large to be read.
func TestWasAbsent(t *testing.T) {
	for _, c := range []struct {
		files  int
		absent bool // what is said of a name that was never there
	}{{3, true}, {6000, true}, {maxNames + 1, false}} {
		dir := t.TempDir()
		write := func(name string) {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for i := range c.files {
			write(fmt.Sprintf("f%d", i))
		}
		e := &Engine{files: newFileTable(), listings: newWeightedLRU[string, *listing](1 << 20)}
		start := e.files.moment()
		b := &before{start: &start, files: e.files, dirs: map[string]*listing{dir: e.list(dir)}}
		if err := os.Remove(filepath.Join(dir, "f1")); err != nil {
			t.Fatal(err)
		}
		write("out.o")
		if b.wasAbsent(filepath.Join(dir, "f1")) {
			t.Errorf("%d files: f1 was there", c.files)
		}
		if got := b.wasAbsent(filepath.Join(dir, "never")); got != c.absent {
			t.Errorf("%d files: never was absent: %v", c.files, got)
		}
		if b.wasAbsent(filepath.Join(dir, "gone", "x")) {
			t.Errorf("%d files: nobody knows of a directory that is gone", c.files)
		}
	}
}

// TestTurned tells a directory that was renamed from one in which files come
// and go all the time, as in /tmp.
func TestTurned(t *testing.T) {
	top := t.TempDir()
	busy := filepath.Join(top, "busy")
	if err := os.Mkdir(busy, 0o700); err != nil {
		t.Fatal(err)
	}
	e := &Engine{files: newFileTable()}
	start := e.files.moment()
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for i := range 3 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			name := filepath.Join(busy, fmt.Sprint("f", i))
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := os.WriteFile(name, nil, 0o600); err != nil {
					t.Error(err)
					return
				}
				os.Remove(name)
			}
		}()
	}
	b := &before{start: &start, files: e.files}
	for range 20000 {
		if at := b.turned(place{cwd: "/"}, []string{filepath.Join(busy, "x.h")}); at != "" {
			t.Errorf("%s counts as renamed", at)
			break
		}
	}
	close(stop)
	writers.Wait()
	time.Sleep(2 * time.Duration(tick)) // or the last file and the renaming share a tick
	moved := filepath.Join(top, "moved")
	if err := os.Rename(busy, moved); err != nil {
		t.Fatal(err)
	}
	if at := b.turned(place{cwd: "/"}, []string{filepath.Join(moved, "x.h")}); at != moved {
		t.Errorf("a directory that was renamed does not count: %q", at)
	}
}
