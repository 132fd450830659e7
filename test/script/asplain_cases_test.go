package script

import "regexp"

// assemblerTempName is what the drivers call the assembler's input, which gas
// prints in listings and errors.
var assemblerTempName = regexp.MustCompile(`/tmp/(cc[A-Za-z0-9]{6}|[a-z]+-[0-9a-f]{6})\.`)

// readerGone makes the descriptor 3 a pipe whose reader has ended.
const readerGone = `mkfifo p; : <p & exec 3>p; wait; rm p; `

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
	{name: "null device from the null device", command: `$CC -x c -c /dev/null -o /dev/null`},
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

	// What is printed, and where.
	{name: "warnings", command: `$CC -Wall -c w.c -o w.o`},
	{name: "warnings as errors", command: `$CC -Wall -Werror -c w.c -o w.o`, want: "failed"},
	{name: "errors", command: `$CC -c bad.c -o bad.o`, want: "failed"},
	{name: "merged", command: `$CC -Wall -c w.c -o w.o 2>&1`},
	{name: "merged into a file", command: `$CC -Wall -c w.c -o w.o >both 2>&1`},
	{name: "merged, then apart", command: `$CC -Wall -c w.c -o w.o 2>&1; $CC -Wall -c w.c -o w.o`, want: "miss,miss hit,hit"},
	{name: "apart, then merged", command: `$CC -Wall -c w.c -o w.o; $CC -Wall -c w.c -o w.o 2>&1`, want: "miss,hit hit,hit"},
	{name: "two files, then one", only: "gcc", command: `$CC -Wall -Wa,-alh -c w.c -o w.o >out 2>err; $CC -Wall -Wa,-alh -c w.c -o w.o >both 2>&1; ` +
		`sed -i 's|/tmp/cc......|/tmp/cc|' out err both`, want: "miss,miss hit,hit"},
	{name: "one file, then two", only: "gcc", command: `$CC -Wall -Wa,-alh -c w.c -o w.o >both 2>&1; $CC -Wall -Wa,-alh -c w.c -o w.o >out 2>err; ` +
		`sed -i 's|/tmp/cc......|/tmp/cc|' out err both`, want: "miss,miss hit,hit"},
	{name: "languages", command: `LC_ALL=C.UTF-8 $CC -Wall -c w.c -o w.o; $CC -Wall -c w.c -o w.o; LC_ALL=C.UTF-8 $CC -Wall -c w.c -o w.o`,
		want: "miss,miss,hit hit,hit,hit"},
	{name: "language without messages", command: `LC_ALL=C.UTF-8 $CC -c w.c -o w.o; $CC -c w.c -o w.o`, want: "miss,hit hit,hit"},
	{name: "colours", command: `$CC -Wall -fdiagnostics-color=always -c w.c -o w.o; $CC -Wall -fdiagnostics-color=never -c w.c -o w.o; ` +
		`$CC -Wall -fdiagnostics-color=auto -c w.c -o w.o`, want: "miss,miss,miss hit,hit,hit"},
	{name: "chosen colours", command: `GCC_COLORS=warning=01\;32 $CC -Wall -fdiagnostics-color=always -c w.c -o w.o; ` +
		`$CC -Wall -fdiagnostics-color=always -c w.c -o w.o; NO_COLOR=1 $CC -Wall -fdiagnostics-color=always -c w.c -o w.o`,
		want: "miss,miss,miss hit,hit,hit"},
	{name: "hyperlinks", only: "gcc", command: `TERM_URLS=bel $CC -Wall -fdiagnostics-urls=always -c w.c -o w.o; ` +
		`GCC_URLS=st $CC -Wall -fdiagnostics-urls=always -c w.c -o w.o`, want: "miss,miss hit,hit"},
	{name: "machine-readable messages", only: "gcc", command: `$CC -Wall -fdiagnostics-format=json -c w.c -o w.o`},
	{name: "hints for editors", command: `GCC_EXTRA_DIAGNOSTIC_OUTPUT=fixits-v1 $CC -Wall -c w.c -o w.o; $CC -Wall -c w.c -o w.o`,
		want: "miss,miss hit,hit"},
	{name: "NUL in the source", prepare: `printf 'int h(void) { int u; /* a\0b */ return 1; }\n' >> w.c`, command: `$CC -Wall -c w.c -o w.o`},
	{name: "much output", prepare: `for i in $(seq 3000); do echo "int f$i(void) { int unused; return 0; }"; done >> w.c`,
		command: `$CC -Wall -c w.c -o w.o`},
	{name: "no stderr", only: "clang", command: `$CC -Wall -c w.c -o w.o 2>&-`}, // gcc fails, and hpcc sees /dev/null
	{name: "no stdout", command: `$CC -Wall -c w.c -o w.o >&-`},
	{name: "no stdin", command: `$CC -Wall -c w.c -o w.o <&-`},
	{name: "full stderr", command: `$CC -Wall -c w.c -o w.o 2>/dev/full`, want: "stdio-not-writable"},
	{name: "full stderr on a hit", command: `$CC -Wall -c w.c -o w.o 2>err; $CC -Wall -c w.c -o w.o 2>/dev/full`, want: "miss,hit hit,hit"},
	{name: "reader of stderr gone", command: readerGone + `$CC -Wall -c w.c -o w.o >&3 2>&1 3>&-; echo $? > code; rm -f w.o`, want: "stdio-not-writable"},
	{name: "reader of stderr gone on a hit", command: `$CC -Wall -c w.c -o w.o 2>err; ` + readerGone + `$CC -Wall -c w.c -o w.o >&3 2>&1 3>&-; echo $? > code`,
		want: "miss,hit hit,hit"},
	{name: "reader of stdout gone", only: "gcc", command: readerGone + `$CC -Wa,-alh -c w.c -o w.o 2>err >&3 3>&-; echo $? > code; sed -i 's|/tmp/cc......|/tmp/cc|' err`,
		want: "stdio-not-writable"},

	// Modes, owners and links of what is left.
	{name: "umask 077", command: `umask 077; $CC -MD -c a.c -o a.o`},
	{name: "umask 000", command: `umask 000; $CC -MD -S a.c -o a.s`},
	{name: "umask 027 over old files", prepare: `echo old > a.o; echo old > a.d; chmod 600 a.o; chmod 664 a.d`,
		command: `umask 027; $CC -MD -c a.c -o a.o`},
	{name: "executable files", want: "miss,miss,hit,hit hit,hit,hit,hit", prepare: `echo old > a.s; : > a.o; chmod 755 a.s a.o`,
		command: `$CC -S a.c -o a.s; $CC -c a.c -o a.o; ls -l a.s a.o | cut -c1-10; rm a.s a.o; $CC -S a.c -o a.s; $CC -c a.c -o a.o`},
	{name: "read-only files", prepare: `echo old > a.o; echo old > a.d; chmod 444 a.o a.d`, command: `$CC -MD -c a.c -o a.o`},
	{name: "directory of a group", prepare: `mkdir d; chgrp 65534 d; chmod 2775 d; echo old > d/a.d; echo old > d/b.o`,
		command: `umask 002; $CC -MD -c a.c -o d/a.o && $CC -c a.c -o d/b.o`, want: "miss,hit hit,hit"},
	{name: "directory with default access rights", prepare: `mkdir d; setfacl -d -m u:65534:rw,g::rw,o::- d`,
		command: `$CC -MD -c a.c -o d/a.o && $CC -S a.c -o d/a.s && getfacl -cp d/a.o d/a.d d/a.s`, want: "miss,miss hit,hit"},
	{name: "files with access rights", prepare: `for f in a.o a.d a.s; do echo old > $f; setfacl -m u:65534:r $f; done`,
		command: `$CC -MD -c a.c -o a.o && $CC -S a.c -o a.s && getfacl -cp a.o a.d a.s`, want: "miss,miss hit,hit"},
	{name: "hard links", prepare: `echo old > x; ln x a.o; echo old > y; ln y a.d`, command: `$CC -MD -c a.c -o a.o`},
	{name: "links", prepare: `mkdir d; echo old > d/o; ln -s d/o a.o; ln -s d/none a.d`, command: `$CC -MD -c a.c -o a.o`},
	{name: "somebody reads the old object", prepare: `echo old > a.o`, command: `exec 3< a.o; $CC -c a.c -o a.o; cat <&3`},
	{name: "large object", prepare: `echo 'char large[6000000] = {1}; char more[6000000];' >> a.c`, command: `$CC -c a.c -o a.o`},

	// When not all can be written.
	{name: "dependency file's directory is missing", prepare: `echo old > a.o`,
		command: `$CC -c a.c -MD -MF x.d -o x.o && $CC -MD -MF missing/a.d -c a.c -o a.o`, want: "miss,failed hit,failed"},
	{name: "assembly's directory is missing", command: `$CC -S a.c -MD -MF x.d -o x.s && $CC -S a.c -MD -MF a.d -o missing/a.s`,
		want: "miss,failed hit,failed"},
	{name: "one of several directories is missing", only: "gcc", prepare: `mkdir d`,
		command: `$CC -fstack-usage -c a.c -aux-info=x.x -o x.o && $CC -fstack-usage -c a.c -aux-info=missing/x.x -o d/x.o`, want: "-"},

	{name: "dependency file in the object's place", only: "gcc", want: "dependency-option,dependency-option dependency-option,dependency-option", command: `$CC -MMD -MF ./a.o -c a.c -o a.o; $CC -MD -MF a.s -S a.c`},

	// Further outputs.
	{name: "split debug information", command: `$CC -g -gsplit-dwarf -c a.c -o a.o && $CC -g -gsplit-dwarf -c a.c -o b.o`, want: "miss,miss hit,hit"},
	{name: "coverage", command: `$CC --coverage -frandom-seed=1 -c a.c -o a.o && $CC --coverage -frandom-seed=1 -c a.c -o b.o`, want: "miss,miss hit,hit"},
	{name: "coverage elsewhere", prepare: `mkdir s`, command: `$CC --coverage -frandom-seed=1 -c a.c -o s/a.o && cd s && $CC --coverage -frandom-seed=1 -c ../a.c -o a.o`,
		want: "miss,miss hit,hit"},
	{name: "profile of arcs elsewhere", prepare: `mkdir s; cp a.c a.h s`,
		command: `$CC -fprofile-arcs -frandom-seed=1 -c a.c -o a.o && cd s && $CC -fprofile-arcs -frandom-seed=1 -c a.c -o a.o`, want: "miss,miss hit,hit"},
	{name: "stack usage", command: `$CC -fstack-usage -c a.c -o a.o`},
	{name: "call graph", only: "gcc", command: `$CC -fcallgraph-info=su,da -c a.c -o a.o`},
	{name: "listing", only: "gcc", command: `$CC -c a.c -o a.o -Wa,-a=a.lst && sed -i 's|/tmp/cc......|/tmp/cc|' a.lst`},
	{name: "listing on stdout", only: "gcc", command: `$CC -c a.c -o a.o -Wa,-alh`},
	{name: "intermediate files", command: `$CC -save-temps -c a.c -o a.o`, want: "save-temps"},
	{name: "link-time optimisation", command: `$CC -flto -frandom-seed=1 -O2 -c a.c -o a.o`},
	{name: "the user's seeds", command: `$CC -frandom-seed=1 -c a.c -o a.o && $CC -frandom-seed=2 -c a.c -o a.o`, want: "miss,miss hit,hit"},
	{name: "several to one output at once", prepare: `echo 'int v = V;' >> a.c`, want: "-",
		command: `for i in 1 2 3 4; do $CC -DV=$i -c a.c -o a.o & done; wait; rm -f a.o; for i in 1 2 3 4; do $CC -DV=$i -c a.c -o a$i.o; done`},
	{name: "file size limit", prepare: `echo 'char large[600000] = {1};' >> a.c`, command: `ulimit -f 100; $CC -c a.c -o a.o 2>/dev/null`, want: "failed"},

	// Files whose times say little.
	// Each in a file of its own: a daemon may still be reading the one before.
	{name: "header made just before", want: "miss,miss,miss,miss,miss,miss hit,hit,hit,hit,hit,hit",
		command: `for i in 1 2 3 4 5 6; do echo "#define G$i $i" > g$i.h; $CC -include g$i.h -c w.c -o w$i.o; done`},
	{name: "header in a directory made just before", want: "miss,miss,miss hit,hit,hit",
		command: `for i in 1 2 3; do mkdir -p g$i/d; echo "#define G$i $i" > g$i/d/g.h; $CC -Ig$i -include d/g.h -c w.c -o w$i.o; done`},
	{name: "files from the future", prepare: `cp a.h b.h`, want: "miss,hit,miss,hit hit,hit,hit,hit",
		command: `touch -d 2099-01-01 a.c b.h; $CC -include b.h -c a.c -o a1.o; $CC -include b.h -c a.c -o a2.o
			hpcc stats >/dev/null; echo '#define A 3' > b.h; touch -d 2099-01-01 b.h; $CC -include b.h -c a.c -o a3.o; $CC -include b.h -c a.c -o a4.o`},
	{name: "edited at once, size and time as before", want: "miss,miss,miss,miss hit,hit,hit,hit",
		command: `for i in 1 2 3 4; do echo "#define A $i" > a.h; touch -d 2020-01-01 a.h; $CC -c a.c -o a$i.o; hpcc stats >/dev/null; done`},
	{name: "user-space file system that hides changes", only: "gcc", prepare: `mkdir s m; cp a.c a.h s`, want: "miss,miss,miss hit,hit,hit",
		command: `bindfs --ctime-from-mtime s m && (cd m; for i in 1 2 3; do echo "#define A $i" > a.h; touch -d 2020-01-01 a.h a.c; ` +
			`$CC -c a.c -o ../a$i.o; done); umount -l m`},
	{name: "user-space file system", only: "gcc", prepare: `mkdir s m; cp a.c a.h s`, want: "miss,hit hit,hit",
		command: `bindfs s m && (sleep 1; cd m; $CC -MD -c a.c -o a.o; $CC -c a.c -MD -o b.o); umount -l m`},
	{name: "user-space file system, objects elsewhere", only: "gcc", prepare: `mkdir s m; cp a.c a.h s`, want: "input-modified",
		command: `bindfs s m && (cd m; $CC -c a.c -o ../a.o); umount -l m`},
	{name: "file system of whole seconds", only: "gcc", want: "miss hit", prepare: `mkdir m; head -c 4000000 /dev/zero > i; mke2fs -q -t ext4 -I 128 i 2>/dev/null`,
		command: `mount -o loop i m && { cp a.c a.h m; sleep 3.1; (cd m; $CC -c a.c -o ../a.o); umount -l m; }; rm -f i`},
	{name: "file system of whole seconds, just written", only: "gcc", want: "input-modified",
		prepare: `mkdir m; head -c 4000000 /dev/zero > i; mke2fs -q -t ext4 -I 128 i 2>/dev/null`,
		command: `mount -o loop i m && { cp a.c a.h m; (cd m; $CC -c a.c -o ../a.o); umount -l m; }; rm -f i`},

	// Where the compile runs.
	{name: "another directory mounted over the source", want: "miss,miss,hit hit,hit,hit",
		prepare: `mkdir s o; cp a.c a.h s; cp a.h o; sed s/int.f/int\ g/\;s/f\(x/g\(x/ a.c > o/a.c`,
		command: `(cd s; $CC -c a.c -o ../s.o); unshare -m sh -c 'mount --bind o s; cd s; $CC -c a.c -o ../o.o'; cd s; $CC -c a.c -o ../s2.o`},
	{name: "another root directory", want: "miss,miss,hit hit,hit,hit", prepare: `mkdir r s o; cp a.c a.h s; cp a.h o; sed s/int.f/int\ g/\;s/f\(x/g\(x/ a.c > o/a.c`,
		command: `(cd s; $CC -c a.c -o ../s.o); d=$PWD; export d; unshare -m sh -c 'mount --rbind / r; mount --bind o r$d/s; ` +
			`exec chroot r sh -c "cd $d/s; $CC -c a.c -o ../o.o"'; cd s; $CC -c a.c -o ../s2.o`},
	{name: "other namespaces", want: "miss,hit,hit,hit,hit hit,hit,hit,hit,hit",
		command: `$CC -c a.c -o a.o; for u in -n -r -pf -iu; do unshare $u $CC -c a.c -o a$u.o; done`},
	{name: "another user", want: "-", prepare: `chmod 777 .`, command: `setpriv --reuid 65534 --regid 65534 --clear-groups $CC -Wall -c w.c -o w.o`},
	{name: "another user in a cache of its own", want: "-", prepare: `chmod 777 .`,
		command: `export HPCC_CACHE_DIR=$PWD/c HPCC_CONFIG_DIR=$PWD/g; n="setpriv --reuid 65534 --regid 65534 --clear-groups"
			$n $CC -c a.c -o a1.o; $n $CC -c a.c -o a2.o; $CC -c a.c -o a3.o; $CC -c w.c -o w1.o; $n $CC -c w.c -o w2.o; $n $CC -c a.c -o a4.o; rm -rf c g`},
	{name: "read-only directory of an ordinary user", want: "-", prepare: `mkdir d; chown 65534 . d; chmod 755 .; chmod 555 d`,
		command: `export HPCC_CACHE_DIR=$PWD/c HPCC_CONFIG_DIR=$PWD/g; n="setpriv --reuid 65534 --regid 65534 --clear-groups"
			$n $CC -c a.c -o a.o; $n $CC -c a.c -o d/a.o 2>/dev/null; echo $?; rm -rf c g`},
	{name: "no home", want: "-", command: `env -u HPCC_CONFIG_DIR -u HPCC_CACHE_DIR HOME=/nonexistent/x $CC -Wall -c w.c -o w.o`},
	{name: "home is a file", want: "-", prepare: `: > home`, command: `env -u HPCC_CONFIG_DIR -u HPCC_CACHE_DIR HOME=$PWD/home $CC -Wall -c w.c -o w.o`},
	{name: "cache on a read-only file system", want: "-", prepare: `mkdir ro`, command: `export HPCC_CACHE_DIR=$PWD/ro HPCC_CONFIG_DIR=$PWD/ro/g
			unshare -m sh -c 'mount -t tmpfs -o ro none ro; $CC -Wall -c w.c -o w.o; $CC -Wall -c w.c -o w.o'`},
	{name: "cache on a full file system", want: "-", prepare: `mkdir full`, command: `export HPCC_CACHE_DIR=$PWD/full HPCC_CONFIG_DIR=$PWD/full/g
			unshare -m sh -c 'mount -t tmpfs -o size=64k none full; head -c 100000 /dev/zero > full/zero 2>/dev/null
			$CC -Wall -c w.c -o w.o; $CC -Wall -c w.c -o w.o'`},
	{name: "output on a full file system", want: "-", prepare: `mkdir full`,
		command: `$CC -c a.c -o a.o; unshare -m sh -c 'mount -t tmpfs -o size=4k none full; head -c 5000 /dev/zero > full/zero 2>/dev/null
			$CC -c a.c -o full/a.o 2>/dev/null; echo $?; ls full'`},
	{name: "cache in the project", want: "miss,hit,miss hit,hit,hit", command: `export HPCC_CACHE_DIR=$PWD/../c HPCC_CONFIG_DIR=$PWD/../g
			$CC -I. -c a.c -o a.o; $CC -I. -c a.c -o b.o; $CC -I../c -c a.c -o c.o`},
	{name: "working directory is gone", want: "-", prepare: `mkdir gone`, command: `d=$PWD; cd gone; rmdir $d/gone; $CC -c $d/a.c -o $d/a.o`},
	{name: "objects apart from sources", prepare: `mkdir -p s b; mv a.c a.h s`, want: "miss,miss,hit hit,hit,hit",
		command: `cd b; $CC -g -MD -I../s -c ../s/a.c -o a.o; $CC -g -MD -I$PWD/../s -c $PWD/../s/a.c -o b.o; $CC -g -MD -I../s -c ../s/a.c -o c.o`},
	{name: "names that begin alike", prepare: `mkdir p p2; cp a.c a.h p; cp a.c a.h p2`, want: "miss,miss,hit,hit hit,hit,hit,hit",
		command: `for r in 1 2; do for d in p p2; do (cd $d; $CC -g -Wall -c $PWD/a.c -o a$r.o); done; done`},
	{name: "job server", command: `echo 'all:; +@$$CC -c a.c -o a.o' > m.mk; make -s -j2 -f m.mk`},
	{name: "nice", command: `nice -n 3 $CC -c a.c -o a.o`},
}
