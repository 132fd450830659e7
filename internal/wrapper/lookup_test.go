//go:build unix

package wrapper

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		argv string
		mode mode
		rest string
	}{
		{"gcc -c a.c", modeCompile, "gcc -c a.c"},
		{"/links/gcc-12 stats", modeCompile, "/links/gcc-12 stats"},
		{"aarch64-linux-gnu-g++ -c", modeCompile, "aarch64-linux-gnu-g++ -c"},
		{"hpcc clang++-14 -c", modeCompile, "clang++-14 -c"},
		{"/usr/bin/hpcc ./cc --version", modeCompile, "./cc --version"},
		{"hpcc nvcc -c", modeCompile, "nvcc -c"},
		{"hpcc wrap gcc --show-command", modeCompile, "gcc --show-command"},
		{"hpcc wrap -- stats -c", modeCompile, "stats -c"},
		{"hpcc wrap --show-command gcc -c", modeShow, "gcc -c"},
		{"hpcc wrap", modeUsage, ""},
		{"hpcc wrap --show-command --", modeUsage, ""},
		{"hpcc wrap --help", modeDelegate, "wrap --help"},
		{"hpcc", modeDelegate, ""},
		{"hpcc stats --json", modeDelegate, "stats --json"},
		{"hpcc explain a.c", modeDelegate, "explain a.c"},
		{"hpcc --version", modeDelegate, "--version"},
	} {
		m, rest := parse(strings.Fields(test.argv))
		if m != test.mode || strings.Join(rest, " ") != test.rest {
			t.Errorf("%s: mode %d, %q", test.argv, m, rest)
		}
	}
	if m, _ := parse(nil); m != modeDelegate {
		t.Error("empty argv")
	}
}

func TestQuote(t *testing.T) {
	if got, want := quote([]string{"a-b", "", "it's", "$x", "a=b", "~"}), `a-b '' 'it'\''s' '$x' 'a=b' '~'`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestEnvironment(t *testing.T) {
	e := environment{"A=1", "AB=2", "EMPTY=", "=odd", "B=3"}
	if v, ok := e.lookup("A"); v != "1" || !ok {
		t.Errorf("A: %q %v", v, ok)
	}
	if _, ok := e.lookup("EMPTY"); !ok {
		t.Error("EMPTY is not found")
	}
	if _, ok := e.lookup("C"); ok {
		t.Error("C is found")
	}
	got := e.with([]string{"A=new", "D=4"}, []string{"B", "X"})
	if want := []string{"AB=2", "EMPTY=", "=odd", "A=new", "D=4"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	twice := e.withActive("/x/gcc").withActive("/y/gcc").active()
	if !slices.Equal(twice, []string{"/x/gcc", "/y/gcc"}) {
		t.Errorf("active %q", twice)
	}
}

func TestFindCompiler(t *testing.T) {
	dir := t.TempDir()
	write := func(path string, mode os.FileMode) {
		os.MkdirAll(dir+path[:strings.LastIndex(path, "/")], 0o755)
		if err := os.WriteFile(dir+path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("/a/gcc-12", 0o755)
	write("/b/gcc-12", 0o755)
	write("/a/plain", 0o644)
	write("/b/plain", 0o755)
	write("/a/unusable", 0o644)
	write("/cwd/here", 0o755)
	write("/cwd/sub/cc", 0o755)
	os.MkdirAll(dir+"/a/folder", 0o755)
	self, _ := os.Executable()
	os.Symlink(self, dir+"/a/linked")
	os.Symlink(dir+"/a/linked", dir+"/b/linked") // a link to a link to hpcc
	write("/c/linked", 0o755)

	for _, test := range []struct {
		path, name string
		active     []string
		want       string
		err        error
	}{
		{"$/a:$/b", "gcc-12", nil, "$/a/gcc-12", nil},
		{"$/a/:$/b", "gcc-12", []string{"$/a/gcc-12"}, "$/b/gcc-12", nil},
		{"$/a", "gcc-12", []string{"$/a/gcc-12"}, "$/a/gcc-12", nil},
		{"$/none:$/a:$/b", "plain", nil, "$/b/plain", nil},
		{"$/a:$/b", "unusable", nil, "", errNotExecutable},
		{"$/a:$/b", "folder", nil, "", errNotExecutable},
		{"$/a:$/b", "missing", nil, "", errNotFound},
		{"$/a:$/b", "", nil, "", errNotFound},
		{"$/a:$/b:$/c", "linked", nil, "$/c/linked", nil},
		{"$/a:$/b", "linked", nil, "", errNotFound},
		{"$/c", "$/a/linked", nil, "$/c/linked", nil},
		{"", "here", nil, "$/cwd/here", nil},
		{"$/a:", "here", nil, "$/cwd/here", nil},
		{":$/a", "here", nil, "$/cwd/here", nil},
		{"$/a:.", "here", nil, "$/cwd/here", nil},
		{"sub", "cc", nil, "$/cwd/sub/cc", nil},
		{"$/a", "./here", nil, "$/cwd/here", nil},
		{"$/a", "sub/cc", nil, "$/cwd/sub/cc", nil},
		{"$/a", "../a/gcc-12", nil, "$/cwd/../a/gcc-12", nil},
		{"$/b", "$/a/gcc-12", []string{"$/a/gcc-12"}, "$/a/gcc-12", nil},
		{"$/b", "$/a/missing", nil, "", errNotFound},
		{"$/a", "gcc-12", make([]string, maxActive), "", errLoop},
	} {
		here := func(s string) string { return strings.ReplaceAll(s, "$", dir) }
		var active []string
		for _, a := range test.active {
			active = append(active, here(a))
		}
		f := newFinder(environment{"PATH=" + here(test.path)}, dir+"/cwd")
		got, err := f.compiler(here(test.name), active)
		if got != here(test.want) || err != test.err {
			t.Errorf("PATH=%s %s: %q, %v", test.path, test.name, got, err)
		}
	}
	if f := newFinder(nil, "/"); f.path != "/bin:/usr/bin" {
		t.Errorf("without PATH: %q", f.path)
	}
}
