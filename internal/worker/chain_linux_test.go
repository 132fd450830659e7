package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/remote"
	"hpcc.dev/hpcc/internal/scheduler"
	"hpcc.dev/hpcc/internal/telemetry"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/internal/vm/vmtest"
	"hpcc.dev/hpcc/internal/worker"
)

const (
	image    = "sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
	platform = "linux/amd64"
	// patient bounds what must happen, on a machine that may be busy.
	patient = 2 * time.Minute
)

// agentProgram is built once, as make build does.
var agentProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		return "", err
	}
	worker.AtEnd = func() { os.RemoveAll(dir) }
	program := filepath.Join(dir, "hpcc-agent")
	cmd := exec.Command("go", "build", "-trimpath", "-o", program, "./cmd/hpcc-agent")
	cmd.Dir = "../../agent"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the agent: %w\n%s", err, out)
	}
	return program, nil
})

// site is a scheduler and a worker on loopback; machines are processes on this
// machine's kernel, with its own compiler.
type site struct {
	t       testing.TB
	dir     string
	ca      string
	address string // the scheduler's
	http    string // the worker's
	secrets map[string]string
	audit   string
	pool    *vm.Pool
	// learn, if it is not nil, is called before the worker takes the scheduler's
	// keys, refused after it has refused a token.
	learn, refused func()

	startScheduler func()
	stopScheduler  func()
	stopWorker     func() // drains, and waits
}

func newSite(t testing.TB) *site {
	t.Helper()
	return newSiteThat(t, nil, nil)
}

