package compiler

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hpcc.dev/hpcc/test/scratch"
)

// randomUnit writes a unit into dir whose object tells which of several headers
// of one name were read, and returns the command that compiles it. Headers are
// shadowed, asked for, included next, by macros and through links.
func randomUnit(t *testing.T, rnd *rand.Rand, dir, cc string) []string {
	t.Helper()
	const headers = 5
	places := []string{"src", "a", "b", "b/sub", "c", "z"}
	kinds := []string{"-I", "-iquote", "-isystem", "-idirafter"}
	args := []string{cc, "-c", "-w", "-o", "m.o"}
	for _, d := range []string{"a", "b", "c", "l"} {
		if rnd.IntN(4) > 0 {
			args = append(args, kinds[rnd.IntN(len(kinds))], d)
		}
	}
	// The last of all has every header, so that no unit fails.
	args = append(args, "-idirafter", "z")
	if rnd.IntN(3) == 0 {
		args = append(args, "-include", fmt.Sprintf("h%d.h", rnd.IntN(headers)))
	}
	if rnd.IntN(3) == 0 {
		args = append(args, fmt.Sprintf(`-DC="h%d.h"`, rnd.IntN(headers)))
	} else {
		args = append(args, fmt.Sprintf(`-DC=<h%d.h>`, rnd.IntN(headers)))
	}
	body := func(place string) string {
		var b strings.Builder
		for i := range 1 + rnd.IntN(4) {
			h := fmt.Sprintf("h%d.h", rnd.IntN(headers))
			form := rnd.IntN(9)
			if place == "z" && form == 7 {
				form = 0 // gcc takes no _next in the last directory
			}
			switch form {
			case 0:
				fmt.Fprintf(&b, "#include <%s>\n", h)
			case 1:
				fmt.Fprintf(&b, "#if __has_include(\"%s\")\nextern int asked_%d;\n#include \"%s\"\n#endif\n", h, i, h)
			case 2:
				o := rnd.IntN(4)
				fmt.Fprintf(&b, "#if __has_include(<only%d.h>)\n#include <only%d.h>\n#endif\n", o, o)
			case 3:
				fmt.Fprintf(&b, "#undef N\n#define N <%s>\n#include N\n", h)
			case 4:
				b.WriteString("#include C\n")
			case 5:
				fmt.Fprintf(&b, "#if 0\n#include \"%s\"\n#endif\n", h)
			case 6:
				fmt.Fprintf(&b, "#include \"../z/%s\"\n", h)
			case 7:
				fmt.Fprintf(&b, "#ifdef __has_include_next\n#if __has_include_next(<%s>)\n#include_next <%s>\n#endif\n#endif\n", h, h)
			default:
				fmt.Fprintf(&b, "#include \"%s\"\n", h)
			}
		}
		return b.String()
	}
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	header := func(place, name string) {
		n++
		write(place+"/"+name, fmt.Sprintf("#ifndef G%d\n#define G%d\nint v%d = %d;\n%s#endif\n", n, n, n, n, body(place)))
	}
	for h := range headers {
		for _, place := range places {
			if place == "z" || rnd.IntN(3) == 0 {
				header(place, fmt.Sprintf("h%d.h", h))
			}
		}
	}
	for o := range 4 {
		if rnd.IntN(2) == 0 {
			header(places[rnd.IntN(len(places))], fmt.Sprintf("only%d.h", o))
		}
	}
	for _, d := range []string{"a", "b", "c"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return
		}
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("b/sub", "l")
	if rnd.IntN(2) == 0 {
		link("../z/h1.h", "a/h1.h")
	}
	if rnd.IntN(3) == 0 {
		link("nowhere", "c/h2.h")
	}
	write("src/m.c", body("src")+"#include \"h0.h\"\n#include <h1.h>\nint main(void) { return 0; }\n")
	return append(args, "src/m.c")
}

// counts are how many random units a test takes: few of them in an ordinary run.
func counts(few, many int) int {
	if os.Getenv("HPCC_SOAK") != "" {
		return many
	}
	return few
}

func randomSource(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 6)) }

