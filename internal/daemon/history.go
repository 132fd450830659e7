package daemon

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/compiler/env"
	"hpcc.dev/hpcc/internal/digest"
)

// maxAttempts is how many compiles of one source are remembered: enough for
// a few configurations of one tree side by side.
const maxAttempts = 16

// maxHistory bounds one record, in bytes. Commands are some kilobytes long; those
// of hundreds push out the older attempts.
const maxHistory = 1 << 20

// Attempt is one compile of a source, as `explain` remembers it: all that is
// needed to find out later how it came to its inputs.
type Attempt struct {
	Time    time.Time       `json:"time"`
	Outcome string          `json:"outcome"`
	Reason  compiler.Reason `json:"reason,omitempty"`
	Detail  string          `json:"detail,omitempty"`
	// Tier is the shared cache that had the result.
	Tier string `json:"tier,omitempty"`
	// Compiler is the program behind Command[0], absolute.
	Compiler string   `json:"compiler"`
	Command  []string `json:"command"`
	// Env are the variables that some compiler reads.
	Env []string `json:"env,omitempty"`
	// Streams say what stdout and stderr were, as terminalText does.
	Streams [2]string `json:"streams"`
	// Source is as the command names it, with the working directory if that is
	// relative.
	Source string `json:"source"`
	Cwd    string `json:"cwd"`
	Output string `json:"output,omitempty"`
	// Roots are the project roots in reproducible mode.
	Roots []string `json:"roots,omitempty"`
	// Differs is the first path that kept a stored result from being a hit.
	Differs string `json:"differs,omitempty"`
	// Action is the key of the result found or stored, and Manifest that of the
	// manifest with its candidate, in hex.
	Action   string `json:"action,omitempty"`
	Manifest string `json:"manifest,omitempty"`
}

func newAttempt(j *job) Attempt {
	o := &j.outcome
	a := Attempt{
		Time: j.started.UTC(), Outcome: o.kind.String(), Reason: o.reason, Detail: o.detail, Differs: o.why, Tier: o.tier,
		Compiler: j.req.GetCompiler(), Command: j.req.GetArgs(),
		Streams: [2]string{terminalText(j.req.GetStdout()), terminalText(j.req.GetStderr())},
		Cwd:     j.req.GetCwd(),
	}
	for _, kv := range j.req.GetEnv() {
		name, _, _ := strings.Cut(kv, "=")
		if env.Roles(name)&^env.Ignore != 0 {
			a.Env = append(a.Env, kv)
		}
	}
	if !o.action.IsZero() {
		a.Action, a.Manifest = o.action.String(), o.manifest.String()
	}
	return a
}

// sameAs reports whether two attempts came to the same.
func (a *Attempt) sameAs(b *Attempt) bool {
	return a.Action == b.Action && a.Output == b.Output && a.Outcome == b.Outcome && a.Reason == b.Reason && a.Detail == b.Detail
}

// record of one source file.
type sourceRecord struct {
	Source   string    `json:"source"`
	Attempts []Attempt `json:"attempts"` // newest first
}

// history remembers for each source what became of its last compiles. Writes
// go to disk behind the build; a repeated hit is not written again. Safe for
// concurrent use.
type history struct {
	cache *cache.Disk
	// last holds what was last written for a source, so that a thousand
	// equal hits cost a look-up each.
	last    *lru[string, seen]
	mu      sync.Mutex
	pending map[string][]Attempt
	busy    sync.WaitGroup
}

// seen tells attempts of one source apart that are worth remembering each.
type seen struct {
	action         digest.Key
	output, detail string
	kind           kind
	reason         compiler.Reason
}

func newHistory(c *cache.Disk) *history {
	return &history{cache: c, last: newLRU[string, seen](50_000), pending: map[string][]Attempt{}}
}

func memoName(source string) string {
	return "explain/" + digest.NewKey("explain").Field("source", source).Sum().String()
}

