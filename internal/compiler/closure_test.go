package compiler

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// memCheckout is a Checkout in memory. Values are "file TEXT", "link TARGET" or
// "dir"; the directories above each name are there.
type memCheckout struct {
	nodes map[string]string
	dirs  map[string]map[string]PathKind
	scans map[string]*FileScan
}

// newMemCheckout reads a tree in the form of writeTree, rooted at dir.
func newMemCheckout(dir, text string) *memCheckout {
	nodes := map[string]string{}
	name := ""
	for line := range strings.Lines(text) {
		if n, ok := strings.CutPrefix(line, "== "); ok {
			name = cleanJoin(dir, strings.TrimSpace(n))
			nodes[name] = "file "
			if strings.HasSuffix(strings.TrimSpace(n), "/") {
				nodes[name] = "dir"
			}
		} else if l, ok := strings.CutPrefix(line, "=> "); ok {
			f := strings.Fields(l)
			nodes[cleanJoin(dir, f[0])] = "link " + f[1]
		} else {
			nodes[name] += line
		}
	}
	return memCheckoutOf(nodes)
}

func memCheckoutOf(nodes map[string]string) *memCheckout {
	m := &memCheckout{nodes: nodes, dirs: map[string]map[string]PathKind{}, scans: map[string]*FileScan{}}
	for name, node := range nodes {
		kind := Unlisted
		switch {
		case strings.HasPrefix(node, "file "):
			kind = Regular
		case node == "dir":
			kind = Directory
			m.dir(name)
		}
		m.dir(filepath.Dir(name))[filepath.Base(name)] = kind
	}
	return m
}

func (m *memCheckout) dir(name string) map[string]PathKind {
	if m.dirs[name] == nil {
		m.dirs[name] = map[string]PathKind{}
		if name != "/" {
			m.dir(filepath.Dir(name))[filepath.Base(name)] = Directory
		}
	}
	return m.dirs[name]
}

func (m *memCheckout) List(dir string) (map[string]PathKind, bool) {
	entries, ok := m.dirs[dir]
	if !ok {
		panic("a listing is asked for of " + dir)
	}
	return entries, true
}

func (m *memCheckout) Lstat(path string) NodeKind {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		panic("not clean: " + path)
	}
	node, ok := m.nodes[path]
	switch {
	case m.dirs[path] != nil:
		return NodeDirectory
	case !ok:
		return NodeMissing
	case strings.HasPrefix(node, "link "):
		return NodeLink
	}
	return NodeFile
}

func (m *memCheckout) Readlink(path string) (string, error) {
	target, ok := strings.CutPrefix(m.nodes[path], "link ")
	if !ok {
		return "", fs.ErrInvalid
	}
	return target, nil
}

func (m *memCheckout) Scan(path string) (*FileScan, error) {
	text, ok := strings.CutPrefix(m.nodes[path], "file ")
	if !ok {
		panic("no file: " + path)
	}
	if strings.HasPrefix(text, "unreadable") {
		return nil, fs.ErrPermission
	}
	if m.scans[path] == nil {
		m.scans[path] = Scan([]byte(text))
	}
	return m.scans[path], nil
}

// text writes a closure, names relative to /w.
func (c *Closure) text() string {
	var parts []string
	rel := func(p string) string { return strings.TrimPrefix(p, "/w/") }
	list := func(mark string, names []string) {
		for _, n := range names {
			parts = append(parts, mark+rel(n))
		}
	}
	list("", c.Files)
	for _, l := range c.Links {
		parts = append(parts, rel(l.Path)+"->"+l.Target)
	}
	list("dir:", c.Dirs)
	list("outside:", c.Outside)
	list("rooted:", c.Rooted)
	if c.Computed {
		parts = append(parts, "computed")
	}
	return strings.Join(parts, " ")
}

