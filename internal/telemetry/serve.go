package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// check is one condition of the service's health.
type check struct {
	name string
	fn   func(context.Context) error
}

// checkPatience bounds all checks of one request together: a load balancer that
// waits longer has made up its mind.
const checkPatience = 5 * time.Second

// Check makes /healthz answer 503 while fn returns an error: name and error are
// in the answer, which anybody who reaches the port can read.
func (r *Registry) Check(name string, fn func(context.Context) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checks = append(r.checks, check{name, fn})
}

// Handler answers /metrics and /healthz. It wants no credentials: metrics name
// tenants, so bind it where only operators are.
func (r *Registry) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r.reg, promhttp.HandlerOpts{
		// Metrics that can be had are worth more than an error for one that
		// cannot.
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 4,
		Timeout:             30 * time.Second,
	}))
	mux.HandleFunc("GET /healthz", r.healthz)
	return mux
}

func (r *Registry) healthz(w http.ResponseWriter, req *http.Request) {
	ctx, cancel := context.WithTimeout(req.Context(), checkPatience)
	defer cancel()
	r.mu.Lock()
	checks := r.checks
	r.mu.Unlock()
	var ill string
	for _, c := range checks {
		if err := c.fn(ctx); err != nil {
			ill += fmt.Sprintf("%s: %v\n", c.name, err)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if ill != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, ill) // whoever asked has gone, if it fails
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

// shutdownPatience is how long scrapes that are under way may go on once the
// service ends.
const shutdownPatience = 5 * time.Second

// Serve answers on ln until ctx ends, and returns nil then, with ln closed and no
// request left; or the error that ended it earlier.
func (r *Registry) Serve(ctx context.Context, ln net.Listener) error {
	s := &http.Server{
		Handler: r.Handler(),
		// Nobody scrapes slower than this; who does holds a connection.
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(ln) }()
	select {
	case err := <-failed:
		_ = s.Close() // connections; the error is the listener's
		return fmt.Errorf("metrics on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownPatience)
	defer cancel()
	if err := s.Shutdown(last); err != nil {
		_ = s.Close() // scrapes that were still under way are cut
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics on %s: %w", ln.Addr(), err)
	}
	return nil
}
