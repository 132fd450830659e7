package daemon

import (
	"os"
	"strings"
	"testing"

	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// TestVerifyQuarantines has a compile come out differently the second time: the
// user keeps what the compiler made, is told, and the entry is gone.
func TestVerifyQuarantines(t *testing.T) {
	h := newHarness(t)
	dir := writeSource(t)
	if end, _ := h.dial("unix").converse(h, request(t, dir, "-c", "a.c")); end.Done == nil {
		t.Fatalf("ended with %+v", end)
	}
	h.engine.Drain()

	req := request(t, dir, "-c", "a.c")
	req.Env = append(req.Env, "HPCC_VERIFY=1")
	p := h.dial("unix")
	p.send(&ipcv1.ClientMessage{Hello: h.hello(), Compile: req})
	run := p.answer().Run
	if run == nil {
		t.Fatal("the hit was not compiled")
	}
	ran := execute(dir, run)
	if err := os.WriteFile(dir+"/a.o", []byte("another object"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.send(&ipcv1.ClientMessage{Ran: ran})
	end := p.answer()
	if end.Done == nil || end.Done.ExitCode != 0 || !strings.Contains(end.Done.Note, "verification") {
		t.Fatalf("ended with %+v", end)
	}
	if got, _ := os.ReadFile(dir + "/a.o"); string(got) != "another object" {
		t.Errorf("the compiler's object was replaced by %d bytes", len(got))
	}
	h.engine.Drain()
	if _, runs := h.dial("unix").converse(h, request(t, dir, "-c", "a.c")); runs != 1 {
		t.Errorf("the entry that differed still answers: %d runs, want 1", runs)
	}
	h.engine.Drain()
	stats, err := ReadStats(h.engine.cache)
	if err != nil || stats.Uncacheable[string(reasonVerify)] != 1 || stats.Errors != 1 {
		t.Errorf("counted %+v, %v", stats, err)
	}
}
