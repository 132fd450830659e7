package blob

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
)

func key(b []byte) Key { return Key{sha256.Sum256(b), int64(len(b))} }

func put(t *testing.T, s *Store, b []byte) error {
	t.Helper()
	w, err := s.Create(key(b))
	if err != nil {
		return err
	}
	if _, err := w.Write(b); err != nil {
		w.Abort()
		return err
	}
	return w.Commit()
}

func files(t *testing.T, dir string) int {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestEviction(t *testing.T) {
	dir := t.TempDir()
	s, err := New(dir, 100)
	if err != nil {
		t.Fatal(err)
	}
	blobs := make([][]byte, 4)
	for i := range blobs {
		blobs[i] = bytes.Repeat([]byte{byte(i)}, 40)
	}
	for _, b := range blobs[:2] {
		if err := put(t, s, b); err != nil {
			t.Fatal(err)
		}
	}
	// Both are in use: a third has no room, and nothing of it stays.
	if err := put(t, s, blobs[2]); !errors.Is(err, ErrFull) {
		t.Fatalf("a third blob of 40 in 100 bytes: %v", err)
	}
	if s.Used() != 80 || files(t, dir) != 2 {
		t.Fatalf("%d bytes, %d files", s.Used(), files(t, dir))
	}
	// The one that was used last stays.
	s.Unpin(key(blobs[0]))
	s.Unpin(key(blobs[1]))
	if !s.Pin(key(blobs[0])) {
		t.Fatal("the first is gone")
	}
	s.Unpin(key(blobs[0]))
	if err := put(t, s, blobs[2]); err != nil {
		t.Fatal(err)
	}
	if s.Pin(key(blobs[1])) || !s.Pin(key(blobs[0])) {
		t.Error("evicted the more recently used one")
	}
	f, err := s.Open(key(blobs[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || !bytes.Equal(b, blobs[0]) {
		t.Errorf("read %q, %v", b, err)
	}
	if err := put(t, s, bytes.Repeat([]byte{9}, 101)); !errors.Is(err, ErrFull) {
		t.Errorf("a blob larger than the limit: %v", err)
	}
}

func TestMismatch(t *testing.T) {
	dir := t.TempDir()
	s, _ := New(dir, 100)
	for name, write := range map[string]string{"other bytes": "abd", "too short": "ab", "too long": "abcd"} {
		w, err := s.Create(key([]byte("abc")))
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write([]byte(write))
		if err == nil {
			err = w.Commit()
		} else {
			w.Abort()
		}
		if !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.Used() != 0 || files(t, dir) != 0 || s.Pin(key([]byte("abc"))) {
		t.Error("something stayed")
	}
}

func TestManyBringTheSame(t *testing.T) {
	dir := t.TempDir()
	s, _ := New(dir, 1000)
	b := []byte("the same")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := put(t, s, b); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s.Used() != int64(len(b)) || files(t, dir) != 1 {
		t.Errorf("%d bytes in %d files", s.Used(), files(t, dir))
	}
	for range 20 {
		s.Unpin(key(b))
	}
	if err := put(t, s, bytes.Repeat([]byte{1}, 1000)); err != nil {
		t.Errorf("a pin too many: %v", err)
	}
}
