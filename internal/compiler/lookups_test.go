package compiler

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// oneUnit is a compile of m.c whose dependency list is given, with the tree of
// a test around it.
func oneUnit(t *testing.T, tree string, sp SearchPath, inv *Invocation, deps ...string) Lookups {
	t.Helper()
	dir := filepath.Join(realDir(t), "work")
	writeTree(t, dir, "== ../up/x.h\n"+tree)
	inv.Source = deps[0]
	var files []File
	for _, d := range deps {
		src, err := os.ReadFile(dir + "/" + d)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, File{d, Scan(src)})
	}
	return FindLookups(inv, sp, files, NewDirCache(dir))
}

func TestFindLookups(t *testing.T) {
	dirs := func(d ...string) SearchPath { return SearchPath{Angle: d} }
	for _, c := range []struct {
		name, tree      string
		sp              SearchPath
		inv             Invocation
		deps            []string
		absent, present []string
		need            string
		embedded        []string
	}{
		{name: "missing directories stand for what is below",
			tree: "== m.c\n#include <x/y.h>\n#include <z.h>\n== c/x/y.h\n== c/z.h\n== b/x/\n",
			sp:   dirs("a/inc", "b", "c"), deps: []string{"m.c", "c/x/y.h", "c/z.h"},
			absent: []string{"a", "b/x/y.h", "b/z.h"}},
		{name: "a skipped header that exists nowhere",
			tree: "== m.c\n#if 0\n#include \"gone.h\"\n#endif\n",
			sp:   dirs("."), deps: []string{"m.c"},
			absent: []string{"gone.h"}},
		{name: "a skipped header that exists is found and ends the search",
			tree: "== m.c\n#if 0\n#include <x.h>\n#endif\n== b/x.h\n== a/y\n== c/y\n",
			sp:   dirs("a", "b", "c"), deps: []string{"m.c"},
			absent: []string{"a/x.h"}, present: []string{"b/x.h"}},
		{name: "a directory in the way must stay one",
			tree: "== m.c\n#include <x>\n== a/x/\n== b/x\n",
			sp:   dirs("a", "b"), deps: []string{"m.c", "b/x"},
			present: []string{"a/x/."}},
		{name: "a file in the way is no directory",
			tree: "== m.c\n#include <x/y.h>\n== a/x\n== b/x/y.h\n",
			sp:   dirs("a", "b"), deps: []string{"m.c", "b/x/y.h"},
			absent: []string{"a/x/y.h"}},
		{name: "a link that leads nowhere",
			tree: "== m.c\n#include <x.h>\n== b/x.h\n=> a/x.h ../nowhere\n",
			sp:   dirs("a", "b"), deps: []string{"m.c", "b/x.h"},
			absent: []string{"a/x.h"}},
		{name: "a directory that is there twice does not end a search",
			tree: "== m.c\n#include <x.h>\n== a/x.h\n== b/y\n",
			sp:   SearchPath{Angle: []string{"a"}, System: []string{"b", "a/"}}, deps: []string{"m.c", "a/x.h"},
			absent: []string{"b/x.h"}},
		{name: "clang looks for precompiled forced headers",
			tree: "== m.c\n== f.h\n",
			sp:   dirs("."), inv: Invocation{Family: Clang, Includes: Includes{Forced: []string{"f.h"}}}, deps: []string{"m.c", "f.h"},
			absent: []string{"f.h.gch", "f.h.pch"}},
		{name: "gcc looks for precompiled headers beside the first",
			tree: "== m.c\n#include \"a.h\"\n#include \"b.h\"\n== i/a.h\n== i/b.h\n",
			sp:   dirs("i"), inv: Invocation{Family: GCC}, deps: []string{"m.c", "i/a.h", "i/b.h"},
			absent: []string{"a.h", "a.h.gch", "b.h", "i/a.h.gch", "i/stdc-predef.h", "i/stdc-predef.h.gch", "m.c.gch"}},
		{name: "a precompiled header is nothing to guess about",
			tree: "== m.c\n#include \"a.h\"\n== a.h\n== a.h.gch\n",
			inv:  Invocation{Family: GCC}, deps: []string{"m.c", "a.h"},
			absent: []string{"m.c.gch"}, need: NeedPrecompiledHeader},
		{name: "has_include of a macro",
			tree: "== m.c\n#if __has_include(X)\n#endif\n", deps: []string{"m.c"}, need: NeedComputedHasInclude},
		{name: "pragma dependency",
			tree: "== m.c\n#pragma GCC dependency \"x\"\n", deps: []string{"m.c"}, need: NeedPragmaDependency},
		{name: "a computed name is each that leads to the file",
			tree: "== m.c\n#include X\n== o/x.h\n== m/y\n", sp: dirs("m"),
			inv: Invocation{}, deps: []string{"m.c", "o/x.h"},
			absent: []string{}},
		{name: "what is embedded, wherever it may be found",
			tree: "== m.c\n#if __has_embed(<e>)\n#embed \"e\"\n#embed <sub/f>\n#endif\n== b/e\n== x.h\n",
			sp:   dirs("a", "b"), deps: []string{"m.c"},
			absent: []string{"a", "b/sub", "e", "sub"}, embedded: []string{"b/e"}},
		{name: "an embedded file that is listed",
			tree: "== m.c\n#embed \"e\"\n== e\n",
			deps: []string{"m.c", "e"}},
		{name: "clang-cl looks up the stack",
			tree: "== m.c\n#include \"a/x.h\"\n== a/x.h\n#include <y.h>\n== i/y.h\n#include \"z.h\"\n#include \"n/z.h\"\n#include \"n/o.h\"\n== i2/z.h\n",
			sp:   dirs("i", "i2"), inv: Invocation{Family: ClangCL, StackSearch: true}, deps: []string{"m.c", "a/x.h", "i/y.h", "i2/z.h"},
			absent: []string{"a/n", "a/z.h", "i/n", "i/z.h", "i2/n", "n", "z.h"}},
		{name: "what is above an includer is above what it includes, in a cycle too",
			tree: "== a/m.c\n#include \"b/x.h\"\n== a/b/x.h\n#include \"../../c/y.h\"\n== c/y.h\n#include \"x.h\"\n#include \"v.h\"\n== a/v.h\n#include \"w.h\"\n== a/w.h\n",
			inv:  Invocation{Family: ClangCL, StackSearch: true}, deps: []string{"a/m.c", "a/b/x.h", "a/b/../../c/y.h", "a/v.h", "a/w.h"},
			absent: []string{"a/b/../../c/v.h", "a/b/../../c/x.h", "a/b/v.h", "a/x.h"}},
		{name: "a file without a reason",
			tree: "== m.c\n== o/x.h\n", deps: []string{"m.c", "o/x.h"}, need: NeedUnexplained},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.inv.Family == 0 {
				c.inv.Family = Clang
			}
			got := oneUnit(t, c.tree, c.sp, &c.inv, c.deps...)
			if !slices.Equal(got.Absent, c.absent) || !slices.Equal(got.Present, c.present) || got.NeedPreprocess != c.need || !slices.Equal(got.Embedded, c.embedded) {
				t.Errorf("absent  %q\nwant    %q\npresent %q\nwant    %q\nneed %q, want %q\nembedded %q", got.Absent, c.absent, got.Present, c.present, got.NeedPreprocess, c.need, got.Embedded)
			}
		})
	}
}