func TestFindClosure(t *testing.T) {
	for _, c := range []struct {
		name, command, tree, want string
		env                       []string
	}{
		{name: "quotes look beside the includer first",
			command: "gcc -Ii -c m.c", tree: "== m.c\n#include \"s/x.h\"\n== s/x.h\n#include \"y.h\"\n#include <z.h>\n== s/y.h\n== s/z.h\n== i/y.h\n== i/z.h\n",
			want: "m.c s/x.h s/y.h i/z.h"},
		{name: "the order of the search path",
			command: "gcc -idirafter a -isystem s -Ii -iquote q -c m.c",
			tree: "== m.c\n#include \"1.h\"\n#include <1.h>\n#include <2.h>\n#include <3.h>\n#include <4.h>\n#include <5.h>\n" +
				"== q/1.h\n== i/1.h\n== e/1.h\n== i/2.h\n== e/2.h\n== e/3.h\n== s/3.h\n== s/4.h\n== l/4.h\n== l/5.h\n== a/5.h\n",
			env:  []string{"CPATH=e", "C_INCLUDE_PATH=l", "CPLUS_INCLUDE_PATH=a"},
			want: "m.c q/1.h i/1.h i/2.h e/3.h s/4.h l/5.h dir:a"},
		{name: "what is searched in vain must be there",
			command: "gcc -Ii -Igone -Ij -c m.c", tree: "== m.c\n#include <x/y.h>\n#include \"n/../x.h\"\n== i/x/\n== j/x/y.h\n== n/\n== x.h\n",
			want: "m.c j/x/y.h x.h dir:i/x dir:n"},
		{name: "a directory in the way is passed over",
			command: "gcc -Ii -Ij -c m.c", tree: "== m.c\n#include <x>\n== i/x/\n== j/x\n", want: "m.c j/x dir:i/x"},
		{name: "include_next goes on behind where the file was found",
			command: "gcc -Ii -Ij -Ik -c m.c", tree: "== m.c\n#include <x.h>\n== i/x.h\n#include_next <x.h>\n== j/x.h\n#include_next <x.h>\n== k/x.h\n",
			want: "m.c i/x.h j/x.h k/x.h"},
		{name: "and in a file that was found beside its includer at the head",
			command: "gcc -Ii -c s/m.c", tree: "== s/m.c\n#include \"x.h\"\n== s/x.h\n#include_next <x.h>\n== i/x.h\n", want: "s/m.c s/x.h i/x.h"},
		{name: "in the source it is an include",
			command: "gcc -c m.c", tree: "== m.c\n#include_next \"x.h\"\n== x.h\n", want: "m.c x.h"},
		{name: "a user's directory that is a system's is searched in the system's place",
			command: "gcc -Ia -Ib -isystem a -c m.c", tree: "== m.c\n#include <x.h>\n== a/x.h\n== b/x.h\n", want: "m.c b/x.h dir:a"},
		{name: "has_include, import, skipped text",
			command: "gcc -c m.c", tree: "== m.c\n#if __has_include(\"a.h\")\n#endif\n#import \"b.h\"\n#if 0\n#include \"c.h\"\n#endif\n== a.h\n== b.h\n== c.h\n",
			want: "m.c a.h b.h c.h"},
		{name: "forced files",
			command: "gcc -include f.h -imacros s/g.h -Ii -c s/m.c", tree: "== s/m.c\n== i/f.h\n#include \"k.h\"\n== i/k.h\n== s/g.h\n", want: "s/g.h i/f.h s/m.c i/k.h"},
		{name: "computed names by a macro of the file's, another's, the command's",
			command: "gcc -DC='\"c.h\"' -DD='<d.h>' -Ii -c m.c",
			tree:    "== m.c\n#define A \"a.h\"\n#include A\n#include \"k.h\"\n#include B // b\n#include C\n#include D\n== a.h\n== k.h\n#define B <b.h>\n== i/b.h\n== c.h\n== i/d.h\n== e.h\n",
			want:    "m.c k.h a.h i/b.h c.h i/d.h"},
		{name: "of a macro with arguments, each header that some macro names",
			command: "gcc -DCONF=conf.h -c m.c",
			tree:    "== m.c\n#define P (3, (0, 2, \"step.h\"))\n#define V \"1.2.3\"\n#include STR(CONF)\n== step.h\n== conf.h\n", want: "m.c conf.h step.h computed"},
		{name: "names put together, under each condition",
			command: "g++ -I. -c m.cc",
			tree: "== m.cc\n#define NAME one.h\n#include \"p.h\"\n#define LIST \\\n CAT(list, SIZE).h \\\n /**/\n#include STR(d/LIST)\n#include ALIAS\n#include LOOP()\n#include STR(SELF)\n" +
				"== p.h\n#if X\n# define DIR gcc // c\n#else\n# define DIR plain /* c */\n#endif\n#define SIZE 20\n#define ALIAS OTHER\n#define OTHER \"o.h\"\n#define LOOP() <l.h>\n#define SELF SELF/x.h\n#include STR(d/DIR/NAME)\n" +
				"== d/gcc/one.h\n== d/plain/one.h\n== d/list20.h\n== o.h\n== l.h\n== d/no.h\n",
			want: "m.cc p.h d/list20.h o.h l.h d/gcc/one.h d/plain/one.h computed"},
		{name: "a computed has_include",
			command: "gcc -DX='\"x.h\"' -c m.c", tree: "== m.c\n#if __has_include(X)\n#endif\n== x.h\n", want: "m.c x.h"},
		{name: "embedded files are not read",
			command: "gcc -Ii -c m.c", tree: "== m.c\n#embed \"e\"\n#embed <f>\n== e\n#include \"no.h\"\n== i/f\n== no.h\n", want: "m.c e i/f"},
		{name: "the assembler's",
			command: "gcc -Wa,-Ia -c m.S", tree: "== m.S\n.include \"x.inc\"\n#include \"y.h\"\n== a/x.inc\n.incbin \"b.bin\"\n== y.h\n== b.bin\n== a/b.bin\n",
			want: "m.S a/x.inc y.h b.bin a/b.bin"},
		{name: "text of no preprocessor's",
			command: "gcc -c m.s", tree: "== m.s\n#include \"y.h\"\n.incbin \"b\"\n== y.h\n== b\n", want: "m.s b"},
		{name: "precompiled headers",
			command: "gcc -Ii -Ij -c m.c", tree: "== m.c\n#include <x.h>\n== i/x.h.gch\n== j/x.h\n#include <y.h>\n== j/y.h\n== j/y.h.gch\n",
			want: "m.c i/x.h.gch j/x.h j/y.h"},
		{name: "a directory of precompiled headers, of a forced one",
			command: "clang -include f.h -c m.c", tree: "== m.c\n== f.h\n== f.h.gch/a\n== f.h.gch/b\n", want: "f.h f.h.gch/a f.h.gch/b m.c"},
		{name: "links: to a file, to a directory, to nothing, in a circle",
			command: "gcc -Ii -Il -c m.c", tree: "== m.c\n#include <x.h>\n#include \"d/y.h\"\n#include \"n.h\"\n#include \"o.h\"\n=> i/x.h ../r/x.h\n== i/z.h\n" +
				"== r/x.h\n#include \"z.h\"\n=> d r/s\n== r/s/y.h\n#include \"../z.h\"\n== r/z.h\n=> n.h nowhere\n=> o.h o.h\n=> l i\n",
			want: "m.c r/x.h r/s/y.h i/z.h r/z.h l->i d->r/s i/x.h->../r/x.h n.h->nowhere o.h->o.h"},
		{name: "links out of the roots, and absolute ones within",
			command: "gcc -Ii -c m.c", tree: "== m.c\n#include <a.h>\n#include <b.h>\n#include <c.h>\n=> i/a.h /etc/a.h\n=> i/b.h ../../b.h\n=> i/c.h /w/c.h\n== c.h\n== ../b.h\n",
			want: "m.c c.h i/a.h->/etc/a.h i/b.h->../../b.h i/c.h->/w/c.h outside:i/a.h outside:i/b.h"},
		{name: "names out of the roots",
			command: "gcc -c m.c", tree: "== m.c\n#include \"../out.h\"\n#include \"../gone.h\"\n#include \"../w/x.h\"\n#include \"/w/y.h\"\n#include \"/etc/passwd\"\n== ../out.h\n== x.h\n== y.h\n",
			want: "m.c x.h y.h outside:/out.h rooted:x.h rooted:y.h"},
		{name: "the project's own under a standard name",
			command: "g++ -Ii -c m.cc", tree: "== m.cc\n#include <vector>\n== i/version\n== i/string.h\n#include <q.h>\n== i/q.h\n", want: "m.cc i/string.h i/version i/q.h"},
		{name: "not without the toolchain's headers",
			command: "gcc -nostdinc -Ii -c m.c", tree: "== m.c\n== i/string.h\n", want: "m.c dir:i"},
		{name: "below a root for the system's headers",
			command: "gcc --sysroot=/w/sys -c m.c", tree: "== m.c\n#include <x.h>\n== sys/usr/include/x.h\n", want: "m.c sys/usr/include/x.h"},
		{name: "files named by options",
			command: "clang -fsanitize-ignorelist=l.txt -c m.c", tree: "== m.c\n== l.txt\nsrc:#include\n", want: "m.c l.txt"},
		{name: "up the stack",
			command: "clang-cl-14 /c m.c", tree: "== m.c\n#include \"a/x.h\"\n== a/x.h\n#include \"b/y.h\"\n== a/b/y.h\n#include \"z.h\"\n#include \"v.h\"\n== a/z.h\n== v.h\n",
			want: "m.c a/x.h a/b/y.h a/z.h v.h"},
		{name: "a file that cannot be read",
			command: "gcc -c m.c", tree: "== m.c\n#include \"x.h\"\n== x.h\nunreadable\n", want: "m.c"},
		{name: "no source",
			command: "gcc -c gone.c", tree: "== m.c\n", want: ""},
	} {
		args, ok := splitResponse(strings.NewReplacer(`'"`, `'"`).Replace(c.command))
		if !ok {
			t.Fatalf("%s: not a command line", c.command)
		}
		inv, err := parseCall(args, "/w")
		if err != nil {
			t.Fatalf("%s: %v", c.command, err)
		}
		got, err := FindClosure(ClosureRequest{Invocation: inv, Env: c.env, Cwd: "/w", Roots: []string{"/w"}, Files: newMemCheckout("/w", c.tree)})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got.text() != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got.text(), c.want)
		}
	}
}

