package script

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// change is one entry of explain's JSON.
type change struct {
	Kind, Name, How, Old, New, Directive, In, Hides string
	Via                                             []string
}

type explanation struct {
	File, Output, Outcome, Reason, Detail, Next, Action, Against, Note string
	Changes                                                            []change
}

// explainCase is one kind of change between two compiles.
type explainCase struct {
	name string
	// files are there before the first compile; "gcc -c a.c -o a.o" compiles
	// a.c if first is not given, and second is first if it is not given.
	files         map[string]string
	first, second string
	// env is added to the environment of both compiles, env2 to the second's.
	env, env2 []string
	// change is made between the compiles, as a shell script in the case's
	// directory.
	change string
	// fails says that the second compile does not succeed.
	fails bool
	// outcome of the second compile; "" is a miss.
	outcome string
	// text are lines of explain's output, "label<TAB>text", where "*" stands for
	// anything.
	text []string
	// want is a change that the JSON must hold; only fields that are set count.
	want change
	// against is what the miss is compared with; "" is "the compile before".
	against string
	// alone says that there is no other change.
	alone bool
	// explain is the file to ask about, a.c if it is not given.
	explain string
	// oneShot runs without the daemon, whose settings are its own.
	oneShot bool
}

var chainFiles = map[string]string{
	"a.c":   "#include \"x.h\"\nint a = Y;\n",
	"x.h":   "#ifndef X_H\n#define X_H\n#include <sub/y.h>\n#endif\n",
	"i/z.h": "#define Z 1\n", "i/sub/y.h": "#include \"../z.h\"\n#define Y Z\n",
}

var shadowFiles = map[string]string{
	"a.c": "#include \"mid.h\"\nint a = X;\n", "mid.h": "#include \"x.h\"\n",
	"inc1/keep.h": "", "inc2/x.h": "#define X 2\n", "x.new": "#define X 1\n",
}

var plainFile = map[string]string{"a.c": "int a;\n"}

var warningFile = map[string]string{"a.c": "int f(void) { int unused; return 0; }\n"}

