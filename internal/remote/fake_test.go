package remote

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/wirezip"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

const (
	image      = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	credential = "the tenant's credential"
)

// certificate is a key with a certificate that it signed itself, for 127.0.0.1.
func certificate(t testing.TB) (tls.Certificate, auth.Pin) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, auth.PinOf(leaf)
}

// listener counts connections.
type listener struct {
	net.Listener
	accepted atomic.Int64
}

func listen(t testing.TB) *listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &listener{Listener: l}
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return c, err
}

// each hands connections to f, until the test ends.
func (l *listener) each(t testing.TB, f func(net.Conn)) {
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f(c)
		}
	})
	t.Cleanup(func() { l.Close(); done.Wait() })
}

func serve(t testing.TB, cert tls.Certificate, register func(*grpc.Server)) (*grpc.Server, *listener) {
	t.Helper()
	l := listen(t)
	s := grpc.NewServer(
		grpc.Creds(credentials.NewServerTLSFromCert(&cert)),
		grpc.MaxRecvMsgSize(workerv1.MaxMessage), grpc.MaxSendMsgSize(workerv1.MaxMessage+1<<20),
		grpc.InitialWindowSize(4<<20), grpc.InitialConnWindowSize(16<<20),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: workerv1.PingAfter / 2}),
	)
	register(s)
	var done sync.WaitGroup
	done.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); done.Wait() })
	return s, l
}

// scheduler answers as a test says; workers are the default answer.
type scheduler struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	address  string
	listener *listener
	cert     tls.Certificate

	mu      sync.Mutex
	workers []*fakeWorker
	expires time.Duration
	// answer is given instead, if it is there.
	answer   func(ctx context.Context, r *schedulerv1.RouteRequest) (*schedulerv1.RouteResponse, error)
	requests []*schedulerv1.RouteRequest
	tokens   int // raised by a test that wants other tokens
}

func (s *scheduler) Route(ctx context.Context, r *schedulerv1.RouteRequest) (*schedulerv1.RouteResponse, error) {
	if got := metadata.ValueFromIncomingContext(ctx, "authorization"); !slices.Equal(got, []string{"Bearer " + credential}) {
		return nil, status.Error(codes.Unauthenticated, "nobody has this credential")
	}
	s.mu.Lock()
	s.requests = append(s.requests, r)
	answer := s.answer
	m := s.route(r)
	s.mu.Unlock()
	if answer != nil {
		return answer(ctx, r)
	}
	return m, nil
}

// route is the default answer, with mu held: those to be avoided last.
func (s *scheduler) route(r *schedulerv1.RouteRequest) *schedulerv1.RouteResponse {
	m := &schedulerv1.RouteResponse{Expires: durationpb.New(s.expires)}
	for _, avoided := range []bool{false, true} {
		for _, w := range s.workers {
			if slices.Contains(r.GetAvoid(), w.name) == avoided {
				m.Workers = append(m.Workers, &schedulerv1.Assignment{
					Worker: w.name, Address: w.address, TlsPin: w.pin[:], TaskToken: s.token(w.name),
				})
			}
		}
	}
	return m
}

func (s *scheduler) token(worker string) string {
	return fmt.Sprintf("token %d for %s", s.tokens, worker)
}

func (s *scheduler) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func (s *scheduler) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// fakeWorker is an honest one, with a compiler of its own (see run), unless a test
// has it do something else.
type fakeWorker struct {
	workerv1.UnimplementedWorkerServiceServer
	name, address string
	pin           auth.Pin
	server        *grpc.Server
	listener      *listener
	token         func() string // that it accepts

	// tamper sees each message before it is sent, and says what is sent instead.
	tamper func(m *workerv1.CompileResponse) []*workerv1.CompileResponse
	// cut ends the call in a message's place.
	cut func(ctx context.Context, m *workerv1.CompileResponse) error
	// instead takes the whole call.
	describe func(ctx context.Context, r *workerv1.DescribeRequest) (*workerv1.DescribeResponse, error)
	instead  func(s grpc.BidiStreamingServer[workerv1.CompileRequest, workerv1.CompileResponse]) error

	mu        sync.Mutex
	blobs     map[digest.Digest][]byte
	entries   map[digest.Key]*kept
	manifests map[digest.Key]*action.Manifest
	runs      int
	calls     int
	old       bool
	patches   int           // used
	cancelled chan struct{} // told of each call whose client went away
	rows      uint64
}

