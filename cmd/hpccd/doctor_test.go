package main

import (
	"testing"
	"time"
)

// No machine at hand stamps files by another clock, so that this check alone is
// tested by its rule.
func TestSkew(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		stamp time.Time
		want  string
	}{
		{now, ""},
		{now.Add(-10 * time.Millisecond), ""}, // the kernel's tick
		{now.Add(-3 * time.Second), "3s behind the clock"},
		{now.Add(time.Hour), "59m59.99s ahead of the clock"},
	} {
		if got := skew(c.stamp, now, now.Add(10*time.Millisecond)); got != c.want {
			t.Errorf("%v: %q, want %q", c.stamp.Sub(now), got, c.want)
		}
	}
}
