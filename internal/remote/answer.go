package remote

import (
	"crypto/sha256"
	"hash"
	"slices"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// Bounds of an answer, beside those of the contracts.
const (
	maxLimit   = 64
	maxCompile = 24 * time.Hour
	// firstPart is how much is made ready for an output before its bytes come: a
	// worker may announce a gigabyte and send none.
	firstPart = 1 << 20
)

var outputRoot = []string{workerv1.OutputRoot}

// stage is what may come next.
type stage int

const (
	first    stage = iota // needed, or the outcome of a hit
	asked                 // the outcome of a run
	outcome               // outputs, done
	finished              // nothing
)

// answer takes a worker's messages for one sending of a job, and refuses what
// breaks the contract. Each error of its methods is a *LyingError.
type answer struct {
	w      *work
	worker string
	stage  stage
	needed []digest.Digest
	absent []string
	result Result

	output int       // whose bytes come
	hash   hash.Hash // of it, so far; nil before its first
}

func newAnswer(w *work, worker string) *answer { return &answer{w: w, worker: worker} }

// take takes the next message.
func (a *answer) take(m *workerv1.CompileResponse) error {
	switch kind := m.GetKind().(type) {
	case *workerv1.CompileResponse_Needed:
		if a.stage != first {
			return lie("it says what it needs a second time, or too late")
		}
		a.stage = asked
		return a.takeNeeded(kind.Needed)
	case *workerv1.CompileResponse_Outcome:
		switch {
		case a.stage > asked:
			return lie("a second outcome")
		case a.stage == first && !kind.Outcome.GetHit():
			return lie("an outcome before it said what it needs")
		case a.stage == asked && kind.Outcome.GetHit():
			return lie("a hit after it said what it needs")
		}
		a.stage = outcome
		return a.takeOutcome(kind.Outcome)
	case *workerv1.CompileResponse_Output:
		if a.stage != outcome {
			return lie("an output without an outcome")
		}
		return a.takeOutput(kind.Output)
	case *workerv1.CompileResponse_Done:
		if a.stage != outcome {
			return lie("an end without an outcome")
		}
		a.stage = finished
		return a.takeDone(kind.Done)
	}
	return lie("a message of no kind")
}

func (a *answer) takeNeeded(m *workerv1.Needed) error {
	if len(m.GetBlobs()) == 0 {
		return nil
	}
	files := a.w.contents()
	seen := make(map[digest.Digest]bool, len(m.GetBlobs()))
	for _, b := range m.GetBlobs() {
		d, err := digest.FromBytes(b.GetSha256(), b.GetSize())
		if err != nil {
			return lie("it needs what is no digest")
		}
		if _, ok := files[d]; !ok || seen[d] {
			return lie("it needs a blob that is no input, or one twice")
		}
		seen[d] = true
		a.needed = append(a.needed, d)
	}
	return nil
}

func (a *answer) takeOutcome(m *workerv1.Outcome) error {
	exit, signal, limit := m.GetExitCode(), m.GetSignal(), m.GetLimit()
	failed := exit != 0 || signal != 0 || limit != ""
	switch {
	case exit < 0 || exit > 255 || signal < 0 || signal > 64 || signal != 0 && exit != 0:
		return lie("exit status %d, signal %d", exit, signal)
	case len(limit) > maxLimit || said(limit) != limit:
		return lie("a limit without a name")
	case len(m.GetStdout())+len(m.GetStderr()) > workerv1.MaxStdio:
		return lie("%d bytes on stdout and stderr", len(m.GetStdout())+len(m.GetStderr()))
	case m.GetCompileNanos() < 0 || m.GetCompileNanos() > int64(maxCompile):
		return lie("a compile time of %d ns", m.GetCompileNanos())
	case m.GetHit() && !m.GetStored():
		return lie("a hit that is not stored")
	case m.GetStored() && (failed || a.w.Uncached):
		return lie("a failed job, or one that is not to be kept, is stored")
	}
	act, err := a.action(m)
	if err != nil {
		return err
	}
	a.result = Result{
		Action: act, Key: act.Key(), Hit: m.GetHit(), Stored: m.GetStored(),
		ExitCode: int(exit), Signal: int(signal), Limit: limit, Stdout: m.GetStdout(), Stderr: m.GetStderr(),
		CompileTime: time.Duration(m.GetCompileNanos()), Worker: a.worker,
	}
	if key := a.result.Key; string(m.GetActionKey()) != string(key[:]) {
		return lie("its action key is not that of what was found and absent")
	}
	return a.announced(m.GetOutputs())
}

// action makes the action again, from what the worker says was found and absent
// and what the client has.
func (a *answer) action(m *workerv1.Outcome) (*action.Action, error) {
	if len(m.GetFound())+len(m.GetAbsent()) > agentv1.MaxLookups {
		return nil, lie("%d lookups", len(m.GetFound())+len(m.GetAbsent()))
	}
	found, err := names(m.GetFound())
	if err != nil {
		return nil, err
	}
	absent, err := names(m.GetAbsent())
	if err != nil {
		return nil, err
	}
	for _, p := range absent {
		if err := agentv1.CheckPath(p); err != nil {
			return nil, lie("an absence: %s", said(err.Error()))
		}
		if agentv1.RootOf(a.w.Job.Roots, p) == "" || agentv1.RootOf(outputRoot, p) != "" {
			return nil, lie("an absence outside the roots: %q", said(p))
		}
	}
	a.absent = absent
	// It copies what it sorts; found is of this answer alone.
	act, err := a.w.Job.Action(a.w.tree, found, absent)
	if err != nil {
		return nil, lie("%s", said(err.Error()))
	}
	return act, nil
}

// names are a message's paths, none of which may stand twice.
func names(list [][]byte) ([]string, error) {
	out := make([]string, len(list))
	seen := make(map[string]bool, len(list))
	for i, b := range list {
		p := string(b)
		if seen[p] {
			return nil, lie("it names %q twice", said(p))
		}
		seen[p] = true
		out[i] = p
	}
	return out, nil
}

// announced checks the list of outputs.
func (a *answer) announced(list []*workerv1.OutputFile) error {
	r := &a.result
	if len(list) > 0 && (r.Signal != 0 || r.Limit != "") {
		return lie("outputs of a job that was ended")
	}
	failed := r.ExitCode != 0 || r.Signal != 0 || r.Limit != ""
	var total int64
	there := map[string]bool{}
	for _, o := range list {
		role := o.GetRole()
		if !a.w.Job.Declares(role) || there[role] {
			return lie("an output that was not declared, or twice: %q", said(role))
		}
		there[role] = true
		d, err := digest.FromBytes(o.GetDigest().GetSha256(), o.GetDigest().GetSize())
		if err != nil {
			return lie("output %q has no digest", role)
		}
		// Each is checked before they are added: the sum cannot overflow.
		if d.Size() > agentv1.MaxOutputBytes || total+d.Size() > agentv1.MaxOutputBytes {
			return lie("outputs of more than %d bytes", agentv1.MaxOutputBytes)
		}
		total += d.Size()
		a.result.Outputs = append(a.result.Outputs, Output{Role: role, Digest: d, Executable: o.GetExecutable()})
	}
	for _, d := range a.w.Job.Outputs {
		if !failed && !d.Optional && !there[d.Role] {
			return lie("a job that succeeded without its output %q", d.Role)
		}
	}
	return nil
}

func (a *answer) takeOutput(m *workerv1.OutputChunk) error {
	if a.output >= len(a.result.Outputs) || uint64(m.GetOutput()) != uint64(a.output) {
		return lie("bytes of an output that is not expected")
	}
	o, data := &a.result.Outputs[a.output], m.GetData()
	if len(data) > workerv1.ChunkSize || len(data) == 0 && o.Digest.Size() > 0 {
		return lie("a chunk of %d bytes", len(data))
	}
	size := o.Digest.Size()
	if int64(len(o.Data)+len(data)) > size {
		return lie("more bytes of output %q than it announced", o.Role)
	}
	if a.hash == nil {
		a.hash = sha256.New()
		o.Data = make([]byte, 0, min(size, firstPart))
	}
	a.hash.Write(data)
	if need := int64(len(o.Data) + len(data)); need > int64(cap(o.Data)) {
		o.Data = slices.Grow(o.Data, int(min(size, 2*need))-len(o.Data))
	}
	o.Data = append(o.Data, data...)
	if int64(len(o.Data)) < size {
		return nil
	}
	if d, err := digest.FromBytes(a.hash.Sum(nil), size); err != nil || d != o.Digest {
		return lie("output %q has not its digest", o.Role)
	}
	a.hash = nil
	a.output++
	return nil
}

func (a *answer) takeDone(m *workerv1.Done) error {
	if a.output < len(a.result.Outputs) {
		return lie("an end before all outputs have come")
	}
	if m.GetWorker() != a.worker {
		return lie("a row of worker %q", said(m.GetWorker()))
	}
	a.result.Row = m.GetRow()
	return nil
}
