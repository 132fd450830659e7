//go:build linux

package fault

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// damages are ways in which a file comes to hold what it should not.
var damages = []struct {
	name string
	do   func(b []byte) []byte
}{
	{"flipped bit", func(b []byte) []byte { b[len(b)/2] ^= 4; return b }},
	{"first byte", func(b []byte) []byte { b[0] ^= 0xff; return b }},
	{"header byte", func(b []byte) []byte { b[min(7, len(b)-1)] ^= 1; return b }},
	{"last byte", func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
	{"truncated", func(b []byte) []byte { return b[:len(b)-1] }},
	{"half", func(b []byte) []byte { return b[:len(b)/2] }},
	{"empty", func([]byte) []byte { return nil }},
	{"longer", func(b []byte) []byte { return append(b, 0) }},
	{"twice", func(b []byte) []byte { return append(b, b...) }},
	{"zeros", func(b []byte) []byte { return make([]byte, len(b)) }},
	{"zeros inside", func(b []byte) []byte { clear(b[len(b)/3 : len(b)/2+1]); return b }},
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// tamper does something to all of some files.
type tamper struct {
	name string
	do   func(t *testing.T, files []string)
}

func tampers() []tamper {
	all := []tamper{
		{"each damaged in another way", func(t *testing.T, files []string) {
			for i, path := range files {
				write(t, path, damages[i%len(damages)].do(read(t, path)))
			}
		}},
		{"each in the next one's place", func(t *testing.T, files []string) {
			last := read(t, files[len(files)-1])
			for i := len(files) - 1; i > 0; i-- {
				write(t, files[i], read(t, files[i-1]))
			}
			write(t, files[0], last)
		}},
		{"each in another one's place, of another kind too", func(t *testing.T, files []string) {
			contents := make([][]byte, len(files))
			for i, path := range files {
				contents[i] = read(t, path)
			}
			for i, path := range files {
				write(t, path, contents[(i+len(files)/2)%len(files)])
			}
		}},
		{"all the same", func(t *testing.T, files []string) {
			first := read(t, files[0])
			for _, path := range files[1:] {
				write(t, path, first)
			}
		}},
		{"directories", func(t *testing.T, files []string) {
			for _, path := range files {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
			}
		}},
	}
	if times(0, 1) == 1 {
		for _, d := range damages {
			all = append(all, tamper{d.name, func(t *testing.T, files []string) {
				for _, path := range files {
					write(t, path, d.do(read(t, path)))
				}
			}})
		}
	}
	return all
}

// TestDamagedCache tampers with a full cache. The next build is right, mends
// what it meets, and in the end all hits again.
func TestDamagedCache(t *testing.T) {
	p := newProject(t, t.TempDir(), 7, 4)
	good := newWorld(t)
	p.build(good, "cold", 0, "-j4")
	good.fsck()
	n := 0
	for i, tamper := range tampers() {
		kinds := []string{"cas ac manifest memo"}
		if i == 0 || times(0, 1) == 1 {
			kinds = append(kinds, "cas", "ac", "manifest", "memo")
		}
		for _, kind := range kinds {
			n++
			for _, daemon := range modes(n) {
				what := fmt.Sprintf("%s, %s, daemon %v", kind, tamper.name, daemon)
				w := newWorld(t)
				run(t, "cp", "-a", good.cache, w.cache)
				var files []string
				for dir := range strings.FieldsSeq(kind) {
					some := w.files(dir)
					if len(some) < p.units {
						t.Fatalf("%d files in %s", len(some), dir)
					}
					files = append(files, some...)
				}
				tamper.do(t, files)
				if daemon {
					w.start()
				}
				w.count()
				p.build(w, what, 0, "-j4")
				// A blob that is damaged under a good entry is seen when it is
				// read, so that two builds may be needed until all hit.
				p.build(w, what+", again", 0, "-j4")
				if c := w.count(); c.Hits+c.Misses != 2*p.units || c.Errors > 0 {
					t.Errorf("%s: %+v", what, c)
				}
				p.build(w, what+", at last", 0, "-j4")
				if c := w.count(); c.Hits != p.units {
					t.Errorf("%s: in the end %+v, want %d hits", what, c, p.units)
				}
				w.stop()
				w.repair()
				w.fsck()
			}
		}
	}
}

// TestDamagedPlumbing puts nonsense where the cache keeps what is not a result:
// a build is right all the same.
func TestDamagedPlumbing(t *testing.T) {
	inPlace := func(path string, change func(path string) error) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if err := change(filepath.Join(dir, path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	text := func(s string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(s), 0o600) }
	}
	directory := func(path string) error {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		return os.MkdirAll(path+"/x", 0o700)
	}
	file := func(path string) error {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		return os.WriteFile(path, nil, 0o600)
	}
	loop := func(path string) error {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		return os.Symlink(path, path)
	}
	p := newProject(t, t.TempDir(), 3, 0)
	good := newWorld(t)
	p.build(good, "cold", 0, "-j2")
	for i, tt := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		// lame is set where nothing can be cached until somebody mends it.
		lame bool
	}{
		{name: "usage is nonsense", damage: inPlace("usage", text("nonsense"))},
		{name: "usage is empty", damage: inPlace("usage", text(""))},
		{name: "usage is huge", damage: inPlace("usage", text("9223372036854775807 9223372036854775807\n"))},
		{name: "usage is a directory", damage: inPlace("usage", directory)},
		{name: "the version is empty", damage: inPlace("VERSION", text(""))},
		{name: "the version is gone", damage: inPlace("VERSION", os.Remove)},
		{name: "the version is another", damage: inPlace("VERSION", text("hpcc cache 999\n")), lame: true},
		{name: "the version is a directory", damage: inPlace("VERSION", directory), lame: true},
		{name: "the counters are nonsense", damage: inPlace("stats.json", text("{{"))},
		{name: "the counters are a directory", damage: inPlace("stats.json", directory)},
		{name: "the counters' lock is a directory", damage: inPlace("stats.json.lock", directory)},
		{name: "the locks are gone", damage: inPlace("lock", os.RemoveAll)},
		{name: "the locks are a file", damage: inPlace("lock", file)},
		{name: "a lock is a directory", damage: func(t *testing.T, dir string) {
			for i := range 256 {
				inPlace(fmt.Sprintf("lock/manifest-%02x", i), directory)(t, dir)
			}
		}},
		{name: "tmp is gone", damage: inPlace("tmp", os.RemoveAll)},
		{name: "tmp is a file", damage: inPlace("tmp", file)},
		{name: "tmp is a loop", damage: inPlace("tmp", loop)},
		{name: "the store is a file", damage: inPlace("cas", file)},
		{name: "the results are a loop", damage: inPlace("ac", loop)},
		{name: "all is gone", damage: inPlace("", os.RemoveAll)},
		{name: "all is a file", damage: inPlace("", file), lame: true},
	} {
		for _, daemon := range modes(i) {
			w := newWorld(t)
			run(t, "cp", "-a", good.cache, w.cache)
			tt.damage(t, w.cache)
			if daemon && !tt.lame { // where hpcc start says so and ends
				w.start()
			}
			what := fmt.Sprintf("%s, daemon %v", tt.name, daemon)
			p.build(w, what, 0, "-j2")
			p.build(w, what, 1, "-j2")
			w.stop()
		}
	}
}

// TestCrossedNames gives a result another key's name and the other way round,
// among results of units that differ in one macro only.
func TestCrossedNames(t *testing.T) {
	p := newProject(t, t.TempDir(), 2, 0)
	w := newWorld(t)
	for round := range 4 {
		p.build(w, "cold", round, "-j2")
	}
	files := w.files("ac")
	for shift := 1; shift < times(3, len(files)); shift++ {
		contents := make([][]byte, len(files))
		for i, path := range files {
			contents[i] = read(t, path)
		}
		for i, path := range files {
			write(t, path, contents[(i+shift)%len(files)])
		}
		for round := range 4 {
			p.build(w, "crossed", round, "-j2")
		}
		if again := w.files("ac"); !slices.Equal(again, files) {
			t.Fatalf("%d results, before %d", len(again), len(files))
		}
		w.fsck()
	}
}
