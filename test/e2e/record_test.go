//go:build e2e && linux

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// The test binary is also the recording compiler: under a compiler's name it
// appends the call to $E2E_RECORD and becomes the compiler of that name in
// $E2E_REAL_PATH.
func TestMain(m *testing.M) {
	if record := os.Getenv("E2E_RECORD"); record != "" && !strings.HasSuffix(os.Args[0], ".test") {
		fmt.Fprintln(os.Stderr, "recorder:", recordAndRun(record))
		os.Exit(125)
	}
	os.Exit(m.Run())
}

// call is one compiler call of a build.
type call struct {
	Dir  string   `json:"dir"`
	Args []string `json:"args"`
}

func recordAndRun(record string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	line, err := json.Marshal(call{Dir: dir, Args: os.Args})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(record, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	// One write: calls of a parallel build do not mix.
	if _, err := f.Write(append(line, '\n')); err != nil {
		return err
	}
	name := filepath.Base(os.Args[0])
	for _, d := range filepath.SplitList(os.Getenv("E2E_REAL_PATH")) {
		path := filepath.Join(d, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			// gcc finds its helpers by looking its own name up in PATH: there
			// it must not find the recorder.
			if err := os.Setenv("PATH", os.Getenv("E2E_REAL_PATH")); err != nil {
				return err
			}
			return syscall.Exec(path, os.Args, os.Environ())
		}
	}
	return fmt.Errorf("no %s in %s", name, os.Getenv("E2E_REAL_PATH"))
}

func readCalls(t *testing.T, record string) []call {
	t.Helper()
	f, err := os.Open(record)
	if err != nil {
		t.Fatalf("the build called no compiler through PATH: %v", err)
	}
	defer f.Close()
	var calls []call
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c call
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatalf("record: %v", err)
		}
		calls = append(calls, c)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return calls
}

// separate are the options of the programs built here whose value is the next
// argument. This is no second grammar of compilers: it only has to be right
// for what the record holds, and a wrong count fails the test.
var separate = []string{
	"-o", "-I", "-D", "-U", "-x", "-include", "-imacros", "-isystem", "-iquote", "-idirafter",
	"-MF", "-MT", "-MQ", "-L", "-l", "-Xlinker", "-Xassembler", "-Xpreprocessor", "-T", "-u", "-z",
}

// cacheable says whether the call compiles exactly one source with -c or -S.
func (c call) cacheable() bool {
	compiles, sources := false, 0
	for i := 1; i < len(c.Args); i++ {
		arg := c.Args[i]
		switch {
		case arg == "-c" || arg == "-S":
			compiles = true
		case arg == "-E" || arg == "-M" || arg == "-MM" || arg == "-":
			return false
		case slices.Contains(separate, arg):
			i++
		case strings.HasPrefix(arg, "-"):
		default:
			switch filepath.Ext(arg) {
			case ".c", ".cc", ".cpp", ".cxx", ".C", ".m", ".mm", ".s", ".S", ".sx", ".i", ".ii":
				sources++
			}
		}
	}
	return compiles && sources == 1
}

func cacheableOf(calls []call) []call {
	var some []call
	for _, c := range calls {
		if c.cacheable() {
			some = append(some, c)
		}
	}
	return some
}

// output is the file that the call writes, as an absolute path.
func (c call) output() string {
	out := ""
	for i, arg := range c.Args {
		switch {
		case arg == "-o" && i+1 < len(c.Args):
			out = c.Args[i+1]
		case strings.HasPrefix(arg, "-o") && len(arg) > 2:
			out = arg[2:]
		}
	}
	if out == "" {
		for _, arg := range c.Args[1:] {
			if ext := filepath.Ext(arg); !strings.HasPrefix(arg, "-") && strings.HasPrefix(ext, ".c") {
				out = strings.TrimSuffix(filepath.Base(arg), ext) + ".o"
			}
		}
	}
	if !filepath.IsAbs(out) {
		out = filepath.Join(c.Dir, out)
	}
	return out
}

func TestCacheable(t *testing.T) {
	for line, want := range map[string]bool{
		"gcc -O2 -c a.c":                       true,
		"gcc -S a.c -o b.s":                    true,
		"gcc -MMD -o a.o -c a.c -I x.c":        true,
		"gcc -c a.c b.c":                       false,
		"gcc -o a a.c":                         false,
		"gcc -E a.c":                           false,
		"gcc -c -x c -":                        false,
		"gcc -o a a.o b.o":                     false,
		"g++ -std=c++17 -c x.cpp -include y.c": true,
	} {
		if got := (call{Args: strings.Fields(line)}).cacheable(); got != want {
			t.Errorf("%q: cacheable = %v", line, got)
		}
	}
}