// TestDirCacheAsksBeyondListing looks into a directory that is too large to be
// listed, and for names that only the kernel can resolve.
func TestDirCacheAsksBeyondListing(t *testing.T) {
	dir := realDir(t)
	writeTree(t, dir, "== d/f\n== e/sub/f\n=> l e/sub\n")
	for i := range maxListed + 10 {
		if err := os.WriteFile(filepath.Join(dir, "d", strings.Repeat("x", 1+i/200)+string(rune('a'+i%200))), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := NewDirCache(dir)
	for _, w := range []struct {
		path    string
		kind    PathKind
		missing string
	}{
		{"d/f", Regular, ""},
		{"d/g/h/i", Missing, "d/g"},
		{"d/../e/sub/f", Regular, ""},
		{"l/../sub/f", Regular, ""},
		{"l/../f", Missing, "l/../f"},
		{"no/../d/f", Missing, "no"},
		{"d/f/g/h", Missing, "d/f/g"},
		{"e", Directory, ""},
		{".", Directory, ""},
		{dir + "/e/sub", Directory, ""},
		{"/", Directory, ""},
	} {
		if kind, missing := c.Look(w.path); kind != w.kind || missing != w.missing {
			t.Errorf("%s: %v %q, want %v %q", w.path, kind, missing, w.kind, w.missing)
		}
	}
}

// TestDirCacheAsksForOtherCases has names appear behind the cache's back, as
// where a file system finds them in any case of letters.
func TestDirCacheAsksForOtherCases(t *testing.T) {
	dir := realDir(t)
	writeTree(t, dir, "== Opt.h\n== y.h\n")
	c := NewDirCache(dir)
	c.Look("y.h")
	writeTree(t, dir, "== opt.h\n== Y.h\n== z.h\n== \u00fc.h\n")
	for path, want := range map[string]PathKind{
		"opt.h": Regular, "Y.h": Regular, "OPT.H": Missing, "\u00fc.h": Regular, "z.h": Missing, "Opt.h": Regular,
	} {
		if kind, _ := c.Look(path); kind != want {
			t.Errorf("%s: %v, want %v", path, kind, want)
		}
	}
}

// heavyFiles compiles a heavy C++ unit once, for benchmarks.
func heavyFiles(b *testing.B) (scanUnit, []File, SearchPath) {
	b.Helper()
	scanTools(b, "g++-12")
	u := scanUnit{dir: realDir(b), cc: "g++-12", lang: "c++", source: "m.cc", flags: []string{"-fsyntax-only", "-I", "inc", "-I", "other"}}
	writeTree(b, u.dir, "== m.cc\n"+heavyCXX+"== inc/mine.h\n#include <string>\n")
	return u, u.files(b, u.compile(b, "-MD")), u.searchPath(b)
}

func BenchmarkFindLookups(b *testing.B) {
	u, files, sp := heavyFiles(b)
	inv := u.invocation()
	b.ReportAllocs()
	for b.Loop() {
		FindLookups(inv, sp, files, NewDirCache(u.dir))
	}
	b.ReportMetric(float64(len(files)), "files")
}

func BenchmarkUserDeps(b *testing.B) {
	u, files, sp := heavyFiles(b)
	inv := u.invocation()
	for b.Loop() {
		UserDeps(GCC, sp, inv, files)
	}
}
