package compiler

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// opaque marks what a scan of sources cannot tell.
const opaque = "opaque"

// asmCases are ways to make an assembler read a file, and what only looks like
// one.
var asmCases = []struct {
	name, src, want string
	reads           bool // fails where the file is missing
}{
	{"m.c", `__asm__(".incbin \"f\"");`, "f", true},
	{"m.c", `__asm__("nop\n\t.incbin\t\"f\",1,2\n");`, "f", true},
	{"m.c", `__asm__(" .INCBIN \"f\"");`, "f", true},
	{"m.c", `__asm__(".Include \"f\"");`, "f/", true},
	{"m.c", `void g(void) { __asm__ volatile ("nop; .incbin \"f\"" ::: "memory"); }`, "f", true},
	{"m.cc", `asm(R"(.incbin "f")");`, opaque, true},
	{"m.c", `__asm__(".inc" "bin \"f\"");`, opaque, true},
	{"m.c", `__asm__("." "incbin \"f\"");`, opaque, true},
	{"m.c", `__asm__(".incbin \"" "f" "\"");`, opaque, true},
	{"m.c", `__asm__(".incbin \"\146\"");`, opaque, true},
	{"m.c", `__asm__("\056incbin \"f\"");`, opaque, true},
	{"m.c", `__asm__(".\x69ncbin \"f\"");`, opaque, true},
	{"m.c", "__asm__(\".in\\\ncbin \\\"f\\\"\");", "f", true},
	{"m.c", "#define S(x) #x\n__asm__(S(.incbin \"f\"));", "f", true},
	{"m.c", "#define S(x) #x\n__asm__(S(.inc) \"bin \\\"f\\\"\");", opaque, true},
	{"m.c", "#define S(x) #x\n__asm__(S(.)S(incbin)\" \\\"f\\\"\");", opaque, true},
	{"m.c", "#define F \"f\"\n#define S(x) T(x)\n#define T(x) #x\n__asm__(S(.incbin F));", opaque, true},
	{"m.c", `__asm__(".macro m x\n .\\x \"f\"\n.endm\n m incbin");`, opaque, true},
	{"m.c", `void g(void) { __asm__(".{incbin|x} \"f\"" ::); }`, opaque, true},
	{"m.S", ".incbin \"f\"\n", "f", true},
	{"m.S", "#define F \"f\"\n.incbin F\n", opaque, true},
	{"m.S", ".macro m x\n.incbin \"\\x\"\n.endm\nm f\n", opaque, true},
	{"m.S", ".macro m x\n.\\x \"f\"\n.endm\nm incbin\n", opaque, true},
	{"m.s", "nop ; .include \"f\"\n", "f/", true},
	{"m.c", `struct s { int include; } x = { .include = 1 }; int g(void) { return x.include; }`, "", false},
	{"m.c", `const char *s = "%d.%s in .init"; const char *t = "a.\n";`, "", false},
	{"m.c", `const char *s = "\033[1m\0"; __asm__("nop");`, "", false},
	{"m.c", `__asm__("." "i" "n" "c" "bin \"f\"");`, opaque, true},
	{"m.c", `__asm__("nop;.in" "clude \"f\"");`, opaque, true},
	{"m.c", "#define DO(op) __asm__(\".\" #op \" \\\"f\\\"\")\nDO( include );", opaque, true},
	{"m.c", "#define DO(a, b) __asm__(a b)\nDO(\".\", \"INCLUDE \\\"f\\\"\");", opaque, true},
	{"m.c", "#define REL \".long 1 - .\"\n__asm__(REL \"\\n\\tincl %eax\");", "", false},
	{"m.c", `int h(const char *); int g(int x) { __asm__("nop" :: "c" (x)); return h(".") + h(".i"); }`, "", false},
	{"m.cc", "extern \"C\" int h(const char *); int g() { __asm__(\"inc\" \"l %eax\"); return h(\".\") + h(\"include\"[0] ? \"in\" : \"a.\"); }", opaque, false}, // more than is so
	{"m.c", `const char *path = ".\\?.dll;" "!\\?.dll"; __asm__("nop");`, "", false},
	{"m.c", "int h(const char *); int g(int x) { __asm__ volatile (\"in %%dx, %%al\" : \"=a\" (x) : \"d\" (x)); return h(\".\") + h(\"inc\") + h(\"b\") + h(\"in_x\"); }", "", false},
	{"m.cc", "extern \"C\" int h(const char *); int g() { __asm__(\"inc\" \"l %eax\"); return h(\".\") + h(\"in\"); }", "", false},
}

