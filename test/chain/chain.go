//go:build linux

// Package chain starts the whole of hpcc on loopback, for tests and benchmarks:
// scheduler and clients are the programs that are shipped, workers run in this
// process over the runtime that isolates nothing (vmtest.Process), with this
// machine's own root as their image. It needs root.
package chain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/tiers"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/internal/vm/vmtest"
	"hpcc.dev/hpcc/internal/worker"
)

// Image is what this machine's root is called.
const Image = "sha256:00000000000000000000000000000000000000000000000000000000000000aa"

// tenant is whose all clients are.
const tenant = "acme"

// Options of a Chain.
type Options struct {
	// Bin has hpcc, hpccd and hpcc-agent.
	Bin string
	// Workers is how many there are. Without a Tier they have one directory of
	// tenants' stores.
	Workers int
	// Tier is a shared cache; each worker has a directory and a signing key of its
	// own then. The environment has the credentials of a bucket.
	Tier *config.Tier
	// VCPUs of each, which is how many jobs it runs at once.
	VCPUs int
	// Log gets what the parts log; nil for nowhere.
	Log *slog.Logger
}

// Chain is what was started. Its methods are for one goroutine.
type Chain struct {
	Dir     string
	opt     Options
	ca      *auth.CA
	sched   *exec.Cmd
	address string // of the scheduler
	clients []string
	workers []*Worker
	hashes  map[string]string // TOML of credentials, by who has it
	secrets map[string]string
}

// trustedKeys is the file with the workers' public keys, if they have any.
func (c *Chain) trustedKeys() string { return filepath.Join(c.Dir, "trusted-keys") }

// signingKey is the file of a worker's key.
func (c *Chain) signingKey(worker string) string { return filepath.Join(c.Dir, worker+".signing-key") }

