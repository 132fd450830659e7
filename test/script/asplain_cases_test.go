package script

import "regexp"

// assemblerTempName is what the drivers call the assembler's input, which gas
// prints in listings and errors.
var assemblerTempName = regexp.MustCompile(`/tmp/(cc[A-Za-z0-9]{6}|[a-z]+-[0-9a-f]{6})\.`)

var asPlainCases = []asPlain{
	// Where the output goes.
	{name: "object", command: `$CC -c a.c -o a.o`},
	{name: "no name", command: `$CC -c a.c`},
	{name: "assembly", command: `$CC -S a.c`},
	{name: "dot slash", command: `$CC -c ./a.c -o ./a.o`},
	{name: "spaces", prepare: `mkdir "a b"; cp a.c "a b/x y.c"; cp a.h "a b"`, command: `$CC -MD -c "a b/x y.c" -o "a b/o o.o"`},
	{name: "long name", command: `$CC -c a.c -o $(printf %0250d 0).o`},
	{name: "name too long", command: `$CC -c a.c -o $(printf %0256d 0).o`, want: "failed"},
	{name: "null device", command: `$CC -c a.c -o /dev/null; stat -c %F /dev/null`},
	{name: "null device after an object", command: `$CC -c a.c -o a.o && $CC -c a.c -o /dev/null`, want: "miss,miss hit,hit"},
	{name: "link to the null device", prepare: `ln -s /dev/null a.o`, command: `$CC -c a.c -o a.o`, want: "output-special"},
	{name: "full device", command: `$CC -c a.c -o /dev/full 2>/dev/null`, want: "output-name"},
	{name: "stdout", command: `$CC -S a.c -o /dev/stdout | cat`, want: "output-name"},
	{name: "link to stdout", prepare: `ln -s /proc/self/fd/1 a.s`, command: `$CC -S a.c -o a.s | cat`, want: "output-special"},
	{name: "descriptor", command: `$CC -S a.c -o /dev/fd/3 3>out`, want: "output-name"},
	{name: "own directory", command: `$CC -c a.c -o /proc/self/cwd/a.o`, want: "output-name"},
	{name: "link to own directory", prepare: `ln -s /proc/self/cwd here`, command: `$CC -c a.c -o here/a.o`, want: "output-special"},
	{name: "listing on a descriptor", only: "gcc", command: `$CC -c a.c -o a.o -Wa,-a=/dev/fd/3 3>list; test -s list`, want: "output-name",
		varies: "list"},
	{name: "fifo", prepare: `mkfifo a.s`, command: `cat a.s & $CC -S a.c -o a.s; wait`, only: "gcc", want: "output-special"},
	{name: "output is a directory", prepare: `mkdir a.o`, command: `$CC -c a.c -o a.o 2>/dev/null`, want: "failed"},
	{name: "link to a directory", only: "gcc", prepare: `mkdir d; ln -s d a.o`, command: `$CC -c a.c -o a.o`},
	{name: "link to a directory, to clang", only: "clang", prepare: `mkdir d; ln -s d a.o`, command: `$CC -c a.c -o a.o 2>/dev/null`, want: "failed"},
	{name: "no directory", command: `$CC -MD -c a.c -o missing/a.o 2>/dev/null`, want: "failed"},
	{name: "source is the output", command: `$CC -c a.c -o x.o && $CC -c a.c -o a.c`, only: "gcc", want: "miss,failed hit,failed"},
	{name: "source is the output under another name", prepare: `ln -s a.c a.o`, command: `$CC -c a.c -o x.o && $CC -c a.c -o a.o`,
		only: "gcc", want: "miss,failed hit,failed"},
	{name: "source is the output, to clang", command: `$CC -c a.c -o x.o && $CC -c a.c -o a.c`, only: "clang",
		want: "miss,input-modified hit,input-modified"},
	{name: "header is the output", command: `$CC -c a.c -o x.o && $CC -c a.c -o a.h`, want: "miss,hit hit,hit"},

	// What a process calls stdin is not the daemon's.
	{name: "source from stdin", command: `$CC -x c -c /dev/stdin -o a.o < w.c`, want: "stdin"},
	{name: "source from a descriptor", command: `$CC -x c -c /dev/fd/3 -o a.o 3< w.c`, want: "stdin"},
	{name: "source through a link to stdin", prepare: `ln -s /dev/stdin x.c`, command: `$CC -c x.c -o a.o < w.c`, want: "input-irregular"},
	{name: "header from stdin", command: `$CC -include /dev/stdin -c w.c -o a.o < a.h`, want: "input-irregular"},
	{name: "own directory as include path", command: `$CC -I/proc/self/cwd/s -include h.h -c w.c -o a.o`, prepare: `mkdir s; cp a.h s/h.h`, want: "input-irregular"},
	{name: "header of procfs", command: `$CC -include /proc/sys/kernel/pid_max -c w.c -o a.o`, want: "input-irregular"},
	{name: "debug information names no directory", command: `env PWD=/proc/self/cwd $CC -g -c w.c -o a.o && env PWD=$PWD $CC -g -c w.c -o b.o`,
		want: "miss,miss hit,hit"},
	{name: "working directory by a descriptor", command: `env PWD=/proc/self/fd/3 $CC -g -c w.c -o a.o 3< .`, want: "environment"},
}
