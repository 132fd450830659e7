package daemon

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
)

// keep stores a result: in the background where the engine may outlive the
// compile, since the build need not wait for digests to be made.
func (j *job) keep(ctx context.Context, id manifestID, c *compiled) {
	if j.permit != nil {
		// Whether it counts is not decided yet.
		j.kept = func(ctx context.Context, j *job) { j.keep(ctx, id, c) }
		return
	}
	e := j.e
	if e.paranoid() {
		j.outcome = outcome{kind: uncacheable, reason: j.instead}
		return
	}
	if !e.opt.Background || j.mayGo(c) {
		j.store(ctx, id, c)
		return
	}
	select {
	case e.slots <- struct{}{}:
	default:
		j.store(ctx, id, c)
		return
	}
	j.deferred = true
	e.storing.Add(1)
	go func() {
		defer e.storing.Done()
		defer func() { <-e.slots }()
		j.client = nil // the wrapper has gone on
		j.store(context.WithoutCancel(ctx), id, c)
		j.finish()
	}()
}

// fleeting is how old a source is at most that is likely to go once it is
// compiled.
const fleeting = 2 * time.Second

// mayGo reports whether the inputs are read before the build can go on and
// change them: where times prove little, and where the source was written just
// before, as by a configure script that removes it right after.
func (j *job) mayGo(c *compiled) bool {
	source := j.prep.place.absolute(j.prep.inv.Source)
	var st unix.Stat_t
	if unix.Stat(source, &st) != nil {
		return true
	}
	s := j.e.files.stamp(&st)
	return j.e.files.looseTimes(source, s.dev) || c.start.files-s.ctime < int64(fleeting)
}

// store checks that the compile's inputs are known and unchanged, and writes
// the result. It sets the job's outcome either way.
func (j *job) store(ctx context.Context, id manifestID, c *compiled) {
	before := j.preprocessed
	a, err := j.action(ctx, c)
	var need needsText
	if err == nil && !j.rooted && j.namesPlaces(c) {
		if err = j.mark(needRoots); err == nil {
			j.rooted = true
			id.key = rootedKey(j.prep.key, j.prep.place)
			a, err = j.action(ctx, c)
		}
	}
	if errors.As(err, &need) {
		err = j.mark(string(need))
		if err == nil && need == compiler.NeedComputedHasInclude {
			// Nothing shows that the text made now is what was compiled: of a
			// file that was asked for, and has come or gone since, there is no
			// trace. The next compile has its text made before it, too.
			err = refuse(reasonComputed, "%s", j.prep.inv.Source)
		}
	}
	if err == nil && (a == nil || !before.IsZero()) {
		// The text was made before or after the compile; that it is the same
		// now, with the same inputs, shows that it is what was compiled.
		var inputs []action.Input
		if j.preprocessed, inputs, err = j.preprocess(ctx); err == nil {
			if !before.IsZero() && j.preprocessed != before {
				err = refuse(reasonModified, "the preprocessed text")
			} else {
				j.rooted = true
				id.key = preprocessedKey(rootedKey(j.prep.key, j.prep.place), j.preprocessed, inputs)
				a, err = j.action(ctx, c)
			}
			// Without a text from before, the files that were read tell: what
			// is asked for by name besides is among the look-ups.
			if err == nil && before.IsZero() && !slices.Equal(inputs, a.Inputs[:min(len(inputs), len(c.deps))]) {
				err = refuse(reasonModified, "the files included")
			}
		}
	}
	var key digest.Key
	if err == nil {
		key, id, err = j.write(id, a, c)
	}
	if err != nil {
		j.uncached(err)
		return
	}
	j.outcome.kind = miss
	if c.inv.Mode == compiler.Listing {
		j.outcome.kind = listMiss
	}
	j.outcome.action, j.outcome.manifest = key, id.key
}

// needsText says why a unit's results can only be told apart by its
// preprocessed text.
type needsText string

func (n needsText) Error() string { return "needs the preprocessed text: " + string(n) }

// basis is as much of the job's action as is known without its inputs.
func (j *job) basis() *action.Action {
	p := j.prep
	a := &action.Action{
		Toolchain: p.tool.Identity, Command: p.command, Env: p.env, Cwd: p.cwd,
		Preprocessed: j.preprocessed,
	}
	if roots := p.place.rootDirs(); j.rooted && len(roots) > 0 {
		a.Command = append(slices.Clone(a.Command), action.Mark(action.MarkRoots, strings.Join(roots, "\n")))
	}
	return a
}

