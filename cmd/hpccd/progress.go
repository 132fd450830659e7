package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/store"
)

// progress is a line on a terminal that changes with the work.
type progress struct {
	a     *app
	what  string
	last  time.Time
	width int // of the longest line so far
}

func (a *app) newProgress(what string) *progress {
	return &progress{a: a, what: what, last: time.Now()}
}

// end takes the line away.
func (p *progress) end() {
	if p.width > 0 {
		fmt.Fprintf(p.a.stderr, "\r%*s\r", p.width, "")
	}
}

// line shows a text after what the progress is of: each half second, so that short
// work shows nothing.
func (p *progress) line(text string) {
	if !p.a.stderrTerminal || time.Since(p.last) < 500*time.Millisecond {
		return
	}
	p.last = time.Now()
	line := fmt.Sprintf("hpcc: %s %s", p.what, text)
	p.width = max(p.width, len(line))
	fmt.Fprintf(p.a.stderr, "\r%-*s", p.width, line)
}

// show says how many bytes are done.
func (p *progress) show(bytes int64) { p.line(config.HumanSize(bytes)) }

// objects shows a number of objects.
func (p *progress) objects(n int64) { p.line(strconv.FormatInt(n, 10) + " objects") }

// filled is a bar that is full.
const filled = "########################"

// bar shows how much of a total is done, of which text says what it is.
func (p *progress) bar(done, total int64, text string) {
	total = max(total, done, 1)
	p.line(fmt.Sprintf("[%-*s] %d %%, %s", len(filled), filled[:int(float64(done)/float64(total)*float64(len(filled)))], int(float64(done)/float64(total)*100), text))
}

// count counts what work over a whole store will go through, where progress is shown.
func (p *progress) count(ctx context.Context, s store.Store, tenant string) (objects, bytes int64, err error) {
	if !p.a.stderrTerminal {
		return 0, 0, nil
	}
	what := p.what
	p.what = "listed"
	m, err := shared.Measure(ctx, s, tenant, p.objects)
	p.what = what
	for _, t := range m.Totals {
		objects += t.Objects
		bytes += t.Bytes
	}
	return objects, bytes, err
}

// ofBytes says how many bytes are done, for people.
func ofBytes(done, total int64) string {
	return config.HumanSize(done) + " of " + config.HumanSize(max(total, done))
}
