package cache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/digest"
)

// damages are ways in which a file can come to hold what it should not.
var damages = map[string]func(b []byte) []byte{
	"flipped bit":  func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
	"first byte":   func(b []byte) []byte { b[0] ^= 0xff; return b },
	"last byte":    func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
	"truncated":    func(b []byte) []byte { return b[:len(b)-1] },
	"half":         func(b []byte) []byte { return b[:len(b)/2] },
	"empty":        func([]byte) []byte { return nil },
	"longer":       func(b []byte) []byte { return append(b, 0) },
	"twice":        func(b []byte) []byte { return append(b, b...) },
	"much longer":  func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) },
	"zeros":        func(b []byte) []byte { return make([]byte, len(b)) },
	"zeros inside": func(b []byte) []byte { clear(b[len(b)/3 : len(b)/2]); return b },
}

// Whatever happens to a file, it is not served, does not stay, is counted, and
// can be stored again.
func TestDamage(t *testing.T) {
	manifest, memo := digest.Key{1}, "explain/"+digest.Key{3}.String()
	for name, damage := range damages {
		for _, dir := range []string{"cas", "ac", "manifest", "memo", "raw"} {
			t.Run(dir+"/"+name, func(t *testing.T) {
				c := open(t, t.TempDir())
				raw := noise(4, 5000) // stored as it is
				fill := func() (key digest.Key) {
					if dir == "raw" {
						if _, err := c.PutBlob(raw); err != nil {
							t.Fatal(err)
						}
						return key
					}
					key = put(t, c, 1)
					if _, err := addCandidate(c, manifest, key); err != nil {
						t.Fatal(err)
					}
					if err := c.PutMemo(memo, []byte("memo")); err != nil {
						t.Fatal(err)
					}
					return key
				}
				key := fill()
				under := dir
				read := map[string]func() error{
					"cas":      func() error { _, err := c.Blob(digest.Of(text(1, 5000))); return err },
					"raw":      func() error { _, err := c.Blob(digest.Of(raw)); return err },
					"ac":       func() error { _, err := c.Entry(key); return err },
					"manifest": func() error { _, _, err := c.Manifest(manifest); return err },
					"memo":     func() error { _, err := c.Memo(memo); return err },
				}[dir]
				if dir == "raw" {
					under = "cas"
				}
				if err := read(); err != nil {
					t.Fatal(err)
				}
				path := only(t, c, under)
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, damage(b), 0o600); err != nil {
					t.Fatal(err)
				}
				if r, err := c.Fsck(context.Background(), false); err != nil || r.Damaged != 1 {
					t.Errorf("fsck: %+v, %v", r, err)
				}
				if err := read(); !errors.Is(err, cache.ErrNotFound) {
					t.Errorf("read: %v", err)
				}
				if c.Damaged() != 1 {
					t.Errorf("%d damaged files counted", c.Damaged())
				}
				if left := files(t, c, under); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
				fill()
				if err := read(); err != nil {
					t.Errorf("stored again: %v", err)
				}
				clean(t, c)
			})
		}
	}
}

