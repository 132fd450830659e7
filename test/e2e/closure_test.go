//go:build e2e && linux

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/test/scratch"
)

// checkout is the files of a tree, with what an earlier look at them told, if it
// is to be kept.
type checkout struct {
	compiler.OSCheckout
	scans   map[string]*compiler.FileScan
	entries map[string]map[string]compiler.PathKind
	text    []byte // of one file after the other, as in the daemon
}

func newCheckout() *checkout {
	c := &checkout{scans: map[string]*compiler.FileScan{}, entries: map[string]map[string]compiler.PathKind{}}
	c.ScanFile = func(path string) (*compiler.FileScan, error) {
		if s := c.scans[path]; s != nil {
			return s, nil
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return nil, err
		}
		c.text = slices.Grow(c.text[:0], int(st.Size))[:st.Size]
		if n, err := unix.Read(fd, c.text); err != nil || n != len(c.text) {
			return nil, fmt.Errorf("%s: read %d of %d bytes: %w", path, n, len(c.text), err)
		}
		c.scans[path] = compiler.Scan(c.text)
		return c.scans[path], nil
	}
	c.Entries = func(dir string) (map[string]compiler.PathKind, bool) {
		if c.entries[dir] == nil {
			entries, complete := compiler.ReadEntries(dir)
			if !complete {
				return nil, false
			}
			c.entries[dir] = entries
		}
		return c.entries[dir], true
	}
	return c
}

// guesses sums up what FindClosure makes of many compiles.
type guesses struct {
	units, gone, refused int
	read, sent           int
	missed               []string
	preprocessor         time.Duration
	cold, memo, checked  time.Duration
}

// guess compares the closure of one compile in the checkout root with what the
// compiler lists.
func (g *guesses) guess(t *testing.T, root string, c call, memo *checkout) (*compiler.Invocation, *compiler.Closure) {
	t.Helper()
	inv, err := compiler.Parse(compiler.Command{
		Compiler: "/usr/bin/" + filepath.Base(c.Args[0]), Args: c.Args, Cwd: c.Dir, ReadFile: os.ReadFile,
	})
	var refused *compiler.NotCacheable
	if errors.As(err, &refused) {
		g.refused++ // whether that is right, others judge
		return nil, nil
	} else if err != nil {
		t.Fatalf("%q: %v", c.Args, err)
	}
	source := inv.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(c.Dir, source)
	}
	if _, err := os.Stat(source); err != nil || source == os.DevNull || inv.Language == "assembler" {
		g.gone++ // a probe's source, which the build removed
		return nil, nil
	}
	find := func(files compiler.Checkout) (*compiler.Closure, time.Duration) {
		start := time.Now()
		c, err := compiler.FindClosure(compiler.ClosureRequest{Invocation: inv, Cwd: c.Dir, Roots: []string{root}, Files: files})
		took := time.Since(start)
		if err != nil {
			t.Fatalf("%q: %v", inv.Args, err)
		}
		return c, took
	}
	closure, cold := find(newCheckout())
	find(memo)
	_, again := find(memo)
	stat := &compiler.OSCheckout{
		ScanFile: func(path string) (*compiler.FileScan, error) { os.Stat(path); return memo.Scan(path) },
		Entries:  func(dir string) (map[string]compiler.PathKind, bool) { os.Stat(dir); return memo.Entries(dir) },
	}
	_, checked := find(stat)

	list := filepath.Join(t.TempDir(), "list")
	cmd := exec.Command(c.Args[0], inv.AllDepsArgs(list)...)
	cmd.Dir = c.Dir
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", cmd.Args, err, tail(out))
	}
	g.preprocessor += time.Since(start)
	g.cold, g.memo, g.checked = g.cold+cold, g.memo+again, g.checked+checked
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	_, deps, err := compiler.ParseDepFile(text)
	if err != nil {
		t.Fatal(err)
	}
	guessed := map[string]bool{}
	for _, f := range closure.Files {
		guessed[f] = true
	}
	read := map[string]bool{}
	for _, d := range deps {
		if !filepath.IsAbs(d) {
			d = filepath.Join(c.Dir, d)
		}
		d, err := filepath.EvalSymlinks(d)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(d, root+"/") && !read[d] {
			read[d] = true
			if !guessed[d] {
				g.missed = append(g.missed, strings.TrimPrefix(d, root+"/")+" of "+inv.Source)
			}
		}
	}
	if len(closure.Outside)+len(closure.Rooted) > 0 {
		t.Errorf("%s: outside %q, rooted %q", inv.Source, closure.Outside, closure.Rooted)
	}
	g.units++
	g.read += len(read)
	g.sent += len(closure.Files)
	return inv, closure
}

