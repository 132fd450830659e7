package cache_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/cache"
)

// A quarantined entry is out of look-ups' reach, whole, and known to all that
// tends the cache.
func TestQuarantine(t *testing.T) {
	c := open(t, t.TempDir())
	key := put(t, c, 1)
	want, err := c.Entry(key)
	require(t, "entry", err)
	require(t, "quarantine", c.Quarantine(key, []byte("report")))
	if _, err := c.Entry(key); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("still served: %v", err)
	}
	report, e, err := c.Quarantined(key)
	if err != nil || string(report) != "report" || e == nil || e.Action.Key() != key || e.Result.Outputs[0] != want.Result.Outputs[0] {
		t.Errorf("kept %q, %+v, %v", report, e, err)
	}
	if keys := c.QuarantinedKeys(); len(keys) != 1 || keys[0] != key {
		t.Errorf("keys %v", keys)
	}
	if r := clean(t, c); r.Quarantined != 1 || r.Entries != 0 {
		t.Errorf("fsck: %+v", r)
	}
	use, err := c.Usage()
	require(t, "usage", err)
	if r := clean(t, c); use.Entries != 0 || use.Bytes != r.Bytes {
		t.Errorf("usage %+v, held %d", use, r.Bytes)
	}
	// The same key may be stored anew, and be found wrong again.
	put(t, c, 1)
	require(t, "again", c.Quarantine(key, []byte("another")))
	if report, _, err := c.Quarantined(key); err != nil || string(report) != "another" {
		t.Errorf("kept %q, %v", report, err)
	}
	// Of one that was evicted meanwhile the report is kept.
	gone := put(t, c, 2)
	require(t, "remove", c.Remove(cache.KindEntry, gone))
	require(t, "quarantine", c.Quarantine(gone, []byte("gone")))
	if report, e, err := c.Quarantined(gone); err != nil || string(report) != "gone" || e != nil {
		t.Errorf("kept %q, %v, %v", report, e, err)
	}
	if err := c.Quarantine(put(t, c, 3), make([]byte, cache.MaxReport+1)); !errors.Is(err, cache.ErrTooLarge) {
		t.Errorf("a report too large: %v", err)
	}
	// Damage is found, and cleaned up.
	for _, path := range files(t, c, "quarantine") {
		b, err := os.ReadFile(path)
		require(t, "read", err)
		b[len(b)/2]++
		require(t, "write", os.WriteFile(path, b, 0o600))
	}
	if r, err := c.Fsck(context.Background(), true); err != nil || r.Damaged != 2 || r.Repaired != 2 || len(c.QuarantinedKeys()) != 0 {
		t.Errorf("fsck: %+v, %v", r, err)
	}
}

// The quarantine keeps the newest of what is too much.
func TestQuarantineIsBounded(t *testing.T) {
	c := open(t, t.TempDir())
	report := bytes.Repeat([]byte("x"), 1000)
	past := time.Now().Add(-time.Hour)
	for i := range uint64(105) {
		key := put(t, c, i)
		require(t, "quarantine", c.Quarantine(key, report))
		for _, path := range files(t, c, "quarantine") {
			if strings.HasSuffix(path, key.String()) {
				require(t, "age", os.Chtimes(path, past, past.Add(time.Duration(i)*time.Second)))
			}
		}
	}
	keys := c.QuarantinedKeys()
	if len(keys) != 100 {
		t.Fatalf("%d are kept", len(keys))
	}
	if oldest, _ := entry(t, c, 0); keys[len(keys)-1] == oldest {
		t.Error("the oldest is kept")
	}
	if newest, _ := entry(t, c, 104); keys[0] != newest {
		t.Error("the newest is not kept")
	}
	// By size as well: 66 reports of a megabyte are more than 64.
	big := make([]byte, cache.MaxReport)
	for i := range uint64(66) {
		require(t, "quarantine", c.Quarantine(put(t, c, 1000+i), big))
	}
	var held int64
	for _, path := range files(t, c, "quarantine") {
		info, err := os.Stat(path)
		require(t, "stat", err)
		held += info.Size()
	}
	if held > 64<<20 {
		t.Errorf("%d bytes are kept", held)
	}
}

func TestFind(t *testing.T) {
	c := open(t, t.TempDir())
	key := put(t, c, 1)
	name := key.String()
	for _, prefix := range []string{name, name[:12], name[:2]} {
		if got, err := c.Find(cache.KindEntry, prefix, 5); err != nil || len(got) != 1 || got[0] != name {
			t.Errorf("%s: %v, %v", prefix, got, err)
		}
	}
	if got, err := c.Find(cache.KindManifest, name, 5); err != nil || len(got) != 0 {
		t.Errorf("a manifest: %v, %v", got, err)
	}
	if _, err := c.Find(cache.KindEntry, "a", 5); err == nil {
		t.Error("one digit is taken")
	}
	require(t, "memo", c.PutMemo("kind/"+name, []byte("1")))
	n := 0
	c.EachMemo("kind", func(b []byte) bool { n += len(b); return true })
	c.EachMemo("other", func([]byte) bool { n += 100; return true })
	if n != 1 {
		t.Errorf("memos: %d", n)
	}
}

func TestPeek(t *testing.T) {
	dir := t.TempDir() + "/none"
	if _, err := cache.Peek(dir, 1); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("no cache: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("it was made")
	}
	c := open(t, dir)
	key := put(t, c, 1)
	p, err := cache.Peek(dir, 1)
	require(t, "peek", err)
	if _, err := p.Entry(key); err != nil {
		t.Errorf("entry: %v", err)
	}
}
