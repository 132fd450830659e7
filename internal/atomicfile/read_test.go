package atomicfile

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, c := range []struct {
		size  int
		limit int64
		fits  bool
	}{
		{0, 0, true}, {1, 0, false}, {99, 100, true}, {100, 100, true}, {101, 100, false}, {1 << 20, 100, false},
	} {
		content := bytes.Repeat([]byte("x"), c.size)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := Read(path, c.limit)
		if c.fits && (err != nil || !bytes.Equal(b, content)) {
			t.Errorf("%d bytes of at most %d: %d, %v", c.size, c.limit, len(b), err)
		}
		if !c.fits && (!errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), path) || b != nil) {
			t.Errorf("%d bytes of at most %d: %d, %v", c.size, c.limit, len(b), err)
		}
	}
	if _, err := Read(path+"-none", 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Read(filepath.Dir(path), 100); err == nil {
		t.Error("a directory was read")
	}
}

// No more than one byte beyond the limit is taken from a file, and none before
// where it stands.
func TestReadFrom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(4, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFrom(f, 3); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if at, err := f.Seek(0, io.SeekCurrent); err != nil || at != 8 {
		t.Errorf("it stands at %d, %v", at, err)
	}
	if b, err := ReadFrom(f, 2); err != nil || string(b) != "89" {
		t.Errorf("%q, %v", b, err)
	}
}
