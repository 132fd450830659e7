//go:build linux

package fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/cache"
)

// TestFullCacheDisk builds with a cache on a disk that is full, or becomes so
// under way.
func TestFullCacheDisk(t *testing.T) {
	p := newProject(t, t.TempDir(), 7, 100)
	for i, size := range []string{"100k", "400k", "64m"} {
		for _, daemon := range modes(i) {
			what := fmt.Sprintf("a disk of %s, daemon %v", size, daemon)
			w := newWorld(t)
			w.cache = filepath.Join(mount(t, "-t", "tmpfs", "-o", "size="+size, "tmpfs"), "cache")
			if size == "64m" {
				// Not full before something else fills it.
				p.build(w, what, 0, "-j4")
				fill(t, filepath.Dir(w.cache))
			}
			if daemon {
				w.start()
			}
			for round := range 2 {
				p.build(w, what, round, "-j4")
				p.build(w, what, round, "-j4")
			}
			if size == "64m" {
				log := filepath.Join(w.tmp, "log") // the counters have no room either
				w.more = []string{"HPCC_STATS_LOG=" + log}
				p.build(w, what, 0, "-j4")
				if hits := bytes.Count(read(t, log), []byte(`"outcome":"hit"`)); hits != p.units {
					t.Errorf("%s: of what was stored before %d hits, want %d", what, hits, p.units)
				}
				w.more = nil
				if err := os.Remove(filepath.Join(filepath.Dir(w.cache), "filler")); err != nil {
					t.Fatal(err)
				}
				p.build(w, what+", with room again", 2, "-j4")
				w.count()
				p.build(w, what+", with room again", 2, "-j4")
				if c := w.count(); c.Hits != p.units {
					t.Errorf("%s: with room again %+v, want %d hits", what, c, p.units)
				}
			}
			w.stop()
			w.fsck()
			w.sweep()
		}
	}
}

// fill leaves no room on a file system.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// TestFullOutputDisk has no room for what the compile makes: it fails as it
// does without hpcc, by a miss and by a hit, and nothing wrong is stored.
func TestFullOutputDisk(t *testing.T) {
	for i := range 2 {
		for _, daemon := range modes(i) {
			p := newProject(t, t.TempDir(), 3, 200) // u2.o has 200 KB
			out := mount(t, "-t", "tmpfs", "-o", "size=256k", "tmpfs")
			w := newWorld(t)
			if daemon {
				w.start()
			}
			compile := func(prefix ...string) (exit int, left map[string]int) {
				t.Helper()
				argv := append(prefix, "gcc", "-O2", "-fPIC", "-DROUND=0", "-MMD", "-c", "u2.c", "-o", out+"/u2.o")
				cmd := exec.Command(argv[0], argv[1:]...)
				cmd.Dir, cmd.Env = p.dir, w.env()
				var exitErr *exec.ExitError
				if err := cmd.Run(); err != nil && !errors.As(err, &exitErr) {
					t.Fatal(err)
				}
				left = map[string]int{}
				files, err := os.ReadDir(out)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range files {
					if strings.HasPrefix(e.Name(), "u2") {
						path := filepath.Join(out, e.Name())
						left[e.Name()] = len(read(t, path))
						if err := os.Remove(path); err != nil {
							t.Fatal(err)
						}
					}
				}
				return cmd.ProcessState.ExitCode(), left
			}
			same := func(what string, wantExit int, want map[string]int) {
				t.Helper()
				exit, left := compile(filepath.Join(bin, "hpcc"))
				if exit != wantExit || fmt.Sprint(left) != fmt.Sprint(want) {
					t.Errorf("daemon %v, %s: exit %d leaving %v, without hpcc %d leaving %v", daemon, what, exit, left, wantExit, want)
				}
			}
			goodExit, good := compile()
			if goodExit != 0 || good["u2.o"] < 200_000 {
				t.Fatalf("the plain compile: %d, %v", goodExit, good)
			}
			filler := filepath.Join(out, "filler")
			write(t, filler, make([]byte, 150<<10))
			badExit, bad := compile()
			if badExit == 0 {
				t.Fatal("250 KB fitted into 256")
			}
			same("miss, full", badExit, bad)
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			same("miss, room", goodExit, good)
			same("hit, room", goodExit, good)
			write(t, filler, make([]byte, 150<<10))
			same("hit, full", badExit, bad)
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			w.count()
			same("hit, room again", goodExit, good)
			if c := w.count(); c.Hits != 1 {
				t.Errorf("daemon %v: in the end %+v, want a hit", daemon, c)
			}
			w.stop()
			w.fsck()
		}
	}
}

