package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/digest"
)

// Sixty-four writers of one manifest, as many processes would be: each with a
// Disk of its own. Every update must see the one before.
func TestParallelManifestUpdates(t *testing.T) {
	const writers, updates = 64, 10
	dir := t.TempDir()
	key := digest.Key{1}
	var wg sync.WaitGroup
	for w := range writers {
		c := open(t, dir)
		wg.Go(func() {
			for u := range updates {
				err := cache.ErrBusy
				for errors.Is(err, cache.ErrBusy) { // the machine may be
					_, err = c.UpdateManifest(key, func(m *action.Manifest) error {
						n, _ := strconv.Atoi(m.Preprocess)
						m.Preprocess = strconv.Itoa(n + 1)
						m.Add(action.Candidate{Action: digest.Key{byte(w), byte(u)}})
						return nil
					})
				}
				if err != nil {
					t.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	wg.Wait()
	m, _, err := open(t, dir).Manifest(key)
	if err != nil || m.Preprocess != fmt.Sprint(writers*updates) || len(m.Candidates) != action.MaxCandidates {
		t.Errorf("%s updates of %d, %d candidates, %v", m.Preprocess, writers*updates, len(m.Candidates), err)
	}
}

// A process that was stopped while it held a lock stops no build for long.
func TestStoppedLockHolder(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for five seconds")
	}
	t.Parallel()
	dir := t.TempDir()
	holder, waiter := open(t, dir), open(t, dir)
	key := digest.Key{1}
	held, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := holder.UpdateManifest(key, func(*action.Manifest) error {
			close(held)
			<-release
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-held
	start := time.Now()
	if _, err := addCandidate(waiter, key, digest.Key{2}); !errors.Is(err, cache.ErrBusy) {
		t.Errorf("while it is held: %v", err)
	}
	if d := time.Since(start); d > time.Minute {
		t.Errorf("waited for %v", d)
	}
	close(release)
	wg.Wait()
	if _, err := addCandidate(waiter, key, digest.Key{2}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Eviction takes what was not used for longest, and stops at 90 %.
func TestEvictOldestFirst(t *testing.T) {
	const count, size = 100, 10_000
	dir := t.TempDir()
	c := openMax(t, dir, 2*count*size) // nothing evicts by itself
	var blobs []digest.Digest
	start := time.Now().Add(-30 * time.Minute)
	for i := range count {
		d, err := c.PutBlob(noise(uint64(i), size))
		if err != nil {
			t.Fatal(err)
		}
		// Files are visited by name, which is no order of theirs.
		path := filepath.Join(dir, "cas", d.Hex()[:2], d.Hex()+"-"+strconv.Itoa(size))
		used := start.Add(time.Duration(i) * time.Second)
		if err := os.Chtimes(path, used, used); err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, d)
	}
	if err := c.Evict(context.Background()); err != nil {
		t.Fatal(err)
	}
	small := openMax(t, dir, count*size/2)
	if err := small.Evict(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i, d := range blobs {
		_, err := c.Blob(d)
		if gone := errors.Is(err, cache.ErrNotFound); gone != (i < 55) {
			t.Errorf("blob %d: %v", i, err)
		}
	}
	if u, err := c.Usage(); err != nil || u.Bytes != 45*size {
		t.Errorf("usage %+v, %v", u, err)
	}
	clean(t, c)
}

// A cache that is written and read by several while it evicts stays within its
// size and serves nothing wrong.
func TestEvictUnderLoad(t *testing.T) {
	const limit = 2_000_000
	dir := t.TempDir()
	var wg sync.WaitGroup
	for w := range 4 {
		c := openMax(t, dir, limit)
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 0))
			for range 150 {
				seed := r.Uint64N(300)
				key := put(t, c, seed)
				b := noise(seed, 20_000)
				d, err := c.PutBlob(b)
				if err != nil {
					t.Error(err)
				}
				if got, err := c.Blob(d); err == nil && !bytes.Equal(got, b) {
					t.Error("wrong content")
				} else if err != nil && !errors.Is(err, cache.ErrNotFound) {
					t.Error(err)
				}
				if _, err := c.Entry(key); err != nil && !errors.Is(err, cache.ErrNotFound) {
					t.Error(err)
				}
				if _, err := addCandidate(c, digest.Key{byte(seed % 8)}, key); err != nil {
					t.Error(err)
				}
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c := openMax(t, dir, limit)
	u, err := c.Usage()
	if err != nil {
		t.Fatal(err)
	}
	// Four writers may each be 1 MB ahead of the accounting.
	if u.Bytes > limit+4<<20 {
		t.Errorf("usage %+v", u)
	}
	if err := c.Evict(context.Background()); err != nil {
		t.Fatal(err)
	}
	r := clean(t, c)
	if r.Bytes > limit || r.Bytes == 0 {
		t.Errorf("%d bytes after eviction", r.Bytes)
	}
	if r, err := c.Fsck(context.Background(), true); err != nil || r.Repaired != r.Dangling {
		t.Errorf("repair: %+v, %v", r, err)
	}
	if r := clean(t, c); r.Dangling != 0 {
		t.Errorf("after repair: %+v", r)
	}
}

// Several processes' accounting adds up to what is there.
func TestUsage(t *testing.T) {
	dir := t.TempDir()
	var disks []*cache.Disk
	for range 4 {
		disks = append(disks, open(t, dir))
	}
	var wg sync.WaitGroup
	for w, c := range disks {
		wg.Go(func() {
			for i := range 20 {
				key := put(t, c, uint64(100*w+i))
				if _, err := addCandidate(c, digest.Key{byte(i)}, key); err != nil {
					t.Error(err)
				}
				if i%5 == 0 {
					if err := c.Remove(cache.KindEntry, key); err != nil {
						t.Error(err)
					}
				}
			}
			if _, err := c.Usage(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	u, err := disks[0].Usage()
	if err != nil {
		t.Fatal(err)
	}
	r := clean(t, disks[1])
	if u.Bytes != r.Bytes || u.Entries != r.Entries || u.Entries != 64 || u.MaxBytes != cache.DefaultMaxBytes {
		t.Errorf("usage %+v, counted %d bytes and %d entries", u, r.Bytes, r.Entries)
	}
	// Lost or nonsense, it is counted anew.
	for _, lost := range []string{"", "nonsense", "-5 -5\n"} {
		if err := os.WriteFile(filepath.Join(dir, "usage"), []byte(lost), 0o600); err != nil {
			t.Fatal(err)
		}
		if again, err := disks[2].Usage(); err != nil || again != u {
			t.Errorf("after %q: %+v, %v; want %+v", lost, again, err, u)
		}
	}
}

func TestClean(t *testing.T) {
	c := open(t, t.TempDir())
	foreign := filepath.Join(c.Dir(), "stats.json")
	if err := os.WriteFile(foreign, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := put(t, c, 1)
	for _, p := range append(files(t, c, "ac"), files(t, c, "cas")...) {
		used := time.Now().Add(-8 * 24 * time.Hour)
		if err := os.Chtimes(p, used, used); err != nil {
			t.Fatal(err)
		}
	}
	young := put(t, c, 2)
	if r, err := c.Clean(context.Background(), cache.CleanOptions{}); err != nil || r.RemovedFiles != 0 || r.Left.Entries != 2 {
		t.Errorf("nothing asked for: %+v, %v", r, err)
	}
	r, err := c.Clean(context.Background(), cache.CleanOptions{OlderThan: 7 * 24 * time.Hour})
	if err != nil || r.RemovedFiles != 2 || r.RemovedEntries != 1 || r.RemovedBytes <= 0 || r.Left.Entries != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := c.Result(old); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("old: %v", err)
	}
	if _, err := c.Result(young); err != nil {
		t.Errorf("young: %v", err)
	}
	if r, err = c.Clean(context.Background(), cache.CleanOptions{All: true}); err != nil || r.Left.Bytes != 0 || r.Left.Entries != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("a file that is not the cache's: %v", err)
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	put(t, c, 3)
	if _, err := c.Clean(canceled, cache.CleanOptions{All: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestFsckRepairs(t *testing.T) {
	c := open(t, t.TempDir())
	key := put(t, c, 1)
	manifest := digest.Key{9}
	for _, k := range []digest.Key{key, {77}} { // one that exists, one that does not
		if _, err := addCandidate(c, manifest, k); err != nil {
			t.Fatal(err)
		}
	}
	dangling := put(t, c, 2)
	if err := os.Remove(blobPath(c, digest.Of(text(2, 5000))) + ".zst"); err != nil {
		t.Fatal(err)
	}
	shard := filepath.Dir(files(t, c, "ac")[0])
	for _, name := range []string{"README", ".tmp-0123456789abcdef", digest.Key{1}.String() + "x"} {
		if err := os.WriteFile(filepath.Join(shard, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(shard, filepath.Base(shard)+"dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, repair := range []bool{false, true} {
		r, err := c.Fsck(context.Background(), repair)
		if err != nil || r.Stray != 4 || r.Dangling != 2 || r.Damaged != 0 || (r.Repaired == 6) != repair || len(r.Problems) != 6 {
			t.Errorf("repair %v: %+v, %v", repair, r, err)
		}
	}
	if r := clean(t, c); r.Dangling != 0 || r.Entries != 1 {
		t.Errorf("%+v", r)
	}
	if _, err := c.Entry(dangling); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("the entry without its blob: %v", err)
	}
	if m, _, err := c.Manifest(manifest); err != nil || len(m.Candidates) != 1 || m.Candidates[0].Action != key {
		t.Errorf("%+v, %v", m, err)
	}
}

// blobPath is where a blob that is not compressed lies.
func blobPath(c *cache.Disk, d digest.Digest) string {
	return filepath.Join(c.Dir(), "cas", d.Hex()[:2], fmt.Sprintf("%s-%d", d.Hex(), d.Size()))
}
