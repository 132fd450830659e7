package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// script is a worker whose answers stand fixed.
type script struct {
	answers []*reply
	end     error
	sent    int
}

func (s *script) Send(m *workerv1.CompileRequest) error {
	s.sent++
	return nil
}

func (s *script) Recv() (*reply, error) {
	if len(s.answers) == 0 {
		return nil, s.end
	}
	m := s.answers[0]
	s.answers = s.answers[1:]
	return m, nil
}

func (s *script) CloseSend() error { return nil }

// short is a checkout whose files are just worth a patch, and shorter what it was
// before.
var (
	short   = checkout{mainC: long(300, "use "+headA+"\n") + "\n", headA: long(200, "a") + "\n"}
	shorter = checkout{mainC: short[mainC][:250], headA: short[headA][:150]}
)

// honest records what an honest worker answers in a miss, in a hit, in a miss
// that is sent again, and in one whose files have been edited.
func honest(tb testing.TB) (heard []*reply) {
	f := newFleet(tb, 1)
	f.workers[0].tamper = func(m *reply) []*reply {
		heard = append(heard, proto.CloneOf(m))
		return []*reply{m}
	}
	ctx := within(tb)
	for _, r := range []*Request{
		project.request(all...), project.request(all...), project.request(mainC), shorter.request(two...), short.request(two...),
	} {
		if _, err := f.client.Compile(ctx, r); err != nil {
			tb.Fatal(err)
		}
	}
	return heard
}

// FuzzWorkerAnswers has a worker answer anything in any order. Each byte of play
// below the number of known messages is one of these; others begin a message of
// the fuzzer's own, the length of which follows.
func FuzzWorkerAnswers(f *testing.F) {
	known := honest(f)
	for i, m := range known {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte{byte(i)}, false)
		f.Add(append([]byte{255, byte(len(b) >> 8), byte(len(b))}, b...), true)
	}
	var whole []byte
	for i := range known {
		whole = append(whole, byte(i))
	}
	for i := range whole {
		f.Add(whole[i:], i%2 == 0)
		f.Add(append(bytes.Clone(whole[:i]), whole...), false)
	}
	f.Fuzz(func(t *testing.T, play []byte, broken bool) {
		s := &script{end: io.EOF}
		if broken {
			s.end = status.Error(codes.Unavailable, "gone")
		}
		for len(play) > 0 && len(s.answers) < 200 {
			if int(play[0]) < len(known) {
				s.answers, play = append(s.answers, known[play[0]]), play[1:]
				continue
			}
			if len(play) < 3 {
				break
			}
			n := min(int(play[1])<<8|int(play[2]), len(play)-3)
			m := &reply{}
			if proto.Unmarshal(play[3:3+n], m) != nil {
				break // gRPC's codec refuses it
			}
			s.answers, play = append(s.answers, m), play[3+n:]
		}
		for _, c := range []struct {
			checkout
			names []string
		}{{project, all}, {project, []string{mainC}}, {short, two}} {
			sent := newSent()
			for p, text := range shorter {
				sent.put(&content{p, digest.Of([]byte(text)), []byte(text)})
			}
			once := *s
			checkAnswers(t, &once, c.checkout, c.request(c.names...), sent)
		}
	})
}

// TestHitIsOneRoundTrip: the job is all that is sent before a hit has arrived.
func TestHitIsOneRoundTrip(t *testing.T) {
	heard := honest(t)
	hit := heard[slices.IndexFunc(heard, func(m *reply) bool { return m.GetOutcome().GetHit() }):]
	s := &script{answers: hit}
	w, err := newWork(project.request(all...), newSent())
	if err != nil {
		t.Fatal(err)
	}
	x := &exchange{ctx: t.Context(), s: s, codec: newCodec(), w: w, worker: "worker-0", patience: time.Hour, watchdog: time.NewTimer(time.Hour)}
	defer x.watchdog.Stop()
	if r, err := x.run(); err != nil || !r.Hit || s.sent != 1 {
		t.Errorf("%+v, %v, %d messages", r, err, s.sent)
	}
}

