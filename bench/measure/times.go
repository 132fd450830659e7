// Package measure is what the parts of the benchmark share: how times are taken and
// shown, and what is compiled.
package measure

import (
	"fmt"
	"os/exec"
	"slices"
	"time"
)

// Series is times of one thing.
type Series []time.Duration

func (s Series) sorted() Series {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

// Median is 0 without times.
func (s Series) Median() time.Duration {
	if len(s) == 0 {
		return 0
	}
	o := s.sorted()
	return (o[(len(o)-1)/2] + o[len(o)/2]) / 2
}

// Least is for a Series that is not empty.
func (s Series) Least() time.Duration { return slices.Min(s) }

// Minus is what each of s took longer than its pair.
func (s Series) Minus(other Series) Series {
	d := make(Series, len(s))
	for i := range s {
		d[i] = s[i] - other[i]
	}
	return d
}

// String is median and (least) in milliseconds.
func (s Series) String() string { return Ms(s.Median()) + " (" + Ms(s.Least()) + ")" }

// Ms writes d in milliseconds.
func Ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/1e6) }

// Ratio is a to b.
func Ratio(a, b time.Duration) string { return fmt.Sprintf("%.2f", float64(a)/float64(b)) }

// Timed runs a command, which must succeed.
func Timed(cmd *exec.Cmd) (time.Duration, error) {
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("%q: %w\n%s", cmd.Args, err, out)
	}
	return took, nil
}