// TestScanAssembly lists ways to make an assembler read a file. The real
// compilers say whether each does: without the file it fails.
func TestScanAssembly(t *testing.T) {
	scanTools(t, "gcc-12", "clang-14")
	for _, c := range asmCases {
		s := Scan([]byte(c.src))
		got := ""
		for _, f := range s.AsmFiles {
			got += f.Name
			if f.Text {
				got += "/"
			}
		}
		joins := JoinsDirective([]File{{Scan: s}})
		if s.AsmOpaque || joins {
			got = opaque
		}
		if got != c.want || (s.AsmInclude || joins) != (got != "") {
			t.Errorf("%s: %q, want %q", c.src, got, c.want)
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, c.name), []byte(c.src), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, compiler := range []string{"gcc-12", "clang-14"} {
			if compiler == "clang-14" && slices.Contains([]string{"m.S"}, c.name) && got == opaque && c.src[1] == 'm' {
				continue // its macros are confirmed by gas
			}
			cmd := exec.Command(compiler, "-c", c.name, "-o", "m.o")
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if (err != nil) != c.reads {
				t.Errorf("%s without the file, %s: %v\n%s", compiler, c.src, err, out)
			}
		}
	}
}

// TestJoinsDirectiveAcrossFiles: a header's macro may begin what another ends.
func TestJoinsDirectiveAcrossFiles(t *testing.T) {
	begin := File{Path: "a.h", Scan: Scan([]byte("#define DOT \".\"\n"))}
	rest := File{Path: "a.c", Scan: Scan([]byte("#include \"a.h\"\n__asm__(DOT \"inc\" \"bin \\\"f\\\"\");\n"))}
	if JoinsDirective([]File{begin}) || JoinsDirective([]File{rest}) {
		t.Error("one half is taken for a directive")
	}
	l, err := FindAssemblerLookups(&Invocation{Source: "a.c"}, SearchPath{}, []File{rest, begin}, NewDirCache(t.TempDir()), nil)
	if !JoinsDirective([]File{rest, begin}) || err != nil || l.Opaque != "a.c" {
		t.Errorf("two halves are not taken for a directive: %+v, %v", l, err)
	}
}

// TestAssemblerLookups follows included texts, and names each place.
func TestAssemblerLookups(t *testing.T) {
	dir := realDir(t)
	writeTree(t, dir, "== m.s\n.incbin \"blob\"\n.include \"x.inc\"\n== inc/x.inc\n.incbin \"/abs\"\n.include \"y.inc\"\n== y.inc\n== q/blob\n== odd.inc\n.incbin \\x\n== d/z/\n")
	inv := &Invocation{Family: Clang, AsmIncludeDirs: []string{"inc", "gone"}}
	scan := func(path string) (*FileScan, error) {
		b, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return nil, err
		}
		return Scan(b), nil
	}
	look := func(source string) AssemblerLookups {
		s, err := scan(source)
		if err != nil {
			t.Fatal(err)
		}
		l, err := FindAssemblerLookups(inv, SearchPath{Quote: []string{"q"}}, []File{{source, s}}, NewDirCache(dir), scan)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := look("m.s")
	if want := []string{"inc/x.inc", "q/blob", "y.inc"}; !slices.Equal(l.Files, want) || l.Opaque != "" {
		t.Errorf("files %q, want %q; opaque %q", l.Files, want, l.Opaque)
	}
	if want := []string{"/abs", "blob", "gone", "inc/blob", "inc/y.inc", "q/x.inc", "q/y.inc", "x.inc"}; !slices.Equal(l.Absent, want) {
		t.Errorf("absent %q, want %q", l.Absent, want)
	}
	writeTree(t, dir, "== n.s\n.include \"odd.inc\"\n== loop.s\n.include \"loop.s\"\n== chain.s\n.include \"c0\"\n")
	if l := look("n.s"); l.Opaque != "odd.inc" {
		t.Errorf("opaque %q", l.Opaque)
	}
	if l := look("loop.s"); !slices.Equal(l.Files, []string{"loop.s"}) || l.Opaque != "" {
		t.Errorf("a loop: %+v", l)
	}
	for i := range maxAsmFiles + 1 {
		writeTree(t, dir, fmt.Sprintf("== c%d\n.include \"c%d\"\n", i, i+1))
	}
	if l := look("chain.s"); l.Opaque == "" {
		t.Error("no end to what is included")
	}
}
