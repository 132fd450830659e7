package compiler

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func mustParse(t *testing.T, cwd, command string) *Invocation {
	t.Helper()
	args, ok := splitResponse(command)
	if !ok {
		t.Fatalf("%s: not a command line", command)
	}
	inv, err := parseCall(args, cwd)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return inv
}

// keyPair is a pair of commands, the first parsed in the checkout /w/p, the second
// in /home/q, and whether they have one key.
type keyPair struct {
	a, b string
	same bool
	why  string
}

func testKeyArgs(t *testing.T, pairs []keyPair) {
	t.Helper()
	here := &PathMap{Roots: []Root{{Dir: "/w/p"}}}
	there := &PathMap{Roots: []Root{{Dir: "/home/q"}}}
	for _, c := range pairs {
		a := mustParse(t, "/w/p", c.a).KeyArgs(here)
		b := mustParse(t, "/home/q", c.b).KeyArgs(there)
		if slices.Equal(a, b) != c.same {
			t.Errorf("%s | %s: same key is %v, want %v (%s)\n%q\n%q", c.a, c.b, !c.same, c.same, c.why, a, b)
		}
	}
}

func TestKeyArgs(t *testing.T) {
	testKeyArgs(t, []keyPair{
		{"gcc -c a.c", "gcc -c a.c -o d/x.o", true, "the object's name is not in it"},
		{"gcc -c a.c", "gcc -c a.c -MD -MF x -MT y -MP", true, "the dependency file is written anew"},
		{"gcc -c a.c", "gcc -Wp,-MMD,x.d -c a.c", true, "also for the kernel's spelling"},
		{"gcc -c a.c -Wp,-DX", "gcc -Wp,-MMD,x.d,-DX -c a.c", false, "order is kept"},
		{"gcc -Wp,-DX -c a.c", "gcc -Wp,-MMD,x.d,-DX -c a.c", true, "only the words of dependency options go"},
		{"gcc -Xpreprocessor -DX -c a.c", "gcc -Xpreprocessor -MD -Xpreprocessor f -Xpreprocessor -DX -c a.c", true, ""},
		{"clang -c a.c", "clang -Wp,-MD,x.d -c a.c", true, ""},
		{"gcc -I/w/p/i -c /w/p/a.c", "gcc -I/home/q/i -c /home/q/a.c", true, "paths are neutral"},
		{"gcc -include /w/p/i.h -c a.c", "gcc -include /home/q/i.h -c a.c", true, ""},
		{"gcc -Wp,-I,/w/p/i -c a.c", "gcc -Wp,-I,/home/q/i -c a.c", true, ""},
		{"gcc -Wa,-I,/w/p/i -c a.c", "gcc -Wa,-I,/home/q/i -c a.c", true, ""},
		{"gcc -Wl,-rpath,/w/p/lib -L/w/p/l -c a.c", "gcc -Wl,-rpath,/home/q/lib -L/home/q/l -c a.c", true, ""},
		{"gcc -ffile-prefix-map=/w/p=/src -c a.c", "gcc -ffile-prefix-map=/home/q=/src -c a.c", true, ""},
		{"gcc -ffile-prefix-map=/x=/w/p -c a.c", "gcc -ffile-prefix-map=/x=/home/q -c a.c", false, "the new name is in the object"},
		{"gcc -I/w/p2 -c a.c", "gcc -I/home/q2 -c a.c", false, "not below the root"},
		{"gcc -DP='/w/p' -c a.c", "gcc -DP='/home/q' -c a.c", false, "a macro's text is in the object"},
		{"gcc -g -gsplit-dwarf -c a.c -o x.o", "gcc -g -gsplit-dwarf -c a.c -o y.o", false, "the object names the .dwo"},
		{"gcc --coverage -c a.c -o x.o", "gcc --coverage -c a.c -o y.o", false, "the object names the .gcda"},
		{"gcc -c a.c", "g++ -c a.c", false, "another language"},
		{"gcc -c a.c", "gcc -c sub/a.c", false, ""},
		{"gcc -c a.c", "gcc -S a.c", false, ""},
		{"gcc -DA -UA -c a.c", "gcc -UA -DA -c a.c", false, "order means something"},
		{"gcc -Ia -Ib -c a.c", "gcc -Ib -Ia -c a.c", false, ""},
		{"gcc -c a.c", "gcc -fdiagnostics-color=always -c a.c", false, "diagnostics are part of the result"},
		{"gcc -c a.c", "gcc -w -c a.c", false, ""},
		{"gcc -O2 -c a.c", "gcc -O2 -O3 -c a.c", false, ""},
		{"clang -MD -c s.s", "clang -c s.s", false, "clang warns of options that nothing uses"},
		{"gcc -c @r.rsp", "gcc -c -O2 '-DX=a b' a.c", true, "a response file is its words"},
	})
}

