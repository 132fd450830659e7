package shared

import (
	"slices"
	"testing"

	"hpcc.dev/hpcc/internal/action"
)

func TestDoubt(t *testing.T) {
	manifest := func(contexts ...string) *action.Manifest {
		m := &action.Manifest{}
		for _, c := range contexts {
			m.Candidates = append(m.Candidates, action.Candidate{StdioContext: c})
		}
		return m
	}
	var looked, asked []string
	holds := func(c *action.Candidate) bool {
		looked = append(looked, c.StdioContext)
		return c.StdioContext[0] == 'y'
	}
	var doubt Doubt
	ask := func(m *action.Manifest, right string) {
		for c := range doubt.Candidates(m, holds) {
			asked = append(asked, c.StdioContext)
			if c.StdioContext == right {
				break
			}
		}
	}
	ask(manifest("n1", "n2"), "")
	if doubt.Over() || len(asked) > 0 {
		t.Errorf("candidates that do not hold count: %q", asked)
	}
	ask(manifest("y1", "y2"), "y1")
	if doubt.Over() || !slices.Equal(asked, []string{"y1"}) {
		t.Errorf("%q", asked)
	}
	// The next tier's manifest goes on with the same count.
	ask(manifest("n3", "y3", "y4"), "")
	if !doubt.Over() || !slices.Equal(asked, []string{"y1", "y3"}) {
		t.Errorf("%q", asked)
	}
	ask(manifest("y5"), "")
	if want := []string{"n1", "n2", "y1", "n3", "y3"}; !slices.Equal(looked, want) {
		t.Errorf("looked at %q, want %q", looked, want)
	}
}
