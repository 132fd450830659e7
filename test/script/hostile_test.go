package script

import (
	"path/filepath"
	"strings"
	"testing"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/digest"
)

// TestInspectHostile shows an entry that somebody made to give orders to the
// terminal of whoever looks at it, and to be endless: what is printed is text,
// and no more than a person reads.
func TestInspectHostile(t *testing.T) {
	s := newSetup(t)
	disk, err := cache.Open(cache.Options{Dir: s.dir + "/cache"})
	s.must(err)
	const evil = "\x1b]0;owned\x07\x9b2J\u009b31m\r\n\t\xff\u202e"
	d := digest.Of([]byte(evil))
	e := &action.Entry{
		Action: action.Action{
			Command: []string{evil, action.Mark("mode", evil)}, Env: []string{"A=" + evil}, Cwd: evil,
			Inputs: []action.Input{{Path: evil, Digest: d}}, Present: []string{evil},
		},
		Result: action.Result{
			Stdout: []byte(evil), Stderr: []byte(strings.Repeat(evil, 1000)), StdioContext: evil,
			Outputs:      []action.Output{{Role: evil, Digest: d}},
			Dependencies: []action.Dependency{{Path: evil}},
		},
	}
	for i := range 5000 {
		e.Action.Absent = append(e.Action.Absent, strings.Repeat(evil, 1+i%10))
	}
	key := e.Action.Key()
	s.must(disk.PutEntry(key, e))
	s.must(disk.Quarantine(key, []byte(`{"source":"\u001b[2J","differs":["\u009b"],"stored":null}`)))
	s.must(disk.PutEntry(key, e))
	s.must(disk.Close())
	for _, args := range [][]string{{"inspect", key.String()}, {"inspect", "--json", key.String()}, {"inspect", "quarantine"}} {
		out, err := s.command(filepath.Join(bin, "hpcc"), args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		odd := strings.IndexFunc(string(out), func(r rune) bool {
			return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r == 0x202e || r == 0xfffd
		})
		if odd >= 0 {
			t.Errorf("%v prints %q", args, out[max(0, odd-40):min(len(out), odd+40)])
		}
		if args[1] != "--json" && (len(out) > 32<<10 || strings.Count(string(out), "\n") > 200) {
			t.Errorf("%v prints %d bytes", args, len(out))
		}
	}
	// Names of outputs are no paths: nothing is written but where the user says.
	cmd := s.command(filepath.Join(bin, "hpcc"), "inspect", key.String(), "--output", "../../x")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "no output") {
		t.Errorf("%v: %s", err, out)
	}
}
