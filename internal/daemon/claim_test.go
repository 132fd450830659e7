package daemon

import (
	"path/filepath"
	"testing"

	"hpcc.dev/hpcc/internal/cache"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

func TestClaims(t *testing.T) {
	disk, err := cache.Open(cache.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	e := NewEngine(Options{Cache: disk})
	defer e.Close()
	claim := func(paths ...string) claims {
		c, err := e.claim(paths)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	left := func() int {
		files, err := filepath.Glob(disk.TempDir() + "/claim-*")
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	for range 3 { // one after the other
		c := claim("/w/a.o", "/w/a.d")
		if c.shared() {
			t.Error("a single claim is shared")
		}
		c.release()
	}
	a, b := claim("/w/a.o", "/w/a.d"), claim("/w/b.o", "/w/./a.d")
	other := claim("/w/c.o")
	if !a.shared() || !b.shared() || other.shared() {
		t.Errorf("shared: %v, %v, %v; want true, true, false", a.shared(), b.shared(), other.shared())
	}
	b.release()
	if !a.shared() {
		t.Error("what was shared is not any more once the other has gone")
	}
	c := claim("/w/a.d") // while a is still there
	a.release()
	if !c.shared() {
		t.Error("the first of three does not count")
	}
	c.release()
	other.release()
	if n := left(); n != 0 {
		t.Errorf("%d files are left", n)
	}

	// A process that was killed leaves its file, which says nothing.
	killed := claim("/w/d.o")
	killed[0].Close()
	after := claim("/w/d.o")
	if after.shared() {
		t.Error("a killed process's claim counts")
	}
	second := claim("/w/d.o")
	if !after.shared() || !second.shared() {
		t.Error("after a killed one, two at once are not shared")
	}
	after.release()
	second.release()
}

// TestTwoCompilesIntoOneOutput: the slower one's object is what both find.
func TestTwoCompilesIntoOneOutput(t *testing.T) {
	h := newHarness(t)
	dir := writeSource(t)
	start := func(args ...string) (*peer, *ipcv1.Run) {
		p := h.dial("unix")
		p.send(&ipcv1.ClientMessage{Hello: h.hello(), Compile: request(t, dir, args...)})
		m := p.answer()
		if m.Run == nil {
			t.Fatalf("%q does not compile: %+v", args, m)
		}
		return p, m.Run
	}
	finish := func(p *peer, ran *ipcv1.Ran) {
		p.send(&ipcv1.ClientMessage{Ran: ran})
		if m := p.answer(); m.Done == nil || m.Done.ExitCode != 0 {
			t.Fatalf("ended with %+v", m)
		}
	}
	hits := func(args ...string) bool {
		h.engine.Drain()
		_, runs := h.dial("unix").converse(h, request(t, dir, args...))
		return runs == 0
	}
	one, two := []string{"-Da=b", "-c", "a.c", "-o", "x.o"}, []string{"-Da=c", "-c", "a.c", "-o", "x.o"}
	p1, run1 := start(one...)
	p2, run2 := start(two...)
	ran1, ran2 := execute(dir, run1), execute(dir, run2)
	finish(p1, ran1)
	finish(p2, ran2)
	if hits(one...) || hits(two...) {
		t.Error("a result was stored though another compile had written its output")
	}
	// Now both are stored, by the compiles of hits. A hit counts as well.
	p3, run3 := start("-Da=d", "-c", "a.c", "-o", "x.o")
	ran3 := execute(dir, run3)
	if !hits(one...) {
		t.Error("what was compiled alone was not stored")
	}
	finish(p3, ran3)
	if hits("-Da=d", "-c", "a.c", "-o", "x.o") {
		t.Error("a result was stored though a hit had written its output")
	}
	h.engine.Drain()
	stats, err := ReadStats(h.engine.cache)
	if err != nil || stats.Uncacheable[string(reasonOutputShared)] != 3 {
		t.Errorf("counted %+v, %v", stats, err)
	}
}
