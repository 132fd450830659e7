package compiler

import (
	"os/exec"
	"strings"
	"testing"
)

// preprocessedByClang is what clang makes of a source.
func preprocessedByClang(t *testing.T, language, src string) []byte {
	t.Helper()
	cmd := exec.Command("clang-14", "-E", "-x", language, "-fms-extensions", "-")
	cmd.Stdin = strings.NewReader(src)
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	return text
}

// TestAssemblesNoFile holds what TestScanAssembly confirmed by the compilers
// against the same texts, preprocessed; and what no scan of sources can tell.
func TestAssemblesNoFile(t *testing.T) {
	scanTools(t, "clang-14")
	for _, c := range asmCases {
		language := map[string]string{"m.c": "c", "m.cc": "c++"}[c.name]
		if language == "" {
			continue
		}
		if got := AssemblesNoFile(preprocessedByClang(t, language, c.src)); got == c.reads {
			t.Errorf("%s: reads no file: %v", c.src, got)
		}
	}
	for src, want := range map[string]bool{
		`int f(const char *, ...); int g(void) { return f("include") + f("."); } __asm__("nop");`:                                       true,
		"#define JOIN(f, x, y) f(x y)\nint g(int (*f)(const char *)) { return JOIN(f, \".\", \"incbin\"); } __asm__(\"nop\");":          true,
		`extern int f(void) __asm__("g"); void h(int x) { __asm volatile("movl %%eax, %0; jmp .Lx; .Lx:" : "=r"(x) : "r"(x) : "cc"); }`: true,
		`__asm__("one" /* " */ "two" // "` + "\n" + `"three");`:                                                                         true,
		`void h(void) { __asm__ goto ("jmp %l0" :::: out); out:; }`:                                                                     true,
		`void h(int include) { __asm__(".%c0 \"f\"" :: "i"(3)); }`:                                                                      false,
		`void h(void) { __asm__(".in{clude|c} \"f\"" ::); }`:                                                                            false,
		`extern char x __asm__("nothing."); `:                                                                                           false,
		`__asm__(".macro m x y\n .\\x\\y \"f\"\n.endm\n m inc bin");`:                                                                   false,
		`__asm__(".altmacro\n");`:        false,
		`__asm__("\x2eincbin");`:         false,
		`void h(void) { __asm { nop } }`: false,
		`void h(void) { __asm nop }`:     false,
		`int asm_ = 1; int casm(int); char c = '"'; const char *s = "asm(\".incbin\")\\"; /* asm(".incbin") */ int d = 1 ? 'a' : '\'';`: true,
		"int a;\n# 1 \"asm(.incbin)\"\nint b;\n#pragma asm(\".incbin\")\n":                                                              true,
		`const char *s = R"x(asm(".incbin \"f\"") )" )x"; const char *t = u8R"(asm)";`:                                                  true,
		"const char *s = R\"x()x\"; const char *t = \")x\"; __asm__(\".incbin \\\"f\\\"\");":                                            false,
		`int n = 1'000; __asm__(".incbin \"f\""); int m = 2'000;`:                                                                       false,
		`const char *s = "unterminated`: false,
		`__asm__("x"`:                   false,
	} {
		if got := AssemblesNoFile([]byte(src)); got != want {
			t.Errorf("%s: reads no file: %v", src, got)
		}
	}
}

// FuzzAssemblesNoFile: whatever stands before it, a directive is seen; so no
// text that is understood ends within a literal or a comment.
func FuzzAssemblesNoFile(f *testing.F) {
	for _, c := range asmCases {
		f.Add([]byte(c.src))
	}
	f.Add([]byte("int n = 1'000; /* ' */ const char *s = R\"x(\")x\"; // \\"))
	f.Add([]byte("# 1 \"a\"\n__asm volatile(\"nop\" : : );"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if !AssemblesNoFile(text) {
			return
		}
		if more := append(text[:len(text):len(text)], "\n;asm(\".incbin \\\"f\\\"\");"...); AssemblesNoFile(more) {
			t.Errorf("not seen behind %q", text)
		}
	})
}