func TestRunArgs(t *testing.T) {
	for _, c := range []struct {
		command string
		options RunOptions
		want    string
	}{
		{"gcc -MMD -MF x.d -c a.c", RunOptions{}, "-MMD -MF x.d -c a.c"},
		{"gcc -MMD -MF x.d -c a.c", RunOptions{DepFile: "D"}, "-MD -MF D -MT x -c a.c"},
		{"gcc -Wp,-MMD,x.d,-DX -c a.c", RunOptions{DepFile: "D"}, "-MD -MF D -MT x -Wp,-DX -c a.c"},
		{"gcc -c a.c", RunOptions{AsmDepFile: "A"}, "-Xassembler --MD -Xassembler A -c a.c"},
		{"gcc -S a.c", RunOptions{AsmDepFile: "A"}, "-S a.c"},
		{"gcc -flto -c a.c", RunOptions{AsmDepFile: "A"}, "-flto -c a.c"},
		{"clang -c a.c", RunOptions{AsmDepFile: "A"}, "-c a.c"},
		{"clang -c -- a.c", RunOptions{DepFile: "D"}, "-MD -MF D -MT x -c -- a.c"},
		{"clang -MD -c s.s", RunOptions{DepFile: "D"}, "-MD -c s.s"},
		{"gcc -frandom-seed=mine -c a.c", RunOptions{Extra: []string{"-frandom-seed=ours"}}, "-frandom-seed=ours -frandom-seed=mine -c a.c"},
	} {
		if got := strings.Join(mustParse(t, "/w/p", c.command).RunArgs(c.options), " "); got != c.want {
			t.Errorf("%s %+v:\n got %s\nwant %s", c.command, c.options, got, c.want)
		}
	}
}

func TestPreprocessArgs(t *testing.T) {
	for command, want := range map[string]string{
		"gcc -O2 -g3 -MMD -c a.c -o x.o -Wa,-al":         "-E -CC -dD -MD -MF D -MT x -O2 -g3 a.c",
		"clang -Wp,-MMD,d -S -x c -- a.c":                "-E -CC -Qunused-arguments -MD -MF D -MT x -x c -- a.c",
		"gcc -aux-info x -c a.c -Xassembler -L -fPIC -S": "-E -CC -MD -MF D -MT x a.c -fPIC",
	} {
		if got := strings.Join(mustParse(t, "/w/p", command).PreprocessArgs("D"), " "); got != want {
			t.Errorf("%s:\n got %s\nwant %s", command, got, want)
		}
	}
}

func TestFamilyOf(t *testing.T) {
	for name, want := range map[string]struct {
		family Family
		cxx    bool
	}{
		"gcc": {GCC, false}, "g++": {GCC, true}, "cc": {GCC, false}, "c++": {GCC, true}, "c89": {GCC, false}, "c99": {GCC, false},
		"clang": {Clang, false}, "clang++": {Clang, true}, "clang++-14": {Clang, true}, "clang-14": {Clang, false}, "clang15": {Clang, false},
		"gcc-12": {GCC, false}, "gcc-12.2.0": {GCC, false}, "c99-gcc": {GCC, false}, "/usr/bin/g++-12": {GCC, true},
		"aarch64-linux-gnu-gcc": {GCC, false}, "aarch64-linux-gnu-g++-12": {GCC, true}, "x86_64-w64-mingw32-gcc-posix": {GCC, false},
		"x86_64-w64-mingw32-g++-win32": {GCC, true}, "gcc.exe": {GCC, false},
		"": {}, "hpcc": {}, "gcc-ar": {}, "gcc-ar-12": {}, "clang-format-14": {}, "clang-tidy": {}, "tcc": {}, "c12": {}, "cpp": {},
		"clang-cl": {ClangCL, false}, "clang-cl-14": {ClangCL, false}, "x86_64-pc-windows-msvc-clang-cl.exe": {ClangCL, false},
		"cl": {CL, false}, "cl.exe": {CL, false}, "/opt/bin/cl": {CL, false}, "my-cl": {}, "lcl": {},
		"nvcc": {}, "gccgo": {}, "gcc-": {GCC, false},
	} {
		family, cxx, ok := FamilyOf(name)
		if ok != (want.family != 0) || family != want.family || cxx != want.cxx {
			t.Errorf("%q: %v, %v, %v", name, family, cxx, ok)
		}
	}
}