var explainCases = []explainCase{
	// Files.
	{name: "source", files: plainFile, change: "echo 'int b;' >>a.c",
		text: []string{"changed\ta.c changed"}, want: change{Kind: "input", Name: "a.c"}, alone: true},
	{name: "header", files: map[string]string{"a.c": "#include \"h.h\"\n", "h.h": ""}, change: "echo 'int b;' >>h.h",
		text: []string{"changed\th.h changed (a.c -> h.h)"}, want: change{Kind: "input", Name: "h.h", Via: []string{"a.c", "h.h"}}, alone: true},
	{name: "header through a chain", files: chainFiles, first: "gcc -Ii -c a.c -o a.o", change: "echo '#define Z 1 ' >i/z.h",
		text: []string{"changed\ti/sub/../z.h changed (a.c -> x.h -> i/sub/y.h -> i/sub/../z.h)"},
		want: change{Kind: "input", Via: []string{"a.c", "x.h", "i/sub/y.h", "i/sub/../z.h"}}, alone: true},
	{name: "clang, header through a chain", files: chainFiles, first: "clang -Ii -c a.c -o a.o", change: "echo '#define Z 1 ' >i/z.h",
		text: []string{"changed\ti/sub/../z.h changed (a.c -> x.h -> i/sub/y.h -> i/sub/../z.h)"}, alone: true},
	{name: "header of two includers", files: map[string]string{"a.c": "#include \"p.h\"\n#include \"q.h\"\n", "p.h": "", "q.h": "#include \"r.h\"\n", "r.h": ""},
		change: "echo 'int r;' >r.h", text: []string{"changed\tr.h changed (a.c -> q.h -> r.h)"}, alone: true},
	{name: "system header", files: map[string]string{"a.c": "#include <s.h>\n", "sys/s.h": ""}, first: "gcc -isystem sys -c a.c -o a.o", change: "echo 'int s;' >sys/s.h",
		text: []string{"changed\tsys/s.h changed (a.c -> sys/s.h)"}, alone: true},
	{name: "forced header", files: map[string]string{"a.c": "int a;\n", "f.h": ""}, first: "gcc -include f.h -c a.c -o a.o", change: "echo 'int f;' >f.h",
		text: []string{"changed\tf.h changed"}, want: change{Kind: "input", Name: "f.h"}, alone: true},
	{name: "forced macros", files: map[string]string{"a.c": "int a = M;\n", "m.h": "#define M 1\n"}, first: "gcc -imacros m.h -c a.c -o a.o", change: "echo '#define M 2' >m.h",
		text: []string{"changed\tm.h changed"}, alone: true},
	{name: "next header", files: map[string]string{"a.c": "#include <n.h>\nint a = N;\n", "p/n.h": "#include_next <n.h>\n", "q/n.h": "#define N 1\n"},
		first: "gcc -Ip -Iq -c a.c -o a.o", change: "echo '#define N 2' >q/n.h", text: []string{"changed\tq/n.h changed (a.c -> p/n.h -> q/n.h)"}, alone: true},
	{name: "binary file", files: map[string]string{"a.c": "__asm__(\".data\\n.incbin \\\"b.bin\\\"\");\n", "b.bin": "1"}, change: "echo 2 >b.bin",
		text: []string{"changed\tb.bin changed"}, alone: true},
	{name: "include added", files: map[string]string{"a.c": "int a;\n", "h.h": "int h;\n"}, change: "echo '#include \"h.h\"' >>a.c",
		text: []string{"changed\ta.c changed", "changed\th.h is read now (a.c -> h.h)"}, want: change{Kind: "new-file", Name: "h.h"}},
	{name: "include dropped", files: map[string]string{"a.c": "#include \"h.h\"\n", "h.h": "int h;\n"}, change: "echo 'int a;' >a.c",
		text: []string{"changed\ta.c changed", "changed\th.h is not read any more"}, want: change{Kind: "gone-file", Name: "h.h"}},
	{name: "link turned", files: map[string]string{"a.c": "#include \"l.h\"\n", "one.h": "int o;\n", "two.h": "int t;\n"},
		first: "sh -c 'test -e l.h || ln -s one.h l.h; exec hpcc gcc -c a.c -o a.o'", change: "ln -sf two.h l.h",
		text: []string{"changed\tl.h changed (a.c -> l.h)"}, alone: true},

	// Files that appear and vanish.
	{name: "header that hides another", files: shadowFiles, first: "gcc -Iinc1 -Iinc2 -c a.c -o a.o", change: "mv x.new inc1/x.h",
		text: []string{"changed\tinc1/x.h exists now and hides inc2/x.h (#include \"x.h\" in mid.h, a.c -> mid.h -> inc1/x.h)"},
		want: change{Kind: "new-file", Name: "inc1/x.h", Hides: "inc2/x.h", Directive: `#include "x.h"`, In: "mid.h"}, alone: true},
	{name: "clang, header that hides another", files: shadowFiles, first: "clang -Iinc1 -Iinc2 -c a.c -o a.o", change: "mv x.new inc1/x.h",
		text: []string{"changed\tinc1/x.h exists now and hides inc2/x.h (#include \"x.h\" in mid.h, a.c -> mid.h -> inc1/x.h)"}, alone: true},
	{name: "header beside its includer", files: shadowFiles, first: "gcc -Iinc1 -Iinc2 -c a.c -o a.o", change: "mv x.new x.h",
		text: []string{"changed\tx.h exists now and hides inc2/x.h (#include \"x.h\" in mid.h, a.c -> mid.h -> x.h)"}, alone: true},
	{name: "header in a new directory", files: shadowFiles, first: "gcc -Inew/dir -Iinc2 -c a.c -o a.o", change: "mkdir -p new/dir && mv x.new new/dir/x.h",
		text: []string{"changed\tnew/dir/x.h exists now and hides inc2/x.h (#include \"x.h\" in mid.h, *"}, want: change{Kind: "new-file", Old: "absent"}, alone: true},
	{name: "system header hidden", files: map[string]string{"a.c": "#include <limits.h>\n", "inc/keep.h": ""}, first: "gcc -Iinc -c a.c -o a.o", change: "echo 'int l;' >inc/limits.h",
		text: []string{"changed\tinc/limits.h exists now and hides /usr/*limits.h (#include <limits.h> in a.c)"}},
	{name: "header asked for appears", files: map[string]string{"a.c": "#if __has_include(\"o.h\")\n#include \"o.h\"\n#endif\n"}, change: "echo 'int o;' >o.h",
		text: []string{"changed\to.h exists now where it was looked for in vain (__has_include(\"o.h\") in a.c)"}, want: change{Kind: "new-file", Name: "o.h", In: "a.c"}, alone: true},
	{name: "header asked for is gone", files: map[string]string{"a.c": "#if __has_include(\"o.h\")\nint o;\n#endif\n", "o.h": ""}, change: "rm o.h",
		text: []string{"changed\to.h does not exist any more (__has_include(\"o.h\") in a.c)"}, want: change{Kind: "gone-file", Name: "o.h", New: "absent", Directive: `__has_include("o.h")`}, alone: true},
	{name: "directory of what was asked for is gone", files: map[string]string{"a.c": "#if __has_include(<o.h>)\nint o;\n#endif\n", "d/o.h": ""}, first: "gcc -Id -c a.c -o a.o", change: "rm -r d",
		text: []string{"changed\td/o.h does not exist any more (__has_include(<o.h>) in a.c)"}, want: change{Kind: "gone-file", New: "absent"}},
	{name: "header gone, another found", files: map[string]string{"a.c": "#include <x.h>\n", "p/x.h": "int p;\n", "q/x.h": "int q;\n"}, first: "gcc -Ip -Iq -c a.c -o a.o", change: "rm p/x.h",
		text: []string{"changed\tp/x.h does not exist any more (#include <x.h> in a.c)", "changed\tq/x.h is read now (a.c -> q/x.h)"}, want: change{Kind: "gone-file", Name: "p/x.h", New: "absent"}},
	{name: "computed header that is asked for", files: map[string]string{"a.c": "#define H <o.h>\n#if __has_include(H)\nint o;\n#endif\nint a;\n", "d/keep.h": ""}, first: "sh -c 'hpcc gcc -Id -c a.c -o a.o && exec hpcc gcc -Id -c a.c -o a.o'", second: "gcc -Id -c a.c -o a.o", change: "touch d/o.h",
		text: []string{"changed\tthe preprocessed text changed"}, want: change{Kind: "preprocessed"}, alone: true},

	// Flags.
	{name: "flag added", files: plainFile, second: "gcc -O2 -c a.c -o a.o", text: []string{"changed\tflag -O2 is new"}, want: change{Kind: "flag", How: "added", New: "-O2"}, alone: true},
	{name: "flag removed", files: plainFile, first: "gcc -Wall -c a.c -o a.o", second: "gcc -c a.c -o a.o", text: []string{"changed\tflag -Wall is gone"}, want: change{Kind: "flag", How: "removed", Old: "-Wall"}, alone: true},
	{name: "flag changed", files: plainFile, first: "gcc -O1 -c a.c -o a.o", second: "gcc -O2 -c a.c -o a.o", text: []string{"changed\tflag -O1 is now -O2"},
		want: change{Kind: "flag", How: "changed", Name: "-O", Old: "-O1", New: "-O2"}, alone: true},
	{name: "macro changed", files: plainFile, first: "gcc -DX=1 -c a.c -o a.o", second: "gcc -DX=2 -c a.c -o a.o", text: []string{"changed\tflag -DX=1 is now -DX=2"}, want: change{Kind: "flag", Name: "-DX"}, alone: true},
	{name: "flags in another order", files: map[string]string{"a.c": "int a;\n", "p/h": "", "q/h": ""}, first: "gcc -Ip -Iq -c a.c -o a.o", second: "gcc -Iq -Ip -c a.c -o a.o",
		text: []string{"changed\tflags stand in another order: *"}, want: change{Kind: "flag", How: "reordered"}, alone: true},
	{name: "clang, flag changed", files: plainFile, first: "clang -O1 -c a.c -o a.o", second: "clang -O2 -c a.c -o a.o", text: []string{"changed\tflag -O1 is now -O2"}, alone: true},
	{name: "flag in a response file", files: map[string]string{"a.c": "int a;\n", "r": "-DX=1 -DY"}, first: "gcc @r -c a.c -o a.o", change: "echo '-DX=1 -DZ' >r",
		text: []string{"changed\tflag -DY is now -DZ"}, alone: true},
	{name: "native", files: plainFile, first: "gcc -march=native -c a.c -o a.o", second: "gcc -march=x86-64 -c a.c -o a.o",
		text: []string{"changed\twhat native means is gone: -march=*", "changed\tflag -march=native is now -march=x86-64"}, want: change{Kind: "native"}},
	{name: "kind of dependency file", files: plainFile, first: "gcc -MD -c a.c -o a.o", second: "gcc -MMD -c a.c -o a.o", text: []string{"changed\tflag -MMD is new"}, alone: true},

	// Environment.
	{name: "variable set", files: plainFile, env2: []string{"CPATH=/nowhere"}, text: []string{"changed\tvariable CPATH=/nowhere is set now"}, want: change{Kind: "environment", Name: "CPATH"}, alone: true},
	{name: "variable changed", files: plainFile, env: []string{"SOURCE_DATE_EPOCH=1"}, env2: []string{"SOURCE_DATE_EPOCH=2"},
		text: []string{"changed\tvariable SOURCE_DATE_EPOCH=1 is now SOURCE_DATE_EPOCH=2"}, alone: true},
	{name: "variable that hides a header", files: map[string]string{"a.c": "#include <x.h>\n", "p/x.h": "int p;\n", "q/x.h": "int q;\n"}, first: "gcc -isystem q -c a.c -o a.o", env2: []string{"CPATH=p"},
		text: []string{"changed\tvariable CPATH=p is set now", "changed\tp/x.h is read now (a.c -> p/x.h)"}, want: change{Kind: "environment"}},
	{name: "working directory", files: map[string]string{"a.c": "int a;\n", "d/keep": ""}, first: "sh -c 'exec hpcc gcc -g -c $W/a.c -o $W/a.o'", second: "sh -c 'cd d && exec hpcc gcc -g -c $W/a.c -o $W/a.o'",
		text: []string{"changed\tthe working directory was * and is now */d"}, want: change{Kind: "directory"}},
	{name: "colours", files: warningFile, first: "gcc -Wall -fdiagnostics-color=always -c a.c -o a.o", env2: []string{"GCC_COLORS=warning=01;31"},
		text: []string{"changed\tmessages: GCC_COLORS is new: warning=01;31"}, want: change{Kind: "diagnostics", Name: "GCC_COLORS"}, alone: true},
	{name: "language", files: warningFile, first: "gcc -Wall -c a.c -o a.o", env: []string{"LC_ALL=C"}, env2: []string{"LC_ALL=C.UTF-8"},
		text: []string{"changed\tmessages: LC_ALL was C and is now C.UTF-8"}, want: change{Kind: "diagnostics", Name: "LC_ALL"}, alone: true},
	{name: "terminal", files: warningFile, first: "gcc -Wall -c a.c -o a.o", second: "script -qec 'stty cols 72; hpcc gcc -Wall -c a.c -o a.o' /dev/null", env: []string{"TERM=xterm"},
		text: []string{"changed\tmessages: where they go was stderr pipe and is now stderr terminal 72*"}, want: change{Kind: "diagnostics", Name: "where they go"}},
	{name: "reproducible mode", oneShot: true, files: map[string]string{"a.c": "int a;\n", ".hpcc.toml": ""}, env2: []string{"HPCC_REPRODUCIBLE_ENABLED=true"},
		text: []string{"changed\tthe mode of builds was plain and is now reproducible"}, want: change{Kind: "mode"}},
	{name: "project root", oneShot: true, files: map[string]string{"p/a.c": "#include \"h.h\"\n", "p/h.h": ""}, first: "sh -c 'exec hpcc gcc -c $W/p/a.c -o a.o'",
		env: []string{"HPCC_REPRODUCIBLE_ENABLED=true", "HPCC_ROOT=$W"}, env2: []string{"HPCC_ROOT=$W/p"}, explain: "p/a.c",
		text: []string{"changed\tthe project root was * and is now */p"}, want: change{Kind: "root"}},

	// Compilers.
	{name: "another compiler", files: plainFile, second: "clang -c a.c -o a.o", text: []string{"changed\tcompiler: family was gcc and is now clang", "changed\tcompiler: version was *"}, want: change{Kind: "compiler", Name: "family"}},
	{name: "another name", files: plainFile, second: "x86_64-linux-gnu-gcc -c a.c -o a.o", text: []string{"changed\tcompiler: name was gcc and is now x86_64-linux-gnu-gcc"}, want: change{Kind: "compiler", Name: "name"}},
	{name: "assembler", files: map[string]string{"a.c": "int a;\n", "b/keep": ""}, first: "gcc -Bb -c a.c -o a.o", change: "cp $(command -v as) b/as && echo >>b/as",
		text: []string{"changed\tcompiler: as was /usr/bin/as (*) and is now */b/as (*)"}, want: change{Kind: "compiler", Name: "as"}},
	{name: "compiler proper", files: map[string]string{"a.c": "int a;\n", "b/keep": ""}, first: "gcc -Bb -c a.c -o a.o", change: "cp $(gcc -print-prog-name=cc1) b/cc1 && echo >>b/cc1",
		text: []string{"changed\tcompiler: cc1 was * and is now */b/cc1 (*)"}, want: change{Kind: "compiler", Name: "cc1"}, alone: true},
	{name: "library", files: plainFile, env: []string{"LD_LIBRARY_PATH=$W/lib"}, change: "mkdir lib && cp /lib/x86_64-linux-gnu/libmpc.so.3 lib/ && echo >>lib/libmpc.so.3",
		text: []string{"changed\tcompiler: library libmpc.so.3 was * and is now */lib/libmpc.so.3 (*)"}, want: change{Kind: "compiler", Name: "library libmpc.so.3"}},

	// What is compared.
	{name: "nearest of two configurations", files: map[string]string{"a.c": "#include \"h.h\"\n", "h.h": ""}, first: "sh -c 'hpcc gcc -O2 -c a.c -o o2.o && exec hpcc gcc -O0 -c a.c -o o0.o'",
		change: "echo 'int h;' >h.h", second: "gcc -O2 -c a.c -o o2.o", against: "the nearest entry", text: []string{"changed\th.h changed (a.c -> h.h)"}, alone: true},
	{name: "object", files: map[string]string{"a.c": "#include \"h.h\"\n", "h.h": ""}, first: "gcc -c a.c -o build/a.o", change: "echo 'int h;' >h.h", explain: "build/a.o",
		text: []string{"file\t*/a.c", "changed\th.h changed (a.c -> h.h)"}, alone: true},
	{name: "evicted", files: plainFile, change: "rm -r $HPCC_CACHE_DIR/ac && hpcc clean", text: []string{"cause\tthe same compile was in the cache before: *"}},
	{name: "hit", files: plainFile, outcome: "hit", text: []string{"outcome\thit"}},

	// What is not cached.
	{name: "date", files: plainFile, change: "echo 'char d[] = __DATE__;' >>a.c", outcome: "uncacheable",
		text: []string{"outcome\tuncacheable (date-time)", "because\t*: __DATE__ in a.c", "next\tset SOURCE_DATE_EPOCH, *"}},
	{name: "time stamp", files: map[string]string{"a.c": "#include \"t.h\"\n", "t.h": "\n"}, change: "echo 'char d[] = __TIMESTAMP__;' >t.h", outcome: "uncacheable",
		text: []string{"because\t*: __TIMESTAMP__ in t.h"}},
	{name: "unknown option", files: plainFile, second: "gcc --no-such-option -c a.c -o a.o", fails: true, outcome: "uncacheable",
		text: []string{"outcome\tuncacheable (unknown-option)", "because\t*: --no-such-option", "next\treport the option, *"}},
	{name: "linking", files: map[string]string{"a.c": "int main(void) { return 0; }\n"}, second: "gcc a.c -o a", outcome: "uncacheable", text: []string{"outcome\tuncacheable (linking)", "next\t*compile with -c*"}},
	{name: "variable in the way", files: plainFile, env2: []string{"DEPENDENCIES_OUTPUT=d"}, outcome: "uncacheable",
		text: []string{"outcome\tuncacheable (environment)", "because\t*: DEPENDENCIES_OUTPUT", "next\tunset the variable*"}},
	{name: "plug-in", files: plainFile, second: "gcc -fplugin=none -c a.c -o a.o", fails: true, outcome: "uncacheable", text: []string{"outcome\tuncacheable (plugin)", "because\t*: -fplugin=none"}},
	{name: "copies", files: map[string]string{"a.c": "#include \"p/o.h\"\n#include \"q/o.h\"\n", "p/o.h": "#pragma once\n", "q/o.h": "#pragma once\n\n"}, change: "cp -p p/o.h q/o.h", outcome: "uncacheable",
		text: []string{"outcome\tuncacheable (pragma-once-copies)", "because\t*: p/o.h and q/o.h"}},
	{name: "error", files: plainFile, change: "echo nonsense >>a.c", fails: true, outcome: "failed", text: []string{"outcome\tfailed (compile-failed)", "next\tmend what the compiler reports*"}},
}

