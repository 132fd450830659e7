package shared

import (
	"bytes"
	"fmt"
	"testing"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// BenchmarkHit is what a hit costs besides the store's answer: a unit that reads
// 1,000 files and looks for 4,000 in vain, with 300 KB of objects.
func BenchmarkHit(b *testing.B) {
	alice := testSigner(b, "alice")
	far := store.NewMemory(0)
	var text bytes.Buffer
	for i := range 3000 {
		fmt.Fprintf(&text, "symbol %d of a table in which most repeats %x\n", i, digest.Of([]byte{byte(i), byte(i >> 8)}).Hex()[:20])
	}
	e, blobs := testEntry("a.cc", text.Bytes(), noise(100_000, 1))
	for i := range 1000 {
		p := fmt.Sprintf("/usr/include/c++/14/bits/header_%d.h", i)
		e.Action.Inputs = append(e.Action.Inputs, action.Input{Path: p, Digest: digest.Of([]byte(p))})
		for j := range 4 {
			e.Action.Absent = append(e.Action.Absent, fmt.Sprintf("/usr/local/include/%d/header_%d.h", j, i))
		}
	}
	e.Action.Compact() // as the daemon does
	w := newCache(b, Options{Tiers: tierOf(far), Signer: alice})
	w.Put(testManifest, "", e, blobs)
	drain(b, w)
	c := newCache(b, Options{Tiers: tierOf(far), Trust: (*Trust)(nil).With(alice)})
	for b.Loop() {
		m := known(b.Context(), c, testManifest)
		if f := c.Result(b.Context(), m.Candidates[0].Action); f == nil {
			b.Fatal("a miss")
		}
	}
	b.ReportMetric(float64(c.Stats().Tiers[0].BytesIn)/float64(b.N), "wire-B/op")
}
