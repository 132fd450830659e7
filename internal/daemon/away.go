package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/remote"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// Away says how compiles are made on workers, in one image. No compiler needs to
// be here then: what is sent is found by reading the sources, and which files a
// compile read is what the machine says that ran it.
type Away struct {
	Worker Worker
	// Image is the toolchain: sha256:HEX.
	Image string
	// Fallback says when a compiler of this machine may compile in a worker's
	// place.
	Fallback Fallback
	// LocalJobs bounds the compilers that run here in workers' place, or in a race
	// with them; 1 at least.
	LocalJobs int
	// Timeout bounds one compile, waiting included; 0 is no bound.
	Timeout time.Duration
	// Paranoid keeps nothing of a result: the next one comes from a worker, too,
	// whose log has a row for it.
	Paranoid bool
	// Preprocess sends what a compiler of this machine makes of a unit's files
	// instead of these, where it reads them as the image's does and nothing is
	// lost by it.
	Preprocess bool
	// RaceAfter is the head start of a worker before the compile is made here as
	// well, and what is ready first counts; 0 makes no races. Fallback says
	// whether this machine's compiler may take part.
	RaceAfter time.Duration
}

// Worker makes compiles in an image; *remote.Client is one.
type Worker interface {
	Compile(ctx context.Context, r *remote.Request) (*remote.Result, error)
	Describe(ctx context.Context, image string, paths []string) ([]digest.Digest, error)
}

// Fallback is a policy.
type Fallback string

const (
	// FallbackSame allows a compiler whose files equal the image's.
	FallbackSame Fallback = "same"
	// FallbackAny allows whatever is called by the name.
	FallbackAny Fallback = "any"
	// FallbackFail fails the compile.
	FallbackFail Fallback = "fail"
)

// paranoid tells whether no result is kept here, or looked for.
func (e *Engine) paranoid() bool { return e.opt.Away != nil && e.opt.Away.Paranoid }

// goHome is the error of a compile that no worker makes; how the build goes on,
// the policy tells.
type goHome struct{ *compiler.NotCacheable }

func (g goHome) Unwrap() error { return g.NotCacheable }

func stay(reason compiler.Reason, format string, args ...any) error {
	return goHome{&compiler.NotCacheable{Reason: reason, Detail: fmt.Sprintf(format, args...)}}
}

// homeward makes a goHome of a refusal.
func homeward(err error) error {
	var refused *compiler.NotCacheable
	if errors.As(err, &refused) {
		return goHome{refused}
	}
	return err
}

// runAway leads a compile that a worker may make.
func (j *job) runAway(ctx context.Context) (*ipcv1.ServerMessage, error) {
	var away context.Context
	away, j.contest = j.newContest(ctx)
	msg, err := j.tryAway(away, false)
	if errors.Is(err, errRooted) {
		j.land()
		msg, err = j.tryAway(away, true)
	}
	return j.contest.end(ctx, j, msg, err)
}

// tryAway is runAway at the roots' neutral places, or at their own. Which it has
// to be is remembered.
func (j *job) tryAway(ctx context.Context, inPlace bool) (msg *ipcv1.ServerMessage, err error) {
	prep, err := j.e.prepareAway(j.req, inPlace)
	if err != nil {
		var refused *compiler.NotCacheable
		if errors.As(err, &refused) {
			if j.req.GetCompiler() == "" && (refused.Reason == compiler.ReasonQuery || refused.Reason == compiler.ReasonPreprocessing) {
				return j.ask(ctx, refused.Reason)
			}
			return nil, goHome{refused}
		}
		return nil, err
	}
	j.prep = prep
	if j.req.GetShowCommand() {
		j.outcome.silent = true
		return &ipcv1.ServerMessage{Run: &ipcv1.Run{Args: prep.work.Argv}}, nil
	}
	if _, rooted := j.e.rooted.get(prep.key); rooted {
		return nil, errRooted
	}
	if j.e.opt.Away.Preprocess {
		done, err := j.viaText(ctx)
		var why notText
		if !errors.As(err, &why) {
			return done, err
		}
		j.land()
		defer func() { j.explainText(why, msg) }()
	}
	msg, err = j.search(ctx, j.compileAway)
	if errors.Is(err, errRooted) {
		j.e.rooted.put(prep.key, struct{}{})
	}
	return msg, err
}