type kept struct {
	outcome *workerv1.Outcome
	outputs [][]byte
}

func (w *fakeWorker) called() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls
}

func (w *fakeWorker) ran() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.runs
}

type responder struct {
	grpc.BidiStreamingServer[workerv1.CompileRequest, workerv1.CompileResponse]
	tamper func(m *workerv1.CompileResponse) []*workerv1.CompileResponse
	cut    func(ctx context.Context, m *workerv1.CompileResponse) error
}

func (r responder) Send(m *workerv1.CompileResponse) error {
	if r.cut != nil {
		if err := r.cut(r.Context(), m); err != nil {
			return err
		}
	}
	list := []*workerv1.CompileResponse{m}
	if r.tamper != nil {
		list = r.tamper(m)
	}
	for _, m := range list {
		if err := r.BidiStreamingServer.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (w *fakeWorker) Compile(stream grpc.BidiStreamingServer[workerv1.CompileRequest, workerv1.CompileResponse]) (err error) {
	w.mu.Lock()
	w.calls++
	w.mu.Unlock()
	defer func() {
		if stream.Context().Err() != nil {
			select {
			case w.cancelled <- struct{}{}:
			default:
			}
		}
	}()
	if got := metadata.ValueFromIncomingContext(stream.Context(), "authorization"); !slices.Equal(got, []string{"Bearer " + w.token()}) {
		return status.Error(codes.Unauthenticated, "not a token for this worker")
	}
	if w.instead != nil {
		return w.instead(stream)
	}
	s := responder{stream, w.tamper, w.cut}
	m, err := stream.Recv()
	for {
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if m.GetJob() == nil {
			return status.Error(codes.InvalidArgument, "no job")
		}
		m, err = w.one(s, m.GetJob())
	}
}

// one serves one sending of a job, and returns what comes next.
func (w *fakeWorker) one(s responder, m *workerv1.Job) (*workerv1.CompileRequest, error) {
	job, tree := decode(m)
	if !m.GetUncached() {
		if k := w.find(job, tree); k != nil {
			hit := &workerv1.Outcome{
				ActionKey: k.outcome.ActionKey, Hit: true, Stdout: k.outcome.Stdout, Stderr: k.outcome.Stderr,
				Found: k.outcome.Found, Absent: k.outcome.Absent, Outputs: k.outcome.Outputs, CompileNanos: k.outcome.CompileNanos, Stored: true,
			}
			if err := s.Send(sayOutcome(hit)); err != nil {
				return nil, err
			}
			if err := w.finish(s, k); err != nil {
				return nil, err
			}
			return s.Recv()
		}
	}
	if err := w.patch(m, tree); err != nil {
		return nil, err
	}
	if err := w.need(s, tree); err != nil {
		return nil, err
	}
	k, act := w.run(job, tree)
	k.outcome.Stored = k.outcome.ExitCode == 0 && !m.GetUncached()
	if err := s.Send(sayOutcome(k.outcome)); err != nil {
		return nil, err
	}
	next, err := s.Recv()
	if err != nil || next.GetAccept() == nil {
		return next, err
	}
	if k.outcome.Stored {
		w.mu.Lock()
		w.entries[act.Key()] = k
		name := job.Manifest(tree[job.Source].Digest)
		if w.manifests[name] == nil {
			w.manifests[name] = &action.Manifest{}
		}
		w.manifests[name].Add(act.Candidate())
		w.mu.Unlock()
	}
	if err := w.finish(s, k); err != nil {
		return nil, err
	}
	return s.Recv()
}

func (w *fakeWorker) find(job *action.Job, tree action.Tree) *kept {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.manifests[job.Manifest(tree[job.Source].Digest)]; m != nil {
		for _, c := range m.Candidates {
			if job.Holds(&c, tree) {
				return w.entries[c.Action]
			}
		}
	}
	return nil
}

// patch makes what it lacks of patches, where it has their bases; an old worker knows
// of none.
func (w *fakeWorker) patch(m *workerv1.Job, tree action.Tree) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.old {
		return nil
	}
	for _, p := range m.GetPatches() {
		d := tree[m.GetInputs()[p.GetInput()].GetPath()].Digest
		base, err := digest.FromBytes(p.GetBase().GetSha256(), p.GetBase().GetSize())
		if err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		if w.blobs[d] != nil || w.blobs[base] == nil {
			continue
		}
		b, err := wirezip.Apply(w.blobs[base], p.GetData(), int(d.Size()))
		if err != nil || digest.Of(b) != d {
			return status.Errorf(codes.InvalidArgument, "a patch: %v", err)
		}
		w.blobs[d] = b
		w.patches++
	}
	return nil
}

// need asks for what it lacks, and takes it.
func (w *fakeWorker) need(s responder, tree action.Tree) error {
	needed := &workerv1.Needed{}
	var list []digest.Digest
	w.mu.Lock()
	for _, p := range slices.Sorted(maps.Keys(tree)) {
		if d := tree[p].Digest; !d.IsZero() && w.blobs[d] == nil && !slices.Contains(list, d) {
			needed.Blobs, list = append(needed.Blobs, wireDigest(d)), append(list, d)
		}
	}
	w.mu.Unlock()
	if err := s.Send(&workerv1.CompileResponse{Kind: &workerv1.CompileResponse_Needed{Needed: needed}}); err != nil {
		return err
	}
	for _, d := range list {
		b := []byte{}
		for {
			m, err := s.Recv()
			if err != nil {
				return err
			}
			if m.GetBlob() == nil || len(m.GetBlob().GetData()) > workerv1.ChunkSize {
				return status.Error(codes.InvalidArgument, "no blob")
			}
			if b = append(b, m.GetBlob().GetData()...); int64(len(b)) >= d.Size() {
				break
			}
		}
		if digest.Of(b) != d {
			return status.Error(codes.InvalidArgument, "a blob that is not what it is named")
		}
		w.mu.Lock()
		w.blobs[d] = b
		w.mu.Unlock()
	}
	return nil
}

func (w *fakeWorker) finish(s responder, k *kept) error {
	for i, b := range k.outputs {
		for first := true; first || len(b) > 0; first = false {
			n := min(len(b), workerv1.ChunkSize)
			if err := s.Send(sayOutput(i, b[:n])); err != nil {
				return err
			}
			b = b[n:]
		}
	}
	w.mu.Lock()
	w.rows++
	row := w.rows
	w.mu.Unlock()
	return s.Send(&workerv1.CompileResponse{Kind: &workerv1.CompileResponse_Done{Done: &workerv1.Done{Worker: w.name, Row: row}}})
}

// run is a compiler: the source's lines and those of what they use become the
// object. "use PATH" looks a file up and goes on without it if it is absent,
// "need PATH" fails then; "say TEXT" prints.
func (w *fakeWorker) run(job *action.Job, tree action.Tree) (*kept, *action.Action) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs++
	var object, stderr bytes.Buffer
	var exit int32
	found, absent := map[string]bool{}, map[string]bool{}
	var read func(path string)
	read = func(path string) {
		n, ok := tree[path]
		for ; n.Target != ""; n, ok = tree[path] {
			found[path] = true
			path = n.Target
		}
		if !ok {
			absent[path] = true
			return
		}
		if found[path] {
			return
		}
		found[path] = true
		for line := range strings.Lines(string(w.blobs[n.Digest])) {
			verb, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			switch verb {
			case "use", "need":
				read(rest)
				if verb == "need" && absent[rest] {
					fmt.Fprintf(&stderr, "%s: no such file\n", rest)
					exit = 1
				}
			case "say":
				stderr.WriteString(rest)
			default:
				object.WriteString(line)
			}
		}
	}
	read(job.Source)
	k := &kept{outcome: &workerv1.Outcome{ExitCode: exit, Stderr: stderr.Bytes(), CompileNanos: 1e6}}
	for _, p := range slices.Sorted(maps.Keys(found)) {
		k.outcome.Found = append(k.outcome.Found, []byte(p))
	}
	for _, p := range slices.Sorted(maps.Keys(absent)) {
		k.outcome.Absent = append(k.outcome.Absent, []byte(p))
	}
	act, err := job.Action(tree, slices.Sorted(maps.Keys(found)), slices.Sorted(maps.Keys(absent)))
	if err != nil {
		panic(err)
	}
	key := act.Key()
	k.outcome.ActionKey = key[:]
	if exit == 0 {
		for _, o := range job.Outputs {
			if !o.Optional {
				k.outputs = append(k.outputs, object.Bytes())
				k.outcome.Outputs = append(k.outcome.Outputs, &workerv1.OutputFile{Role: o.Role, Digest: wireDigest(digest.Of(object.Bytes()))})
			}
		}
	}
	return k, act
}

