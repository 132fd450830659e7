package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/ipc"
	"hpcc.dev/hpcc/internal/remote"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// gatedWorker compiles once it is let, or is cancelled.
type gatedWorker struct {
	Worker
	// let holds one for each compile that may go on, or is closed.
	let chan struct{}
	// fails is the error of those that were let, if it is not nil.
	fails     error
	cancelled atomic.Int64
}

func newGatedWorker(w Worker) *gatedWorker { return &gatedWorker{Worker: w, let: make(chan struct{})} }

func (g *gatedWorker) Compile(ctx context.Context, r *remote.Request) (*remote.Result, error) {
	select {
	case <-g.let:
	case <-ctx.Done():
		g.cancelled.Add(1)
		return nil, ctx.Err()
	}
	if g.fails != nil {
		return nil, g.fails
	}
	return g.Worker.Compile(ctx, r)
}

// racingHere is a wrapper whose commands wait until they are let, and which ends
// those of races where they are cancelled.
type racingHere struct {
	dir string
	// let is as of gatedWorker. began gets the stage of each run.
	let   chan struct{}
	began chan ipcv1.Run_Stage
	// leaves are files that a command has begun to write when it is cancelled.
	leaves map[string]string
	// says is what a race's command reports instead of running, if it is not nil.
	says *ipcv1.Ran
}

func newRacingHere(dir string) *racingHere {
	return &racingHere{dir: dir, let: make(chan struct{}), began: make(chan ipcv1.Run_Stage, 100)}
}

func (h *racingHere) Run(ctx context.Context, run *ipcv1.Run) (*ipcv1.Ran, error) {
	h.began <- run.Stage
	if run.Stage != ipcv1.Run_STAGE_RACE {
		return execute(h.dir, run), nil
	}
	select {
	case <-h.let:
	case <-ctx.Done():
		for name, content := range h.leaves {
			if err := os.WriteFile(filepath.Join(h.dir, name), []byte(content), 0o600); err != nil {
				return nil, err
			}
		}
		return &ipcv1.Ran{Cancelled: true}, nil
	}
	if h.says != nil {
		return h.says, nil
	}
	return execute(h.dir, run), nil
}

// awaitRace waits until a compiler has been started here.
func (h *racingHere) awaitRace(t *testing.T) {
	t.Helper()
	select {
	case stage := <-h.began:
		if stage != ipcv1.Run_STAGE_RACE {
			t.Errorf("ran %s", stage)
		}
	case <-time.After(time.Minute):
		t.Fatal("no compiler was started here")
	}
}

// raceEngine races at once, by the image's own compiler.
func raceEngine(t *testing.T, w Worker, change func(*Options)) *Engine {
	t.Helper()
	return awayEngine(t, w, func(o *Options) {
		o.Away.Fallback, o.Away.RaceAfter, o.Background = FallbackSame, time.Millisecond, true
		if change != nil {
			change(o)
		}
	})
}

// compileRaced compiles with a compiler at hand; the answer comes by the channel.
func compileRaced(ctx context.Context, e *Engine, client Client, dir string, args ...string) <-chan *ipcv1.ServerMessage {
	answer := make(chan *ipcv1.ServerMessage, 1)
	go func() {
		answer <- e.Compile(ctx, &ipcv1.Compile{Args: args, Compiler: "/usr/bin/gcc", Cwd: dir, Umask: 0o022}, client)
	}()
	return answer
}

func awaitDone(t *testing.T, answer <-chan *ipcv1.ServerMessage) *ipcv1.Done {
	t.Helper()
	select {
	case m := <-answer:
		if m.Done == nil {
			t.Fatalf("%+v", m)
		}
		return m.Done
	case <-time.After(time.Minute):
		t.Fatal("the compile does not end")
	}
	return nil
}

