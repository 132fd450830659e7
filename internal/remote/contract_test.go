package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/internal/worker"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// machine is the compiler of package remote's own worker, as a machine of the
// real one.
type machine struct {
	// begun is told of each job, whose ctx may then be waited for.
	begun func(ctx context.Context) error
	mu    sync.Mutex
	runs  int
}

func (m *machine) Acquire(context.Context, string, string) (worker.Lease, error) { return m, nil }
func (m *machine) Load() worker.Load                                             { return worker.Load{Capacity: 1} }
func (m *machine) Broken(error)                                                  {}
func (m *machine) Release()                                                      {}

func (m *machine) Info() vm.Info {
	return vm.Info{ID: "vm-1", Runtime: vm.RuntimeInfo{Name: "fake", Version: "1"}, Digests: map[string]string{"kernel": image}}
}

func (m *machine) Exec(ctx context.Context, j agentapi.Job, blobs agentapi.Blobs, sinks agentapi.Sinks) (*agentapi.Result, error) {
	m.mu.Lock()
	m.runs++
	m.mu.Unlock()
	if m.begun != nil {
		if err := m.begun(ctx); err != nil {
			return nil, err
		}
	}
	w := newBareWorker("machine")
	job := &action.Job{Image: image, Argv: j.Argv, Cwd: j.Cwd, Roots: j.Roots, Source: "/hpcc/src/main.c", Outputs: []action.Declared{{Role: "object"}}}
	tree := action.Tree{}
	for _, in := range j.Inputs {
		tree[in.Path] = action.Node{Digest: in.Digest, Target: in.Target}
		if in.Kind == agentapi.File {
			f, err := blobs.Open(ctx, in.Digest)
			if err != nil {
				return nil, &agentapi.SourceError{Digest: in.Digest, Err: err}
			}
			b, err := io.ReadAll(f)
			f.Close()
			if err != nil {
				return nil, &agentapi.SourceError{Digest: in.Digest, Err: err}
			}
			w.blobs[in.Digest] = b
		}
	}
	k, _ := w.run(job, tree)
	r := &agentapi.Result{ExitCode: int(k.outcome.GetExitCode()), Usage: agentapi.Usage{Wall: time.Millisecond}}
	for _, p := range k.outcome.GetFound() {
		found := agentapi.FoundFile
		if tree[string(p)].Target != "" {
			found = agentapi.FoundSymlink
		}
		r.Lookups = append(r.Lookups, agentapi.Lookup{Path: string(p), Found: found})
	}
	for _, p := range k.outcome.GetAbsent() {
		r.Lookups = append(r.Lookups, agentapi.Lookup{Path: string(p), Found: agentapi.Absent})
	}
	r.Lookups = append(r.Lookups, agentapi.Lookup{Path: "/hpcc/src", Found: agentapi.FoundDirectory}, agentapi.Lookup{Path: j.Outputs[0], Found: agentapi.Absent})
	if _, err := sinks.Stderr.Write(k.outcome.GetStderr()); err != nil {
		return nil, err
	}
	if r.ExitCode != 0 {
		return r, nil
	}
	out, err := sinks.Output(j.Outputs[0])
	if err != nil {
		return nil, err
	}
	if _, err := out.Write(k.outputs[0]); err != nil {
		return nil, err
	}
	r.Outputs = []agentapi.Output{{Path: j.Outputs[0], Digest: digest.Of(k.outputs[0]), Mode: 0o644}}
	return r, nil
}

type noImages struct{}

func (noImages) File(_ context.Context, _, path string) (digest.Digest, bool, error) {
	return digest.Of([]byte(path)), strings.HasPrefix(path, "/usr/"), nil
}

type memoryLog struct {
	mu   sync.Mutex
	rows []*audit.Row
}

func (l *memoryLog) Append(_ context.Context, r *audit.Row) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows = append(l.rows, r)
	return uint64(len(l.rows)), nil
}

func (l *memoryLog) len() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.rows))
}

type anyToken struct{}

func (anyToken) Verify(token, name string) (auth.Task, error) {
	if !strings.HasSuffix(token, " for "+name) {
		return auth.Task{}, errors.New("not a token for this worker")
	}
	return auth.Task{Tenant: "acme", Subject: "ci", Image: image, Worker: name, Expires: time.Now().Add(time.Hour)}, nil
}

