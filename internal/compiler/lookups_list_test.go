package compiler

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadEntries holds the listing of directories against os.ReadDir's.
func TestReadEntries(t *testing.T) {
	if caseFolding {
		t.Skip("nothing is told from a listing here")
	}
	dir := t.TempDir()
	for _, name := range []string{"file", "Upper.h", "upper.h", "Ünï", strings.Repeat("long", 63), ".hidden", "...", "sp ace"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "Dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	empty, many := t.TempDir(), t.TempDir()
	for i := range maxListed - 1 {
		if err := os.WriteFile(filepath.Join(many, fmt.Sprintf("%0100d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{dir, empty, many, "/usr/include", "/etc", "/dev", "/proc/self"} {
		list, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		want := map[string]PathKind{}
		for _, e := range list {
			if lower := strings.ToLower(e.Name()); lower != e.Name() {
				want[lower] = Unlisted
			}
		}
		for _, e := range list {
			switch {
			case e.Type().IsRegular():
				want[e.Name()] = Regular
			case e.IsDir():
				want[e.Name()] = Directory
			default:
				want[e.Name()] = Unlisted
			}
		}
		got, complete := ReadEntries(dir)
		if !maps.Equal(got, want) || !complete {
			t.Errorf("%s: %d entries (complete: %v), want %d", dir, len(got), complete, len(want))
		}
	}
	if err := os.WriteFile(filepath.Join(many, "one more"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, complete := ReadEntries(many); complete || len(got) < maxListed {
		t.Errorf("%d of too many entries, complete: %v", len(got), complete)
	}
	for _, dir := range []string{filepath.Join(dir, "file"), filepath.Join(dir, "missing")} {
		if got, complete := ReadEntries(dir); complete || len(got) > 0 {
			t.Errorf("%s has %v", dir, got)
		}
	}
}
