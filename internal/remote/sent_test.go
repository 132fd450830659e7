package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// long is n bytes of text that are worth a patch.
func long(n int, begin string) string {
	var b strings.Builder
	b.WriteString(begin)
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "int variable_%d = 0x%s;\n", i, digest.Of([]byte{byte(i), byte(i >> 8), byte(i >> 16)}).Hex()[:12])
	}
	return b.String()[:n]
}

// edited is a checkout with another content of some files.
func (c checkout) edited(files checkout) checkout {
	c = maps.Clone(c)
	maps.Copy(c, files)
	return c
}

const (
	mainC = "/hpcc/src/main.c"
	headA = "/hpcc/src/a.h"
)

var two = []string{mainC, headA}

// sources are long enough for patches.
var sources = checkout{mainC: long(50_000, "use "+headA+"\n") + "\n", headA: long(5000, "") + "\n"}

// compile compiles a checkout of two files, and checks the object against what a
// client that has sent nothing gets from a worker that has nothing.
func (f *fleet) compile(t *testing.T, c checkout) *Result {
	t.Helper()
	got, err := f.client.Compile(within(t), c.request(two...))
	if err != nil {
		t.Fatal(err)
	}
	plain := newFleet(t, 1)
	want, err := plain.client.Compile(within(t), c.request(two...))
	if err != nil {
		t.Fatal(err)
	}
	if want.SentPatches != 0 || string(got.Outputs[0].Data) != string(want.Outputs[0].Data) {
		t.Errorf("an object of %d bytes with %d patches; a plain one has %d bytes", len(got.Outputs[0].Data), got.SentPatches, len(want.Outputs[0].Data))
	}
	return got
}

// TestEdits: what has changed goes up as its difference, each time, to a worker of
// the contract and to the real one.
func TestEdits(t *testing.T) {
	for _, kind := range []string{"fake", "real"} {
		t.Run(kind, func(t *testing.T) {
			f := newFleet(t, 0)
			if kind == "real" {
				realWorker(t, f, &machine{})
			} else {
				newWorker(t, f.scheduler, "worker-0")
			}
			for round, c := range []struct {
				checkout       checkout
				whole, patches int64
			}{
				{sources, 2, 0},
				{sources.edited(checkout{mainC: sources[mainC] + "one\n"}), 0, 1},
				{sources.edited(checkout{mainC: sources[mainC] + "two\n", headA: "zero\n" + sources[headA]}), 0, 2},
				{sources.edited(checkout{headA: "tiny\n"}), 1, 1},
				{sources.edited(checkout{headA: "nought\n" + sources[headA]}), 0, 1},
				{sources.edited(checkout{mainC: long(mostSent, "use "+headA+"\n")}), 1, 1},
				{sources.edited(checkout{mainC: long(mostSent, "use "+headA+"\nthree\n")}), 0, 1},
				{sources.edited(checkout{mainC: long(mostSent+1, "use "+headA+"\n")}), 1, 0},
				{sources.edited(checkout{mainC: strings.ToUpper(long(2000, "")) + "\n"}), 1, 0},
				{sources.edited(checkout{mainC: ""}), 1, 0},
			} {
				r := f.compile(t, c.checkout)
				if r.Hit || r.SentBlobs != c.whole || r.SentPatches != c.patches {
					t.Errorf("round %d: hit %v, %d whole and %d patches, want %d and %d", round, r.Hit, r.SentBlobs, r.SentPatches, c.whole, c.patches)
				}
				if again, err := f.client.Compile(within(t), c.checkout.request(two...)); err != nil || !again.Hit || again.Key != r.Key || again.SentPatches != 0 {
					t.Errorf("round %d is no hit: %v", round, err)
				}
			}
		})
	}
}

// compared is a request whose message has its patches.
func compared(t *testing.T, r *Request, s *sent) *work {
	t.Helper()
	w, err := newWork(r, s)
	if err != nil {
		t.Fatal(err)
	}
	w.compare(t.Context())
	return w
}

// TestEditIsSmall: a line costs some bytes and the digest of what it was added to.
func TestEditIsSmall(t *testing.T) {
	s := newSent()
	s.put(&content{mainC, digest.Of([]byte(sources[mainC])), []byte(sources[mainC])})
	now := sources.edited(checkout{mainC: sources[mainC] + "a line more\n"})
	w := compared(t, now.request(two...), s)
	m := w.message.GetJob()
	if p := m.GetPatches(); len(p) != 1 || m.GetInputs()[p[0].GetInput()].GetPath() != mainC || proto.Size(p[0]) > 100 {
		t.Errorf("%v", p)
	}
}

// TestOldWorker knows of no patches, and asks for all that it lacks.
func TestOldWorker(t *testing.T) {
	f := newFleet(t, 1)
	f.workers[0].old = true
	f.compile(t, sources)
	for i := range 2 {
		if r := f.compile(t, sources.edited(checkout{mainC: sources[mainC] + fmt.Sprintf("%d\n", i)})); r.SentBlobs != 1 || r.SentPatches != 1 {
			t.Errorf("%+v", r)
		}
	}
}