// expectIdle checks that a race has left nothing behind, and returns the counters.
func expectIdle(t *testing.T, e *Engine) *Stats {
	t.Helper()
	e.Drain()
	if n := len(e.local); n > 0 {
		t.Errorf("%d slots are held", n)
	}
	e.flights.mu.Lock()
	if n := len(e.flights.now); n > 0 {
		t.Errorf("%d flights have not landed", n)
	}
	e.flights.mu.Unlock()
	if list := e.running.list(); len(list) > 0 {
		t.Errorf("still running: %+v", list)
	}
	if left, err := filepath.Glob(e.cache.TempDir() + "/*"); err != nil || len(left) > 0 {
		t.Errorf("left %q", left)
	}
	s, err := ReadStats(e.cache)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var raceFiles = map[string]string{"a.c": "#include \"b.h\"\nint f(void) { int unused; return B; }\n", "b.h": "#define B 1\n"}

// TestRaceWonThere: the worker is ready first. What the compile here had begun to
// write is written over, and what it said nobody hears.
func TestRaceWonThere(t *testing.T) {
	w := newMachineWorker(t)
	for _, mode := range []string{"cas", "preprocessed"} {
		t.Run(mode, func(t *testing.T) {
			g := newGatedWorker(w)
			e := raceEngine(t, g, func(o *Options) { o.Away.Preprocess = mode == "preprocessed" })
			dir := project(t, raceFiles)
			args, left := []string{"gcc", "-O1", "-MD", "-c", "a.c"}, []string{"a.o", "a.d"}
			want, _ := plainly(t, dir, left, args...)
			if mode == "preprocessed" {
				// The question which macros there are is no compile of the unit.
				put(t, dir+"/c.c", "int c;\n")
				e.opt.Away.RaceAfter = time.Hour
				close(g.let)
				awaitDone(t, compileRaced(t.Context(), e, newRacingHere(dir), dir, "gcc", "-O1", "-MD", "-c", "c.c"))
				g.let, e.opt.Away.RaceAfter = make(chan struct{}), time.Millisecond
			}
			before := expectIdle(t, e)
			h := newRacingHere(dir)
			h.leaves = map[string]string{"a.o": "half an object", "a.d": "half a list"}
			answer := compileRaced(t.Context(), e, h, dir, args...)
			h.awaitRace(t)
			if list := e.running.list(); len(list) != 1 || list[0].Source != "a.c" {
				t.Errorf("running: %+v", list)
			}
			close(g.let)
			if done := awaitDone(t, answer); done.ExitCode != 0 || len(done.Stdout)+len(done.Stderr) > 0 || done.Note != "" {
				t.Errorf("%+v", done)
			}
			if got := take(dir, left); got["a.o"] != want["a.o"] || got["a.d"] != want["a.d"] {
				t.Errorf("not what the plain compiler leaves: %q, want %q", got["a.d"], want["a.d"])
			}
			s := expectIdle(t, e)
			if s.Races != (RaceStats{Started: 1, WonThere: 1}) || s.Misses-before.Misses != 1 || len(s.NotRemote)+len(s.NotPreprocessed) > 0 || s.Errors > 0 {
				t.Errorf("%+v, before %+v", s, before)
			}
		})
	}
}

// TestRaceWonHere: the compile here is ready first: the worker's is cancelled, and
// the next build has the result from the cache, without another race.
func TestRaceWonHere(t *testing.T) {
	w := newMachineWorker(t)
	g := newGatedWorker(w)
	e := raceEngine(t, g, nil)
	dir := project(t, raceFiles)
	args, left := []string{"gcc", "-O1", "-Wall", "-MMD", "-c", "a.c"}, []string{"a.o", "a.d"}
	want, said := plainly(t, dir, left, args...)
	h := newRacingHere(dir)
	answer := compileRaced(t.Context(), e, h, dir, args...)
	h.awaitRace(t)
	close(h.let)
	if done := awaitDone(t, answer); done.ExitCode != 0 || string(done.Stderr) != said || said == "" || done.Note != "" {
		t.Errorf("%+v, want %s", done, said)
	}
	if got := take(dir, left); got["a.o"] != want["a.o"] || got["a.d"] != want["a.d"] {
		t.Errorf("not what the plain compiler leaves: %q, want %q", got["a.d"], want["a.d"])
	}
	if g.cancelled.Load() != 1 {
		t.Error("the worker was not told")
	}
	s := expectIdle(t, e)
	if s.Races != (RaceStats{Started: 1, WonHere: 1}) || s.Misses != 1 || s.Entries != 1 || s.NotRemote[string(reasonRace)] != 1 || s.Errors > 0 {
		t.Errorf("%+v", s)
	}

	e.opt.Away.RaceAfter = time.Hour
	if done := awaitDone(t, compileRaced(t.Context(), e, h, dir, args...)); done.ExitCode != 0 || string(done.Stderr) != said {
		t.Errorf("%+v", done)
	}
	if got := take(dir, left); got["a.o"] != want["a.o"] || got["a.d"] != want["a.d"] {
		t.Error("a hit leaves something else")
	}
	s = expectIdle(t, e)
	if s.Races.Started != 1 || s.HitsDirect != 1 || s.Misses != 1 || s.NotRemote[string(reasonRace)] != 1 || len(h.began) > 0 {
		t.Errorf("%+v, %d runs", s, len(h.began))
	}
}

// TestRaceFailsHere: a failure decides only where the worker's would be the same.
func TestRaceFailsHere(t *testing.T) {
	w := newMachineWorker(t)
	const ofSource, ofMachine = "a.c:1:2: \x1b[01;31m\x1b[Kerror: \x1b[m\x1b[Kbad\n", "a.c:1:10: fatal error: x.h: No such file or directory\n"
	for name, c := range map[string]struct {
		policy  Fallback
		ran     *ipcv1.Ran
		decides bool
	}{
		"the source's fault":    {FallbackSame, &ipcv1.Ran{ExitCode: 1, Stderr: []byte(ofSource)}, true},
		"another compiler":      {FallbackAny, &ipcv1.Ran{ExitCode: 1, Stderr: []byte(ofSource)}, false},
		"a header":              {FallbackSame, &ipcv1.Ran{ExitCode: 1, Stderr: []byte(ofSource + ofMachine)}, false},
		"killed":                {FallbackSame, &ipcv1.Ran{ExitCode: 137}, false},
		"a full disk":           {FallbackSame, &ipcv1.Ran{ExitCode: 1, Stderr: []byte("cc1: fatal error: a.o: No space left on device\n")}, false},
		"a crash":               {FallbackSame, &ipcv1.Ran{ExitCode: 4, Stderr: []byte("a.c: internal compiler error: Segmentation fault\n")}, false},
		"nothing to start":      {FallbackSame, &ipcv1.Ran{ExitCode: 127, Error: "not found"}, false},
		"more than can be kept": {FallbackSame, &ipcv1.Ran{Truncated: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGatedWorker(w)
			e := raceEngine(t, g, func(o *Options) { o.Away.Fallback = c.policy })
			dir := project(t, raceFiles)
			want, _ := plainly(t, dir, []string{"a.o"}, "gcc", "-c", "a.c")
			h := newRacingHere(dir)
			h.says = c.ran
			answer := compileRaced(t.Context(), e, h, dir, "gcc", "-c", "a.c")
			h.awaitRace(t)
			close(h.let)
			if c.decides {
				done := awaitDone(t, answer)
				if done.ExitCode != 1 || string(done.Stderr) != ofSource || !strings.Contains(done.Note, "remote.race") || g.cancelled.Load() != 1 {
					t.Errorf("%+v", done)
				}
				if s := expectIdle(t, e); s.Races != (RaceStats{Started: 1, WonHere: 1}) || s.CompilesFailed != 1 {
					t.Errorf("%+v", s)
				}
				return
			}
			close(g.let)
			if done := awaitDone(t, answer); done.ExitCode != 0 || len(done.Stderr) > 0 || done.Note != "" {
				t.Errorf("%+v", done)
			}
			if got := take(dir, []string{"a.o"}); got["a.o"] != want["a.o"] {
				t.Error("not what the plain compiler leaves")
			}
			if s := expectIdle(t, e); s.Races != (RaceStats{Started: 1, WonThere: 1}) || s.Misses != 1 || s.CompilesFailed != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestRaceFailsThere: the worker's failure is shown, and what the compile here began
// to write is gone: dependency files are as the plain compiler leaves them, and an
// old object that was written to is none any more.
func TestRaceFailsThere(t *testing.T) {
	w := newMachineWorker(t)
	for _, text := range []string{"int a = ;\n", "#include \"none.h\"\n"} {
		for _, old := range []bool{false, true} {
			g := newGatedWorker(w)
			e := raceEngine(t, g, nil)
			dir := project(t, map[string]string{"a.c": text})
			args, left := []string{"gcc", "-MD", "-c", "a.c"}, []string{"a.o", "a.d"}
			before := func() {
				if old {
					put(t, dir+"/a.o", "an old object")
					put(t, dir+"/a.d", "a.o: a.c old.h\n")
				}
			}
			before()
			want, said := plainly(t, dir, left, args...)
			delete(want, "a.o")
			before()
			h := newRacingHere(dir)
			h.leaves = map[string]string{"a.o": "half an object", "a.d": "half a list"}
			answer := compileRaced(t.Context(), e, h, dir, args...)
			h.awaitRace(t)
			close(g.let)
			if done := awaitDone(t, answer); done.ExitCode != 1 || string(done.Stderr) != said {
				t.Errorf("%+v, want %s", done, said)
			}
			if got := take(dir, left); !maps.Equal(got, want) {
				t.Errorf("%s, old %v: left %q, want %q", text, old, got, want)
			}
			if s := expectIdle(t, e); s.Races != (RaceStats{Started: 1, WonThere: 1}) || s.CompilesFailed != 1 {
				t.Errorf("%+v", s)
			}
		}
	}
}

// TestRaceLosesWorker: a compile that runs here already is the fallback then.
func TestRaceLosesWorker(t *testing.T) {
	w := newMachineWorker(t)
	for _, fails := range []bool{false, true} {
		g := newGatedWorker(w)
		g.fails = errors.New("the worker is gone")
		e := raceEngine(t, g, nil)
		dir := project(t, raceFiles)
		want, _ := plainly(t, dir, []string{"a.o"}, "gcc", "-c", "a.c")
		h := newRacingHere(dir)
		runs := 0
		if fails { // so that it is no answer, and the compile is made as ever
			h.says = &ipcv1.Ran{ExitCode: 137}
			runs = 1
		}
		answer := compileRaced(t.Context(), e, h, dir, "gcc", "-c", "a.c")
		h.awaitRace(t)
		close(g.let)
		close(h.let)
		if done := awaitDone(t, answer); done.ExitCode != 0 || done.Note != "" {
			t.Errorf("%+v", done)
		}
		if got := take(dir, []string{"a.o"}); got["a.o"] != want["a.o"] || len(h.began) != runs {
			t.Errorf("fails %v: not what the plain compiler leaves, or %d more runs", fails, len(h.began))
		}
		s := expectIdle(t, e)
		if s.Races.Started != 1 || s.Races.WonThere != 0 || s.Misses != 1 || s.NotRemote[string(reasonAway)]+s.NotRemote[string(reasonRace)] != 1 {
			t.Errorf("%+v", s)
		}
		if fails != (s.Races.WonHere == 0) {
			t.Errorf("fails %v: %+v", fails, s.Races)
		}
	}
}

// told is a log that hands out why compiles were not made here.
type told chan string

func (l told) Enabled(context.Context, slog.Level) bool { return true }
func (l told) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l told) WithGroup(string) slog.Handler            { return l }
func (l told) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "not-compiled-here" {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "why" {
				l <- a.Value.String()
			}
			return true
		})
	}
	return nil
}

// TestNoRace: where no compiler may be started here, none is, and the worker's
// result comes as ever.
func TestNoRace(t *testing.T) {
	w := newMachineWorker(t)
	for name, c := range map[string]struct {
		worker func(*gatedWorker)
		option func(*Options)
		before func(*Engine)
		why    string
	}{
		"no slot":          {before: func(e *Engine) { e.local <- struct{}{}; e.local <- struct{}{} }, why: errNoSlot.Error()},
		"another compiler": {worker: func(g *gatedWorker) { g.Worker = &describer{w, nil, true} }, why: "is not the compiler of image"},
		"unknown compiler": {worker: func(g *gatedWorker) { g.Worker = &describer{w, errors.New("an old worker"), false} }, why: "an old worker"},
		"fallback forbids": {option: func(o *Options) { o.Away.Fallback = FallbackFail }},
		"off":              {option: func(o *Options) { o.Away.RaceAfter = 0 }},
		"a quick worker":   {option: func(o *Options) { o.Away.RaceAfter = time.Hour }, why: context.Canceled.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGatedWorker(w)
			if c.worker != nil {
				c.worker(g)
			}
			why := make(told, 10)
			e := raceEngine(t, g, func(o *Options) {
				o.Log = slog.New(why)
				if c.option != nil {
					c.option(o)
				}
			})
			dir := project(t, raceFiles)
			want, _ := plainly(t, dir, []string{"a.o"}, "gcc", "-c", "a.c")
			if c.before != nil {
				c.before(e)
			}
			h := newRacingHere(dir)
			answer := compileRaced(t.Context(), e, h, dir, "gcc", "-c", "a.c")
			if c.why != "" && name != "a quick worker" {
				select {
				case got := <-why:
					if !strings.Contains(got, c.why) {
						t.Errorf("%s, want %s", got, c.why)
					}
				case <-time.After(time.Minute):
					t.Fatal("nothing was said")
				}
			}
			close(g.let)
			if done := awaitDone(t, answer); done.ExitCode != 0 {
				t.Errorf("%+v", done)
			}
			if got := take(dir, []string{"a.o"}); got["a.o"] != want["a.o"] || len(h.began) > 0 {
				t.Errorf("not what the plain compiler leaves, or %d runs here", len(h.began))
			}
			if c.before != nil {
				<-e.local
				<-e.local
			}
			if s := expectIdle(t, e); s.Races != (RaceStats{}) || s.Misses != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestRaceMixesNothingStored: what another compiler than the image's has made here
// is no answer while a worker has its head start.
func TestRaceMixesNothingStored(t *testing.T) {
	w := newMachineWorker(t)
	g := newGatedWorker(&describer{w, errors.New("an old worker"), false})
	e := raceEngine(t, g, func(o *Options) { o.Away.Fallback = FallbackAny })
	dir := project(t, raceFiles)
	h := newRacingHere(dir)
	close(h.let)
	awaitDone(t, compileRaced(t.Context(), e, h, dir, "gcc", "-c", "a.c"))
	e.Drain()
	e.opt.Away.RaceAfter = time.Hour
	close(g.let)
	awaitDone(t, compileRaced(t.Context(), e, h, dir, "gcc", "-c", "a.c"))
	if s := expectIdle(t, e); s.Races != (RaceStats{Started: 1, WonHere: 1}) || s.Misses != 2 || s.HitsDirect != 0 {
		t.Errorf("%+v", s)
	}
}

// TestRaceByText: where only the preprocessed text tells which of the results here
// is the right one, the preprocessor waits for the head start as the compiler does.
func TestRaceByText(t *testing.T) {
	g := newGatedWorker(newMachineWorker(t))
	why := make(told, 10)
	e := raceEngine(t, g, func(o *Options) { o.Log = slog.New(why) })
	dir := project(t, map[string]string{"a.c": "#define S(x) #x\n#define T(x) S(x)\n#if __has_include(T(b.h))\nint a;\n#endif\n", "b.h": ""})
	want, _ := plainly(t, dir, []string{"a.o"}, "gcc", "-c", "a.c")
	h := newRacingHere(dir)
	close(h.let)
	compile := func() {
		t.Helper()
		if done := awaitDone(t, compileRaced(t.Context(), e, h, dir, "gcc", "-c", "a.c")); done.ExitCode != 0 {
			t.Errorf("%+v", done)
		}
		if got := take(dir, []string{"a.o"}); got["a.o"] != want["a.o"] {
			t.Error("not what the plain compiler leaves")
		}
	}
	// The first finds out, the second stores.
	for range 2 {
		compile()
		h.awaitRace(t)
		e.Drain()
	}
	compile()
	if s := expectIdle(t, e); s.Races.Started != 2 || s.HitsPreprocessed != 1 || len(h.began) > 0 {
		t.Errorf("%+v, %d runs", s, len(h.began))
	}
	e.opt.Away.RaceAfter = time.Hour
	close(g.let)
	compile()
	if got := <-why; got != context.Canceled.Error() {
		t.Error(got)
	}
	if s := expectIdle(t, e); s.Races.Started != 2 || s.HitsPreprocessed != 1 || s.Misses != 2 || len(h.began) > 0 {
		t.Errorf("%+v, %d runs", s, len(h.began))
	}
}

// TestRaceInterrupted: Ctrl-C ends both halves.
func TestRaceInterrupted(t *testing.T) {
	w := newMachineWorker(t)
	for _, reports := range []bool{false, true} {
		g := newGatedWorker(w)
		e := raceEngine(t, g, nil)
		dir := project(t, raceFiles)
		h := newRacingHere(dir)
		ctx, interrupt := context.WithCancel(t.Context())
		answer := compileRaced(ctx, e, h, dir, "gcc", "-c", "a.c")
		h.awaitRace(t)
		if reports { // before it goes
			h.says = &ipcv1.Ran{Signal: 2}
			close(h.let)
			if done := awaitDone(t, answer); done.ExitCode != 130 {
				t.Errorf("%+v", done)
			}
			interrupt()
		} else {
			interrupt()
			select {
			case <-answer:
			case <-time.After(time.Minute):
				t.Fatal("the compile does not end")
			}
		}
		if g.cancelled.Load() != 1 {
			t.Error("the worker's half goes on")
		}
		if s := expectIdle(t, e); s.Races.Started != 1 || s.Races.WonThere != 0 || s.Misses != 0 || s.Entries != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// TestRaces has many builds race at once, each for both of two units, with few
// slots and either side first as it comes: every object is right, and no more
// compilers run than there are slots.
func TestRaces(t *testing.T) {
	w := newMachineWorker(t)
	g := newGatedWorker(w)
	close(g.let)
	e := raceEngine(t, g, func(o *Options) { o.Away.RaceAfter = 5 * time.Millisecond })
	files := map[string]string{"b.h": "#define B 1\n"}
	want := map[string]string{}
	for i := range 8 {
		files[fmt.Sprintf("u%d.c", i)] = fmt.Sprintf("#include \"b.h\"\nint u%d = B;\n", i)
	}
	dir := project(t, files)
	for i := range 8 {
		made, _ := plainly(t, dir, []string{fmt.Sprintf("u%d.o", i)}, "gcc", "-c", fmt.Sprintf("u%d.c", i))
		want[fmt.Sprintf("u%d.o", i)] = made[fmt.Sprintf("u%d.o", i)]
	}
	// What is asked once only takes longer than these compiles.
	if same, err := e.isImages(t.Context(), &ipcv1.Compile{Compiler: "/usr/bin/gcc"}); err != nil || !same {
		t.Fatal(same, err)
	}
	var running, most atomic.Int64
	var builds sync.WaitGroup
	for b := range 4 {
		dir := project(t, files)
		builds.Add(1)
		go func() {
			defer builds.Done()
			for i := range 8 {
				unit := (i + b) % 8
				client := counting{&running, &most, dir}
				m := e.Compile(t.Context(), &ipcv1.Compile{Args: []string{"gcc", "-c", fmt.Sprintf("u%d.c", unit)}, Compiler: "/usr/bin/gcc", Cwd: dir, Umask: 0o022}, client)
				name := fmt.Sprintf("u%d.o", unit)
				if got := take(dir, []string{name}); m.Done == nil || m.Done.ExitCode != 0 || got[name] != want[name] {
					t.Errorf("%s: %+v, or another object", name, m)
				}
			}
		}()
	}
	builds.Wait()
	s := expectIdle(t, e)
	if s.Misses+s.Hits() != 32 || s.Errors != 0 || len(s.Uncacheable) > 0 {
		t.Errorf("%+v", s)
	}
	if n := most.Load(); n > int64(cap(e.local)) {
		t.Errorf("%d compilers at once", n)
	}
	t.Logf("%+v", s.Races)
}

// counting runs a race's commands, and counts those at once.
type counting struct {
	running, most *atomic.Int64
	dir           string
}

func (c counting) Run(ctx context.Context, run *ipcv1.Run) (*ipcv1.Ran, error) {
	n := c.running.Add(1)
	defer c.running.Add(-1)
	for m := c.most.Load(); n > m && !c.most.CompareAndSwap(m, n); m = c.most.Load() {
	}
	ran := execute(c.dir, run)
	if ctx.Err() != nil {
		return &ipcv1.Ran{Cancelled: true}, nil
	}
	return ran, nil
}

// TestConversationCancels: the wrapper is told once, and its answer awaited; other
// commands are never cancelled.
func TestConversationCancels(t *testing.T) {
	daemon, wrapper := net.Pipe()
	defer wrapper.Close()
	c := newConversation(daemon)
	_, stop := c.watch()
	defer daemon.Close()
	defer stop()
	far := ipc.NewClientConn(wrapper)
	next := func() *ipcv1.ServerMessage {
		for {
			m := &ipcv1.ServerMessage{}
			wrapper.SetReadDeadline(time.Now().Add(time.Minute))
			if err := far.Receive(m); err != nil {
				t.Fatal(err)
			}
			if m.Wait == nil {
				return m
			}
		}
	}
	for _, stage := range []ipcv1.Run_Stage{ipcv1.Run_STAGE_RACE, ipcv1.Run_STAGE_COMPILE, ipcv1.Run_STAGE_QUIET} {
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan *ipcv1.Ran, 1)
		go func() {
			ran, err := c.Run(ctx, &ipcv1.Run{Stage: stage, Args: []string{"gcc"}})
			if err != nil {
				t.Error(err)
			}
			got <- ran
		}()
		if m := next(); m.Run.GetStage() != stage {
			t.Fatalf("%+v", m)
		}
		cancel()
		race := stage == ipcv1.Run_STAGE_RACE
		if race {
			if m := next(); m.Cancel == nil {
				t.Fatalf("%+v", m)
			}
		}
		if err := far.Send(&ipcv1.ClientMessage{Ran: &ipcv1.Ran{Cancelled: race, ExitCode: 3}}); err != nil {
			t.Fatal(err)
		}
		if ran := <-got; ran.GetCancelled() != race || ran.GetExitCode() != 3 {
			t.Errorf("%s: %+v", stage, ran)
		}
	}
}

// TestBlamesSource tells whose fault a failure is.
func TestBlamesSource(t *testing.T) {
	for text, want := range map[string]bool{
		"a.c:1:2: error: expected expression\n":                                    true,
		"a.c:1:2: \x1b[01;31m\x1b[Kerror: \x1b[m\x1b[Kunused [-Werror]\n":          true,
		"gcc: error: unrecognized command-line option '-fx'\n":                     true,
		"a.c:1:10: fatal error: x.h: No such file or directory\n":                  false,
		"a.c:1:10: fatal error: 'x.h' file not found\n":                            false,
		"a.c:9: error: x\na.c:1:10: fatal error: x.h: No such file or directory\n": false,
		"gcc: fatal error: Killed signal terminated program cc1\n":                 false,
		"a.c:1: internal compiler error: Segmentation fault\n":                     false,
		"a.s: Assembler messages:\na.s:1: Error: no such instruction: `x'\n":       false,
		"a.c:1:2: Fehler: erwartet\n":                                              false,
		"":                                                                         false,
	} {
		if got := blamesSource([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
