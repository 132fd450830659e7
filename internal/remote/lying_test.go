package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

type (
	reply  = workerv1.CompileResponse
	tamper = func(m *reply) []*reply
	call   = grpc.BidiStreamingServer[workerv1.CompileRequest, workerv1.CompileResponse]
)

// outcomes changes each outcome.
func outcomes(change func(o *workerv1.Outcome)) tamper {
	return func(m *reply) []*reply {
		if m.GetOutcome() != nil {
			m = proto.CloneOf(m)
			change(m.GetOutcome())
		}
		return []*reply{m}
	}
}

// needs changes what is needed.
func needs(change func(n *workerv1.Needed)) tamper {
	return func(m *reply) []*reply {
		if m.GetNeeded() != nil {
			change(m.GetNeeded())
		}
		return []*reply{m}
	}
}

// chunks changes the bytes of outputs.
func chunks(change func(c *workerv1.OutputChunk) []*reply) tamper {
	return func(m *reply) []*reply {
		if m.GetOutput() != nil {
			return change(m.GetOutput())
		}
		return []*reply{m}
	}
}

// instead answers a message of a kind with others.
func instead(of func(m *reply) bool, list ...*reply) tamper {
	return func(m *reply) []*reply {
		if of(m) {
			return list
		}
		return []*reply{m}
	}
}

// twice repeats messages of a kind.
func twice(of func(m *reply) bool) tamper {
	return func(m *reply) []*reply {
		if of(m) {
			return []*reply{m, m}
		}
		return []*reply{m}
	}
}

func isNeeded(m *reply) bool  { return m.GetNeeded() != nil }
func isOutcome(m *reply) bool { return m.GetOutcome() != nil }
func isOutput(m *reply) bool  { return m.GetOutput() != nil }
func isDone(m *reply) bool    { return m.GetDone() != nil }

func found(names ...string) tamper {
	return outcomes(func(o *workerv1.Outcome) {
		for _, n := range names {
			o.Found = append(o.Found, []byte(n))
		}
	})
}

func absent(names ...string) tamper {
	return outcomes(func(o *workerv1.Outcome) {
		for _, n := range names {
			o.Absent = append(o.Absent, []byte(n))
		}
	})
}

// resized announces another size of the object, under the digest that bytes of
// that size would have.
func resized(size int64) tamper {
	return outcomes(func(o *workerv1.Outcome) { o.Outputs[0].Digest.Size = size })
}

var all = []string{"/hpcc/src/main.c", "/hpcc/src/a.h", "/hpcc/src/b.h"}

