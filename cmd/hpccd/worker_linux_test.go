package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/remote"
	"hpcc.dev/hpcc/internal/rootfs"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/internal/vm/vmtest"
	"hpcc.dev/hpcc/internal/worker"
)

const workerPatience = 2 * time.Minute

// plainMachines runs agents on this machine's kernel and root, having seen that
// the drive is the tenant's own.
type plainMachines struct {
	vm.Runtime
	drives chan string
}

func (p plainMachines) Start(ctx context.Context, spec vm.Spec) (vm.Machine, error) {
	b, err := os.ReadFile(spec.Rootfs.Path)
	if err != nil {
		return nil, err
	}
	if len(b) == 0 || spec.Rootfs.RootHash == "" || spec.Rootfs.DataBlocks == 0 {
		return nil, errors.New("no image")
	}
	p.drives <- spec.Rootfs.Path
	spec.Rootfs = vm.Rootfs{Path: "/"}
	return p.Runtime.Start(ctx, spec)
}

// pair is a scheduler and a worker, run from files as their users write them.
type pair struct {
	dir, state     string // of the settings, and the worker's
	scheduler, ca  string // address, and certificate file
	alice          string // a credential of tenant red
	worker         *config.Worker
	machines       plainMachines
	routed, worked chan error
	stop, stopWork context.CancelFunc
	makeRuntime    runtimeMaker
}

// startPair starts both. images are lines for the worker's table of that name;
// before is called once the worker's state directory is known.
func startPair(t *testing.T, images string, before func(state string)) *pair {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("the agent makes mounts and namespaces: run the tests as root")
	}
	dir := t.TempDir()
	t.Setenv("HPCC_CONFIG_DIR", dir)
	agent := filepath.Join(dir, "hpcc-agent")
	build := exec.Command("go", "build", "-trimpath", "-o", agent, "./cmd/hpcc-agent")
	build.Dir = "../../agent"
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		t.Helper()
		must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	ca, err := auth.InitCA(filepath.Join(dir, "ca"), "test")
	must(err)
	caFile := filepath.Join(dir, "ca", "ca.crt")
	certOf := map[string]auth.Issued{}
	for _, name := range []string{"scheduler", "w1"} {
		certOf[name], err = ca.Issue(name, []string{"127.0.0.1"}, dir)
		must(err)
	}
	alice, aliceHash := auth.NewCredential()
	w1, w1Hash := auth.NewCredential()
	write("scheduler.toml", fmt.Sprintf(`listen = "127.0.0.1:0"
http_listen = ""
tls_cert = %q
tls_key = %q
[[worker]]
name = "w1"
sha256 = %q
[[tenant]]
name = "red"
credential = [{ subject = "alice", sha256 = %q }]
`, certOf["scheduler"].CertFile, certOf["scheduler"].KeyFile, w1Hash, aliceHash))
	sc, err := config.LoadScheduler()
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	routing := make(chan string, 1)
	routed := make(chan error, 1)
	go func() {
		routed <- runScheduler(ctx, sc, nil, slog.New(slog.DiscardHandler), func(grpc, _ string) { routing <- grpc })
	}()
	var schedulerAddr string
	select {
	case schedulerAddr = <-routing:
	case err := <-routed:
		t.Fatal(err)
	}

	state := filepath.Join(dir, "state")
	if before != nil {
		before(state)
	}

	write("w1.credential", w1+"\n")
	write("worker.toml", fmt.Sprintf(`name = "w1"
listen = "127.0.0.1:0"
advertise = "127.0.0.1:1"
http_listen = "127.0.0.1:0"
tls_cert = %q
tls_key = %q
state_dir = %q
[scheduler]
address = %q
ca = %q
credential_file = %q
[firecracker]
guest_kit = %q
[sessions]
memory_mib = 1024
vcpus = 2
[limits]
memory = "1GiB"
[images]
%s
`, certOf["w1"].CertFile, certOf["w1"].KeyFile, state, schedulerAddr, caFile, filepath.Join(dir, "w1.credential"), dir, images))
	wc, err := config.LoadWorker()
	must(err)
	sockets, err := os.MkdirTemp("", "vm")
	must(err)
	t.Cleanup(func() { os.RemoveAll(sockets) })
	machines := plainMachines{&vmtest.Process{Agent: agent, Dir: sockets}, make(chan string, 16)}
	makeRuntime := func(context.Context, *config.Worker, *slog.Logger) (vm.Runtime, error) { return machines, nil }
	working, stopWork := context.WithCancel(ctx)
	compiling := make(chan string, 1)
	worked := make(chan error, 1)
	for started := false; !started; {
		// Ports are known once they are taken, the settings before that.
		wc.Listen, wc.HTTPListen = freePorts(t)
		wc.Advertise = wc.Listen
		go func() {
			worked <- runWorker(working, wc, makeRuntime, nil, slog.New(slog.DiscardHandler), func(grpc, _ string) { compiling <- grpc })
		}()
		select {
		case <-compiling:
			started = true
		case err := <-worked:
			if !errors.Is(err, syscall.EADDRINUSE) { // another program was faster
				t.Fatal(err)
			}
		}
	}
	p := &pair{
		dir: dir, state: state, scheduler: schedulerAddr, ca: caFile, alice: alice, worker: wc, machines: machines,
		routed: routed, worked: worked, stop: cancel, stopWork: stopWork, makeRuntime: makeRuntime,
	}
	t.Cleanup(func() {
		// Both may have been ended.
		stopWork()
		cancel()
	})
	return p
}

