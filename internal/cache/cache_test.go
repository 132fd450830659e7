package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/leaktest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("HPCC_TEST_WRITER"); dir != "" {
		writeForever(dir) // the process that TestKilledWriters kills
	}
	os.Exit(leaktest.Run(m))
}

// require ends a test that lacks something of its surroundings: as a failure
// where HPCC_TEST_REQUIRE is set, for a test that was skipped shows nothing.
func require(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv("HPCC_TEST_REQUIRE") != "" {
		t.Fatalf("missing: %s: %v", what, err)
	}
	t.Skipf("missing: %s: %v", what, err)
}

func open(t testing.TB, dir string) *cache.Disk {
	t.Helper()
	return openMax(t, dir, 0)
}

func openMax(t testing.TB, dir string, maxBytes int64) *cache.Disk {
	t.Helper()
	c, err := cache.Open(cache.Options{Dir: dir, MaxBytes: maxBytes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

// text is n bytes that compress about as object files do.
func text(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = fmt.Appendf(b, "%x sym%d ", r.Uint32(), r.IntN(50))
	}
	return b[:n]
}

// noise is n bytes that do not compress.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// entry is an entry whose result names one stored blob.
func entry(t testing.TB, c *cache.Disk, seed uint64) (digest.Key, *action.Entry) {
	t.Helper()
	d, err := c.PutBlob(text(seed, 5000))
	if err != nil {
		t.Fatal(err)
	}
	e := &action.Entry{
		Action: action.Action{
			Command: []string{"-c", fmt.Sprint("x", seed, ".c")},
			Inputs:  []action.Input{{Path: "x.c", Digest: digest.Of(text(seed, 10))}},
		},
		Result: action.Result{
			Stderr:  []byte("warning"),
			Outputs: []action.Output{{Role: "object", Digest: d}},
		},
	}
	return e.Action.Key(), e
}

func put(t testing.TB, c *cache.Disk, seed uint64) digest.Key {
	t.Helper()
	key, e := entry(t, c, seed)
	if err := c.PutEntry(key, e); err != nil {
		t.Fatal(err)
	}
	return key
}

func addCandidate(c *cache.Disk, key, actionKey digest.Key) (cache.Stamp, error) {
	return c.UpdateManifest(key, func(m *action.Manifest) error {
		m.Add(action.Candidate{Action: actionKey, Inputs: []action.Input{{Path: "a.c", Digest: digest.Of(actionKey[:])}}})
		return nil
	})
}

// clean fails the test unless everything in the cache is right.
func clean(t *testing.T, c *cache.Disk) cache.FsckReport {
	t.Helper()
	r, err := c.Fsck(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Clean() {
		t.Errorf("fsck: %+v", r)
	}
	return r
}

// files lists the cache's files below one of its directories.
func files(t testing.TB, c *cache.Disk, under string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(c.Dir(), under), func(p string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			paths = append(paths, p)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return paths
}

func only(t testing.TB, c *cache.Disk, under string) string {
	t.Helper()
	list := files(t, c, under)
	if len(list) != 1 {
		t.Fatalf("%d files in %s, want 1: %v", len(list), under, list)
	}
	return list[0]
}

func TestBlobRoundTrip(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	other := open(t, dir)
	for _, b := range [][]byte{{}, {0}, []byte("small"), text(1, 99), text(2, 300_000), noise(3, 300_000), make([]byte, 5_000_000)} {
		d, err := c.PutBlob(b)
		if err != nil {
			t.Fatal(err)
		}
		if d != digest.Of(b) {
			t.Errorf("PutBlob of %d bytes returned %s", len(b), d)
		}
		before := len(files(t, c, "cas"))
		if _, err := other.PutBlob(b); err != nil {
			t.Fatal(err)
		}
		if after := len(files(t, c, "cas")); after != before {
			t.Errorf("the second PutBlob made %d files", after-before)
		}
		got, err := other.Blob(d)
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("Blob of %d bytes: %d bytes, %v", len(b), len(got), err)
		}
	}
	if _, err := c.Blob(digest.Of([]byte("never stored"))); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("a blob never stored: %v", err)
	}
	if n := c.Damaged() + other.Damaged(); n != 0 {
		t.Errorf("%d damaged files", n)
	}
	if left := files(t, c, "tmp"); len(left) > 0 {
		t.Errorf("left in tmp: %v", left)
	}
	clean(t, c)
}

func TestHasBlob(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	for _, b := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("compressible "), 1000)} {
		d := digest.Of(b)
		if c.HasBlob(d) {
			t.Errorf("%s is there before it was put", d)
		}
		if _, err := c.PutBlob(b); err != nil {
			t.Fatal(err)
		}
		if !c.HasBlob(d) {
			t.Errorf("%s is not there", d)
		}
	}
	d := digest.Of([]byte("x"))
	path, _ := filepath.Glob(filepath.Join(dir, "cas/*", d.Hex()+"-1*"))
	if err := os.WriteFile(path[0], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if c.HasBlob(d) {
		t.Error("a file that is empty has a blob of one byte")
	}
	if err := os.WriteFile(path[0], []byte("y"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Blob(d); !errors.Is(err, cache.ErrNotFound) || c.HasBlob(d) {
		t.Errorf("after the damage was found: %v", err)
	}
}

func TestTooLarge(t *testing.T) {
	c := open(t, t.TempDir())
	huge, err := digest.New([32]byte{1}, cache.MaxBlob+1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Blob(huge); !errors.Is(err, cache.ErrTooLarge) {
		t.Errorf("Blob: %v", err)
	}
	if err := c.PutMemo("explain/"+digest.Key{}.String(), make([]byte, cache.MaxMemo+1)); !errors.Is(err, cache.ErrTooLarge) {
		t.Errorf("PutMemo: %v", err)
	}
}

func TestEntryRoundTrip(t *testing.T) {
	c := open(t, t.TempDir())
	key, e := entry(t, c, 1)
	if _, err := c.Entry(key); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	if err := c.PutEntry(digest.Key{}, e); err == nil {
		t.Error("an entry was stored under a key that is not its own")
	}
	if err := c.PutEntry(key, e); err != nil {
		t.Fatal(err)
	}
	got, err := c.Entry(key)
	if err != nil || got.Action.Key() != key || string(got.Result.Stderr) != "warning" {
		t.Errorf("Entry: %+v, %v", got, err)
	}
	r, err := c.Result(key)
	if err != nil || len(r.Outputs) != 1 || r.Outputs[0] != e.Result.Outputs[0] {
		t.Errorf("Result: %+v, %v", r, err)
	}
	if err := c.Remove(cache.KindEntry, key); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(cache.KindEntry, key); err != nil {
		t.Errorf("the second Remove: %v", err)
	}
	if _, err := c.Result(key); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("after: %v", err)
	}
	if u, err := c.Usage(); err != nil || u.Entries != 0 {
		t.Errorf("usage: %+v, %v", u, err)
	}
}

func TestManifestUpdates(t *testing.T) {
	dir := t.TempDir()
	c, other := open(t, dir), open(t, dir)
	key := digest.Key{1}
	if _, err := c.ManifestStamp(key); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	s1, err := addCandidate(c, key, digest.Key{10})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := other.ManifestStamp(key); err != nil || s != s1 {
		t.Errorf("stamp %+v, %v; want %+v", s, err, s1)
	}
	s2, err := addCandidate(other, key, digest.Key{11})
	if err != nil || s2 == s1 {
		t.Errorf("stamps %+v and %+v, %v", s1, s2, err)
	}
	m, s, err := c.Manifest(key)
	if err != nil || s != s2 || len(m.Candidates) != 2 || m.Candidates[0].Action != (digest.Key{11}) {
		t.Errorf("manifest %+v, stamp %+v, %v", m, s, err)
	}
	// What changes nothing writes nothing.
	if s, err := c.UpdateManifest(key, func(*action.Manifest) error { return nil }); err != nil || s != s2 {
		t.Errorf("an update that changes nothing: %+v, %v", s, err)
	}
	refused := errors.New("refused")
	if _, err := c.UpdateManifest(key, func(m *action.Manifest) error { m.Candidates = nil; return refused }); !errors.Is(err, refused) {
		t.Errorf("an update that fails: %v", err)
	}
	if m, _, err := c.Manifest(key); err != nil || len(m.Candidates) != 2 {
		t.Errorf("after it: %+v, %v", m, err)
	}
}

func TestMemo(t *testing.T) {
	c := open(t, t.TempDir())
	name := "compiler/" + digest.Key{1}.String()
	if _, err := c.Memo(name); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	for _, s := range []string{"one", "", "three"} {
		if err := c.PutMemo(name, []byte(s)); err != nil {
			t.Fatal(err)
		}
		if b, err := c.Memo(name); err != nil || string(b) != s {
			t.Errorf("%q, %v; want %q", b, err, s)
		}
	}
	for _, bad := range []string{"", "x", "/" + digest.Key{1}.String(), "../" + digest.Key{1}.String(), "A/" + digest.Key{1}.String(), "compiler/../../x", "compiler/"} {
		if err := c.PutMemo(bad, nil); err == nil {
			t.Errorf("the name %q was accepted", bad)
		}
	}
}

// Reading renews the time of last use once an hour, whichever way it is read.
func TestTouch(t *testing.T) {
	c := open(t, t.TempDir())
	key := put(t, c, 1)
	manifest := digest.Key{7}
	if _, err := addCandidate(c, manifest, key); err != nil {
		t.Fatal(err)
	}
	e, err := c.Entry(key)
	if err != nil {
		t.Fatal(err)
	}
	reads := map[string]func(){
		"read": func() {
			c.Entry(key)
			c.Manifest(manifest)
			c.Blob(e.Result.Outputs[0].Digest)
		},
		"put": func() {
			c.PutBlob(text(1, 5000))
			c.PutEntry(key, e)
			c.Manifest(manifest)
		},
		"touch": func() { c.Touch(manifest, key, &e.Result) },
	}
	paths := slices.Concat(files(t, c, "cas"), files(t, c, "ac"), files(t, c, "manifest"))
	if len(paths) != 3 {
		t.Fatalf("%v", paths)
	}
	for name, read := range reads {
		for _, age := range []time.Duration{30 * time.Minute, 2 * time.Hour} {
			old := time.Now().Add(-age)
			for _, p := range paths {
				if err := os.Chtimes(p, old, old); err != nil {
					t.Fatal(err)
				}
			}
			read()
			for _, p := range paths {
				fi, err := os.Stat(p)
				if err != nil {
					t.Fatal(err)
				}
				renewed := time.Since(fi.ModTime()) < time.Minute
				written := name == "put" && strings.Contains(p, "/ac/")
				if want := age > time.Hour || written; renewed != want {
					t.Errorf("%s, %v old: renewed %v, want %v: %s", name, age, renewed, want, p)
				}
			}
		}
	}
}

func TestStamps(t *testing.T) {
	// A manifest whose time is renewed by being read gives the stamp that it
	// has afterwards, or the daemon would read it again for nothing.
	c := open(t, t.TempDir())
	key := digest.Key{1}
	if _, err := addCandidate(c, key, digest.Key{2}); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-5 * time.Hour)
	if err := os.Chtimes(only(t, c, "manifest"), old, old); err != nil {
		t.Fatal(err)
	}
	_, read, err := c.Manifest(key)
	if err != nil {
		t.Fatal(err)
	}
	if now, err := c.ManifestStamp(key); err != nil || now != read {
		t.Errorf("read %+v, now %+v, %v", read, now, err)
	}
}

func TestVersion(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	path := filepath.Join(dir, "VERSION")
	if err := os.WriteFile(path, []byte("hpcc cache 999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Open(cache.Options{Dir: dir}); !errors.Is(err, cache.ErrVersion) {
		t.Errorf("another version's: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestOpenMakesPrivateTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	c := open(t, dir)
	put(t, c, 1)
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", p, fi.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSweep(t *testing.T) {
	c := open(t, t.TempDir())
	stale, fresh := filepath.Join(c.TempDir(), "stale"), filepath.Join(c.TempDir(), "fresh")
	for _, p := range []string{stale, fresh} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(stale, old, old); err != nil {
		t.Fatal(err)
	}
	open(t, c.Dir())
	if left := files(t, c, "tmp"); !slices.Equal(left, []string{fresh}) {
		t.Errorf("left: %v", left)
	}
}

// TestBlobOfAnySize stores what compresses well, at each length at which a frame
// of zstd begins otherwise.
func TestBlobOfAnySize(t *testing.T) {
	c := open(t, t.TempDir())
	for n := 0; n < 70_000; n += 1 + n/100 {
		b := bytes.Repeat([]byte("x"), n)
		d, err := c.PutBlob(b)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Blob(d); err != nil || !bytes.Equal(got, b) || !c.HasBlob(d) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
