package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"hpcc.dev/hpcc/agent/internal/blob"
	"hpcc.dev/hpcc/agent/internal/job"
	"hpcc.dev/hpcc/agent/internal/lookup"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// inspector is a runner that looks at what a job would be given: the contract of
// Runner has to hold.
type inspector struct {
	t     testing.TB
	store *blob.Store
	// run, if there, is what the job does.
	run func(ctx context.Context, sink job.Sink) (*agentv1.ExecResult, []lookup.Lookup, error)

	mu   sync.Mutex
	runs int
}

func (i *inspector) Run(ctx context.Context, h *agentv1.ExecHeader, sink job.Sink) error {
	i.mu.Lock()
	i.runs++
	i.mu.Unlock()
	limits := proto.Clone(h.GetLimits()).(*agentv1.Limits)
	if err := errors.Join(h.Check(), limits.Fill()); err != nil || !proto.Equal(limits, h.GetLimits()) {
		i.t.Errorf("a job whose header is not checked: %v", err)
	}
	for _, in := range h.GetInputs() {
		if in.GetKind() != agentv1.Input_KIND_FILE || in.GetDigest().GetSize() == 0 {
			continue
		}
		f, err := i.store.Open(blob.Key{Sum: [32]byte(in.GetDigest().GetSha256()), Size: in.GetDigest().GetSize()})
		if err != nil {
			i.t.Errorf("a job without its input: %v", err)
			continue
		}
		sum := sha256.New()
		if n, err := io.Copy(sum, f); err != nil || n != in.GetDigest().GetSize() || !bytes.Equal(sum.Sum(nil), in.GetDigest().GetSha256()) {
			i.t.Errorf("a job with another input: %d bytes, %v", n, err)
		}
		f.Close()
	}
	result, lookups := &agentv1.ExecResult{Usage: &agentv1.Usage{}}, []lookup.Lookup(nil)
	if i.run != nil {
		var err error
		if result, lookups, err = i.run(ctx, sink); err != nil {
			return err
		}
	}
	return sink.Ended(result, lookups)
}

// agent is a server, and a raw client of it that says what a test wants.
type agent struct {
	*inspector
	dir    string
	client agentv1.AgentServiceClient
	server *Server
	ended  chan error
}

const storeLimit = 4 << 20

func newAgent(t *testing.T, run func(context.Context, job.Sink) (*agentv1.ExecResult, []lookup.Lookup, error)) *agent {
	t.Helper()
	dir := t.TempDir()
	store, err := blob.New(dir+"/blobs", storeLimit)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{inspector: &inspector{t: t, store: store, run: run}, dir: dir, ended: make(chan error, 1)}
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	a.server = New(Config{Version: "test", Store: store, Runner: a.inspector, Cgroup: true, SetClock: func(n int64) error {
		if n < 0 {
			return errors.New("no such time")
		}
		return nil
	}})
	ctx, stop := context.WithCancel(context.Background())
	go func() { a.ended <- a.server.Serve(ctx, l) }()
	conn, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
		}), grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	a.client = agentv1.NewAgentServiceClient(conn)
	t.Cleanup(func() {
		conn.Close()
		stop()
		if err := <-a.ended; err != nil {
			t.Errorf("serving: %v", err)
		}
		a.unused(t)
	})
	return a
}

// unused fails the test unless all blobs can go, and nothing else is there.
func (a *agent) unused(t *testing.T) {
	t.Helper()
	w, err := a.store.Create(blob.Key{Size: storeLimit})
	if err != nil {
		t.Errorf("something is still in use: %v", err)
		return
	}
	w.Abort()
	if left, err := os.ReadDir(a.dir + "/blobs"); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

const root = "/w"

func header(blobs ...string) *agentv1.ExecHeader {
	h := &agentv1.ExecHeader{Argv: []string{"cc"}, Cwd: root, Roots: []string{root}, Outputs: []string{root + "/o"}}
	for i, b := range blobs {
		sum := sha256.Sum256([]byte(b))
		h.Inputs = append(h.Inputs, &agentv1.Input{Path: fmt.Sprintf("%s/%d", root, i), Kind: agentv1.Input_KIND_FILE, Mode: 0o644, Digest: &agentv1.Digest{Sha256: sum[:], Size: int64(len(b))}})
	}
	return h
}

func first(h *agentv1.ExecHeader) *agentv1.ExecRequest {
	return &agentv1.ExecRequest{Kind: &agentv1.ExecRequest_Header{Header: h}}
}

func chunk(b string) *agentv1.ExecRequest {
	return &agentv1.ExecRequest{Kind: &agentv1.ExecRequest_Blob{Blob: []byte(b)}}
}

// talk says all of it, and returns what was answered.
func (a *agent) talk(t *testing.T, closes bool, says ...*agentv1.ExecRequest) ([]*agentv1.ExecResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s, err := a.client.Exec(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range says {
		if err := s.Send(m); err != nil {
			break // Recv tells why
		}
	}
	if closes {
		_ = s.CloseSend()
	}
	var got []*agentv1.ExecResponse
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return got, nil
		} else if err != nil {
			return got, err
		}
		got = append(got, m)
	}
}

