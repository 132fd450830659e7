package remote

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/leaktest"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

var project = checkout{
	"/hpcc/src/main.c": "use /hpcc/src/gen/x.h\nuse /hpcc/src/a.h\nmain\n",
	"/hpcc/src/a.h":    "use /hpcc/src/b.h\na\n",
	"/hpcc/src/b.h":    "b\n",
}

const object = "b\na\nmain\n" // of project

func TestCompile(t *testing.T) {
	f := newFleet(t, 1)
	r, err := f.client.Compile(within(t), project.request(all...))
	if err != nil {
		t.Fatal(err)
	}
	if r.Hit || !r.Stored || r.ExitCode != 0 || len(r.Outputs) != 1 || string(r.Outputs[0].Data) != object || r.Outputs[0].Role != "object" ||
		r.Attempts != 1 || r.SentBlobs != 3 || r.Row != 1 || r.Worker != "worker-0" || r.CompileTime != time.Millisecond {
		t.Errorf("%+v", r)
	}
	if len(r.Action.Inputs) != 3 || !slices.Equal(r.Action.Absent, []string{"/hpcc/src/gen/x.h"}) || r.Action.Key() != r.Key {
		t.Errorf("%+v", r.Action)
	}
	again, err := f.client.Compile(within(t), project.request(all...))
	if err != nil {
		t.Fatal(err)
	}
	if !again.Hit || again.Key != r.Key || string(again.Outputs[0].Data) != object || again.SentBlobs != 0 || f.workers[0].ran() != 1 || again.Row != 2 {
		t.Errorf("%+v", again)
	}
	if n := f.scheduler.asked(); n != 1 {
		t.Errorf("the scheduler was asked %d times", n)
	}
}

// TestJobThatFails is a result, with what it printed, byte by byte.
func TestJobThatFails(t *testing.T) {
	f := newFleet(t, 1)
	text := "\x1b[31merror\x1b[0m: \xff\x00\r"
	c := checkout{"/hpcc/src/main.c": "say " + text + "\nneed /hpcc/src/none.h\n"}
	r, err := f.client.Compile(within(t), c.request("/hpcc/src/main.c"))
	if err != nil {
		t.Fatal(err)
	}
	if r.ExitCode != 1 || r.Stored || len(r.Outputs) > 0 || string(r.Stderr) != text+"/hpcc/src/none.h: no such file\n" {
		t.Errorf("%+v", r)
	}
}

// TestJobThatFailsLeavesFiles: what a compiler leaves when it fails comes back, for
// it was declared, and has its digest.
func TestJobThatFailsLeavesFiles(t *testing.T) {
	f := newFleet(t, 1)
	f.workers[0].tamper = outcomes(func(o *workerv1.Outcome) { o.ExitCode, o.Stored = 1, false })
	r, err := f.client.Compile(within(t), project.request(all...))
	if err != nil {
		t.Fatal(err)
	}
	if r.ExitCode != 1 || r.Stored || len(r.Outputs) != 1 || string(r.Outputs[0].Data) != object {
		t.Errorf("%+v", r)
	}
}

// TestConfirm: what the guess lacked is sent after all, and key and object are
// those of a guess that lacked nothing.
func TestConfirm(t *testing.T) {
	full := newFleet(t, 1)
	want, err := full.client.Compile(within(t), project.request(all...))
	if err != nil {
		t.Fatal(err)
	}
	f := newFleet(t, 1)
	request := project.request("/hpcc/src/main.c")
	r, err := f.client.Compile(within(t), request)
	if err != nil {
		t.Fatal(err)
	}
	if r.Key != want.Key || string(r.Outputs[0].Data) != object || r.Attempts != 3 || r.SentBlobs != 3 {
		t.Errorf("%+v", r)
	}
	if len(request.Tree) != 1 {
		t.Errorf("the caller's tree became %v", request.Tree)
	}
	// The results of runs that nobody accepted are not there.
	if n := len(f.workers[0].entries); n != 1 {
		t.Errorf("%d results", n)
	}
}

