package compiler

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestSourceTextRefusal(t *testing.T) {
	for command, want := range map[string]string{
		"gcc -O2 -g3 -Wextra -c a.c":                                      "",
		"gcc -Wall -c a.c":                                                "preprocessed-warning",
		"gcc --all-warnings -c a.c":                                       "preprocessed-warning",
		"gcc -Wp,-Wall -c a.c":                                            "preprocessed-warning",
		"gcc -Wmisleading-indentation -c a.c":                             "preprocessed-warning",
		"gcc -Werror=misleading-indentation -c a.c":                       "preprocessed-warning",
		"gcc -Wno-misleading-indentation -Wall -c a.c":                    "",
		"gcc -Wall -Wno-misleading-indentation -c a.c":                    "",
		"gcc -Wall -w -c a.c":                                             "",
		"gcc -Wno-misleading-indentation -Wmisleading-indentation -c a.c": "preprocessed-warning",
		"gcc -Wno-error=misleading-indentation -c a.c":                    "",
		"g++ -Wall -c a.cc":                                               "preprocessed-warning",
		"clang -Wall -c a.c":                                              "",
		"clang -g -c a.c":                                                 "preprocessed-debug",
		"clang -g0 -c a.c":                                                "",
		"gcc -include x.h -c a.c":                                         "preprocessed-option: -include x.h",
		"gcc -Wp,-imacros,x.h -c a.c":                                     "preprocessed-option: -imacros x.h",
		"gcc -P -c a.c":                                                   "preprocessed-option: -P",
		"gcc -Wp,-C -c a.c":                                               "preprocessed-option: -C",
		"gcc -finput-charset=latin1 -c a.c":                               "preprocessed-option: -finput-charset=latin1",
		"gcc -traditional-cpp -c a.c":                                     "preprocessed-option: -traditional-cpp",
		"gcc --coverage -c a.c":                                           "preprocessed-option: coverage",
		"gcc -c a.S":                                                      "preprocessed-language: assembler-with-cpp",
		"gcc -c a.s":                                                      "preprocessed-language: assembler",
		"gcc -c a.i":                                                      "preprocessed-language: cpp-output",
		"gcc -c a.m":                                                      "preprocessed-language: objective-c",
		"gcc -M a.c":                                                      "preprocessed-language: c",
		"clang-cl /c a.c":                                                 "preprocessed-language: c",
	} {
		args, _ := splitResponse(command)
		inv, err := parseCall(args, "/w")
		if err != nil {
			t.Errorf("%s: %v", command, err)
			continue
		}
		got := ""
		if err := inv.SourceTextRefusal(); err != nil {
			got = strings.TrimPrefix(err.Error(), "not cacheable: ")
		}
		if got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	for i, r := range TextReasons() {
		if r.Description == "" || i > 0 && TextReasons()[i-1].Reason >= r.Reason {
			t.Errorf("reason %q: undescribed or out of order", r.Reason)
		}
	}
}

func TestSourceTextArgs(t *testing.T) {
	for _, c := range []struct{ command, text, macros string }{
		{"gcc -O2 -DX -Ii -MD -MF d -c /w/p/a.c -o b.o", "-E -fdirectives-only -MD -MF D -MT x -O2 -DX -Ii /w/p/a.c", "-dM -E -x c -O2 /dev/null"},
		{"g++ -std=c++17 -m32 -fPIC -U X -Wp,-DY -Wa,-g -x c++ -c a.c", "-E -fdirectives-only -MMD -MF D -MT x -std=c++17 -m32 -fPIC -U X -Wp,-DY -x c++ a.c",
			"-dM -E -x c++ -std=c++17 -m32 -fPIC /dev/null"},
		{"clang --target=arm-linux -B /t -S -- a.c", "-E -frewrite-includes -Qunused-arguments -MMD -MF D -MT x --target=arm-linux -B /t -- a.c",
			"-dM -E -x c -Qunused-arguments --target=arm-linux -B /t /dev/null"},
	} {
		args, _ := splitResponse(c.command)
		inv, err := parseCall(args, "/w")
		if err != nil {
			if c.text != "" {
				t.Errorf("%s: %v", c.command, err)
			}
			continue
		}
		if got := strings.Join(inv.SourceTextArgs("D"), " "); got != c.text {
			t.Errorf("%s:\n got %s\nwant %s", c.command, got, c.text)
		}
		if got := strings.Join(inv.PredefinedArgs(), " "); got != c.macros {
			t.Errorf("%s:\n got %s\nwant %s", c.command, got, c.macros)
		}
	}
}

func TestSourceTextMoves(t *testing.T) {
	gcc := &Invocation{Family: GCC, Source: "/w/p/a.c"}
	clang := &Invocation{Family: Clang, Source: "/w/p/a.c"}
	const prelude = "# 0 \"/w/p/a.c\"\n# 1 \"/w/p//\"\n# 0 \"<built-in>\"\n#define __A__ 1\n# 0 \"<command-line>\"\n"
	paths := machine().Paths
	move := func(p string) string { return paths.Machine().Local(paths.Neutral(p)) }
	for _, c := range []struct {
		inv       *Invocation
		raw, want string
		moved     bool
		refused   Reason
	}{
		{gcc, prelude + "# 1 \"/usr/p.h\" 1 3 4\n# 0 \"<command-line>\" 2\n# 1 \"/w/p/a.c\"\nint a;\n# 1 \"/w/p/b.h\" 1\n", "# 1 \"/hpcc/src/a.c\"\nint a;\n# 1 \"/hpcc/src/b.h\" 1\n", true, ""},
		{gcc, prelude + "# 1 \"/w/p/a.c\"\n# 5 \"/w/p2/b.h\" 1 3\n# 5 \"i/b.h\" 1 3", "# 1 \"/hpcc/src/a.c\"\n# 5 \"/w/p2/b.h\" 1 3\n# 5 \"i/b.h\" 1 3", true, ""},
		{gcc, "int a;\n", "", false, ReasonTextContent},
		{gcc, prelude + "# 1 \"other.c\"\n", "", false, ReasonTextContent},
		{gcc, prelude + "# 1 \"/w/p/a.c\"\nR\"(\n# 1 \"/w/p/b.h\"\n)\"", "", false, ReasonTextContent},
		{gcc, prelude + "# 1 \"/w/p/a.c\"\n#pragma GCC diagnostic warning \"-Wmisleading-indentation\"\n", "", false, ReasonTextContent},
		{clang, "# 1 \"i/a.h\" 1\nR\"(\n# 1 \"i/b.h\"\n)\"", "# 1 \"i/a.h\" 1\nR\"(\n# 1 \"i/b.h\"\n)\"", false, ""},
		{clang, "#define A \\\n# 1 \"/w/p/b.h\"\n# x \"/w/p/b.h\"\n#1 \"/w/p/b.h\"\n# 1 \"/w/p/b.h\n# 1 \"/w/q/\\\"b.h\"\n",
			"#define A \\\n# 1 \"/w/p/b.h\"\n# x \"/w/p/b.h\"\n#1 \"/w/p/b.h\"\n# 1 \"/w/p/b.h\n# 1 \"/hpcc/src1/\\\"b.h\"\n", true, ""},
		{clang, "", "", false, ""},
	} {
		got, moved, err := c.inv.SourceText([]byte(c.raw), move)
		var refusal *NotCacheable
		if errors.As(err, &refusal) != (c.refused != "") || refusal != nil && refusal.Reason != c.refused {
			t.Errorf("%q: %v", c.raw, err)
			continue
		}
		if err == nil && (string(got) != c.want || moved != c.moved) {
			t.Errorf("%q: moved %v\n got %q\nwant %q", c.raw, moved, got, c.want)
		}
	}
	names := []string{"/a/b-c.d", "/a b", "/a\"b", "/a\\b", "/\u00e4", "/a\nb"}
	if plain := slices.DeleteFunc(names, func(n string) bool { return !PlainName(n) }); len(plain) != 2 {
		t.Errorf("%q are plain", plain)
	}
}
