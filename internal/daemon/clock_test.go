package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/compiler"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// coarsen makes t a table on a machine whose clock for files stands still for
// ten milliseconds at a time, as kernels before 6.13 have it. It goes by the
// clock that files are stamped with: the time of day may be far ahead of that.
func coarsen(t *fileTable) *fileTable {
	const hz = int64(10 * time.Millisecond)
	t.exact = nil
	t.now = func() int64 { return coarseNow() / hz * hz }
	t.stamp = func(st *unix.Stat_t) stamp {
		s := stampOf(st)
		s.mtime, s.ctime = s.mtime/hz*hz, s.ctime/hz*hz
		return s
	}
	return t
}

// standing is a clock that moves when the test says so, in nanoseconds, and when
// by that clock the test's file was last written.
type standing struct{ at, wrote int64 }

// stand makes t a table whose clock for files is the one returned.
func stand(t *fileTable) *standing {
	c := &standing{at: time.Now().Unix()*int64(time.Second) + 1} // never a whole second
	t.exact = nil
	t.now = func() int64 { return c.at }
	t.stamp = func(st *unix.Stat_t) stamp {
		s := stampOf(st)
		s.mtime, s.ctime = c.wrote, c.wrote
		return s
	}
	return c
}

// TestEditWithinATick writes a file over and over, at once after it was read
// and with equal size: a stamp is mostly the old one.
func TestEditWithinATick(t *testing.T) {
	files := newFileTable()
	clock := stand(files)
	path := filepath.Join(t.TempDir(), "h.h")
	f := files.at(path)
	var before stamp
	same := 0
	for i := range 500 {
		// In place: the inode stays.
		if err := os.WriteFile(path, fmt.Appendf(nil, "%03d", i), 0o644); err != nil {
			t.Fatal(err)
		}
		clock.wrote = clock.at
		got, st, err := files.digest(f)
		if err != nil {
			t.Fatal(err)
		}
		if st == before {
			same++
		}
		before = st
		_, _, text, err := (newFileTable()).content(&file{path: path})
		if err != nil || string(text) != fmt.Sprintf("%03d", i) {
			t.Fatalf("read %q, %v", text, err)
		}
		if want, _, _ := newFileTable().digest(&file{path: path}); got != want {
			t.Fatalf("edit %d within a tick was not noticed", i)
		}
		switch {
		case i%50 == 49:
			clock.at += int64(30 * time.Millisecond) // the stamp may be trusted now
			if files.digest(f); !f.trusted {
				t.Fatalf("edit %d: a stamp is not trusted once its tick is over", i)
			}
		case i%7 == 6:
			clock.at += int64(10 * time.Millisecond)
		}
	}
	if same < 400 {
		t.Errorf("only %d of 500 edits left the stamp as it was: the test shows nothing", same)
	}
}

