package daemon

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// TestNamesakesCompileAtOnce: two sources of one name and one command in two
// directories do not wait for each other, but for the same content they do.
func TestNamesakesCompileAtOnce(t *testing.T) {
	h := newHarness(t)
	one, other, same := writeSource(t), writeSource(t), writeSource(t)
	if err := os.WriteFile(filepath.Join(other, "a.c"), []byte("int other;\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	time.Sleep(30 * time.Millisecond)
	start := func(dir string) *peer {
		p := h.dial("unix")
		p.send(&ipcv1.ClientMessage{Hello: h.hello(), Compile: request(t, dir, "-c", "a.c")})
		return p
	}
	finish := func(p *peer, ran *ipcv1.Ran) {
		t.Helper()
		p.send(&ipcv1.ClientMessage{Ran: ran})
		if m := p.answer(); m.Done == nil || m.Done.ExitCode != ran.ExitCode {
			t.Fatalf("ended with %+v", m)
		}
	}
	mustRun := func(p *peer) *ipcv1.Run {
		t.Helper()
		m := p.answer()
		if m.Run == nil {
			t.Fatalf("does not compile: %+v", m)
		}
		return m.Run
	}
	first := start(one)
	mustRun(first)
	second := start(other)
	finish(second, execute(other, mustRun(second)))

	// Who waited for a compile that failed compiles, and is waited for.
	waiter := start(same)
	time.Sleep(50 * time.Millisecond)
	finish(first, &ipcv1.Ran{ExitCode: 1})
	run := mustRun(waiter)
	last := start(one)
	answered := make(chan *ipcv1.ServerMessage, 1)
	go func() { answered <- last.answer() }()
	select {
	case m := <-answered:
		t.Fatalf("does not wait for the compile that is under way: %+v", m)
	case <-time.After(200 * time.Millisecond):
	}
	finish(waiter, execute(same, run))
	if m := <-answered; m.Done == nil {
		t.Errorf("compiles what another has just compiled: %+v", m)
	}
}
