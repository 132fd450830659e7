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

// TestTraceAsGCC compares the chains of inclusion with what gcc's -H prints
// while it includes: dots for the depth, and a file for each first inclusion.
func TestTraceAsGCC(t *testing.T) {
	for name, c := range map[string]struct {
		compiler string
		files    map[string]string
		args     []string
	}{
		"tree": {"gcc", map[string]string{
			"a.c": "#include \"x.h\"\n#include <z.h>\n#if 0\n#include \"q.h\"\n#endif\n#include \"w.h\"\n",
			"x.h": "#pragma once\n#include <y.h>\n", "i/y.h": "#pragma once\n#include \"z.h\"\n", "i/z.h": "#pragma once\n",
			"w.h": "#include \"x.h\"\n#include \"q.h\"\n", "q.h": "\n",
		}, []string{"-Ii", "a.c"}},
		"next":   {"gcc", map[string]string{"a.c": "#include <n.h>\n", "p/n.h": "#include_next <n.h>\n", "q/n.h": "#include \"m.h\"\n", "q/m.h": "\n"}, []string{"-Ip", "-Iq", "a.c"}},
		"stdio":  {"gcc", map[string]string{"a.c": "#include <stdio.h>\n#include <stdlib.h>\n#include <limits.h>\n"}, []string{"a.c"}},
		"string": {"g++", map[string]string{"a.cc": "#include <string>\n#include <map>\n#include <vector>\n"}, []string{"a.cc"}},
	} {
		t.Run(name, func(t *testing.T) {
			path, dir := realCompiler(t, c.compiler), t.TempDir()
			for f, text := range c.files {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, order := includedBy(t, path, dir, c.args)
			trace := traceOf(t, path, dir, c.args)
			wrong := 0
			for _, f := range order {
				if got := trace.Chain(f); !slices.Equal(got, want[f]) {
					if wrong++; wrong <= 5 {
						t.Errorf("%s:\n got %v\nwant %v", f, got, want[f])
					}
				}
			}
			t.Logf("%d files, %d with another chain", len(order), wrong)
		})
	}
}

// includedBy runs the compiler with -H, and returns the chain of each file's
// first inclusion.
func includedBy(t *testing.T, compiler, dir string, args []string) (chains map[string][]string, order []string) {
	t.Helper()
	cmd := exec.Command(compiler, append([]string{"-H", "-fsyntax-only"}, args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	chains = map[string][]string{}
	stack := []string{args[len(args)-1]}
	for line := range strings.Lines(string(out)) {
		dots, file, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok || strings.Trim(dots, ".") != "" || dots == "" {
			continue
		}
		stack = append(stack[:len(dots):len(dots)], file)
		if chains[file] == nil {
			// A file that includes itself on the way is named once.
			var chain []string
			for _, f := range stack {
				if !slices.Contains(chain, f) {
					chain = append(chain, f)
				}
			}
			chains[file], order = chain, append(order, file)
		}
	}
	return chains, order
}

func traceOf(t *testing.T, path, dir string, args []string) *Trace {
	t.Helper()
	inv, err := Parse(Command{Compiler: path, Args: append([]string{filepath.Base(path), "-c"}, args...), Cwd: dir})
	if err != nil {
		t.Fatal(err)
	}
	tool := identify(t, NewDetector(nil), path, path, systemPath)
	sp, err := tool.SearchPath(context.Background(), inv, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append([]string{"-M"}, args...)...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	_, deps, err := ParseDepFile(out)
	if err != nil {
		t.Fatal(err)
	}
	files := make([]File, len(deps))
	for i, d := range deps {
		abs := d
		if !filepath.IsAbs(d) {
			abs = filepath.Join(dir, d)
		}
		text, err := os.ReadFile(abs)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = File{Path: d, Scan: Scan(text)}
	}
	return NewTrace(inv, sp, files, NewDirCache(dir))
}

// A description is read back as it was stored, and names what differs.
func TestDescriptions(t *testing.T) {
	d, store := NewDetector(nil), &mapStore{}
	gcc := realCompiler(t, "gcc")
	a := identify(t, d, gcc, gcc, systemPath)
	b := identify(t, d, realCompiler(t, "g++"), realCompiler(t, "g++"), systemPath)
	a.Remember(store)
	b.Remember(store)
	was, err := Describe(store, a.Identity)
	if err != nil {
		t.Fatal(err)
	}
	is, err := Describe(store, b.Identity)
	if err != nil {
		t.Fatal(err)
	}
	if got := was.Differences(was); len(got) != 0 {
		t.Errorf("from itself: %+v", got)
	}
	if !slices.Equal(was.Parts, a.Parts) || was.Version != a.Version {
		t.Errorf("%+v is not %+v", was, a)
	}
	var parts []string
	for _, x := range is.Differences(was) {
		parts = append(parts, x.Part)
	}
	if !slices.Contains(parts, "driver") || !slices.Contains(parts, "name") || slices.Contains(parts, "cc1") {
		t.Errorf("g++ differs from gcc in %v", parts)
	}
	if _, err := Describe(store, [32]byte{}); err == nil {
		t.Error("an unknown toolchain is described")
	}
}

// A damaged description is an error, or harmless.
func FuzzDescribe(f *testing.F) {
	f.Add([]byte(`{"family":1,"version":"12","facts":[{"l":"name","v":["gcc"]}],"parts":[{"n":"as","p":"/as","d":"` + strings.Repeat("0", 64) + `/1"}]}`))
	f.Add([]byte(`{"parts":[{"d":""}]}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, b []byte) {
		store := &mapStore{recs: map[string][]byte{describedName([32]byte{}): b}}
		d, err := Describe(store, [32]byte{})
		if err == nil && (len(d.Differences(d)) != 0 || d.String() == "") {
			t.Fatalf("%s differs from itself", b)
		}
	})
}