// TestExplain makes each kind of change for real, compiles through the real
// programs, and reads what explain says.
func TestExplain(t *testing.T) {
	top := t.TempDir()
	base := []string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + top, "TMPDIR=" + t.TempDir(),
		"HPCC_CACHE_DIR=" + top + "/cache",
	}
	startFor(t, append(slices.Clone(base), "HPCC_CONFIG_DIR="+top+"/config"), top+"/config")
	for i, c := range explainCases {
		t.Run(c.name, func(t *testing.T) {
			dir := fmt.Sprintf("%s/case%d", top, i)
			config := top + "/config"
			if c.oneShot {
				config = top + "/none"
			}
			w := &explainRun{t: t, c: &c, dir: dir, env: append(slices.Clone(base), "W="+dir, "PWD="+dir, "HPCC_CONFIG_DIR="+config)}
			w.run()
		})
	}
	if len(explainCases) < 30 {
		t.Errorf("%d kinds of change", len(explainCases))
	}
}

type explainRun struct {
	t   *testing.T
	c   *explainCase
	dir string
	env []string
}

func (w *explainRun) run() {
	t, c := w.t, w.c
	if err := os.MkdirAll(w.dir+"/build", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range c.files {
		path := filepath.Join(w.dir, name)
		if filepath.Base(name) == "a.c" {
			// Or the same source in another case's directory would be a hit.
			text += "/* " + c.name + " */\n"
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	first, second := c.first, c.second
	if first == "" {
		first = "gcc -c a.c -o a.o"
	}
	if second == "" {
		second = first
	}
	w.compile(first, c.env, false)
	// What changes while the result is still on its way to the cache keeps it
	// from there, and what is counted before it is not the last; hpcc stats waits
	// for that.
	w.shell("hpcc stats", nil, false)
	if c.change != "" {
		w.shell(c.change, nil, false)
	}
	w.compile(second, append(slices.Clone(c.env), c.env2...), c.fails)

	file := c.explain
	if file == "" {
		file = "a.c"
	}
	var x explanation
	if err := json.Unmarshal([]byte(w.shell("hpcc explain --json "+file, nil, false)), &x); err != nil {
		t.Fatal(err)
	}
	text := w.shell("hpcc explain "+file, nil, false)
	outcome, against := c.outcome, c.against
	if outcome == "" {
		outcome = "miss"
		if against == "" {
			against = "the compile before"
		}
	}
	if x.Outcome != outcome || x.Against != against {
		t.Errorf("outcome %q against %q, want %q against %q", x.Outcome, x.Against, outcome, against)
	}
	if c.want.Kind != "" && !slices.ContainsFunc(x.Changes, c.want.in) {
		t.Errorf("no change %+v", c.want)
	}
	if c.alone && len(x.Changes) != 1 {
		t.Errorf("%d changes", len(x.Changes))
	}
	for _, want := range c.text {
		if !slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool { return matches(want, line) }) {
			t.Errorf("no line %q", want)
		}
	}
	if t.Failed() {
		t.Logf("%s\n%+v", text, x.Changes)
	}
}

// compile runs a compiler through hpcc, or a shell that does.
func (w *explainRun) compile(command string, env []string, fails bool) {
	w.t.Helper()
	time.Sleep(30 * time.Millisecond) // see settle
	if !strings.HasPrefix(command, "sh ") && !strings.HasPrefix(command, "script ") {
		command = "hpcc " + command
	}
	w.shell(command, env, fails)
}

func (w *explainRun) shell(script string, env []string, fails bool) string {
	w.t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir, cmd.Env = w.dir, slices.Clone(w.env)
	for _, e := range env {
		cmd.Env = append(cmd.Env, strings.ReplaceAll(e, "$W", w.dir))
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); (err != nil) != fails {
		w.t.Fatalf("%s: %v\n%s", script, err, stderr.String())
	}
	return stdout.String()
}

// in reports whether a change has the fields that are set in c.
func (c change) in(other change) bool {
	same := func(want, got string) bool { return want == "" || want == got }
	return same(c.Kind, other.Kind) && same(c.Name, other.Name) && same(c.How, other.How) && same(c.Old, other.Old) &&
		same(c.New, other.New) && same(c.Directive, other.Directive) && same(c.In, other.In) && same(c.Hides, other.Hides) &&
		(c.Via == nil || slices.Equal(c.Via, other.Via))
}

// matches reports whether text is pattern, in which "*" stands for anything.
func matches(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	rest, ok := strings.CutPrefix(text, parts[0])
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(rest, p)
		if i < 0 {
			return false
		}
		rest = rest[i+len(p):]
	}
	return ok && strings.HasSuffix(rest, parts[len(parts)-1])
}

// startFor starts a daemon that ends with the test, and waits until it has
// published itself in the directory config.
func startFor(t *testing.T, env []string, config string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "hpcc"), "start")
	cmd.Env = env
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	for range 600 {
		if _, err := os.Stat(filepath.Join(config, "daemon.json")); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the daemon did not start within 30 s")
}