// TestConfirmHit: a hit whose absence is there on this side is none.
func TestConfirmHit(t *testing.T) {
	f := newFleet(t, 1)
	if _, err := f.client.Compile(within(t), project.request(all...)); err != nil {
		t.Fatal(err)
	}
	shadowed := checkout{"/hpcc/src/gen/x.h": "x\n"}
	for p, content := range project {
		shadowed[p] = content
	}
	r, err := f.client.Compile(within(t), shadowed.request(all...))
	if err != nil {
		t.Fatal(err)
	}
	if r.Hit || string(r.Outputs[0].Data) != "x\n"+object || r.Attempts != 2 || f.workers[0].ran() != 2 {
		t.Errorf("%+v", r)
	}
	again, err := f.client.Compile(within(t), shadowed.request(all...))
	if err != nil || !again.Hit || again.Key != r.Key || string(again.Outputs[0].Data) != "x\n"+object {
		t.Errorf("%+v, %v", again, err)
	}
}

// TestConfirmLarge has outputs of a hit under way that fill every window, while
// the job is sent again.
func TestConfirmLarge(t *testing.T) {
	f := newFleet(t, 1)
	long := strings.Repeat("0123456789abcdef\n", 2<<20)
	c := checkout{"/hpcc/src/main.c": "use /hpcc/src/x.h\n" + long}
	if _, err := f.client.Compile(within(t), c.request("/hpcc/src/main.c")); err != nil {
		t.Fatal(err)
	}
	c["/hpcc/src/x.h"] = "x\n"
	r, err := f.client.Compile(within(t), c.request("/hpcc/src/main.c"))
	if err != nil || r.Hit || string(r.Outputs[0].Data) != "x\n"+long {
		t.Errorf("%v", err)
	}
}