// client is alice's.
func (p *pair) client(t *testing.T) *remote.Client {
	t.Helper()
	tls, err := auth.CATLS(p.ca)
	if err != nil {
		t.Fatal(err)
	}
	client, err := remote.New(remote.Options{
		Scheduler: p.scheduler, TLS: tls, Credential: func(context.Context) (string, error) { return p.alice, nil },
		Platform: "linux/" + runtime.GOARCH, RouteTimeout: workerPatience, DialTimeout: workerPatience, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// end ends both, and waits for them.
func (p *pair) end(t *testing.T) {
	t.Helper()
	p.stopWork()
	if err := <-p.worked; err != nil {
		t.Error(err)
	}
	p.stop()
	if err := <-p.routed; err != nil {
		t.Error(err)
	}
}

// compileIn is a small compile in an image.
func compileIn(image string) *remote.Request {
	source := []byte("int f(int x) { return x + 1; }\n")
	return &remote.Request{
		Job: &action.Job{
			Image: image, Argv: []string{"gcc", "-c", "a.c", "-o", "/hpcc/out/object"}, Cwd: "/hpcc/src", Roots: []string{"/hpcc/src", "/hpcc/out"},
			Source: "/hpcc/src/a.c", Outputs: []action.Declared{{Role: "object", Path: "/hpcc/out/object"}},
		},
		Tree: action.Tree{"/hpcc/src/a.c": {Digest: digest.Of(source)}},
		Open: func(context.Context, digest.Digest) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(source)), nil
		},
	}
}

// TestWorker runs scheduler and worker from files, as a client sees them.
func TestWorker(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	// The image that is in the store is not what machines of this test run on.
	layout, image := writeLayout(t, emptyFile, runtime.GOARCH)
	leftover := ""
	p := startPair(t, "", func(state string) {
		store, err := rootfs.Open(rootfs.Options{Dir: filepath.Join(state, "images")})
		must(err)
		src, closer, err := rootfs.Layout(layout, "v1")
		must(err)
		_, err = store.Build(ctx, src, nil)
		must(errors.Join(err, closer.Close()))
		// What a killed worker left.
		must(os.MkdirAll(filepath.Join(state, "drives", "red"), 0o700))
		leftover = filepath.Join(state, "drives", "red", "x.img")
		must(os.WriteFile(leftover, nil, 0o600))
	})
	wc, state, machines := p.worker, p.state, p.machines
	if _, err := os.Stat(leftover); err == nil {
		t.Error("what a killed worker left is still there")
	}
	// A second worker with these settings harms nobody.
	if err := runWorker(ctx, wc, p.makeRuntime, nil, slog.New(slog.DiscardHandler), nil); !errors.Is(err, audit.ErrLocked) {
		t.Errorf("a second worker: %v", err)
	}

	client := p.client(t)
	request := compileIn(image)
	for _, hit := range []bool{false, true} {
		r, err := client.Compile(ctx, request)
		must(err)
		if r.Hit != hit || r.ExitCode != 0 || len(r.Outputs) != 1 || len(r.Outputs[0].Data) == 0 {
			t.Errorf("%+v", r)
		}
	}
	if drive := <-machines.drives; !strings.HasPrefix(drive, filepath.Join(state, "drives", "red")+"/") {
		t.Errorf("the machine's drive is %s", drive)
	}
	files, err := client.Describe(ctx, image, []string{"/file", "/none"})
	must(err)
	if len(files) != 2 || files[0] != digest.Of(nil) || !files[1].IsZero() {
		t.Errorf("%v", files)
	}
	// An image that is nowhere.
	other := *request
	job := *request.Job
	job.Image = "sha256:" + strings.Repeat("0", 64)
	other.Job = &job
	var refused *remote.RefusedError
	if _, err := client.Compile(ctx, &other); !errors.As(err, &refused) || !strings.Contains(err.Error(), "hpcc image build") {
		t.Errorf("%v", err)
	}

	// What people see.
	t.Setenv("HPCC_WORKER_HTTP_LISTEN", wc.HTTPListen)
	a, stdout, stderr := fixture(t)
	t.Setenv("HPCC_CONFIG_DIR", p.dir) // fixture has its own
	if code := a.run([]string{"worker", "status", "--json"}); code != 0 {
		t.Fatalf("%d: %s", code, stderr)
	}
	var st worker.Status
	must(json.Unmarshal(stdout.Bytes(), &st))
	if st.Worker != "w1" || len(st.Tenants) != 1 || st.Tenants[0].Results != 1 || st.Machines.Ready != 1 || st.Answered.IsZero() {
		t.Errorf("%s", stdout)
	}
	stdout.Reset()
	if code := a.run([]string{"worker", "status"}); code != 0 || !strings.Contains(stdout.String(), "session\tred with "+image) || !strings.Contains(stdout.String(), "store of red\t1 results in ") {
		t.Errorf("%d: %s%s", code, stdout, stderr)
	}

	p.end(t)
	n := 0
	for e, err := range audit.Read(filepath.Join(state, "audit"), 0) {
		must(err)
		row, err := e.Row()
		must(err)
		if row.Tenant != "red" || row.Image != image || row.Accepted == row.Offered || row.Offered != (row.Cache == audit.Hit) {
			t.Errorf("%+v", row)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d rows", n)
	}
	stdout.Reset()
	stderr.Reset()
	if code := a.run([]string{"worker", "status"}); code != 1 || !strings.Contains(stderr.String(), "the worker does not answer") {
		t.Errorf("%d: %s", code, stderr)
	}
}

// freePorts are two addresses that nobody else listened on a moment ago.
func freePorts(t *testing.T) (one, other string) {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	a, b := listen(), listen()
	defer a.Close()
	defer b.Close()
	return a.Addr().String(), b.Addr().String()
}
