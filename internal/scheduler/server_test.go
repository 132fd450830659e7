package scheduler

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/auth"
	"hpcc.dev/hpcc/internal/telemetry"
	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
)

func TestRouteOverTheWire(t *testing.T) {
	x := newSite(t, nil)
	conn := x.dial()
	client := schedulerv1.NewSchedulerServiceClient(conn)
	for i, name := range []string{"w1", "w2", "w3", "w4"} {
		req := beatOf(name)
		req.Images = []string{imageA, imageB}
		req.Running = uint32(i)
		x.report(conn, req)
	}
	before := time.Now()
	resp, err := client.Route(x.as("alice"), &schedulerv1.RouteRequest{Image: imageA, Platform: amd64})
	if err != nil {
		t.Fatal(err)
	}
	if got := workersOf(resp); got != "w1 w2 w3" {
		t.Fatalf("workers %q", got)
	}
	if e := resp.Expires.AsDuration(); e <= 0 || e >= DefaultToken {
		t.Errorf("the answer is good for %v, its tokens for %v", e, DefaultToken)
	}
	// What a worker does with the tokens, with keys from its own heartbeat.
	v := auth.NewVerifier()
	if err := v.Update(x.report(conn, beatOf("w4")).Jwks); err != nil {
		t.Fatal(err)
	}
	for _, w := range resp.Workers {
		task, err := v.Verify(w.TaskToken, w.Worker)
		if err != nil {
			t.Fatal(err)
		}
		if task.Tenant != "red" || task.Subject != "alice" || task.Image != imageA || task.Worker != w.Worker {
			t.Errorf("token says %+v", task)
		}
		if left := task.Expires.Sub(before); left < DefaultToken-time.Second || left > DefaultToken+patient {
			t.Errorf("token lives for %v", left)
		}
		if w.Address != w.Worker+".example.com:7510" || !bytes.Equal(w.TlsPin, bytes.Repeat([]byte{7}, 32)) {
			t.Errorf("assignment %+v", w)
		}
		if _, err := v.Verify(w.TaskToken, "w4"); err == nil {
			t.Error("a token is good for another worker")
		}
	}
	resp, err = client.Route(x.as("alice"), &schedulerv1.RouteRequest{Image: imageA, Platform: amd64, Avoid: []string{"w1", "w2"}})
	if err != nil || workersOf(resp) != "w3 w4" {
		t.Errorf("w1 and w2 avoided: %q, %v", workersOf(resp), err)
	}
}

