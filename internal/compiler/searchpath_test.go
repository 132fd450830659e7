package compiler

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// searchCase is a set of include options, as a command line has them and as
// Parse would.
type searchCase struct {
	name     string
	language string
	probe    []string
	includes Includes
	env      []string
}

func (c *searchCase) args() []string {
	var args []string
	add := func(option string, dirs []string) {
		for _, dir := range dirs {
			args = append(args, option, dir)
		}
	}
	add("-iquote", c.includes.Quote)
	add("-I", c.includes.Angle)
	add("-isystem", c.includes.System)
	add("-idirafter", c.includes.After)
	return append(args, c.probe...)
}

// TestSearchPathIsWhatTheCompilerPrints runs each compiler with all options at
// once and compares what it searches with the chain.
func TestSearchPathIsWhatTheCompilerPrints(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"a", "b", "q", "sys", "after", "root/usr/include", "root/in"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "link-to-a")); err != nil {
		t.Fatal(err)
	}
	common := []searchCase{
		{name: "nothing"},
		{name: "each kind", includes: Includes{Quote: []string{"q"}, Angle: []string{"a", dir + "/b"},
			System: []string{"sys"}, After: []string{"after"}}},
		{name: "missing ones", includes: Includes{Quote: []string{"no-q"}, Angle: []string{"no-a", "b"}}},
		{name: "spelling", includes: Includes{Angle: []string{"./a", "b/"}}},
		{name: "duplicates", includes: Includes{Quote: []string{"a", "q", "q/."}, Angle: []string{"a", "link-to-a", "sys", "b", "a"},
			System: []string{"sys", "a/../sys"}, After: []string{"after", "sys"}}},
		{name: "duplicate of the compiler's", includes: Includes{Quote: []string{"/usr/include"}, Angle: []string{"/usr/include", "a"}}},
		{name: "environment", includes: Includes{Angle: []string{"a"}, System: []string{"sys"}},
			env: []string{"CPATH=b::no-b", "C_INCLUDE_PATH=after:", "CPLUS_INCLUDE_PATH=q"}},
		{name: "empty variable", env: []string{"CPATH="}},
		{name: "nostdinc", probe: []string{"-nostdinc"}, includes: Includes{Angle: []string{"a"}}},
		{name: "32 bit", probe: []string{"-m32"}},
		{name: "sysroot", probe: []string{"--sysroot=" + dir + "/root"}, includes: Includes{Angle: []string{"=/in", "a"}}},
		{name: "relative sysroot", probe: []string{"--sysroot", "root"}, includes: Includes{System: []string{"=/in"}}},
		{name: "isysroot", probe: []string{"-isysroot", dir + "/root"}},
		{name: "c++", language: "c++"},
		{name: "nostdinc++", language: "c++", probe: []string{"-nostdinc++"}},
		{name: "c++ environment", language: "c++", env: []string{"C_INCLUDE_PATH=a", "CPLUS_INCLUDE_PATH=q"}},
		{name: "assembler", language: "assembler-with-cpp", env: []string{"C_INCLUDE_PATH=a"}},
		{name: "objective-c", language: "objective-c", env: []string{"OBJC_INCLUDE_PATH=a", "C_INCLUDE_PATH=q"}},
	}
	perCompiler := map[string][]searchCase{
		"gcc-12":                   {{name: "$SYSROOT", probe: []string{"--sysroot=" + dir + "/root"}, includes: Includes{Angle: []string{"$SYSROOT/in"}}}},
		"g++-12":                   {{name: "prefix", language: "c++", probe: []string{"-B", "root/usr"}}},
		"aarch64-linux-gnu-gcc-12": nil,
		"clang-14": {
			{name: "libc++", language: "c++", probe: []string{"-stdlib=libc++"}},
			{name: "target", probe: []string{"--target=aarch64-linux-gnu"}},
			{name: "no gcc", language: "c++", probe: []string{"--gcc-toolchain=" + dir}},
		},
	}
	for name, own := range perCompiler {
		path := realCompiler(t, name)
		d := NewDetector(&mapStore{})
		tc := identify(t, d, path, name, systemPath)
		for _, c := range append(slices.Clone(common), own...) {
			if c.language == "" {
				c.language = "c"
			}
			if name == "aarch64-linux-gnu-gcc-12" && (c.language != "c" && c.language != "assembler-with-cpp" || slices.Contains(c.probe, "-m32")) {
				continue // not installed, not an option of this target
			}
			t.Run(name+"/"+c.name, func(t *testing.T) {
				cmd := exec.Command(path, append(c.args(), "-E", "-v", "-x", c.language, os.DevNull)...)
				cmd.Args[0] = name
				cmd.Dir = dir
				cmd.Env = append([]string{systemPath, "LC_ALL=C"}, c.env...)
				printed, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, printed)
				}
				shown := readShownChain(printed)

				inv := &Invocation{Family: tc.Family, Language: c.language, Probe: c.probe, Includes: c.includes}
				sp, err := tc.SearchPath(context.Background(), inv, dir, append([]string{systemPath}, c.env...))
				if err != nil {
					t.Fatal(err)
				}
				all := slices.Concat(sp.Quote, sp.Angle, sp.System, sp.After)
				if got := existing(dir, all); !slices.Equal(got, normal(shown.dirs)) {
					t.Errorf("searched\n %q, the compiler prints\n %q", got, shown.dirs)
				}
				for _, missing := range shown.missing {
					if !slices.Contains(normal(all), normal([]string{missing})[0]) {
						t.Errorf("%s is missing, and not in the chain", missing)
					}
				}
			})
		}
	}
}

