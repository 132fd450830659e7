package daemon

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
)

// maxAttempts is how many compiles of one source are remembered: enough for
// a few configurations of one tree side by side.
const maxAttempts = 16

// Attempt is one compile of a source, as `explain` remembers it.
type Attempt struct {
	Time    time.Time       `json:"time"`
	Outcome string          `json:"outcome"`
	Reason  compiler.Reason `json:"reason,omitempty"`
	Detail  string          `json:"detail,omitempty"`
	Command []string        `json:"command"`
	// Differs is the first path that kept a stored result from being a hit.
	Differs string `json:"differs,omitempty"`
	Cwd     string `json:"cwd"`
	Output  string `json:"output,omitempty"`
	// Action is the key of the result found or stored, in hex.
	Action string `json:"action,omitempty"`
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
	last    *lru[string, string]
	mu      sync.Mutex
	pending map[string][]Attempt
	busy    sync.WaitGroup
}

func newHistory(c *cache.Disk) *history {
	return &history{cache: c, last: newLRU[string, string](50_000), pending: map[string][]Attempt{}}
}

func memoName(source string) string {
	return "explain/" + digest.NewKey("explain").Field("source", source).Sum().String()
}

func (h *history) record(j *job) {
	if j.prep == nil {
		return
	}
	source := filepath.Clean(j.prep.place.absolute(j.prep.inv.Source))
	o := &j.outcome
	a := Attempt{
		Time: j.started.UTC(), Outcome: o.kind.String(), Reason: o.reason, Detail: o.detail, Differs: o.why,
		Cwd: j.req.GetCwd(), Output: j.prep.inv.Object, Command: j.req.GetArgs(),
	}
	if !o.action.IsZero() {
		a.Action = o.action.String()
	}
	mark := a.Action + a.Output + a.Outcome
	if o.kind == hitDirect {
		if prev, ok := h.last.get(source); ok && prev == mark {
			return
		}
	}
	h.last.put(source, mark)
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
		rec.Attempts = append(fresh, rec.Attempts...)
		if len(rec.Attempts) > maxAttempts {
			rec.Attempts = rec.Attempts[:maxAttempts]
		}
		if b, err := json.Marshal(rec); err == nil {
			_ = h.cache.PutMemo(memoName(source), b) // a lost explanation is no more than that
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

// ErrNoHistory says that no compile of a source was seen.
var ErrNoHistory = errors.New("no compile of this file was seen")

// Explain compares the last compile of a source, an absolute path, with the
// one before that had another result.
func Explain(c *cache.Disk, source string) (*Explanation, error) {
	source = filepath.Clean(source)
	rec, err := readHistory(c, source)
	if err != nil || len(rec.Attempts) == 0 {
		return nil, ErrNoHistory
	}
	last := rec.Attempts[0]
	x := &Explanation{
		File: source, Time: last.Time, Command: last.Command, Outcome: last.Outcome,
		Reason: string(last.Reason), Action: last.Action,
	}
	if last.Action == "" {
		x.Note = last.Detail
		return x, nil
	}
	now, err := storedAction(c, last.Action)
	if err != nil {
		x.Note = "its result is not in the cache any more"
		return x, nil
	}
	for _, a := range rec.Attempts[1:] {
		if a.Action == "" || a.Action == last.Action {
			continue
		}
		before, err := storedAction(c, a.Action)
		if err != nil {
			continue
		}
		x.Against = "the compile before"
		x.Changes = action.Diff(before, now)
		return x, nil
	}
	return x, nil
}

func storedAction(c *cache.Disk, key string) (*action.Action, error) {
	k, err := digest.ParseKey(key)
	if err != nil {
		return nil, err
	}
	entry, err := c.Entry(k)
	if err != nil {
		return nil, err
	}
	return &entry.Action, nil
}
