package script

import (
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/digest"
)

// tamper WHAT exchanges in every entry of the cache one thing for another, and
// stores all under the right digests and keys, so that only a compile can tell:
// an output by its role, or "messages".
func tamper(ts *testscript.TestScript, neg bool, args []string) {
	disk, err := cache.Open(cache.Options{Dir: ts.Getenv("HPCC_CACHE_DIR")})
	ts.Check(err)
	files, err := filepath.Glob(filepath.Join(disk.Dir(), "ac", "*", "*"))
	ts.Check(err)
	n := 0
	for _, f := range files {
		key, err := digest.ParseKey(filepath.Base(f))
		ts.Check(err)
		entry, err := disk.Entry(key)
		ts.Check(err)
		if args[0] == "messages" {
			entry.Result.Stderr = []byte("other words\n")
			n++
		}
		for i := range entry.Result.Outputs {
			o := &entry.Result.Outputs[i]
			if o.Role == args[0] {
				o.Digest, err = disk.PutBlob([]byte("something else"))
				ts.Check(err)
				n++
			}
		}
		ts.Check(disk.PutEntry(key, entry))
	}
	if n == 0 {
		ts.Fatalf("no entry with %s", args[0])
	}
	ts.Check(disk.Close())
	// A running daemon is told to forget what it has in memory.
	_, err = hpcc(ts, "clean")
	ts.Check(err)
	if _, err := os.Stat(filepath.Join(disk.Dir(), "ac")); err != nil {
		ts.Fatalf("clean removed all: %v", err)
	}
}
