// Package telemetry counts what a service does, and shows it to Prometheus.
//
// A Registry holds metrics, each with a name, a help text and the names of its
// labels. Counters and histograms are told of events as they happen; gauges and
// totals are functions that are asked when somebody scrapes, so that a number
// which some other part keeps anyway is not kept twice.
//
// Names follow Prometheus' conventions and begin with hpcc_: a counter ends in
// _total, a histogram in _seconds or _bytes. A name that does not, or that is
// taken, is a mistake in the program and panics when the metric is made, as does
// a wrong number of label values when it is used.
//
// Label values may come from outside: tenants, images. Each distinct one costs
// memory here and in every Prometheus that scrapes, for ever; so they are
// bounded (see MaxValues, MaxSeries), and what is beyond is counted under Other.
package telemetry

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

const (
	// MaxValues is how many values one label of one metric has, Other not
	// counted. The first to come stay: a worker has tens of tenants, a flood of
	// them is somebody's doing.
	MaxValues = 100
	// MaxSeries is how many combinations of label values one metric has. A
	// histogram's cost about twenty series each.
	MaxSeries = 1000
	// MaxValue is the longest label value in bytes; sha256:HEX has 71.
	MaxValue = 128
	// Other stands for all values beyond these limits, and for those that are no
	// UTF-8.
	Other = "other"
)

// Seconds are buckets for durations from a cache hit to a compile's time limit.
var Seconds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 150, 300, 600}

// Bytes are buckets for sizes from a small source to a large object.
var Bytes = []float64{1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28}

// Registry is a set of metrics. All methods may be called by many goroutines at
// once.
type Registry struct {
	reg *prometheus.Registry

	mu     sync.Mutex
	checks []check
}

// New makes a registry that has the Go runtime's and the process' own metrics.
func New() *Registry {
	r := &Registry{reg: prometheus.NewRegistry()}
	r.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Build sets hpcc_build_info, which says what runs here.
func (r *Registry) Build(role, version string) {
	r.Gauges("hpcc_build_info", "Always 1: which role of hpcc this is, and its version.", []string{"role", "version"},
		func(set Set) { set(1, role, version) })
}

// Counter is a number that only grows.
type Counter struct {
	vec   *prometheus.CounterVec
	bound *bound
}

// Counter makes a counter; name ends in _total. Without labels it starts at 0,
// with labels each combination does so when it is first added to.
func (r *Registry) Counter(name, help string, labels ...string) *Counter {
	mustName(name, "_total")
	c := &Counter{prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels), newBound(name, labels)}
	r.reg.MustRegister(c.vec)
	if len(labels) == 0 {
		c.Add(0)
	}
	return c
}

// Add adds n, which must not be negative, for the labels' values in their order.
func (c *Counter) Add(n float64, values ...string) {
	c.vec.WithLabelValues(c.bound.admit(values)...).Add(n)
}

// Inc adds one.
func (c *Counter) Inc(values ...string) { c.Add(1, values...) }

// Histogram counts values by size.
type Histogram struct {
	vec   *prometheus.HistogramVec
	bound *bound
}

// Histogram makes a histogram; name ends in _seconds or _bytes, and buckets are
// the upper bounds, ascending: Seconds or Bytes, mostly.
func (r *Registry) Histogram(name, help string, buckets []float64, labels ...string) *Histogram {
	mustName(name, "_seconds", "_bytes")
	h := &Histogram{
		prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels),
		newBound(name, labels),
	}
	r.reg.MustRegister(h.vec)
	return h
}

// Observe counts one value, of the name's unit.
func (h *Histogram) Observe(v float64, values ...string) {
	h.vec.WithLabelValues(h.bound.admit(values)...).Observe(v)
}

// Gauge makes a metric that f is asked for at each scrape.
func (r *Registry) Gauge(name, help string, f func() float64) {
	r.Gauges(name, help, nil, func(set Set) { set(f()) })
}

// Set gives the value for the labels' values in their order. Two values for one
// combination add up.
type Set func(v float64, values ...string)