func newSiteThat(t testing.TB, learn, refused func()) *site {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("the agent makes mounts and namespaces: run the tests as root")
	}
	agent, err := agentProgram()
	check(t, err)
	x := &site{t: t, dir: t.TempDir(), secrets: map[string]string{}, learn: learn, refused: refused}
	ca, err := auth.InitCA(filepath.Join(x.dir, "ca"), "test")
	check(t, err)
	x.ca = filepath.Join(x.dir, "ca", "ca.crt")
	issued := map[string]auth.Issued{}
	for _, name := range []string{"scheduler", "w1"} {
		issued[name], err = ca.Issue(name, []string{"127.0.0.1"}, filepath.Join(x.dir, "certs"))
		check(t, err)
	}
	var list []auth.Credential
	for _, id := range []auth.Identity{
		{Role: auth.Client, Tenant: "acme", Subject: "alice"}, {Role: auth.Client, Tenant: "evil", Subject: "mallory"}, {Role: auth.Worker, Subject: "w1"},
	} {
		secret, hash := auth.NewCredential()
		x.secrets[id.Subject] = secret
		list = append(list, auth.Credential{Identity: id, Hash: hash})
	}
	credentials, err := auth.NewCredentials(list)
	check(t, err)
	x.startScheduler = func() {
		keys, err := auth.OpenKeyring(filepath.Join(x.dir, "keys"), auth.KeyringOptions{Announce: -1})
		check(t, err)
		s, err := scheduler.New(scheduler.Options{Keys: keys, Credentials: credentials, Interval: 200 * time.Millisecond, Expiry: patient})
		check(t, err)
		cert, _, err := auth.ServerTLS(issued["scheduler"].CertFile, issued["scheduler"].KeyFile, nil)
		check(t, err)
		address := x.address
		if address == "" {
			address = "127.0.0.1:0"
		}
		// Somebody else may have the port that the scheduler had, for a moment.
		var l net.Listener
		waitFor(t, "a free port", func() bool {
			l, err = net.Listen("tcp", address)
			return err == nil
		})
		x.address = l.Addr().String()
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, l, nil, cert) }()
		x.stopScheduler = sync.OnceFunc(func() {
			cancel()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
	x.startScheduler()
	t.Cleanup(func() { x.stopScheduler() })
	x.startWorker(agent, issued["w1"])
	if learn == nil {
		// The scheduler keeps a client waiting for less than a busy machine needs
		// to start a worker.
		waitFor(t, "the worker's registration", x.registered)
	}
	return x
}

func (x *site) startWorker(agent string, cert auth.Issued) {
	t := x.t
	t.Helper()
	sockets, err := os.MkdirTemp("", "vm") // short: sockets lie below
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(sockets) })
	x.pool, err = vm.NewPool(vm.PoolOptions{
		Runtime: &vmtest.Process{Agent: agent, Dir: sockets},
		Spec: func(context.Context, vm.SessionKey) (vm.Spec, func(), error) {
			return vm.Spec{Rootfs: vm.Rootfs{Path: "/"}}, nil, nil
		},
		MemoryMiB: 4096, VCPUs: 8, MachineMemoryMiB: 1024, MachineVCPUs: 4,
	})
	check(t, err)
	x.audit = filepath.Join(x.dir, "audit")
	journal, err := audit.OpenJournal(x.audit, audit.Options{})
	check(t, err)
	verifier := auth.NewVerifier()
	metrics := telemetry.New()
	s, err := worker.New(worker.Options{
		Name: "w1", Version: "test", Dir: filepath.Join(x.dir, "state"), Verifier: watched{verifier, x.refused}, Images: noImages{},
		Machines: worker.Pooled{Pool: x.pool}, Audit: journal, Metrics: metrics,
		Limits: agentapi.Limits{MemoryBytes: 1 << 30}, Log: slog.New(slog.DiscardHandler),
	})
	check(t, err)
	tlsConfig, pin, err := auth.ServerTLS(cert.CertFile, cert.KeyFile, nil)
	check(t, err)
	caTLS, err := auth.CATLS(x.ca)
	check(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	h, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	x.http = h.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- s.Serve(ctx, l, worker.ServeOptions{TLS: tlsConfig, HTTP: h, Registration: worker.Registration{
			Scheduler: x.address, TLS: caTLS, Credential: func() (string, error) { return x.secrets["w1"], nil },
			Advertise: l.Addr().String(), Platform: platform, Pin: pin, Images: func() ([]string, error) { return []string{image}, nil },
			Keys: func(jwks []byte) error {
				if x.learn != nil {
					x.learn()
				}
				return verifier.Update(jwks)
			},
		}})
	}()
	x.stopWorker = sync.OnceFunc(func() {
		cancel()
		end, done := context.WithTimeout(context.Background(), patient)
		defer done()
		for _, err := range []error{<-served, x.pool.Close(end), s.Close(), journal.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(func() { x.stopWorker() })
}

type noImages struct{}

func (noImages) File(_ context.Context, image, _ string) (digest.Digest, bool, error) {
	return digest.Digest{}, false, &worker.ImageError{Image: image, Err: errors.New("not here")}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (x *site) client(subject string) *remote.Client {
	x.t.Helper()
	caTLS, err := auth.CATLS(x.ca)
	check(x.t, err)
	c, err := remote.New(remote.Options{
		Scheduler: x.address, TLS: caTLS,
		Credential: func(context.Context) (string, error) { return x.secrets[subject], nil }, Platform: platform,
		RouteTimeout: 30 * time.Second, DialTimeout: 30 * time.Second, Log: slog.New(slog.DiscardHandler),
	})
	check(x.t, err)
	x.t.Cleanup(func() { _ = c.Close() })
	return c
}

// request is a compile of files below /hpcc/src; those of hidden are known to
// exist, and not sent unless they are asked for.
func request(files, hidden map[string]string, argv ...string) *remote.Request {
	all := map[digest.Digest]string{}
	node := func(content string) action.Node {
		d := digest.Of([]byte(content))
		all[d] = content
		return action.Node{Digest: d}
	}
	r := &remote.Request{
		Job: &action.Job{
			Image: image, Argv: argv, Cwd: "/hpcc/src", Roots: []string{"/hpcc/src", "/hpcc/out"}, Source: "/hpcc/src/a.c",
			Outputs: []action.Declared{{Role: "object", Path: "/hpcc/out/object"}, {Role: "dependencies", Path: "/hpcc/out/d", Optional: true}},
		},
		Tree: action.Tree{},
		Open: func(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(all[d])), nil
		},
		Confirm: func(_ context.Context, absent []string) (action.Tree, error) {
			more := action.Tree{}
			for _, p := range absent {
				if content, ok := hidden[strings.TrimPrefix(p, "/hpcc/src/")]; ok {
					more[p] = node(content)
				}
			}
			return more, nil
		},
	}
	for name, content := range files {
		r.Tree["/hpcc/src/"+name] = node(content)
	}
	return r
}

var gcc = []string{"gcc", "-O2", "-Wall", "-Iinc", "-c", "a.c", "-o", "/hpcc/out/object"}

// plain is the object that this machine's gcc makes of the same files.
func plain(t testing.TB, files map[string]string) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		check(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	argv := slices.Clone(gcc)
	argv[len(argv)-1] = "object"
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "object"))
	check(t, err)
	return b
}

