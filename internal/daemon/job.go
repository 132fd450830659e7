package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// captureLimit bounds what is kept of each standard stream of a compile.
const captureLimit = 4 << 20

// job is one compile on its way through the engine.
type job struct {
	e       *Engine
	req     *ipcv1.Compile
	client  Client
	started time.Time
	prep    *prepared
	flight  *flight
	outcome outcome
	// preprocessed is the digest of the preprocessed text where the unit's
	// results can only be told apart by it.
	preprocessed digest.Digest
	// rooted is set where results are told apart by where the project lies.
	rooted bool
	// asked counts the questions that quiet has put to the compiler.
	asked int
	// verifying is set where a hit is compiled anyway.
	verifying *verification
	// instead is why a compiler of this machine makes what a worker was to make.
	instead compiler.Reason
	// contest is the race that the job runs on a worker's side. raced is what came
	// of one in which a compiler was started here.
	contest *contest
	raced   raceEnd
	// permit is set on the other side of a race: nothing that takes time may be
	// run without it. kept stores the result, if it is the one that counts.
	permit func() error
	kept   func(context.Context, *job)
	// deferred is set once a background store has taken over finish.
	deferred bool
	// behind, if it is set, stores a worker's result, which is all in memory: the
	// build need not wait for that.
	behind func()
}

// finish counts and records what came of the job, and lets others that wait
// for it go on.
func (j *job) finish() {
	j.land()
	j.record()
}

// finishBehind is finish where something is still to be stored; others wait for
// that.
func (j *job) finishBehind() {
	j.record()
	e := j.e
	inPlace := func() {
		j.behind()
		j.land()
	}
	if !e.opt.Background {
		inPlace()
		return
	}
	select {
	case e.slots <- struct{}{}:
	default:
		inPlace()
		return
	}
	e.storing.Add(1)
	go func() {
		defer e.storing.Done()
		defer func() { <-e.slots }()
		inPlace()
	}()
}

func (j *job) land() {
	j.e.flights.land(j.flight)
	j.flight = nil
}

func (j *job) record() {
	if j.outcome.silent {
		return
	}
	j.outcome.total = time.Since(j.started)
	j.e.stats.record(j)
	j.e.history.record(j)
}

func (j *job) source() string {
	if j.prep != nil {
		return j.prep.inv.Source
	}
	return ""
}

// run leads the conversation to its end. An error means that the build's own
// command is still to be run, as it was written.
func (j *job) run(ctx context.Context) (*ipcv1.ServerMessage, error) {
	if j.e.opt.Disabled {
		return nil, refuse(reasonDisabled, "")
	}
	if len(j.req.GetArgs()) == 0 {
		return nil, errors.New("a compile without arguments")
	}
	if j.e.opt.Away != nil {
		msg, err := j.runAway(ctx)
		var home goHome
		if !errors.As(err, &home) {
			return msg, err
		}
		return j.runInstead(ctx, home.NotCacheable)
	}
	if j.req.GetCompiler() == "" {
		j.outcome.silent = true
		return &ipcv1.ServerMessage{Pass: &ipcv1.Pass{}}, nil
	}
	return j.runHere(ctx)
}

// runHere leads a compile by a compiler of this machine.
func (j *job) runHere(ctx context.Context) (*ipcv1.ServerMessage, error) {
	var err error
	if j.prep, err = j.e.prepare(ctx, j.req); err != nil {
		return nil, err
	}
	if j.req.GetShowCommand() {
		return j.showCommand(), nil
	}
	return j.search(ctx, j.compile)
}