func closureOf(t *testing.T, args []string, dir string) (*Invocation, *Closure) {
	t.Helper()
	inv, err := parseCall(args, dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := FindClosure(ClosureRequest{Invocation: inv, Cwd: dir, Roots: []string{dir}, Files: diskCheckout()})
	if err != nil {
		t.Fatal(err)
	}
	return inv, c
}

// readFiles are the files below dir that the compiler lists, by their real
// paths.
func readFiles(t *testing.T, inv *Invocation, cc, dir string) []string {
	t.Helper()
	list := filepath.Join(t.TempDir(), "list")
	runIn(t, dir, cc, inv.AllDepsArgs(list))
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	_, deps, err := ParseDepFile(text)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, d := range deps {
		if !filepath.IsAbs(d) {
			d = dir + "/" + d
		}
		if d = realPath(t, d); strings.HasPrefix(d, dir+"/") && !slices.Contains(files, d) {
			files = append(files, d)
		}
	}
	return files
}

// TestClosureHoldsWhatIsRead: whatever of a random unit's files the compilers
// read is in its closure.
func TestClosureHoldsWhatIsRead(t *testing.T) {
	needCompilers(t, "gcc", "clang")
	read, sent := 0, 0
	for i := range counts(40, 600) {
		dir, cc := realDir(t), []string{"gcc", "clang"}[i%2]
		args := randomUnit(t, randomSource(uint64(i)), dir, cc)
		inv, c := closureOf(t, args, dir)
		for _, f := range readFiles(t, inv, cc, dir) {
			read++
			if !slices.Contains(c.Files, f) {
				t.Errorf("unit %d, %q: %s is read, and not in %s", i, args, f, c.text())
			}
		}
		sent += len(c.Files)
		for _, f := range c.Files {
			if real := realPath(t, f); real != f {
				t.Errorf("unit %d: %s is %s", i, f, real)
			}
		}
		if len(c.Outside)+len(c.Rooted) > 0 {
			t.Errorf("unit %d: %s", i, c.text())
		}
	}
	t.Logf("%d files read, %d guessed", read, sent)
	if read == 0 || sent > 2*read {
		t.Errorf("%d files read, %d guessed", read, sent)
	}
}

// TestClosureWithoutOne: whichever file is missing from what is sent, the record
// of a compile's look-ups leads to the object of the whole tree.
func TestClosureWithoutOne(t *testing.T) {
	needCompilers(t, "gcc", "clang")
	scanTools(t, "strace")
	units, compiles, worst := counts(8, 220), 0, 0
	for i := range units {
		here, cc := realDir(t), []string{"gcc", "clang"}[i%2]
		args := randomUnit(t, randomSource(uint64(1000+i)), here, cc)
		inv, c := closureOf(t, args, here)
		there, out := filepath.Join(realDir(t), "src"), realDir(t)
		r, err := inv.RemoteArgs(RemoteOptions{Compiler: cc, Cwd: here, Out: out, Paths: &PathMap{Roots: []Root{{Dir: here, Neutral: there}}}})
		must(t, err)
		m := scratch.Machine{Dir: there, Cwd: r.Cwd, Argv: r.Argv, Object: out + "/object", Trace: out + "/trace"}
		whole, err := scratch.Whole(here)
		must(t, err)
		plain, err := m.Run(whole)
		must(t, err)
		want := plain.Object
		if len(want) == 0 {
			t.Fatalf("unit %d, %q: no object: %s", i, args, plain.Said)
		}
		sent, err := scratch.Of(here, c.Files, c.Dirs, c.linkPaths())
		must(t, err)
		got, rounds, err := m.Compile(here, maps.Clone(sent))
		must(t, err)
		if !bytes.Equal(got, want) || rounds > 1 {
			t.Errorf("unit %d, %q: after %d rounds, equal: %v, with %s", i, args, rounds, bytes.Equal(got, want), c.text())
		}
		for name := range sent {
			less := maps.Clone(sent)
			delete(less, name)
			got, rounds, err := m.Compile(here, less)
			must(t, err)
			compiles += rounds
			worst = max(worst, rounds)
			if !bytes.Equal(got, want) {
				t.Errorf("unit %d, %q: another object without %s", i, args, name)
			}
		}
	}
	t.Logf("%d units, %d compiles, at most %d rounds", units, compiles, worst)
}

func (c *Closure) linkPaths() []string {
	paths := make([]string, len(c.Links))
	for i, l := range c.Links {
		paths[i] = l.Path
	}
	return paths
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