var sources = map[string]string{
	"a.c":     "#include <stdio.h>\n#include \"x.h\"\n#if __has_include(\"opt.h\")\n#include \"opt.h\"\n#endif\nint main(void) { printf(\"%d\", X); return 0; }\n",
	"inc/x.h": "#pragma once\n#define X 42\n",
}

// The whole chain: a miss whose object is gcc's own, a hit, another tenant, a
// guess that lacked a header.
func TestChain(t *testing.T) {
	x := newSite(t)
	alice := x.client("alice")
	miss, err := alice.Compile(t.Context(), request(sources, nil, gcc...))
	check(t, err)
	if miss.Hit || !miss.Stored || miss.ExitCode != 0 || len(miss.Outputs) != 1 || !bytes.Equal(miss.Outputs[0].Data, plain(t, sources)) {
		t.Fatalf("exit %d, %s, %d outputs", miss.ExitCode, miss.Stderr, len(miss.Outputs))
	}
	hit, err := x.client("alice").Compile(t.Context(), request(sources, nil, gcc...))
	check(t, err)
	if !hit.Hit || hit.Key != miss.Key || !bytes.Equal(hit.Outputs[0].Data, miss.Outputs[0].Data) || hit.SentBlobs != 0 {
		t.Errorf("%+v", hit)
	}
	other, err := x.client("mallory").Compile(t.Context(), request(sources, nil, gcc...))
	check(t, err)
	if other.Hit || other.SentBlobs != 2 || other.Key != miss.Key {
		t.Errorf("another tenant: hit %v, %d blobs", other.Hit, other.SentBlobs)
	}
	// opt.h is there after all: the answer, the hit and the object are those of
	// who sends it at once.
	opt := map[string]string{"opt.h": "#undef X\n#define X 43\n"}
	again, err := alice.Compile(t.Context(), request(sources, opt, gcc...))
	check(t, err)
	all := map[string]string{"a.c": sources["a.c"], "inc/x.h": sources["inc/x.h"], "opt.h": opt["opt.h"]}
	if again.Hit || again.Attempts != 2 || !bytes.Equal(again.Outputs[0].Data, plain(t, all)) {
		t.Errorf("hit %v, %d attempts", again.Hit, again.Attempts)
	}
	whole, err := alice.Compile(t.Context(), request(all, nil, gcc...))
	check(t, err)
	if !whole.Hit || whole.Key != again.Key {
		t.Errorf("%+v", whole)
	}
	// A failing compile is shown, and compiled each time.
	bad := map[string]string{"a.c": "int x = ;\n"}
	for range 2 {
		failed, err := alice.Compile(t.Context(), request(bad, nil, gcc...))
		check(t, err)
		if failed.ExitCode != 1 || failed.Stored || failed.Hit || !bytes.Contains(failed.Stderr, []byte("a.c:1:9: error:")) {
			t.Errorf("%d: %s", failed.ExitCode, failed.Stderr)
		}
	}
	// What gcc leaves of it comes back: no object, but the list of what was read.
	left, err := alice.Compile(t.Context(), request(bad, nil, append(slices.Clone(gcc), "-MMD", "-MF", "/hpcc/out/d")...))
	check(t, err)
	if left.ExitCode != 1 || left.Stored || len(left.Outputs) != 1 || left.Outputs[0].Role != "dependencies" || string(left.Outputs[0].Data) != "/hpcc/out/object: a.c\n" {
		t.Errorf("exit %d, %+v", left.ExitCode, left.Outputs)
	}
	// __TIMESTAMP__ is the same for everybody.
	stamp := map[string]string{"a.c": "const char *t = __TIMESTAMP__;\n"}
	first, err := alice.Compile(t.Context(), request(stamp, nil, gcc...))
	check(t, err)
	second, err := x.client("mallory").Compile(t.Context(), request(stamp, nil, gcc...))
	check(t, err)
	if !bytes.Equal(first.Outputs[0].Data, second.Outputs[0].Data) {
		t.Error("__TIMESTAMP__ differs")
	}
	// Equal headers at two paths are two, under #pragma once as well.
	twice := map[string]string{
		"a.c": "#include \"p/a.h\"\n#include \"q/a.h\"\nint x = P + Q;\n", "p/a.h": "#pragma once\n#include \"b.h\"\n", "q/a.h": "#pragma once\n#include \"b.h\"\n",
		"p/b.h": "#define P 1\n", "q/b.h": "#define Q 2\n",
	}
	two, err := alice.Compile(t.Context(), request(twice, nil, gcc...))
	check(t, err)
	if two.ExitCode != 0 {
		t.Errorf("%s", two.Stderr)
	}
	// No compiler of that name.
	_, err = alice.Compile(t.Context(), request(sources, nil, "no-such-compiler", "-c", "a.c"))
	if refused := (*remote.RefusedError)(nil); !errors.As(err, &refused) {
		t.Errorf("%v", err)
	}

	// What the rows say.
	rows := map[uint64]*audit.Row{}
	for e, err := range audit.Read(x.audit, 0) {
		check(t, err)
		r, err := e.Row()
		check(t, err)
		rows[e.Number] = r
	}
	for _, r := range []*remote.Result{miss, hit, other, again, whole} {
		row := rows[r.Row]
		if row == nil || digest.Key(row.Action) != r.Key || row.Accepted == r.Hit || row.Offered != r.Hit || digest.Digest(row.Outputs[0].Digest) != r.Outputs[0].Digest {
			t.Errorf("row %d: %+v", r.Row, row)
		}
	}
	if a, b := rows[miss.Row], rows[hit.Row]; a.Cache != audit.Miss || b.Cache != audit.Hit || a.Isolation.Runtime != "process" || a.Subject != "alice" || rows[other.Row].Tenant != "evil" {
		t.Errorf("%+v\n%+v", a, b)
	}
}