// TestReadOnlyCache serves from a cache that cannot be written, and compiles
// what is not in it.
func TestReadOnlyCache(t *testing.T) {
	p := newProject(t, t.TempDir(), 7, 0)
	for i := range 2 {
		for _, daemon := range modes(i) {
			what := fmt.Sprintf("read-only, daemon %v", daemon)
			w := newWorld(t)
			p.build(w, what, 0, "-j4")
			writable := w.cache
			w.cache = mount(t, "--bind", writable)
			run(t, "mount", "-o", "remount,bind,ro", w.cache)
			before := w.stored()
			if daemon {
				w.start()
			}
			log := filepath.Join(w.tmp, "log")
			w.more = []string{"HPCC_STATS_LOG=" + log}
			p.build(w, what, 0, "-j4")
			if hits := bytes.Count(read(t, log), []byte(`"outcome":"hit"`)); hits != p.units {
				t.Errorf("%s: %d hits of %d", what, hits, p.units)
			}
			p.build(w, what, 1, "-j4")
			w.stop()
			if after := w.stored(); len(after) != len(before) {
				t.Errorf("%s: %d files, before %d", what, len(after), len(before))
			}
			w.cache = writable
			w.fsck()
			w.sweep()
		}
	}
}

// TestForeignCache has another user build, whose cache directory is root's:
// first one that only root can enter, then one that all can read.
func TestForeignCache(t *testing.T) {
	needRoot(t)
	_, err := exec.LookPath("setpriv")
	need(t, "setpriv", err == nil)
	for _, mode := range []os.FileMode{0o700, 0o755} {
		dir := t.TempDir()
		p := newProject(t, dir, 4, 0)
		w := newWorld(t)
		p.build(w, "root", 0, "-j4")
		for _, d := range w.dirs() {
			if err := os.Chmod(d, mode); err != nil {
				t.Fatal(err)
			}
		}
		if mode == 0o755 {
			for _, f := range w.files("") {
				if err := os.Chmod(f, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		const nobody = 65534
		own := filepath.Join(filepath.Dir(w.config), "nobody")
		for _, d := range []string{own, own + "/tmp"} {
			if err := os.Mkdir(d, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(d, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
		for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		for d := filepath.Dir(w.cache); d != "/tmp" && d != "/"; d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		w.config, w.tmp = own+"/config", own+"/tmp"
		for round := range 2 {
			want := p.want(round)
			p.clean()
			args := append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", "make", "-s", "-j4", fmt.Sprint("ROUND=", round)}, behind...)
			cmd := exec.Command("setpriv", args...)
			cmd.Dir, cmd.Env = dir, w.env()
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("mode %v: the build fails: %v\n%s", mode, err, out)
				continue
			}
			if n := bytes.Count(out, []byte("hpcc:")); n > 1 {
				t.Errorf("mode %v: %d notes\n%s", mode, n, out)
			}
			p.check(fmt.Sprint("mode ", mode), round, want)
		}
	}
}

// dirs lists the cache's directories.
func (w *world) dirs() (dirs []string) {
	_ = filepath.WalkDir(w.cache, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	return dirs
}

// TestEmptiedUnderWay deletes the cache again and again while a parallel build
// fills it.
func TestEmptiedUnderWay(t *testing.T) {
	p := newProject(t, t.TempDir(), 11, 4)
	for i := range times(2, 20) {
		for _, daemon := range modes(i) {
			what := fmt.Sprintf("emptied, daemon %v", daemon)
			w := newWorld(t)
			p.build(w, what, 0, "-j8")
			if daemon {
				w.start()
			}
			for round := range 2 {
				p.during(w, what, round, func(ctx context.Context) {
					for ctx.Err() == nil {
						_ = os.RemoveAll(w.cache) // meets files that just come
						time.Sleep(rand.N(60 * time.Millisecond))
					}
				}, "-j8")
			}
			p.build(w, what+", afterwards", 3, "-j8")
			w.count()
			p.build(w, what+", afterwards", 3, "-j8")
			if c := w.count(); c.Hits != p.units {
				t.Errorf("%s: afterwards %+v, want %d hits", what, c, p.units)
			}
			w.stop()
			w.fsck()
			w.sweep()
		}
	}
}

// TestEvictionUnderWay builds with a cache that holds less than one build, so
// that results go while others come.
func TestEvictionUnderWay(t *testing.T) {
	const limit = 1_000_000
	p := newProject(t, t.TempDir(), 16, 300) // four units of 300 KB
	for i := range times(2, 10) {
		for _, daemon := range modes(i) {
			what := fmt.Sprintf("eviction, daemon %v", daemon)
			w := newWorld(t)
			w.more = []string{"HPCC_CACHE_MAX_SIZE=1MB"}
			if daemon {
				w.start()
			}
			for round := range 2 {
				p.build(w, what, round, "-j8")
				p.build(w, what, round, "-j8")
			}
			w.stop()
			r := w.fsck()
			c, err := cache.Open(cache.Options{Dir: w.cache, MaxBytes: limit})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Evict(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if after := w.fsck(); after.Bytes > limit || r.Bytes > 4*limit || after.Blobs == 0 {
				t.Errorf("%s: %d bytes after the builds, %d after eviction, of %d", what, r.Bytes, after.Bytes, limit)
			}
			w.sweep()
		}
	}
}

// TestTwoDaemons has two daemons, and builds without one, share a cache.
func TestTwoDaemons(t *testing.T) {
	one := newProject(t, t.TempDir(), 7, 4)
	two := one.copy(t.TempDir())
	three := one.copy(t.TempDir())
	for round := range times(1, 20) {
		a, b, c := newWorld(t), newWorld(t), newWorld(t)
		b.cache, c.cache = a.cache, a.cache
		a.start()
		b.start()
		builds := []struct {
			p *project
			w *world
		}{{one, a}, {two, b}, {three, c}}
		for _, x := range builds {
			x.p.want(round) // not while others build
		}
		for _, what := range []string{"shared", "shared, again"} {
			done := make(chan struct{})
			for _, x := range builds {
				go func() {
					defer func() { done <- struct{}{} }()
					x.p.build(x.w, what, round, "-j4")
				}()
			}
			for range builds {
				<-done
			}
		}
		a.stop()
		b.stop()
		r := a.fsck()
		if r.Dangling > 0 {
			t.Errorf("round %d: %d dangling names", round, r.Dangling)
		}
		disk, err := cache.Open(cache.Options{Dir: a.cache})
		if err != nil {
			t.Fatal(err)
		}
		if u, err := disk.Usage(); err != nil || u.Bytes != r.Bytes || u.Entries != r.Entries {
			t.Errorf("round %d: usage %+v, %v; fsck counted %d bytes and %d entries", round, u, err, r.Bytes, r.Entries)
		}
		a.sweep()
	}
}

// TestStoppedLockHolders stops a process while it may hold any lock: builds go
// on, and without it.
func TestStoppedLockHolders(t *testing.T) {
	p := newProject(t, t.TempDir(), 2, 0)
	w := newWorld(t)
	p.build(w, "before", 0)
	// Every lock file of the cache is held by somebody who does not run.
	for _, name := range []string{"usage", "stats.json.lock", "lock/evict"} {
		f, err := os.OpenFile(filepath.Join(w.cache, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	p.build(w, "locked", 1)
	// Each compile waits some seconds for the locks, not for their holder.
	if took := time.Since(began); took > time.Minute {
		t.Errorf("two compiles took %v", took)
	}
}
