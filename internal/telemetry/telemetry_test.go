package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"hpcc.dev/hpcc/internal/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

// scrape returns what a scraper sees of hpcc's own metrics, without comments.
func scrape(t *testing.T, r *Registry) (lines []string) {
	t.Helper()
	for line := range strings.Lines(get(t, r, "/metrics", 200)) {
		if strings.HasPrefix(line, "hpcc_") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func get(t *testing.T, r *Registry, path string, status int) string {
	t.Helper()
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	if w.Code != status {
		t.Errorf("%s: status %d, want %d", path, w.Code, status)
	}
	return w.Body.String()
}

func equal(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestMetrics(t *testing.T) {
	r := New()
	r.Build("worker", "v1.2")
	r.Counter("hpcc_boots_total", "Machines started.")
	c := r.Counter("hpcc_compiles_total", "Compiles.", "tenant", "outcome")
	c.Inc("acme", "hit")
	c.Add(2, "acme", "hit")
	c.Inc("acme", `"odd" \ one`)
	h := r.Histogram("hpcc_compile_seconds", "Time.", []float64{1, 10}, "tenant")
	h.Observe(0.5, "acme")
	h.Observe(5, "acme")
	n := 3.0
	r.Gauge("hpcc_waiting", "Waiting.", func() float64 { return n })
	sessions := map[string]float64{"ready": 2}
	r.Gauges("hpcc_machines", "Machines.", []string{"state"}, func(set Set) {
		for state, n := range sessions {
			set(n, state)
		}
	})
	r.Totals("hpcc_crashes_total", "Crashes.", nil, func(set Set) { set(7) })
	equal(t, scrape(t, r),
		`hpcc_boots_total 0`,
		`hpcc_build_info{role="worker",version="v1.2"} 1`,
		`hpcc_compile_seconds_bucket{tenant="acme",le="1"} 1`,
		`hpcc_compile_seconds_bucket{tenant="acme",le="10"} 2`,
		`hpcc_compile_seconds_bucket{tenant="acme",le="+Inf"} 2`,
		`hpcc_compile_seconds_sum{tenant="acme"} 5.5`,
		`hpcc_compile_seconds_count{tenant="acme"} 2`,
		`hpcc_compiles_total{outcome="\"odd\" \\ one",tenant="acme"} 1`,
		`hpcc_compiles_total{outcome="hit",tenant="acme"} 3`,
		`hpcc_crashes_total 7`,
		`hpcc_machines{state="ready"} 2`,
		`hpcc_waiting 3`)

	n = 0
	sessions = map[string]float64{"booting": 1}
	got := strings.Join(scrape(t, r), "\n")
	if !strings.Contains(got, "hpcc_waiting 0") || !strings.Contains(got, `hpcc_machines{state="booting"} 1`) || strings.Contains(got, "ready") {
		t.Errorf("after a change:\n%s", got)
	}
	for _, also := range []string{"go_goroutines ", "process_open_fds "} {
		if !strings.Contains(get(t, r, "/metrics", 200), "\n"+also) {
			t.Errorf("%s is missing", also)
		}
	}
	// Prometheus' own rules for names and texts.
	problems, err := promlint.New(strings.NewReader(get(t, r, "/metrics", 200))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "hpcc_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// A flood of names from outside ends in one series, and what was there before
// goes on being counted.
func TestHostileLabels(t *testing.T) {
	r := New()
	c := r.Counter("hpcc_compiles_total", "Compiles.", "tenant", "outcome")
	c.Inc("acme", "hit")
	for i := range 10_000 {
		c.Inc(fmt.Sprintf("tenant-%d", i), "hit")
	}
	c.Inc("acme", "hit")
	c.Inc("acme", "miss")
	c.Inc(strings.Repeat("x", MaxValue+1), "miss")
	c.Inc("\xff\xfe", "miss")
	got := scrape(t, r)
	if len(got) != MaxValues+3 {
		t.Errorf("%d series, want %d", len(got), MaxValues+3)
	}
	for _, want := range []string{
		`hpcc_compiles_total{outcome="hit",tenant="acme"} 2`,
		`hpcc_compiles_total{outcome="miss",tenant="acme"} 1`,
		fmt.Sprintf(`hpcc_compiles_total{outcome="hit",tenant="other"} %d`, 10_000-(MaxValues-1)),
		`hpcc_compiles_total{outcome="miss",tenant="other"} 2`,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing", want)
		}
	}
}

func TestHostileCombinations(t *testing.T) {
	r := New()
	c := r.Counter("hpcc_compiles_total", "Compiles.", "a", "b")
	g := func(set Set) {
		for i := range 90 {
			for j := range 90 {
				set(1, fmt.Sprint(i), fmt.Sprint(j))
			}
		}
	}
	g(func(v float64, values ...string) { c.Add(v, values...) })
	r.Gauges("hpcc_machines", "Machines.", []string{"a", "b"}, g)
	counters, gauges := 0, 0
	for _, line := range scrape(t, r) {
		if strings.HasPrefix(line, "hpcc_compiles_total") {
			counters++
		} else {
			gauges++
		}
		if strings.Contains(line, `b="other"`) && !strings.HasSuffix(line, fmt.Sprint(" ", 90*90-MaxSeries)) {
			t.Errorf("the rest: %s", line)
		}
	}
	if counters != MaxSeries+1 || gauges != MaxSeries+1 {
		t.Errorf("%d and %d series, want %d", counters, gauges, MaxSeries+1)
	}
}

func TestMistakesPanic(t *testing.T) {
	for name, f := range map[string]func(r *Registry){
		"no ending":       func(r *Registry) { r.Counter("hpcc_compiles", "x") },
		"foreign":         func(r *Registry) { r.Counter("compiles_total", "x") },
		"capital":         func(r *Registry) { r.Gauge("hpcc_Compiles", "x", nil) },
		"unit":            func(r *Registry) { r.Histogram("hpcc_compile_millis", "x", Seconds) },
		"gauge":           func(r *Registry) { r.Gauge("hpcc_compiles_total", "x", nil) },
		"twice":           func(r *Registry) { r.Counter("hpcc_a_total", "x"); r.Counter("hpcc_a_total", "x") },
		"too few values":  func(r *Registry) { r.Counter("hpcc_a_total", "x", "tenant").Inc() },
		"too many values": func(r *Registry) { r.Histogram("hpcc_a_seconds", "x", Seconds).Observe(1, "tenant") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f(New())
		}()
	}
}

func TestHealth(t *testing.T) {
	r := New()
	if got := get(t, r, "/healthz", 200); got != "ok\n" {
		t.Errorf("%q", got)
	}
	var ill error
	r.Check("journal", func(context.Context) error { return ill })
	get(t, r, "/healthz", 200)
	ill = errors.New("no space")
	if got := get(t, r, "/healthz", 503); got != "journal: no space\n" {
		t.Errorf("%q", got)
	}
	get(t, r, "/", 404)
}

func TestServe(t *testing.T) {
	r := New()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked, answer := make(chan struct{}), make(chan struct{})
	r.Check("slow", func(context.Context) error { close(asked); <-answer; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- r.Serve(ctx, ln) }()
	var wg sync.WaitGroup
	wg.Go(func() {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + ln.Addr().String() + "/healthz")
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "ok\n" {
			t.Errorf("%q, %v", b, err)
		}
	})
	<-asked
	cancel()
	close(answer)
	if err := <-served; err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("it still listens")
	}
}

func TestServeFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := New().Serve(t.Context(), ln); err == nil {
		t.Error("no error for a closed listener")
	}
}
