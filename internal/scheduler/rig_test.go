package scheduler

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/leaktest"
	"hpcc.dev/hpcc/internal/telemetry"
	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// patient bounds what must happen, on a machine that may be busy.
const patient = 2 * time.Minute

// site is a scheduler that answers on loopback, as its clients see it.
type site struct {
	t       *testing.T
	s       *Scheduler
	dir     string // of keys and certificates
	opt     Options
	secrets map[string]string // credential by subject
	addr    string
	http    string
	stop    func()
	log     *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// identities are those of every site.
var identities = []auth.Identity{
	{Role: auth.Client, Tenant: "red", Subject: "alice"},
	{Role: auth.Client, Tenant: "blue", Subject: "bob", Images: []string{imageB}},
	{Role: auth.Worker, Subject: "w1"},
	{Role: auth.Worker, Subject: "w2"},
	{Role: auth.Worker, Subject: "w3"},
	{Role: auth.Worker, Subject: "w4"},
	{Role: auth.Operator, Subject: "root"},
}

// newSite starts a scheduler. change may alter its options.
func newSite(t *testing.T, change func(*Options)) *site {
	t.Helper()
	x := &site{t: t, dir: t.TempDir(), secrets: map[string]string{}, log: &lockedBuffer{}}
	ca, err := auth.InitCA(filepath.Join(x.dir, "ca"), "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue("scheduler", []string{"localhost", "127.0.0.1"}, x.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(x.dir, "ca.pem"), ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := auth.OpenKeyring(filepath.Join(x.dir, "keys"), auth.KeyringOptions{})
	if err != nil {
		t.Fatal(err)
	}
	x.opt = Options{
		Keys: keys, Credentials: x.credentials(identities),
		// Only a few tests want it to be early after the start.
		Interval: time.Millisecond, Expiry: patient,
		Metrics: telemetry.New(),
		Log:     slog.New(slog.NewTextHandler(x.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&x.opt)
	}
	x.start("127.0.0.1:0")
	t.Cleanup(func() {
		x.stop()
		for subject, secret := range x.secrets {
			if strings.Contains(x.log.String(), secret) {
				t.Errorf("the credential of %s is in the log", subject)
			}
		}
	})
	return x
}

// list makes a credential for each identity, which is its holder's from then on.
func (x *site) list(ids []auth.Identity) (list []auth.Credential) {
	for _, id := range ids {
		secret, hash := auth.NewCredential()
		x.secrets[id.Subject] = secret
		list = append(list, auth.Credential{Hash: hash, Identity: id})
	}
	return list
}

// credentials makes them for all.
func (x *site) credentials(ids []auth.Identity) *auth.Credentials {
	x.t.Helper()
	c, err := auth.NewCredentials(x.list(ids))
	if err != nil {
		x.t.Fatal(err)
	}
	return c
}

// start makes a scheduler of x.opt and has it serve at addr.
func (x *site) start(addr string) {
	x.t.Helper()
	s, err := New(x.opt)
	if err != nil {
		x.t.Fatal(err)
	}
	cert, _, err := auth.ServerTLS(filepath.Join(x.dir, "scheduler.crt"), filepath.Join(x.dir, "scheduler.key"), x.opt.Log)
	if err != nil {
		x.t.Fatal(err)
	}
	ln := listen(x.t, addr)
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		x.t.Fatal(err)
	}
	x.s, x.addr, x.http = s, ln.Addr().String(), web.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln, web, cert) }()
	x.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-served:
			if err != nil {
				x.t.Errorf("Serve: %v", err)
			}
		case <-time.After(patient):
			x.t.Error("the scheduler does not stop")
		}
	})
}

// listen takes an address that somebody else may have taken meanwhile, if it was
// left for a moment.
func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	for deadline := time.Now().Add(patient); ; time.Sleep(10 * time.Millisecond) {
		l, err := net.Listen("tcp", addr)
		if err == nil {
			return l
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// dial connects, and is closed with the test.
func (x *site) dial() *grpc.ClientConn {
	x.t.Helper()
	cfg, err := auth.CATLS(filepath.Join(x.dir, "ca.pem"))
	if err != nil {
		x.t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+x.addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// as is a context with the credential of subject.
func (x *site) as(subject string) context.Context {
	return with(x.t, "Bearer "+x.secrets[subject])
}

func with(t *testing.T, authorization ...string) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	t.Cleanup(cancel)
	for _, a := range authorization {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", a)
	}
	return ctx
}

func beatOf(name string) *schedulerv1.HeartbeatRequest {
	return &schedulerv1.HeartbeatRequest{
		Worker: name, Address: name + ".example.com:7510", TlsPin: bytes.Repeat([]byte{7}, 32),
		Platform: amd64, Version: "1.0", Capacity: 4,
	}
}

// report sends a heartbeat of the worker's own.
func (x *site) report(conn *grpc.ClientConn, req *schedulerv1.HeartbeatRequest) *schedulerv1.HeartbeatResponse {
	x.t.Helper()
	resp, err := schedulerv1.NewRegistryServiceClient(conn).Heartbeat(x.as(req.Worker), req)
	if err != nil {
		x.t.Fatal(err)
	}
	return resp
}

func workersOf(r *schedulerv1.RouteResponse) string {
	var names []string
	for _, w := range r.GetWorkers() {
		names = append(names, w.Worker)
	}
	return strings.Join(names, " ")
}

// wantRetry asks for a code with a time to try again.
func wantRetry(t *testing.T, err error, code codes.Code) {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != code {
		t.Fatalf("got %v, want %v", err, code)
	}
	for _, d := range st.Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok && r.RetryDelay.AsDuration() > 0 {
			return
		}
	}
	t.Errorf("%v comes without a time to try again: %v", code, st.Details())
}

// metrics scrapes.
func (x *site) metrics() string {
	x.t.Helper()
	text, _, _ := x.get("/metrics")
	return text
}

func (x *site) get(path string) (text string, status int, kind string) {
	x.t.Helper()
	cfg, err := auth.CATLS(filepath.Join(x.dir, "ca.pem"))
	if err != nil {
		x.t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: cfg}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport, Timeout: patient}
	resp, err := c.Get("https://" + x.http + path)
	if err != nil {
		x.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		x.t.Fatal(err)
	}
	return string(b), resp.StatusCode, resp.Header.Get("Content-Type")
}