// action names everything that decided the result.
func (j *job) action(ctx context.Context, c *compiled) (*action.Action, error) {
	p := j.prep
	a := j.basis()
	// The same toolchain, still: an upgrade under way mixes two.
	tool, err := j.e.detector.Identify(ctx, j.req.GetCompiler(), j.req.GetCompiler(), j.req.GetEnv())
	if err == nil {
		tool, err = tool.For(ctx, p.inv, p.place.cwd)
	}
	if err != nil || tool.Identity != p.tool.Identity {
		return nil, refuse(reasonModified, "the compiler changed")
	}
	sp, err := tool.SearchPath(ctx, p.inv, p.place.cwd, j.req.GetEnv())
	if err != nil {
		return nil, err
	}
	dirs := compiler.NewDirCache(p.place.cwd)
	dirs.Entries = j.e.entries
	for _, part := range c.each() {
		if err := j.cover(ctx, a, part, sp, dirs); err != nil {
			return nil, err
		}
	}
	if c.parts != nil {
		a.Compact()
	}
	return a, nil
}

// cover adds to a what one source's result depends on.
func (j *job) cover(ctx context.Context, a *action.Action, c *compiled, sp compiler.SearchPath, dirs compiler.FileSystem) error {
	p := j.prep
	files, err := j.scanAll(c)
	if err != nil {
		return unreadable(err)
	}
	if c.printed && !compiler.PrintableIncludes(files) {
		return refuse(reasonDepFile, "the name of an included file cannot be told from what was printed")
	}
	asm, err := j.asmInputs(c, files)
	if err != nil {
		return err
	}
	read := slices.Concat(c.deps, asm, c.inv.ReadFiles)
	var inputs []action.Input
	for _, name := range read {
		in, err := j.input(name, &c.start)
		if err != nil {
			return err
		}
		inputs = append(inputs, in)
	}
	asked := j.asked
	if err := j.checkScans(ctx, files); err != nil {
		return err
	}
	looked := compiler.FindLookups(c.inv, sp, files, dirs)
	included, err := j.assembled(ctx, asm, sp, files, dirs, &looked)
	if err != nil {
		return err
	}
	if err := j.checkRaces(c, files, &looked); err != nil {
		return err
	}
	if err := j.checkOnce(files, inputs, &looked); err != nil {
		return err
	}
	a.Inputs = append(a.Inputs, inputs...)
	switch need := looked.NeedPreprocess; {
	case need == compiler.NeedPragmaDependency:
		return refuse(reasonDependency, "")
	case need == compiler.NeedPrecompiledHeader:
		return refuse(compiler.ReasonPrecompiled, "one lies beside a header")
	case need != "" && c.inv.Mode == compiler.Listing:
		return refuse(compiler.ReasonPreprocessing, "%s", need)
	case need != "" && j.preprocessed.IsZero():
		return needsText(need)
	}
	for _, x := range slices.Concat(looked.Aliases, looked.Embedded, included) {
		in, err := j.input(x, &c.start)
		if err != nil {
			return err
		}
		a.Inputs = append(a.Inputs, in)
	}
	for _, x := range looked.Absent {
		a.Absent = append(a.Absent, p.place.paths.Neutral(x))
	}
	for _, x := range looked.Present {
		// What appeared while the compiler ran, it may not have seen.
		var st unix.Stat_t
		abs := p.place.absolute(x)
		if !isPresent(abs, &st) || j.e.files.changedSince(&c.start, abs, j.e.files.stamp(&st)) {
			return refuse(reasonModified, "%s", x)
		}
		a.Present = append(a.Present, p.place.paths.Neutral(x))
	}
	// Otherwise nobody notices when a directory in which nothing was found goes
	// away.
	warned := slices.Contains(p.command, "-Wmissing-include-dirs")
	for _, d := range looked.Chain {
		a.Chain = append(a.Chain, p.place.paths.Neutral(d))
		if warned {
			a.Present = append(a.Present, p.place.paths.Neutral(d)+"/.")
		}
	}
	// What the preprocessor was asked meanwhile is true of these inputs only if
	// it found them, too.
	for i, name := range read {
		if j.asked == asked {
			break
		}
		if in, err := j.input(name, &c.start); err != nil {
			return err
		} else if in != inputs[i] {
			return refuse(reasonModified, "%s", name)
		}
	}
	for _, s := range looked.Same {
		a.Same = append(a.Same, action.Pair{A: p.place.paths.Neutral(s[0]), B: p.place.paths.Neutral(s[1])})
	}
	return nil
}

// unreadable names the reason why an input has no digest.
func unreadable(err error) error {
	if errors.Is(err, errIrregular) || errors.Is(err, errOwnName) {
		return refuse(reasonIrregular, "%s", err)
	}
	return refuse(reasonModified, "%s", err)
}

