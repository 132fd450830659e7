package scheduler

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
)

const (
	healthCheck = grpc_health_v1.Health_Check_FullMethodName
	healthList  = grpc_health_v1.Health_List_FullMethodName

	// patience is how long calls that are under way may go on at the end.
	patience = 5 * time.Second
	// maxStreams bounds the calls at a time of one connection.
	maxStreams = 256
	// maxHeaders bounds the metadata of a call: a credential and what proxies
	// add.
	maxHeaders = 16 << 10
)

// Serve answers clients and workers on ln until ctx ends, and with h, if that is
// not nil, what is asked by HTTPS; see HTTP. Both listeners are closed and no
// call is left when it returns: nil after ctx has ended, else the error that
// ended it earlier. It is to be called once.
func (s *Scheduler) Serve(ctx context.Context, ln net.Listener, h net.Listener, cert *tls.Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // before the wait

	failed := make(chan error, 2)
	g, alive := s.grpcServer(cert)
	wg.Go(func() { failed <- g.Serve(ln) })
	if h != nil {
		web := s.httpServer(cert)
		wg.Go(func() { failed <- web.ServeTLS(h, "", "") })
		defer stopHTTP(web)
	}
	wg.Go(func() { s.rotate(ctx) })

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("scheduler: %w", err)
	}
	close(s.stopping)
	alive.Shutdown()
	stopGRPC(g)
	return err
}

func (s *Scheduler) grpcServer(cert *tls.Config) (*grpc.Server, *health.Server) {
	g := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(cert)),
		grpc.UnaryInterceptor(s.authenticate),
		grpc.StreamInterceptor(noStreams),
		grpc.StatsHandler(connections{s}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(20*time.Second),
		// A connection whose other end has gone without a word is noticed, and
		// one that nobody uses ends.
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 30 * time.Minute, Time: time.Minute, Timeout: 20 * time.Second}),
		// hpcc's clients ask after 10 seconds of silence; timers are not exact.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	schedulerv1.RegisterSchedulerServiceServer(g, s)
	schedulerv1.RegisterRegistryServiceServer(g, s)
	alive := health.NewServer()
	grpc_health_v1.RegisterHealthServer(g, alive)
	return g, alive
}

// HTTP answers /.well-known/jwks.json, and with metrics what
// telemetry.Registry.Handler does.
func (s *Scheduler) HTTP() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		// Less than a new key is announced for before it signs.
		w.Header().Set("Cache-Control", "public, max-age=30")
		_, _ = w.Write(s.opt.Keys.JWKS()) // whoever asked has gone, if it fails
	})
	if s.opt.Metrics != nil {
		mux.Handle("/", s.opt.Metrics.Handler())
	}
	return mux
}

func (s *Scheduler) httpServer(cert *tls.Config) *http.Server {
	return &http.Server{
		Handler: s.HTTP(), TLSConfig: cert.Clone(),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: maxHeaders,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

func stopHTTP(web *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if web.Shutdown(ctx) != nil {
		_ = web.Close() // cuts what did not end in time
	}
}

func stopGRPC(g *grpc.Server) {
	t := time.AfterFunc(patience, g.Stop)
	defer t.Stop()
	g.GracefulStop()
}

// rotate makes a new key whenever the newest is as old as it may get, until ctx
// ends. Several schedulers of one directory see each other's.
func (s *Scheduler) rotate(ctx context.Context) {
	if s.opt.Rotate <= 0 {
		return
	}
	for {
		// Not to the end at once: the clock may be set, or another scheduler
		// make a key.
		t := time.NewTimer(min(time.Hour, max(time.Second, time.Until(s.opt.Keys.Newest().Add(s.opt.Rotate)))))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		if time.Since(s.opt.Keys.Newest()) < s.opt.Rotate {
			continue
		}
		if err := s.opt.Keys.Rotate(); err != nil {
			s.log.LogAttrs(ctx, slog.LevelError, "signing key not rotated", slog.String("error", err.Error()))
			continue
		}
		s.log.LogAttrs(ctx, slog.LevelInfo, "new signing key")
	}
}
