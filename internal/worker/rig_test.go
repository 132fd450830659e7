package worker

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/leaktest"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/internal/wirezip"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// AtEnd is called when all tests have run.
var AtEnd = func() {}

func TestMain(m *testing.M) {
	code := leaktest.Run(m)
	AtEnd()
	os.Exit(code)
}

const (
	testImage  = "sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
	otherImage = "sha256:0000000000000000000000000000000000000000000000000000000000000001"
)

// tokens is a verifier: a token is TENANT or TENANT/IMAGE.
type tokens struct{}

func (tokens) Verify(token, worker string) (auth.Task, error) {
	tenant, image, ok := strings.Cut(token, "/")
	if !ok {
		image = testImage
	}
	if tenant == "" || tenant == "nobody" {
		return auth.Task{}, errors.New("nobody's")
	}
	return auth.Task{Tenant: tenant, Subject: tenant + "@example.com", Image: image, Worker: worker}, nil
}

type images map[string]digest.Digest

func (m images) File(_ context.Context, image, path string) (digest.Digest, bool, error) {
	if image != testImage {
		return digest.Digest{}, false, &ImageError{image, errors.New("not here")}
	}
	d, ok := m[path]
	return d, ok, nil
}

// fake is a machine whose jobs are functions.
type fake struct {
	// exec is told which run it is, from 1.
	exec func(ctx context.Context, run int, job agentapi.Job, blobs agentapi.Blobs, sinks agentapi.Sinks) (*agentapi.Result, error)
	// acquire may fail.
	acquire func(ctx context.Context, tenant string) error

	mu       sync.Mutex
	runs     int
	leases   int // that are not released
	broken   []error
	acquired []string
}

func (f *fake) Acquire(ctx context.Context, tenant, image string) (Lease, error) {
	if f.acquire != nil {
		if err := f.acquire(ctx, tenant); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leases++
	f.acquired = append(f.acquired, tenant+" "+image)
	return &fakeLease{fake: f}, nil
}

func (f *fake) Load() Load {
	return Load{Capacity: 4, Ready: 1, Sessions: []Session{{"acme", testImage}}}
}

func (f *fake) count() (runs, leases int, broken []error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.runs, f.leases, slices.Clone(f.broken)
}

type fakeLease struct {
	*fake
	released bool
}

func (l *fakeLease) Exec(ctx context.Context, job agentapi.Job, blobs agentapi.Blobs, sinks agentapi.Sinks) (*agentapi.Result, error) {
	l.mu.Lock()
	l.runs++
	run := l.runs
	l.mu.Unlock()
	return l.exec(ctx, run, job, blobs, sinks)
}

func (l *fakeLease) Info() vm.Info {
	return vm.Info{
		ID: "vm-1", Runtime: vm.RuntimeInfo{Name: "fake", Version: "1.0"}, Digests: map[string]string{"kernel": testImage},
		Agent: agentapi.Hello{AgentVersion: "7"},
	}
}

func (l *fakeLease) Broken(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = append(l.broken, err)
}

func (l *fakeLease) Release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.released {
		l.released = true
		l.leases--
	}
}

