//go:build lab

package job

import (
	"fmt"
	"strings"
	"testing"
	"time"

	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// groups is where the lab has control groups of version 2, with memory and pids
// enabled for children.
const groups = "/sys/fs/cgroup"

// What the kernel counts is told, whichever process it was, whatever became of
// it, and the job is ended then.
func TestLimitsOfGroup(t *testing.T) {
	w := newWorld(t, groups)
	const mib = 1 << 20
	for _, c := range []struct {
		name, script string
		limits       *agentv1.Limits
		want         agentv1.ExecResult_Limit
	}{
		// A shell's variable grows.
		{"memory", "(x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done); exit 0", &agentv1.Limits{MemoryBytes: 100 * mib}, agentv1.ExecResult_LIMIT_MEMORY},
		{"memory by files", "(cat /dev/zero >other); sleep 50; exit 0", &agentv1.Limits{MemoryBytes: 100 * mib, DiskBytes: 1 << 30}, agentv1.ExecResult_LIMIT_MEMORY},
		{"memory by the first process", "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done", &agentv1.Limits{MemoryBytes: 100 * mib}, agentv1.ExecResult_LIMIT_MEMORY},
		{"processes", "(for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do sleep 50 & done) 2>/dev/null; kill -9 -1; exit 0",
			&agentv1.Limits{Processes: 10}, agentv1.ExecResult_LIMIT_PROCESSES},
		{"fork bomb", "f() { f | f & }; f; sleep 50; exit 0", &agentv1.Limits{Processes: 50}, agentv1.ExecResult_LIMIT_PROCESSES},
		{"disk", "(cat /dev/zero >other); exit 0", &agentv1.Limits{MemoryBytes: 1 << 30, DiskBytes: 16 * mib}, agentv1.ExecResult_LIMIT_DISK},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.limits.TimeMillis = 120_000
			begun := time.Now()
			r := w.run(t, shell(c.script, func(h *agentv1.ExecHeader) { h.Limits = c.limits }))
			if r.Limit != c.want {
				t.Errorf("limit %v, want %v: %v\n%s", r.Limit, c.want, r.ExecResult, r.stderr.String())
			}
			t.Logf("ended after %s: %v", time.Since(begun), r.ExecResult)
			w.endSpares(t)
			w.nothingLeft(t)
		})
	}
}

// As many processes as a job may have it can have, and nothing else counts them.
func TestProcessesWithinGroup(t *testing.T) {
	w := newWorld(t, groups)
	r := w.run(t, shell("i=1; while [ $i -lt 200 ]; do sleep 100 & i=$((i+1)); done; echo all", func(h *agentv1.ExecHeader) { h.Limits.Processes = 200 }))
	if r.Limit != 0 || r.ExitCode != 0 || r.stdout.String() != "all\n" {
		t.Errorf("%v\n%s%s", r.ExecResult, r.stdout.String(), r.stderr.String())
	}
	// Two at once have a group each.
	results := make(chan string, 2)
	for i := range 2 {
		go func() {
			r := w.run(t, shell(fmt.Sprintf("cat /proc/self/cgroup; exit %d", i)))
			results <- r.stdout.String()
		}()
	}
	if a, b := <-results, <-results; a == b || !strings.Contains(a, "/job-") {
		t.Errorf("%q and %q", a, b)
	}
}

// endSpares ends the helpers that wait for jobs, as Close does, and lets others
// be started.
func (w *world) endSpares(t *testing.T) {
	t.Helper()
	w.spares.all.Wait()
	for len(w.spares.ready) > 0 {
		h := <-w.spares.ready
		if err := h.end(); err != nil {
			t.Error(err)
		}
		w.slots <- h.slot
	}
}
