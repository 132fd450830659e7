package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"hpcc.dev/hpcc/internal/leaktest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("AUDIT_TEST_WRITER"); dir != "" {
		writeUntilKilled(dir)
		return
	}
	os.Exit(leaktest.Run(m))
}

func open(t testing.TB, dir string, opt Options) *Journal {
	t.Helper()
	j, err := OpenJournal(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// smallRow has a subject to tell it by.
func smallRow(subject string) *Row {
	return &Row{Time: someTime, Tenant: "t", Subject: subject, Worker: "w", Image: "sha256:0", Cache: Miss}
}

func appendRows(t testing.TB, j *Journal, subjects ...string) (numbers []uint64) {
	t.Helper()
	for _, s := range subjects {
		n, err := j.Append(context.Background(), smallRow(s))
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// subjects reads all rows, which must be numbered from 1.
func subjects(t testing.TB, dir string) (list []string) {
	t.Helper()
	for e, err := range Read(dir, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Number != uint64(len(list)+1) {
			t.Fatalf("row %d comes as number %d", len(list)+1, e.Number)
		}
		r, err := e.Row()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r.Subject)
	}
	return list
}

func equalRows(t testing.TB, dir string, want ...string) {
	t.Helper()
	if got := subjects(t, dir); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("rows %q, want %q", got, want)
	}
}

func TestJournal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	j := open(t, dir, Options{})
	if n := appendRows(t, j, "a", "b"); n[0] != 1 || n[1] != 2 {
		t.Errorf("numbers %d", n)
	}
	equalRows(t, dir, "a", "b") // while it is open
	if _, err := OpenJournal(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	var bad *RowError
	if _, err := j.Append(t.Context(), &Row{}); !errors.As(err, &bad) {
		t.Errorf("no row: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if _, err := j.Append(t.Context(), smallRow("late")); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	j = open(t, dir, Options{})
	if n := appendRows(t, j, "c"); n[0] != 3 {
		t.Errorf("after a restart: %d", n[0])
	}
	if s := j.Stats(); s != (Stats{Rows: 1, Batches: 1, Next: 4}) {
		t.Errorf("%+v", s)
	}
	j.Close()
	equalRows(t, dir, "a", "b", "c")
	if x, err := Verify(dir, nil); x.Last != 3 || x.Chain == (Key{}) || err != nil {
		t.Error(x, err)
	}
}

func TestRotation(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for round := range 4 {
		j := open(t, dir, Options{SegmentBytes: 700, CheckBytes: 1000})
		for i := range 5 {
			want = append(want, fmt.Sprintf("%d-%d", round, i))
			appendRows(t, j, want[len(want)-1])
		}
		j.Close()
	}
	equalRows(t, dir, want...)
	list, err := segments(dir)
	if err != nil || len(list) < 5 {
		t.Fatalf("%d files, %v", len(list), err)
	}
	for from := range uint64(25) {
		n := 0
		for e, err := range Read(dir, from) {
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 && e.Number != max(from, 1) {
				t.Errorf("from %d: %d is the first", from, e.Number)
			}
			n++
		}
		if n != max(0, min(20, 21-int(from))) {
			t.Errorf("from %d: %d rows", from, n)
		}
	}
	whole, err := Verify(dir, nil)
	if err != nil || whole.Files != len(list) || whole.First != 1 || whole.Last != 20 || whole.Unfinished {
		t.Errorf("%+v, %v", whole, err)
	}
	// Each file by itself, by whatever name: the last ends as the journal does.
	visited := uint64(0)
	for i, s := range list {
		moved := filepath.Join(t.TempDir(), "moved")
		b, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		if i == len(list)-1 {
			b = append(b, `{"number":21`...)
		}
		if err := os.WriteFile(moved, b, 0o600); err != nil {
			t.Fatal(err)
		}
		x, err := Verify(moved, func(e *Entry) error { visited++; return nil })
		if err != nil || x.Files != 1 || x.First != s.first || x.Last != visited || (x.Chain == whole.Chain && x.Unfinished) != (i == len(list)-1) {
			t.Errorf("%s: %+v, %v", s.path, x, err)
		}
	}
	stop := errors.New("enough")
	if x, err := Verify(dir, func(e *Entry) error {
		if e.Number == 7 {
			return stop
		}
		return nil
	}); x.Last != 7 || !errors.Is(err, stop) {
		t.Errorf("%+v, %v", x, err)
	}
	for range Read(dir, 0) {
		break // leaves no file open, and does not call again
	}

	// The oldest may go; one in the middle may not.
	if err := os.Remove(list[0].path); err != nil {
		t.Fatal(err)
	}
	if x, err := Verify(dir, nil); x.First != list[1].first || x.Last != 20 || err != nil {
		t.Error(x, err)
	}
	j := open(t, dir, Options{})
	if n := appendRows(t, j, "x"); n[0] != 21 {
		t.Errorf("row %d", n[0])
	}
	j.Close()
	if err := os.Remove(list[2].path); err != nil {
		t.Fatal(err)
	}
	var damage *DamageError
	if _, err := OpenJournal(dir, Options{}); !errors.As(err, &damage) || !strings.Contains(damage.Reason, "missing") {
		t.Errorf("a file is missing: %v", err)
	}
	if _, err := Verify(dir, nil); !errors.As(err, &damage) {
		t.Errorf("a file is missing: %v", err)
	}
}

// A crash leaves any part of what was written and not synced: all of the rows
// before the cut are kept, the unfinished one is put aside.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{})
	appendRows(t, j, "a", "b", "c")
	j.Close()
	path := filepath.Join(dir, segmentName(1))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	for cut := len(lines[0]); cut < len(whole); cut++ {
		// Every byte near a line's ends; each cut costs several syncs.
		if cut%7 > 0 && !bytes.Contains(whole[cut-12:min(cut+12, len(whole))], []byte("\n")) {
			continue
		}
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		kept, rest := "", cut-len(lines[0])
		for i, name := range []string{"a", "b", "c"} {
			// Where only the newline is missing the row is whole.
			if rest < len(lines[i+1])-1 {
				break
			}
			kept += name
			rest = max(rest-len(lines[i+1]), 0)
		}
		if got := strings.Join(subjects(t, dir), ""); len(got) > len(kept) || !strings.HasPrefix(kept, got) {
			t.Fatalf("cut at %d: read %q, want %q", cut, got, kept)
		}
		var logged bytes.Buffer
		j, err := OpenJournal(dir, Options{Log: slog.New(slog.NewTextHandler(&logged, nil))})
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		n := appendRows(t, j, "z")
		j.Close()
		if got := strings.Join(subjects(t, dir), ""); got != kept+"z" || n[0] != uint64(len(kept)+1) {
			t.Fatalf("cut at %d: %q, want %q", cut, got, kept+"z")
		}
		aside, err := filepath.Glob(filepath.Join(dir, "torn-*"))
		if err != nil {
			t.Fatal(err)
		}
		if rest == 0 {
			if len(aside) > 0 || logged.Len() > 0 {
				t.Fatalf("cut at %d: nothing was torn, but %q, %s", cut, aside, &logged)
			}
			continue
		}
		if len(aside) != 1 || !strings.Contains(logged.String(), "audit-row-unfinished") {
			t.Fatalf("cut at %d: kept %q, logged %q", cut, aside, &logged)
		}
		if b, err := os.ReadFile(aside[0]); err != nil || !bytes.HasSuffix(whole[:cut], b) || len(b) != rest {
			t.Fatalf("cut at %d: kept %q, %v", cut, b, err)
		}
		os.Remove(aside[0])
	}
}

// Any other change of any byte is found, and nothing is repaired.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, Options{SegmentBytes: 500})
	appendRows(t, j, "a", "b", "c", "d", "e")
	j.Close()
	list, err := segments(dir)
	if err != nil || len(list) < 2 {
		t.Fatal(len(list), err)
	}
	check := func(t *testing.T, what string) {
		t.Helper()
		var damage *DamageError
		if _, err := Verify(dir, nil); !errors.As(err, &damage) {
			t.Errorf("%s: Verify: %v", what, err)
		}
		if j, err := OpenJournal(dir, Options{}); !errors.As(err, &damage) {
			t.Errorf("%s: OpenJournal: %v", what, err)
			if err == nil {
				j.Close()
			}
		}
	}
	for _, s := range list {
		whole, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range whole {
			for _, bit := range []byte{1, 0x80} {
				changed := bytes.Clone(whole)
				changed[i] ^= bit
				if err := os.WriteFile(s.path, changed, 0o600); err != nil {
					t.Fatal(err)
				}
				check(t, fmt.Sprintf("%s, byte %d ^ %d", filepath.Base(s.path), i, bit))
			}
		}
		lines := bytes.SplitAfter(whole, []byte("\n"))
		for what, changed := range map[string][]byte{
			"empty":             {},
			"half a header":     whole[:20],
			"two rows change":   bytes.Join([][]byte{lines[0], lines[2], lines[1]}, nil),
			"a row twice":       bytes.Join([][]byte{lines[0], lines[1], lines[1]}, nil),
			"two rows less one": bytes.Join([][]byte{lines[0], lines[2]}, nil),
			"an endless line":   append(bytes.Clone(whole), bytes.Repeat([]byte("x"), 2*maxLine)...),
			"an empty line":     append(bytes.Clone(whole), '\n'),
		} {
			if strings.HasPrefix(what, "two rows") && len(lines) < 4 {
				continue // the file has one
			}
			if err := os.WriteFile(s.path, changed, 0o600); err != nil {
				t.Fatal(err)
			}
			check(t, filepath.Base(s.path)+", "+what)
		}
		if err := os.WriteFile(s.path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A file that is not the last may not be torn either.
	whole, err := os.ReadFile(list[0].path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(list[0].path, whole[:len(whole)-10], 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, "torn in the middle")
	if err := os.WriteFile(list[0].path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	equalRows(t, dir, "a", "b", "c", "d", "e")
	if torn, _ := filepath.Glob(filepath.Join(dir, "torn-*")); len(torn) > 0 {
		t.Errorf("repaired: %q", torn)
	}
}

// Rows that come while a batch is synced are in the next, all of them; a lone
// caller does not wait.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{hold: make(chan struct{})}
		dir := t.TempDir()
		j := open(t, dir, Options{wrap: f.wrap})
		var wg sync.WaitGroup
		numbers := make([]uint64, 65)
		add := func(i int) {
			wg.Go(func() {
				n, err := j.Append(t.Context(), smallRow(fmt.Sprint(i)))
				if err != nil {
					t.Error(err)
				}
				numbers[i] = n
			})
		}
		add(0)
		synctest.Wait()
		for i := 1; i <= 64; i++ {
			add(i)
		}
		synctest.Wait()
		for _, n := range numbers {
			if n != 0 {
				t.Error("a row was acknowledged before it was synced")
			}
		}
		close(f.hold)
		wg.Wait()
		if s := j.Stats(); s.Batches != 2 || s.Rows != 65 {
			t.Errorf("%+v, want 2 batches", s)
		}
		seen := map[uint64]bool{}
		for _, n := range numbers {
			seen[n] = true
		}
		if len(seen) != 65 || seen[0] {
			t.Errorf("numbers %d", numbers)
		}
		for i, s := range subjects(t, dir) {
			if fmt.Sprint(indexOf(numbers, uint64(i+1))) != s {
				t.Errorf("row %d is of %s", i+1, s)
			}
		}
		j.Close()
	})
}

func indexOf(list []uint64, n uint64) int {
	for i, m := range list {
		if m == n {
			return i
		}
	}
	return -1
}

func TestCancelledAppend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{hold: make(chan struct{})}
		dir := t.TempDir()
		j := open(t, dir, Options{wrap: f.wrap})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, s := range []string{"first", "behind"} {
			wg.Go(func() {
				if _, err := j.Append(ctx, smallRow(s)); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		cancel()
		wg.Wait()
		close(f.hold)
		appendRows(t, j, "next")
		j.Close()
		// The first was on its way, the other had not begun.
		equalRows(t, dir, "first", "next")
	})
}

func TestReadNothing(t *testing.T) {
	if x, err := Verify(t.TempDir(), nil); x != (Extent{}) || err != nil {
		t.Error(x, err)
	}
	if _, err := Verify(filepath.Join(t.TempDir(), "missing"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
