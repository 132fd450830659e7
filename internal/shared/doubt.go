package shared

import (
	"iter"

	"hpcc.dev/hpcc/internal/action"
)

// maxDoubtful bounds the results that one manifest's candidates are asked for in
// vain, in all tiers together: a manifest that lies costs no more than that.
const maxDoubtful = 2

// Doubt counts the results that one look-up asked for. A manifest is a hint by a
// stranger, so that candidates that hold may lead to nothing. The zero value has
// asked for none; it is for one goroutine.
type Doubt struct{ asked int }

// Candidates yields those of a manifest's candidates that hold, as holds says, until
// the loop ends or enough results were asked for: each turn of the loop counts as one.
func (d *Doubt) Candidates(m *action.Manifest, holds func(*action.Candidate) bool) iter.Seq[*action.Candidate] {
	return func(yield func(*action.Candidate) bool) {
		for i := range m.Candidates {
			if d.Over() {
				return
			}
			c := &m.Candidates[i]
			if !holds(c) {
				continue
			}
			if d.asked++; !yield(c) {
				return
			}
		}
	}
}

// Over tells that no more results are to be asked for.
func (d *Doubt) Over() bool { return d.asked >= maxDoubtful }