// existing drops what does not exist under cwd.
func existing(cwd string, dirs []string) []string {
	return slices.DeleteFunc(normal(dirs), func(dir string) bool {
		if !filepath.IsAbs(dir) {
			dir = cwd + "/" + dir
		}
		return !stampOf(dir).exists()
	})
}

// normal drops a slash at the end, which gcc keeps or not by its place.
func normal(dirs []string) []string {
	var out []string
	for _, dir := range dirs {
		out = append(out, strings.TrimSuffix(dir, "/"))
	}
	return out
}

// TestSearchPathSpelling shows that a header in each directory of
// the chain is spelled in the dependency file as the chain spells it.
func TestSearchPathSpelling(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "x.c")
	if err := os.WriteFile(source, []byte("#include <stddef.h>\n#include <stdio.h>\n#include <new>\n#include <bits/c++config.h>\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"g++-12", "clang++-14"} {
		path := realCompiler(t, name)
		tc := identify(t, NewDetector(nil), path, name, systemPath)
		cmd := exec.Command(path, "-M", "-x", "c++", source)
		cmd.Args[0], cmd.Env = name, []string{systemPath}
		deps, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		sp, err := tc.SearchPath(context.Background(), &Invocation{Language: "c++"}, dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, dep := range strings.Fields(string(deps))[2:] {
			if dep != "\\" && !slices.ContainsFunc(sp.System, func(d string) bool { return strings.HasPrefix(dep, d+"/") }) {
				t.Errorf("%s: %s is below no directory of %q", name, dep, sp.System)
			}
		}
	}
}

// TestMissingDirAppears shows that gcc's missing directories stand before and
// after each other one, and have their place once they exist.
func TestMissingDirAppears(t *testing.T) {
	p := t.TempDir()
	tc := identify(t, NewDetector(&mapStore{}), realCompiler(t, "gcc-12"), "gcc-12", systemPath)
	inv := &Invocation{Language: "c", Probe: []string{"--sysroot=" + p}}
	local, usr := p+"/usr/local/include", p+"/usr/include"
	if err := os.MkdirAll(usr, 0o755); err != nil {
		t.Fatal(err)
	}
	rest(t)
	chain := func() []string {
		sp, err := tc.SearchPath(context.Background(), inv, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		return sp.System
	}
	before := chain()
	if i, j := slices.Index(before, local), slices.Index(before, usr); i < 0 || i > j {
		t.Errorf("%s does not come before %s in %q", local, usr, before)
	}
	if err := os.MkdirAll(local, 0o755); err != nil {
		t.Fatal(err)
	}
	after := chain()
	if n := len(slices.DeleteFunc(slices.Clone(after), func(d string) bool { return d != local })); n != 1 {
		t.Errorf("%s exists, and is %d times in %q", local, n, after)
	}
}

// TestPrefixDirAppears does the same for the directory that -B adds.
func TestPrefixDirAppears(t *testing.T) {
	p := t.TempDir()
	tc := identify(t, NewDetector(&mapStore{}), realCompiler(t, "gcc-12"), "gcc-12", systemPath)
	inv := &Invocation{Language: "c", Probe: []string{"-B."}}
	rest(t)
	for _, want := range []bool{false, true} {
		sp, err := tc.SearchPath(context.Background(), inv, p, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(sp.System, "./include"); got != want {
			t.Errorf("./include in %q: %v", sp.System, got)
		}
		if err := os.MkdirAll(p+"/include", 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestChainFromStore shows that a process without a daemon need not run the
// compiler for its directories.
func TestChainFromStore(t *testing.T) {
	for _, name := range []string{"gcc-12", "clang-14"} {
		store := &mapStore{}
		path := realCompiler(t, name)
		inv := &Invocation{Language: "c"}
		want, err := identify(t, NewDetector(store), path, name, systemPath).SearchPath(context.Background(), inv, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		over, cancel := context.WithCancel(context.Background())
		cancel()
		got, err := identify(t, NewDetector(store), path, name, systemPath).SearchPath(over, inv, "/", nil)
		if err != nil || !slices.Equal(got.System, want.System) {
			t.Errorf("%s: %v, %q, want %q", name, err, got.System, want.System)
		}
	}
}

func TestNoChainWithoutPreprocessor(t *testing.T) {
	tc := &Toolchain{Family: GCC}
	sp, err := tc.SearchPath(context.Background(), &Invocation{Language: "cpp-output", Includes: Includes{Angle: []string{"a"}}}, "/", nil)
	if err != nil || len(sp.Quote)+len(sp.Angle)+len(sp.System)+len(sp.After) != 0 {
		t.Errorf("%v, %v", sp, err)
	}
}

func TestSplitShown(t *testing.T) {
	got := splitShown(`"/usr/bin/cl ang" -cc1 a\ b "c\"d" "" e`)
	want := []string{"/usr/bin/cl ang", "-cc1", "a b", `c"d`, "", "e"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func BenchmarkSearchPathWarm(b *testing.B) {
	for _, name := range []string{"gcc-12", "clang-14"} {
		b.Run(name, func(b *testing.B) {
			tc := identify(b, NewDetector(nil), realCompiler(b, name), name, systemPath)
			inv := &Invocation{Language: "c++", Includes: Includes{Angle: []string{"src", "/tmp"}}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := tc.SearchPath(context.Background(), inv, "/", nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