// TestConfirmLink: what is missing lies behind a link that was not sent.
func TestConfirmLink(t *testing.T) {
	f := newFleet(t, 1)
	c := checkout{
		"/hpcc/src/main.c": "use /hpcc/src/x.h\nmain\n",
		"/hpcc/src/x.h":    "-> /hpcc/src/real/x.h", "/hpcc/src/real/x.h": "x\n",
	}
	r := c.request("/hpcc/src/main.c")
	r.Confirm = func(_ context.Context, absent []string) (action.Tree, error) {
		if slices.Contains(absent, "/hpcc/src/x.h") {
			return action.Tree{"/hpcc/src/x.h": c.node("/hpcc/src/x.h"), "/hpcc/src/real/x.h": c.node("/hpcc/src/real/x.h")}, nil
		}
		return nil, nil
	}
	got, err := f.client.Compile(within(t), r)
	if err != nil || string(got.Outputs[0].Data) != "x\nmain\n" || len(got.Action.Links) != 1 || got.Attempts != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestConfirmErrors(t *testing.T) {
	own := errors.New("the caller's own")
	for name, c := range map[string]struct {
		tree action.Tree
		err  error
		want string
	}{
		"an error":               {nil, own, own.Error()},
		"what was not asked for": {action.Tree{"/hpcc/src/other.h": {}}, nil, "none of them was looked for"},
		"outside of the roots":   {action.Tree{"/hpcc/src/gen/x.h": {}, "/etc/passwd": {}}, nil, "not below a project root"},
		"a file on the way":      {action.Tree{"/hpcc/src/gen": {Digest: digest.Of(nil)}, "/hpcc/src/gen/x.h": {}}, nil, "no directory"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 1)
			r := project.request(all...)
			r.Confirm = func(context.Context, []string) (action.Tree, error) { return c.tree, c.err }
			got, err := f.client.Compile(within(t), r)
			if got != nil || err == nil || !strings.Contains(err.Error(), c.want) || c.err != nil && !errors.Is(err, own) {
				t.Errorf("%+v, %v", got, err)
			}
			// It is not the worker's fault.
			if r, err := f.client.Compile(within(t), project.request(all...)); err != nil || f.workers[0].called() != 2 {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

// TestInputChanged: nothing that is not what it is named arrives whole.
func TestInputChanged(t *testing.T) {
	long := strings.Repeat("long\n", 200_000) // several chunks
	c := checkout{"/hpcc/src/main.c": long}
	for name, now := range map[string]string{
		"same length": long[:len(long)-5] + "gone\n", "first byte": "L" + long[1:],
		"shorter": long[:len(long)-1], "longer": long + "x", "empty": "", "a chunk": long[:workerv1.ChunkSize],
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 2)
			r := c.request("/hpcc/src/main.c")
			r.Open = func(context.Context, digest.Digest) (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader(now)), nil
			}
			got, err := f.client.Compile(within(t), r)
			var input *InputError
			if got != nil || !errors.Is(err, ErrInputChanged) || !errors.As(err, &input) || input.Path != "/hpcc/src/main.c" {
				t.Errorf("%+v, %v", got, err)
			}
			if f.workers[1].called() > 0 {
				t.Error("it was tried elsewhere")
			}
			if r, err := f.client.Compile(within(t), c.request("/hpcc/src/main.c")); err != nil || r.Worker != "worker-0" || string(r.Outputs[0].Data) != long {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
	own := errors.New("the caller's own")
	for _, fault := range []error{own, fs.ErrNotExist, ErrInputChanged} {
		f := newFleet(t, 1)
		r := c.request("/hpcc/src/main.c")
		r.Open = func(context.Context, digest.Digest) (io.ReadCloser, error) { return nil, fault }
		got, err := f.client.Compile(within(t), r)
		if got != nil || !errors.Is(err, fault) || errors.Is(err, ErrInputChanged) != !errors.Is(fault, own) {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// TestSizes sends and gets what fits no chunk, one chunk exactly, and nothing.
func TestSizes(t *testing.T) {
	f := newFleet(t, 1)
	f.workers[0].old = true // it wants all of it, whatever was sent before
	for _, n := range []int{0, 1, workerv1.ChunkSize - 1, workerv1.ChunkSize, workerv1.ChunkSize + 1, 5*workerv1.ChunkSize + 7, 20 << 20} {
		content := string(bytes.Repeat([]byte("x"), max(n-1, 0)))
		if n > 0 {
			content += "\n"
		}
		c := checkout{"/hpcc/src/main.c": content}
		for _, hit := range []bool{false, true} {
			r, err := f.client.Compile(within(t), c.request("/hpcc/src/main.c"))
			if err != nil || r.Hit != hit || string(r.Outputs[0].Data) != content || !hit && r.SentBytes != int64(n) {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
	}
}

func TestUncached(t *testing.T) {
	f := newFleet(t, 1)
	for range 2 {
		r := project.request(all...)
		r.Uncached = true
		got, err := f.client.Compile(within(t), r)
		if err != nil || got.Hit || got.Stored || string(got.Outputs[0].Data) != object {
			t.Fatalf("%+v, %v", got, err)
		}
	}
}

// TestJobThatCannotBeSent is refused before anybody is asked.
func TestJobThatCannotBeSent(t *testing.T) {
	f := newFleet(t, 1)
	for name, c := range map[string]struct {
		change func(r *Request)
		want   error
	}{
		"image by tag":    {func(r *Request) { r.Job.Image = "gcc:13" }, nil},
		"no UTF-8":        {func(r *Request) { r.Tree["/hpcc/src/\xff.h"] = action.Node{} }, agentv1.ErrNotUTF8},
		"input outside":   {func(r *Request) { r.Tree["/etc/passwd"] = action.Node{} }, nil},
		"input as output": {func(r *Request) { r.Tree[workerv1.OutputRoot+"/x"] = action.Node{} }, nil},
		"path not clean":  {func(r *Request) { r.Tree["/hpcc/src/../x"] = action.Node{} }, nil},
		"role":            {func(r *Request) { r.Job.Outputs[0].Role = "../x" }, nil},
		"role twice":      {func(r *Request) { r.Job.Outputs[1].Role = "object" }, nil},
		"output outside":  {func(r *Request) { r.Job.Outputs[0].Path = "/etc/passwd" }, nil},
		"no program":      {func(r *Request) { r.Job.Argv = nil }, nil},
		"a gigabyte twice": {func(r *Request) {
			d, _ := digest.New([32]byte{1}, 1<<31)
			r.Tree["/hpcc/src/x"] = action.Node{Digest: d}
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := project.request(all...)
			c.change(r)
			got, err := f.client.Compile(within(t), r)
			var refused *RefusedError
			if got != nil || !errors.As(err, &refused) || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	if f.scheduler.asked() > 0 {
		t.Error("the scheduler was asked")
	}
}

// TestMany compiles from many goroutines: one route and one connection serve all.
func TestMany(t *testing.T) {
	f := newFleet(t, 1)
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			c := checkout{"/hpcc/src/main.c": strings.Repeat("x", i) + "\n"}
			r, err := f.client.Compile(within(t), c.request("/hpcc/src/main.c"))
			if err != nil || string(r.Outputs[0].Data) != c["/hpcc/src/main.c"] {
				t.Errorf("%d: %+v, %v", i, r, err)
			}
		})
	}
	all.Wait()
	if s, w := f.scheduler.asked(), f.workers[0].listener.accepted.Load(); s != 1 || w != 1 {
		t.Errorf("%d questions, %d connections", s, w)
	}
}

// TestCloseEndsCalls, and all that comes later.
func TestCloseEndsCalls(t *testing.T) {
	f := newFleet(t, 2)
	begun := make(chan struct{})
	f.workers[0].cut = func(ctx context.Context, m *reply) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}
	failed := make(chan error)
	go func() {
		_, err := f.client.Compile(within(t), project.request(all...))
		failed <- err
	}()
	<-begun
	f.client.Close()
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := f.client.Compile(within(t), project.request(all...)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := f.client.Describe(within(t), image, []string{"/usr/bin/cc"}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if f.workers[1].called() > 0 {
		t.Error("it was tried elsewhere")
	}
}

// TestPatience gives up a worker that says nothing for long, and takes another,
// which must not be silent for as long.
func TestPatience(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	c := newClient(t, f.scheduler, func(o *Options) { o.Patience = 20 * time.Second })
	f.workers[0].cut = func(ctx context.Context, m *reply) error {
		if isOutcome(m) {
			<-ctx.Done()
		}
		return ctx.Err()
	}
	r, err := c.Compile(within(t), project.request(all...))
	if err != nil || r.Worker != "worker-1" {
		t.Errorf("%+v, %v", r, err)
	}
	<-f.workers[0].cancelled
}

func TestDescribe(t *testing.T) {
	f := newFleet(t, 1)
	paths := []string{"/etc/none"}
	for range 2 * workerv1.MaxDescribe {
		paths = append(paths, "/usr/bin/cc")
	}
	got, err := f.client.Describe(within(t), image, paths)
	if err != nil || len(got) != len(paths) || !got[0].IsZero() || got[1] != digest.Of([]byte("/usr/bin/cc")) || got[len(got)-1] != got[1] {
		t.Errorf("%d, %v", len(got), err)
	}
	var refused *RefusedError
	if _, err := f.client.Describe(within(t), "latest", paths); !errors.As(err, &refused) {
		t.Error(err)
	}
}

func TestDescribeLies(t *testing.T) {
	for name, answer := range map[string]*workerv1.DescribeResponse{
		"too few": {}, "too many": {Files: []*agentv1.Digest{{}, {}}}, "no digest": {Files: []*agentv1.Digest{{Sha256: []byte("x")}}},
		"negative": {Files: []*agentv1.Digest{{Sha256: make([]byte, 32), Size: -1}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 1)
			f.workers[0].describe = func(context.Context, *workerv1.DescribeRequest) (*workerv1.DescribeResponse, error) {
				return answer, nil
			}
			_, err := f.client.Describe(within(t), image, []string{"/usr/bin/cc"})
			var lying *LyingError
			if !errors.As(err, &lying) || lying.Worker != "worker-0" {
				t.Error(err)
			}
		})
	}
	f := newFleet(t, 1)
	f.workers[0].describe = func(context.Context, *workerv1.DescribeRequest) (*workerv1.DescribeResponse, error) {
		return nil, status.Error(codes.FailedPrecondition, "no such image")
	}
	var refused *RefusedError
	if _, err := f.client.Describe(within(t), image, []string{"/usr/bin/cc"}); !errors.As(err, &refused) {
		t.Error(err)
	}
}
