package remote

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// Request is one compile.
type Request struct {
	// Job is what to run. It is not changed.
	Job *action.Job
	// Tree is a guess of what the job will look for below its roots. Compile
	// does not change it; Confirm may, by what it returns.
	Tree action.Tree
	// Open reads the content of a file of Tree, or of what Confirm returned. It
	// is called for those alone that the worker lacks, or that have changed since
	// they were sent, one after the other. Its error is Compile's if the worker
	// lacks the file, in an *InputError; so is a content that is not what the
	// digest names.
	Open func(ctx context.Context, d digest.Digest) (io.ReadCloser, error)
	// Confirm is told what the job looked for in vain, and returns what of it is
	// there after all, with what leads to it; with nothing it confirms that none
	// is. Then the job is sent again with that. Its error is Compile's. Nil
	// confirms all.
	Confirm func(ctx context.Context, absent []string) (action.Tree, error)
	// Uncached has the worker keep no result, and look for none.
	Uncached bool
	// Time bounds the job in the machine; 0 leaves it to the worker. How long a
	// caller waits is for its context to say.
	Time time.Duration
}

// Result is how a job ended that ran, now or earlier.
type Result struct {
	// Action is what decided the result: the job with what it found and missed,
	// all of it checked. Key is its name.
	Action *action.Action
	Key    digest.Key
	// Hit tells that an earlier job's result was found.
	Hit bool
	// Stored tells that the result was found or will be. Failed jobs are not
	// stored, nor those whose inputs are not all known.
	Stored   bool
	ExitCode int
	Signal   int // that ended the job; ExitCode is then 0
	// Limit names a limit that was hit. The job left nothing then.
	Limit string
	// Stdout and Stderr are the job's bytes, whatever they are: a terminal's
	// escapes included.
	Stdout, Stderr []byte
	// Outputs are those that are there. With an ExitCode they are what the program
	// leaves behind when it fails; a job that a signal or a limit ended has none.
	Outputs []Output
	// CompileTime is what the job took in the machine, a hit's once.
	CompileTime time.Duration
	// Worker ran the job, and Row is the number of its row in that worker's log.
	Worker string
	Row    uint64
	// Attempts is how often the job was sent, 1 at least; SentBlobs and
	// SentBytes are the inputs that the workers lacked and got whole, uncompressed.
	// SentPatches are those that went up with the job as what differs from what was
	// sent before.
	Attempts                          int
	SentBlobs, SentBytes, SentPatches int64
}

// Output is a file that a job left. Data has the digest.
type Output struct {
	Role       string
	Data       []byte
	Digest     digest.Digest
	Executable bool
}

// work is a request on its way, with what was added to its tree so far.
type work struct {
	*Request
	tree    action.Tree
	own     bool // tree is not the caller's
	message *workerv1.CompileRequest
	files   map[digest.Digest]string // a path of each content; made when it is needed
	sent    *sent
	// compared tells that the message has its patches, and patched are the contents
	// that they stand for.
	compared bool
	patched  []*content

	attempts  int
	blobs     int64
	blobBytes int64
}

// newWork checks a request as the worker will. Its patches are to what was sent.
func newWork(r *Request, sent *sent) (*work, error) {
	w := &work{Request: r, tree: r.Tree, sent: sent}
	if err := checkImage(r.Job.Image); err != nil {
		return nil, err
	}
	roles := map[string]bool{}
	for _, o := range r.Job.Outputs {
		if !isRole(o.Role) || roles[o.Role] {
			return nil, &RefusedError{Reason: fmt.Sprintf("the job cannot be sent: its output's role %q is none, or there twice", said(o.Role))}
		}
		roles[o.Role] = true
	}
	return w, w.describe()
}

func checkImage(image string) error {
	hex, ok := strings.CutPrefix(image, "sha256:")
	if _, err := digest.ParseKey(hex); err != nil || !ok {
		return &RefusedError{Reason: fmt.Sprintf("the image is named %q, and not by its digest: sha256: and 64 hex digits", said(image))}
	}
	return nil
}

