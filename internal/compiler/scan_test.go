package compiler

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// scanSummary writes a scan as one line: directives, then flags.
func scanSummary(s *FileScan) string {
	var out []string
	for _, d := range s.Directives {
		quoted := `"` + d.Name + `"`
		if d.Angle {
			quoted = "<" + d.Name + ">"
		}
		rep := ""
		if d.Repeated {
			rep = "+"
		}
		out = append(out, strings.TrimLeft(d.Kind.String(), "#_")+quoted+rep)
	}
	for _, f := range []struct {
		set  bool
		name string
	}{
		{s.ComputedInclude, "computed"}, {s.ComputedHasInclude, "computed-has"},
		{s.definesAlias, "alias"}, {s.computesAlias, "alias-use"},
		{s.Date, "date"}, {s.Time, "time"}, {s.Timestamp, "timestamp"},
		{s.timePaste, "paste"}, {s.timeWord != 0, "word"},
		{s.AsmInclude || JoinsDirective([]File{{Scan: s}}), "asm"}, {s.Module, "module"}, {s.LineMarkers, "line"},
		{s.PragmaOnce, "once"}, {s.PragmaSystemHeader, "system"},
		{s.PragmaDependency, "dependency"}, {s.PragmaPCH, "pch"},
	} {
		if f.set {
			out = append(out, f.name)
		}
	}
	return strings.Join(out, " ")
}

