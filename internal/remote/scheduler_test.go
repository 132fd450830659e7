package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"hpcc.dev/hpcc/internal/auth"
	realscheduler "hpcc.dev/hpcc/internal/scheduler"
	"hpcc.dev/hpcc/internal/worker"
	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// TestRealScheduler has client, scheduler and worker talk to each other as they
// are, tokens included.
func TestRealScheduler(t *testing.T) {
	clients, clientHash := auth.NewCredential()
	workers, workerHash := auth.NewCredential()
	known, err := auth.NewCredentials([]auth.Credential{
		{Hash: clientHash, Identity: auth.Identity{Role: auth.Client, Tenant: "acme", Subject: "ci", Images: []string{image}}},
		{Hash: workerHash, Identity: auth.Identity{Role: auth.Worker, Subject: "real"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := auth.OpenKeyring(t.TempDir(), auth.KeyringOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := realscheduler.New(realscheduler.Options{Keys: keys, Credentials: known, Expiry: 5 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	l, wl := listen(t), listen(t) // closed last
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() { stop(); running.Wait() })
	cert, _ := certificate(t)
	running.Go(func() {
		if err := s.Serve(ctx, l, nil, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}); err != nil {
			t.Error(err)
		}
	})
	known1 := &scheduler{address: l.Addr().String(), cert: cert}

	// The worker, which reports as it would.
	verifier := auth.NewVerifier()
	m := &machine{}
	log := &memoryLog{}
	service, err := worker.New(worker.Options{
		Name: "real", Version: "test", Dir: t.TempDir(), Verifier: verifier, Machines: m, Images: noImages{}, Audit: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	workerCert, pin := certificate(t)
	g := grpc.NewServer(append(service.ServerOptions(), grpc.WaitForHandlers(true), grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{workerCert}})))...)
	workerv1.RegisterWorkerServiceServer(g, service)
	running.Go(func() { _ = g.Serve(wl) })
	t.Cleanup(func() { g.Stop(); service.Close() })
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(known1.trusted())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	beat, err := schedulerv1.NewRegistryServiceClient(conn).Heartbeat(authorize(within(t), workers), &schedulerv1.HeartbeatRequest{
		Worker: "real", Address: wl.Addr().String(), TlsPin: pin[:], Platform: "linux/amd64", Capacity: 4, Images: []string{image},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := verifier.Update(beat.GetJwks()); err != nil {
		t.Fatal(err)
	}

	c := newClient(t, known1, func(o *Options) { o.Credential = func(context.Context) (string, error) { return clients, nil } })
	first, err := c.Compile(within(t), project.request(all...))
	if err != nil || first.Worker != "real" || string(first.Outputs[0].Data) != object {
		t.Fatalf("%+v, %v", first, err)
	}
	if hit, err := c.Compile(within(t), project.request(all...)); err != nil || !hit.Hit || hit.Key != first.Key || m.runs != 1 {
		t.Errorf("%+v, %v", hit, err)
	}
	if r := log.rows[0]; r.Tenant != "acme" || r.Subject != "ci" {
		t.Errorf("%+v", r)
	}
	// What each of the two does not allow.
	var refused *RefusedError
	other := project.request(all...)
	other.Job.Image = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	if _, err := c.Compile(within(t), other); !errors.As(err, &refused) {
		t.Error(err)
	}
	stranger, _ := auth.NewCredential()
	for _, credential := range []string{stranger, workers, "", "guessed"} {
		c := newClient(t, known1, func(o *Options) { o.Credential = func(context.Context) (string, error) { return credential, nil } })
		if _, err := c.Compile(within(t), project.request(all...)); !errors.As(err, &refused) {
			t.Errorf("%v", err)
		}
	}
	// A worker that lies is avoided by name; the scheduler has no other.
	c.health.lied("real", errors.New("a test"))
	var away *UnavailableError
	if _, err := c.Compile(within(t), project.request(all...)); !errors.As(err, &away) {
		t.Error(err)
	}
}