// search delivers a stored result, or has the unit compiled: once, if two builds
// want it.
func (j *job) search(ctx context.Context, compile func(context.Context, manifestID) (*ipcv1.ServerMessage, error)) (*ipcv1.ServerMessage, error) {
	for waited := false; ; waited = true {
		id, err := j.manifestID(ctx)
		if err != nil {
			return nil, err
		}
		var found *candidate
		var why string
		if !j.e.paranoid() {
			found, id, why = j.find(id)
		}
		if found != nil && j.verifies() {
			if r, err := j.e.result(id.key, found.action); err == nil {
				j.verifying = j.confirmed(&verification{manifest: id, found: found, result: r})
				return compile(ctx, id)
			}
		}
		var evicted *candidate
		if found != nil {
			msg, err := j.deliver(id.key, found)
			if err == nil {
				return msg, nil
			}
			// Evicted or damaged under way: as if it had never been there.
			why = err.Error()
			if errors.Is(err, cache.ErrNotFound) {
				evicted = found
			}
		}
		j.outcome.why = why
		if j.flight != nil {
			// Nobody else asks for the same now.
			if msg := j.fetch(ctx, &id, evicted); msg != nil {
				return msg, nil
			}
			return compile(ctx, id)
		}
		// By the source's content, too: builds have many a main.c, with one
		// command for all.
		var other *flight
		j.flight, other = j.e.flights.take(j.sourced(manifestID{key: j.prep.key}).key)
		// Whoever has waited once compiles: a unit that fails or cannot be
		// cached would otherwise go through all its builds one by one.
		if waited {
			return compile(ctx, id)
		}
		if other != nil {
			other.wait(ctx)
		}
	}
}

// showCommand is the command that a miss would run, but for the options that
// only ask for lists of what was read. The client prints it.
func (j *job) showCommand() *ipcv1.ServerMessage {
	j.outcome.silent = true
	return &ipcv1.ServerMessage{Run: &ipcv1.Run{
		Args:   append([]string{j.req.GetCompiler()}, j.prep.inv.RunArgs(compiler.RunOptions{Extra: j.prep.extra})...),
		SetEnv: j.prep.setEnv,
	}}
}

// manifestID names the manifest that can hold the job's result. For most it
// follows from the command; where a unit's results can only be told apart by
// its preprocessed text, that is made first and becomes part of the name.
func (j *job) manifestID(ctx context.Context) (manifestID, error) {
	if j.prep.work != nil {
		return j.awayID()
	}
	id := j.prep.id()
	m := j.e.load(id, j.prep.place)
	switch m.preprocess {
	case "":
		return id, nil
	case needSource:
		return j.sourced(id), nil
	case needRoots:
		id = j.byRoots()
		if j.e.load(id, j.prep.place).preprocess == needSource {
			return j.sourced(id), nil
		}
		return id, nil
	}
	return j.byText(ctx)
}

// byRoots tells the job's results apart by where the project lies, and names
// their manifest.
func (j *job) byRoots() manifestID {
	j.rooted = true
	id := j.prep.id()
	id.key = rootedKey(j.prep.key, j.prep.place)
	return id
}

// byText does so by the preprocessed text, which it has made.
func (j *job) byText(ctx context.Context) (manifestID, error) {
	id := j.byRoots()
	text, inputs, err := j.preprocess(ctx)
	if err != nil {
		return id, err
	}
	j.preprocessed = text
	id.key = preprocessedKey(id.key, text, inputs)
	return id, nil
}

// permitted is an error if this side of a race may not run anything.
func (j *job) permitted() error {
	if j.permit == nil {
		return nil
	}
	return j.permit()
}

// outputFile is one of the job's outputs with its content.
func (j *job) outputFile(path string, data []byte) outputFile {
	return outputFile{path: j.prep.place.absolute(path), data: data, mode: 0o666, umask: os.FileMode(j.req.GetUmask())}
}

// writeDeps writes the user's dependency file.
func (j *job) writeDeps(text []byte) error {
	o := j.outputFile(j.prep.inv.Deps.File, text)
	_, err := o.write()
	return err
}