func (w *fakeWorker) Describe(ctx context.Context, r *workerv1.DescribeRequest) (*workerv1.DescribeResponse, error) {
	if w.describe != nil {
		return w.describe(ctx, r)
	}
	m := &workerv1.DescribeResponse{}
	for _, p := range r.GetPaths() {
		if strings.HasPrefix(p, "/usr/") {
			m.Files = append(m.Files, wireDigest(digest.Of([]byte(p))))
		} else {
			m.Files = append(m.Files, &agentv1.Digest{})
		}
	}
	return m, nil
}

func wireDigest(d digest.Digest) *agentv1.Digest {
	sum := d.Sum()
	return &agentv1.Digest{Sha256: sum[:], Size: d.Size()}
}

func sayOutcome(o *workerv1.Outcome) *workerv1.CompileResponse {
	return &workerv1.CompileResponse{Kind: &workerv1.CompileResponse_Outcome{Outcome: o}}
}

func sayOutput(i int, b []byte) *workerv1.CompileResponse {
	return &workerv1.CompileResponse{Kind: &workerv1.CompileResponse_Output{Output: &workerv1.OutputChunk{Output: uint32(i), Data: b}}}
}

func decode(m *workerv1.Job) (*action.Job, action.Tree) {
	job := &action.Job{Image: m.GetImage(), Argv: m.GetArgv(), Env: m.GetEnv(), Cwd: m.GetCwd(), Roots: m.GetRoots(), Source: m.GetSource()}
	for _, o := range m.GetOutputs() {
		job.Outputs = append(job.Outputs, action.Declared{Role: o.GetRole(), Path: o.GetPath(), Optional: o.GetOptional()})
	}
	tree := action.Tree{}
	for _, in := range m.GetInputs() {
		n := action.Node{Target: in.GetTarget()}
		if in.GetDigest() != nil {
			n.Digest, _ = digest.FromBytes(in.GetDigest().GetSha256(), in.GetDigest().GetSize())
		}
		tree[in.GetPath()] = n
	}
	return job, tree
}

