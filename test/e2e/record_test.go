//go:build e2e && linux

package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/test/strace"
)

// The test binary is also the recording compiler: under a compiler's name it
// runs the compiler of that name in $E2E_REAL_PATH, under the name hpcc the one
// that its first argument names, and appends the call to $E2E_RECORD. With
// $E2E_TRACE, a directory, strace writes there what the compile looked up.
func TestMain(m *testing.M) {
	if record := os.Getenv("E2E_RECORD"); record != "" && !strings.HasSuffix(os.Args[0], ".test") {
		code, err := runAndRecord(record)
		if err != nil {
			fmt.Fprintln(os.Stderr, "recorder:", err)
			code = 125
		}
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// call is one compiler call of a build.
type call struct {
	Dir  string   `json:"dir"`
	Args []string `json:"args"`
	// Exit is the compiler's exit code.
	Exit int `json:"exit"`
	// Trace is the prefix of strace's files, "" if it was not traced.
	Trace string `json:"trace,omitempty"`

	tree string // the directory of the tree whose build it is of
}

func runAndRecord(record string) (exit int, err error) {
	c := call{Args: os.Args}
	name := filepath.Base(c.Args[0])
	if name == "hpcc" {
		c.Args = c.Args[1:]
		name = c.Args[0]
	}
	if c.Dir, err = os.Getwd(); err != nil {
		return 0, err
	}
	// gcc finds its helpers by looking its own name up in PATH: there it must
	// not find the recorder.
	if err := os.Setenv("PATH", os.Getenv("E2E_REAL_PATH")); err != nil {
		return 0, err
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return 0, err
	}
	cmd := &exec.Cmd{Path: path, Args: c.Args}
	if dir := os.Getenv("E2E_TRACE"); dir != "" && c.cacheable() {
		c.Trace = filepath.Join(dir, fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano()))
		traced := slices.Concat(strace.Command(c.Trace), []string{path}, c.Args[1:])
		cmd = exec.Command(traced[0], traced[1:]...)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	var failed *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &failed) {
		return 0, err
	}
	c.Exit = cmd.ProcessState.ExitCode()
	line, err := json.Marshal(c)
	if err != nil {
		return 0, err
	}
	f, err := os.OpenFile(record, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	// One write: calls of a parallel build do not mix.
	_, err = f.Write(append(line, '\n'))
	return c.Exit, err
}

func readCalls(t *testing.T, tr *tree, record string) []call {
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
		c.tree = tr.dir
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
	"-mllvm", "-Xclang", "-target", "--param", "-G",
}

// cacheable says whether the call compiles exactly one source with -c or -S.
func (c call) cacheable() bool {
	compiles, sources, language := false, 0, ""
	for i := 1; i < len(c.Args); i++ {
		arg := c.Args[i]
		switch {
		case arg == "-c" || arg == "-S":
			compiles = true
		case arg == "-E" || arg == "-M" || arg == "-MM" || arg == "-":
			return false
		case arg == "-x" && i+1 < len(c.Args):
			i++
			language = c.Args[i]
		case slices.Contains(separate, arg):
			i++
		case strings.HasPrefix(arg, "-"):
		case language != "" && language != "none":
			sources++
		default:
			switch filepath.Ext(arg) {
			case ".c", ".cc", ".cpp", ".cxx", ".C", ".m", ".mm", ".s", ".S", ".sx", ".i", ".ii":
				sources++
			}
		}
	}
	return compiles && sources == 1
}

// cacheableOf are the calls whose results a cache can keep: failing ones leave
// none.
func cacheableOf(calls []call) []call {
	var some []call
	for _, c := range calls {
		if c.Exit == 0 && c.cacheable() {
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
		"gcc -c -x c /dev/null -o a.o":         true,
		"gcc -o a a.o b.o":                     false,
		"g++ -std=c++17 -c x.cpp -include y.c": true,
	} {
		if got := (call{Args: strings.Fields(line)}).cacheable(); got != want {
			t.Errorf("%q: cacheable = %v", line, got)
		}
	}
}