// makeKeys makes a signing key for each worker, and the file of those that are
// trusted.
func (c *Chain) makeKeys() error {
	var lines []string
	for i := range c.opt.Workers {
		name := fmt.Sprintf("worker-%d", i+1)
		line, err := shared.GenerateKey(c.signingKey(name), shared.RoleWorker, name)
		if err != nil {
			return err
		}
		lines = append(lines, line)
	}
	return os.WriteFile(c.trustedKeys(), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
}

// TierSettings are the tables of a client.toml for who takes from the workers' tier
// what they wrote there.
func (c *Chain) TierSettings() string {
	t := c.opt.Tier
	text := fmt.Sprintf("[cache]\ntenant = %q\ntrusted_keys_file = %q\ntrust = \"workers\"\n[[cache.tiers]]\nname = %q\naccess = \"read-only\"\nread_timeout = %q\n",
		tenant, c.trustedKeys(), t.Name, t.ReadTimeout)
	if t.Dir != "" {
		return text + fmt.Sprintf("url = %q\n", "file://"+t.Dir)
	}
	return text + fmt.Sprintf("url = %q\nregion = %q\nendpoint = %q\npath_style = %v\n", "s3://"+t.Bucket, t.Region, t.Endpoint, t.PathStyle)
}

// Worker is one that runs in this process.
type Worker struct {
	Name    string
	pool    *vm.Pool
	journal *audit.Journal
	service *worker.Service
	audit   string
	// tier is what it shares with others, and caches are its tenants' parts of that.
	tier   *tiers.Set
	mu     sync.Mutex
	caches []*shared.Cache
	stop   context.CancelFunc
	done   chan error
	hurry  chan struct{}
	once   sync.Once
	err    error
	traffic
}

// traffic counts what crosses the sockets that a worker has accepted: with TLS,
// and without what TCP and IP put around it.
type traffic struct{ in, out atomic.Int64 }

// Traffic is how many bytes came to the worker so far, and how many it sent.
func (t *traffic) Traffic() (in, out int64) { return t.in.Load(), t.out.Load() }

type listener struct {
	net.Listener
	*traffic
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return conn{c, l.traffic}, nil
}

type conn struct {
	net.Conn
	*traffic
}

func (c conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.in.Add(int64(n))
	return n, err
}

func (c conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.out.Add(int64(n))
	return n, err
}

// Start starts scheduler and workers, and returns once clients can be served.
// clients are those that NewClient may make.
func Start(ctx context.Context, opt Options, clients ...string) (_ *Chain, err error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := os.MkdirTemp("", "hpcc-chain-") // short, for sockets below it
	if err != nil {
		return nil, err
	}
	c := &Chain{Dir: dir, opt: opt, clients: clients, hashes: map[string]string{}, secrets: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if c.ca, err = auth.InitCA(filepath.Join(dir, "ca"), "test"); err != nil {
		return nil, err
	}
	if err := c.StartScheduler(ctx); err != nil {
		return nil, err
	}
	if opt.Tier != nil {
		if err := c.makeKeys(); err != nil {
			return nil, err
		}
	}
	for i := range opt.Workers {
		w, err := c.startWorker(ctx, fmt.Sprintf("worker-%d", i+1))
		if err != nil {
			return nil, err
		}
		c.workers = append(c.workers, w)
	}
	return c, c.ready(ctx)
}

// credential makes one, and remembers how the scheduler knows it.
func (c *Chain) credential(who string) string {
	if c.secrets[who] == "" {
		secret, hash := auth.NewCredential()
		c.secrets[who], c.hashes[who] = secret, hash.String()
	}
	return c.secrets[who]
}

// freePort is one that nothing listens on.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// StartScheduler starts the scheduler, again if it was killed.
func (c *Chain) StartScheduler(ctx context.Context) error {
	dir := filepath.Join(c.Dir, "scheduler")
	if c.address == "" {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if _, err := c.ca.Issue("scheduler", []string{"127.0.0.1"}, dir); err != nil {
			return err
		}
		address, err := freePort()
		if err != nil {
			return err
		}
		var text strings.Builder
		fmt.Fprintf(&text, "listen = %q\nhttp_listen = \"\"\ntls_cert = %q\ntls_key = %q\nkey_dir = %q\n[heartbeat]\ninterval = \"200ms\"\nexpiry = \"5s\"\n[[tenant]]\nname = %q\n",
			address, dir+"/scheduler.crt", dir+"/scheduler.key", dir+"/keys", tenant)
		for _, name := range c.clients {
			c.credential(name)
			fmt.Fprintf(&text, "[[tenant.credential]]\nsubject = %q\nsha256 = %q\n", name, c.hashes[name])
		}
		for i := range c.opt.Workers {
			name := fmt.Sprintf("worker-%d", i+1)
			c.credential(name)
			fmt.Fprintf(&text, "[[worker]]\nname = %q\nsha256 = %q\n", name, c.hashes[name])
		}
		if err := os.WriteFile(dir+"/scheduler.toml", []byte(text.String()), 0o600); err != nil {
			return err
		}
		c.address = address
	}
	output, err := os.OpenFile(dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	c.sched = exec.Command(filepath.Join(c.opt.Bin, "hpccd"), "scheduler")
	c.sched.Env = append(os.Environ(), "HPCC_CONFIG_DIR="+dir)
	c.sched.Stdout, c.sched.Stderr = output, output
	if err := c.sched.Start(); err != nil {
		return err
	}
	for {
		if conn, err := net.Dial("tcp", c.address); err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			text, _ := os.ReadFile(dir + "/log")
			return fmt.Errorf("the scheduler does not listen: %s", text)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// KillScheduler ends the scheduler at once.
func (c *Chain) KillScheduler() {
	if c.sched != nil && c.sched.Process != nil {
		_ = c.sched.Process.Kill()
		_ = c.sched.Wait()
	}
	c.sched = nil
}

// Worker is the i-th, from 0.
func (c *Chain) Worker(i int) *Worker { return c.workers[i] }

func (c *Chain) startWorker(ctx context.Context, name string) (*Worker, error) {
	dir := filepath.Join(c.Dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	w := &Worker{Name: name, audit: dir + "/audit", done: make(chan error, 1), hurry: make(chan struct{})}
	issued, err := c.ca.Issue(name, []string{"127.0.0.1"}, dir)
	if err != nil {
		return nil, err
	}
	cert, pin, err := auth.ServerTLS(issued.CertFile, issued.KeyFile, c.opt.Log)
	if err != nil {
		return nil, err
	}
	scheduler, err := auth.CATLS(filepath.Join(c.Dir, "ca", "ca.crt"))
	if err != nil {
		return nil, err
	}
	machines := filepath.Join(c.Dir, "m"+name[len(name)-1:])
	if err := os.Mkdir(machines, 0o700); err != nil {
		return nil, err
	}
	w.pool, err = vm.NewPool(vm.PoolOptions{
		Runtime: &vmtest.Process{Agent: filepath.Join(c.opt.Bin, "hpcc-agent"), Dir: machines},
		Spec: func(context.Context, vm.SessionKey) (vm.Spec, func(), error) {
			return vm.Spec{Rootfs: vm.Rootfs{Path: "/"}}, nil, nil
		},
		MemoryMiB: 4096, VCPUs: c.opt.VCPUs, MachineMemoryMiB: 4096, MachineVCPUs: c.opt.VCPUs, Log: c.opt.Log,
	})
	if err != nil {
		return nil, err
	}
	if w.journal, err = audit.OpenJournal(w.audit, audit.Options{}); err != nil {
		return nil, err
	}
	verifier := auth.NewVerifier()
	opt := worker.Options{
		Name: name, Version: "test", Dir: c.Dir, StoreBytes: 10 << 30, Verifier: verifier, Machines: worker.Pooled{Pool: w.pool},
		Images: root{}, Audit: w.journal, Limits: agentapi.Limits{MemoryBytes: 2 << 30}, Log: c.opt.Log,
	}
	if c.opt.Tier != nil {
		if w.tier, err = tiers.Open(&config.Shared{
			SigningKeyFile: c.signingKey(name), TrustedKeysFile: c.trustedKeys(), Trust: config.TrustWorkers, Tiers: []config.Tier{*c.opt.Tier},
		}, c.opt.Log); err != nil {
			return nil, err
		}
		opt.Dir, opt.Shared = dir, w.share
	}
	if w.service, err = worker.New(opt); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	serve, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	go func() {
		w.done <- w.service.Serve(serve, listener{ln, &w.traffic}, worker.ServeOptions{TLS: cert, DrainTime: 10 * time.Second, Hurry: w.hurry, Registration: worker.Registration{
			Scheduler: c.address, TLS: scheduler, Credential: func() (string, error) { return c.secrets[name], nil },
			Advertise: ln.Addr().String(), Platform: "linux/amd64", Pin: pin,
			Images: func() ([]string, error) { return []string{Image}, nil }, Keys: verifier.Update,
		}})
	}()
	return w, nil
}

// share makes a tenant's part of the tier.
func (w *Worker) share(tenant string) (worker.Shared, error) {
	c, err := w.tier.Cache(tenant)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.caches = append(w.caches, c)
	return c, nil
}

// Written waits until what the worker made is in the tier.
func (w *Worker) Written(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.caches {
		if err := c.Drain(ctx); err != nil {
			return err
		}
	}
	return nil
}

// root is this machine's root as an image.
type root struct{}

func (root) File(_ context.Context, image, path string) (digest.Digest, bool, error) {
	if image != Image {
		return digest.Digest{}, false, &worker.ImageError{Image: image, Err: errors.New("no such image")}
	}
	d, err := digest.OfFile(path)
	return d, err == nil, nil
}

// Stop ends the worker, and waits for it.
func (w *Worker) Stop() error {
	w.once.Do(func() {
		if w.stop != nil {
			w.stop()
			w.err = <-w.done
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if w.pool != nil {
			w.err = errors.Join(w.err, w.pool.Close(ctx))
		}
		if w.service != nil {
			w.err = errors.Join(w.err, w.service.Close())
		}
		if w.tier != nil {
			w.err = errors.Join(w.err, w.tier.Close())
		}
		if w.journal != nil {
			w.err = errors.Join(w.err, w.journal.Close())
		}
	})
	return w.err
}

// Busy tells whether the worker has a compile.
func (w *Worker) Busy() bool { return w.service.Streams() > 0 }

// Break has the worker end all that it does, at once.
func (w *Worker) Break() { close(w.hurry); w.stop() }

// Rows are the worker's audit rows so far.
func (w *Worker) Rows() (rows []*audit.Row, err error) {
	for e, err := range audit.Read(w.audit, 0) {
		if err != nil {
			return nil, err
		}
		row, err := e.Row()
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// ready waits until a client is routed.
func (c *Chain) ready(ctx context.Context) error {
	if len(c.workers) == 0 || len(c.clients) == 0 {
		return nil
	}
	cl, err := c.NewClient(ctx, c.clients[0], ClientOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = cl.Stop() }()
	for {
		out, err := cl.Command(c.Dir, "gcc", "-dumpmachine").CombinedOutput()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no compile is possible: %s", out)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Stop ends everything, and removes it.
func (c *Chain) Stop() error {
	var errs []error
	for _, w := range c.workers {
		errs = append(errs, w.Stop())
	}
	if c.sched != nil {
		_ = c.sched.Process.Signal(syscall.SIGTERM)
		_ = c.sched.Wait()
	}
	return errors.Join(append(errs, os.RemoveAll(c.Dir))...)
}
