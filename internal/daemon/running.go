package daemon

import (
	"slices"
	"sync"
	"time"
)

// Running is a compile that is under way: a miss whose compiler runs.
type Running struct {
	Source string `json:"source"`
	Cwd    string `json:"cwd"`
	// Seconds is how long it has run.
	Seconds float64 `json:"seconds"`
}

// running knows the compiles that are under way. Hits are none, and pay
// nothing for it.
type running struct {
	mu   sync.Mutex
	jobs map[*job]time.Time
}

// begin notes a compile; the function that it returns, that it has ended.
func (r *running) begin(j *job) func() {
	if j.permit != nil {
		return func() {} // a race is one compile, and on the list already
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.jobs == nil {
		r.jobs = map[*job]time.Time{}
	}
	r.jobs[j] = time.Now()
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.jobs, j)
	}
}

// list returns them, the longest first.
func (r *running) list() []Running {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Running, 0, len(r.jobs))
	for j, since := range r.jobs {
		list = append(list, Running{j.source(), j.req.GetCwd(), time.Since(since).Seconds()})
	}
	slices.SortFunc(list, func(a, b Running) int {
		switch {
		case a.Seconds > b.Seconds:
			return -1
		case a.Seconds < b.Seconds:
			return 1
		}
		return 0
	})
	return list
}