// compiler is a job that reads its source and every file that the source names,
// one a line, and leaves all of it in its outputs. What it misses is absent.
func compiler(ctx context.Context, _ int, job agentapi.Job, blobs agentapi.Blobs, sinks agentapi.Sinks) (*agentapi.Result, error) {
	files := map[string]digest.Digest{}
	for _, in := range job.Inputs {
		files[in.Path] = in.Digest
	}
	r := &agentapi.Result{Usage: agentapi.Usage{Wall: time.Millisecond}}
	var object strings.Builder
	read := func(path string) (string, error) {
		d, ok := files[path]
		if !ok {
			r.Lookups = append(r.Lookups, agentapi.Lookup{Path: path, Found: agentapi.Absent})
			return "", nil
		}
		r.Lookups = append(r.Lookups, agentapi.Lookup{Path: path, Found: agentapi.FoundFile})
		f, err := blobs.Open(ctx, d)
		if err != nil {
			return "", &agentapi.SourceError{Digest: d, Err: err}
		}
		defer f.Close()
		r.Sent.Blobs++
		r.Sent.Bytes += d.Size()
		b, err := io.ReadAll(f)
		object.Write(b)
		return string(b), err
	}
	text, err := read("/hpcc/src/a.c")
	if err != nil {
		return nil, err
	}
	r.Lookups = append(r.Lookups, agentapi.Lookup{Path: "/hpcc/src", Found: agentapi.FoundDirectory}, agentapi.Lookup{Path: "/hpcc/out/object", Found: agentapi.Absent})
	for name := range strings.FieldsSeq(text) {
		if !strings.HasPrefix(name, "/hpcc/src/") {
			continue
		}
		if _, err := read(name); err != nil {
			return nil, err
		}
	}
	if strings.HasPrefix(text, "fail") {
		_, _ = io.WriteString(sinks.Stderr, "error\n")
		r.ExitCode = 1
		return r, nil
	}
	_, _ = io.WriteString(sinks.Stdout, "out")
	_, _ = io.WriteString(sinks.Stderr, "warning\n")
	return r, leave(r, sinks, job.Outputs[0], object.String())
}

// leave leaves an output, as the agent's client hands it over.
func leave(r *agentapi.Result, sinks agentapi.Sinks, path, content string) error {
	w, err := sinks.Output(path)
	if err != nil {
		return &agentapi.SinkError{Err: err}
	}
	for rest := []byte(content); len(rest) > 0; rest = rest[min(len(rest), agentv1.ChunkSize):] {
		if _, err := w.Write(rest[:min(len(rest), agentv1.ChunkSize)]); err != nil {
			return &agentapi.SinkError{Err: err}
		}
	}
	r.Outputs = append(r.Outputs, agentapi.Output{Path: path, Digest: digest.Of([]byte(content)), Mode: 0o644})
	return nil
}

// rows is an audit log in memory.
type rows struct {
	mu   sync.Mutex
	rows []*audit.Row
	err  error
}

func (l *rows) Append(_ context.Context, r *audit.Row) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, l.err
	}
	l.rows = append(l.rows, r)
	return uint64(len(l.rows)), nil
}

func (l *rows) all() []*audit.Row {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.rows)
}

// rig is a worker on loopback.
type rig struct {
	*Service
	machines *fake
	log      *rows
	address  string
	pin      *x509.CertPool
}

// newRig starts a service; change may exchange its options.
func newRig(t testing.TB, change func(*Options)) *rig {
	t.Helper()
	r := &rig{machines: &fake{exec: compiler}, log: &rows{}}
	opt := Options{
		Name: "w1", Version: "test", Dir: t.TempDir(), Verifier: tokens{}, Machines: r.machines, Images: images{}, Audit: r.log,
	}
	if change != nil {
		change(&opt)
	}
	var err error
	if r.Service, err = New(opt); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	var cert tls.Certificate
	cert, r.pin = certificate(t)
	server := grpc.NewServer(append(r.ServerOptions(), grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})))...)
	workerv1.RegisterWorkerServiceServer(server, r.Service)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-served
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "w1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// client is a tenant's connection.
type client struct {
	t     testing.TB
	rpc   workerv1.WorkerServiceClient
	token string
}

func (r *rig) client(t testing.TB, token string) *client {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+r.address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: r.pin})),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20), grpc.UseCompressor(wirezip.Name)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t, workerv1.NewWorkerServiceClient(conn), token}
}

func (c *client) context(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token)
}

// talk is a stream of Compile.
type talk struct {
	t testing.TB
	grpc.BidiStreamingClient[workerv1.CompileRequest, workerv1.CompileResponse]
	cancel context.CancelFunc
}

// open opens a stream that ends with the test, at the latest.
func (c *client) open() *talk {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), 2*time.Minute)
	c.t.Cleanup(cancel)
	s, err := c.rpc.Compile(c.context(ctx))
	if err != nil {
		c.t.Fatal(err)
	}
	return &talk{c.t, s, cancel}
}

