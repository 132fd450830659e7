package compiler

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestMSVCKeyArgs is TestKeyArgs for the MSVC grammar.
func TestMSVCKeyArgs(t *testing.T) {
	testKeyArgs(t, []keyPair{
		{"clang-cl /c a.c", "clang-cl /c a.c /Fod/x.obj", true, "the object's name is not in it"},
		{"clang-cl /c a.c", "clang-cl /c a.c -o d/", true, ""},
		{"clang-cl /c a.c", "clang-cl /c a.c /clang:-MD /clang:-MF /clang:x /clang:-MTy", true, "the dependency file is written anew"},
		{"clang-cl /I/w/p/i /FI/w/p/f.h /c -- /w/p/a.c", "clang-cl /I/home/q/i /FI/home/q/f.h /c -- /home/q/a.c", true, "paths are neutral"},
		{"clang-cl /I /w/p/i /c a.c", "clang-cl /I /home/q/i /c a.c", true, ""},
		{"clang-cl /imsvc/w/p/i /external:I /w/p/e /Fd/w/p/x.pdb /c a.c", "clang-cl /imsvc/home/q/i /external:I /home/q/e /Fd/home/q/x.pdb /c a.c", true, ""},
		{"clang-cl /clang:-I/w/p/i /clang:-isystem /clang:/w/p/s /c a.c", "clang-cl /clang:-I/home/q/i /clang:-isystem /clang:/home/q/s /c a.c", true, "also through clang's driver"},
		{"clang-cl /clang:-ffile-prefix-map=/w/p=/s /c a.c", "clang-cl /clang:-ffile-prefix-map=/home/q=/s /c a.c", true, ""},
		{"clang-cl /DP=/w/p /c a.c", "clang-cl /DP=/home/q /c a.c", false, "a macro's text is in the object"},
		{"clang-cl /c a.c", "clang-cl /TP /c a.c", false, "another language"},
		{"clang-cl /c a.c", "clang-cl -c a.c", false, "spelling is kept"},
		{"clang-cl /c a.c", "clang-cl /c a.c /showIncludes", false, "messages are part of the result"},
		{"clang-cl /c a.c", "clang-cl /c a.c /Brepro", false, ""},
		{"clang-cl /MD /c a.c", "clang-cl /MT /c a.c", false, ""},
		{"clang-cl /Z7 /c a.c /Fox", "clang-cl /Z7 /c a.c /Foy", false, "CodeView has the object's name"},
		{"clang-cl /Z7 /c a.c", "clang-cl /Z7 /c a.c /clang:-MD", false, "and the whole command"},
		{"clang-cl /c @w.rsp", "clang-cl /c /O2 '/DX=\"a b\"' /GR- /DY a.c", true, "a response file is its words"},
		{"cl /c a.c", "cl /c a.c /Fo: x.obj", true, ""},
		{"cl /Z7 /c a.c /Fo: x.obj", "cl /Z7 /c a.c /Fo: y.obj", false, ""},
	})
}

func TestMSVCRewrites(t *testing.T) {
	const list = "/clang:-MD /clang:-MF /clang:D /clang:-MT /clang:x "
	for _, c := range []struct{ command, run, preprocess string }{
		{"clang-cl /O2 /c a.c /Foq.obj /showIncludes", list + "/O2 /c a.c /Foq.obj /showIncludes",
			"/clang:-E /clang:-CC -Qunused-arguments " + list + "/O2 a.c"},
		{"clang-cl /clang:-MD /clang:-MF /clang:u.d /clang:-DX /c -- a.c", list + "/clang:-DX /c -- a.c",
			"/clang:-E /clang:-CC -Qunused-arguments " + list + "/clang:-DX -- a.c"},
		{"clang-cl /FA /Fax -o b.obj -c a.c", list + "/FA /Fax -o b.obj -c a.c",
			"/clang:-E /clang:-CC -Qunused-arguments " + list + "a.c"},
	} {
		inv := mustParse(t, "/w/p", c.command)
		if got := strings.Join(inv.RunArgs(RunOptions{DepFile: "D"}), " "); got != c.run {
			t.Errorf("%s: run\n got %s\nwant %s", c.command, got, c.run)
		}
		if got := strings.Join(inv.PreprocessArgs("D"), " "); got != c.preprocess {
			t.Errorf("%s: preprocess\n got %s\nwant %s", c.command, got, c.preprocess)
		}
	}
	inv := mustParse(t, "/w/p", "clang-cl /c a.c")
	want := "/clang:-ffile-prefix-map=/w/p/=/src/ /Brepro"
	if got := strings.Join(inv.ReproducibleArgs([][2]string{{"/w/p/", "/src/"}}), " "); got != want {
		t.Errorf("reproducible by %s, want %s", got, want)
	}
}

