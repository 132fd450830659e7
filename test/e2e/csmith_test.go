//go:build e2e && linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestRandomPrograms compiles programs that csmith made up, with options drawn
// at random: what hpcc leaves the first time and the second equals what the
// plain compiler left, and the second is a hit. HPCC_CSMITH is the number of
// programs and HPCC_TEST_SEED the first one's seed, both of which the log
// names, so that a failure can be looked at by itself. A short run has the same
// programs each time, so that it says the same of the same hpcc; a long one, or
// one whose number is given, draws the seed.
func TestRandomPrograms(t *testing.T) {
	if _, err := exec.LookPath("csmith"); err != nil {
		t.Fatal("csmith is missing: run make setup")
	}
	count, seed := 25, uint64(1)
	if soak() {
		count, seed = 1000, rand.Uint64N(1<<31)
	}
	if n, err := strconv.Atoi(os.Getenv("HPCC_CSMITH")); err == nil {
		count, seed = n, rand.Uint64N(1<<31)
	}
	if n, err := strconv.ParseUint(os.Getenv("HPCC_TEST_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("HPCC_CSMITH=%d HPCC_TEST_SEED=%d", count, seed)
	daemon, alone := newWorld(t, ""), newWorld(t, "")
	daemon.start()
	tally := tally{}
	for i := range uint64(count) {
		w := daemon
		if i%8 == 7 {
			w = alone // every eighth without a daemon
		}
		newRandomUnit(t, w, seed+i).check(tally)
	}
	for _, what := range slices.Sorted(maps.Keys(tally)) {
		t.Logf("%6d %s", tally[what], what)
	}
	// Options that never go together would test nothing but failures.
	if good := tally["compiled, stored, served"]; good < count/2 && count >= 25 {
		t.Errorf("only %d of %d programs were compiled", good, count)
	}
}

// tally counts what became of the programs.
type tally map[string]int

// randomUnit is one program with one command.
type randomUnit struct {
	t    *testing.T
	w    *world
	seed uint64
	rnd  *rand.Rand
	dir  string
	cwd  string
	argv []string
	// edited is whether a header is changed in the end.
	edited bool
}

// flag is an option and what may have it: compilers by "g" (gcc) and "l"
// (clang), languages by "c" and "+"; empty means all.
type flag struct{ args, only string }

// kinds of options; of each kind at most one is drawn, by the chance given.
var kinds = []struct {
	chance float64
	flags  []flag
}{
	{0.8, []flag{{args: "-O0"}, {args: "-O1"}, {args: "-O2"}, {args: "-O3"}, {args: "-Os"}, {args: "-Og"}, {args: "-Ofast"}, {args: "-O"}}},
	{0.5, []flag{
		{args: "-g"}, {args: "-g1"}, {args: "-g3"}, {args: "-ggdb"}, {args: "-gdwarf-4"}, {args: "-gdwarf-5"}, {args: "-g0"},
		{args: "-g -gsplit-dwarf"}, {args: "-g -fdebug-types-section"}, {args: "-g -gz"}, {args: "-g -fdebug-prefix-map=/usr=/u"},
		{args: "-g -ffile-prefix-map=/usr=/u"}, {args: "-g -gno-column-info"}, {args: "-gline-tables-only", only: "l"},
		{args: "-g -gno-record-gcc-switches", only: "g"},
	}},
	{0.5, []flag{
		{args: "-std=gnu89", only: "c"}, {args: "-std=gnu99", only: "c"}, {args: "-std=c11", only: "c"}, {args: "-std=gnu17", only: "c"},
		{args: "-std=gnu2x", only: "c"}, {args: "-std=c++11", only: "+"}, {args: "-std=gnu++14", only: "+"}, {args: "-std=c++17", only: "+"},
		{args: "-std=gnu++20", only: "+"},
	}},
	{0.5, []flag{
		{args: "-fPIC"}, {args: "-fpie"}, {args: "-fno-pic"}, {args: "-fPIC -fvisibility=hidden"}, {args: "-fno-plt -fPIC"},
	}},
	{0.4, []flag{
		{args: "-fno-inline"}, {args: "-funroll-loops"}, {args: "-fno-strict-aliasing"}, {args: "-fwrapv"}, {args: "-ftrapv"},
		{args: "-fno-omit-frame-pointer"}, {args: "-ffast-math"}, {args: "-fno-tree-vectorize"}, {args: "-fno-common"},
		{args: "-fipa-pta", only: "g"}, {args: "-fno-ipa-icf", only: "g"}, {args: "-fsched-pressure", only: "g"},
		{args: "-fno-tree-slp-vectorize -ftree-loop-distribution", only: "g"}, {args: "-finline-limit=20", only: "g"},
	}},
	{0.4, []flag{
		{args: "-ffunction-sections -fdata-sections"}, {args: "-fstack-protector-strong"}, {args: "-fno-stack-protector"},
		{args: "-fno-asynchronous-unwind-tables"}, {args: "-fexceptions"}, {args: "-fno-exceptions"}, {args: "-fno-rtti", only: "+"},
		{args: "-fverbose-asm"}, {args: "-fstack-usage"}, {args: "-fcallgraph-info", only: "g"}, {args: "-fcf-protection=full"},
		{args: "-finstrument-functions"}, {args: "-fsanitize=undefined"}, {args: "-fsanitize=address"}, {args: "-fsanitize=shift,bounds"},
		{args: "-fpack-struct=4"}, {args: "-fshort-enums"}, {args: "-funsigned-char"}, {args: "-fno-builtin"}, {args: "-ffreestanding"},
		{args: "-fstack-clash-protection"}, {args: "-pg"}, {args: "-fno-ident"}, {args: "-fno-semantic-interposition -fPIC"},
		{args: "-ftest-coverage -fprofile-arcs -frandom-seed=7"}, {args: "--coverage -frandom-seed=8"},
		{args: "-flto -frandom-seed=9"}, {args: "-flto=thin", only: "l"}, {args: "-fprofile-generate -frandom-seed=1", only: "g"},
		{args: "-fprofile-instr-generate -fcoverage-mapping", only: "l"},
	}},
	{0.3, []flag{
		{args: "-march=native"}, {args: "-march=x86-64-v2"}, {args: "-march=x86-64-v3"}, {args: "-mtune=native"}, {args: "-mtune=generic"},
		{args: "-mavx2"}, {args: "-msse4.2"}, {args: "-mno-red-zone"}, {args: "-mno-sse2"}, {args: "-mcmodel=large"},
		{args: "-mfpmath=sse -msse2"}, {args: "-momit-leaf-frame-pointer"}, {args: "-mprefer-vector-width=256"}, {args: "-mindirect-branch=thunk", only: "g"},
		{args: "-mretpoline", only: "l"}, {args: "-m32 -mno-sse"}, {args: "-mno-such-option"},
	}},
	{0.6, []flag{
		{args: "-w"}, {args: "-Wall"}, {args: "-Wall -Wextra"}, {args: "-Wpedantic"}, {args: "-Wall -Wconversion -Wsign-compare"},
		{args: "-Wall -Werror"}, {args: "-Wextra -Wno-unused"}, {args: "-Wall -fdiagnostics-color=always"}, {args: "-Wall -fno-diagnostics-show-caret"},
		{args: "-Weverything", only: "l"}, {args: "-Wall -Wsystem-headers"}, {args: "-Wall -fdiagnostics-format=json", only: "g"},
		{args: "-Wall -fmax-errors=3", only: "g"}, {args: "-Wlogical-op -Wduplicated-cond", only: "g"}, {args: "-Wall -fanalyzer", only: "gc"},
	}},
	{0.7, []flag{
		{args: "-MD"}, {args: "-MMD"}, {args: "-MD -MP"}, {args: "-MMD -MP -MF deps.d"}, {args: "-MD -MF sub/deps.mk -MT target"},
		{args: "-MMD -MQ a$b -MT c"}, {args: "-Wp,-MD,wp.d"}, {args: "-Wp,-MMD,wp.d"}, {args: "-MD -MF deps.d -MT x -MT y -MP"},
	}},
	{0.4, []flag{
		{args: "-DRANDOM=1"}, {args: "-D RANDOM"}, {args: "-DRANDOM=\"a b\" -URANDOM"}, {args: "-Wp,-DRANDOM=3"}, {args: "-include pre.h"},
		{args: "-imacros pre.h"}, {args: "-DNDEBUG -DUSE_MATH_MACROS"}, {args: "-isystem ../inc2"}, {args: "-iquote ../inc2"},
		{args: "-idirafter ../inc2"}, {args: "-H"}, {args: "-pipe"}, {args: "-trigraphs"}, {args: "-Wa,--noexecstack"},
		{args: "-Wa,-mrelax-relocations=no", only: "g"}, {args: "-no-canonical-prefixes"}, {args: "-x c", only: "c"}, {args: "-x c++", only: "+"},
		{args: "-pthread"}, {args: "-fopenmp", only: "g"}, {args: "-fopenmp-simd"}, {args: "-nostdinc++"}, {args: "-L/nowhere -lm"},
		{args: "@../src/options.rsp"},
	}},
}

// newRandomUnit makes the program and the command that seed stands for.
func newRandomUnit(t *testing.T, w *world, seed uint64) *randomUnit {
	t.Helper()
	u := &randomUnit{t: t, w: w, seed: seed, rnd: rand.New(rand.NewPCG(seed, 1))}
	u.dir = filepath.Join(w.dir, "csmith", strconv.FormatUint(seed, 10))
	cxx := u.rnd.IntN(3) == 0
	compiler := []string{"gcc", "clang"}[u.rnd.IntN(2)]
	letters := map[string]string{"gcc": "g", "clang": "l"}[compiler] + map[bool]string{false: "c", true: "+"}[cxx]
	if cxx {
		compiler = map[string]string{"gcc": "g++", "clang": "clang++"}[compiler]
	}
	u.cwd = filepath.Join(u.dir, []string{"bld", "src", "bld/deep er"}[u.rnd.IntN(3)])
	for _, sub := range []string{"src", "inc", "inc2", "bld/deep er", "src/sub", "bld/sub", "bld/deep er/sub"} {
		if err := os.MkdirAll(filepath.Join(u.dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{
		"--seed", strconv.FormatUint(seed, 10), "--max-funcs", "3", "--max-block-size", "3", "--max-block-depth", "2",
		"--max-expr-complexity", "5", "--max-pointer-depth", "2",
	}
	name := "p.c"
	if cxx {
		name = []string{"p.cc", "p.cpp", "p.C"}[u.rnd.IntN(3)]
		args = append(args, "--lang-cpp")
	}
	if u.rnd.IntN(3) == 0 {
		args = append(args, "--float")
	}
	// Some seeds take it for ever. That a limit is one of processor time makes the
	// program the same on every machine, or nearly.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	csmith := exec.CommandContext(ctx, "prlimit", slices.Concat([]string{"--cpu=30", "csmith"}, args)...)
	csmith.Dir = u.dir // it leaves a file there
	text, err := csmith.Output()
	if err != nil {
		// csmith itself gives up on some seeds: any source will do.
		text = []byte("#include \"csmith.h\"\nint f(int x) { return x + 1; }\n")
	}
	text = append(text, "\n#include \"val.h\"\n#if __has_include(\"none.h\")\n#include \"none.h\"\n#endif\nint val = VAL;\n"...)
	for path, content := range map[string]string{
		"src/" + name: string(text), "inc/val.h": "#define VAL 1\n", "inc/pre.h": "#ifndef PRE\n#define PRE 1\n#endif\n",
		"inc2/other.h": "\n", "src/options.rsp": "-DFROM_FILE='1 2'\n-fno-math-errno \"-DX=y\"\n",
	} {
		if err := os.WriteFile(filepath.Join(u.dir, path), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	up, err := filepath.Rel(u.cwd, u.dir)
	if err != nil {
		t.Fatal(err)
	}
	u.argv = []string{compiler, []string{"-c", "-c", "-c", "-S"}[u.rnd.IntN(4)], "-I" + up + "/inc", "-I/usr/include/csmith"}
	if cxx && u.rnd.IntN(8) > 0 {
		// What csmith calls C++ is C that few compilers take for it.
		u.argv = append(u.argv, map[string][]string{
			"g++": {"-fpermissive", "-Wno-narrowing"}, "clang++": {"-Wno-c++11-narrowing"},
		}[compiler]...)
	}
	for _, k := range kinds {
		if u.rnd.Float64() >= k.chance {
			continue
		}
		f := k.flags[u.rnd.IntN(len(k.flags))]
		if strings.Trim(f.only, letters) != "" {
			continue
		}
		for arg := range strings.FieldsSeq(f.args) {
			if rest, ok := strings.CutPrefix(arg, "../"); ok {
				arg = up + "/" + rest
			} else if rest, ok := strings.CutPrefix(arg, "@../"); ok {
				arg = "@" + up + "/" + rest
			}
			u.argv = append(u.argv, arg)
		}
	}
	switch u.rnd.IntN(4) {
	case 0: // the default name
	case 1:
		u.argv = append(u.argv, "-o", "sub/out.o")
	case 2:
		u.argv = append(u.argv, "-o"+filepath.Join(u.dir, "bld", "out.obj"))
	default:
		u.argv = append(u.argv, "-o", "out.o")
	}
	source := up + "/src/" + name
	if u.rnd.IntN(3) == 0 {
		source = filepath.Join(u.dir, "src", name)
	}
	u.argv = append(u.argv, source)
	u.edited = u.rnd.IntN(4) == 0
	return u
}

// left is what a compile left behind.
type left struct {
	exit           int
	stdout, stderr string
	files          map[string]string // mode and content, by path
}

// diff names what differs.
func (l *left) diff(other *left) []string {
	var names []string
	for _, d := range []struct {
		name    string
		differs bool
	}{{"exit code", l.exit != other.exit}, {"stdout", l.stdout != other.stdout}, {"stderr", l.stderr != other.stderr}} {
		if d.differs {
			names = append(names, d.name)
		}
	}
	for path, content := range l.files {
		if got, ok := other.files[path]; !ok || got != content {
			names = append(names, path)
		}
	}
	for path := range other.files {
		if _, ok := l.files[path]; !ok {
			names = append(names, path)
		}
	}
	slices.Sort(names)
	return names
}

// errSlow says that a compile took too long to be of use.
var errSlow = errors.New("timeout")

// run removes what the last compile left and runs the command, behind hpcc if
// prefix says so, which then has a multiple of the compiler's time: on a busy
// machine one run takes much longer than another.
func (u *randomUnit) run(prefix ...string) (*left, error) {
	u.t.Helper()
	u.outputs(func(path string) {
		if err := os.Remove(path); err != nil {
			u.t.Fatal(err)
		}
	})
	limit := 2 * time.Minute
	if len(prefix) > 0 {
		limit *= 5
	}
	ctx, cancel := context.WithTimeout(u.t.Context(), limit)
	defer cancel()
	argv := slices.Concat(prefix, u.argv)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = u.cwd
	cmd.Env = append(u.w.env(""), "HPCC_STATS_LOG="+u.log())
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		return nil, errSlow
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		u.t.Fatal(err)
	}
	l := &left{exit: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String(), files: map[string]string{}}
	u.outputs(func(path string) {
		info, err := os.Lstat(path)
		if err != nil {
			u.t.Fatal(err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			u.t.Fatal(err)
		}
		l.files[path] = info.Mode().String() + "\n" + string(content)
	})
	return l, nil
}

// outputs calls f with every file that no one but a compiler has made.
func (u *randomUnit) outputs(f func(path string)) {
	u.t.Helper()
	err := filepath.WalkDir(u.dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(u.dir, path)
		inputs := strings.HasPrefix(rel, "src/p.") && !slices.Contains([]string{".o", ".s", ".d", ".dwo", ".gcno", ".su", ".ci"}, filepath.Ext(rel)) ||
			strings.HasPrefix(rel, "inc") || rel == "src/options.rsp" || rel == "log"
		if err == nil && !d.IsDir() && !inputs {
			f(path)
		}
		return err
	})
	if err != nil {
		u.t.Fatal(err)
	}
}

func (u *randomUnit) log() string { return filepath.Join(u.dir, "log") }

// outcome is what hpcc says of its nth compile of this unit, once it has
// finished with it.
func (u *randomUnit) outcome(n int) (outcome, reason string) {
	u.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		text, _ := os.ReadFile(u.log())
		lines := bufio.NewScanner(bytes.NewReader(text))
		lines.Buffer(nil, 1<<20)
		for i := 1; lines.Scan(); i++ {
			var line struct{ Outcome, Reason string }
			if i == n && json.Unmarshal(lines.Bytes(), &line) == nil {
				return line.Outcome, line.Reason
			}
		}
	}
	u.t.Fatalf("%s: hpcc has not finished with compile %d after a minute", u, n)
	return "", ""
}

func (u *randomUnit) String() string { return fmt.Sprintf("seed %d: %q in %s", u.seed, u.argv, u.cwd) }

// settle waits until what was just written is older than the next compile.
func settle() { time.Sleep(25 * time.Millisecond) }

// check compiles the unit in all ways and compares.
func (u *randomUnit) check(tally tally) {
	t := u.t
	t.Helper()
	failed := t.Failed()
	defer func() {
		if !t.Failed() || failed {
			os.RemoveAll(u.dir)
		}
	}()
	hpcc := filepath.Join(u.w.bin, "hpcc")
	settle()
	plain, err := u.run()
	if err != nil {
		tally["too slow to compile"]++
		return
	}
	cold, err := u.run(hpcc)
	if err != nil {
		t.Errorf("%s: hpcc hangs where the compiler does not", u)
		return
	}
	outcome, reason := u.outcome(1)
	warm, err := u.run(hpcc)
	if err != nil {
		t.Errorf("%s: hpcc hangs the second time", u)
		return
	}
	again, whyAgain := u.outcome(2)

	differs := union(plain.diff(cold), plain.diff(warm))
	if len(differs) > 0 {
		// clang prints some warnings in the order of addresses, for example.
		if own := u.wobbles(plain, differs); len(own) > 0 {
			tally["the compiler differs from itself in "+kindOf(own)]++
			differs = slices.DeleteFunc(differs, func(d string) bool { return slices.Contains(own, d) })
		}
		if d := cold.diff(warm); outcome == "miss" && len(d) > 0 {
			t.Errorf("%s: warm differs from cold in %q\n%s", u, d, firstDifference(cold.stderr, warm.stderr))
		}
	}
	if len(differs) > 0 {
		t.Errorf("%s: cold (%s %s) or warm (%s %s) differ from plain in %q\n%s\n%s", u, outcome, reason, again, whyAgain, differs,
			firstDifference(plain.stderr, cold.stderr), firstDifference(plain.stderr, warm.stderr))
		return
	}
	switch {
	case plain.exit > 1:
		tally["the compiler crashed"]++
		return
	case plain.exit != 0:
		tally["refused by the compiler"]++
		if outcome == "miss" || strings.HasPrefix(again, "hit") {
			t.Errorf("%s: a failed compile is a %s, then a %s", u, outcome, again)
		}
		return
	case outcome != "miss":
		t.Errorf("%s: the first compile is a %s (%s)", u, outcome, reason)
		return
	case !strings.HasPrefix(again, "hit"):
		t.Errorf("%s: the second compile is a %s (%s)", u, again, whyAgain)
		return
	}
	tally["compiled, stored, served"]++
	if again != "hit" {
		tally["served by "+again]++
	}
	if u.edited {
		u.checkEdited(tally)
	}
}

// wobbles names what the plain compiler does not make alike each time, some of
// which is wanted. It may do so once in a while only.
func (u *randomUnit) wobbles(plain *left, wanted []string) (names []string) {
	u.t.Helper()
	for range 100 {
		if again, err := u.run(); err == nil {
			names = union(names, plain.diff(again))
		}
		if !slices.ContainsFunc(wanted, func(d string) bool { return !slices.Contains(names, d) }) {
			break
		}
	}
	return names
}

func union(a, b []string) []string {
	all := append(slices.Clone(a), b...)
	slices.Sort(all)
	return slices.Compact(all)
}

// checkEdited changes a header: the result is the compiler's new one.
func (u *randomUnit) checkEdited(tally tally) {
	t := u.t
	t.Helper()
	edit, text := "inc/val.h", "#define VAL 2\n"
	if u.rnd.IntN(2) == 0 {
		edit, text = "inc/none.h", "int none;\n" // was looked for, and not there
	}
	if err := os.WriteFile(filepath.Join(u.dir, edit), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	settle()
	plain, err := u.run()
	if err != nil {
		return
	}
	cold, err := u.run(filepath.Join(u.w.bin, "hpcc"))
	if err != nil {
		t.Errorf("%s: hpcc hangs after an edit of %s", u, edit)
		return
	}
	outcome, reason := u.outcome(3)
	d := plain.diff(cold)
	if len(d) > 0 {
		own := u.wobbles(plain, d)
		d = slices.DeleteFunc(d, func(name string) bool { return slices.Contains(own, name) })
	}
	if len(d) > 0 || outcome != "miss" {
		t.Errorf("%s: after an edit of %s: a %s (%s) that differs in %q", u, edit, outcome, reason, d)
	}
	tally["compiled again after an edit"]++
}

// firstDifference shows where two messages begin to differ.
func firstDifference(a, b string) string {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	from := max(0, i-100)
	return fmt.Sprintf("%.300q\n%.300q", a[from:], b[from:])
}

// kindOf names outputs by what they are.
func kindOf(names []string) string {
	var kinds []string
	for _, n := range names {
		if ext := filepath.Ext(n); strings.HasPrefix(n, "/") && ext != "" {
			n = ext
		}
		kinds = append(kinds, n)
	}
	return strings.Join(slices.Compact(kinds), ", ")
}