// realWorker adds the real worker's service to a fleet, with a machine of a
// test's.
func realWorker(t *testing.T, f *fleet, m *machine) *memoryLog {
	t.Helper()
	log := &memoryLog{}
	s, err := worker.New(worker.Options{
		Name: "real", Version: "test", Dir: t.TempDir(), Verifier: anyToken{}, Machines: m, Images: noImages{}, Audit: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	cert, pin := certificate(t)
	l := listen(t)
	g := grpc.NewServer(append(s.ServerOptions(), grpc.WaitForHandlers(true), grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})))...)
	workerv1.RegisterWorkerServiceServer(g, s)
	var served sync.WaitGroup
	served.Go(func() { _ = g.Serve(l) })
	t.Cleanup(func() {
		g.Stop()
		served.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	f.scheduler.set(func() {
		f.scheduler.workers = append(f.scheduler.workers, &fakeWorker{name: "real", address: l.Addr().String(), pin: pin})
	})
	return log
}

// TestRealWorker has both sides of the contract talk to each other.
func TestRealWorker(t *testing.T) {
	f := newFleet(t, 0)
	m := &machine{}
	log := realWorker(t, f, m)
	compile := func(c checkout, names ...string) *Result {
		t.Helper()
		r, err := f.client.Compile(within(t), c.request(names...))
		if err != nil {
			t.Fatal(err)
		}
		if got := log.len(); r.Row != got {
			t.Errorf("row %d of %d", r.Row, got)
		}
		return r
	}
	// The guess lacks two files; then it is whole, and a hit; so it is with what
	// it lacked before.
	first := compile(project, "/hpcc/src/main.c")
	if first.Hit || !first.Stored || string(first.Outputs[0].Data) != object || first.Attempts != 3 || first.SentBlobs != 3 || m.runs != 3 {
		t.Errorf("%+v", first)
	}
	for _, names := range [][]string{all, {"/hpcc/src/main.c", "/hpcc/src/a.h", "/hpcc/src/b.h"}} {
		if hit := compile(project, names...); !hit.Hit || hit.Key != first.Key || string(hit.Outputs[0].Data) != object || m.runs != 3 {
			t.Errorf("%+v", hit)
		}
	}
	// A hit that the client does not confirm.
	shadowed := checkout{"/hpcc/src/gen/x.h": "x\n"}
	for p, content := range project {
		shadowed[p] = content
	}
	if r := compile(shadowed, all...); r.Hit || string(r.Outputs[0].Data) != "x\n"+object || r.Attempts != 2 {
		t.Errorf("%+v", r)
	}
	if r := compile(shadowed, all...); !r.Hit || string(r.Outputs[0].Data) != "x\n"+object {
		t.Errorf("%+v", r)
	}
	// What fails, is long, is empty.
	fails := checkout{"/hpcc/src/main.c": "need /hpcc/src/none.h\n"}
	if r := compile(fails, "/hpcc/src/main.c"); r.ExitCode != 1 || r.Stored || !strings.Contains(string(r.Stderr), "no such file") {
		t.Errorf("%+v", r)
	}
	for _, text := range []string{"", strings.Repeat("long\n", 2<<20)} {
		c := checkout{"/hpcc/src/main.c": text}
		for _, hit := range []bool{false, true} {
			if r := compile(c, "/hpcc/src/main.c"); r.Hit != hit || string(r.Outputs[0].Data) != text {
				t.Errorf("%d bytes: hit %v", len(text), r.Hit)
			}
		}
	}
	files, err := f.client.Describe(within(t), image, []string{"/usr/bin/cc", "/none"})
	if err != nil || files[0] != digest.Of([]byte("/usr/bin/cc")) || !files[1].IsZero() {
		t.Errorf("%v, %v", files, err)
	}
}

// TestRealWorkerMany: equal and different jobs at once.
func TestRealWorkerMany(t *testing.T) {
	f := newFleet(t, 0)
	realWorker(t, f, &machine{})
	var done sync.WaitGroup
	for i := range 48 {
		done.Go(func() {
			c := checkout{"/hpcc/src/main.c": "use /hpcc/src/x.h\n" + strings.Repeat("x", i%12) + "\n", "/hpcc/src/x.h": "h\n"}
			r, err := f.client.Compile(within(t), c.request("/hpcc/src/main.c"))
			if err != nil || string(r.Outputs[0].Data) != "h\n"+strings.Repeat("x", i%12)+"\n" {
				t.Errorf("%d: %+v, %v", i, r, err)
			}
		})
	}
	done.Wait()
}

// TestRealWorkerCancel: the job ends with its caller.
func TestRealWorkerCancel(t *testing.T) {
	f := newFleet(t, 0)
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	ended := make(chan struct{})
	realWorker(t, f, &machine{begun: func(job context.Context) error {
		cancel()
		<-job.Done()
		close(ended)
		return job.Err()
	}})
	if r, err := f.client.Compile(ctx, project.request(all...)); !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", r, err)
	}
	<-ended
}
