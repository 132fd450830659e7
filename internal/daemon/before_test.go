package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
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