func (k *talk) job(j *workerv1.Job) {
	_ = k.Send(&workerv1.CompileRequest{Kind: &workerv1.CompileRequest_Job{Job: j}}) // Recv tells
}

func (k *talk) blob(b []byte) {
	_ = k.Send(&workerv1.CompileRequest{Kind: &workerv1.CompileRequest_Blob{Blob: &workerv1.Blob{Data: b}}})
}

func (k *talk) accept(held ...string) {
	_ = k.Send(&workerv1.CompileRequest{Kind: &workerv1.CompileRequest_Accept{Accept: &workerv1.Accept{Held: held}}})
}

// needed receives what is needed.
func (k *talk) needed() []digest.Digest {
	k.t.Helper()
	m, err := k.Recv()
	if err != nil || m.GetNeeded() == nil {
		k.t.Fatalf("want needed, have %v, %v", m, err)
	}
	var list []digest.Digest
	for _, d := range m.GetNeeded().GetBlobs() {
		parsed, err := digest.FromBytes(d.GetSha256(), d.GetSize())
		if err != nil {
			k.t.Fatal(err)
		}
		list = append(list, parsed)
	}
	return list
}

func (k *talk) outcome() *workerv1.Outcome {
	k.t.Helper()
	m, err := k.Recv()
	if err != nil || m.GetOutcome() == nil {
		k.t.Fatalf("want an outcome, have %v, %v", m, err)
	}
	return m.GetOutcome()
}

// outputs receives outputs until done, by role.
func (k *talk) outputs(o *workerv1.Outcome) (map[string]string, *workerv1.Done) {
	k.t.Helper()
	got := map[string]string{}
	for {
		m, err := k.Recv()
		if err != nil {
			k.t.Fatal(err)
		}
		if d := m.GetDone(); d != nil {
			return got, d
		}
		c := m.GetOutput()
		if c == nil || int(c.GetOutput()) >= len(o.GetOutputs()) || len(c.GetData()) > workerv1.ChunkSize {
			k.t.Fatalf("unexpected: %v", m)
		}
		got[o.GetOutputs()[c.GetOutput()].GetRole()] += string(c.GetData())
	}
}

// code receives until the stream ends, and returns how it did.
func (k *talk) code() codes.Code {
	k.t.Helper()
	return status.Code(k.failure())
}