// checkAnswers runs a request of a checkout against a script, and checks what is
// delivered with other means than the code under test.
func checkAnswers(t *testing.T, s *script, c checkout, r *Request, sent *sent) {
	w, err := newWork(r, sent)
	if err != nil {
		t.Fatal(err)
	}
	tree := action.Tree{}
	for p, n := range r.Tree {
		tree[p] = n
	}
	asked := r.Confirm
	r.Confirm = func(ctx context.Context, absent []string) (action.Tree, error) {
		more, err := asked(ctx, absent)
		for p, n := range more {
			tree[p] = n
		}
		return more, err
	}
	x := &exchange{ctx: t.Context(), s: s, codec: newCodec(), w: w, worker: "worker-0", patience: time.Hour, watchdog: time.NewTimer(time.Hour)}
	defer x.watchdog.Stop()
	got, err := x.run()
	for p, e := range sent.at {
		if text := string(e.Value.(*content).data); text != c[p] && text != shorter[p] {
			t.Errorf("%q is remembered as another", p)
		}
	}
	if err != nil {
		var lying *LyingError
		var f *failure
		var refused *RefusedError
		if got != nil || !errors.As(err, &lying) && !errors.As(err, &f) && !errors.As(err, &refused) {
			t.Fatalf("%+v, %v", got, err)
		}
		return
	}
	roles := map[string]bool{}
	for _, o := range got.Outputs {
		if digest.Of(o.Data) != o.Digest {
			t.Errorf("%q has not its digest", o.Role)
		}
		if o.Role != "object" && o.Role != "dwo" || roles[o.Role] {
			t.Errorf("output %q", o.Role)
		}
		roles[o.Role] = true
	}
	ended := got.Signal != 0 || got.Limit != ""
	failed := got.ExitCode != 0 || ended
	if !failed && !roles["object"] || ended && len(got.Outputs) > 0 {
		t.Errorf("failed: %v, with %d outputs", failed, len(got.Outputs))
	}
	if got.Stored && failed || len(got.Stdout)+len(got.Stderr) > workerv1.MaxStdio || got.Worker != "worker-0" {
		t.Errorf("%+v", got)
	}
	if got.Action.Key() != got.Key {
		t.Error("the action's key is another")
	}
	for _, in := range got.Action.Inputs {
		if tree[in.Path].Digest != in.Digest {
			t.Errorf("input %q is not the client's", in.Path)
		}
	}
	for _, p := range got.Action.Absent {
		if _, there := tree[p]; there {
			t.Errorf("%q is there", p)
		}
		if _, there := c[p]; there {
			t.Errorf("%q was not confirmed", p)
		}
	}
}

// bench is a request with n inputs, all of which are read.
func bench(n int) (checkout, []string) {
	c := checkout{}
	var source bytes.Buffer
	names := []string{"/hpcc/src/main.c"}
	for i := range n - 1 {
		p := fmt.Sprintf("/hpcc/src/include/some/library/detail/header-%04d.h", i)
		c[p] = fmt.Sprintf("// %d\n", i)
		names = append(names, p)
		fmt.Fprintf(&source, "use %s\n", p)
	}
	for i := range n {
		fmt.Fprintf(&source, "use /hpcc/src/absent/header-%04d.h\n", i)
	}
	c["/hpcc/src/main.c"] = source.String() + string(bytes.Repeat([]byte("object\n"), 20_000))
	return c, names
}

// BenchmarkHit is a hit on loopback, with a worker that looks it up each time.
func BenchmarkHit(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("inputs=%d", n), func(b *testing.B) {
			f := newFleet(b, 1)
			c, names := bench(n)
			r := c.request(names...)
			if _, err := f.client.Compile(b.Context(), r); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				got, err := f.client.Compile(b.Context(), r)
				if err != nil || !got.Hit {
					b.Fatalf("%+v, %v", got, err)
				}
			}
		})
	}
}

// BenchmarkClient is the client's own part of a hit.
func BenchmarkClient(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("inputs=%d", n), func(b *testing.B) {
			f := newFleet(b, 1)
			c, names := bench(n)
			r := c.request(names...)
			if _, err := f.client.Compile(b.Context(), r); err != nil {
				b.Fatal(err)
			}
			var answers []*reply
			f.workers[0].tamper = func(m *reply) []*reply {
				answers = append(answers, m)
				return []*reply{m}
			}
			if _, err := f.client.Compile(b.Context(), r); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				w, err := newWork(r, newSent())
				if err != nil {
					b.Fatal(err)
				}
				x := &exchange{ctx: b.Context(), s: &script{answers: answers}, codec: newCodec(), w: w, worker: "worker-0", patience: time.Hour, watchdog: time.NewTimer(time.Hour)}
				if _, err := x.run(); err != nil {
					b.Fatal(err)
				}
				x.watchdog.Stop()
			}
		})
	}
}

// BenchmarkMiss sends all inputs.
func BenchmarkMiss(b *testing.B) {
	f := newFleet(b, 1)
	c, names := bench(1000)
	r := c.request(names...)
	byDigest := map[digest.Digest]string{}
	for _, content := range c {
		byDigest[digest.Of([]byte(content))] = content
	}
	r.Open = func(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader([]byte(byDigest[d]))), nil
	}
	r.Uncached = true
	b.ReportAllocs()
	for b.Loop() {
		f.workers[0].forget()
		got, err := f.client.Compile(b.Context(), r)
		if err != nil || got.SentBlobs != 1000 {
			b.Fatalf("%+v, %v", got, err)
		}
	}
}
