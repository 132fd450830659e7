package job

import (
	"fmt"
	"strings"
	"testing"
	"time"

	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// A limit is told whatever the job makes of it: here it always exits with 0.
func TestLimits(t *testing.T) {
	w := newWorld(t, "")
	for _, c := range []struct {
		name, script string
		limits       *agentv1.Limits
		want         agentv1.ExecResult_Limit
	}{
		{"time", "sleep 1000 & sleep 1000", &agentv1.Limits{TimeMillis: 300}, agentv1.ExecResult_LIMIT_TIME},
		{"time, and signals ignored", "trap '' HUP INT TERM; while :; do sleep 1; done", &agentv1.Limits{TimeMillis: 300}, agentv1.ExecResult_LIMIT_TIME},
		{"output", "(head -c 1025 /dev/zero >out); exit 0", &agentv1.Limits{FileBytes: 1024}, agentv1.ExecResult_LIMIT_FILE},
		{"output without an end", "(cat /dev/zero >out); exit 0", &agentv1.Limits{FileBytes: 1 << 20}, agentv1.ExecResult_LIMIT_FILE},
		{"sparse output", "dd if=/dev/null of=out bs=1 seek=1073741825 2>/dev/null", &agentv1.Limits{}, agentv1.ExecResult_LIMIT_FILE},
		{"output behind a link", "head -c 2048 /dev/zero >real; ln -s real out", &agentv1.Limits{FileBytes: 1024}, agentv1.ExecResult_LIMIT_FILE},
		{"disk", "(cat /dev/zero >other); exit 0", &agentv1.Limits{DiskBytes: 16 << 20}, agentv1.ExecResult_LIMIT_DISK},
		{"disk at the end", "head -c 2000000 /dev/zero >other; exit 0", &agentv1.Limits{DiskBytes: 1 << 20}, agentv1.ExecResult_LIMIT_DISK},
		{"disk outside the root", "(cat /dev/zero >/tmp/other); exit 0", &agentv1.Limits{DiskBytes: 16 << 20}, agentv1.ExecResult_LIMIT_DISK},
		{"stdio", "(cat /dev/zero & cat /dev/zero >&2); exit 0", &agentv1.Limits{StdioBytes: 100_000}, agentv1.ExecResult_LIMIT_STDIO},
	} {
		t.Run(c.name, func(t *testing.T) {
			begun := time.Now()
			r := w.run(t, shell(c.script, outputs("out"), func(h *agentv1.ExecHeader) {
				if c.limits.TimeMillis == 0 {
					c.limits.TimeMillis = 60_000
				}
				h.Limits = c.limits
			}))
			if r.Limit != c.want {
				t.Errorf("limit %v, want %v: %v\n%s", r.Limit, c.want, r.ExecResult, r.stderr.String())
			}
			if r.calls > 0 || len(r.Outputs) > 0 {
				t.Errorf("%d chunks, outputs %v of a job at its limit", r.calls, r.Outputs)
			}
			if printed := r.stdout.Len() + r.stderr.Len(); c.limits.StdioBytes == 100_000 && printed != 100_000 {
				t.Errorf("%d bytes printed", printed)
			}
			if took := time.Since(begun); took > time.Minute {
				t.Errorf("took %s", took)
			}
		})
	}
}

// Files count, however small.
func TestManyFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("a hundred thousand files: they run without the race detector")
	}
	w := newWorld(t, "")
	r := w.run(t, shell(fmt.Sprintf("seq %d | xargs mkdir; exit 0", maxInodes-agentv1.MaxInputs+10), func(h *agentv1.ExecHeader) {
		for i := range agentv1.MaxInputs {
			h.Inputs = append(h.Inputs, &agentv1.Input{Path: fmt.Sprintf("%s/d/%d", root, i), Kind: agentv1.Input_KIND_SYMLINK, Target: "x"})
		}
	}))
	if r.Limit != agentv1.ExecResult_LIMIT_DISK {
		t.Errorf("%v\n%s", r.ExecResult, r.stderr.String())
	}
}

// What is just within is no limit's.
func TestWithinLimits(t *testing.T) {
	w := newWorld(t, "")
	r := w.run(t, shell("head -c 1024 /dev/zero >out; head -c 4096 /dev/zero; head -c 1000000 /dev/zero >other; rm other", outputs("out"), func(h *agentv1.ExecHeader) {
		h.Limits = &agentv1.Limits{TimeMillis: 60_000, FileBytes: 1024, StdioBytes: 4096, DiskBytes: 1 << 20}
	}))
	if r.Limit != 0 || r.ExitCode != 0 || r.files[0] != strings.Repeat("\x00", 1024) || r.stdout.Len() != 4096 {
		t.Errorf("%v, %d bytes left, %d printed\n%s", r.ExecResult, len(r.files[0]), r.stdout.Len(), r.stderr.String())
	}
}

// A job may have to wait for the host to take what it left; its time is over
// when it has ended.
func TestTimeOfOutputs(t *testing.T) {
	w := newWorld(t, "")
	const limit = 10 * time.Second // of an echo, on a machine that may be busy
	r := &ran{onOutput: func() error { time.Sleep(limit + time.Second); return nil }}
	if err := w.try(t, t.Context(), shell("echo x >out", outputs("out"), func(h *agentv1.ExecHeader) { h.Limits.TimeMillis = uint64(limit.Milliseconds()) }), r); err != nil {
		t.Fatal(err)
	}
	if r.Limit != 0 || len(r.Outputs) != 1 {
		t.Errorf("%v", r.ExecResult)
	}
}

// A disk that was over its limit for a moment has let no program feel it.
func TestDiskForAMoment(t *testing.T) {
	w := newWorld(t, "")
	r := w.run(t, shell("head -c 30000000 /dev/zero >other && echo whole; rm other; exit 0", func(h *agentv1.ExecHeader) { h.Limits.DiskBytes = 16 << 20 }))
	if r.Limit != agentv1.ExecResult_LIMIT_DISK && (r.Limit != 0 || r.stdout.String() != "whole\n") {
		t.Errorf("%v\n%s%s", r.ExecResult, r.stdout.String(), r.stderr.String())
	}
}

// All outputs together have a limit of the contract's.
func TestOutputsTogether(t *testing.T) {
	w := newWorld(t, "")
	r := &ran{onOutput: func() error { return nil }}
	h := shell("for i in 1 2 3; do dd if=/dev/null of=o$i bs=1 seek=400000000 2>/dev/null; done", outputs("o1", "o2", "o3"))
	if err := w.try(t, t.Context(), h, r); err != nil {
		t.Fatal(err)
	}
	if r.Limit != agentv1.ExecResult_LIMIT_FILE || r.calls > 0 {
		t.Errorf("%v, %d chunks", r.ExecResult, r.calls)
	}
}