// TestWorkerThatForgot gets all of it.
func TestWorkerThatForgot(t *testing.T) {
	f := newFleet(t, 1)
	f.compile(t, sources)
	f.workers[0].forget()
	if r := f.compile(t, sources.edited(checkout{mainC: sources[mainC] + "more\n"})); r.SentBlobs != 2 || f.workers[0].patches != 0 {
		t.Errorf("%+v", r)
	}
}

// TestEditUndone: a patch is sent once, also for what a worker has, or has a result of;
// and the next one is to that.
func TestEditUndone(t *testing.T) {
	for name, uncached := range map[string]bool{"blob": true, "hit": false} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 1)
			f.compile(t, sources)
			f.compile(t, sources.edited(checkout{mainC: sources[mainC] + "more\n"}))
			for i, patches := range []int64{1, 0} {
				r := sources.request(two...)
				r.Uncached = uncached
				got, err := f.client.Compile(within(t), r)
				if err != nil || got.Hit == uncached || got.SentBlobs != 0 || got.SentPatches != patches {
					t.Errorf("%d: %+v, %v", i, got, err)
				}
			}
			if r := f.compile(t, sources.edited(checkout{mainC: sources[mainC] + "other\n"})); r.SentBlobs != 0 || r.SentPatches != 1 || f.workers[0].patches != 2 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestOtherWorker: the worker that has the base is lost under way, and the other has
// none.
func TestOtherWorker(t *testing.T) {
	f := newFleet(t, 2)
	f.compile(t, sources)
	f.workers[0].cut = func(_ context.Context, m *reply) error {
		if isOutcome(m) {
			return status.Error(codes.Unavailable, "gone")
		}
		return nil
	}
	r := f.compile(t, sources.edited(checkout{mainC: sources[mainC] + "more\n"}))
	if r.Worker != "worker-1" || r.SentBlobs != 2 || f.workers[0].patches != 1 || f.workers[1].patches != 0 {
		t.Errorf("%+v", r)
	}
}

