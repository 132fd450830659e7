package script

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/digest"
)

// tamper WHAT exchanges in every entry of the cache one thing for another, and
// stores all under the right digests and keys, so that only a compile can tell:
// an output by its role, or "messages".
func tamper(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(exchangeWhat(ts.Getenv("HPCC_CACHE_DIR"), args[0]))
	// A running daemon is told to forget what it has in memory.
	_, err := hpcc(ts, "clean")
	ts.Check(err)
}

// exchange tampers with the object of every entry.
func exchange(dir string) error { return exchangeWhat(dir, "object") }

func exchangeWhat(dir, what string) error {
	disk, err := cache.Open(cache.Options{Dir: dir})
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(disk.Dir(), "ac", "*", "*"))
	n := 0
	for _, f := range files {
		key, parseErr := digest.ParseKey(filepath.Base(f))
		entry, readErr := disk.Entry(key)
		if err = errors.Join(err, parseErr, readErr); err != nil {
			return err
		}
		if what == "messages" {
			entry.Result.Stderr = []byte("other words\n")
			n++
		}
		for i := range entry.Result.Outputs {
			if o := &entry.Result.Outputs[i]; o.Role == what {
				if o.Digest, err = disk.PutBlob([]byte("something else")); err != nil {
					return err
				}
				n++
			}
		}
		if err := disk.PutEntry(key, entry); err != nil {
			return err
		}
	}
	if n == 0 {
		return fmt.Errorf("no entry with %s", what)
	}
	return errors.Join(err, disk.Close())
}
