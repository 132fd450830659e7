//go:build linux

package s3

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"testing"
	"time"
)

// Proxy is a way to a server that can be made bad. Its methods end the test when
// the proxy does not do as told; they are for one goroutine.
type Proxy struct {
	// Endpoint is "http://127.0.0.1:PORT".
	Endpoint string

	t       testing.TB
	control string
	process *process
	toxics  []string
}

// Toxic starts a proxy (toxiproxy) to a server's endpoint, and stops it at the
// test's end. It passes everything on until told otherwise.
func Toxic(t testing.TB, upstream string) *Proxy {
	t.Helper()
	to, err := url.Parse(upstream)
	if err != nil || to.Host == "" {
		t.Fatalf("s3: proxy to %q: %v", upstream, err)
	}
	path, err := toxiproxy.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	control, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(control)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{t: t, control: "http://" + control}
	p.process, err = start(t.Context(), exec.Command(path, "-host", host, "-port", port), []string{"LOG_LEVEL=warn"}, t.TempDir(), control)
	if err != nil {
		t.Fatalf("s3: toxiproxy: %v", err)
	}
	t.Cleanup(func() {
		p.process.stop()
		if t.Failed() {
			t.Logf("toxiproxy said:\n%s", &p.process.said)
		}
	})
	var made struct{ Listen string }
	p.call(http.MethodPost, "/proxies", map[string]any{"name": "s3", "listen": "127.0.0.1:0", "upstream": to.Host, "enabled": true}, &made)
	p.Endpoint = "http://" + made.Listen
	return p
}

// Latency delays each piece of an answer.
func (p *Proxy) Latency(d time.Duration) {
	p.t.Helper()
	p.toxic("latency", "downstream", map[string]any{"latency": d.Milliseconds()})
}

// Bandwidth limits each connection to so many thousand bytes a second, both ways.
func (p *Proxy) Bandwidth(kB int) {
	p.t.Helper()
	p.toxic("bandwidth", "downstream", map[string]any{"rate": kB})
	p.toxic("bandwidth", "upstream", map[string]any{"rate": kB})
}

// Hang lets nothing through: connections are accepted, and nothing ever comes.
func (p *Proxy) Hang() {
	p.t.Helper()
	p.toxic("timeout", "downstream", map[string]any{"timeout": 0})
	p.toxic("timeout", "upstream", map[string]any{"timeout": 0})
}

// Reset ends each connection by a TCP reset, those that are open and new ones.
func (p *Proxy) Reset() {
	p.t.Helper()
	p.toxic("reset_peer", "downstream", map[string]any{"timeout": 0})
	p.toxic("reset_peer", "upstream", map[string]any{"timeout": 0})
}

// LimitData ends each connection after so many bytes of answers.
func (p *Proxy) LimitData(bytes int64) {
	p.t.Helper()
	p.toxic("limit_data", "downstream", map[string]any{"bytes": bytes})
}

// Cut closes all connections and refuses new ones, as a server that is down.
func (p *Proxy) Cut() {
	p.t.Helper()
	p.call(http.MethodPost, "/proxies/s3", map[string]any{"enabled": false}, nil)
}

// Heal takes everything back.
func (p *Proxy) Heal() {
	p.t.Helper()
	for _, name := range p.toxics {
		p.call(http.MethodDelete, "/proxies/s3/toxics/"+name, nil, nil)
	}
	p.toxics = nil
	p.call(http.MethodPost, "/proxies/s3", map[string]any{"enabled": true}, nil)
}

func (p *Proxy) toxic(kind, stream string, attributes map[string]any) {
	p.t.Helper()
	name := fmt.Sprintf("%s-%s-%d", kind, stream, len(p.toxics))
	p.call(http.MethodPost, "/proxies/s3/toxics", map[string]any{"name": name, "type": kind, "stream": stream, "toxicity": 1.0, "attributes": attributes}, nil)
	p.toxics = append(p.toxics, name)
}

// call tells toxiproxy something. It may be called in a test's cleanup, when the
// test's context has ended.
func (p *Proxy) call(method, path string, body, answer any) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.t.Context()), time.Minute)
	defer cancel()
	b, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.control+path, bytes.NewReader(b))
	if err != nil {
		p.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatalf("s3: toxiproxy: %v\n%s", err, &p.process.said)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode/100 != 2 {
		p.t.Fatalf("s3: toxiproxy: %s %s: %s %v %s", method, path, res.Status, err, text)
	}
	if answer != nil {
		if err := json.Unmarshal(text, answer); err != nil {
			p.t.Fatalf("s3: toxiproxy: %v: %s", err, text)
		}
	}
}