func TestFindClosureErrors(t *testing.T) {
	inv, err := parseCall([]string{"gcc", "-c", "m.c"}, "/w")
	if err != nil {
		t.Fatal(err)
	}
	m := newMemCheckout("/w", "== m.c\n#include \"a.h\"\n== a.h\n== sub/b.c\n== b.h\n")
	for _, r := range []ClosureRequest{
		{Invocation: inv, Cwd: "/v", Roots: []string{"/w"}, Files: m},
		{Invocation: inv, Cwd: "/w/gone", Roots: []string{"/w"}, Files: m},
		{Invocation: inv, Cwd: "/w", Files: m},
		{Invocation: inv, Cwd: "/w", Roots: []string{"/"}, Files: m},
	} {
		if c, err := FindClosure(r); err == nil {
			t.Errorf("%s below %q: %s", r.Cwd, r.Roots, c.text())
		}
	}
	got, err := FindClosure(ClosureRequest{Invocation: inv, Cwd: "/w", Roots: []string{"/w"}, Files: m, Also: []string{"/w/b.h", "/w/sub", "/w/gone.h"}})
	if want := "m.c b.h a.h dir:sub"; err != nil || got.text() != want {
		t.Errorf("%v, %v, want %s", got.text(), err, want)
	}
}

// endless has every name, as a file that includes names that nothing had yet.
type endless struct{ asked int }