// fleet is a scheduler with workers, and a client of them.
type fleet struct {
	scheduler *scheduler
	workers   []*fakeWorker
	client    *Client
}

func newScheduler(t testing.TB) *scheduler {
	t.Helper()
	s := &scheduler{expires: time.Hour}
	s.cert, _ = certificate(t)
	_, s.listener = serve(t, s.cert, func(g *grpc.Server) { schedulerv1.RegisterSchedulerServiceServer(g, s) })
	s.address = s.listener.Addr().String()
	return s
}

func newBareWorker(name string) *fakeWorker {
	return &fakeWorker{
		name: name, blobs: map[digest.Digest][]byte{}, entries: map[digest.Key]*kept{}, manifests: map[digest.Key]*action.Manifest{},
		cancelled: make(chan struct{}, 100),
	}
}

func newWorker(t testing.TB, s *scheduler, name string) *fakeWorker {
	t.Helper()
	w := newBareWorker(name)
	w.token = func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.token(name)
	}
	var cert tls.Certificate
	cert, w.pin = certificate(t)
	w.server, w.listener = serve(t, cert, func(g *grpc.Server) { workerv1.RegisterWorkerServiceServer(g, w) })
	w.address = w.listener.Addr().String()
	s.set(func() { s.workers = append(s.workers, w) })
	return w
}

