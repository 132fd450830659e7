package daemon

import (
	"context"
	"iter"
	"slices"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/shared"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// Shared are the caches that this machine has in common with others;
// *shared.Cache is one. Whatever is wrong with them, its methods return in
// bounded time, and as if nothing were there.
type Shared interface {
	// Manifests yields what is known under a key, what is near first: the rest is
	// asked for when the loop goes on. Nothing of it is to be believed.
	Manifests(ctx context.Context, key digest.Key) iter.Seq[*action.Manifest]
	// Result returns the result of an action, whose key the caller made of what it
	// checked, or nil. It is whole, and made by somebody who is trusted.
	Result(ctx context.Context, key digest.Key) *shared.Fetched
	// Put writes a result, and its candidate into a manifest, behind the caller.
	Put(manifest digest.Key, preprocess string, e *action.Entry, blobs map[digest.Digest][]byte)
	// Mark writes Manifest.Preprocess.
	Mark(manifest digest.Key, preprocess string)
	Stats() shared.Stats
	// Close waits until what was put is written, or ctx ends.
	Close(ctx context.Context) error
}

// Shared says how the shared caches do; nil without any.
func (e *Engine) Shared() *shared.Stats {
	if e.opt.Shared == nil {
		return nil
	}
	s := e.opt.Shared.Stats()
	return &s
}

// sharedID names the job's manifest in shared caches, where id is the one here.
// The source's content is always part of the name there: a manifest that all
// branches of all developers share would soon be full.
func (j *job) sharedID(id manifestID) digest.Key {
	switch {
	case j.prep.work != nil, !j.preprocessed.IsZero():
		return id.key
	case j.rooted:
		return j.sourced(manifestID{key: rootedKey(j.prep.key, j.prep.place)}).key
	}
	return j.sourced(manifestID{key: j.prep.key}).key
}

// sharing tells whether the job's results may be anybody else's: those that hold
// the paths of this machine are of no use to others.
func (j *job) sharing() bool { return j.e.opt.Shared != nil && j.prep.place.paths != nil }

// share puts what was compiled here into the shared caches, under the manifest
// that sharedID named.
func (j *job) share(manifest digest.Key, entry *action.Entry, outputs map[string]output) {
	if !j.sharing() || j.prep.work != nil {
		return
	}
	s := j.e.opt.Shared
	blobs := make(map[digest.Digest][]byte, len(outputs))
	for _, o := range entry.Result.Outputs {
		blobs[o.Digest] = outputs[o.Role].data
	}
	if j.rooted || !j.preprocessed.IsZero() {
		// Whoever does not know that yet finds it where a look-up begins.
		if word := j.e.load(j.prep.id(), j.prep.place).preprocess; isWord(word) {
			s.Mark(j.sourced(manifestID{key: j.prep.key}).key, word)
		}
	}
	s.Put(manifest, "", entry, blobs)
}

// isWord tells whether a manifest's word leads to another one, but for
// needSource, which shared caches have no use for.
func isWord(word string) bool {
	switch word {
	case needRoots, compiler.NeedComputedHasInclude, compiler.NeedComputedInclude, compiler.NeedUnexplained:
		return true
	}
	return false
}

// fetched is a result from a shared cache that is right for the job.
type fetched struct {
	*shared.Fetched
	candidate *candidate
	key       digest.Key
	manifest  manifestID // that led to it
	// word is what led to the manifest, "" for the first one.
	word string
}

// fetch delivers a result of the shared caches, if one has it, and keeps it here,
// too. It returns nil where the unit is to be compiled, under the manifest that id
// then names.
//
// What a manifest says is a hint by a stranger. Its inputs and absences are
// checked here, as those of candidates on disk; then the action is made anew of
// them and of what the job itself knows, and only under that key is a result
// asked for, which somebody who is trusted has signed together with its inputs.
// So a manifest that lies leads to nothing. None of it is kept unless a result was
// found by it, or it could lead later look-ups on disk astray.
//
// evicted, if it is not nil, is a candidate on disk that holds, and whose result is
// not there any more. Then there is nothing to be asked but that.
func (j *job) fetch(ctx context.Context, id *manifestID, evicted *candidate) *ipcv1.ServerMessage {
	switch {
	case !j.sharing(), j.permitted() != nil:
		return nil
	case j.prep.work != nil:
		return j.fetchAway(ctx, *id, evicted)
	}
	if evicted != nil {
		if f := j.fetchResult(ctx, evicted.action, evicted.stdio); f != nil {
			return j.deliverFetched(&fetched{Fetched: f, candidate: evicted, key: evicted.action, manifest: *id})
		}
		return nil
	}
	rooted, text := j.rooted, j.preprocessed
	if f := j.fetchFrom(ctx, *id, ""); f != nil {
		msg := j.deliverFetched(f)
		if j.verifying != nil {
			*id = f.manifest
			return nil
		}
		if msg != nil {
			return msg
		}
	}
	j.rooted, j.preprocessed = rooted, text
	return nil
}

// follow goes where a manifest says that the job's results are told apart by more
// than lists. It is believed for this one look-up.
func (j *job) follow(ctx context.Context, word string) (at manifestID, ok bool) {
	switch {
	case !isWord(word) || !j.preprocessed.IsZero() || j.prep.inv.Mode == compiler.Listing:
		return at, false
	case word != needRoots:
		at, err := j.byText(ctx)
		return at, err == nil
	case j.rooted || len(j.prep.place.rootDirs()) == 0:
		return at, false
	}
	return j.byRoots(), true
}

// fetchFrom looks for a result that a manifest leads to, which word led to: tier by
// tier, the nearest first, and each asked only when those nearer have led to nothing.
// Where a tier has a word, that is followed before the next is asked: what tells
// results apart by more than lists does so in all tiers, so that what the word leads
// to is the likelier place. Where a result is found, the job is left as its manifest
// wants it.
func (j *job) fetchFrom(ctx context.Context, at manifestID, word string) *fetched {
	rooted, text := j.rooted, j.preprocessed
	seen := map[*file]digest.Digest{}
	var doubt shared.Doubt
	for m := range j.e.opt.Shared.Manifests(ctx, j.sharedID(at)) {
		if f := j.fetchListed(ctx, m, seen, &doubt); f != nil {
			f.manifest, f.word = at, word
			return f
		}
		if deeper, ok := j.follow(ctx, m.Preprocess); ok {
			if f := j.fetchFrom(ctx, deeper, m.Preprocess); f != nil {
				return f
			}
		}
		j.rooted, j.preprocessed = rooted, text
		if doubt.Over() {
			break
		}
	}
	return nil
}

// fetchListed returns the result that one of a manifest's candidates leads to. seen
// are digests that were looked up for it.
func (j *job) fetchListed(ctx context.Context, m *action.Manifest, seen map[*file]digest.Digest, doubt *shared.Doubt) *fetched {
	var here *candidate // the one that holds
	holds := func(c *action.Candidate) bool {
		if !j.prep.messages.serve(c.StdioContext) {
			return false
		}
		here = j.e.resolveCandidate(c, j.prep.place)
		if ok, _ := here.check(j.e.files, seen); !ok {
			return false
		}
		a := j.basis()
		a.Inputs, a.Absent, a.Present, a.Chain, a.Same, a.Links = c.Inputs, c.Absent, c.Present, c.Chain, c.Same, c.Links
		j.prep.messages.mark(a, c.StdioContext)
		return a.Key() == c.Action
	}
	for c := range doubt.Candidates(m, holds) {
		if f := j.fetchResult(ctx, c.Action, c.StdioContext); f != nil {
			return &fetched{Fetched: f, candidate: here, key: c.Action}
		}
	}
	return nil
}

// fetchResult returns the result of an action with messages of a context, unless
// verification has found it wrong here.
func (j *job) fetchResult(ctx context.Context, key digest.Key, stdio string) *shared.Fetched {
	if j.banned(key) {
		return nil
	}
	f := j.e.opt.Shared.Result(ctx, key)
	if f == nil || f.Entry.Result.StdioContext != stdio {
		return nil
	}
	return f
}

// deliverFetched leaves a result where the command wants it, and has it kept here
// behind the build; or, if it is to be verified, has it kept at once and leaves
// the rest to the compile.
func (j *job) deliverFetched(f *fetched) *ipcv1.ServerMessage {
	outputs := make(map[string]output, len(f.Entry.Result.Outputs))
	for _, o := range f.Entry.Result.Outputs {
		outputs[o.Role] = output{f.Blobs[o.Digest]}
	}
	keep := func() error {
		// Further compiles know, so that they find it; and other machines, which else
		// ask the tiers up to the one that has the word.
		if f.word != "" && j.e.load(j.prep.id(), j.prep.place).preprocess != f.word {
			j.e.opt.Shared.Mark(j.sourced(manifestID{key: j.prep.key}).key, f.word)
			if err := j.mark(f.word); err != nil {
				return err
			}
		}
		_, err := j.put(f.manifest, f.key, f.Entry, outputs)
		return err
	}
	if j.verifies() {
		err := keep()
		if err == nil {
			r := &result{Result: &f.Entry.Result, outputs: outputs}
			j.verifying = j.confirmed(&verification{manifest: f.manifest, found: f.candidate, result: r, tier: f.Tier})
			return nil
		}
		j.outcome.verify.skipped = string(reasonStore)
		j.notKept(err)
	}
	msg, err := j.leave(&result{Result: &f.Entry.Result, outputs: outputs})
	if err != nil {
		j.outcome.why = err.Error()
		return nil
	}
	j.outcome = outcome{
		kind: j.hitKind(f.Tier), tier: f.Tier, action: f.key, manifest: f.manifest.key, saved: f.Entry.Result.CompileTime, verify: j.outcome.verify,
	}
	j.behind = func() {
		if err := keep(); err != nil {
			j.notKept(err)
		}
	}
	return msg
}

// notKept logs that a result that came from elsewhere could not be stored here;
// the build has what it needs.
func (j *job) notKept(err error) {
	j.e.log.Warn("result-not-stored", "error", err.Error(), "source", j.source())
}

// declared tells whether each output of a result is one of the job's.
func declared(work *action.Job, r *action.Result) bool {
	return !slices.ContainsFunc(r.Outputs, func(o action.Output) bool {
		return !work.Declares(o.Role)
	})
}