func (h *history) record(j *job) {
	if j.prep == nil {
		h.recordRefused(j)
		return
	}
	if j.prep.inv.Mode == compiler.Listing {
		return // a list is no compile of its sources
	}
	p := j.prep.place
	path := p.absolute(j.prep.inv.Source)
	if !h.news(path, j) {
		return
	}
	a := newAttempt(j)
	a.Source, a.Output = j.prep.inv.Source, j.prep.inv.Object
	a.Roots = p.rootDirs()
	source := filepath.Clean(path)
	h.add(source, a)
	// Another checkout has no history of its own, but the same sources.
	if neutral := p.paths.Neutral(source); neutral != source && j.outcome.kind == miss {
		h.add(neutral, a)
	}
}

// news reports whether what became of a job is not what became of the last one
// of its source, as repeated hits and refusals are. A hit waits for it: it makes
// nothing that has to be made.
func (h *history) news(path string, j *job) bool {
	o := &j.outcome
	now := seen{action: o.action, kind: o.kind, reason: o.reason, detail: o.detail}
	if j.prep != nil {
		now.output = j.prep.inv.Object
	}
	if o.kind == hitDirect || j.prep == nil {
		if before, ok := h.last.get(path); ok && before == now {
			return false
		}
	}
	h.last.put(path, now)
	return true
}

// maxRefused bounds the sources of one refused command that are recorded.
const maxRefused = 4

// recordRefused records a command that was not understood, or is no compile of
// one source, under what seem to be its sources. Preprocessing and questions
// are no compiles.
func (h *history) recordRefused(j *job) {
	switch j.outcome.reason {
	case "", compiler.ReasonPreprocessing, compiler.ReasonQuery, reasonDisabled:
		return
	}
	sources := compiler.SourcesIn(j.req.GetArgs()[min(1, len(j.req.GetArgs())):])
	for _, s := range sources[:min(len(sources), maxRefused)] {
		a := newAttempt(j)
		a.Source = s
		path := place{cwd: j.req.GetCwd()}.absolute(s)
		if h.news(path, j) {
			h.add(filepath.Clean(path), a)
		}
	}
}

func (h *history) add(source string, a Attempt) {
	h.mu.Lock()
	first := len(h.pending) == 0
	h.pending[source] = append([]Attempt{a}, h.pending[source]...)
	h.mu.Unlock()
	if first {
		h.busy.Add(1)
		go func() {
			defer h.busy.Done()
			h.write()
		}()
	}
}

// write moves what is pending to disk.
func (h *history) write() {
	for {
		h.mu.Lock()
		var source string
		var fresh []Attempt
		for source, fresh = range h.pending {
			break
		}
		h.mu.Unlock()
		if source == "" {
			return
		}
		rec, _ := readHistory(h.cache, source)
		if rec.add(fresh) {
			// A lost explanation is no more than that.
			_ = h.cache.PutMemo(memoName(source), rec.encode())
		}
		h.mu.Lock()
		if len(h.pending[source]) == len(fresh) {
			delete(h.pending, source)
		} else {
			h.pending[source] = h.pending[source][:len(h.pending[source])-len(fresh)]
		}
		h.mu.Unlock()
	}
}

// add puts attempts first, and reports whether that changes anything: a
// compile in one shot does not know what was written before it.
func (r *sourceRecord) add(fresh []Attempt) bool {
	if len(fresh) == 1 && fresh[0].Outcome == hitDirect.String() && len(r.Attempts) > 0 && fresh[0].sameAs(&r.Attempts[0]) {
		return false
	}
	r.Attempts = append(slices.Clone(fresh), r.Attempts...)
	if len(r.Attempts) > maxAttempts {
		r.Attempts = r.Attempts[:maxAttempts]
	}
	return true
}

// encode leaves out as many of the oldest attempts as maxHistory asks for.
func (r *sourceRecord) encode() []byte {
	for {
		b, err := json.Marshal(r)
		if err == nil && len(b) <= maxHistory || len(r.Attempts) == 0 {
			return b
		}
		r.Attempts = r.Attempts[:len(r.Attempts)/2]
	}
}

func (h *history) flush() { h.busy.Wait() }

func readHistory(c *cache.Disk, source string) (*sourceRecord, error) {
	rec := &sourceRecord{Source: source}
	b, err := c.Memo(memoName(source))
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(b, rec); err != nil || rec.Source != source {
		return &sourceRecord{Source: source}, errors.New("the record is damaged")
	}
	return rec, nil
}
