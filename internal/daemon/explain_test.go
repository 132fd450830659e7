package daemon

import (
	"testing"

	"hpcc.dev/hpcc/internal/compiler"
)

// Every reason for not caching says what can be done about it.
func TestEveryReasonHasANextStep(t *testing.T) {
	reasons := map[compiler.Reason]bool{}
	for _, r := range append(compiler.Reasons(), compiler.TextReasons()...) {
		reasons[r.Reason] = true
	}
	for r := range engineReasons {
		reasons[r] = true
	}
	for r := range reasons {
		if nextStep(r) == "" {
			t.Errorf("no next step for %s", r)
		}
	}
}
