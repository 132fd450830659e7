package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/remote"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// sourceText stands for a unit's source and all that it includes, as the
// compiler of this machine preprocessed it. A worker gets it in the source's
// place, under the very command that it would get with the files.
type sourceText struct {
	j    *job
	data []byte
	sum  digest.Digest
	// tree is the text, and the directories that the command names.
	tree action.Tree
	// deps is the user's dependency list, as the compiler spells it.
	deps []string
}

// maxText bounds a source text in bytes; those of the largest C++ units are a
// few ten millions long.
const maxText = 256 << 20

// viaText has a worker compile the source text. Where it cannot take the place of
// the files, the error is a notText.
//
// A compile that says anything counts as one of those: messages quote the lines
// of files, which are not there. So does one that looked for a file that this
// machine has. What is left is a silent success, and what could be silent in
// this way and would have spoken with the files is refused by SourceTextRefusal.
func (j *job) viaText(ctx context.Context) (*ipcv1.ServerMessage, error) {
	id, err := j.awayID()
	if err != nil {
		return nil, err
	}
	if why, known := j.e.untexted.get(id.key); known {
		return nil, notText{why}
	}
	t, err := j.sourceText(ctx)
	if err == nil {
		var msg *ipcv1.ServerMessage
		if msg, err = j.searchText(ctx, t); err == nil {
			return msg, nil
		}
	}
	var why notText
	if errors.As(err, &why) && why.Reason != reasonTextCompiler {
		// With this source it will be so again, most likely; the files serve.
		j.e.untexted.put(id.key, why.NotCacheable)
	}
	return nil, err
}

// notText is the error of a unit whose files must be sent.
type notText struct{ *compiler.NotCacheable }

func (n notText) Unwrap() error { return n.NotCacheable }

// orNotText makes a notText of a refusal.
func orNotText(err error) error {
	var refused *compiler.NotCacheable
	if errors.As(err, &refused) {
		return notText{refused}
	}
	return err
}

// sourceText preprocesses the unit.
func (j *job) sourceText(ctx context.Context) (*sourceText, error) {
	inv, p := j.prep.inv, j.prep.place
	if err := inv.SourceTextRefusal(); err != nil {
		return nil, orNotText(err)
	}
	if slices.ContainsFunc(p.rootDirs(), func(d string) bool { return !compiler.PlainName(d) }) {
		return nil, orNotText(refuse(compiler.ReasonTextContent, "the name of the project's root"))
	}
	if err := j.e.readsAlike(ctx, j); err != nil {
		return nil, err
	}
	depFile, err := j.temp("d")
	if err != nil {
		return nil, err
	}
	defer os.Remove(depFile)
	raw, err := j.askHere(ctx, inv.SourceTextArgs(depFile))
	if err != nil {
		return nil, err
	}
	t := &sourceText{j: j, tree: action.Tree{}}
	var moved bool
	if t.data, moved, err = inv.SourceText(raw, p.away); err != nil {
		return nil, orNotText(err)
	}
	if _, t.deps, err = readDepFile(depFile); err != nil {
		return nil, orNotText(err)
	}
	if err := j.checkText(t.deps, moved); err != nil {
		return nil, orNotText(err)
	}
	if j.e.opt.DateTime != "allow" && !slices.Contains(j.prep.work.Argv, dateTimeError) {
		// Where the time is pinned, nothing else would tell of a file's own.
		text := compiler.File{Path: inv.Source, Scan: compiler.Scan(t.data)}
		if _, _, timestamp := compiler.TimeMacros([]compiler.File{text}); timestamp {
			return nil, orNotText(refuse(compiler.ReasonTextContent, "__TIMESTAMP__"))
		}
	}
	t.sum = digest.Of(t.data)
	t.tree[j.prep.work.Source] = action.Node{Digest: t.sum}
	for _, d := range inv.UserDirs(j.req.GetEnv()) {
		// The compiler looks whether they are there.
		dir := p.directory(d)
		var st unix.Stat_t
		if below(p, dir) && unix.Stat(dir, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			t.tree[p.away(dir)] = action.Node{}
		}
	}
	return t, nil
}

