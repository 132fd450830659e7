package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// contest is the race between a worker and this machine for one compile. The
// worker's half is the job that began it, in the goroutine that leads the
// conversation. This machine's half is a job of its own in a goroutine of its own,
// which ends by closing done; until then nothing else touches that job, the
// conversation or the outputs. So the two share nothing but what is declared below.
//
// A nil contest is a compile that is not raced; all methods take it.
type contest struct {
	e *Engine
	// here is this machine's half.
	here *job
	// ctx is what here runs by, and cancel ends it; lose ends the worker's half.
	ctx    context.Context
	cancel context.CancelFunc
	lose   context.CancelCauseFunc
	begun  bool
	done   chan struct{}
	// head is closed when the worker's head start is over.
	head  chan struct{}
	timer *time.Timer

	mu     sync.Mutex
	winner side
	// started is set once a compiler of this machine was started.
	started atomic.Bool

	// For here alone, and after done for all.
	holding bool       // one of the slots for local compilers
	ran     *ipcv1.Ran // what the compiler did
	was     []leftover // the outputs as they were before
	msg     *ipcv1.ServerMessage
}

type side uint8

const (
	nobody side = iota
	localSide
	workersSide
)

// errLostRace is the error of the half that is not wanted any more.
var errLostRace = errors.New("the compile was ready elsewhere before")

// newContest prepares a race, if this compile may be raced at all. The worker's
// half is to run by the context that it returns.
func (j *job) newContest(ctx context.Context) (context.Context, *contest) {
	a := j.e.opt.Away
	if a.RaceAfter <= 0 || a.Fallback == FallbackFail || j.req.GetCompiler() == "" || j.req.GetShowCommand() {
		return ctx, nil
	}
	c := &contest{e: j.e, done: make(chan struct{}), head: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.here = &job{e: j.e, req: j.req, client: racer{j.client, c}, started: j.started, permit: c.permit}
	ctx, c.lose = context.WithCancelCause(ctx)
	return ctx, c
}

// begin starts the worker's head start. The worker is asked right after.
func (c *contest) begin() {
	if c == nil || c.begun {
		return
	}
	c.begun = true
	c.timer = time.AfterFunc(c.e.opt.Away.RaceAfter, func() { close(c.head) })
	go func() {
		defer close(c.done)
		defer c.release()
		msg, err := c.compileHere()
		if err == nil && c.counts(msg) && c.decide(localSide) {
			c.msg = msg
			c.lose(errLostRace)
			return
		}
		c.here.land()
		if err != nil {
			c.e.log.Debug("not-compiled-here", "why", err.Error(), "source", c.here.source())
		}
	}()
}

// compileHere is this machine's half. What is stored of an earlier compile here is
// looked for at once, so that who builds a second time need not wait for the same
// race again; a compiler is started by permission only.
func (c *contest) compileHere() (*ipcv1.ServerMessage, error) {
	j := c.here
	if err := c.mayMix(); err != nil {
		return nil, err
	}
	var err error
	if j.prep, err = j.e.prepare(c.ctx, j.req); err != nil {
		return nil, err
	}
	c.lookBefore()
	return j.search(c.ctx, j.compile)
}

// mayMix is an error unless the policy lets a result of this machine's compiler
// stand for one of the image's. Where the worker must be asked for that, it gets
// its head start first; so it does before a compiler that need not be the image's,
// of which nothing that is stored is taken while the image's is at hand.
func (c *contest) mayMix() error {
	same, known, err := c.e.knownImages(c.ctx, c.here.req)
	if c.e.opt.Away.Fallback == FallbackAny {
		if err == nil && same {
			return nil
		}
		return c.headStart()
	}
	if err == nil && !known {
		if err = c.headStart(); err == nil {
			same, err = c.e.isImages(c.ctx, c.here.req)
		}
	}
	if err == nil && !same {
		err = fmt.Errorf("%s is not the compiler of image %s", c.here.req.GetCompiler(), shortImage(c.e.opt.Away.Image))
	}
	return err
}

// headStart returns when the worker has had its time alone.
func (c *contest) headStart() error {
	select {
	case <-c.head:
	case <-c.ctx.Done():
	}
	return c.ctx.Err() // of two that are ready, select takes any
}

var errNoSlot = errors.New("no slot for a local compiler is free")

// permit lets a compiler of this machine be started: after the head start, and if
// a slot is free at that moment. A race is for idle processors. Who would have to
// wait for one is better served by the worker.
func (c *contest) permit() error {
	if c.holding {
		return nil
	}
	if err := c.headStart(); err != nil {
		return err
	}
	select {
	case c.e.local <- struct{}{}:
		c.holding = true
	default:
		return errNoSlot
	}
	if len(c.e.local) > runtime.NumCPU() {
		return errNoSlot // remote.local_jobs allows fallback more than that
	}
	return nil
}

func (c *contest) release() {
	c.timer.Stop()
	if c.holding {
		<-c.e.local
	}
}

// racer runs the one command of this machine's half: the compile.
type racer struct {
	Client
	c *contest
}

func (r racer) Run(ctx context.Context, run *ipcv1.Run) (*ipcv1.Ran, error) {
	if ctx.Err() != nil {
		return nil, errLostRace
	}
	r.c.started.Store(true)
	run.Stage = ipcv1.Run_STAGE_RACE
	ran, err := r.Client.Run(ctx, run)
	switch {
	case err != nil:
		return nil, err
	case ran.GetCancelled() && ran.GetSignal() == 0:
		return nil, errLostRace
	case ran.GetTruncated():
		return nil, refuse(reasonStdioLarge, "more than %d bytes", captureLimit) // to show it, too
	}
	r.c.ran = ran
	return ran, nil
}

// counts reports whether what this machine made decides the race. A success does.
// A failure does where the compiler is known to be the image's, and complains of
// the source: then the worker's will, too. Anything else (a header that is
// installed in the image alone, a full disk, a compiler that was killed) may be
// this machine's fault, and the worker has the word.
func (c *contest) counts(msg *ipcv1.ServerMessage) bool {
	done := msg.GetDone()
	switch {
	case done == nil:
		return false
	case c.ran == nil: // it was stored
		return true
	}
	done.Stdout, done.Stderr = c.ran.GetStdout(), c.ran.GetStderr()
	if done.ExitCode == 0 || c.ran.GetSignal() != 0 {
		return true
	}
	same, known, err := c.e.knownImages(c.ctx, c.here.req)
	if err != nil || !known || !same || !blamesSource(done.Stdout, done.Stderr) {
		return false
	}
	done.Note = "the error above is of " + c.here.req.GetCompiler() + " on this machine, which was ready before the worker (remote.race)"
	return true
}

// blamesSource reports whether a compile that failed said what is wrong with the
// source; "fatal error" is what gcc calls all that keeps it from reading on.
func blamesSource(texts ...[]byte) bool {
	says := false
	for _, t := range texts {
		t = escapes.ReplaceAll(t, nil)
		says = says || bytes.Contains(t, []byte(": error: "))
		if missesHeader(t) || bytes.Contains(t, []byte(": fatal error: ")) || bytes.Contains(t, []byte("internal compiler error")) {
			return false
		}
	}
	return says
}

// decide makes s the winner, unless the other one is.
func (c *contest) decide(s side) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.winner == nobody {
		c.winner = s
	}
	return c.winner == s
}