func TestScan(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"", ""},
		{"#include <a.h>\n", "include<a.h>"},
		{`#include "a.h"`, `include"a.h"`},
		{"\xef\xbb\xbf#include <a.h>", "include<a.h>"},
		{"  #\tinclude\t<a.h> // x\n#import <b.h>\n#include_next \"c.h\"\n#embed <d>\n", `include<a.h> import<b.h> include_next"c.h" embed<d>`},
		{"#if 0\n#include <a.h>\n#endif\n", "include<a.h>"},
		{"#include <a.h>\n#include <b.h>\n#include <a.h>\n#include \"a.h\"\n", `include<a.h>+ include<b.h> include"a.h"`},
		{"#include <sys//x.h>\n#include \"a\\b.h\"\n", `include<sys//x.h> include"a\b.h"`},
		{"#include <a.h", "computed"},
		{"#include MACRO\n", "computed"},
		{"#include\n<a.h>\n", ""},

		// Where a line begins.
		{"/* x */ #include <a.h>\n", "include<a.h>"},
		{"/* x\n y */ # /* z */ include /* * / */ <a.h>\n", "include<a.h>"},
		{"int x; /* */ #include <a.h>\n", "include<a.h>"}, // more than the compiler
		{"int x; #include <a.h>\n", ""},
		{"%:include <a.h>\n", "include<a.h>"},
		{"??=include <a.h>\n", "include<a.h>+"},
		{"// x ??/\n#include <a.h>\n", "include<a.h>+"},
		{"#\\\ninclude <a.h>\n", "include<a.h>+"}, // + since two readings were needed,
		{"# \\\n include \\  \n <a.h>\n", "include<a.h>"},
		{"#inc\\\nlude <a.h>\n", "include<a.h>+"},
		{"#include <a\\\nb.h>\n", "include<ab.h>+ computed"},
		{"#include <a.h>\r\n#include <b.h>\r\n", "include<a.h> include<b.h>"},
		{"//x\r#include <a.h>\rint x;", "include<a.h>+"},
		{"\x00#\x00include <a.h>", "include<a.h>+"},
		{"\f#include <a.h>\v\n", "include<a.h>"},
		{"#define X \\\n#include <a.h>\n", "include<a.h>"},

		// What hides directives, and what does not.
		{"/* \n#include <a.h>\n*/\n", ""},
		{"// x \\\n#include <a.h>\n", ""},
		{"// x \\ \t\n#include <a.h>\n", ""},
		{"// /* \n#include <a.h>\n", "include<a.h>+"},
		{"char *s = \"/*\";\n#include <a.h>\n", "include<a.h>"},
		{"char *s = \"\\\"/*\";\n#include <a.h>\n", "include<a.h>"},
		{"char *s = \"\\\\\"; /* \"\n#include <a.h>\n*/", ""},
		{"char *s = \"x \\\n/*\";\n#include <a.h>\n", "include<a.h>"},
		{"char c = '\"'; /*'\n#include <a.h>\n*/", ""},
		{"char c = '/*';\n#include <a.h>\n", "include<a.h>"},
		{"don't /* start\n#include <a.h>\n", "include<a.h>"},
		{"int i = 1'000'000; /* '\n#include <a.h>\n*/", ""},
		{"int i = 0x'f; int j = u8'\"'; /*\n#include <a.h>\n*/", "include<a.h>+"},
		{"#error don't /*\n#include <a.h>\n", "include<a.h>+"},
		{"/\\\n* #x\n#include <a.h>\n*\\\n/\n#include <b.h>\n", "include<a.h>+ include<b.h>+"},
		{"char *s = R\"(\n\"/*\n)\";\n#include <a.h>\n", "include<a.h>+"},
		{"char *s = R\"x(\n)\" /* )x\";\n#include <a.h>\n", "include<a.h>+"},
		{"char *s = u8R\"\"(/*)\"\";\n#include <a.h>\n", "include<a.h>+"},
		{"char *s = FOOR\"(\";\n/*\n#include <a.h>\n)\"*/", ""},
		{"char *s = R\"(\n#include <in.h>\n)\";\n", "include<in.h>+"},
		{"char *s = R\"(\n/* \n", ""},
		{"#define R x\nchar *s = R\"(\";\n#include <a.h>\n", "include<a.h>"},

		{"#if __has_include(<a.h>) && __has_include ( \"b.h\" ) || __has_include_next(<c.h>) || __has_embed(<d>)\n", `has_include<a.h> has_include"b.h" has_include_next<c.h> has_embed<d>`},
		{"#ifdef __has_include\n#if defined(__has_include) || defined __has_include\n#ifndef __has_include\n#define __has_include(x) 0\n#endif", ""},
		{"#define X __has_include\n", "computed-has"},
		{"#if __has_include(X)\n", "computed-has"},
		{"#define HAS(x) __has_include(x)\n", "computed-has"},
		{"#define P_HAS_INCLUDE __has_include /**/ // x\n#if P_HAS_INCLUDE(<a.h>) && defined(P_HAS_INCLUDE)\n", "has_include<a.h> alias"},
		{"#define P_HAS_INCLUDE(x) __has_include(x)\n#define _INCLUDE_NEXT( ... ) __has_include_next( __VA_ARGS__ )\n#if _INCLUDE_NEXT(\"a.h\")\n", "has_include_next\"a.h\" alias"},
		{"#define P_HAS_INCLUDE(x) __has_include(y)\n", "computed-has"},
		{"#define P_HAS_INCLUDE __has_include_next\n", "computed-has"},
		{"#define P_HAS_INCLUDE __has_include ||\n", "computed-has"},
		{"#if G_INCLUDE(X) || X_INCLUDE(Y)\n", "alias-use"},
		{"// x/*\n#endif // __has_include __DATE__\n", ""},
		{"#if x__has_include(X) // __has_include(Y)\n", ""},
		{"#if __has_in\\\nclude(<a.h>)\n", "has_include<a.h>+"},

		{"#pragma once\n#pragma GCC system_header\n", "once system"},
		{"#pragma GCC dependency \"x\"\n", "dependency"},
		{"_Pragma(\"GCC dependency \\\"x\\\"\") _Pragma(\"once\")", "once dependency"},
		{"_Pragma(R\"(GCC dependency \"x\")\")", "dependency"},
		{"DO_PRAGMA(GCC system_header)", "system"},
		{"#pragma clang module import x\n", "module"},
		{"#pragma GCC pch_preprocess \"x.gch\"\n", "pch"},
		{"#pragma GCC diagnostic push\n#pragma omp parallel\n", ""},
		{"# 1 \"x.h\" 3\n", "line"},
		{"#line 5\n", "line"},

		{"x(__DATE__, \"__TIME__\", a__TIME__) // __TIMESTAMP__", "date"},
		{"__TIME__", "time"},
		{"__TIMESTAMP__", "timestamp"},
		{"__DA\\\nTE__", "date"},
		{"CAT(__DA, TE__)", "date"},
		{"CAT(__T, IMESTAMP__)", "timestamp"},
		{"CAT(__DATE_, _)", "date"},
		{"CAT(_, _DATE__)", "date"},
		{"#define C(x) __##x##__\nC(DATE)", "paste word"},
		{"#define C(x) x %:%: __\n", "paste"},
		{"__DEFINE__ TIMER DATES _DATA __TIMER__", ""},

		{"asm(\".incbin \\\"x\\\"\");", "asm"},
		{"asm(\".inc\" \"bin \\\"x\\\"\");", "asm"},
		{"asm(\"nop;.\" \"include x\");", "asm"},
		{"\t.include \"x.s\"\n", "asm"},
		{"struct s x = { .include = 1 }; x.include(); f(\"done.\"); g(\".\");", ""},

		{"import foo;\n", "module"},
		{"export module a.b;\n", "module"},
		{"module;\n", "module"},
		{"import <vector>;\n", "module"},
		{"@import Foo;\n", "module"},
		{"module = 1; import(x); export int x; importer();\n", ""},
	} {
		if got := scanSummary(Scan([]byte(c.src))); got != c.want {
			t.Errorf("%q:\n got %q\nwant %q", c.src, got, c.want)
		}
	}
}

func TestTimeMacrosAcrossFiles(t *testing.T) {
	paste := File{Scan: Scan([]byte("#define C(x) __##x##__\n"))}
	word := File{Scan: Scan([]byte("C(TIMESTAMP)\n"))}
	if d, tm, ts := TimeMacros([]File{paste, word}); d || tm || !ts {
		t.Error(d, tm, ts)
	}
	if _, _, ts := TimeMacros([]File{word}); ts {
		t.Error("a bare word is no time macro")
	}
}