// lies are what a worker may try. The client's answer to each is an error that
// names the worker, and nothing else: no result.
var lies = []struct {
	name   string
	hit    bool // tamper with a hit
	tamper tamper
	// serve is what the worker does instead of being honest but for tamper.
	serve func(s call) error
	want  string
}{
	// Outputs.
	{name: "output that was not declared", tamper: outcomes(func(o *workerv1.Outcome) {
		o.Outputs = append(o.Outputs, &workerv1.OutputFile{Role: "authorized-keys", Digest: wireDigest(digest.Of(nil))})
	}), want: "not declared"},
	{name: "output whose role is a path", tamper: outcomes(func(o *workerv1.Outcome) { o.Outputs[0].Role = "../../.bashrc" }), want: "not declared"},
	{name: "role twice", tamper: outcomes(func(o *workerv1.Outcome) { o.Outputs = append(o.Outputs, o.Outputs[0]) }), want: "twice"},
	{name: "required output is missing", tamper: outcomes(func(o *workerv1.Outcome) { o.Outputs = nil }), want: "without its output"},
	{name: "outputs of a job that a signal ended", tamper: outcomes(func(o *workerv1.Outcome) { o.Signal, o.Stored = 9, false }), want: "ended"},
	{name: "outputs of a job that hit a limit", tamper: outcomes(func(o *workerv1.Outcome) { o.Limit, o.Stored = "time", false }), want: "ended"},
	{name: "undeclared output of a failed job", tamper: outcomes(func(o *workerv1.Outcome) {
		o.ExitCode, o.Stored = 1, false
		o.Outputs = append(o.Outputs, &workerv1.OutputFile{Role: "authorized-keys", Digest: wireDigest(digest.Of(nil))})
	}), want: "not declared"},
	{name: "other bytes than announced", tamper: chunks(func(c *workerv1.OutputChunk) []*reply {
		return []*reply{sayOutput(0, bytes.ToUpper(c.GetData()))}
	}), want: "digest"},
	{name: "other bytes in a hit", hit: true, tamper: chunks(func(c *workerv1.OutputChunk) []*reply {
		return []*reply{sayOutput(0, bytes.ToUpper(c.GetData()))}
	}), want: "digest"},
	{name: "shorter output", tamper: chunks(func(c *workerv1.OutputChunk) []*reply {
		return []*reply{sayOutput(0, c.GetData()[1:])}
	}), want: "before all outputs"},
	{name: "longer output", tamper: chunks(func(c *workerv1.OutputChunk) []*reply {
		return []*reply{sayOutput(0, append(c.GetData(), 'x'))}
	}), want: "more bytes"},
	{name: "output again after its end", tamper: twice(isOutput), want: "not expected"},
	{name: "bytes of another output", tamper: chunks(func(c *workerv1.OutputChunk) []*reply {
		return []*reply{sayOutput(math.MaxInt32, c.GetData())}
	}), want: "not expected"},
	{name: "empty chunk", tamper: chunks(func(c *workerv1.OutputChunk) []*reply {
		return []*reply{sayOutput(0, nil), sayOutput(0, c.GetData())}
	}), want: "chunk"},
	{name: "chunk that is too long", tamper: chunks(func(*workerv1.OutputChunk) []*reply {
		return []*reply{sayOutput(0, make([]byte, workerv1.ChunkSize+1))}
	}), want: "chunk"},
	{name: "negative size", tamper: resized(-1), want: "no digest"},
	{name: "digest that is too short", tamper: outcomes(func(o *workerv1.Outcome) {
		o.Outputs[0].Digest.Sha256 = o.Outputs[0].Digest.Sha256[1:]
	}), want: "no digest"},
	{name: "output without a digest", tamper: outcomes(func(o *workerv1.Outcome) { o.Outputs[0].Digest = nil }), want: "no digest"},
	{name: "huge output", tamper: resized(agentv1.MaxOutputBytes + 1), want: "outputs of more than"},
	{name: "outputs whose sizes overflow", tamper: outcomes(func(o *workerv1.Outcome) {
		o.Outputs[0].Digest.Size = math.MaxInt64
		o.Outputs = append(o.Outputs, &workerv1.OutputFile{Role: "dwo", Digest: &agentv1.Digest{Sha256: make([]byte, 32), Size: math.MaxInt64}})
	}), want: "outputs of more than"},

	// Key and lookups.
	{name: "wrong action key", tamper: outcomes(func(o *workerv1.Outcome) { o.ActionKey[0] ^= 1 }), want: "action key"},
	{name: "wrong action key of a hit", hit: true, tamper: outcomes(func(o *workerv1.Outcome) { o.ActionKey[0] ^= 1 }), want: "action key"},
	{name: "no action key", tamper: outcomes(func(o *workerv1.Outcome) { o.ActionKey = nil }), want: "action key"},
	{name: "key longer by a byte", tamper: outcomes(func(o *workerv1.Outcome) { o.ActionKey = append(o.ActionKey, 0) }), want: "action key"},
	{name: "key of another input set", tamper: outcomes(func(o *workerv1.Outcome) { o.Found = o.Found[1:] }), want: "action key"},
	{name: "hit on a changed header", hit: true, tamper: outcomes(func(o *workerv1.Outcome) { o.Absent = nil }), want: "action key"},
	{name: "found what was not sent", tamper: found("/hpcc/src/secret.h"), want: "no file"},
	{name: "found what lies outside", tamper: found("/etc/passwd"), want: "no file"},
	{name: "found by escaping", tamper: found("/hpcc/src/../../etc/passwd"), want: "no file"},
	{name: "found a directory that is none", tamper: found("/hpcc/src/a.h/."), want: "no directory"},
	{name: "found twice", tamper: found("/hpcc/src/main.c"), want: "twice"},
	{name: "absent what was sent", tamper: absent("/hpcc/src/a.h"), want: "is there"},
	{name: "absent a directory of what was sent", tamper: absent("/hpcc/src"), want: "is there"},
	{name: "absent twice", tamper: absent("/hpcc/src/gen/x.h"), want: "twice"},
	{name: "absent outside of the roots", tamper: absent("/home/me/.ssh/id_ed25519"), want: "outside"},
	{name: "absent among outputs", tamper: absent("/hpcc/out/x"), want: "outside"},
	{name: "absent by escaping", tamper: absent("/hpcc/src/../../../home/me"), want: "clean"},
	{name: "absent relative", tamper: absent("x.h"), want: "absolute"},
	{name: "absent with a NUL", tamper: absent("/hpcc/src/a\x00b"), want: "NUL"},
	{name: "absent with an endless name", tamper: absent("/hpcc/src/" + strings.Repeat("x", 10000)), want: "long"},
	{name: "more lookups than any job's", tamper: outcomes(func(o *workerv1.Outcome) {
		for i := range agentv1.MaxLookups {
			o.Absent = append(o.Absent, fmt.Appendf(nil, "/hpcc/src/%d", i))
		}
	}), want: "lookups"},

	// How it ended.
	{name: "impossible exit status", tamper: outcomes(func(o *workerv1.Outcome) { o.ExitCode = 256 }), want: "exit status"},
	{name: "negative exit status", tamper: outcomes(func(o *workerv1.Outcome) { o.ExitCode = -1 }), want: "exit status"},
	{name: "impossible signal", tamper: outcomes(func(o *workerv1.Outcome) { o.Signal = 65 }), want: "signal"},
	{name: "status and signal", tamper: outcomes(func(o *workerv1.Outcome) { o.ExitCode, o.Signal = 1, 9 }), want: "signal"},
	{name: "negative compile time", tamper: outcomes(func(o *workerv1.Outcome) { o.CompileNanos = -1 }), want: "compile time"},
	{name: "endless compile time", tamper: outcomes(func(o *workerv1.Outcome) { o.CompileNanos = math.MaxInt64 }), want: "compile time"},
	{name: "limit with escapes", tamper: outcomes(func(o *workerv1.Outcome) { o.Limit = "\x1b[2J" }), want: "limit"},
	{name: "failed and stored", tamper: outcomes(func(o *workerv1.Outcome) { o.ExitCode, o.Outputs = 1, nil }), want: "stored"},
	{name: "hit that is not stored", hit: true, tamper: outcomes(func(o *workerv1.Outcome) { o.Stored = false }), want: "stored"},
	{name: "endless stderr", tamper: outcomes(func(o *workerv1.Outcome) { o.Stderr = make([]byte, workerv1.MaxStdio+1) }), want: "stderr"},
	{name: "stdout and stderr that are too long together", tamper: outcomes(func(o *workerv1.Outcome) {
		o.Stdout, o.Stderr = make([]byte, workerv1.MaxStdio), []byte("x")
	}), want: "stderr"},
	{name: "zstd bomb", tamper: outcomes(func(o *workerv1.Outcome) { o.Stderr = make([]byte, workerv1.MaxMessage) }), want: "too long"},

	// Order.
	{name: "outcome before needed", tamper: instead(isNeeded, sayOutcome(&workerv1.Outcome{})), want: "before it said"},
	{name: "hit after needed", tamper: outcomes(func(o *workerv1.Outcome) { o.Hit = true }), want: "a hit after"},
	{name: "miss that claims not to need", hit: true, tamper: outcomes(func(o *workerv1.Outcome) { o.Hit = false }), want: "before it said"},
	{name: "needed in a hit", hit: true, tamper: func(m *reply) []*reply {
		if isOutcome(m) {
			return []*reply{{Kind: &workerv1.CompileResponse_Needed{Needed: &workerv1.Needed{}}}, m}
		}
		return []*reply{m}
	}, want: "a hit after"},
	{name: "needed twice", tamper: twice(isNeeded), want: "second time"},
	{name: "two outcomes", tamper: twice(isOutcome), want: "second outcome"},
	{name: "output before the outcome", tamper: instead(isNeeded, sayOutput(0, []byte("x"))), want: "without an outcome"},
	{name: "done at once", tamper: instead(isNeeded, &reply{Kind: &workerv1.CompileResponse_Done{Done: &workerv1.Done{}}}), want: "without an outcome"},
	{name: "done without outputs", tamper: instead(isOutput), want: "before all outputs"},
	{name: "done for another worker", tamper: instead(isDone, &reply{Kind: &workerv1.CompileResponse_Done{Done: &workerv1.Done{Worker: "other"}}}), want: "row"},
	{name: "end without an answer", serve: func(call) error { return nil }, want: "without a result"},
	{name: "end without done", tamper: instead(isDone), hit: true, serve: nil, want: "without a result"},
	{name: "message that is none", serve: func(s call) error {
		if _, err := s.Recv(); err != nil {
			return err
		}
		return s.SendMsg(&workerv1.Outcome{ActionKey: []byte{255, 255}}) // as Needed, this is no message
	}, want: "decoded"},
	{name: "message of no kind", tamper: instead(isNeeded, &reply{}), want: "no kind"},

	// What it asks for.
	{name: "needs a file outside of the tree", tamper: needs(func(n *workerv1.Needed) {
		n.Blobs = append(n.Blobs, wireDigest(digest.Of([]byte("the contents of /etc/shadow"))))
	}), want: "no input"},
	{name: "needs a file of another size", tamper: needs(func(n *workerv1.Needed) { n.Blobs[0].Size++ }), want: "no input"},
	{name: "needs one twice", tamper: needs(func(n *workerv1.Needed) { n.Blobs = append(n.Blobs, n.Blobs[0]) }), want: "twice"},
	{name: "needs what is no digest", tamper: needs(func(n *workerv1.Needed) { n.Blobs[0].Sha256 = nil }), want: "no digest"},
	{name: "needs all, and does not listen", serve: func(s call) error {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		needed := &workerv1.Needed{}
		for _, in := range m.GetJob().GetInputs() {
			needed.Blobs = append(needed.Blobs, in.GetDigest())
		}
		for range 100 {
			if err := s.Send(&reply{Kind: &workerv1.CompileResponse_Needed{Needed: needed}}); err != nil {
				return err
			}
		}
		return nil
	}, want: ""}, // one of two reasons, whichever is seen first
}

