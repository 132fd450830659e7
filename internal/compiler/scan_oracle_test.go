package compiler

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hpcc.dev/hpcc/test/strace"
)

// scanTools skips the test if one of the programs is missing, or fails it
// where HPCC_TEST_REQUIRE says that nothing may be skipped.
func scanTools(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			scanMissing(t, n)
		}
	}
}

func scanMissing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("HPCC_TEST_REQUIRE") != "" {
		t.Fatalf("%s is missing", what)
	}
	t.Skipf("%s is missing", what)
}

// scanUnit is one compile of a test, parsed by hand.
type scanUnit struct {
	dir    string
	cc     string
	source string
	lang   string
	flags  []string // only -I, -iquote, -isystem, -idirafter, -include, -imacros as two words, and others as one
}

func (u scanUnit) family() Family {
	if strings.HasPrefix(u.cc, "clang") {
		return Clang
	}
	return GCC
}

// invocation does for the few options of these tests what Parse does for all.
func (u scanUnit) invocation() *Invocation {
	inv := &Invocation{Family: u.family(), Source: u.source, Language: u.lang}
	for i := 0; i+1 < len(u.flags); i++ {
		list := map[string]*[]string{
			"-iquote": &inv.Includes.Quote, "-I": &inv.Includes.Angle, "-isystem": &inv.Includes.System,
			"-idirafter": &inv.Includes.After, "-include": &inv.Includes.Forced, "-imacros": &inv.Includes.Macros,
		}[u.flags[i]]
		if list != nil {
			i++
			*list = append(*list, u.flags[i])
		}
	}
	return inv
}

var ownDirs = map[string][]string{}

// searchPath is the user's directories and the compiler's own, those that do
// not exist included.
func (u scanUnit) searchPath(t testing.TB) SearchPath {
	t.Helper()
	key := u.cc + u.lang
	dirs, ok := ownDirs[key]
	if !ok {
		cmd := exec.Command(u.cc, "-E", "-v", "-x", u.lang, "/dev/null")
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			t.Fatal(err, stderr.String())
		}
		inside := false
		for line := range strings.Lines(stderr.String()) {
			line = strings.TrimRight(line, "\n")
			switch {
			case strings.HasPrefix(line, "ignoring nonexistent directory "):
				dirs = append(dirs, strings.Trim(strings.TrimPrefix(line, "ignoring nonexistent directory "), `"`))
			case strings.HasPrefix(line, "#include <"):
				inside = true
			case strings.HasPrefix(line, "End of search"):
				inside = false
			case inside:
				dirs = append(dirs, strings.TrimSpace(line))
			}
		}
		ownDirs[key] = dirs
	}
	in := u.invocation().Includes
	return SearchPath{Quote: in.Quote, Angle: in.Angle, System: slices.Concat(in.System, dirs), After: in.After}
}

// compile runs the compiler, under the given wrapper command if any, and
// returns the dependency file that it wrote.
func (u scanUnit) compile(t testing.TB, mode string, wrapper ...string) []byte {
	t.Helper()
	tmp := t.TempDir()
	dep := filepath.Join(tmp, "out.dep")
	args := slices.Concat(wrapper, []string{u.cc, "-x", u.lang, "-c", "-w"}, u.flags,
		[]string{mode, "-MF", dep, "-MT", "t", "-o", filepath.Join(tmp, "out.obj"), u.source})
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = u.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	b, err := os.ReadFile(dep)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// files scans what a dependency list names.
func (u scanUnit) files(t testing.TB, dep []byte) []File {
	t.Helper()
	_, deps, err := ParseDepFile(dep)
	if err != nil {
		t.Fatal(err)
	}
	var files []File
	for _, d := range deps {
		p := d
		if !filepath.IsAbs(p) {
			p = u.dir + "/" + p // not cleaned: ".." may lead through a link
		}
		src, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, File{d, Scan(src)})
	}
	return files
}