// TestScanManyDirectives goes beyond the size up to which duplicates are
// searched for one by one.
func TestScanManyDirectives(t *testing.T) {
	var src strings.Builder
	for range 2 {
		for i := range 100 {
			fmt.Fprintf(&src, "#include <h%d.h>\n", i)
		}
	}
	d := Scan([]byte(src.String())).Directives
	if len(d) != 100 || slices.ContainsFunc(d, func(d Directive) bool { return !d.Repeated }) || d[99].Name != "h99.h" {
		t.Errorf("%d directives: %v", len(d), d)
	}
}

func FuzzScan(f *testing.F) {
	for _, piece := range includePieces {
		f.Add([]byte(strings.ReplaceAll(piece, "%d", "1")))
	}
	f.Add([]byte("#include <a.h>\n/* \"*/ R\"x(\n)x\" ??/\n __has_include(\"x\") _Pragma(\"once\") a##__ \\ \n'\"'\r"))
	f.Fuzz(func(t *testing.T, src []byte) {
		checkMarks(t, src)
		s := Scan(src)
		for _, d := range s.Directives {
			if d.Name == "" || strings.Contains(d.Name, "\n") {
				t.Errorf("directive named %q", d.Name)
			}
		}
		// What is put before whole lines takes nothing away.
		more := Scan(append([]byte("#include <first.h>\n"), src...))
		if !slices.ContainsFunc(more.Directives, func(d Directive) bool { return d.Name == "first.h" }) {
			t.Error("the first directive is missing")
		}
		// The same text twice means the same, in all but the number of times.
		if again := Scan(src); !reflect.DeepEqual(s, again) {
			t.Errorf("scanned again: %+v, before %+v", again, s)
		}
		// A name that is split over lines beside a blank counts as computed, for
		// which the preprocessor is asked.
		plain, _ := plainIncludes(src)
		for _, want := range plain {
			if s.ComputedInclude {
				break
			}
			if !slices.ContainsFunc(s.Directives, func(d Directive) bool {
				return d.Kind == want.Kind && d.Angle == want.Angle && d.Name == want.Name
			}) {
				t.Errorf("%v %q is missing", want.Kind, want.Name)
			}
		}
	})
}

// TestScanIsLinear gives texts that would be slow if some look ahead or back
// were not bounded.
func TestScanIsLinear(t *testing.T) {
	for _, piece := range []string{"R\"(", "'", "0'", "\\\n", "\\ ", "/*", "//\\\n", "##", "_", "_Pragma(", "__has_include(", "\"\\", "import ", "#include <", "\r", "??/\n", "## /* */", "#\\\n", "\".\"", "R\"(\n#", "////*", "#error /*",
		"/**/#define X (", "/**/#define X a/", "/**/#include X(", "#define X \\\n", "\n#define X a\n"} {
		src := []byte(strings.Repeat(piece, 1<<20/len(piece)))
		// A quadratic scan of 1 MB takes minutes, a linear one 100 ms. A busy
		// machine may make one of them long, and not the next.
		const most = 10 * time.Second
		took := time.Hour
		for try := 0; try < 3 && took > most; try++ {
			start := time.Now()
			Scan(src)
			took = min(took, time.Since(start))
		}
		if took > most {
			t.Errorf("%q: %v for 1 MB", piece, took)
		}
	}
}

// systemHeaders returns the text of the headers of libstdc++ and libc.
func systemHeaders(b *testing.B) [][]byte {
	b.Helper()
	var texts [][]byte
	for _, glob := range []string{"/usr/include/c++/12/*", "/usr/include/c++/12/bits/*.h", "/usr/include/*.h", "/usr/include/x86_64-linux-gnu/bits/*.h"} {
		names, _ := filepath.Glob(glob)
		for _, n := range names {
			if t, err := os.ReadFile(n); err == nil {
				texts = append(texts, t)
			}
		}
	}
	if len(texts) == 0 {
		b.Skip("no system headers")
	}
	return texts
}

func BenchmarkScan(b *testing.B) {
	texts := systemHeaders(b)
	var n int64
	for _, t := range texts {
		n += int64(len(t))
	}
	b.SetBytes(n)
	b.ReportAllocs()
	for b.Loop() {
		for _, t := range texts {
			Scan(t)
		}
	}
}

func TestIndexByRare(t *testing.T) {
	for _, text := range []string{"", "include", "xinclude", "u", "uu", "incluinclude", "inc", "nclude", "iincludeinclude"} {
		src := []byte(text)
		for at := range len(src) + 1 {
			want := bytes.Index(src[at:], asmInclude)
			if want >= 0 {
				want += at
			}
			for rare := range asmInclude {
				if got := indexByRare(src, asmInclude, rare, at); got != want {
					t.Errorf("%q from %d by letter %d: %d, want %d", text, at, rare, got, want)
				}
			}
		}
	}
}
