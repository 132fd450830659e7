package worker

import (
	"fmt"
	"testing"

	"hpcc.dev/hpcc/internal/audit"
)

// BenchmarkHit is a hit's round trip over TLS on loopback, client included, with
// a journal on the disk: of a small C unit, and of a C++ unit with 600 headers
// and 1,200 absences.
func BenchmarkHit(b *testing.B) {
	for _, headers := range []int{3, 600} {
		b.Run(fmt.Sprintf("%d headers", headers), func(b *testing.B) {
			journal, err := audit.OpenJournal(b.TempDir(), audit.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer journal.Close()
			r := newRig(b, func(o *Options) { o.Audit = journal })
			files := map[string]string{}
			source := ""
			for i := range headers {
				name := fmt.Sprintf("include/library/part%03d/header%03d.h", i%20, i)
				files[name] = fmt.Sprint("int x", i)
				source += fmt.Sprintf("/hpcc/src/%s /hpcc/src/a/%s /hpcc/src/b/%s\n", name, name, name)
			}
			files["a.c"] = source
			c := r.client(b, "acme")
			c.compile(files)
			job := newJob(files)
			b.ReportAllocs()
			for b.Loop() {
				k := c.open()
				k.job(job)
				o := k.outcome()
				_ = k.CloseSend()
				k.outputs(o)
				if err := k.failure(); err != nil || !o.GetHit() {
					b.Fatal(err)
				}
				k.cancel()
			}
		})
	}
}