// get asks the worker by HTTPS.
func (x *site) get(path string) []byte {
	x.t.Helper()
	caTLS, err := auth.CATLS(x.ca)
	check(x.t, err)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: caTLS, DisableKeepAlives: true}, Timeout: patient}
	resp, err := client.Get("https://" + x.http + path)
	check(x.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	check(x.t, err)
	if resp.StatusCode != http.StatusOK {
		x.t.Fatalf("%s: %s: %s", path, resp.Status, b)
	}
	return b
}

// status is what the worker says of itself.
func (x *site) status() (s worker.Status) {
	x.t.Helper()
	check(x.t, json.Unmarshal(x.get("/status"), &s))
	return s
}

// registered tells whether the scheduler has answered the worker, and still does.
func (x *site) registered() bool {
	s := x.status()
	return !s.Answered.IsZero() && s.Error == ""
}

func TestStatusAndMetrics(t *testing.T) {
	x := newSite(t)
	for range 2 {
		_, err := x.client("alice").Compile(t.Context(), request(sources, nil, gcc...))
		check(t, err)
	}
	s := x.status()
	if s.Worker != "w1" || s.Capacity != 8 || len(s.Sessions) != 1 || s.Sessions[0] != (worker.Session{Tenant: "acme", Image: image}) ||
		len(s.Tenants) != 1 || s.Tenants[0].Name != "acme" || s.Tenants[0].Results != 1 || s.Tenants[0].Bytes == 0 || !slices.Equal(s.Images, []string{image}) {
		t.Errorf("%+v", s)
	}
	text := string(x.get("/metrics"))
	for _, want := range []string{
		`hpcc_worker_compiles_total{outcome="hit",tenant="acme"} 1`, `hpcc_worker_compiles_total{outcome="miss",tenant="acme"} 1`,
		`hpcc_worker_machines{state="ready"} 1`, `hpcc_worker_boots_total 1`, `hpcc_worker_cache_results{tenant="acme"} 1`,
		`hpcc_worker_transferred_blobs_total{direction="from_client",tenant="acme"} 2`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
}

// watched tells of tokens that were refused.
type watched struct {
	worker.Verifier
	refused func()
}

func (w watched) Verify(token, name string) (auth.Task, error) {
	task, err := w.Verifier.Verify(token, name)
	if err != nil && w.refused != nil {
		w.refused()
	}
	return task, err
}

// A scheduler sends clients to a worker as soon as it has heard of it, which may be
// before the worker has read the answer that holds the keys.
func TestClientBeforeKeys(t *testing.T) {
	came := make(chan struct{})
	x := newSiteThat(t, func() {
		select {
		case <-came:
		case <-time.After(patient):
		}
	}, sync.OnceFunc(func() { close(came) }))
	var r *remote.Result
	var err error
	waitFor(t, "a worker", func() bool {
		r, err = x.client("alice").Compile(t.Context(), request(sources, nil, gcc...))
		var away *remote.UnavailableError // it has not registered
		return !errors.As(err, &away)
	})
	check(t, err)
	if r.ExitCode != 0 || r.Attempts != 1 {
		t.Errorf("exit code %d after %d attempts", r.ExitCode, r.Attempts)
	}
	select {
	case <-came:
	default:
		t.Error("the worker had the keys before")
	}
}

// processes are those with a word among their arguments, that no test runs.
func processes(word string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && slices.Contains(strings.Split(string(b), "\x00"), word) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			pids = append(pids, pid)
		}
	}
	return pids
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patient); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no sign of %s", what)
		}
	}
}