func (e *endless) List(string) (map[string]PathKind, bool) { return nil, false }
func (e *endless) Lstat(string) NodeKind                   { return NodeFile }
func (e *endless) Readlink(string) (string, error)         { return "", fs.ErrInvalid }
func (e *endless) Scan(string) (*FileScan, error) {
	e.asked++
	return Scan(fmt.Appendf(nil, "#include \"a%d\"\n#include \"b%d\"\n", e.asked, e.asked)), nil
}

func TestFindClosureIsBounded(t *testing.T) {
	inv, err := parseCall([]string{"gcc", "-c", "m.c"}, "/w")
	if err != nil {
		t.Fatal(err)
	}
	_, err = FindClosure(ClosureRequest{Invocation: inv, Cwd: "/w", Roots: []string{"/w"}, Files: &endless{}})
	var limit *ClosureLimitError
	if !errors.As(err, &limit) || limit.What != "files" {
		t.Errorf("got %v", err)
	}
	// Files that include each other under ever longer names.
	tree := "== m.c\n#include \"d/0.h\"\n"
	for i := range 100 {
		tree += fmt.Sprintf("== d/%d.h\n", i)
		for j := range 100 {
			tree += fmt.Sprintf("#include \"%s/d/%d.h\"\n#include_next \"%d.h\"\n", strings.Repeat("l/", j), (i+j)%100, j)
		}
	}
	tree += "=> d/l .\n=> d/d .\n"
	got, err := FindClosure(ClosureRequest{Invocation: inv, Cwd: "/w", Roots: []string{"/w"}, Files: newMemCheckout("/w", tree)})
	if err != nil || len(got.Files) != 101 {
		t.Errorf("%d files: %v", len(got.Files), err)
	}
}