func TestParseShowIncludes(t *testing.T) {
	const printed = "Note: including file: ./a.h\n" +
		"Note: including file:  sub/b c.h\r\n" +
		"b.c(1,2): warning: Note: including file: no.h\n" +
		"Note: including file:   /usr/x.h\n" +
		"Note: including file: a.h\n" +
		"other\n"
	got := ParseShowIncludes("./m.c", []byte(printed), []byte("Note: including file: last.h"))
	if want := []string{"m.c", "a.h", "sub/b c.h", "/usr/x.h", "last.h"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for name, want := range map[string]bool{"a b.h": true, " a.h": false, "a\r.h": false} {
		files := []File{{"m.c", &FileScan{Directives: []Directive{{Kind: Include, Name: name}}}}}
		if PrintableIncludes(files) != want {
			t.Errorf("%q is printable: %v", name, !want)
		}
	}
}

func FuzzParseShowIncludes(f *testing.F) {
	f.Add("Note: including file: a.h\nNote: including file:  b/c.h\r\nx\n")
	f.Fuzz(func(t *testing.T, text string) {
		files := ParseShowIncludes("m.c", []byte(text))
		if files[0] != "m.c" {
			t.Fatal("the source is not at the head")
		}
		// What was read is read again.
		var printed strings.Builder
		for _, name := range files[1:] {
			printed.WriteString("Note: including file:  " + name + "\n")
		}
		if again := ParseShowIncludes("m.c", []byte(printed.String())); !slices.Equal(again, files) {
			t.Fatalf("%q, read again %q", files, again)
		}
	})
}

func TestMSVCEnvironment(t *testing.T) {
	for _, c := range []struct{ compiler, variable, want string }{
		{"clang-cl-14", "CL=/DX", "not cacheable: environment: CL"},
		{"clang-cl-14", "_CL_=", ""},
		{"clang-cl-14", "_CL_=/DX", "not cacheable: environment: _CL_"},
		{"cl", "CL=/DX", "not cacheable: environment: CL"},
		{"gcc", "CL=/DX", ""},
		{"clang", "_CL_=x", ""},
		{"clang-cl-14", "INCLUDE=x", ""},
	} {
		cmd := commandOf([]string{c.compiler, "-c", "a.c"}, "/w/p")
		cmd.Env = []string{c.variable}
		got := ""
		if _, err := Parse(cmd); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s with %s: %q, want %q", c.compiler, c.variable, got, c.want)
		}
	}
}

