package compiler

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// oddNames makes file names of the bytes that make and the compilers treat in
// some special way. None ends in a backslash, which gcc's files do not tell
// from a continuation, and none holds one for clang, which writes a slash.
func oddNames(rnd *rand.Rand, f Family, n int) []string {
	pieces := []string{" ", "#", "$", ":", "\t", "%", "a", "b.c", "é", "'", "&", "=", "*", "|", "~", "$$", "  ", "looooooooooooooooooooong", ": ", "@"}
	if f == GCC {
		pieces = append(pieces, `\`, `\ `, `\\`, `\#`, `\\ `, `\$`)
	} else {
		// clang writes a tab in a file's name as it is, where make sees two names.
		pieces = slices.DeleteFunc(pieces, func(p string) bool { return p == "\t" })
	}
	seen := map[string]bool{}
	var names []string
	for len(names) < n {
		var b strings.Builder
		for range 1 + rnd.IntN(12) {
			b.WriteString(pieces[rnd.IntN(len(pieces))])
		}
		name := strings.Trim(b.String(), " ") + ".h"
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

// TestDepFileAsWritten has real compilers write dependency files for odd names
// and requires that reading and rendering them gives the same bytes.
func TestDepFileAsWritten(t *testing.T) {
	for _, cc := range []string{"gcc-12", "clang-14"} {
		t.Run(cc, func(t *testing.T) {
			scanTools(t, cc)
			family := scanUnit{cc: cc}.family()
			rnd := rand.New(rand.NewPCG(1, 2))
			for round := range 40 {
				dir := t.TempDir()
				names := oddNames(rnd, family, 1+rnd.IntN(20))
				var src strings.Builder
				for _, n := range names {
					if err := os.WriteFile(filepath.Join(dir, n), []byte("extern int x;\n"), 0o644); err != nil {
						t.Fatal(err)
					}
					fmt.Fprintf(&src, "#include \"%s\"\n", n)
				}
				source := []string{"m.c", "./m.c", dir + "/m.c", dir + "/./m.c"}[rnd.IntN(4)]
				if err := os.WriteFile(filepath.Join(dir, "m.c"), []byte(src.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				var targets []DepTarget
				args := []string{"-w", "-fsyntax-only", "-MD", "-MF", "out.d"}
				for _, n := range oddNames(rnd, family, 1+rnd.IntN(5)) {
					n = strings.TrimSuffix(n, ".h")
					if n == "" || n == "|" { // gcc's driver takes | for a pipe
						n = "t"
					}
					q := rnd.IntN(2) == 0
					targets = append(targets, DepTarget{n, q})
					args = append(args, map[bool]string{false: "-MT", true: "-MQ"}[q], n)
				}
				phony := round%2 == 0
				if phony {
					args = append(args, "-MP")
				}
				if family == Clang && round%3 == 0 {
					// A file of an option, which clang lists before the source.
					if err := os.WriteFile(filepath.Join(dir, "ignore me"), nil, 0o644); err != nil {
						t.Fatal(err)
					}
					args = append(args, "-fsanitize=undefined", "-fsanitize-ignorelist=ignore me")
				}
				cmd := exec.Command(cc, append(args, source)...)
				cmd.Dir = dir
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				written, err := os.ReadFile(filepath.Join(dir, "out.d"))
				if err != nil {
					t.Fatal(err)
				}
				if family == GCC {
					targets = gccTargetOrder(targets, nil)
				}
				// Targets given by -MT are written as they are and may not be
				// readable; the rest of the rule is after the last of them.
				deps := depsOf(t, family, written, targets)
				got := RenderDepFile(family, targets, deps, source, phony)
				if !bytes.Equal(got, written) {
					t.Fatalf("%v:\n got %q\nwant %q", targets, got, written)
				}
				var want []string
				for _, n := range names {
					if strings.HasPrefix(source, "/") {
						n = source[:strings.LastIndexByte(source, '/')+1] + n
					}
					want = append(want, n)
				}
				if n := len(deps) - len(want); n < 0 || !slices.Equal(deps[n:], want) {
					t.Fatalf("got  %q\nwant %q", deps, want)
				}
			}
		})
	}
}

// depsOf reads the files of a rule whose targets may be any text.
func depsOf(t *testing.T, f Family, written []byte, targets []DepTarget) []string {
	t.Helper()
	head := RenderDepFile(f, targets, nil, "", false)
	head = bytes.TrimSuffix(head, []byte("\n"))
	rest, ok := bytes.CutPrefix(written, head)
	if !ok {
		t.Fatalf("targets:\n got %q\nwant %q", head, written)
	}
	_, deps, err := ParseDepFile(append([]byte("t:"), rest...))
	if err != nil {
		t.Fatal(err)
	}
	return deps
}

// TestDepFileColumns moves the ends of names over the column limits.
func TestDepFileColumns(t *testing.T) {
	for _, cc := range []string{"gcc-12", "clang-14"} {
		t.Run(cc, func(t *testing.T) {
			scanTools(t, cc)
			dir := t.TempDir()
			for n := 50; n < 90; n++ {
				h := strings.Repeat("h", n-2)
				a := "a$" + strings.Repeat("a", n/3)
				var src strings.Builder
				for _, name := range []string{"b", h, a, "c"} {
					if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
						t.Fatal(err)
					}
					fmt.Fprintf(&src, "#include \"%s\"\n", name)
				}
				if err := os.WriteFile(filepath.Join(dir, "m.c"), []byte(src.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(cc, "-fsyntax-only", "-MD", "-MF", "-", "-MT", "x", "-MT", strings.Repeat("t", n), "-MT", "y", "m.c")
				cmd.Dir = dir
				written, err := cmd.Output()
				if err != nil {
					t.Fatal(err)
				}
				targets := []DepTarget{{Name: "x"}, {Name: strings.Repeat("t", n)}, {Name: "y"}}
				gotTargets, deps, err := ParseDepFile(written)
				if err != nil || len(gotTargets) != 3 || gotTargets[2] != "y" {
					t.Fatal(gotTargets, err)
				}
				if got := RenderDepFile(scanUnit{cc: cc}.family(), targets, deps, "m.c", false); !bytes.Equal(got, written) {
					t.Fatalf("got\n%s\nwant\n%s", got, written)
				}
			}
		})
	}
}

func TestParseDepFile(t *testing.T) {
	for _, c := range []struct {
		text          string
		targets, deps []string
	}{
		{"a.o: a.c\n", []string{"a.o"}, []string{"a.c"}},
		{"a.o:\n", []string{"a.o"}, nil},
		{"a.o:", []string{"a.o"}, nil},
		{"a.o b.o: \\\n a.c \\\n  b.h\n\nb.h:\n", []string{"a.o", "b.o"}, []string{"a.c", "b.h"}},
		{"a.o: a.c b\\ \\#$$.h c:d\\e f\r\n", []string{"a.o"}, []string{"a.c", "b #$.h", "c:d\\e", "f"}},
		{"a:b: c\\\n d\n", []string{"a:b"}, []string{"c\\"}},
	} {
		targets, deps, err := ParseDepFile([]byte(c.text))
		if err != nil || !slices.Equal(targets, c.targets) || !slices.Equal(deps, c.deps) {
			t.Errorf("%q: %q %q %v", c.text, targets, deps, err)
		}
	}
	for _, bad := range []string{"", "\n", "a.o", "a.o b.o\n: c"} {
		if _, _, err := ParseDepFile([]byte(bad)); err == nil {
			t.Errorf("%q is no dependency file", bad)
		}
	}
}

func FuzzDepFile(f *testing.F) {
	f.Add([]byte("a.o: a.c b\\ c \\\n d$$\n\nb:\n"), true)
	f.Fuzz(func(t *testing.T, b []byte, phony bool) {
		_, deps, err := ParseDepFile(b)
		if err != nil {
			return
		}
		// What a compiler could have listed survives rendering and reading.
		deps = slices.DeleteFunc(deps, func(d string) bool {
			return d != trimDotSlash(d) || d == "" || strings.HasSuffix(d, `\`) || strings.ContainsAny(d, "\n\r")
		})
		for _, family := range []Family{GCC, Clang} {
			want := deps
			if family == Clang {
				want = slices.DeleteFunc(slices.Clone(deps), func(d string) bool { return strings.ContainsAny(d, "\\\t") })
			}
			text := RenderDepFile(family, []DepTarget{{"t", true}}, want, "", phony)
			targets, got, err := ParseDepFile(text)
			if err != nil || !slices.Equal(targets, []string{"t"}) || !slices.Equal(got, want) {
				t.Errorf("%v: %q reads as %q, want %q (%v)", family, text, got, want, err)
			}
		}
	})
}