// Gauges makes a metric with labels whose values collect gives at each scrape,
// all of them each time: what it no longer gives is no longer there. Scrapes may
// call it at the same time.
func (r *Registry) Gauges(name, help string, labels []string, collect func(Set)) {
	mustName(name)
	if strings.HasSuffix(name, "_total") {
		panic(fmt.Sprintf("telemetry: %s is named like a counter", name))
	}
	r.reg.MustRegister(newFunc(name, help, prometheus.GaugeValue, labels, collect))
}

// Totals is Gauges for numbers that only grow and that some other part counts;
// name ends in _total.
func (r *Registry) Totals(name, help string, labels []string, collect func(Set)) {
	mustName(name, "_total")
	r.reg.MustRegister(newFunc(name, help, prometheus.CounterValue, labels, collect))
}

// function is a metric that is asked for when it is scraped.
type function struct {
	name    string
	desc    *prometheus.Desc
	kind    prometheus.ValueType
	labels  []string
	collect func(Set)
}

func newFunc(name, help string, kind prometheus.ValueType, labels []string, collect func(Set)) *function {
	return &function{name, prometheus.NewDesc(name, help, labels, nil), kind, labels, collect}
}

func (f *function) Describe(to chan<- *prometheus.Desc) { to <- f.desc }

func (f *function) Collect(to chan<- prometheus.Metric) {
	// Limits hold within one scrape: what is gone makes room for what is new.
	limits := newBound(f.name, f.labels)
	type series struct {
		values []string
		v      float64
	}
	var all []*series
	seen := map[string]*series{}
	f.collect(func(v float64, values ...string) {
		values = limits.admit(values)
		k := joined(values)
		if s := seen[k]; s != nil {
			s.v += v
			return
		}
		s := &series{values, v}
		seen[k] = s
		all = append(all, s)
	})
	for _, s := range all {
		to <- prometheus.MustNewConstMetric(f.desc, f.kind, s.v, s.values...)
	}
}

// bound keeps a metric's label values within the limits.
type bound struct {
	name   string
	labels int

	mu     sync.Mutex
	values []map[string]struct{} // seen, for each label
	series map[string]struct{}   // combinations seen
}

func newBound(name string, labels []string) *bound {
	b := &bound{name: name, labels: len(labels), series: map[string]struct{}{}}
	for range labels {
		b.values = append(b.values, map[string]struct{}{})
	}
	return b
}

// admit returns the values to count under: a new slice.
func (b *bound) admit(values []string) []string {
	if len(values) != b.labels {
		panic(fmt.Sprintf("telemetry: %s has %d labels and was given %d values", b.name, b.labels, len(values)))
	}
	if b.labels == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	admitted := make([]string, len(values))
	for i, v := range values {
		admitted[i] = v
		if len(v) > MaxValue || !utf8.ValidString(v) {
			admitted[i] = Other
		} else if _, known := b.values[i][v]; !known && len(b.values[i]) >= MaxValues {
			admitted[i] = Other
		}
	}
	k := joined(admitted)
	if _, known := b.series[k]; known {
		return admitted
	}
	if len(b.series) >= MaxSeries {
		for i := range admitted {
			admitted[i] = Other
		}
		return admitted
	}
	b.series[k] = struct{}{}
	for i, v := range admitted {
		if v != Other {
			// The caller's string may be a part of a long message.
			v = strings.Clone(v)
			b.values[i][v], admitted[i] = struct{}{}, v
		}
	}
	return admitted
}

// joined is a map key for values: no UTF-8 holds 0xff.
func joined(values []string) string { return strings.Join(values, "\xff") }

var nameRule = regexp.MustCompile(`^hpcc(_[a-z][a-z0-9]*)+$`)

// mustName panics unless name is one that this program's metrics have.
func mustName(name string, endings ...string) {
	ok := nameRule.MatchString(name) && len(endings) == 0
	for _, e := range endings {
		ok = ok || nameRule.MatchString(name) && strings.HasSuffix(name, e)
	}
	if !ok {
		panic(fmt.Sprintf("telemetry: %q is no name for this metric: want hpcc_…, with an ending of %q", name, endings))
	}
}
