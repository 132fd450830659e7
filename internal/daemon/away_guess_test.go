package daemon

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
)

// manyNames makes a project of some directories, and returns a guess for it and
// names that a machine may look for there.
func manyNames(t testing.TB, dirs, headers int) (fresh func() *guess, names []string) {
	t.Helper()
	root := t.TempDir()
	for d := range dirs {
		dir := fmt.Sprintf("%s/deps/d%d/include", root, d)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for h := range headers {
			names = append(names, fmt.Sprintf("%s/h%d.h", dir, h), fmt.Sprintf("%s/deps/none%d/x/h%d.h", root, d, h))
		}
	}
	for name, text := range map[string]string{"deps/d0/include/h1.h": "a", "deps/d1/include/h1.h": "b", "deps/d1/include/sub/h2.h": "c"} {
		if err := os.MkdirAll(filepath.Dir(root+"/"+name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"deps/link": "d1", "deps/d0/include/dangling.h": "none.h", "deps/d0/link": "../d1/include"} {
		if err := os.Symlink(target, root+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{
		"deps", "deps/d0/include", "deps/link/include/h1.h", "deps/link/include/none.h", "deps/link/include/sub/h2.h", "deps/d1/include/h1.h/x",
		"deps/d1/include/h1.h/y", "deps/d0/link/h1.h", "deps/d0/link/sub/none.h", "deps/d0/include/dangling.h", "deps/d1/include/sub/h2.h", "deps/d1/include/sub/none/x/y.h",
	} {
		names = append(names, root+"/"+name)
	}
	paths := outermost(&compiler.PathMap{Roots: []compiler.Root{{Dir: root}}})
	j := &job{e: awayEngine(t, nil, nil), prep: &prepared{place: place{cwd: root, paths: paths, machine: paths.Machine()}}}
	return func() *guess {
		return &guess{j: j, tree: action.Tree{}, at: map[digest.Digest]string{}, dirs: map[string]bool{}}
	}, names
}

// What a guess remembers of directories changes nothing: each name adds what it
// would have added alone, in whatever order.
func TestGuessOfManyNames(t *testing.T) {
	fresh, names := manyNames(t, 3, 4)
	want := action.Tree{}
	for _, name := range names {
		alone := fresh()
		if err := alone.add(name, 0); err != nil {
			t.Fatal(err)
		}
		maps.Copy(want, alone.tree)
	}
	if len(want) != 8 {
		t.Errorf("%d names are there: %v", len(want), want)
	}
	for turn := range len(names) {
		all := fresh()
		for i := range names {
			if err := all.add(names[(i*7+turn)%len(names)], 0); err != nil {
				t.Fatal(err)
			}
		}
		if !maps.Equal(all.tree, want) {
			t.Fatalf("turn %d: %v\nwant %v", turn, all.tree, want)
		}
	}
}

// BenchmarkConfirm is what a compile of 100 headers along 6 directories looks for
// in vain.
func BenchmarkConfirm(b *testing.B) {
	fresh, names := manyNames(b, 6, 48)
	for b.Loop() {
		g := fresh()
		for _, name := range names {
			if err := g.add(name, 0); err != nil {
				b.Fatal(err)
			}
		}
	}
}