// TestNameWithinATick makes and removes a name at once after its directory was
// looked at.
func TestNameWithinATick(t *testing.T) {
	files := coarsen(newFileTable())
	dir := t.TempDir()
	name := filepath.Join(dir, "h.h")
	absent := groupAbsent([]string{name}, nil)[0]
	for i := range 300 {
		if ok, appeared := absent.allAbsent(files); !ok {
			t.Fatalf("try %d: %s is not there", i, appeared)
		}
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if ok, _ := absent.allAbsent(files); ok {
			t.Fatalf("try %d: a name that appeared within a tick was not noticed", i)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 {
			time.Sleep(30 * time.Millisecond)
		}
	}
}

func TestTrustedOnceATickOld(t *testing.T) {
	files := newFileTable()
	clock := stand(files)
	path := filepath.Join(t.TempDir(), "h.h")
	write := func(mtime time.Time) *file {
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		clock.wrote = clock.at
		files.stamp = func(st *unix.Stat_t) stamp {
			s := stampOf(st)
			s.mtime, s.ctime = mtime.UnixNano(), clock.wrote
			return s
		}
		f := &file{path: path}
		files.digest(f)
		return f
	}
	now := time.Unix(0, clock.at)
	for name, mtime := range map[string]time.Time{
		"new": now, "old": now.Add(-time.Hour), "from the future": now.Add(time.Hour), "of whole seconds": time.Unix(1e9, 0),
	} {
		f := write(mtime)
		if f.trusted {
			t.Errorf("a file that is %s is trusted in the tick in which it was written", name)
		}
		clock.at += int64(35 * time.Millisecond)
		if files.digest(f); !f.trusted {
			t.Errorf("a file that is %s is read at each look", name)
		}
	}
}

func TestChangedSince(t *testing.T) {
	const (
		second  = int64(time.Second)
		start   = 1_000_000*second + 123_456_789
		local   = 1
		remote  = 2
		precise = 3
	)
	now := start + second/2
	files := newFileTable()
	files.now = func() int64 { return now - second/4 } // far behind
	files.fine = func() int64 { return now }
	files.timing.Store(uint64(local), byTicks)
	files.timing.Store(uint64(precise), byExact)
	files.timing.Store(uint64(remote), byOthers)
	began := func() moment {
		return moment{files: start, exact: start + 2_000_000, fine: start, steady: steadyNow() - (now - start)}
	}
	for _, c := range []struct {
		name         string
		dev          uint64
		ctime, mtime int64
		seen         int64 // what an output showed of the other clock, or 0
		want         bool
	}{
		{"long before", local, start - second, start - second, 0, false},
		{"a tick before", local, start - 1, start - 1, 0, false},
		{"in the same tick", local, start, start, 0, true},
		{"during the compile", local, start + 1, start + 1, 0, true},
		{"during the compile, by mtime alone", local, start - second, start + 1, 0, true},
		{"after it", local, now, now, 0, true},
		{"mtime from the future", local, start - second, start + 3600*second, 0, false},
		{"changed while the clock was ahead", local, start + 3600*second, start + 3600*second, 0, false},
		{"in the same tick, and before", precise, start + 1_999_999, start, 0, false},
		{"in the same tick, and after", precise, start + 2_000_000, start, 0, true},
		{"exact clock, whole seconds, just before", precise, start / second * second, start / second * second, 0, true},
		{"whole seconds, just before", local, start / second * second, start / second * second, 0, true},
		{"whole seconds, long before", local, start/second*second - 3*second, start/second*second - 3*second, 0, false},
		{"another clock, just before", remote, start - second, start - second, 0, true},
		{"another clock, long before", remote, start - 3600*second, start - 3600*second, 0, false},
		{"another clock an hour behind, before", remote, start - 3601*second, start - 3601*second, start - 3600*second, false},
		{"another clock an hour behind, during", remote, start - 3599*second, start - 3599*second, start - 3600*second, true},
	} {
		m := began()
		if c.seen != 0 {
			m.loose = map[uint64]int64{c.dev: c.seen}
		}
		if got := files.changedSince(&m, "/x", stamp{dev: c.dev, ctime: c.ctime, mtime: c.mtime}); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}

	// The clock was set back by a second while half a second went by.
	m := began()
	now -= second
	if !files.changedSince(&m, "/x", stamp{dev: local, ctime: start - 3600*second}) {
		t.Error("times prove something though the clock was set back")
	}
}

// TestExactNow: a file changed before a reading of the clock is older, one that
// is changed after it is not.
func TestExactNow(t *testing.T) {
	now := exactNow()
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if multigrain := major > 6 || major == 6 && minor >= 13; multigrain != (now != nil) {
		t.Fatalf("Linux %d.%d: exact is %v", major, minor, now != nil)
	}
	if now == nil {
		return
	}
	for _, dir := range []string{t.TempDir(), "/dev/shm"} {
		f, err := os.CreateTemp(dir, "clock")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(f.Name())
		defer f.Close()
		changed := func() int64 {
			if _, err := f.WriteAt([]byte("x"), 0); err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Fstat(int(f.Fd()), &st); err != nil {
				t.Fatal(err)
			}
			return st.Ctim.Nano()
		}
		for range 5000 {
			before := changed()
			at := now()
			if after := changed(); before >= at || after < at {
				t.Fatalf("%s: changes at %d and %d, the clock between them at %d", dir, before, after, at)
			}
		}
	}
}

// TestClocksOnABusyMachine stands still between the readings of the two clocks:
// that is not one of them being set back.
func TestClocksOnABusyMachine(t *testing.T) {
	files := newFileTable()
	calls := 0
	files.fine = func() int64 {
		at := fineNow()
		if calls++; calls%2 == 0 {
			time.Sleep(time.Duration(3 * tick))
		}
		return at
	}
	m := files.moment()
	if files.changedSince(&m, "/", stamp{ctime: m.files - int64(time.Hour), mtime: m.files - int64(time.Hour)}) {
		t.Error("a file an hour old is taken for changed")
	}
	// Every other reading takes long; on a busy machine more may.
	if calls < 3 {
		t.Errorf("the clocks were read %d times", calls)
	}
}

// TestHeaderEditedUnderTheCompiler: with coarse clocks, an edit in the tick in
// which the compile ends. The result, which may be of either text, must not
// be found by any later build.
func TestHeaderEditedUnderTheCompiler(t *testing.T) {
	h := newHarness(t)
	coarsen(h.engine.files)
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("a.c", "#include \"h.h\"\nint v = V;\n")
	modified := 0
	for i := range 8 {
		put("h.h", fmt.Sprintf("#define V %d\n", i))
		time.Sleep(30 * time.Millisecond)
		req := request(t, dir, "-c", "a.c")
		p := h.dial("unix")
		p.send(&ipcv1.ClientMessage{Hello: h.hello(), Compile: req})
		m := p.answer()
		if m.Run == nil {
			t.Fatalf("build %d did not compile: %+v", i, m)
		}
		ran := execute(dir, m.Run)
		put("h.h", "#define V 9\n")
		p.send(&ipcv1.ClientMessage{Ran: ran})
		p.answer()
		h.engine.Drain()
		// What the next build finds must be of the header as it is now.
		end, _ := h.dial("unix").converse(h, req)
		if end.Done == nil || end.Done.ExitCode != 0 {
			t.Fatalf("ended with %+v", end)
		}
		h.engine.Drain()
		got, err := os.ReadFile(filepath.Join(dir, "a.o"))
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dir, "plain.o")
		cmd := exec.Command("gcc", "-c", "a.c", "-o", out)
		cmd.Dir = dir
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		want, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Fatalf("build %d found an object of another header", i)
		}
	}
	stats, err := ReadStats(h.engine.cache)
	if err != nil {
		t.Fatal(err)
	}
	if modified = int(stats.Uncacheable[string(reasonModified)]); modified < 8 {
		t.Errorf("%d results were dropped for a modified input, want 8 or more: %+v", modified, stats)
	}
}

