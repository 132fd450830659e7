package script

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"hpcc.dev/hpcc/internal/digest"
)

// same OUTCOME COMPILER[,COMPILER] ARGS…: runs a compile plainly and through
// hpcc. Exit code, messages, object and dependency file must be equal, and
// OUTCOME (hit, preprocessed-hit, miss, failed, or the reason of an uncacheable
// call) must be the one counter that moves, by one. With several compilers,
// each of them in turn. Files written before count as older than the compile.
func same(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: same OUTCOME COMPILER[,COMPILER] ARGS…")
	}
	for compiler := range strings.SplitSeq(args[1], ",") {
		time.Sleep(30 * time.Millisecond)
		before := outcomes(ts)
		want := leftBy(ts, compiler, args[2:])
		got := leftBy(ts, "hpcc", append([]string{compiler}, args[2:]...))
		for what, w := range want {
			if g := got[what]; g != w {
				ts.Fatalf("%s %s: %s is %s, the plain compiler's %s", compiler, strings.Join(args[2:], " "), what, brief(g), brief(w))
			}
		}
		after := outcomes(ts)
		for name, n := range after {
			moved := n - before[name]
			if wanted := name == args[0]; moved != 0 && !wanted || moved != 1 && wanted {
				ts.Fatalf("%s %s: %s went up by %v, want one %s", compiler, strings.Join(args[2:], " "), name, moved, args[0])
			}
		}
		if _, ok := after[args[0]]; !ok {
			ts.Fatalf("%s %s: no %s was counted", compiler, strings.Join(args[2:], " "), args[0])
		}
	}
}

// brief is a text, or of what is none its digest.
func brief(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' }) {
		return "of " + digest.Of([]byte(s)).String()[:16]
	}
	return fmt.Sprintf("%.2000q", s)
}

// leftBy runs a command and returns all that it leaves: what it printed, its
// exit code, and its outputs, which are taken away.
func leftBy(ts *testscript.TestScript, command string, args []string) map[string]string {
	outputs := outputsOf(args)
	for _, name := range outputs {
		os.Remove(ts.MkAbs(name))
	}
	err := ts.Exec(command, args...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%s: %v", command, err)
	}
	left := map[string]string{
		"exit code": fmt.Sprint(code), "stdout": ts.ReadFile("stdout"), "stderr": ts.ReadFile("stderr"),
	}
	if code == 0 && len(outputs) == 0 {
		ts.Fatalf("%s %s: no output is compared", command, strings.Join(args, " "))
	}
	for _, name := range outputs {
		data, err := os.ReadFile(ts.MkAbs(name))
		if err != nil {
			left[name] = "none"
			continue
		}
		left[name] = "file: " + string(data)
	}
	return left
}

// outputsOf names the files that a command may leave: -o and what is beside it,
// and what dependency options name.
func outputsOf(args []string) []string {
	var names []string
	for i, a := range args {
		switch {
		case a == "-o" || a == "-MF":
			names = append(names, args[i+1])
			if a == "-o" {
				names = append(names, strings.TrimSuffix(args[i+1], filepath.Ext(args[i+1]))+".d")
			}
		case strings.HasPrefix(a, "-Wp,-M"):
			if _, file, ok := strings.Cut(a[4:], ","); ok {
				names = append(names, file)
			}
		}
	}
	return names
}

// outcomes are the counters of which each compile moves exactly one.
func outcomes(ts *testscript.TestScript) map[string]float64 {
	out, err := hpcc(ts, "stats", "--json")
	ts.Check(err)
	var stats struct {
		Direct       float64            `json:"hits_direct"`
		Preprocessed float64            `json:"hits_preprocessed"`
		Misses       float64            `json:"misses"`
		Failed       float64            `json:"compiles_failed"`
		Uncacheable  map[string]float64 `json:"uncacheable"`
	}
	ts.Check(json.Unmarshal(out, &stats))
	counts := map[string]float64{
		"hit": stats.Direct, "preprocessed-hit": stats.Preprocessed, "miss": stats.Misses, "failed": stats.Failed,
	}
	for reason, n := range stats.Uncacheable {
		counts[reason] = n
	}
	return counts
}