// A whole file in another one's place is as wrong as a damaged one.
func TestSwappedFiles(t *testing.T) {
	manifest := []digest.Key{{1}, {2}}
	memos := []string{"explain/" + digest.Key{1}.String(), "explain/" + digest.Key{2}.String()}
	for _, dir := range []string{"cas", "ac", "manifest", "memo"} {
		t.Run(dir, func(t *testing.T) {
			c := open(t, t.TempDir())
			var keys []digest.Key
			for i := range 2 {
				keys = append(keys, put(t, c, uint64(i)))
				if _, err := addCandidate(c, manifest[i], keys[i]); err != nil {
					t.Fatal(err)
				}
				if err := c.PutMemo(memos[i], []byte("same")); err != nil {
					t.Fatal(err)
				}
			}
			swap := files(t, c, dir)
			for _, step := range [][2]string{{swap[0], swap[0] + "x"}, {swap[1], swap[0]}, {swap[0] + "x", swap[1]}} {
				if err := os.Rename(step[0], step[1]); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 2 {
				var err error
				switch dir {
				case "cas":
					_, err = c.Blob(digest.Of(text(uint64(i), 5000)))
				case "ac":
					_, err = c.Result(keys[i])
				case "manifest":
					_, _, err = c.Manifest(manifest[i])
				case "memo":
					_, err = c.Memo(memos[i])
				}
				if !errors.Is(err, cache.ErrNotFound) {
					t.Errorf("%d: %v", i, err)
				}
			}
			if c.Damaged() != 2 {
				t.Errorf("%d damaged files counted", c.Damaged())
			}
			clean(t, c)
		})
	}
}

// An update replaces a manifest that is damaged.
func TestUpdateDamagedManifest(t *testing.T) {
	c := open(t, t.TempDir())
	key := digest.Key{1}
	if _, err := addCandidate(c, key, digest.Key{2}); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(only(t, c, "manifest"), 50); err != nil {
		t.Fatal(err)
	}
	if _, err := addCandidate(c, key, digest.Key{3}); err != nil {
		t.Fatal(err)
	}
	m, _, err := c.Manifest(key)
	if err != nil || len(m.Candidates) != 1 || m.Candidates[0].Action != (digest.Key{3}) {
		t.Errorf("%+v, %v", m, err)
	}
}

// mount mounts a file system for the test, or says that it cannot.
func mount(t *testing.T, args ...string) (dir string) {
	t.Helper()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		require(t, "root on Linux, for mounts", errors.New("not here"))
	}
	dir = t.TempDir()
	out, err := exec.Command("mount", append(args, dir)...).CombinedOutput()
	if err != nil {
		require(t, "mount "+args[1], errors.New(string(out)))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
	return dir
}

func TestFullDisk(t *testing.T) {
	c := open(t, mount(t, "-t", "tmpfs", "-o", "size=1m", "tmpfs"))
	key := put(t, c, 1)
	manifest := digest.Key{1}
	if _, err := addCandidate(c, manifest, key); err != nil {
		t.Fatal(err)
	}
	full := false
	for i := uint64(0); i < 50 && !full; i++ {
		b := noise(i, 100_000)
		d, err := c.PutBlob(b)
		if err == nil {
			continue
		}
		full = true
		if !errors.Is(err, cache.ErrFull) {
			t.Errorf("PutBlob: %v", err)
		}
		if _, err := c.Blob(d); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("the blob that did not fit: %v", err)
		}
	}
	if !full {
		t.Fatal("5 MB fitted into 1")
	}
	// What is left of the disk is less than this takes.
	for i := uint64(100); i < 1000; i++ {
		if _, err := c.PutBlob(noise(i, 4000)); err != nil {
			break
		}
	}
	if _, err := c.UpdateManifest(manifest, func(m *action.Manifest) error {
		m.Preprocess = string(noise(1, 50_000))
		return nil
	}); !errors.Is(err, cache.ErrFull) {
		t.Errorf("UpdateManifest: %v", err)
	}
	if m, _, err := c.Manifest(manifest); err != nil || len(m.Candidates) != 1 {
		t.Errorf("the manifest of before: %+v, %v", m, err)
	}
	if left := files(t, c, "tmp"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	clean(t, c)
	if _, err := c.Clean(context.Background(), cache.CleanOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	put(t, c, 2)
}

func TestReadOnlyDirectory(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	key := put(t, c, 1)
	manifest := digest.Key{1}
	if _, err := addCandidate(c, manifest, key); err != nil {
		t.Fatal(err)
	}
	place := mount(t, "--bind", dir)
	if out, err := exec.Command("mount", "-o", "remount,bind,ro", place).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	ro, err := cache.Open(cache.Options{Dir: place})
	if err != nil {
		t.Fatal(err)
	}
	e, err := ro.Entry(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ro.Blob(e.Result.Outputs[0].Digest); err != nil {
		t.Errorf("Blob: %v", err)
	}
	if _, _, err := ro.Manifest(manifest); err != nil {
		t.Errorf("Manifest: %v", err)
	}
	if u, err := ro.Usage(); err != nil || u.Entries != 1 {
		t.Errorf("Usage: %+v, %v", u, err)
	}
	_, newEntry := entry(t, c, 2)
	for what, err := range map[string]error{
		"PutBlob":        func() error { _, err := ro.PutBlob([]byte("new")); return err }(),
		"PutEntry":       ro.PutEntry(newEntry.Action.Key(), newEntry),
		"UpdateManifest": func() error { _, err := addCandidate(ro, manifest, digest.Key{5}); return err }(),
		"PutMemo":        ro.PutMemo("explain/"+key.String(), nil),
		"Remove":         ro.Remove(cache.KindEntry, key),
		"Evict":          ro.Evict(context.Background()),
	} {
		if !errors.Is(err, cache.ErrReadOnly) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A damaged file is not served, even if it cannot be removed.
	if err := os.Truncate(only(t, c, "ac"), 100); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := ro.Entry(key); !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("damaged: %v", err)
		}
	}
	if _, err := cache.Open(cache.Options{Dir: filepath.Join(place, "new")}); !errors.Is(err, cache.ErrReadOnly) {
		t.Errorf("a new cache: %v", err)
	}
}

// The directory is deleted again and again while it is used: nothing wrong is
// served, and it goes on working.
func TestDeletedUnderWay(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "cache"))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 0))
			for {
				select {
				case <-stop:
					return
				default:
				}
				b := text(r.Uint64N(20), 2000)
				d, err := c.PutBlob(b)
				if err != nil {
					continue // deleted three times within the call
				}
				if got, err := c.Blob(d); err == nil && !bytes.Equal(got, b) {
					t.Error("wrong content")
				}
				_, _ = addCandidate(c, digest.Key{byte(r.Uint64N(4))}, digest.Key{byte(r.Uint64N(100))})
			}
		})
	}
	for range 30 {
		time.Sleep(2 * time.Millisecond)
		_ = os.RemoveAll(c.Dir()) // meets new files, too
	}
	close(stop)
	wg.Wait()
	key := put(t, c, 1)
	if _, err := c.Entry(key); err != nil {
		t.Error(err)
	}
	if _, err := addCandidate(c, digest.Key{200}, key); err != nil {
		t.Error(err)
	}
	clean(t, c)
}

