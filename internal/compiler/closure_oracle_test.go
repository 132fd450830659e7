package compiler

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hpcc.dev/hpcc/test/strace"
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

// simulated is a machine as far as a compile's files go: a directory that holds
// what was sent, a compiler that runs there, and a record of what it looked for
// in vain.
type simulated struct {
	dir  string // the machine's root
	out  string
	args []string
	cwd  string
}

// treeNode is a file's content, a link's target or a directory.
type treeNode struct {
	text []byte
	link string
}

// simulate makes a machine for a command in the checkout here.
func simulate(t *testing.T, inv *Invocation, cc, here, cwd string) *simulated {
	t.Helper()
	m := &simulated{dir: filepath.Join(realDir(t), "src"), out: realDir(t)}
	r, err := inv.RemoteArgs(RemoteOptions{Compiler: cc, Cwd: cwd, Out: m.out, Paths: &PathMap{Roots: []Root{{Dir: here, Neutral: m.dir}}}})
	if err != nil {
		t.Fatal(err)
	}
	m.args, m.cwd = r.Argv, r.Cwd
	return m
}

// run compiles with what was sent, by path below the root.
func (m *simulated) run(t *testing.T, sent map[string]treeNode) (object []byte, absent []string) {
	t.Helper()
	if err := os.RemoveAll(m.dir); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(m.cwd, 0o755))
	for name, n := range sent {
		p := filepath.Join(m.dir, name)
		must(os.MkdirAll(filepath.Dir(p), 0o755))
		switch {
		case n.link != "":
			must(os.Symlink(n.link, p))
		case n.text == nil:
			must(os.MkdirAll(p, 0o755))
		default:
			must(os.WriteFile(p, n.text, 0o644))
		}
	}
	log := filepath.Join(t.TempDir(), "trace")
	argv := slices.Concat(strace.Command(log), m.args)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = m.cwd
	out, err := cmd.CombinedOutput()
	if err == nil {
		object, err = os.ReadFile(m.out + "/object")
		must(err)
	} else if lower := bytes.ToLower(out); !bytes.Contains(lower, []byte("no such file")) && !bytes.Contains(lower, []byte("file not found")) {
		t.Fatalf("%q: %v\n%s", m.args, err, out)
	}
	processes, err := strace.Read(log)
	must(err)
	seen := map[string]bool{}
	for _, p := range processes {
		for _, l := range p.Lookups {
			path := l.Path
			if !filepath.IsAbs(path) {
				path = m.cwd + "/" + path
			}
			if rel, ok := strings.CutPrefix(path, m.dir+"/"); ok && (l.Errno == "ENOENT" || l.Errno == "ENOTDIR") && !l.Writes && !seen[rel] {
				seen[rel] = true
				absent = append(absent, rel)
			}
		}
	}
	return object, absent
}

// compile sends, compiles, and sends again what was looked for in vain and is
// there, until nothing is missing.
func (m *simulated) compile(t *testing.T, here string, sent map[string]treeNode) (object []byte, rounds int) {
	t.Helper()
	for rounds = 1; rounds <= 20; rounds++ {
		object, absent := m.run(t, sent)
		before := len(sent)
		for _, p := range absent {
			addPath(t, here, p, sent, 0)
		}
		if len(sent) == before {
			return object, rounds
		}
	}
	t.Fatal("no end of what is missing")
	return nil, 0
}

// addPath adds what is at a path below a checkout, and what is on the way.
func addPath(t *testing.T, here, p string, sent map[string]treeNode, links int) {
	t.Helper()
	done := ""
	parts := strings.Split(p, "/")
	for i, part := range parts {
		if part == ".." || part == "." || part == "" {
			done = strings.TrimPrefix(filepath.Join(done, part), ".")
			continue
		}
		done = strings.TrimPrefix(filepath.Join(done, part), "/")
		info, err := os.Lstat(here + "/" + done)
		switch {
		case err != nil:
			return
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(here + "/" + done)
			if err != nil {
				t.Fatal(err)
			}
			if sent[done] = (treeNode{link: target}); links < 40 {
				rest := strings.Join(append([]string{filepath.Dir(done), target}, parts[i+1:]...), "/")
				addPath(t, here, strings.TrimPrefix(rest, "./"), sent, links+1)
			}
			return
		case info.IsDir():
			if _, ok := sent[done]; !ok && !implied(sent, done) {
				sent[done] = treeNode{}
			}
		default:
			text, err := os.ReadFile(here + "/" + done)
			if err != nil {
				t.Fatal(err)
			}
			sent[done] = treeNode{text: append([]byte{}, text...)}
		}
	}
}

// implied reports whether a directory is there because of what it holds.
func implied(sent map[string]treeNode, dir string) bool {
	for name := range sent {
		if strings.HasPrefix(name, dir+"/") {
			return true
		}
	}
	return false
}

// wholeTree is all of a checkout.
func wholeTree(t *testing.T, here string) map[string]treeNode {
	t.Helper()
	all := map[string]treeNode{}
	err := filepath.WalkDir(here, func(p string, _ fs.DirEntry, err error) error {
		if rel, ok := strings.CutPrefix(p, here+"/"); ok && err == nil {
			addPath(t, here, rel, all, 40)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// treeOf is what a closure names.
func (c *Closure) treeOf(t *testing.T, here string) map[string]treeNode {
	t.Helper()
	sent := map[string]treeNode{}
	for _, list := range [][]string{c.Files, c.Dirs} {
		for _, p := range list {
			addPath(t, here, strings.TrimPrefix(p, here+"/"), sent, 40)
		}
	}
	for _, l := range c.Links {
		sent[strings.TrimPrefix(l.Path, here+"/")] = treeNode{link: l.Target}
	}
	return sent
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
		m := simulate(t, inv, cc, here, here)
		want, _ := m.run(t, wholeTree(t, here))
		if len(want) == 0 {
			t.Fatalf("unit %d, %q: no object", i, args)
		}
		sent := c.treeOf(t, here)
		got, rounds := m.compile(t, here, maps.Clone(sent))
		if !bytes.Equal(got, want) || rounds > 1 {
			t.Errorf("unit %d, %q: after %d rounds, equal: %v, with %s", i, args, rounds, bytes.Equal(got, want), c.text())
		}
		for name := range sent {
			less := maps.Clone(sent)
			delete(less, name)
			got, rounds := m.compile(t, here, less)
			compiles += rounds
			worst = max(worst, rounds)
			if !bytes.Equal(got, want) {
				t.Errorf("unit %d, %q: another object without %s", i, args, name)
			}
		}
	}
	t.Logf("%d units, %d compiles, at most %d rounds", units, compiles, worst)
}