// TestSettleUntilTheTick: on a busy virtual machine the clock for files may stand
// still for longer than any kernel means it to.
func TestSettleUntilTheTick(t *testing.T) {
	for _, c := range []struct {
		late int // how often the clock is found standing still
		want bool
	}{{0, true}, {150, true}, {1 << 30, false}} {
		synctest.Test(t, func(t *testing.T) {
			source := filepath.Join(t.TempDir(), "a.c")
			if err := os.WriteFile(source, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			made, looks := int64(0), 0
			for _, name := range []string{source, filepath.Dir(source)} {
				var st unix.Stat_t
				if err := unix.Stat(name, &st); err != nil {
					t.Fatal(err)
				}
				made = max(made, stampOf(&st).ctime)
			}
			files := newFileTable()
			files.exact, files.fine = nil, func() int64 { return made }
			files.now = func() int64 {
				if looks++; looks > c.late {
					return made + 1
				}
				return made
			}
			j := &job{e: &Engine{files: files, manifests: newLRU[manifestID, *manifest](1)}}
			j.prep = &prepared{inv: &compiler.Invocation{Source: source}, place: place{cwd: filepath.Dir(source)}}
			j.settle(t.Context(), manifestID{})
			if got := files.now() > made; got != c.want || looks > 2*settleTries && c.late < 1<<30 {
				t.Errorf("late by %d looks: settled is %v after %d", c.late, got, looks)
			}
		})
	}
}
