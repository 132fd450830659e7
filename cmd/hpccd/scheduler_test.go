package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/config"
	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
)

const schedulerPatience = 2 * time.Minute

// lines passes each line of a log on.
type lines struct {
	mu   sync.Mutex
	rest []byte
	to   chan string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		l.to <- string(l.rest[:i])
		l.rest = l.rest[i+1:]
	}
}

// await reads the log up to a line that holds text.
func (l *lines) await(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(schedulerPatience)
	for {
		select {
		case line := <-l.to:
			if strings.Contains(line, text) {
				return
			}
		case <-timeout:
			t.Fatalf("the log does not say %q", text)
		}
	}
}

// TestScheduler runs the role from a file, as a client and a worker see it.
func TestScheduler(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HPCC_CONFIG_DIR", dir)
	ca, err := auth.InitCA(filepath.Join(dir, "ca"), "test")
	if err != nil {
		t.Fatal(err)
	}
	issued, err := ca.Issue("scheduler", []string{"localhost", "127.0.0.1"}, dir)
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(caFile, ca.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	alice, aliceHash := auth.NewCredential()
	bob, bobHash := auth.NewCredential()
	w1, w1Hash := auth.NewCredential()
	image := "sha256:" + strings.Repeat("a", 64)
	write := func(more string) {
		t.Helper()
		text := fmt.Sprintf(`listen = "127.0.0.1:0"
http_listen = ""
tls_cert = %q
tls_key = %q
[[worker]]
name = "w1"
sha256 = %q
[[tenant]]
name = "red"
images = ["gcc@%s"]
credential = [{ subject = "alice", sha256 = %q }]
%s`, issued.CertFile, issued.KeyFile, w1Hash, image, aliceHash, more)
		if err := os.WriteFile(filepath.Join(dir, "scheduler.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The one heartbeat of w1 counts to the end, however long that takes.
	write("[heartbeat]\nexpiry = \"1h\"\n")
	c, err := config.LoadScheduler()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	hup := make(chan os.Signal)
	log := &lines{to: make(chan string, 10_000)}
	addr := make(chan string, 1)
	served := make(chan error, 1)
	go func() {
		served <- runScheduler(ctx, c, hup, slog.New(slog.NewTextHandler(log, nil)), func(grpc, http string) {
			if http != "" {
				t.Errorf("HTTP on %s", http)
			}
			addr <- grpc
		})
	}()
	var target string
	select {
	case target = <-addr:
	case err := <-served:
		t.Fatal(err)
	}

	tls, err := auth.CATLS(caFile)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	as := func(credential string) context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), schedulerPatience)
		t.Cleanup(cancel)
		return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+credential)
	}
	if _, err := schedulerv1.NewRegistryServiceClient(conn).Heartbeat(as(w1), &schedulerv1.HeartbeatRequest{
		Worker: "w1", Address: "127.0.0.1:1", TlsPin: make([]byte, 32), Platform: "linux/amd64", Capacity: 1,
	}); err != nil {
		t.Fatal(err)
	}
	ask := func(credential string) codes.Code {
		_, err := schedulerv1.NewSchedulerServiceClient(conn).Route(as(credential), &schedulerv1.RouteRequest{Image: image, Platform: "linux/amd64"})
		return status.Code(err)
	}
	want := func(when string, aliceGets, bobGets codes.Code) {
		t.Helper()
		if a, b := ask(alice), ask(bob); a != aliceGets || b != bobGets {
			t.Errorf("%s: alice gets %v, bob %v; want %v, %v", when, a, b, aliceGets, bobGets)
		}
	}
	want("at first", codes.OK, codes.Unauthenticated)
	withBob := fmt.Sprintf("[[tenant]]\nname = \"blue\"\ncredential = [{ subject = \"bob\", sha256 = %q }]\n", bobHash)
	write(withBob)
	hup <- syscall.SIGHUP
	log.await(t, "credentials reloaded")
	want("with bob", codes.OK, codes.OK)
	write("[[tenant]]\nnam = 1\n")
	hup <- syscall.SIGHUP
	log.await(t, "unknown key tenant.nam: did you mean tenant.name?")
	want("after a slip", codes.OK, codes.OK)
	write("[heartbeat]\ninterval = \"1s\"\n")
	hup <- syscall.SIGHUP
	log.await(t, "they count after a restart")
	want("without bob", codes.OK, codes.Unauthenticated)

	cancel()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(schedulerPatience):
		t.Fatal("the scheduler does not stop")
	}
}

// What keeps a scheduler from starting is said with the next step.
func TestSchedulerErrors(t *testing.T) {
	dir := t.TempDir()
	ca, err := auth.InitCA(filepath.Join(dir, "ca"), "test")
	if err != nil {
		t.Fatal(err)
	}
	issued, err := ca.Issue("scheduler", []string{"localhost"}, dir)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*config.Scheduler)
		hint   string
	}{
		{"certificate", func(c *config.Scheduler) { c.TLSCert = filepath.Join(dir, "none") }, "hpcc ca issue"},
		{"keys", func(c *config.Scheduler) { c.KeyDir = file }, "key_dir"},
		{"port", func(c *config.Scheduler) { c.Listen = taken.Addr().String() }, "another program has the port"},
		{"HTTP port", func(c *config.Scheduler) { c.HTTPListen = taken.Addr().String() }, "set http_listen"},
		{"address", func(c *config.Scheduler) { c.Listen = "192.0.2.1:1" }, "an address of this machine"},
		{"names", func(c *config.Scheduler) {
			c.Workers = []config.WorkerCredential{{Name: "con", SHA256: strings.Repeat("1", 64)}}
		}, "correct the entry"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &config.Scheduler{
				Listen: "127.0.0.1:0", TLSCert: issued.CertFile, TLSKey: issued.KeyFile,
				KeyDir: filepath.Join(dir, "keys"), Token: time.Minute,
			}
			tt.change(c)
			ctx, cancel := context.WithCancel(context.Background())
			err := runScheduler(ctx, c, nil, slog.New(slog.DiscardHandler), func(string, string) { cancel() })
			cancel()
			var h hinted
			if !errors.As(err, &h) || !strings.Contains(h.hint, tt.hint) {
				t.Errorf("%v, hint %q; want one of %q", err, h.hint, tt.hint)
			}
		})
	}
}