// deliver writes a stored result where the command wants it.
func (j *job) deliver(manifest digest.Key, c *candidate) (*ipcv1.ServerMessage, error) {
	r, err := j.e.result(manifest, c.action)
	if err != nil {
		return nil, err
	}
	msg, err := j.leave(r)
	if err == nil {
		j.outcome = outcome{kind: j.hitKind(""), action: c.action, manifest: manifest, saved: r.CompileTime, verify: j.outcome.verify}
	}
	return msg, err
}

// leave writes a result where the command wants it, and says what it printed.
func (j *job) leave(r *result) (*ipcv1.ServerMessage, error) {
	inv, p := j.prep.inv, j.prep.place
	if j.e.files.at(p.absolute(inv.Source)).isAt(p.absolute(inv.Object)) {
		// gcc refuses that, and clang reads the source before.
		return nil, refuse(compiler.ReasonOutputName, "the output is the source")
	}
	for _, o := range inv.Outputs {
		if _, ok := r.outputs[o.Role]; !ok && !o.Optional {
			return nil, fmt.Errorf("the stored result has no %s", o.Role)
		}
	}
	var files []outputFile
	if inv.Deps.Requested {
		files = append(files, j.depsFile(r))
	}
	for _, o := range inv.Outputs {
		if out, ok := r.outputs[o.Role]; ok {
			f := j.outputFile(o.Path, out.data)
			f.how = mannerOf(inv.Family, o.Role)
			if r.digests != nil {
				f.clone = r.clone(j.e, o.Role)
			}
			files = append(files, f)
		}
	}
	if err := j.contest.take(files); err != nil {
		return nil, err
	}
	if err := j.writeAll(files); err != nil {
		return nil, err
	}
	return &ipcv1.ServerMessage{Done: &ipcv1.Done{
		Stdout: j.shown(r.Stdout),
		Stderr: j.shown(r.Stderr),
	}}, nil
}

// depsFile is the user's dependency file of a result, with the names of here.
func (j *job) depsFile(r *result) outputFile {
	inv := j.prep.inv
	var names []string
	for _, d := range r.Dependencies {
		if inv.Deps.SystemHeaders || !d.System {
			names = append(names, j.prep.place.local(d.Path))
		}
	}
	return j.outputFile(inv.Deps.File, renderDeps(inv, j.dropForeign(names)))
}

// hitKind is what a hit of this job counts as, if its result comes from tier.
func (j *job) hitKind(tier string) kind {
	switch {
	case j.prep.inv.Mode == compiler.Listing:
		return listHit
	case tier != "":
		return hitRemote
	case !j.preprocessed.IsZero():
		return hitPreprocessed
	}
	return hitDirect
}

// writeAll writes the outputs of a hit. If it cannot write all, nothing is new:
// the compiler will say what is wrong, and may not get as far.
func (j *job) writeAll(files []outputFile) error {
	if !j.e.opt.Background || j.e.compiling.Load() > 0 {
		// Whoever compiles into one of these must know.
		held, err := j.e.claim(j.written())
		if err == nil {
			defer held.release()
		}
	}
	var created []string
	for i := range files {
		isNew, err := files[i].write()
		if isNew {
			created = append(created, files[i].path)
		}
		if err != nil {
			removeAll(created...)
			return err
		}
	}
	return nil
}

// renderDeps writes the dependency file that the command asks for.
func renderDeps(inv *compiler.Invocation, names []string) []byte {
	return compiler.RenderDepFile(inv.Family, inv.Deps.Targets, names, inv.Source, inv.Deps.Phony)
}

// readDepFile reads a dependency file, and parses what it lists.
func readDepFile(name string) (raw []byte, deps []string, err error) {
	raw, err = readOutput(name)
	if err != nil {
		return nil, nil, refuse(reasonDepFile, "%s", err)
	}
	if _, deps, err = compiler.ParseDepFile(raw); err != nil {
		return nil, nil, refuse(reasonDepFile, "%s", err)
	}
	return raw, deps, nil
}