// input is one file that the compile read, if it cannot have changed since
// the compile began.
func (j *job) input(name string, start *moment) (action.Input, error) {
	p := j.prep.place
	abs := p.absolute(name)
	sum, st, err := j.e.files.digest(j.e.files.at(abs))
	if err != nil {
		return action.Input{}, unreadable(err)
	}
	if j.e.files.changedSince(start, abs, st) {
		return action.Input{}, refuse(reasonModified, "%s", name)
	}
	if p.paths != nil {
		for _, r := range p.paths.Roots {
			if rest, ok := strings.CutPrefix(abs, r.Dir); ok && rest != "" && rest[0] != '/' {
				return action.Input{}, refuse(reasonRoot, "%s", name)
			}
		}
	}
	return action.Input{Path: p.paths.Neutral(name), Digest: sum}, nil
}

// checkScans refuses units whose text shows that the lists of inputs cannot
// decide the result.
func (j *job) checkScans(ctx context.Context, files []compiler.File) error {
	for _, f := range files {
		s := f.Scan
		switch {
		case s.Module:
			return refuse(compiler.ReasonModules, "%s", f.Path)
		case s.PragmaDependency:
			return refuse(reasonDependency, "%s", f.Path)
		case s.PragmaPCH:
			return refuse(compiler.ReasonPrecompiled, "%s", f.Path)
		}
	}
	if j.prep.inv.Mode == compiler.Listing && !slices.ContainsFunc(files, func(f compiler.File) bool {
		return f.Scan.ComputedInclude || f.Scan.ComputedHasInclude
	}) {
		return nil // the time is text, and text is not in the list
	}
	date, clock, timestamp := compiler.TimeMacros(files)
	if !date && !clock && !timestamp {
		return nil
	}
	return j.checkDate(ctx, files, date, clock, timestamp)
}

// mark notes in the manifest that look-ups need the preprocessed text.
func (j *job) mark(why string) error {
	_, err := j.e.cache.UpdateManifest(j.prep.key, func(m *action.Manifest) error {
		m.Preprocess = why
		return nil
	})
	j.e.manifests.remove(j.prep.id())
	return err
}

// write stores a compile's result here, and in the caches that others share. It
// returns the action's key and the manifest's name.
func (j *job) write(id manifestID, a *action.Action, c *compiled) (digest.Key, manifestID, error) {
	p := j.prep
	entry := &action.Entry{Action: *a, Result: action.Result{
		Stdout: p.place.paths.NeutralText(c.stdout), Stderr: p.place.paths.NeutralText(c.stderr),
		CompileTime: c.elapsed,
	}}
	res := &entry.Result
	if p.place.paths != nil {
		// Rendering must give back what was printed, or it is not stored.
		if !bytes.Equal(p.place.paths.LocalText(res.Stderr), c.stderr) || !bytes.Equal(p.place.paths.LocalText(res.Stdout), c.stdout) {
			return digest.Key{}, id, refuse(reasonStdio, "the messages cannot be made independent of their place")
		}
	}
	if c.inv.Mode != compiler.Listing {
		res.StdioContext = p.messages.context(c)
		p.messages.mark(&entry.Action, res.StdioContext)
	}
	for i, d := range c.deps {
		res.Dependencies = append(res.Dependencies, action.Dependency{
			Path: p.place.paths.Neutral(d), System: c.user != nil && !c.user[i],
		})
	}
	for _, o := range p.inv.Outputs {
		if out, ok := c.outputs[o.Role]; ok {
			res.Outputs = append(res.Outputs, action.Output{Role: o.Role, Digest: digest.Of(out.data)})
		}
	}
	key := entry.Action.Key()
	there := j.sharedID(id)
	id, err := j.put(id, key, entry, c.outputs)
	if err == nil {
		j.share(there, entry, c.outputs)
	}
	return key, id, err
}

// put stores blobs, entry and manifest, in this order: whoever finds one finds
// what it names. It returns the manifest's name.
func (j *job) put(id manifestID, key digest.Key, entry *action.Entry, outputs map[string]output) (manifestID, error) {
	e, p := j.e, j.prep
	for _, o := range entry.Result.Outputs {
		if _, err := e.cache.PutBlob(outputs[o.Role].data); err != nil {
			return id, err
		}
	}
	if err := e.cache.PutEntry(key, entry); err != nil {
		return id, err
	}
	candidate := entry.Action.Candidate()
	candidate.StdioContext = entry.Result.StdioContext
	var err error
	if p.work != nil {
		// The source is part of the manifest's name already.
		err = e.addTo(id.key, candidate)
		e.manifests.remove(id)
	} else {
		id, err = e.addCandidate(id, p.place.paths.Neutral(p.inv.Source), candidate)
	}
	if err != nil {
		return id, err
	}
	if p.tool != nil {
		e.remember(p.tool)
	}
	e.keepResult(key, &entry.Result, outputs)
	return id, nil
}