func newFleet(t testing.TB, workers int) *fleet {
	t.Helper()
	f := &fleet{scheduler: newScheduler(t)}
	for i := range workers {
		f.workers = append(f.workers, newWorker(t, f.scheduler, fmt.Sprintf("worker-%d", i)))
	}
	f.client = newClient(t, f.scheduler, nil)
	return f
}

// trusted is how a client knows it.
func (s *scheduler) trusted() *tls.Config {
	roots := x509.NewCertPool()
	if s.cert.Leaf != nil {
		roots.AddCert(s.cert.Leaf)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
}

func (s *scheduler) options() Options {
	return Options{
		Scheduler: s.address, TLS: s.trusted(),
		Credential: func(context.Context) (string, error) { return credential, nil },
		Platform:   "linux/amd64",
		// A loaded machine is no dead scheduler.
		RouteTimeout: time.Minute, DialTimeout: time.Minute,
		Log: slog.New(slog.DiscardHandler),
	}
}

func newClient(t testing.TB, s *scheduler, change func(*Options)) *Client {
	t.Helper()
	opt := s.options()
	if change != nil {
		change(&opt)
	}
	c, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// freeze stops the clock by which a client, that nobody uses yet, leaves workers
// and its scheduler alone: on a busy machine the shortest of these times, a tenth
// of a second, is over before the next compile.
func (c *Client) freeze() time.Time {
	now := time.Now()
	c.health.now = func() time.Time { return now }
	c.routes.now = c.health.now
	return now
}

// checkout is a client's directory: files by neutral path.
type checkout map[string]string

// request compiles /hpcc/src/main.c, with names as the guess.
func (c checkout) request(names ...string) *Request {
	tree := action.Tree{}
	for _, p := range names {
		tree[p] = c.node(p)
	}
	return &Request{
		Job: &action.Job{
			Image: image, Argv: []string{"cc", "-c", "main.c"}, Cwd: "/hpcc/src", Roots: []string{"/hpcc/src", workerv1.OutputRoot},
			Outputs: []action.Declared{
				{Role: "object", Path: workerv1.OutputRoot + "/object"}, {Role: "dwo", Path: workerv1.OutputRoot + "/dwo", Optional: true},
			},
			Source: "/hpcc/src/main.c",
		},
		Tree: tree,
		Open: func(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
			for _, content := range c {
				if digest.Of([]byte(content)) == d {
					return io.NopCloser(strings.NewReader(content)), nil
				}
			}
			return nil, errors.New("nobody has this")
		},
		Confirm: func(_ context.Context, absent []string) (action.Tree, error) {
			more := action.Tree{}
			for _, p := range absent {
				if _, ok := c[p]; ok {
					more[p] = c.node(p)
				}
			}
			return more, nil
		},
	}
}

func (c checkout) node(p string) action.Node {
	if target, ok := strings.CutPrefix(c[p], "-> "); ok {
		return action.Node{Target: target}
	}
	return action.Node{Digest: digest.Of([]byte(c[p]))}
}

// retryIn is an error with a RetryInfo.
func retryIn(code codes.Code, d time.Duration) error {
	s, err := status.New(code, "no room").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
	if err != nil {
		panic(err)
	}
	return s.Err()
}

// within is a context for one call on a loaded machine.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// forget empties the store.
func (w *fakeWorker) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.blobs)
}