func TestLies(t *testing.T) {
	for _, c := range lies {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 1)
			w := f.workers[0]
			if c.hit {
				if _, err := f.client.Compile(within(t), project.request(all...)); err != nil {
					t.Fatal(err)
				}
			}
			w.tamper, w.instead = c.tamper, c.serve
			r, err := f.client.Compile(within(t), project.request(all...))
			var lying *LyingError
			var away *UnavailableError
			if r != nil || !errors.As(err, &lying) || !errors.As(err, &away) {
				t.Fatalf("%+v, %v", r, err)
			}
			if lying.Worker != w.name || !strings.Contains(lying.Reason, c.want) {
				t.Errorf("%v: want %q", lying, c.want)
			}
			if len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\x1b\x00") {
				t.Errorf("an error of %d bytes: %q", len(err.Error()), err)
			}
			// It is left alone, and nobody waits for it.
			calls := w.called()
			r, err = f.client.Compile(within(t), project.request(all...))
			if r != nil || !errors.As(err, &away) || !away.Retry.After(time.Now()) || w.called() != calls {
				t.Errorf("called again: %+v, %v", r, err)
			}
		})
	}
	if len(lies) < 15 {
		t.Errorf("%d cases", len(lies))
	}
}

// TestLyingWorkerAmongOthers finds another worker at once, and keeps to it.
func TestLyingWorkerAmongOthers(t *testing.T) {
	f := newFleet(t, 2)
	f.workers[0].tamper = outcomes(func(o *workerv1.Outcome) { o.ActionKey[0] ^= 1 })
	for i := range 3 {
		r, err := f.client.Compile(within(t), project.request(all...))
		if err != nil || r.Worker != "worker-1" || string(r.Outputs[0].Data) != "b\na\nmain\n" || r.Hit != (i > 0) {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if f.workers[0].called() != 1 {
		t.Errorf("the liar was called %d times", f.workers[0].called())
	}
}

// TestMessageAfterTheEnd changes nothing of a result that was complete, but is
// seen.
func TestMessageAfterTheEnd(t *testing.T) {
	f := newFleet(t, 1)
	f.workers[0].tamper = twice(isDone)
	r, err := f.client.Compile(within(t), project.request(all...))
	if err != nil || string(r.Outputs[0].Data) != "b\na\nmain\n" {
		t.Fatalf("%+v, %v", r, err)
	}
	// It is heard behind the caller's back.
	for {
		_, err := f.client.Compile(within(t), project.request(all...))
		var lying *LyingError
		if errors.As(err, &lying) && strings.Contains(lying.Reason, "after the end") {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestOutputBomb counts what a worker can make a client take: what it announced,
// and what is under way.
func TestOutputBomb(t *testing.T) {
	for name, announced := range map[string]int64{"small": 1, "large": 3 << 20} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 1)
			var sent atomic.Int64
			f.workers[0].instead = func(s call) error {
				m, err := s.Recv()
				if err != nil {
					return err
				}
				job, tree := decode(m.GetJob())
				act, _ := job.Action(tree, nil, nil)
				key := act.Key()
				o := &workerv1.Outcome{ActionKey: key[:], Hit: true, Stored: true, Outputs: []*workerv1.OutputFile{
					{Role: "object", Digest: &agentv1.Digest{Sha256: make([]byte, 32), Size: announced}},
				}}
				if err := s.Send(sayOutcome(o)); err != nil {
					return err
				}
				noise := bytes.Repeat([]byte("no compressor makes this much shorter than it is"), 2000)
				for err == nil {
					err = s.Send(sayOutput(0, noise))
					sent.Add(int64(len(noise)))
				}
				return err
			}
			r, err := f.client.Compile(within(t), project.request(all...))
			var lying *LyingError
			if r != nil || !errors.As(err, &lying) || !strings.Contains(lying.Reason, "more bytes") {
				t.Errorf("%+v, %v", r, err)
			}
			<-f.workers[0].cancelled
			t.Logf("%d bytes were sent, uncompressed", sent.Load())
		})
	}
}

// TestAnnouncedIsNotAllocated: a gigabyte that is announced costs nothing before
// it comes.
func TestAnnouncedIsNotAllocated(t *testing.T) {
	w, err := newWork(project.request(all...), newSent())
	if err != nil {
		t.Fatal(err)
	}
	a := newAnswer(w, "w")
	act, _ := w.Job.Action(w.tree, nil, nil)
	key := act.Key()
	if err := a.take(sayOutcome(&workerv1.Outcome{ActionKey: key[:], Hit: true, Stored: true, Outputs: []*workerv1.OutputFile{
		{Role: "object", Digest: &agentv1.Digest{Sha256: make([]byte, 32), Size: agentv1.MaxOutputBytes}},
	}})); err != nil {
		t.Fatal(err)
	}
	if err := a.take(sayOutput(0, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	if n := cap(a.result.Outputs[0].Data); n > firstPart {
		t.Errorf("%d bytes for one", n)
	}
}

// TestEndlessAttempts: a worker that finds another name at each sending is
// stopped, and so is a job that really does.
func TestEndlessAttempts(t *testing.T) {
	f := newFleet(t, 1)
	r := project.request(all...)
	next := 0
	r.Confirm = func(_ context.Context, absent []string) (action.Tree, error) {
		return action.Tree{absent[0]: {Digest: digest.Of(nil)}}, nil
	}
	f.workers[0].tamper = func(m *reply) []*reply {
		if o := m.GetOutcome(); o != nil {
			m = proto.CloneOf(m)
			m.GetOutcome().Absent = [][]byte{fmt.Appendf(nil, "/hpcc/src/%d.h", next)}
			next++
			f.rekey(t, m.GetOutcome(), r, next-1)
		}
		return []*reply{m}
	}
	r.Open = func(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
		if d == digest.Of(nil) {
			return io.NopCloser(strings.NewReader("")), nil
		}
		return project.request().Open(t.Context(), d)
	}
	got, err := f.client.Compile(within(t), r)
	var refused *RefusedError
	if got != nil || !errors.As(err, &refused) || next != workerv1.MaxAttempts+1 {
		t.Errorf("%+v, %v after %d attempts", got, err, next)
	}
}

// rekey makes the key of an outcome right again, for a request to whose tree the
// first n names were added.
func (f *fleet) rekey(t *testing.T, o *workerv1.Outcome, r *Request, n int) {
	tree := action.Tree{}
	for p, node := range r.Tree {
		tree[p] = node
	}
	for i := range n {
		tree[fmt.Sprintf("/hpcc/src/%d.h", i)] = action.Node{Digest: digest.Of(nil)}
	}
	str := func(list [][]byte) (out []string) {
		for _, b := range list {
			out = append(out, string(b))
		}
		return out
	}
	act, err := r.Job.Action(tree, str(o.GetFound()), str(o.GetAbsent()))
	if err != nil {
		t.Error(err)
		return
	}
	key := act.Key()
	o.ActionKey = key[:]
}

// TestSilentWorker ends with the caller's time, and the job with it.
func TestSilentWorker(t *testing.T) {
	stages := map[string]func(m *reply) bool{
		"before needed": isNeeded, "before the outcome": isOutcome, "before outputs": isOutput, "before done": isDone,
	}
	for name, stage := range stages {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 1)
			silent := make(chan struct{})
			f.workers[0].cut = func(ctx context.Context, m *reply) error {
				if !stage(m) {
					return nil
				}
				close(silent)
				<-ctx.Done()
				return ctx.Err()
			}
			ctx, cancel := context.WithCancel(within(t))
			go func() {
				<-silent
				cancel()
			}()
			r, err := f.client.Compile(ctx, project.request(all...))
			if r != nil || !errors.Is(err, context.Canceled) {
				t.Errorf("%+v, %v", r, err)
			}
			<-f.workers[0].cancelled
		})
	}
}

// TestCutStream: a call that breaks is made on another worker, and is no lie.
func TestCutStream(t *testing.T) {
	for name, stage := range map[string]func(m *reply) bool{
		"before needed": isNeeded, "before the outcome": isOutcome, "before outputs": isOutput, "before done": isDone,
	} {
		for how, cut := range map[string]func(w *fakeWorker){
			"connection": func(w *fakeWorker) { go w.server.Stop() },
			"status":     func(*fakeWorker) {},
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				f := newFleet(t, 2)
				bad := f.workers[0]
				bad.cut = func(_ context.Context, m *reply) error {
					if !stage(m) {
						return nil
					}
					cut(bad)
					return status.Error(codes.Unavailable, "the machine is gone")
				}
				r, err := f.client.Compile(within(t), project.request(all...))
				if err != nil || r.Worker != "worker-1" || string(r.Outputs[0].Data) != "b\na\nmain\n" {
					t.Fatalf("%+v, %v", r, err)
				}
			})
		}
	}
}