// report prints the figures, and fails where more files than allowed are missed
// or far more guessed than read.
func (g *guesses) report(t *testing.T, missed int) {
	t.Helper()
	if g.units == 0 {
		t.Fatal("no unit was looked at")
	}
	ratio := func(d time.Duration) float64 { return float64(d) / float64(g.preprocessor) }
	if g.refused > g.units {
		t.Errorf("%d commands were refused, and %d not", g.refused, g.units)
	}
	t.Logf("%d units (%d sources are gone, %d commands refused): %d files read, %d guessed (%.2f), %d missed; of the preprocessor's %.1f ms a unit: cold %.3f, memoised %.4f, with a stat each %.4f",
		g.units, g.gone, g.refused, g.read, g.sent, float64(g.sent)/float64(g.read), len(g.missed),
		g.preprocessor.Seconds()*1000/float64(g.units), ratio(g.cold), ratio(g.memo), ratio(g.checked))
	for _, m := range g.missed {
		t.Logf("missed: %s", m)
	}
	if len(g.missed) > missed {
		t.Errorf("%d files missed, more than %d", len(g.missed), missed)
	}
	if g.sent > 2*g.read+10*g.units {
		t.Errorf("%d files guessed, and %d read", g.sent, g.read)
	}
}

// testClosures holds the guess of what each compile reads of the tree against the
// compiler's own list, and for some of them leaves out what was guessed, file by
// file.
func testClosures(t *testing.T, tr *tree, calls []call) {
	root, err := filepath.EvalSymlinks(tr.dir)
	if err != nil {
		t.Fatal(err)
	}
	var g guesses
	memo := newCheckout()
	dropped := 0
	// In an order that is the same for each build: what is chosen by number is, too.
	all := cacheableOf(calls)
	slices.SortStableFunc(all, func(a, b call) int {
		return strings.Compare(callKey(a.tree, a.Dir, a.Args), callKey(b.tree, b.Dir, b.Args))
	})
	for i, c := range all {
		if tr.source == "linux" && !soak() && i%3 > 0 {
			continue // they read much the same
		}
		inv, closure := g.guess(t, root, c, memo)
		if every := dropEvery(tr.source); inv != nil && i%every == every/2 {
			dropped++
			testDropped(t, root, c, closure)
		}
	}
	g.report(t, 0)
	t.Logf("%d units with each file left out in turn", dropped)
}

// dropEvery says of how many units one is compiled with each of its files left
// out; the kernel's have hundreds.
func dropEvery(source string) int {
	switch {
	case source == "linux":
		return 1 << 30
	case soak():
		return 3
	}
	return 60
}

// testDropped compiles a unit in a stand-in for a machine, without each of the
// files that were guessed in turn: what the record of look-ups leads to must be
// the object of the whole guess.
func testDropped(t *testing.T, root string, c call, closure *compiler.Closure) {
	t.Helper()
	dir := t.TempDir()
	there, out := filepath.Join(dir, "src"), filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	// Not optimised: it is about what is read.
	argv := append(slices.Clone(c.Args), "-O0")
	inv, err := compiler.Parse(compiler.Command{Compiler: "/usr/bin/" + filepath.Base(c.Args[0]), Args: argv, Cwd: c.Dir, ReadFile: os.ReadFile})
	if err != nil {
		t.Fatal(err)
	}
	r, err := inv.RemoteArgs(compiler.RemoteOptions{
		Compiler: c.Args[0], Cwd: c.Dir, Out: out, Paths: &compiler.PathMap{Roots: []compiler.Root{{Dir: root, Neutral: there}}},
	})
	if err != nil {
		t.Fatalf("%q: %v", c.Args, err)
	}
	m := scratch.Machine{Dir: there, Cwd: r.Cwd, Argv: r.Argv, Object: r.Outputs[0].Path, Trace: filepath.Join(dir, "trace")}
	links := make([]string, len(closure.Links))
	for i, l := range closure.Links {
		links[i] = l.Path
	}
	sent, err := scratch.Of(root, closure.Files, closure.Dirs, links)
	if err != nil {
		t.Fatal(err)
	}
	want, rounds, err := m.Compile(root, maps.Clone(sent))
	if err != nil || len(want) == 0 {
		t.Fatalf("%q: no object: %v", c.Args, err)
	}
	if rounds > 1 {
		t.Errorf("%s: the guess lacked something", inv.Source)
	}
	for name := range sent {
		less := maps.Clone(sent)
		delete(less, name)
		got, _, err := m.Compile(root, less)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: another object where %s was left out first", inv.Source, name)
		}
	}
}