// checkText looks at the files that the text was made of for what it cannot
// stand for: a precompiled header, which the compile would have read instead of
// the header, and names in the user's own #line, which would have been left as
// they are where those of files are moved.
func (j *job) checkText(deps []string, moved bool) error {
	p := j.prep.place
	for _, name := range deps {
		abs := p.absolute(name)
		var st unix.Stat_t
		for _, suffix := range []string{".gch", ".pch"} {
			if unix.Stat(abs+suffix, &st) == nil {
				return refuse(compiler.ReasonTextContent, "%s is there", name+suffix)
			}
		}
		if !moved || !below(p, abs) {
			continue
		}
		scan, err := j.e.scan(j.e.files.at(abs))
		if err != nil {
			return refuse(compiler.ReasonTextContent, "%s", err)
		}
		if scan.LineMarkers {
			return refuse(compiler.ReasonTextContent, "#line in %s", name)
		}
	}
	return nil
}

// askHere runs the request's own compiler, as one of those that fallback may run
// at a time, and returns what it wrote to stdout. It must have nothing to say.
func (j *job) askHere(ctx context.Context, args []string) ([]byte, error) {
	select {
	case j.e.local <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-j.e.local }()
	j.asked++
	timed, cancel := context.WithTimeout(ctx, quietTimeout)
	defer cancel()
	out, said := &bounded{left: maxText}, &bounded{left: 1 << 16}
	cmd := exec.CommandContext(timed, j.req.GetCompiler(), args...)
	// An empty environment is none of the daemon's.
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = j.req.GetCwd(), append([]string{}, j.req.GetEnv()...), out, said
	// What a killed driver's children hold open is not waited for.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	line, _, _ := bytes.Cut(said.Bytes(), []byte{'\n'})
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil || said.Len() > 0:
		return nil, orNotText(refuse(reasonTextMessages, "the preprocessor: %s", line))
	case out.left == 0:
		return nil, orNotText(refuse(compiler.ReasonTextContent, "more than %d bytes", maxText))
	}
	return out.Bytes(), nil
}

// bounded keeps the first bytes of what is written to it.
type bounded struct {
	bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	kept := p[:min(len(p), b.left)]
	b.left -= len(kept)
	b.Buffer.Write(kept)
	return len(p), nil
}

// ReadFrom keeps io.Copy from the buffer's own.
func (b *bounded) ReadFrom(r io.Reader) (int64, error) { return io.Copy(struct{ io.Writer }{b}, r) }