// sleeper is a job with a word to find it by, that runs until it is told to end
// by release.
func sleeper(word string) *remote.Request {
	return request(sources, nil, "sh", "-c", `trap 'echo done >/hpcc/out/object; exit 0' USR1; cat a.c; while :; do sleep 0.05; done`, word)
}

// release does nothing until the job has set its trap: the signal would end it.
func release(word string) {
	for _, pid := range processes(word) {
		if catches(pid, syscall.SIGUSR1) {
			_ = syscall.Kill(pid, syscall.SIGUSR1)
		}
	}
}

// catches tells whether a process has a handler for a signal (proc(5), SigCgt).
func catches(pid int, sig syscall.Signal) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if mask, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return err == nil && bits&(1<<(sig-1)) != 0
		}
	}
	return false
}

// Who goes takes the compile along.
func TestCancelKills(t *testing.T) {
	x := newSite(t)
	word := fmt.Sprintf("cancel-%d", os.Getpid())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := x.client("alice").Compile(ctx, sleeper(word))
		ended <- err
	}()
	waitFor(t, "the job", func() bool { return len(processes(word)) > 0 })
	began := time.Now()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	waitFor(t, "its end", func() bool { return len(processes(word)) == 0 })
	t.Logf("gone after %v", time.Since(began))
	// The machine goes on.
	_, err := x.client("alice").Compile(t.Context(), request(sources, nil, gcc...))
	check(t, err)
	if s := x.pool.Stats(); s.Boots != 1 || s.Broken != 0 {
		t.Errorf("%+v", s)
	}
}