// compileAway has a worker compile, and leaves what it made.
func (j *job) compileAway(ctx context.Context, id manifestID) (*ipcv1.ServerMessage, error) {
	defer j.e.running.begin(j)()
	if err := j.checkOutputs(); err != nil {
		return nil, err
	}
	if v := j.verifying; v != nil && v.found != nil {
		msg, err := j.deliver(v.manifest.key, v.found)
		if err == nil {
			return j.judge(ctx, v, msg)
		}
		j.verifying = nil // evicted under way
	}
	res, err := j.sendAway(ctx, j.prep.work, false)
	if err == nil && res.Hit && j.banned(res.Key) {
		res, err = j.compileAgain(ctx)
	}
	if err != nil {
		return nil, err
	}
	if j.failedByDate(res) {
		// Without the option it compiles; with the date in it, it is nobody's but
		// this build's.
		plain := *j.prep.work
		plain.Argv = slices.DeleteFunc(slices.Clone(plain.Argv), func(a string) bool { return a == dateTimeError })
		if res, err = j.sendAway(ctx, &plain, true); err != nil {
			return nil, err
		}
		j.outcome.reason = reasonDateTime
	}
	if res.ExitCode != 0 || res.Signal != 0 {
		if err := j.contest.take(nil); err != nil {
			return nil, err
		}
		j.leaveFailed(res)
		return j.failAway(res), nil
	}
	dated := j.outcome.reason
	msg, err := j.leaveAway(ctx, id, res, "")
	if err == nil && dated != "" {
		j.outcome = outcome{kind: uncacheable, reason: dated, detail: j.prep.inv.Source}
	}
	return msg, err
}

// leaveAway leaves a result that a worker made, or that tier had if it is not "".
func (j *job) leaveAway(ctx context.Context, id manifestID, res *remote.Result, tier string) (*ipcv1.ServerMessage, error) {
	r, err := j.resultOf(res)
	if err != nil {
		return nil, err
	}
	msg, err := j.leave(r)
	if err != nil {
		return nil, err
	}
	j.made(id, res, r, tier)
	if res.Hit && j.verifies() {
		return j.judge(ctx, j.hitOf(id, res, r, tier), msg)
	}
	return msg, nil
}

// made notes what a worker made or had, or tier if it is not "", and has it kept
// here behind the build.
func (j *job) made(id manifestID, res *remote.Result, r *result, tier string) {
	j.outcome = outcome{kind: miss, action: res.Key, manifest: id.key, tier: tier}
	if res.Hit {
		j.outcome.kind, j.outcome.saved = hitRemote, res.CompileTime
	}
	if res.Stored && !j.e.paranoid() {
		j.behind = func() { j.keepAway(id, res, r) }
	}
}

// sendAway is one compile on a worker. What the files hold now is what is
// compiled, so that no race can make a wrong result; one that changes while it
// is sent is looked at once more.
func (j *job) sendAway(ctx context.Context, work *action.Job, uncached bool) (*remote.Result, error) {
	for again := false; ; again = true {
		g, err := j.newGuess()
		if err != nil {
			return nil, err
		}
		if j.verifying == nil {
			j.contest.begin()
		}
		res, err := j.e.opt.Away.compile(ctx, &remote.Request{
			Job: work, Tree: g.tree, Open: g.open, Confirm: g.confirm, Uncached: uncached,
		})
		if errors.Is(err, remote.ErrInputChanged) && !again {
			continue
		}
		if err := homeFrom(ctx, res, err); err != nil {
			return nil, err
		}
		if err := j.checkRead(work, res); err != nil {
			return nil, err
		}
		j.e.guesses.put(j.prep.key, g.read(res))
		return res, nil
	}
}

// homeFrom says what it means that a worker's compile ended with err, or at a
// limit: nil where there is an answer to the question, whatever it is. The end of
// ctx, errRooted and a notText are themselves; all else is a goHome. None of them
// may be remembered as an answer.
func homeFrom(ctx context.Context, res *remote.Result, err error) error {
	var (
		refused *compiler.NotCacheable
		text    notText
	)
	switch {
	case err == nil && res.Limit != "":
		return stay(reasonLimit, "the worker's limit of %s", res.Limit)
	case err == nil:
		return nil
	case errors.Is(err, errRooted):
		return errRooted
	case errors.As(err, &text):
		return text
	case errors.As(err, &refused):
		return goHome{refused}
	case ctx.Err() != nil:
		return err
	}
	return stay(reasonAway, "%s", err)
}

// compile has the worker make a job, within the time for it.
func (a *Away) compile(ctx context.Context, r *remote.Request) (*remote.Result, error) {
	if a.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, a.Timeout, fmt.Errorf("not done within %s (remote.timeout)", a.Timeout))
		defer cancel()
	}
	res, err := a.Worker.Compile(ctx, r)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return res, err
}

// doneAs ends a call as a job ended, with what it printed.
func (j *job) doneAs(res *remote.Result) *ipcv1.Done {
	return &ipcv1.Done{ExitCode: int32(exitStatus(res)), Stdout: j.shown(res.Stdout), Stderr: j.shown(res.Stderr)}
}

// exitStatus is how a shell tells the end of a job.
func exitStatus(res *remote.Result) int {
	if res.Signal != 0 {
		return 128 + res.Signal
	}
	return res.ExitCode
}

// failAway shows what a compile said that failed.
func (j *job) failAway(res *remote.Result) *ipcv1.ServerMessage {
	j.outcome = outcome{kind: failed, reason: reasonFailed}
	done := j.doneAs(res)
	if missesHeader(res.Stderr) {
		done.Note = "compiled in image " + shortImage(j.e.opt.Away.Image) + ", which has its own headers: those outside the project's roots (" +
			joinRoots(j.prep.place) + ") are not sent"
	}
	return &ipcv1.ServerMessage{Done: done}
}
