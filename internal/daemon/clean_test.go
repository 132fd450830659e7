package daemon

import (
	"bytes"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/cache"
)

// What another process has stored and not yet accounted for is nothing that was
// removed.
func TestCleanCountsWhatItRemoves(t *testing.T) {
	dir := t.TempDir()
	daemons, own := openCache(t, dir), openCache(t, dir)
	blob := bytes.Repeat([]byte("x"), 10_000)
	if _, err := daemons.PutBlob(blob); err != nil {
		t.Fatal(err)
	}
	r, err := CleanCache(t.Context(), own, CleanOptions{OlderThan: 7 * 24 * time.Hour})
	if err != nil || r.Bytes != 0 || r.Entries != 0 || r.BytesLeft <= 0 {
		t.Errorf("nothing is that old: %+v, %v", r, err)
	}
	left := r.BytesLeft
	r, err = CleanCache(t.Context(), own, CleanOptions{All: true})
	if err != nil || r.Bytes != left || r.Entries != 0 || r.BytesLeft != 0 {
		t.Errorf("%d bytes were there: %+v, %v", left, r, err)
	}
}

func openCache(t *testing.T, dir string) *cache.Disk {
	t.Helper()
	c, err := cache.Open(cache.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