// A machine that is killed under a job costs the job nothing but time.
func TestMachineKilled(t *testing.T) {
	x := newSite(t)
	agent, err := agentProgram()
	check(t, err)
	word := fmt.Sprintf("killed-%d", os.Getpid())
	ended := make(chan *remote.Result, 1)
	go func() {
		r, err := x.client("alice").Compile(t.Context(), sleeper(word))
		if err != nil {
			t.Error(err)
		}
		ended <- r
	}()
	waitFor(t, "the job", func() bool { return len(processes(word)) > 0 })
	first := processes(word)
	pids := processes(agent)
	if len(pids) == 0 {
		t.Fatal("no agent")
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	waitFor(t, "the second run", func() bool {
		now := processes(word)
		return len(now) > 0 && !slices.ContainsFunc(now, func(p int) bool { return slices.Contains(first, p) })
	})
	var r *remote.Result
	waitFor(t, "the answer", func() bool {
		release(word)
		select {
		case r = <-ended:
			return true
		default:
			return false
		}
	})
	if r == nil || r.ExitCode != 0 || len(r.Outputs) != 1 || string(r.Outputs[0].Data) != "done\n" {
		t.Errorf("%+v", r)
	}
	if s := x.pool.Stats(); s.Boots != 2 {
		t.Errorf("%+v", s)
	}
	var lost, done int
	for e, err := range audit.Read(x.audit, 0) {
		check(t, err)
		row, err := e.Row()
		check(t, err)
		if row.Error != "" {
			lost++
		} else if row.Accepted {
			done++
		}
	}
	if lost != 1 || done != 1 {
		t.Errorf("%d rows of lost runs, %d of others", lost, done)
	}
}

// While the scheduler is away, and after it is back, compiles go on.
func TestSchedulerAway(t *testing.T) {
	x := newSite(t)
	alice := x.client("alice")
	_, err := alice.Compile(t.Context(), request(sources, nil, gcc...))
	check(t, err)
	x.stopScheduler()
	hit, err := alice.Compile(t.Context(), request(sources, nil, gcc...))
	check(t, err)
	if !hit.Hit {
		t.Error("no hit")
	}
	waitFor(t, "the worker's notice", func() bool { return !x.registered() })
	x.startScheduler()
	waitFor(t, "the worker's return", x.registered)
	_, err = x.client("mallory").Compile(t.Context(), request(sources, nil, gcc...))
	check(t, err)
}

// A worker that is told to end finishes what it has, and takes nothing more.
func TestDrain(t *testing.T) {
	x := newSite(t)
	word := fmt.Sprintf("drain-%d", os.Getpid())
	alice := x.client("alice")
	ended := make(chan error, 1)
	go func() {
		r, err := alice.Compile(t.Context(), sleeper(word))
		if err == nil && len(r.Outputs) != 1 {
			err = errors.New("no output")
		}
		ended <- err
	}()
	waitFor(t, "the job", func() bool { return len(processes(word)) > 0 })
	stopped := make(chan struct{})
	go func() {
		x.stopWorker()
		close(stopped)
	}()
	waitFor(t, "the refusal", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		defer cancel()
		_, err := x.client("mallory").Compile(ctx, request(sources, nil, gcc...))
		var away *remote.UnavailableError
		return errors.As(err, &away)
	})
	select {
	case <-stopped:
		t.Error("it did not wait")
	case err := <-ended:
		t.Errorf("the job ended: %v", err)
	default:
	}
	waitFor(t, "the end", func() bool {
		release(word)
		select {
		case err := <-ended:
			check(t, err)
			return true
		default:
			return false
		}
	})
	<-stopped
}

// One machine's worth of equal compiles at once is one compile.
func TestManyEqualCompiles(t *testing.T) {
	x := newSite(t)
	const n = 32
	var all sync.WaitGroup
	misses := make(chan struct{}, n)
	want := plain(t, sources)
	for range n {
		c := x.client("alice")
		all.Go(func() {
			r, err := c.Compile(t.Context(), request(sources, nil, gcc...))
			if err != nil {
				t.Error(err)
				return
			}
			if !r.Hit {
				misses <- struct{}{}
			}
			if !bytes.Equal(r.Outputs[0].Data, want) {
				t.Error("another object")
			}
		})
	}
	all.Wait()
	if len(misses) != 1 {
		t.Errorf("%d compiles", len(misses))
	}
}