func TestSplitWindows(t *testing.T) {
	for _, c := range []struct {
		text  string
		words []string
		ok    bool
	}{
		{"", nil, true},
		{"  a\tb\r\nc\n", []string{"a", "b", "c"}, true},
		{`"a b" 'c d' e\ f`, []string{"a b", "'c", "d'", `e\`, "f"}, true},
		{`a"b c"d ""`, []string{"ab cd", ""}, true},
		{`"/DX=\"a b\"" \\"x y\\" \\\"z`, []string{`/DX="a b"`, `\x y\`, `\"z`}, true},
		{`"a""b" """" c`, []string{`a"b`, `"`, "c"}, true},
		{`d\e \\server\x`, []string{`d\e`, `\\server\x`}, true},
		{`"open end`, nil, false},
		{"a\x00b", nil, false},
	} {
		words, ok := splitWindows(c.text)
		if ok != c.ok || ok && !slices.Equal(words, c.words) {
			t.Errorf("%q: %q, %v", c.text, words, ok)
		}
	}
}

func TestDecodeResponse(t *testing.T) {
	for _, c := range []struct {
		text, want string
		ok         bool
	}{
		{"/DX", "/DX", true},
		{"\xef\xbb\xbf/DÜ", "/DÜ", true},
		{"\xef\xbb\xbf/D\xff", "", false},
		{"\xe4", "\xe4", true}, // some 8-bit code page
		{"\xff\xfe/\x00D\x00\xdc\x00=\xd8\x00\xde", "/DÜ😀", true},
		{"\xfe\xff\x00/\x00D", "/D", true},
		{"\xff\xfe/\x00D", "", false},
		{"\xff\xfe=\xd8", "", false}, // half a surrogate pair
		{"\xff\xfe", "", true},
	} {
		if got, ok := decodeResponse(c.text); ok != c.ok || ok && got != c.want {
			t.Errorf("%q: %q, %v", c.text, got, ok)
		}
	}
}

// TestResponseFilesAgainstClangCL has clang-cl split and decode what we do:
// each word becomes a macro whose value the preprocessor prints.
func TestResponseFilesAgainstClangCL(t *testing.T) {
	needCompilers(t, "clang-cl-14")
	texts := []string{
		"/DA=x /DB=y", `/DA="x y" "/DB=p q"`, `"/DA=\"x\" y" /DB=\\"z w"`, `/DA=a"b c""d"e /DB=""""`,
		"/DA='x\r\n/DB=c:\\d\\e", `"/DA=x\\" /DB=\\\"y`, "\xef\xbb\xbf/DA=\"é ü\" @more.rsp", utf16File("/DA=\"é ü\" @more.rsp\r\n"),
	}
	for _, text := range texts {
		dir := t.TempDir()
		for name, content := range map[string]string{"m.c": "A | B\n", "m.rsp": text, "more.rsp": utf16File("/DB=\"ö 1\"")} {
			if err := os.WriteFile(dir+"/"+name, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		words, err := expandResponseFiles(ClangCL, Command{Args: []string{"clang-cl", "@m.rsp"}, Cwd: dir, ReadFile: os.ReadFile})
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		print := func(args ...string) string {
			cmd := exec.Command("clang-cl-14", append([]string{"/EP", "m.c"}, args...)...)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%q: %v\n%s", args, err, out)
			}
			return strings.TrimSpace(string(out))
		}
		if got, want := print("@m.rsp"), print(words...); got != want || !strings.Contains(got, "|") || strings.HasPrefix(got, "A ") {
			t.Errorf("%q: clang-cl reads %q, we %q (%q)", text, got, want, words)
		}
	}
}

func FuzzSplitWindows(f *testing.F) {
	for _, seed := range []string{`a "b c" \"d\" e\ f`, `"a""b" \\\"`, "\xff\xfe/\x00D\x00", "\xef\xbb\xbf\"x y\""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		decoded, ok := decodeResponse(text)
		if !ok {
			return
		}
		if len(decoded) > 2*len(text) {
			t.Fatalf("%q grew to %d bytes", text, len(decoded))
		}
		words, ok := splitWindows(decoded)
		if !ok {
			return
		}
		var quoted []string
		total := 0
		for _, w := range words {
			total += len(w)
			quoted = append(quoted, quoteWindows(w))
		}
		if total > len(decoded) {
			t.Fatalf("%q grew", text)
		}
		again, ok := splitWindows(strings.Join(quoted, " "))
		if !ok || !slices.Equal(again, words) {
			t.Fatalf("%q: %q, quoted and split again %q", text, words, again)
		}
	})
}

// quoteWindows quotes a word so that Microsoft's library reads it back.
func quoteWindows(w string) string {
	var b strings.Builder
	b.WriteByte('"')
	slashes := 0
	for _, c := range []byte(w) {
		switch c {
		case '\\':
			slashes++
		case '"':
			b.WriteString(strings.Repeat(`\`, slashes+1))
			slashes = 0
		default:
			slashes = 0
		}
		b.WriteByte(c)
	}
	b.WriteString(strings.Repeat(`\`, slashes))
	b.WriteByte('"')
	return b.String()
}

// FuzzParseMSVC parses commands of clang-cl and cl over two response files.
func FuzzParseMSVC(f *testing.F) {
	calls, _ := readCalls(f)
	for _, c := range calls {
		if family, _, _ := FamilyOf(c.args[0]); family.MSVC() {
			f.Add(strings.Join(c.args[1:], "\n"), sources["w.rsp"], sources["u16.rsp"], family == CL)
		}
	}
	f.Add("/c\n@a\n@b", "/O2 \"a.c\"", "\xff\xfe/\x00W\x004\x00", false)
	m := &PathMap{Roots: []Root{{Dir: "/w/p"}}}
	f.Fuzz(func(t *testing.T, text, a, b string, microsoft bool) {
		name := map[bool]string{true: "cl", false: "clang-cl"}[microsoft]
		parse := func(args []string) (*Invocation, error) {
			return Parse(Command{
				Compiler: "/usr/bin/" + name, Args: append([]string{name}, args...), Cwd: "/w/p",
				ReadFile: func(path string) ([]byte, error) {
					switch path {
					case "/w/p/a":
						return []byte(a), nil
					case "/w/p/b":
						return []byte(b), nil
					}
					return nil, fs.ErrNotExist
				},
			})
		}
		inv, err := parse(strings.Split(text, "\n"))
		if err != nil {
			var refusal *NotCacheable
			if !errors.As(err, &refusal) {
				t.Fatalf("unnamed reason: %v", err)
			}
			return
		}
		if inv.Source == "" || inv.Language == "" || len(inv.Outputs) == 0 || inv.Outputs[0].Path != inv.Object {
			t.Fatalf("understood, but without source or output: %q", text)
		}
		if inv.RecordsCommand && !slices.Equal(inv.KeyArgs(nil)[1:], inv.RunArgs(RunOptions{})) {
			t.Fatalf("recorded, but not all in the key: %q", text)
		}
		// What goes into the key is what was parsed, and means the same.
		again, err := parse(inv.RunArgs(RunOptions{}))
		if err == nil && !slices.Equal(again.KeyArgs(m), inv.KeyArgs(m)) {
			t.Fatalf("parsed again, another key: %q", text)
		}
		inv.PreprocessArgs("x")
	})
}

// TestClangCLIdentity: the name makes clang another compiler.
func TestClangCLIdentity(t *testing.T) {
	path := realCompiler(t, "clang-cl-14")
	d := NewDetector(&mapStore{})
	tc := identify(t, d, path, path, systemPath)
	if tc.Family != ClangCL || !strings.HasPrefix(tc.Version, "14.") || tc.Target != "x86_64-pc-windows-msvc" {
		t.Errorf("%v %q %q", tc.Family, tc.Version, tc.Target)
	}
	clang := realCompiler(t, "clang-14")
	if gnu := identify(t, d, clang, clang, systemPath); gnu.Identity == tc.Identity || gnu.Family != Clang {
		t.Errorf("clang is %v, and has the same identity: %v", gnu.Family, gnu.Identity == tc.Identity)
	}
	cl := filepath.Join(t.TempDir(), "cl")
	if err := os.Symlink(path, cl); err != nil {
		t.Fatal(err)
	}
	if other := identify(t, d, cl, cl, systemPath); other.Family != ClangCL {
		t.Errorf("under the name cl it is %v", other.Family)
	}
	// The record of another process.
	if again := identify(t, NewDetector(d.store), path, path, systemPath); again.Identity != tc.Identity || again.Family != ClangCL {
		t.Errorf("stored as %v", again.Family)
	}
	inv := mustParse(t, "/w/p", "clang-cl /c a.c -march=native")
	if native, err := tc.NativeExpansion(context.Background(), inv); err != nil || !strings.Contains(native, "-target-cpu") {
		t.Errorf("native is %q (%v)", native, err)
	}
}

// TestClangCLSearchPath compares the chain with what clang-cl prints, under
// all that decides it.
func TestClangCLSearchPath(t *testing.T) {
	path := realCompiler(t, "clang-cl-14")
	dir := t.TempDir()
	for _, d := range []string{"a", "b", "ext", "ms", "env", "env2", "c", "vs/include", "bin",
		"ws/VC/Tools/MSVC/14.1/include", "ws/Windows Kits/10/Include/10.0.1/ucrt"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d := NewDetector(&mapStore{})
	tc := identify(t, d, path, path, systemPath)
	check := func(t *testing.T, args, env []string) {
		t.Helper()
		all := append([]string{"clang-cl", "/c"}, args...)
		inv, err := parseCall(append(all, "a.c"), dir)
		if err != nil {
			t.Fatal(err)
		}
		env = append([]string{systemPath}, env...)
		cmd := exec.Command(path, append(slices.Clone(args), "/E", "-v", "/TC", "--", os.DevNull)...)
		cmd.Dir, cmd.Env = dir, env
		printed, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, printed)
		}
		shown := readShownChain(printed)
		other := identify(t, d, path, path, env...)
		sp, err := other.SearchPath(context.Background(), inv, dir, env)
		if err != nil {
			t.Fatal(err)
		}
		chain := slices.Concat(sp.Quote, sp.Angle, sp.System, sp.After)
		if got := existing(dir, chain); !slices.Equal(got, normal(shown.dirs)) {
			t.Errorf("%v %v\nsearched\n %q, the compiler prints\n %q", args, env, got, shown.dirs)
		}
		for _, missing := range shown.missing {
			if !slices.Contains(chain, missing) {
				t.Errorf("%s is missing, and not in the chain %q", missing, chain)
			}
		}
	}
	check(t, nil, nil)
	check(t, []string{"/I", "a", "/Ib", "/external:I", "ext", "/imsvc", "ms", "/Inone"}, nil)
	check(t, []string{"/Ia", "/clang:-isystem", "/clang:ext", "/clang:-iquote", "/clang:b", "/clang:-idirafter", "/clang:ms"}, nil)
	check(t, []string{"/Ienv", "/imsvcms"}, []string{"INCLUDE=env;" + dir + "/env2;none", "EXTERNAL_INCLUDE=a"})
	check(t, []string{"/X"}, []string{"INCLUDE=env"})
	check(t, []string{"-nostdinc", "/Ia"}, []string{"INCLUDE=env"})
	check(t, []string{"/vctoolsdir", "vs"}, []string{"INCLUDE=env"})
	check(t, nil, []string{"VCToolsInstallDir=" + dir + "/vs"})
	check(t, []string{"/Ia"}, []string{"CPATH=c:none", "C_INCLUDE_PATH=env"})
	check(t, []string{"/winsysroot", "ws"}, nil)
	// A newer version, and a compiler in PATH, are found though the chain was
	// known.
	rest(t)
	check(t, []string{"/winsysroot", "ws"}, nil)
	for _, d := range []string{"ws/VC/Tools/MSVC/14.2/include", "ws/Windows Kits/10/Include/10.0.2/ucrt"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	check(t, []string{"/winsysroot", "ws"}, nil)
	_ = tc
}