// writeTree makes a tree from a text: "== name" begins a file, "=> name target"
// makes a link.
func writeTree(t testing.TB, dir, text string) {
	t.Helper()
	var name string
	content := map[string]*strings.Builder{}
	var order []string
	for line := range strings.Lines(text) {
		if n, ok := strings.CutPrefix(line, "== "); ok {
			name = strings.TrimSpace(n)
			content[name] = new(strings.Builder)
			order = append(order, name)
		} else if l, ok := strings.CutPrefix(line, "=> "); ok {
			f := strings.Fields(l)
			p := filepath.Join(dir, f[0])
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(f[1], p); err != nil {
				t.Fatal(err)
			}
		} else {
			content[name].WriteString(strings.ReplaceAll(line, "$ROOT", dir))
		}
	}
	for _, name := range order {
		p := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(p, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content[name].String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tracedLookups returns the paths that the compiler proper looked for in vain,
// and those that it opened.
func tracedLookups(t *testing.T, log string) (failed, opened []string) {
	t.Helper()
	processes, err := strace.Read(log)
	if err != nil {
		t.Fatal(err)
	}
	proper := 0
	for _, p := range processes {
		name := filepath.Base(p.Program)
		if name != "cc1" && name != "cc1plus" && !strings.HasPrefix(name, "clang") {
			continue
		}
		proper++
		for _, l := range p.Lookups {
			switch {
			case l.Call == "readlink" || l.Call == "execve":
				// gcc's search for a shorter spelling; the open that follows counts.
			case l.Errno == "ENOENT" || l.Errno == "ENOTDIR":
				failed = append(failed, l.Path)
			case strings.HasPrefix(l.Call, "open") && l.Found() && !l.Writes && !l.Directory:
				opened = append(opened, l.Path)
			}
		}
	}
	if proper == 0 {
		t.Fatal("no compiler in the trace")
	}
	return failed, opened
}

// relevant reports whether a path is below the working directory or one of the
// directories of the chain.
func (u scanUnit) relevant(p string, sp SearchPath) bool {
	if !strings.HasPrefix(p, "/") || strings.HasPrefix(p, u.dir+"/") {
		return true
	}
	for _, d := range slices.Concat(sp.Quote, sp.Angle, sp.System, sp.After) {
		if strings.HasPrefix(p, d+"/") || p == d {
			return true
		}
	}
	return false
}

func covered(absent []string, p string) bool {
	p = trimDotSlash(p)
	for {
		if _, ok := slices.BinarySearch(absent, p); ok {
			return true
		}
		i := strings.LastIndexByte(p, '/')
		if i <= 0 {
			return false
		}
		p = strings.TrimRight(p[:i], "/")
	}
}

// oracleProjects are trees with the traps of include search; each is compiled
// as C by gcc and clang, and as C++ by both.
var oracleProjects = []struct {
	name, source string
	flags        []string
	tree         string
}{
	{"shadow", "src/m.c", []string{"-I", "a", "-I", "b", "-I", "nope/inc", "-isystem", "sys", "-iquote", "q", "-idirafter", "late"}, `
== src/m.c
#include "one.h"
#include <two.h>
#include "sub/three.h"
#include <sub/four.h>
#include <stddef.h>
#include <late.h>
#if 0
#include "never.h"
#include <sub/gone/never.h>
#endif
== q/
== a/sub/three.h
#include "beside.h"
#include "../up.h"
== a/sub/beside.h
#include "sub/four.h"
== b/sub/four.h
== a/up.h
== b/one.h
== b/two.h
== late/late.h
#include <limits.h>
== sys/stray.h
== a/one.h/
`},
	{"next", "m.c", []string{"-I", "a", "-I", "b", "-I", "c", "-isystem", "d"}, `
== m.c
#include <w.h>
#include "w.h"
#include <limits.h>
#include <stdint.h>
== a/other.h
== b/w.h
#include_next <w.h>
#if __has_include_next(<x.h>)
#include_next <x.h>
#endif
#if __has_include_next("w.h")
#endif
== d/w.h
#ifndef W
#define W
#include_next <stddef.h>
#include "v.h"
#endif
== d/v.h
#define v 1
`},
	{"has", "m.c", []string{"-I", "a", "-I", "b"}, `
== m.c
#if __has_include("opt.h")
#include "opt.h"
#endif
#ifdef __has_include
# if __has_include(<there.h>)
int there;
# endif
# if !__has_include(<link.h>) || defined(__has_include) && __has_include(<sub/no.h>)
# endif
#endif
#if __has_include("$ROOT/gone.h")
#endif
== b/there.h
== a/x.h
`},
	{"links", "m.c", []string{"-I", "l/inc", "-I", "same", "-isystem", "l/sys"}, `
== m.c
#include "link.h"
#include <up.h>
#include <s.h>
#include <t/deep.h>
#include <dangling.h>
== real/inc/up.h
#include "../w.h"
== real/w.h
== w.h
#error wrong
== real/file.h
#include "beside.h"
== beside.h
== real/beside.h
== real/verylongdirectoryname/evenlongersubdirectory/s.h
#include "s2.h"
== real/verylongdirectoryname/evenlongersubdirectory/s2.h
== z/deep.h
#include "deeper.h"
== z/deeper.h
== real/dangling.h
=> link.h real/file.h
=> l/inc ../real/inc
=> same real/inc
=> l/sys/s.h ../../real/verylongdirectoryname/evenlongersubdirectory/s.h
=> l/sys/t ../../z
=> real/inc/dangling.h ../nowhere.h
=> l/sys/dangling.h ../../real/dangling.h
=> l/sys/s2.h ../../real/verylongdirectoryname/evenlongersubdirectory/s2.h
`},
	{"forced", "src/m.c", []string{"-include", "conf.h", "-imacros", "mac.h", "-I", "inc", "-iquote", "q", "-include", "second.h"}, `
== src/m.c
#include "conf.h"
#include "mac.h"
int i = CONF + MAC;
== src/conf.h
== src/mac.h
== inc/conf.h
#define CONF 1
== mac.h
#define MAC 1
== inc/second.h
#include "third.h"
== inc/third.h
`},
	{"computed", "m.c", []string{"-I", "a", "-I", "b", "-isystem", "s"}, `
== m.c
#define H <gen/one.h>
#define OWN "two.h"
#include H
#define STR(x) #x
#define Q(x) STR(gen/x)
#include Q(two.h)
#include "conf.h"
#include SYS
== b/conf.h
#define SYS <three.h>
== a/x.h
== b/gen/one.h
#include OWN
== b/gen/two.h
#define T 2
== s/three.h
== s/four.h
`},
	{"computed-own", "m.c", []string{"-I", "a", "-I", "b"}, `
== m.c
#define OWN "own.h"
#include <sub/h.h>
== b/sub/h.h
#include OWN
== b/sub/own.h
== a/x.h
`},
	{"absolute", "$ROOT/src/m.c", []string{"-I", "$ROOT/inc", "-I", "../" + "x"}, `
== src/m.c
#include "$ROOT/abs/a.h"
#include <b.h>
#include "../abs/a.h"
#include "./sub/c.h"
== abs/a.h
#include "sub/../b.h"
== abs/b.h
#include "../abs/sub/d.h"
== abs/sub/d.h
== inc/b.h
#include ".//deep//e.h"
== inc/deep/e.h
== src/sub/c.h
`},
	{"duplicate", "m.c", []string{"-I", "/usr/include", "-I", "a", "-isystem", "b", "-I", "b", "-I", "a/"}, `
== m.c
#include <stdio.h>
#include <b.h>
#include "a.h"
== a/a.h
#include "b.h"
== b/b.h
`},
	{"gch", "m.c", []string{"-I", "a", "-I", "b"}, `
== m.c
#if 0
#include "second.h"
#endif
#if __has_include("no.h")
#endif
#include "first.h"
#include "second.h"
== b/first.h
== b/second.h
`},
}

const heavyCXX = `
#include <algorithm>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <regex>
#include <string>
#include <thread>
#include <vector>
#include <sys/types.h>
#include "mine.h"
`

func eachOracleUnit(t *testing.T, run func(t *testing.T, u scanUnit)) {
	for _, p := range oracleProjects {
		for _, cc := range []string{"gcc-12", "clang-14", "g++-12", "clang++-14"} {
			t.Run(p.name+"/"+cc, func(t *testing.T) {
				scanTools(t, cc)
				u := scanUnit{dir: realDir(t), cc: cc, lang: "c"}
				if strings.Contains(cc, "++") {
					u.lang = "c++"
				}
				writeTree(t, u.dir, strings.TrimPrefix(p.tree, "\n"))
				u.source = strings.ReplaceAll(p.source, "$ROOT", u.dir)
				for _, f := range p.flags {
					u.flags = append(u.flags, strings.ReplaceAll(f, "$ROOT", u.dir))
				}
				run(t, u)
			})
		}
	}
	for _, cc := range []string{"g++-12", "clang++-14", "x86_64-w64-mingw32-g++"} {
		t.Run("heavy/"+cc, func(t *testing.T) {
			scanTools(t, cc)
			u := scanUnit{dir: realDir(t), cc: cc, lang: "c++", source: "m.cc", flags: []string{"-fsyntax-only", "-std=c++17", "-I", "inc"}}
			writeTree(t, u.dir, "== m.cc\n"+heavyCXX+"== inc/mine.h\n#include <string>\n")
			run(t, u)
		})
	}
}

// realUnits are sources that some package installed, with the flags that they
// need.
var realUnits = []scanUnit{
	{dir: "/usr/src/googletest/googletest", source: "src/gtest-all.cc", lang: "c++", flags: []string{"-I", "include", "-I", "."}},
	{dir: "/usr/src/googletest/googlemock", source: "src/gmock-all.cc", lang: "c++", flags: []string{"-isystem", "../googletest/include", "-I", "include", "-I", "."}},
}

func eachRealUnit(t *testing.T, run func(t *testing.T, u scanUnit)) {
	for _, u := range realUnits {
		for _, cc := range []string{"g++-12", "clang++-14"} {
			u := u
			u.cc = cc
			t.Run(filepath.Base(u.source)+"/"+cc, func(t *testing.T) {
				scanTools(t, cc)
				if _, err := os.Stat(u.dir); err != nil {
					scanMissing(t, "Debian's googletest")
				}
				u.flags = append(slices.Clone(u.flags), "-fsyntax-only")
				run(t, u)
			})
		}
	}
}

func realDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestLookupsCoverTrace asks the kernel what the compilers looked for in vain:
// each such path must be covered by an absence.
func TestLookupsCoverTrace(t *testing.T) {
	scanTools(t, "strace")
	check := func(t *testing.T, u scanUnit) {
		log := filepath.Join(t.TempDir(), "trace")
		dep := u.compile(t, "-MD", strace.Command(log)...)
		files := u.files(t, dep)
		sp := u.searchPath(t)
		got := FindLookups(u.invocation(), sp, files, NewDirCache(u.dir))
		if got.NeedPreprocess != "" {
			t.Fatalf("needs the preprocessor: %s", got.NeedPreprocess)
		}
		failed, opened := tracedLookups(t, log)
		n := 0
		for _, p := range failed {
			if !u.relevant(p, sp) || strings.HasSuffix(p, "out.obj") || strings.HasSuffix(p, "out.dep") {
				continue
			}
			n++
			if !covered(got.Absent, p) {
				t.Errorf("looked for %s, which no absence covers", p)
			}
		}
		if n == 0 {
			t.Error("the trace holds no failed lookup")
		}
		for _, p := range opened {
			if !u.relevant(p, sp) || strings.HasPrefix(p, "/usr/lib/locale") {
				continue
			}
			p = trimDotSlash(p)
			if !slices.ContainsFunc(files, func(f File) bool { return f.Path == p }) && !slices.Contains(got.Present, p) && !slices.Contains(got.Present, p+"/.") {
				t.Errorf("opened %s, which is neither listed nor present", p)
			}
		}
		t.Logf("%d files, %d failed lookups, %d absences, %d present, %d aliases", len(files), n, len(got.Absent), len(got.Present), len(got.Aliases))
	}
	eachOracleUnit(t, check)
	eachRealUnit(t, check)
}

// TestUserDepsEqualMMD compares with the list that -MMD makes.
func TestUserDepsEqualMMD(t *testing.T) {
	undecided := 0
	check := func(t *testing.T, u scanUnit) { checkUserDeps(t, u, &undecided) }
	eachOracleUnit(t, check)
	eachRealUnit(t, check)
	t.Logf("%d units undecided", undecided)
}

func checkUserDeps(t *testing.T, u scanUnit, undecided *int) {
	t.Helper()
	files := u.files(t, u.compile(t, "-MD"))
	_, want, err := ParseDepFile(u.compile(t, "-MMD"))
	if err != nil {
		t.Fatal(err)
	}
	user, ok := UserDeps(u.family(), u.searchPath(t), u.invocation(), files)
	if !ok {
		t.Log("undecided")
		*undecided++
		return
	}
	var got []string
	for i := range files {
		if user[i] {
			got = append(got, files[i].Path)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