func TestSplitResponse(t *testing.T) {
	for _, c := range []struct {
		text  string
		words []string
		ok    bool
	}{
		{"", nil, true},
		{"  a\tb\r\nc\n", []string{"a", "b", "c"}, true},
		{`"a b" 'c d' e\ f`, []string{"a b", "c d", "e f"}, true},
		{`a"b"'c'd`, []string{"abcd"}, true},
		{`'it\'s' "\"" '\\'`, []string{"it's", `"`, `\`}, true},
		{`"open end`, []string{"open end"}, true},
		{`a ''`, nil, false},
		{`'' a`, nil, false},
		{`a\`, nil, false},
		{"a\vb", nil, false},
		{"\xef\xbb\xbfa", nil, false},
	} {
		words, ok := splitResponse(c.text)
		if ok != c.ok || ok && !slices.Equal(words, c.words) {
			t.Errorf("%q: %q, %v", c.text, words, ok)
		}
	}
}

// TestResponseFilesAgainstCompilers has both compilers split what splitResponse
// splits: each word becomes a macro whose value the preprocessor prints.
func TestResponseFilesAgainstCompilers(t *testing.T) {
	needCompilers(t, "gcc", "clang")
	for _, text := range []string{"-DA=x -DB=y", `-DA="x y" '-DB=p q'`, `-DA=\"x\ y\" -DB=\\\\`, "-DA=a\"b c\"'d e'f\n-DB=\\'", `"-DA=\"x" -DB='\"'`} {
		words, ok := splitResponse(text)
		if !ok {
			t.Fatalf("%q: not split", text)
		}
		for _, compiler := range []string{"gcc", "clang"} {
			dir := t.TempDir()
			for name, content := range map[string]string{"m.c": "A | B\n", "m.rsp": text} {
				if err := os.WriteFile(dir+"/"+name, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			runIn(t, dir, compiler, append([]string{"-E", "-P", "m.c", "-o", "want"}, words...))
			runIn(t, dir, compiler, []string{"-E", "-P", "m.c", "-o", "got", "@m.rsp"})
			got, _ := os.ReadFile(dir + "/got")
			want, _ := os.ReadFile(dir + "/want")
			if string(got) != string(want) || len(got) == 0 {
				t.Errorf("%s %q: the compiler reads %q, we %q", compiler, text, got, want)
			}
		}
	}
}

func FuzzSplitResponse(f *testing.F) {
	f.Add(`a "b c" 'd' e\ f`)
	f.Add("-DX='a b' \"a.c\"\r\n\t@sub/r2.rsp \\\\ 'it\\'s'\n")
	f.Add(`"open end`)
	f.Fuzz(func(t *testing.T, text string) {
		words, ok := splitResponse(text)
		if !ok {
			return
		}
		total := 0
		var quoted []string
		for _, w := range words {
			total += len(w)
			quoted = append(quoted, "'"+strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(w)+"'")
		}
		if total > len(text) {
			t.Fatalf("%q grew", text)
		}
		if gcc, clang := libiberty(text), llvm(text); !slices.Equal(words, gcc) || !slices.Equal(words, clang) {
			t.Fatalf("%q: %q, gcc reads %q, clang %q", text, words, gcc, clang)
		}
		again, ok := splitResponse(strings.Join(quoted, " "))
		if !ok || !slices.Equal(again, words) {
			t.Fatalf("%q: %q, quoted and split again %q", text, words, again)
		}
	})
}