// searchText delivers a result that is here for the text, or has one made: once,
// if two builds want it.
func (j *job) searchText(ctx context.Context, t *sourceText) (*ipcv1.ServerMessage, error) {
	key := j.prep.work.Manifest(t.sum)
	if msg := j.deliverText(ctx, key, t); msg != nil {
		return msg, nil
	}
	var other *flight
	if j.flight, other = j.e.flights.take(key); other != nil {
		other.wait(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// Where nothing is there now, it failed or cannot be kept: whoever has
		// waited once compiles.
		if msg := j.deliverText(ctx, key, t); msg != nil {
			return msg, nil
		}
	} else if msg := j.fetchText(ctx, key, t); msg != nil {
		return msg, nil
	}
	return j.compileText(ctx, key, t)
}

// deliverText leaves a stored result, or returns nil.
func (j *job) deliverText(ctx context.Context, key digest.Key, t *sourceText) *ipcv1.ServerMessage {
	if j.e.paranoid() {
		return nil
	}
	m, _, err := j.e.cache.Manifest(key)
	if err != nil {
		return nil
	}
	for i := range m.Candidates {
		c := &m.Candidates[i]
		if !t.holds(c) {
			continue
		}
		stored, err := j.e.result(key, c.Action)
		if err != nil {
			continue // evicted, or damaged
		}
		msg, err := j.leave(t.with(stored))
		if err != nil {
			continue
		}
		j.outcome = outcome{kind: hitPreprocessed, action: c.Action, manifest: key, saved: stored.CompileTime}
		if j.verifies() {
			if msg, err = j.judge(ctx, t.hitOf(key, c.Action, stored, ""), msg); err != nil {
				return nil
			}
		}
		return msg
	}
	return nil
}

// with is a result with this text's dependencies: equal texts may come from
// files of other names.
func (t *sourceText) with(r *result) *result {
	plain := *r.Result
	plain.Dependencies = nil
	for _, name := range t.deps {
		plain.Dependencies = append(plain.Dependencies, action.Dependency{Path: name})
	}
	return &result{Result: &plain, outputs: r.outputs, digests: r.digests}
}

// holds tells whether a compile of this text would find what a candidate's did.
func (t *sourceText) holds(c *action.Candidate) bool {
	return t.j.prep.work.Holds(c, t.tree) && !slices.ContainsFunc(c.Absent, t.isHere)
}

// isHere reports whether what a machine looked for in vain is here.
func (t *sourceText) isHere(name string) bool {
	var st unix.Stat_t
	return unix.Lstat(t.j.prep.place.local(name), &st) == nil
}

// compileText has a worker compile the text.
func (j *job) compileText(ctx context.Context, key digest.Key, t *sourceText) (*ipcv1.ServerMessage, error) {
	defer j.e.running.begin(j)()
	if err := j.checkOutputs(); err != nil {
		return nil, err
	}
	j.contest.begin()
	res, err := j.e.opt.Away.compile(ctx, &remote.Request{Job: j.prep.work, Tree: t.tree, Open: t.open, Confirm: t.confirm})
	if err == nil && res.Hit && j.banned(res.Key) {
		res, err = t.compileAgain(ctx)
	}
	if err := homeFrom(ctx, res, err); err != nil {
		return nil, err
	}
	if res.ExitCode != 0 || res.Signal != 0 || len(res.Stdout)+len(res.Stderr) > 0 {
		return nil, orNotText(refuse(reasonTextMessages, "the compiler has something to say"))
	}
	return j.leaveText(ctx, key, t, res, "")
}

// leaveText leaves a result of the text, which a worker made or tier had.
func (j *job) leaveText(ctx context.Context, key digest.Key, t *sourceText, res *remote.Result, tier string) (*ipcv1.ServerMessage, error) {
	r, err := j.resultOf(res)
	if err != nil {
		return nil, err
	}
	r.Dependencies = nil // the text has none but itself
	msg, err := j.leave(t.with(r))
	if err != nil {
		return nil, err
	}
	j.made(manifestID{key: key}, res, r, tier)
	if res.Hit && j.verifies() {
		return j.judge(ctx, t.hitOf(key, res.Key, r, tier), msg)
	}
	return msg, nil
}

// compileAgain has a worker compile the text, beside all stores.
func (t *sourceText) compileAgain(ctx context.Context) (*remote.Result, error) {
	return t.j.e.opt.Away.compile(ctx, &remote.Request{Job: t.j.prep.work, Tree: t.tree, Open: t.open, Confirm: t.confirm, Uncached: true})
}

// hitOf is a verification of a hit for the text, which is the same again.
func (t *sourceText) hitOf(key, act digest.Key, r *result, tier string) *verification {
	return &verification{
		manifest: manifestID{key: key}, action: act, result: r, tier: tier, unchanged: func() bool { return true },
		again: func(ctx context.Context) (*remote.Result, error) {
			res, err := t.compileAgain(ctx)
			if err = homeFrom(ctx, res, err); err == nil {
				res.Outputs = slices.DeleteFunc(res.Outputs, func(o remote.Output) bool { return o.Role == compiler.RoleDependencies })
			}
			return res, err
		},
		left: t.with,
	}
}

func (t *sourceText) open(context.Context, digest.Digest) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(t.data)), nil
}

