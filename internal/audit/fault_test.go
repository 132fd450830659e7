package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// faulty lets writes, syncs and truncations of a journal's files fail.
type faulty struct {
	hold chan struct{} // a sync waits until it is closed

	mu                     sync.Mutex
	space                  int // bytes that may still be written; less than 0 is no limit
	limited                bool
	failSync, failTruncate int // how many more fail
}

type faultyFile struct {
	segmentFile
	f *faulty
}

func (f *faulty) wrap(s segmentFile) segmentFile { return &faultyFile{s, f} }

func (f *faulty) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (w *faultyFile) Write(b []byte) (int, error) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if w.f.limited && len(b) > w.f.space {
		n, err := w.segmentFile.Write(b[:w.f.space])
		w.f.space = 0
		return n, errors.Join(err, syscall.ENOSPC)
	}
	if w.f.limited {
		w.f.space -= len(b)
	}
	return w.segmentFile.Write(b)
}

func (w *faultyFile) Sync() error {
	if w.f.hold != nil {
		<-w.f.hold
	}
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if w.f.failSync > 0 {
		w.f.failSync--
		return syscall.EIO
	}
	return w.segmentFile.Sync()
}

func (w *faultyFile) Truncate(size int64) error {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if w.f.failTruncate > 0 {
		w.f.failTruncate--
		return syscall.EIO
	}
	return w.segmentFile.Truncate(size)
}

// However much of a row found room, it is taken back, and the journal goes on.
func TestFullDisk(t *testing.T) {
	f := &faulty{}
	dir := t.TempDir()
	j := open(t, dir, Options{wrap: f.wrap})
	var want []string
	for space := range 250 {
		good := fmt.Sprint("good", space)
		appendRows(t, j, good)
		want = append(want, good)
		f.set(func() { f.limited, f.space = true, space })
		if _, err := j.Append(t.Context(), smallRow(strings.Repeat("bad", 100))); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("with room for %d bytes: %v", space, err)
		}
		if !errors.Is(j.Stats().Err, syscall.ENOSPC) {
			t.Fatalf("%+v", j.Stats())
		}
		f.set(func() { f.limited = false })
	}
	j.Close()
	equalRows(t, dir, want...)
	open(t, dir, Options{})
}

// A sync that failed says nothing of what is on the disk, and the taking back may
// fail as well: nothing is acknowledged until it has worked.
func TestFailingDisk(t *testing.T) {
	f := &faulty{}
	dir := t.TempDir()
	j := open(t, dir, Options{wrap: f.wrap})
	appendRows(t, j, "a")
	for syncs := range 4 {
		for truncates := range 3 {
			f.set(func() { f.failSync, f.failTruncate = 1+syncs, truncates })
			failures := 0
			for {
				_, err := j.Append(t.Context(), smallRow("x"))
				if err == nil {
					break
				}
				if failures++; failures > 10 || !errors.Is(err, syscall.EIO) {
					t.Fatal(err)
				}
			}
			if failures == 0 || j.Stats().Err != nil {
				t.Fatalf("%d failures, %+v", failures, j.Stats())
			}
		}
	}
	j.Close()
	equalRows(t, dir, append([]string{"a"}, strings.Fields(strings.Repeat("x ", 12))...)...)
}

