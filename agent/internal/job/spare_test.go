package job

import (
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// waiting waits for a helper that the last job has left for the next one, and
// puts it back.
func (w *world) waiting(t *testing.T) *helper {
	t.Helper()
	w.spares.all.Wait()
	select {
	case h := <-w.spares.ready:
		w.spares.ready <- h
		return h
	default:
		t.Fatal("no helper waits")
		return nil
	}
}

// A helper that waits is the next job's, and nobody's after that.
func TestSpare(t *testing.T) {
	w := newWorld(t, "")
	seen := map[int]bool{}
	for i := range 4 {
		if r := w.run(t, shell(fmt.Sprintf("[ ! -e /tmp/mark ] && echo %d >/tmp/mark && cat /tmp/mark", i))); r.stdout.String() != fmt.Sprintln(i) {
			t.Fatalf("%d: %q %q", i, r.stdout.String(), r.stderr.String())
		}
		for len(w.spares.ready) > 1 { // so that it is known whose turn it is
			h := <-w.spares.ready
			if err := h.end(); err != nil {
				t.Fatal(err)
			}
			w.slots <- h.slot
		}
		h := w.waiting(t)
		if seen[h.cmd.Process.Pid] {
			t.Errorf("helper %d had a job", h.cmd.Process.Pid)
		}
		seen[h.cmd.Process.Pid] = true
	}
}

// One that was killed while it waited, or that was made for other limits, is not
// used.
func TestSpareOfNoUse(t *testing.T) {
	w := newWorld(t, "")
	w.run(t, shell(":"))
	h := w.waiting(t)
	if err := h.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-h.ended
	if r := w.run(t, shell("echo ok")); r.stdout.String() != "ok\n" {
		t.Errorf("%q", r.stdout.String())
	}
	h = w.waiting(t)
	more := func(h *agentv1.ExecHeader) { h.Limits.DiskBytes += 1 << 20 }
	if r := w.run(t, shell("echo ok", more)); r.stdout.String() != "ok\n" {
		t.Errorf("%q", r.stdout.String())
	}
	if h.alive() {
		t.Error("a helper of other limits waits on")
	}
}

// More jobs at once than may run, among helpers that come and go; and nothing is
// left of those that wait.
func TestSparesOfMany(t *testing.T) {
	w := newWorld(t, "")
	var all sync.WaitGroup
	for i := range MaxJobs + 20 {
		all.Go(func() {
			r := w.run(t, shell(fmt.Sprintf("echo %d", i)))
			if r.stdout.String() != fmt.Sprintln(i) {
				t.Errorf("%d: %q", i, r.stdout.String())
			}
		})
	}
	all.Wait()
	h := w.waiting(t)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(h.cmd.Process.Pid, 0); err != unix.ESRCH {
		t.Errorf("a helper is left: %v", err)
	}
	w.run(t, shell(":"))
	if w.spares.all.Wait(); len(w.spares.ready) > 0 {
		t.Error("a helper waits for jobs that never come")
	}
}