// Orders of messages, and how each ends. A job runs only after the good ones.
func TestConversations(t *testing.T) {
	big := strings.Repeat("x", agentv1.ChunkSize)
	alter := func(h *agentv1.ExecHeader, change func(*agentv1.ExecHeader)) *agentv1.ExecHeader {
		change(h)
		return h
	}
	for _, c := range []struct {
		name  string
		says  []*agentv1.ExecRequest
		close bool
		want  codes.Code
	}{
		{"no inputs", []*agentv1.ExecRequest{first(header())}, true, codes.OK},
		{"no inputs, and left open", []*agentv1.ExecRequest{first(header())}, false, codes.OK},
		{"one blob", []*agentv1.ExecRequest{first(header("one blob")), chunk("one blob")}, true, codes.OK},
		{"in bytes", []*agentv1.ExecRequest{first(header("abc")), chunk("a"), chunk("b"), chunk("c")}, true, codes.OK},
		{"large chunks", []*agentv1.ExecRequest{first(header(big + "y")), chunk(big), chunk("y")}, true, codes.OK},
		{"one content twice", []*agentv1.ExecRequest{first(header("twice", "twice", "", "")), chunk("twice")}, true, codes.OK},

		{"nothing", nil, true, codes.InvalidArgument},
		{"no kind", []*agentv1.ExecRequest{{}}, true, codes.InvalidArgument},
		{"a chunk first", []*agentv1.ExecRequest{chunk("x"), first(header())}, true, codes.InvalidArgument},
		{"no header in the header", []*agentv1.ExecRequest{{Kind: &agentv1.ExecRequest_Header{}}}, true, codes.InvalidArgument},
		{"a header twice", []*agentv1.ExecRequest{first(header("2h")), first(header("2h"))}, true, codes.InvalidArgument},
		{"an empty chunk", []*agentv1.ExecRequest{first(header("ec")), chunk(""), chunk("ec")}, true, codes.InvalidArgument},
		{"no kind instead of a chunk", []*agentv1.ExecRequest{first(header("nk")), {}, chunk("nk")}, true, codes.InvalidArgument},
		{"too large a chunk", []*agentv1.ExecRequest{first(header(big + "z")), chunk(big + "z")}, true, codes.InvalidArgument},
		{"other bytes", []*agentv1.ExecRequest{first(header("wanted")), chunk("wanten")}, true, codes.InvalidArgument},
		{"more bytes", []*agentv1.ExecRequest{first(header("more")), chunk("more.")}, true, codes.InvalidArgument},
		{"two blobs in a chunk", []*agentv1.ExecRequest{first(header("left", "right")), chunk("leftright")}, true, codes.InvalidArgument},
		{"another order", []*agentv1.ExecRequest{first(header("long one", "short")), chunk("short"), chunk("long one")}, true, codes.InvalidArgument},
		{"an end in a blob", []*agentv1.ExecRequest{first(header("ended")), chunk("end")}, true, codes.InvalidArgument},
		{"an end between blobs", []*agentv1.ExecRequest{first(header("blob a", "blob b")), chunk("blob a")}, true, codes.InvalidArgument},
		{"a digest of nothing that is none", []*agentv1.ExecRequest{first(alter(header(""), func(h *agentv1.ExecHeader) { h.Inputs[0].Digest.Sha256[0] ^= 1 }))}, true, codes.InvalidArgument},
		{"a bad header", []*agentv1.ExecRequest{first(alter(header("x"), func(h *agentv1.ExecHeader) { h.Inputs[0].Path = "/etc/passwd" }))}, true, codes.InvalidArgument},
		{"a limit", []*agentv1.ExecRequest{first(alter(header(), func(h *agentv1.ExecHeader) { h.Limits = &agentv1.Limits{TimeMillis: 1 << 60} }))}, true, codes.InvalidArgument},
		{"more than the store", []*agentv1.ExecRequest{first(alter(header("x"), func(h *agentv1.ExecHeader) { h.Inputs[0].Digest.Size = storeLimit + 1 }))}, true, codes.FailedPrecondition},
		{"a message above the limit", []*agentv1.ExecRequest{chunk(strings.Repeat("x", agentv1.MaxMessage))}, true, codes.ResourceExhausted},
	} {
		a := newAgent(t, nil)
		got, err := a.talk(t, c.close, c.says...)
		if code := status.Code(err); code != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
		if (a.runs == 1) != (c.want == codes.OK) {
			t.Errorf("%s: ran %d times", c.name, a.runs)
		}
		if c.want == codes.OK && (len(got) != 2 || got[0].GetNeeded() == nil || got[1].GetResult() == nil) {
			t.Errorf("%s: answered %v", c.name, got)
		}
	}
}