func isRole(s string) bool {
	return s != "" && len(s) <= workerv1.MaxRole && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
}

// describe makes the message that stands for the tree as it is.
func (w *work) describe() error {
	j := w.Job
	m := &workerv1.Job{
		Image: j.Image, Argv: j.Argv, Env: j.Env, Cwd: j.Cwd, Roots: j.Roots, Source: j.Source, Uncached: w.Uncached,
		TimeMillis: uint64(max(0, (w.Time + time.Millisecond - 1).Milliseconds())),
		Inputs:     w.inputs(),
	}
	paths := make([]string, len(j.Outputs))
	for i, o := range j.Outputs {
		m.Outputs = append(m.Outputs, &workerv1.Output{Role: o.Role, Path: o.Path, Optional: o.Optional})
		paths[i] = o.Path
	}
	header := &agentv1.ExecHeader{Argv: j.Argv, Env: j.Env, Cwd: j.Cwd, Roots: j.Roots, Inputs: m.Inputs, Outputs: paths}
	if err := header.Check(); err != nil {
		return &RefusedError{"the job cannot be sent: " + said(err.Error()), err}
	}
	for _, in := range m.Inputs {
		if agentv1.RootOf(outputRoot, in.GetPath()) != "" {
			return &RefusedError{Reason: fmt.Sprintf("the job cannot be sent: its input %q lies where outputs do", in.GetPath())}
		}
	}
	w.message = &workerv1.CompileRequest{Kind: &workerv1.CompileRequest_Job{Job: m}}
	w.files, w.compared = nil, false
	return nil
}

// inputs are the tree's names in order: their common beginnings compress.
func (w *work) inputs() []*agentv1.Input {
	// One allocation for all of a kind.
	all := make([]struct {
		input  agentv1.Input
		digest agentv1.Digest
		sum    [32]byte
	}, len(w.tree))
	list := make([]*agentv1.Input, len(w.tree))
	for i, p := range slices.Sorted(maps.Keys(w.tree)) {
		n, m := w.tree[p], &all[i]
		in := &m.input
		in.Path = p
		switch {
		case n.Target != "":
			in.Kind, in.Target = agentv1.Input_KIND_SYMLINK, n.Target
		case n.Digest.IsZero():
			in.Kind = agentv1.Input_KIND_DIRECTORY
		default:
			m.sum = n.Digest.Sum()
			m.digest.Sha256, m.digest.Size = m.sum[:], n.Digest.Size()
			in.Kind, in.Digest = agentv1.Input_KIND_FILE, &m.digest
		}
		list[i] = in
	}
	return list
}

// contents are the files that can be asked for.
func (w *work) contents() map[digest.Digest]string {
	if w.files == nil {
		w.files = make(map[digest.Digest]string, len(w.tree))
		for p, n := range w.tree {
			if n.Target == "" && !n.Digest.IsZero() {
				// The same one each time: it is what is remembered as sent.
				if other, ok := w.files[n.Digest]; !ok || p < other {
					w.files[n.Digest] = p
				}
			}
		}
	}
	return w.files
}

// add adds what the job looked for in vain and is there.
func (w *work) add(more action.Tree, absent []string) error {
	missed := make(map[string]bool, len(absent))
	for _, p := range absent {
		missed[p] = true
	}
	// What is missing may lie below a link that is missing, and lead elsewhere;
	// but one name at least has to make a difference, or this would go on.
	useful := false
	for p := range more {
		for dir := p; dir != "" && !useful; dir = dir[:max(strings.LastIndexByte(dir, '/'), 0)] {
			useful = missed[dir]
		}
		for a := range missed {
			useful = useful || strings.HasPrefix(a, p) && a[len(p)] == '/'
			if useful {
				break
			}
		}
	}
	if !useful {
		return fmt.Errorf("%d names were confirmed, and none of them was looked for in vain", len(more))
	}
	if !w.own {
		w.tree, w.own = maps.Clone(w.tree), true
	}
	maps.Copy(w.tree, more)
	return w.describe()
}
