//go:build linux

package main

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
)

// counter counts the requests that it passes on.
type counter struct {
	endpoint string
	n        atomic.Int64
	server   *http.Server
}

func newCounter(endpoint string) (*counter, error) {
	to, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &counter{endpoint: "http://" + l.Addr().String()}
	// The host stays: requests are signed with it.
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host
		r.Out.Host = r.In.Host
	}}
	c.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.n.Add(1)
		pass.ServeHTTP(w, r)
	})}
	go func() { _ = c.server.Serve(l) }()
	return c, nil
}

func (c *counter) close() { _ = c.server.Close() }