// confirm has nothing to send but directories: a file that the compile looked
// for, by .incbin say, is no part of the text.
func (t *sourceText) confirm(_ context.Context, absent []string) (action.Tree, error) {
	more := action.Tree{}
	for _, name := range absent {
		here := t.j.prep.place.local(name)
		var st unix.Stat_t
		switch {
		case unix.Lstat(here, &st) != nil:
		case unix.Stat(here, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
			more[name] = action.Node{}
			t.tree[name] = action.Node{}
		default:
			return nil, orNotText(refuse(reasonTextLookup, "%s", here))
		}
	}
	return more, nil
}

// readsAlike is a notText unless the request's compiler reads a text as the
// image's does: with the same options both predefine the same macros. The answer
// is kept, for all units with these options; that there was none, for want of a
// worker or at a limit, is not, and is a goHome. A compiler whose files are known to
// differ from the image's is none, whatever it predefines.
func (e *Engine) readsAlike(ctx context.Context, j *job) error {
	differs := func(format string, args ...any) error { return orNotText(refuse(reasonTextCompiler, format, args...)) }
	req := j.req
	if req.GetCompiler() == "" {
		return differs("there is no %s here", req.GetArgs()[0])
	}
	tool, err := e.detector.Identify(ctx, req.GetCompiler(), req.GetCompiler(), req.GetEnv())
	if err != nil {
		return differs("%s: %s", req.GetCompiler(), err)
	}
	if tool.Family != j.prep.inv.Family {
		return differs("%s is %s", req.GetCompiler(), tool.Family)
	}
	if same, err := e.isImages(ctx, req); err == nil && !same {
		return differs("%s is not the compiler of image %s", req.GetCompiler(), shortImage(e.opt.Away.Image))
	}
	args := j.prep.inv.PredefinedArgs()
	work := &action.Job{
		Image: e.opt.Away.Image, Argv: append([]string{j.prep.work.Argv[0]}, args...), Cwd: compiler.MachineOut, Roots: []string{compiler.MachineOut},
	}
	asked := work.Manifest(digest.Digest{})
	key := digest.NewKey("same-macros").Bytes("job", asked[:]).Bytes("toolchain", tool.Identity[:]).Sum()
	same, err := e.recallSame(ctx, key, func() (bool, error) {
		here, err := j.askHere(ctx, args)
		if err != nil {
			return false, err
		}
		res, err := e.opt.Away.compile(ctx, &remote.Request{
			Job: work, Tree: action.Tree{}, Confirm: func(context.Context, []string) (action.Tree, error) { return nil, nil },
		})
		if err := homeFrom(ctx, res, err); err != nil {
			return false, err
		}
		if res.Signal != 0 {
			// Whatever killed it, the image's compiler has not answered.
			return false, stay(reasonAway, "the question for its macros was ended by signal %d", res.Signal)
		}
		return res.ExitCode == 0 && bytes.Equal(res.Stdout, here), nil
	})
	if err == nil && !same {
		return differs("%s and that of image %s predefine other macros", req.GetCompiler(), shortImage(e.opt.Away.Image))
	}
	return err
}

// explainText counts why a unit's files were sent, and tells the build, once for
// each compiler, if none of its units can do without.
func (j *job) explainText(why notText, msg *ipcv1.ServerMessage) {
	j.outcome.notText = why.Reason
	j.e.log.Debug("sent-as-files", "reason", string(why.Reason), "detail", why.Detail, "source", j.source(), "next", nextStep(why.Reason))
	if why.Reason != reasonTextCompiler || msg.GetDone() == nil {
		return
	}
	if _, told := j.e.textTold.LoadOrStore(j.req.GetCompiler(), true); !told && msg.Done.Note == "" {
		msg.Done.Note = "remote.mode = \"preprocessed\": the files themselves are sent, as " + why.Detail
	}
}