// TestChangedBeforeCompared: a file that changes before it is compared, or cannot be
// read, has no patch, and is an error only if the worker needs it.
func TestChangedBeforeCompared(t *testing.T) {
	for name, open := range map[string]func(context.Context, digest.Digest) (io.ReadCloser, error){
		"other": func(context.Context, digest.Digest) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(sources[mainC] + "less\n")), nil
		},
		"shorter": func(context.Context, digest.Digest) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader("")), nil
		},
		"gone": func(context.Context, digest.Digest) (io.ReadCloser, error) { return nil, ErrInputChanged },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 1)
			f.compile(t, sources)
			now := sources.edited(checkout{mainC: sources[mainC] + "more\n"})
			r := now.request(two...)
			r.Open = open
			got, err := f.client.Compile(within(t), r)
			var input *InputError
			if got != nil || !errors.Is(err, ErrInputChanged) || !errors.As(err, &input) || input.Path != mainC || f.workers[0].patches != 0 {
				t.Errorf("%+v, %v", got, err)
			}
			// What was not sent is not remembered.
			if r := f.compile(t, now); r.SentPatches != 1 || f.workers[0].patches != 1 {
				t.Errorf("%+v", r)
			}
			if r, err := f.client.Compile(within(t), r); err != nil || !r.Hit {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

// TestSentAgainWithPatches: what the guess lacked may come as a patch, too.
func TestSentAgainWithPatches(t *testing.T) {
	f := newFleet(t, 1)
	f.compile(t, sources)
	now := sources.edited(checkout{mainC: sources[mainC] + "1\n", headA: sources[headA] + "2\n"})
	r, err := f.client.Compile(within(t), now.request(mainC))
	if err != nil || r.Attempts != 2 || r.SentBlobs != 0 || f.workers[0].patches != 2 || string(r.Outputs[0].Data) != string(f.compile(t, now).Outputs[0].Data) {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestManyPatches sends as many as the contract allows; the worker asks for the rest.
func TestManyPatches(t *testing.T) {
	f := newFleet(t, 0)
	realWorker(t, f, &machine{})
	first, second := checkout{}, checkout{}
	var names []string
	for i := range workerv1.MaxPatches + 10 {
		p := fmt.Sprintf("/hpcc/src/%03d.h", i)
		names = append(names, p)
		first[p] = long(1000, p+"\n") + "\n"
		second[p] = first[p] + "more\n"
	}
	first[mainC] = "use " + strings.Join(names, "\nuse ") + "\n"
	second[mainC] = first[mainC] + "more\n"
	names = append(names, mainC)
	for i, c := range []checkout{first, second} {
		r, err := f.client.Compile(within(t), c.request(names...))
		if err != nil || int(r.SentBlobs) != len(names)-i*workerv1.MaxPatches || int(r.SentPatches) != i*workerv1.MaxPatches {
			t.Fatalf("%+v, %v", r, err)
		}
		var want strings.Builder
		for _, p := range names[:len(names)-1] {
			want.WriteString(c[p])
		}
		want.WriteString(strings.Repeat("more\n", i)) // main.c's own
		if got := string(r.Outputs[0].Data); got != want.String() {
			t.Errorf("an object of %d bytes, want %d", len(got), want.Len())
		}
	}
}

// TestPatchesAreBounded: what passes a bound of the contract goes whole.
func TestPatchesAreBounded(t *testing.T) {
	was, now := checkout{mainC: "x\n"}, checkout{mainC: "x\n"}
	names := []string{mainC}
	s := newSent()
	for i := range 5 {
		p := fmt.Sprintf("/hpcc/src/%d.h", i)
		names = append(names, p)
		was[p] = long(3<<20, p+"\n")
		now[p] = was[p] + "more"
		s.put(&content{p, digest.Of([]byte(was[p])), []byte(was[p])})
	}
	if w := compared(t, now.request(names...), s); len(w.patched) != 2 { // of 6 MiB each, in 16
		t.Errorf("%d patches", len(w.patched))
	}
	noise := make([]byte, workerv1.MaxPatchBytes/2)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	for i, p := range names[1:] {
		was[p] = long(10*len(noise), p+"\n")
		now[p] = was[p] + string(noise[i:])
		s.put(&content{p, digest.Of([]byte(was[p])), []byte(was[p])})
	}
	w := compared(t, now.request(names...), s)
	length := 0
	for _, p := range w.message.GetJob().GetPatches() {
		length += len(p.GetData())
	}
	if len(w.patched) != 1 || length > workerv1.MaxPatchBytes {
		t.Errorf("%d patches of %d bytes", len(w.patched), length)
	}
}

// TestEditsAtOnce: many compiles of edited files, through one client.
func TestEditsAtOnce(t *testing.T) {
	f := newFleet(t, 0)
	realWorker(t, f, &machine{})
	var done sync.WaitGroup
	for i := range 8 {
		done.Go(func() {
			for edit := range 6 {
				c := sources.edited(checkout{mainC: sources[mainC] + fmt.Sprintf("%d %d\n", i, edit)})
				r, err := f.client.Compile(within(t), c.request(two...))
				if err != nil || !strings.HasSuffix(string(r.Outputs[0].Data), fmt.Sprintf("\n%d %d\n", i, edit)) {
					t.Errorf("%d: %v", i, err)
				}
			}
		})
	}
	done.Wait()
}

func TestSent(t *testing.T) {
	s := newSent()
	put := func(path, n int) {
		b := []byte(long(1<<20, fmt.Sprint(n, "\n")))
		s.put(&content{fmt.Sprint(path), digest.Of(b), b})
	}
	for i := range 40 {
		put(i, i)
		if i == 20 { // sent once more
			put(5, 100)
		}
	}
	if s.bytes != maxSent || len(s.at) != maxSent>>20 || s.order.Len() != maxSent>>20 {
		t.Errorf("%d bytes, %d paths", s.bytes, len(s.at))
	}
	for path, want := range map[int]bool{0: false, 4: false, 5: true, 8: false, 9: true, 39: true, 40: false} {
		c := s.before(fmt.Sprint(path))
		if (c != nil) != want {
			t.Errorf("%d is there: %v", path, c != nil)
		}
		if c != nil && (c.path != fmt.Sprint(path) || digest.Of(c.data) != c.digest) {
			t.Errorf("%d is %q", path, c.path)
		}
	}
	if c := s.before("5"); c == nil || !strings.HasPrefix(string(c.data), "100") {
		t.Error("5 is not what was sent last")
	}
}

// TestComparesFilesAlone: links and directories have no content, and what is the same,
// or too small, needs no patch.
func TestComparesFilesAlone(t *testing.T) {
	s := newSent()
	old := long(1000, "")
	c := checkout{}
	for _, p := range []string{"same.c", "link.c", "small.c", "edited.c", "dir"} {
		s.put(&content{"/hpcc/src/" + p, digest.Of([]byte(old)), []byte(old)})
	}
	c["/hpcc/src/same.c"], c["/hpcc/src/link.c"], c["/hpcc/src/small.c"], c["/hpcc/src/edited.c"] = old, "-> same.c", "x", old+"x"
	r := c.request("/hpcc/src/same.c", "/hpcc/src/link.c", "/hpcc/src/small.c", "/hpcc/src/edited.c")
	r.Tree["/hpcc/src/dir"] = action.Node{}
	r.Job.Source = ""
	if w := compared(t, r, s); len(w.patched) != 1 || w.patched[0].path != "/hpcc/src/edited.c" {
		t.Errorf("%v", w.message.GetJob().GetPatches())
	}
}