func TestRefusals(t *testing.T) {
	x := newSite(t, nil)
	conn := x.dial()
	client, registry := schedulerv1.NewSchedulerServiceClient(conn), schedulerv1.NewRegistryServiceClient(conn)
	route := func(ctx context.Context) error {
		_, err := client.Route(ctx, &schedulerv1.RouteRequest{Image: imageA, Platform: amd64})
		return err
	}
	beat := func(ctx context.Context) error {
		_, err := registry.Heartbeat(ctx, beatOf("w1"))
		return err
	}
	workers := func(ctx context.Context) error {
		_, err := registry.Workers(ctx, &schedulerv1.WorkersRequest{})
		return err
	}
	stranger, _ := auth.NewCredential()
	good := "Bearer " + x.secrets["alice"]
	for _, tt := range []struct {
		name string
		call func(context.Context) error
		ctx  context.Context
		want codes.Code
		text string
	}{
		{"no credential", route, with(t), codes.Unauthenticated, "no credential"},
		{"nobody's", route, with(t, "Bearer "+stranger), codes.Unauthenticated, "nobody's"},
		{"no form", route, with(t, "Bearer x"), codes.Unauthenticated, ""},
		{"another scheme", route, with(t, "Basic "+x.secrets["alice"]), codes.Unauthenticated, ""},
		{"two credentials", route, with(t, good, good), codes.Unauthenticated, "more than one"},
		{"worker routes", route, x.as("w1"), codes.PermissionDenied, "worker"},
		{"operator routes", route, x.as("root"), codes.PermissionDenied, "operator"},
		{"client registers", beat, x.as("alice"), codes.PermissionDenied, "client"},
		{"operator registers", beat, x.as("root"), codes.PermissionDenied, "operator"},
		{"another worker's name", beat, x.as("w2"), codes.PermissionDenied, "the credential of worker w2"},
		{"client looks", workers, x.as("alice"), codes.PermissionDenied, ""},
		{"no one looks", workers, with(t), codes.Unauthenticated, ""},
		{"image of another tenant", route, x.as("bob"), codes.PermissionDenied, "tenant blue may not use image"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.call(tt.ctx)
			if status.Code(err) != tt.want || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
	for _, event := range []string{"credential-refused", "role-refused", "image-refused", "worker-refused"} {
		if !strings.Contains(x.metrics(), `hpcc_scheduler_refusals_total{event="`+event+`"}`) {
			t.Errorf("%s is not counted", event)
		}
	}
	if strings.Contains(x.log.String(), stranger) {
		t.Error("a credential that was refused is in the log")
	}
}

func TestInvalid(t *testing.T) {
	x := newSite(t, nil)
	conn := x.dial()
	for name, change := range map[string]func(*schedulerv1.HeartbeatRequest){
		"address":      func(r *schedulerv1.HeartbeatRequest) { r.Address = "nowhere" },
		"no host":      func(r *schedulerv1.HeartbeatRequest) { r.Address = ":80" },
		"no port":      func(r *schedulerv1.HeartbeatRequest) { r.Address = "w1:0" },
		"odd address":  func(r *schedulerv1.HeartbeatRequest) { r.Address = "w1\x1b[2J:80" },
		"long address": func(r *schedulerv1.HeartbeatRequest) { r.Address = strings.Repeat("a", 300) + ":80" },
		"pin":          func(r *schedulerv1.HeartbeatRequest) { r.TlsPin = r.TlsPin[1:] },
		"platform":     func(r *schedulerv1.HeartbeatRequest) { r.Platform = "linux" },
		"version":      func(r *schedulerv1.HeartbeatRequest) { r.Version = "1 0" },
		"no capacity":  func(r *schedulerv1.HeartbeatRequest) { r.Capacity = 0 },
		"capacity":     func(r *schedulerv1.HeartbeatRequest) { r.Capacity = 1 << 20 },
		"running":      func(r *schedulerv1.HeartbeatRequest) { r.Running = 1 << 31 },
		"image":        func(r *schedulerv1.HeartbeatRequest) { r.Images = []string{"gcc:12"} },
		"images":       func(r *schedulerv1.HeartbeatRequest) { r.Images = make([]string, maxImages+1) },
		"session's name": func(r *schedulerv1.HeartbeatRequest) {
			r.Sessions = []*schedulerv1.Session{{Tenant: "../x", Image: imageA}}
		},
		"session's image": func(r *schedulerv1.HeartbeatRequest) { r.Sessions = []*schedulerv1.Session{{Tenant: "red"}} },
		"sessions": func(r *schedulerv1.HeartbeatRequest) {
			for range maxSessions + 1 {
				r.Sessions = append(r.Sessions, &schedulerv1.Session{Tenant: "red", Image: imageA})
			}
		},
	} {
		req := beatOf("w1")
		change(req)
		if _, err := schedulerv1.NewRegistryServiceClient(conn).Heartbeat(x.as("w1"), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s := x.s.registry.states(time.Now()); len(s) != 0 {
		t.Errorf("an invalid heartbeat registered %v", s[0].last)
	}
	for name, req := range map[string]*schedulerv1.RouteRequest{
		"no image": {Platform: amd64},
		"tag":      {Image: "gcc:12", Platform: amd64},
		"platform": {Image: imageA, Platform: "../x"},
		"avoid":    {Image: imageA, Platform: amd64, Avoid: []string{"a b"}},
		"avoids":   {Image: imageA, Platform: amd64, Avoid: make([]string, maxAvoid+1)},
	} {
		if _, err := schedulerv1.NewSchedulerServiceClient(conn).Route(x.as("alice"), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Beyond the size of a message nothing is even decoded.
	big := &schedulerv1.RouteRequest{Image: strings.Repeat("x", maxMessage)}
	if _, err := schedulerv1.NewSchedulerServiceClient(conn).Route(x.as("alice"), big); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message beyond the limit: %v", err)
	}
}

func TestOverload(t *testing.T) {
	x := newSite(t, nil)
	conn := x.dial()
	client := schedulerv1.NewSchedulerServiceClient(conn)
	ask := func() (*schedulerv1.RouteResponse, error) {
		return client.Route(x.as("alice"), &schedulerv1.RouteRequest{Image: imageA, Platform: amd64})
	}
	_, err := ask()
	wantRetry(t, err, codes.Unavailable)
	full := beatOf("w1")
	full.Running, full.Queued = 4, 4
	x.report(conn, full)
	_, err = ask()
	wantRetry(t, err, codes.ResourceExhausted)
	x.report(conn, beatOf("w1"))
	if resp, err := ask(); err != nil || workersOf(resp) != "w1" {
		t.Errorf("after the load: %v, %v", resp, err)
	}
	drain := beatOf("w1")
	drain.Draining = true
	x.report(conn, drain)
	_, err = ask()
	wantRetry(t, err, codes.Unavailable)
	m := x.metrics()
	for _, want := range []string{
		`hpcc_scheduler_routes_total{outcome="overloaded",tenant="red"} 1`,
		`hpcc_scheduler_routes_total{outcome="no_worker",tenant="red"} 2`,
		`hpcc_scheduler_routes_total{outcome="routed",tenant="red"} 1`,
		`hpcc_scheduler_workers{platform="linux/amd64",state="draining"} 1`,
		`hpcc_scheduler_worker_capacity{worker="w1"} 4`,
	} {
		if !strings.Contains(m, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

// A burst of clients between two heartbeats does not all go to one worker.
func TestBurst(t *testing.T) {
	x := newSite(t, nil)
	conn := x.dial()
	for _, name := range []string{"w1", "w2", "w3", "w4"} {
		req := beatOf(name)
		req.Images = []string{imageA}
		x.report(conn, req)
	}
	first := map[string]int{}
	for range 40 {
		resp, err := schedulerv1.NewSchedulerServiceClient(conn).Route(x.as("alice"), &schedulerv1.RouteRequest{Image: imageA, Platform: amd64})
		if err != nil {
			t.Fatal(err)
		}
		first[resp.Workers[0].Worker]++
	}
	for _, name := range []string{"w1", "w2", "w3", "w4"} {
		if n := first[name]; n < 9 || n > 11 {
			t.Errorf("%s got %d of 40 clients on 4 equal workers", name, n)
		}
	}
}

func TestWorkers(t *testing.T) {
	x := newSite(t, nil)
	conn := x.dial()
	one := beatOf("w1")
	one.Sessions = []*schedulerv1.Session{{Tenant: "red", Image: imageA}}
	x.report(conn, one)
	x.report(conn, beatOf("w2"))
	list := func(subject string) string {
		resp, err := schedulerv1.NewRegistryServiceClient(conn).Workers(x.as(subject), &schedulerv1.WorkersRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, w := range resp.Workers {
			names = append(names, w.Last.Worker)
			if w.Age.AsDuration() < 0 || w.Age.AsDuration() > patient {
				t.Errorf("%s was heard of %v ago", w.Last.Worker, w.Age.AsDuration())
			}
		}
		return strings.Join(names, " ")
	}
	for subject, want := range map[string]string{"root": "w1 w2", "w2": "w2", "w3": ""} {
		if got := list(subject); got != want {
			t.Errorf("%s sees %q, want %q", subject, got, want)
		}
	}
}

func TestHTTP(t *testing.T) {
	x := newSite(t, nil)
	text, code, kind := x.get("/.well-known/jwks.json")
	if code != http.StatusOK || kind != "application/jwk-set+json" {
		t.Errorf("%d, %s", code, kind)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal([]byte(text), &set); err != nil || len(set.Keys) != 1 || set.Keys[0]["crv"] != "Ed25519" || set.Keys[0]["d"] != "" {
		t.Errorf("key set %s: %v", text, err)
	}
	if err := auth.NewVerifier().Update([]byte(text)); err != nil {
		t.Error(err)
	}
	if _, code, _ := x.get("/healthz"); code != http.StatusOK {
		t.Errorf("healthz: %d", code)
	}
	// By HTTP without TLS there is nothing.
	if resp, err := http.Get("http://" + x.http + "/metrics"); err == nil {
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Error("metrics are there without TLS")
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestHealth(t *testing.T) {
	x := newSite(t, nil)
	c := grpc_health_v1.NewHealthClient(x.dial())
	resp, err := c.Check(with(t), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || resp.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("%v, %v", resp, err)
	}
	w, err := c.Watch(with(t), &grpc_health_v1.HealthCheckRequest{})
	if err == nil {
		_, err = w.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a stream that nobody has to prove anything for: %v", err)
	}
}

// Builds go on over a restart: tokens stay good, and a client that comes before
// the workers do is kept waiting for them.
func TestRestart(t *testing.T) {
	x := newSite(t, nil)
	conn := x.dial()
	x.report(conn, beatOf("w1"))
	client := schedulerv1.NewSchedulerServiceClient(conn)
	ask := func() (*schedulerv1.RouteResponse, error) {
		return client.Route(x.as("alice"), &schedulerv1.RouteRequest{Image: imageA, Platform: amd64}, grpc.WaitForReady(true))
	}
	old, err := ask()
	if err != nil {
		t.Fatal(err)
	}
	x.stop()
	x.opt.Metrics = telemetry.New()
	x.opt.Interval = patient / 2
	keys, err := auth.OpenKeyring(filepath.Join(x.dir, "keys"), auth.KeyringOptions{})
	if err != nil {
		t.Fatal(err)
	}
	x.opt.Keys = keys
	x.start(x.addr)

	asked := make(chan error, 1)
	go func() {
		resp, err := ask()
		if err == nil && workersOf(resp) != "w1" {
			err = fmt.Errorf("workers %q", workersOf(resp))
		}
		asked <- err
	}()
	resp, err := schedulerv1.NewRegistryServiceClient(conn).Heartbeat(x.as("w1"), beatOf("w1"), grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if err := <-asked; err != nil {
		t.Errorf("asked right after the restart: %v", err)
	}
	v := auth.NewVerifier()
	if err := v.Update(resp.Jwks); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(old.Workers[0].TaskToken, "w1"); err != nil {
		t.Errorf("a token from before the restart: %v", err)
	}
}

// A client that is kept waiting is told so in time.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		creds, err := auth.NewCredentials(nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(Options{Keys: &ring{}, Credentials: creds, Interval: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		ctx := context.WithValue(t.Context(), identityKey{}, identities[0])
		ask := func(patience time.Duration) time.Duration {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			begun := time.Now()
			_, err := s.Route(ctx, &schedulerv1.RouteRequest{Image: imageA, Platform: amd64})
			wantRetry(t, err, codes.Unavailable)
			return time.Since(begun)
		}
		if d := ask(4 * time.Second); d != 3*time.Second {
			t.Errorf("who waits for 4 s was answered after %v", d)
		}
		if d := ask(time.Minute); d != 7*time.Second {
			t.Errorf("3 s after the start, who waits for long was answered after %v, want two intervals after it", d)
		}
		if d := ask(time.Minute); d != 0 {
			t.Errorf("long after the start, it took %v", d)
		}
	})
}

// The scheduler stops although clients wait.
func TestStopWhileWaiting(t *testing.T) {
	x := newSite(t, func(o *Options) { o.Interval = patient / 2 })
	conn := x.dial()
	asked := make(chan error, 1)
	go func() {
		_, err := schedulerv1.NewSchedulerServiceClient(conn).Route(x.as("alice"), &schedulerv1.RouteRequest{Image: imageA, Platform: amd64})
		asked <- err
	}()
	// Whether the call waits by now or comes too late, it ends.
	x.stop()
	if err := <-asked; status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestSetCredentials(t *testing.T) {
	x := newSite(t, nil)
	conn := x.dial()
	x.report(conn, beatOf("w1"))
	client := schedulerv1.NewSchedulerServiceClient(conn)
	ask := func(ctx context.Context) error {
		_, err := client.Route(ctx, &schedulerv1.RouteRequest{Image: imageA, Platform: amd64})
		return err
	}
	old := x.as("alice")
	if err := ask(old); err != nil {
		t.Fatal(err)
	}
	x.s.SetCredentials(x.credentials(identities))
	if err := ask(old); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the old credential: %v", err)
	}
	// Its worker had a credential of before, too.
	if err := ask(x.as("alice")); status.Code(err) != codes.Unavailable {
		t.Errorf("the new one, and a worker whose credential has gone: %v", err)
	}
	x.report(conn, beatOf("w1"))
	if err := ask(x.as("alice")); err != nil {
		t.Errorf("the new one: %v", err)
	}
	// One that has another credential left stays.
	second := x.secrets["w1"]
	list := append([]auth.Credential{{Hash: sha256.Sum256([]byte(second)), Identity: auth.Identity{Role: auth.Worker, Subject: "w1"}}}, x.list(identities)...)
	both, err := auth.NewCredentials(list)
	if err != nil {
		t.Fatal(err)
	}
	x.s.SetCredentials(both)
	one, err := auth.NewCredentials(list[1:])
	if err != nil {
		t.Fatal(err)
	}
	x.s.SetCredentials(one)
	if err := ask(x.as("alice")); err != nil {
		t.Errorf("a worker with one credential less: %v", err)
	}
}

// TestLostConnection: a worker whose connection ends gets no clients until it
// reports by another, however much later it would have been silent for too long.
func TestLostConnection(t *testing.T) {
	x := newSite(t, nil)
	client := schedulerv1.NewSchedulerServiceClient(x.dial())
	ask := func() codes.Code {
		_, err := client.Route(x.as("alice"), &schedulerv1.RouteRequest{Image: imageA, Platform: amd64})
		return status.Code(err)
	}
	old := x.dial()
	x.report(old, beatOf("w1"))
	x.report(x.dial(), beatOf("w2"))
	if c := ask(); c != codes.OK {
		t.Fatal(c)
	}
	x.report(x.dial(), beatOf("w1"))
	// By the connection of before it has not reported last.
	_ = old.Close()
	gone := x.dial()
	x.report(gone, beatOf("w2"))
	_ = gone.Close()
	for x.s.registry.states(time.Now())[1].what != "silent" {
		if t.Context().Err() != nil {
			t.Fatal("w2 is not lost")
		}
		runtime.Gosched()
	}
	if what := x.s.registry.states(time.Now())[0].what; what != "ready" {
		t.Errorf("w1 is %s", what)
	}
	last := x.dial()
	x.report(last, beatOf("w1"))
	_ = last.Close()
	for ask() != codes.Unavailable {
		if t.Context().Err() != nil {
			t.Fatal("w1 is not lost")
		}
	}
	x.report(x.dial(), beatOf("w2"))
	if c := ask(); c != codes.OK {
		t.Errorf("back again: %v", c)
	}
	if text := x.log.String(); !strings.Contains(text, "what=lost worker=w1") || !strings.Contains(text, "what=registered worker=w2") {
		t.Errorf("%s", text)
	}
}

// Many talk to it at once; the race detector looks on.
func TestConcurrently(t *testing.T) {
	x := newSite(t, nil)
	conn := x.dial()
	x.report(conn, beatOf("w1"))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				name := fmt.Sprint("w", i%4+1)
				if _, err := schedulerv1.NewRegistryServiceClient(conn).Heartbeat(x.as(name), beatOf(name)); err != nil {
					t.Error(err)
				}
				if _, err := schedulerv1.NewSchedulerServiceClient(conn).Route(x.as("alice"), &schedulerv1.RouteRequest{Image: imageA, Platform: amd64}); err != nil {
					t.Error(err)
				}
				if _, err := schedulerv1.NewRegistryServiceClient(conn).Workers(x.as("root"), &schedulerv1.WorkersRequest{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() { x.metrics() })
	wg.Wait()
}

func TestNewRefuses(t *testing.T) {
	creds, err := auth.NewCredentials(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{
		"no keys":        {Credentials: creds},
		"no credentials": {Keys: &ring{}},
		"long tokens":    {Keys: &ring{}, Credentials: creds, Token: 2 * auth.MaxLifetime},
		"short expiry":   {Keys: &ring{}, Credentials: creds, Interval: 10 * time.Second, Expiry: 15 * time.Second},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
}

// Anything that decodes is either refused or kept within the bounds.
func FuzzHeartbeat(f *testing.F) {
	f.Add("w1", "h:1", "linux/amd64", "1.0", uint32(4), uint32(1), imageA, "red", 32)
	f.Add("", ":", "a/b/c", "\x00", uint32(0), uint32(1<<31), "", "..", 0)
	f.Fuzz(func(t *testing.T, worker, address, platform, version string, capacity, running uint32, image, tenant string, pin int) {
		req := &schedulerv1.HeartbeatRequest{
			Worker: worker, Address: address, Platform: platform, Version: version, Capacity: capacity, Running: running,
			Images: []string{image}, Sessions: []*schedulerv1.Session{{Tenant: tenant, Image: image}, nil},
			TlsPin: make([]byte, min(max(pin, 0), 64)),
		}
		req.Sessions = req.Sessions[:1]
		p, err := checkHeartbeat(req)
		if err != nil {
			return
		}
		if _, _, err := net.SplitHostPort(address); err != nil || strings.ContainsFunc(address+platform+version+worker, notPlain) || len(version) > maxVersion {
			t.Fatalf("taken: %+v", req)
		}
		r := newRegistry(time.Minute)
		now := time.Now()
		r.beat(req, p, nil, now)
		best, _, err := r.route(&Query{Tenant: tenant, Image: image, Platform: platform}, 3, now)
		var full *OverloadError
		if err != nil && !errors.As(err, &full) || err == nil && best[0].name != worker {
			t.Fatalf("%v, %v", best, err)
		}
	})
}