// take decides the race for the worker, of whose result files are to be left here.
// When it returns, no compiler of this machine runs that could write there. The
// error says that this machine was faster.
func (c *contest) take(files []outputFile) error {
	if c == nil || !c.begun {
		return nil
	}
	if !c.decide(workersSide) {
		return errLostRace
	}
	c.cancel()
	<-c.done
	c.clear(files)
	return nil
}

// end ends a job's race after its worker's half came to msg, or failed. Where this
// machine's half counts, the job is from here on what that has become.
func (c *contest) end(ctx context.Context, j *job, msg *ipcv1.ServerMessage, err error) (*ipcv1.ServerMessage, error) {
	if c == nil {
		return msg, err
	}
	j.contest = nil
	defer c.lose(nil)
	defer c.cancel()
	if !c.begun {
		return msg, err
	}
	var home goHome
	reason := reasonRace
	if errors.As(err, &home) && c.started.Load() {
		// What runs already runs in the worker's place now.
		reason = home.Reason
	} else {
		c.cancel()
	}
	<-c.done
	if c.msg == nil {
		if c.started.Load() {
			j.raced = raceOpen
			if c.winner == workersSide {
				j.raced = raceWonThere
			}
		}
		return msg, err
	}
	j.land()
	notText := j.outcome.notText
	*j = *c.here
	j.outcome.notText, j.permit = notText, nil
	if c.started.Load() {
		j.raced, j.instead = raceWonHere, reason
	}
	if j.kept != nil {
		j.kept(ctx, j)
	}
	return c.msg, nil
}

// raceEnd is what became of a race in which a compiler was started here.
type raceEnd uint8

const (
	noRace raceEnd = iota
	// raceOpen has no winner: it was interrupted, or the worker failed and so
	// did the compile here.
	raceOpen
	raceWonHere
	raceWonThere
)

var raceNames = [...]string{noRace: "", raceOpen: "open", raceWonHere: "here", raceWonThere: "there"}

// leftover is an output as it was before this machine's half began.
type leftover struct {
	path  string
	there bool
	st    unix.Stat_t
	// deps is what a dependency file held.
	deps []byte
}

// maxDeps bounds the dependency files that are kept to be written back, in bytes.
const maxDeps = 1 << 20

func (c *contest) lookBefore() {
	j := c.here
	for _, path := range j.written() {
		l := leftover{path: path}
		l.there = unix.Lstat(path, &l.st) == nil
		if j.prep.inv.Deps.Requested && l.there && path == j.prep.place.absolute(j.prep.inv.Deps.File) && l.st.Size <= maxDeps {
			l.deps, _ = readOutput(path) // one that cannot be read is not one to write
		}
		c.was = append(c.was, l)
	}
}

// clear takes away what a half that does not count left or began to leave,
// except files, which are written next. An output that was there before goes as
// well, if it was written to: drivers remove it where they fail, too. A dependency
// file comes back, or make would not know why to build again.
func (c *contest) clear(files []outputFile) {
	next := map[string]bool{}
	for _, f := range files {
		next[f.path] = true
	}
	for _, was := range c.was {
		var st unix.Stat_t
		there := unix.Lstat(was.path, &st) == nil
		same := there == was.there && (!there || st.Ino == was.st.Ino && st.Size == was.st.Size && st.Mtim == was.st.Mtim && st.Ctim == was.st.Ctim)
		switch {
		case same || next[was.path]:
		case was.deps != nil:
			o := c.here.outputFile(was.path, was.deps)
			if _, err := o.write(); err != nil {
				c.e.log.Warn("dependency-file-not-written", "error", err.Error(), "file", was.path)
			}
		case there && st.Mode&unix.S_IFMT == unix.S_IFREG:
			removeAll(was.path)
		}
	}
}