// Everybody in a batch that was not written is told.
func TestFullDiskTellsAll(t *testing.T) {
	f := &faulty{limited: true, space: 100}
	dir := t.TempDir()
	j := open(t, dir, Options{wrap: f.wrap})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			if n, err := j.Append(t.Context(), smallRow(fmt.Sprint(i))); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("row %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	f.set(func() { f.limited = false })
	appendRows(t, j, "after")
	j.Close()
	equalRows(t, dir, "after")
}

// A file system that is really full, while files rotate.
func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v, %s (run the tests as root)", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v, %s", err, out)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 32<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := OpenJournal(filepath.Join(dir, "journal"), Options{SegmentBytes: 8 << 10})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	acknowledged := map[uint64]string{}
	fill := func() (failed int) {
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 100 {
					s := fmt.Sprintf("%d-%d-%d", g, i, rand.Int())
					n, err := j.Append(context.Background(), smallRow(s))
					mu.Lock()
					switch {
					case err == nil:
						acknowledged[n] = s
					case errors.Is(err, syscall.ENOSPC):
						failed++
					default:
						t.Error(err)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		return failed
	}
	if fill() == 0 {
		t.Error("the file system is not full")
	}
	before := len(acknowledged)
	os.Remove(ballast)
	fill()
	if len(acknowledged) == before {
		t.Error("nothing was appended once there was space")
	}
	j.Close()
	got := subjects(t, filepath.Join(dir, "journal"))
	if len(got) != len(acknowledged) {
		t.Errorf("%d rows, %d were acknowledged", len(got), len(acknowledged))
	}
	for n, s := range acknowledged {
		if got[n-1] != s {
			t.Errorf("row %d is %q, want %q", n, got[n-1], s)
		}
	}
}

// writeUntilKilled is a process that appends, and tells what was acknowledged.
func writeUntilKilled(dir string) {
	j, err := OpenJournal(dir, Options{SegmentBytes: 16 << 10})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var mu sync.Mutex
	for range 8 {
		go func() {
			for {
				s := fmt.Sprint(rand.Uint64())
				n, err := j.Append(context.Background(), smallRow(s))
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Fprintf(os.Stdout, "%d %s\n", n, s)
				mu.Unlock()
			}
		}()
	}
	select {}
}

// Whatever a killed writer was told to be durable is there; and the next writer
// opens what it left at once.
func TestKilledWriter(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	acknowledged := map[uint64]string{}
	for round := range 15 {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "AUDIT_TEST_WRITER="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stop := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
		lines, want := 0, 1+rand.N(150)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			var n uint64
			var s string
			if _, err := fmt.Sscanf(sc.Text(), "%d %s", &n, &s); err != nil {
				t.Fatalf("%q: %v", sc.Text(), err)
			}
			if _, taken := acknowledged[n]; taken {
				t.Errorf("row %d was given twice", n)
			}
			acknowledged[n] = s
			if lines++; lines == want {
				_ = cmd.Process.Kill() // and read what it has said until then
			}
		}
		stop.Stop()
		_ = cmd.Wait() // killed
		if lines < want {
			t.Fatalf("round %d: the writer ended by itself", round)
		}
		got := subjects(t, dir)
		for n, s := range acknowledged {
			if n > uint64(len(got)) || got[n-1] != s {
				t.Fatalf("round %d: row %d of %d is lost", round, n, len(got))
			}
		}
	}
	j := open(t, dir, Options{})
	n := appendRows(t, j, "last")
	if _, taken := acknowledged[n[0]]; taken {
		t.Errorf("row %d was given twice", n[0])
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			j := open(b, b.TempDir(), Options{})
			row := someRow()
			if _, err := row.Fit(); err != nil {
				b.Fatal(err)
			}
			var wg sync.WaitGroup
			rows := make(chan struct{})
			b.ResetTimer()
			for range callers {
				wg.Go(func() {
					for range rows {
						if _, err := j.Append(context.Background(), row); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for range b.N {
				rows <- struct{}{}
			}
			close(rows)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(float64(b.N)/float64(j.Stats().Batches), "rows/batch")
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	dir := b.TempDir()
	j := open(b, dir, Options{})
	row := someRow()
	if _, err := row.Fit(); err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 500 {
				if _, err := j.Append(context.Background(), row); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	j.Close()
	for b.Loop() {
		if x, err := Verify(dir, nil); x.Last != 32_000 || err != nil {
			b.Fatal(x, err)
		}
	}
	b.ReportMetric(32_000*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