// The agent says what it lacks, each once, in the inputs' order, and never again
// once it has come.
func TestNeeded(t *testing.T) {
	a := newAgent(t, nil)
	want := func(says []*agentv1.ExecRequest, names ...string) {
		t.Helper()
		got, err := a.talk(t, true, says...)
		if err != nil {
			t.Fatal(err)
		}
		var sums [][]byte
		for _, b := range got[0].GetNeeded().GetBlobs() {
			sums = append(sums, b.GetSha256())
		}
		var wanted [][]byte
		for _, n := range names {
			sum := sha256.Sum256([]byte(n))
			wanted = append(wanted, sum[:])
		}
		if !slices.EqualFunc(sums, wanted, bytes.Equal) {
			t.Errorf("needs %x, want %q", sums, names)
		}
	}
	want([]*agentv1.ExecRequest{first(header("b", "a", "b", "", "c")), chunk("b"), chunk("a"), chunk("c")}, "b", "a", "c")
	want([]*agentv1.ExecRequest{first(header("a", "d", "b")), chunk("d")}, "d")
	want([]*agentv1.ExecRequest{first(header("d", "c", "b", "a"))})
	// What came before a fault is kept, what the fault was in is not.
	if _, err := a.talk(t, true, first(header("e", "f")), chunk("e"), chunk("g")); status.Code(err) != codes.InvalidArgument {
		t.Error(err)
	}
	want([]*agentv1.ExecRequest{first(header("e", "f")), chunk("f")}, "f")
	// A job's inputs stay while it runs, whatever comes beside it.
	large := strings.Repeat("l", storeLimit/2)
	var busy []*agentv1.ExecRequest
	for i := 0; i < len(large); i += agentv1.ChunkSize {
		busy = append(busy, chunk(large[i:i+agentv1.ChunkSize]))
	}
	running, release := make(chan struct{}), make(chan struct{})
	a.run = func(context.Context, job.Sink) (*agentv1.ExecResult, []lookup.Lookup, error) {
		close(running)
		<-release
		return &agentv1.ExecResult{}, nil, nil
	}
	done := make(chan error)
	go func() {
		_, err := a.talk(t, true, append([]*agentv1.ExecRequest{first(header(large))}, busy...)...)
		done <- err
	}()
	<-running
	a.run = nil
	other := strings.Repeat("o", storeLimit/2+1)
	if _, err := a.talk(t, true, first(header(other))); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a blob that has no room beside a running job: %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A host that says more than it has to ends its job.
func TestMessageAfterTheEnd(t *testing.T) {
	for name, more := range map[string]*agentv1.ExecRequest{"chunk": chunk("more"), "header": first(header()), "nothing": {}} {
		a := newAgent(t, func(ctx context.Context, _ job.Sink) (*agentv1.ExecResult, []lookup.Lookup, error) {
			<-ctx.Done()
			return nil, nil, ctx.Err()
		})
		if _, err := a.talk(t, false, first(header("all")), chunk("all"), more); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Everything in its order, and in pieces that the other side takes.
func TestAnswers(t *testing.T) {
	var all []lookup.Lookup
	for i := range 2*lookupsPerMessage + 1 {
		p := fmt.Sprintf("%s/%d/", root, i)
		all = append(all, lookup.Lookup{Path: p + strings.Repeat("\xff", agentv1.MaxPath-len(p)), Found: lookup.File})
	}
	a := newAgent(t, func(_ context.Context, sink job.Sink) (*agentv1.ExecResult, []lookup.Lookup, error) {
		return &agentv1.ExecResult{ExitCode: 3, LookupsTruncated: true}, all, errors.Join(
			sink.Stdio(agentv1.Stdio_STREAM_STDERR, []byte("\xff")), sink.Output(0, nil))
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := a.client.Exec(ctx, grpc.MaxCallRecvMsgSize(agentv1.MaxMessage))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(first(header())); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	n := 0
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, strings.TrimPrefix(fmt.Sprintf("%T", m.Kind), "*agentv1.ExecResponse_"))
		for _, l := range m.GetLookups().GetLookups() {
			if string(l.Path) != all[n].Path || l.Found != agentv1.Lookup_FOUND_FILE {
				t.Fatalf("lookup %d is %q", n, l.Path)
			}
			n++
		}
		if m.GetStdio() != nil && (string(m.GetStdio().Data) != "\xff" || m.GetStdio().Stream != agentv1.Stdio_STREAM_STDERR) {
			t.Errorf("%v", m)
		}
		if r := m.GetResult(); r != nil && (r.ExitCode != 3 || !r.LookupsTruncated) {
			t.Errorf("%v", r)
		}
	}
	if want := []string{"Needed", "Stdio", "Output", "Lookups", "Lookups", "Lookups", "Result"}; !slices.Equal(kinds, want) || n != len(all) {
		t.Errorf("%q, %d lookups", kinds, n)
	}
}

// What becomes of the runner's errors.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{&job.RefusedError{Err: errors.New("no such program")}, codes.FailedPrecondition},
		{fmt.Errorf("input: %w", &job.RefusedError{Err: unix.ENOSPC}), codes.FailedPrecondition},
		{fmt.Errorf("writing: %w", unix.ENOSPC), codes.FailedPrecondition},
		{io.ErrUnexpectedEOF, codes.Internal},
		{context.Canceled, codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{status.Error(codes.Aborted, "x"), codes.Aborted},
	} {
		a := newAgent(t, func(context.Context, job.Sink) (*agentv1.ExecResult, []lookup.Lookup, error) { return nil, nil, c.err })
		if got, err := a.talk(t, true, first(header())); status.Code(err) != c.want || len(got) != 1 {
			t.Errorf("%v: %v, %v", c.err, got, err)
		}
	}
}

// The end of a stream, a connection or the machine is the end of the job.
func TestEnds(t *testing.T) {
	for _, name := range []string{"cancel", "shutdown"} {
		running, ended := make(chan struct{}), make(chan struct{})
		a := newAgent(t, func(ctx context.Context, _ job.Sink) (*agentv1.ExecResult, []lookup.Lookup, error) {
			close(running)
			<-ctx.Done()
			close(ended)
			return nil, nil, ctx.Err()
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s, err := a.client.Exec(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(first(header())); err != nil {
			t.Fatal(err)
		}
		<-running
		if name == "cancel" {
			cancel()
		} else if _, err := a.client.Shutdown(t.Context(), &agentv1.ShutdownRequest{}); err != nil && status.Code(err) != codes.Unavailable {
			t.Error(err)
		}
		select {
		case <-ended:
		case <-time.After(2 * time.Minute):
			t.Errorf("%s: the job runs on", name)
		}
		if name == "shutdown" {
			err := <-a.ended
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			a.ended <- err
			// A second time, as of a host that heard no answer.
			if _, err := a.server.Shutdown(t.Context(), nil); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestHello(t *testing.T) {
	a := newAgent(t, nil)
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	interfaces := func() (names []string) {
		nics, err := filepath.Glob("/sys/class/net/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range nics {
			if _, err := os.Stat(n + "/ifindex"); err == nil {
				names = append(names, filepath.Base(n))
			}
		}
		return names
	}
	// Interfaces of this machine's may come and go.
	var h *agentv1.HelloResponse
	var names []string
	for after := []string{"none yet"}; !slices.Equal(names, after); after = interfaces() {
		names = interfaces()
		if h, err = a.client.Hello(t.Context(), &agentv1.HelloRequest{ApiVersion: 99, UnixNanos: 1}); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(h.Interfaces)
	if h.ApiVersion != agentv1.APIVersion || h.AgentVersion != "test" || h.KernelVersion != strings.TrimSpace(string(kernel)) || !slices.Equal(h.Interfaces, names) || !h.Cgroup || h.Verity {
		t.Errorf("%v, interfaces %q", h, names)
	}
	if _, err := a.client.Hello(t.Context(), &agentv1.HelloRequest{UnixNanos: -1}); status.Code(err) != codes.Internal {
		t.Errorf("a clock that cannot be set: %v", err)
	}
}
