package compiler

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hpcc.dev/hpcc/test/strace"
)

// clangCLUnits are trees with the traps of Microsoft's rule for "…", beside
// those of oracleProjects.
var clangCLUnits = []struct {
	name, source string
	flags        []string
	tree         string
}{
	{"stack", "src/m.c", []string{"-I", "inc", "-I", "inc2", "-include", "forced.h"}, `
== src/m.c
#include "a/x.h"
#include "own.h"
#include <ang.h>
== src/a/x.h
#include "../b/y.h"
== src/b/y.h
#include "z.h"
#include "top.h"
#include <ang.h>
#if __has_include("hi.h") || __has_include("there.h") || __has_include(<a/x.h>)
#endif
#if 0
#include "skipped/never.h"
#endif
== src/a/z.h
#include "w/deep.h"
== src/a/w/deep.h
#include "own.h"
== src/own.h
== src/top.h
== src/there.h
== inc2/ang.h
#include "up.h"
== src/up.h
== inc/up.h
== forced.h
#include "fz.h"
== src/fz.h
`},
	{"stack of links", "m.c", []string{"-I", "inc"}, `
== m.c
#include "l/one.h"
#include <two.h>
== real/one.h
#include "sub/three.h"
== real/sub/three.h
#include "four.h"
== real/four.h
== inc/two.h
#include "one.h"
#include "five.h"
== inc/one.h
#include "four.h"
== inc/four.h
== five.h
=> l real
`},
	{"forced up the stack", "src/m.c", []string{"-include", "conf.h", "-imacros", "mac.h", "-I", "inc", "-iquote", "q", "-include", "second.h"}, `
== src/m.c
#include "conf.h"
#include "mac.h"
int i = CONF + MAC;
== src/conf.h
#define CONF 1
== inc/conf.h
#error wrong
== src/mac.h
== mac.h
#define MAC 1
== inc/second.h
#include "third.h"
#include "fourth.h"
== inc/third.h
== src/fourth.h
`},
	{"cycle", "m.c", nil, `
== m.c
#include "a/a.h"
== a/a.h
#pragma once
#include "../b/b.h"
== b/b.h
#pragma once
#include "a.h"
#include "c.h"
== c.h
#include "d.h"
== a/d.h
`},
}

// clangCLFlags spells the flags of oracleProjects as clang-cl takes them.
func clangCLFlags(flags []string) []string {
	var out []string
	for i := 0; i+1 < len(flags); i += 2 {
		switch flags[i] {
		case "-I":
			out = append(out, "/I", flags[i+1])
		case "-isystem":
			out = append(out, "/external:I", flags[i+1])
		case "-include":
			out = append(out, "/FI", flags[i+1])
		default:
			out = append(out, "/clang:"+flags[i], "/clang:"+flags[i+1])
		}
	}
	return out
}

// TestClangCLLookupsCoverTrace is TestLookupsCoverTrace for clang-cl; and its
// three ways to list the inputs agree.
func TestClangCLLookupsCoverTrace(t *testing.T) {
	scanTools(t, "strace", "clang-cl-14")
	path := realCompiler(t, "clang-cl-14")
	tc := identify(t, NewDetector(nil), path, path, systemPath)
	for _, p := range slices.Concat(oracleProjects, clangCLUnits) {
		if p.name == "forced" || p.name == "duplicate" {
			// Other files are found, and the C library's headers are none for
			// this target.
			continue
		}
		for _, language := range []string{"/TC", "/TP"} {
			t.Run(p.name+language, func(t *testing.T) {
				dir := realDir(t)
				writeTree(t, dir, strings.TrimPrefix(p.tree, "\n"))
				args := append([]string{path, language, "/c", "-w", "/Foout.obj", "/showIncludes", "/Z7"}, clangCLFlags(p.flags)...)
				args = append(args, "--", p.source)
				for i := range args {
					args[i] = strings.ReplaceAll(args[i], "$ROOT", dir)
				}
				inv, err := Parse(Command{Compiler: path, Args: args, Cwd: dir})
				if err != nil {
					t.Fatal(err)
				}
				sp, err := tc.SearchPath(context.Background(), inv, dir, []string{systemPath})
				if err != nil {
					t.Fatal(err)
				}
				run := func(argv ...string) (stdout []byte) {
					cmd := exec.Command(argv[0], argv[1:]...)
					cmd.Dir = dir
					var stderr bytes.Buffer
					cmd.Stderr = &stderr
					stdout, err := cmd.Output()
					if err != nil {
						t.Fatalf("%v: %v\n%s", argv, err, stderr.Bytes())
					}
					return stdout
				}
				log := filepath.Join(t.TempDir(), "trace")
				printed := run(slices.Concat(strace.Command(log), args)...)
				run(append([]string{path}, inv.AllDepsArgs("list.dep")...)...)
				run(slices.Insert(slices.Clone(args), 1, "/clang:-MD", "/clang:-MFown.dep", "/clang:-MTx")...)

				u := scanUnit{dir: dir}
				_, listed, err := ParseDepFile(readFile(t, dir+"/list.dep"))
				if err != nil {
					t.Fatal(err)
				}
				if own := readFile(t, dir+"/own.dep"); !bytes.Equal(own, readFile(t, dir+"/list.dep")) {
					t.Errorf("the preprocessor lists %q, the compile %q", listed, own)
				}
				text := RenderDepFile(ClangCL, []DepTarget{AskedTarget}, ParseShowIncludes(inv.Source, printed), "", false)
				failed, opened := tracedLookups(t, log)
				for kind, dep := range map[string][]byte{"listed": readFile(t, dir+"/list.dep"), "printed": text} {
					u.checkTrace(t, kind, failed, opened, inv, sp, u.files(t, dep))
				}
			})
		}
	}
}

// checkTrace compares what a compile looked for with what FindLookups says.
func (u scanUnit) checkTrace(t *testing.T, kind string, failed, opened []string, inv *Invocation, sp SearchPath, files []File) {
	t.Helper()
	got := FindLookups(inv, sp, files, NewDirCache(u.dir))
	computed := slices.ContainsFunc(files, func(f File) bool { return f.Scan.ComputedInclude })
	if want := map[bool]string{true: NeedComputedInclude}[computed]; got.NeedPreprocess != want {
		t.Errorf("%s: needs the preprocessor for %q, want %q", kind, got.NeedPreprocess, want)
	}
	if computed {
		return
	}
	n := 0
	for _, p := range failed {
		if !u.relevant(p, sp) || strings.Contains(p, "out.obj") {
			continue
		}
		n++
		if !covered(got.Absent, p) {
			t.Errorf("%s: looked for %s, which no absence covers", kind, p)
		}
	}
	if n == 0 {
		t.Error("the trace holds no failed lookup")
	}
	for _, p := range opened {
		p = trimDotSlash(p)
		if !u.relevant(p, sp) {
			continue
		}
		if !slices.ContainsFunc(files, func(f File) bool { return f.Path == p }) && !slices.Contains(got.Present, p) &&
			!slices.Contains(got.Present, p+"/.") && !slices.Contains(got.Aliases, p) {
			t.Errorf("%s: opened %s, which is neither listed nor present", kind, p)
		}
	}
	t.Logf("%s: %d files, %d failed lookups, %d absences, %d present", kind, len(files), n, len(got.Absent), len(got.Present))
}