// TestClosureOfBoost has Boost's headers below the root, as if they were the
// project's own. They put names of headers together by macros.
func TestClosureOfBoost(t *testing.T) {
	out, err := exec.Command("../../scripts/fetch-package", "libboost1.74-dev").CombinedOutput()
	if err != nil {
		t.Fatalf("fetch-package: %v\n%s", err, out)
	}
	root := realTemp(t)
	copyTree(t, filepath.Join(strings.TrimSpace(string(out)), "usr/include/boost"), filepath.Join(root, "boost"))
	var g guesses
	memo := newCheckout()
	for i, headers := range [][]string{
		{"lexical_cast.hpp", "algorithm/string.hpp", "filesystem.hpp", "format.hpp", "regex.hpp"},
		{"preprocessor.hpp", "mpl/vector.hpp", "mpl/list.hpp", "fusion/include/vector.hpp", "function.hpp"},
		{"asio.hpp", "variant.hpp", "multi_index_container.hpp", "multi_index/hashed_index.hpp", "multi_index/member.hpp",
			"spirit/include/qi.hpp", "program_options.hpp", "bind/bind.hpp", "optional.hpp", "graph/adjacency_list.hpp"},
	} {
		c := unit(t, root, fmt.Sprintf("u%d.cc", i), "boost/", headers, "g++", "-std=c++17", "-I.")
		inv, closure := g.guess(t, root, c, memo)
		if i == 0 {
			testBoost(t, root, c, inv, closure)
		}
	}
	// function_types counts by its own inclusions in the names that it joins.
	g.report(t, 4)
}

// testBoost compiles a unit in a stand-in for a machine, without some of what was
// guessed.
func testBoost(t *testing.T, root string, c call, inv *compiler.Invocation, closure *compiler.Closure) {
	t.Helper()
	less := *closure
	less.Files = nil
	for i, f := range closure.Files {
		if i%400 != 7 { // a compile stops at the first that is missing
			less.Files = append(less.Files, f)
		}
	}
	dir := t.TempDir()
	there, out := filepath.Join(dir, "src"), filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := inv.RemoteArgs(compiler.RemoteOptions{
		Compiler: c.Args[0], Cwd: c.Dir, Out: out, Paths: &compiler.PathMap{Roots: []compiler.Root{{Dir: root, Neutral: there}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := scratch.Machine{Dir: there, Cwd: r.Cwd, Argv: r.Argv, Object: r.Outputs[0].Path, Trace: filepath.Join(dir, "trace")}
	var objects [][]byte
	for _, c := range []*compiler.Closure{closure, &less} {
		sent, err := scratch.Of(root, c.Files, c.Dirs)
		if err != nil {
			t.Fatal(err)
		}
		object, rounds, err := m.Compile(root, sent)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d of %d files sent, %d rounds", len(c.Files), len(closure.Files), rounds)
		objects = append(objects, object)
	}
	if len(objects[0]) == 0 || !bytes.Equal(objects[0], objects[1]) {
		t.Error("the objects differ")
	}
}

// TestClosureOfLibstdcxx has the C++ library's own headers below the root.
func TestClosureOfLibstdcxx(t *testing.T) {
	root := realTemp(t)
	copyTree(t, "/usr/include/c++/12", filepath.Join(root, "inc/cxx"))
	copyTree(t, "/usr/include/x86_64-linux-gnu/c++/12", filepath.Join(root, "inc/arch"))
	args := []string{"g++", "-std=c++20", "-nostdinc++", "-isystem", "inc/cxx", "-isystem", "inc/arch", "-isystem", "inc/cxx/backward"}
	var g guesses
	memo := newCheckout()
	for i, headers := range [][]string{
		{"vector", "string"},
		{"algorithm", "chrono", "filesystem", "functional", "future", "iostream", "map", "memory", "random", "ranges", "regex", "thread", "unordered_map"},
		{"bits/stdc++.h"},
	} {
		g.guess(t, root, unit(t, root, fmt.Sprintf("u%d.cc", i), "", headers, args...), memo)
	}
	g.report(t, 0)
}

// unit writes a source that includes headers, and is the call that compiles it.
func unit(t *testing.T, root, name, prefix string, headers []string, args ...string) call {
	t.Helper()
	var text strings.Builder
	for _, h := range headers {
		fmt.Fprintf(&text, "#include <%s%s>\n", prefix, h)
	}
	text.WriteString("int main() { return 0; }\n")
	if err := os.WriteFile(filepath.Join(root, name), []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return call{Dir: root, Args: append(slices.Clone(args), "-c", name, "-o", name+".o")}
}

func realTemp(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// copyTree copies a directory, with the files that links in it lead to.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, ".", "cp", "-rL", from, to)
}