// writeForever is a process that stores results until it is killed. It says so on
// stdout once the first is there.
func writeForever(dir string) {
	c, err := cache.Open(cache.Options{Dir: dir, MaxBytes: 3_000_000})
	if err != nil {
		panic(err)
	}
	seed, err := strconv.ParseUint(os.Getenv("HPCC_TEST_SEED"), 10, 64)
	if err != nil {
		panic(err)
	}
	r := rand.New(rand.NewPCG(seed, 0))
	for i := 0; ; i++ {
		n := r.Uint64N(1000)
		d, err := c.PutBlob(text(n, 20_000))
		if err != nil {
			panic(err)
		}
		e := &action.Entry{
			Action: action.Action{Command: []string{strconv.FormatUint(n, 10)}},
			Result: action.Result{Outputs: []action.Output{{Role: "object", Digest: d}}},
		}
		key := e.Action.Key()
		if err := c.PutEntry(key, e); err != nil {
			panic(err)
		}
		if _, err := addCandidate(c, digest.Key{byte(n % 4)}, key); err != nil {
			panic(err)
		}
		if i == 0 {
			if _, err := os.Stdout.WriteString("\n"); err != nil {
				panic(err)
			}
		}
	}
}

// Writers are killed at random moments, evictions under way included: what is
// left is right, and others do not wait for the dead.
func TestKilledWriters(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for round := range 15 {
		var writers []*exec.Cmd
		var written []io.Reader
		for i := range 2 {
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), "HPCC_TEST_WRITER="+dir, "HPCC_TEST_SEED="+strconv.Itoa(2*round+i))
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			writers, written = append(writers, cmd), append(written, out)
		}
		for i, cmd := range writers {
			if _, err := io.ReadFull(written[i], make([]byte, 1)); err != nil {
				t.Errorf("the writer ended by itself: %v", err)
			}
			time.Sleep(rand.N(60 * time.Millisecond))
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
			_ = cmd.Wait()
		}
	}
	c := open(t, dir)
	r := clean(t, c)
	if r.Entries == 0 || r.Manifests == 0 {
		t.Errorf("nothing was written: %+v", r)
	}
	u, err := c.Usage()
	if err != nil || u.Bytes != r.Bytes {
		t.Errorf("usage %+v, %v; fsck counted %d", u, err, r.Bytes)
	}
	for _, p := range files(t, c, "tmp") {
		t.Logf("left until it is a day old: %s", p)
	}
}