// TestOSCheckout holds the real file system against the one in memory.
func TestOSCheckout(t *testing.T) {
	dir := realDir(t)
	tree := "== m.c\n#include \"x.h\"\n#include \"d/y.h\"\n#include \"n.h\"\n#include \"Z.h\"\n=> x.h r/x.h\n== r/x.h\n=> d r\n== r/y.h\n=> n.h gone\n== z.h\n"
	writeTree(t, dir, tree)
	if err := os.Mkdir(dir+"/e", 0o755); err != nil {
		t.Fatal(err)
	}
	inv, err := parseCall([]string{"gcc", "-Ie", "-c", "m.c"}, dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := FindClosure(ClosureRequest{Invocation: inv, Cwd: dir, Roots: []string{dir}, Files: diskCheckout()})
	if err != nil {
		t.Fatal(err)
	}
	want, err := FindClosure(ClosureRequest{Invocation: inv, Cwd: dir, Roots: []string{dir}, Files: newMemCheckout(dir, tree+"== e/\n")})
	if err != nil || got.text() != want.text() || len(got.Files) != 3 {
		t.Errorf("got %s, want %s (%v)", got.text(), want.text(), err)
	}
}

// diskCheckout reads the disk and remembers nothing.
func diskCheckout() *OSCheckout {
	return &OSCheckout{ScanFile: func(path string) (*FileScan, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		return Scan(text), nil
	}}
}

func sortedFiles(c *Closure) []string {
	files := slices.Clone(c.Files)
	slices.Sort(files)
	return files
}

// BenchmarkClosure looks for all of the C++ library's headers as if they were a
// project's own, when nothing is remembered of them.
func BenchmarkClosure(b *testing.B) {
	const dir = "/usr/include/c++/12"
	if _, err := os.Stat(dir); err != nil {
		b.Skip("no headers of g++ 12")
	}
	args := []string{"g++-12", "-std=c++20", "-nostdinc++", "-isystem", ".", "-isystem", "backward", "-x", "c++", "-c", "bits/valarray_after.h"}
	inv, err := parseCall(append(args, "-include", "algorithm", "-include", "iostream", "-include", "regex", "-include", "ranges"), dir)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c, err := FindClosure(ClosureRequest{Invocation: inv, Cwd: dir, Roots: []string{dir}, Files: diskCheckout()})
		if err != nil || len(c.Files) < 100 {
			b.Fatalf("%v, or too few files", err)
		}
	}
}
