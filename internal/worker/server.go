package worker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	_ "hpcc.dev/hpcc/internal/wirezip" // for clients that ask for it
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

const (
	// maxStreamsOfOne bounds the streams of one connection: a laptop has one, and
	// make -j has no more jobs.
	maxStreamsOfOne = 1024
	// pingAfter and pingTimeout find clients that went without a word: their
	// compiles end.
	pingAfter   = 20 * time.Second
	pingTimeout = 10 * time.Second
	// pingLeast is how often a client may ask whether the worker lives.
	pingLeast = 5 * time.Second
	// handshake bounds how long a connection may take to say who it is.
	handshake = 10 * time.Second
	// httpPatience is how long questions of people and monitors may go on at the
	// end.
	httpPatience = 3 * time.Second
)

// transportOptions bound what a connection can make the worker hold.
func transportOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(workerv1.MaxMessage), grpc.MaxSendMsgSize(workerv1.MaxMessage),
		grpc.MaxConcurrentStreams(maxStreamsOfOne), grpc.ConnectionTimeout(handshake),
		// Stop returns when nothing is being stored any more.
		grpc.WaitForHandlers(true),
		grpc.InitialWindowSize(1 << 20), grpc.InitialConnWindowSize(8 << 20),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingLeast}),
	}
}

// ServeOptions say where and how a service answers.
type ServeOptions struct {
	// TLS has the worker's certificate.
	TLS *tls.Config
	Registration
	// HTTP, if it is not nil, is where metrics and the status are answered by
	// HTTPS.
	HTTP net.Listener
	// DrainTime is how long compiles that are under way may go on at the end; 0 is
	// the longest that one can take.
	DrainTime time.Duration
	// Hurry, if it is not nil, ends them at once.
	Hurry <-chan struct{}
}

// Serve answers clients on ln and reports to the scheduler, until ctx ends. Then
// the worker drains: it says so, takes nothing new, and goes on with what it has
// for DrainTime at most. The listeners are closed and no stream is left when it
// returns: nil after ctx has ended, else the error that ended it earlier. It is
// to be called once; machines and stores are for the caller to close.
func (s *Service) Serve(ctx context.Context, ln net.Listener, opt ServeOptions) error {
	reg, err := newRegistrar(s, opt.Registration)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	if opt.DrainTime <= 0 {
		opt.DrainTime = s.opt.Limits.Time + acceptPatience
	}
	s.refresh = reg.refresh
	var wg sync.WaitGroup
	defer wg.Wait()
	reports, stopReports := context.WithCancel(context.WithoutCancel(ctx))
	defer stopReports()
	wg.Go(func() { reg.run(reports) })

	failed := make(chan error, 2)
	g := grpc.NewServer(append(s.ServerOptions(), grpc.Creds(credentials.NewTLS(opt.TLS)))...)
	workerv1.RegisterWorkerServiceServer(g, s)
	wg.Go(func() { failed <- g.Serve(ln) })
	if opt.HTTP != nil {
		web := s.httpServer(opt.TLS, reg)
		wg.Go(func() { failed <- web.ServeTLS(opt.HTTP, "", "") })
		defer stopHTTP(web)
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("worker: %w", err)
		s.Drain()
		g.Stop()
		return err
	}
	s.Drain()
	reg.soon()
	s.opt.Log.Info("draining", "compiles", s.Streams())
	stopped := make(chan struct{})
	go func() {
		g.GracefulStop()
		close(stopped)
	}()
	timeout := time.NewTimer(opt.DrainTime)
	defer timeout.Stop()
	select {
	case <-stopped:
		return nil
	case <-timeout.C:
		s.opt.Log.Warn("compiles are ended that did not end in time", "compiles", s.Streams())
	case <-opt.Hurry:
		s.opt.Log.Warn("compiles are ended", "compiles", s.Streams())
	}
	g.Stop()
	<-stopped
	return nil
}

func (s *Service) httpServer(cert *tls.Config, reg *registrar) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { writeStatus(w, s.status(reg)) })
	mux.Handle("/", s.opt.Metrics.Handler())
	return &http.Server{
		Handler: mux, TLSConfig: cert.Clone(),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.opt.Log.Handler(), slog.LevelDebug),
	}
}

func stopHTTP(web *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), httpPatience)
	defer cancel()
	if web.Shutdown(ctx) != nil {
		_ = web.Close() // cuts what did not end in time
	}
}