func (k *talk) failure() error {
	k.t.Helper()
	for {
		if _, err := k.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// compiled is what a whole exchange came to.
type compiled struct {
	*workerv1.Outcome
	needed  []digest.Digest
	outputs map[string]string
	done    *workerv1.Done
}

// compile does all of a client's part.
func (c *client) compile(files map[string]string, change ...func(*workerv1.Job)) *compiled {
	c.t.Helper()
	k := c.open()
	defer k.cancel()
	job := newJob(files, change...)
	contents := map[digest.Digest]string{}
	for _, content := range files {
		contents[digest.Of([]byte(content))] = content
	}
	k.job(job)
	r := &compiled{}
	m, err := k.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	if m.GetNeeded() != nil {
		for _, b := range m.GetNeeded().GetBlobs() {
			d, _ := digest.FromBytes(b.GetSha256(), b.GetSize())
			r.needed = append(r.needed, d)
			k.upload(contents[d])
		}
		r.Outcome = k.outcome()
		k.accept()
	} else if r.Outcome = m.GetOutcome(); !r.GetHit() {
		c.t.Fatalf("unexpected: %v", m)
	}
	_ = k.CloseSend()
	r.outputs, r.done = k.outputs(r.Outcome)
	if err := k.failure(); err != nil {
		c.t.Fatal(err)
	}
	checkKey(c.t, job, r.Outcome)
	for _, o := range r.GetOutputs() {
		if d, _ := digest.FromBytes(o.GetDigest().GetSha256(), o.GetDigest().GetSize()); d != digest.Of([]byte(r.outputs[o.GetRole()])) {
			c.t.Errorf("output %s does not have its digest", o.GetRole())
		}
	}
	return r
}

func (k *talk) upload(content string) {
	for first := true; first || content != ""; first = false {
		n := min(len(content), workerv1.ChunkSize)
		k.blob([]byte(content[:n]))
		content = content[n:]
	}
}

// checkKey makes the action key again from what the client has.
func checkKey(t testing.TB, m *workerv1.Job, o *workerv1.Outcome) {
	t.Helper()
	j := &action.Job{Image: m.GetImage(), Argv: m.GetArgv(), Env: m.GetEnv(), Cwd: m.GetCwd(), Roots: m.GetRoots(), Source: m.GetSource()}
	for _, d := range m.GetOutputs() {
		j.Outputs = append(j.Outputs, action.Declared{Role: d.GetRole(), Path: d.GetPath(), Optional: d.GetOptional()})
	}
	tree := action.Tree{}
	for _, in := range m.GetInputs() {
		n := action.Node{Target: in.GetTarget()}
		if in.GetKind() == agentv1.Input_KIND_FILE {
			n.Digest, _ = digest.FromBytes(in.GetDigest().GetSha256(), in.GetDigest().GetSize())
		}
		tree[in.GetPath()] = n
	}
	var found, absent []string
	for _, p := range o.GetFound() {
		found = append(found, string(p))
	}
	for _, p := range o.GetAbsent() {
		absent = append(absent, string(p))
	}
	a, err := j.Action(tree, found, absent)
	if err != nil {
		t.Fatal(err)
	}
	if key := a.Key(); string(key[:]) != string(o.GetActionKey()) {
		t.Errorf("the action key is %x, and %s follows from the outcome", o.GetActionKey(), key)
	}
}

// newJob describes a job with files below /hpcc/src.
func newJob(files map[string]string, change ...func(*workerv1.Job)) *workerv1.Job {
	j := &workerv1.Job{
		Image: testImage, Argv: []string{"gcc", "-c", "a.c", "-o", "/hpcc/out/object"}, Cwd: "/hpcc/src",
		Roots: []string{"/hpcc/src", "/hpcc/out"}, Outputs: []*workerv1.Output{{Role: "object", Path: "/hpcc/out/object"}},
		Source: "/hpcc/src/a.c",
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		j.Inputs = append(j.Inputs, fileInput("/hpcc/src/"+name, files[name]))
	}
	for _, c := range change {
		c(j)
	}
	return j
}

func fileInput(path, content string) *agentv1.Input {
	return &agentv1.Input{Path: path, Kind: agentv1.Input_KIND_FILE, Digest: wireDigest(digest.Of([]byte(content)))}
}

// storedFiles counts what a tenant's store holds: entries and manifests.
func (r *rig) storedFiles(t testing.TB, tenant string) int {
	t.Helper()
	n := 0
	for _, kind := range []string{"ac", "manifest"} {
		files, err := filepath.Glob(filepath.Join(r.opt.Dir, "tenants", tenant, kind, "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		n += len(files)
	}
	return n
}

// storedKeys are the keys of a tenant's entries.
func (r *rig) storedKeys(t testing.TB, tenant string) (keys []digest.Key) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(r.opt.Dir, "tenants", tenant, "ac", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		key, err := digest.ParseKey(filepath.Base(f))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}

// nothingHeld waits until no stream and no lease is left.
func (r *rig) nothingHeld(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		_, leases, _ := r.machines.count()
		if r.Streams() == 0 && leases == 0 && r.memory.spooled.Load() == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d streams, %d leases, %d bytes spooled", r.Streams(), leases, r.memory.spooled.Load())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// temporary lists what is in the tenants' temporary directories.
func (r *rig) temporary(t testing.TB) (names []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(r.opt.Dir, "tenants", "*", "tmp", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// overwriteBlob damages a blob of a store.
func overwriteBlob(dir string, d digest.Digest) error {
	files, err := filepath.Glob(filepath.Join(dir, "cas", "*", d.Hex()+"-*"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("%v, %w", files, err)
	}
	return os.WriteFile(files[0], bytes.Repeat([]byte("?"), int(d.Size())), 0o600)
}

var errNotFound = cache.ErrNotFound
