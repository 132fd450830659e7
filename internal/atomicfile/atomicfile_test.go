//go:build unix

package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// variants are the ways in which files are written: where the system can, the
// first has no name before it is complete, the second always has.
var variants = map[string]Options{"cached": {}, "durable": {Durable: true}}

func each(t *testing.T, f func(t *testing.T, dir string, opt Options)) {
	for name, opt := range variants {
		t.Run(name, func(t *testing.T) { f(t, t.TempDir(), opt) })
		t.Run(name+", temporary files elsewhere", func(t *testing.T) {
			opt.TempDir = t.TempDir()
			f(t, t.TempDir(), opt)
			if left, err := os.ReadDir(opt.TempDir); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// names lists a directory.
func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestWrite(t *testing.T) {
	each(t, func(t *testing.T, dir string, opt Options) {
		path := filepath.Join(dir, "file")
		for _, content := range []string{"first", "", "second"} {
			if err := Write(path, []byte(content), opt); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != content {
				t.Errorf("%q, %v; want %q", b, err, content)
			}
		}
		if list := names(t, dir); len(list) != 1 {
			t.Errorf("left: %v", list)
		}
	})
}

func TestMode(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o277))
	each(t, func(t *testing.T, dir string, opt Options) {
		for mode, want := range map[os.FileMode]os.FileMode{0: 0o600, 0o666: 0o666, 0o400: 0o400, 0o755: 0o755} {
			path := filepath.Join(dir, fmt.Sprint("file", mode))
			opt.Mode = mode
			for range 2 { // new, then replaced
				if err := Write(path, nil, opt); err != nil {
					t.Fatal(err)
				}
				if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
					t.Errorf("mode %v, %v; want %v", fi.Mode(), err, want)
				}
			}
		}
	})
}

// A writer that fails leaves what was there, and nothing else.
func TestFailureLeavesOldFile(t *testing.T) {
	failure := errors.New("failure")
	fail := func(w io.Writer) error {
		if _, err := w.Write([]byte("half")); err != nil {
			return err
		}
		return failure
	}
	each(t, func(t *testing.T, dir string, opt Options) {
		path := filepath.Join(dir, "file")
		if err := WriteFrom(path, fail, opt); !errors.Is(err, failure) {
			t.Errorf("%v", err)
		}
		if list := names(t, dir); len(list) > 0 {
			t.Errorf("left: %v", list)
		}
		if err := Write(path, []byte("old"), opt); err != nil {
			t.Fatal(err)
		}
		if err := WriteFrom(path, fail, opt); !errors.Is(err, failure) {
			t.Errorf("%v", err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
			t.Errorf("%q, %v", b, err)
		}
		// A directory in the file's place cannot be replaced.
		if err := os.MkdirAll(filepath.Join(dir, "dir", "full"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := Write(filepath.Join(dir, "dir"), nil, opt); err == nil {
			t.Error("a directory was replaced")
		}
		if list := names(t, dir); len(list) != 2 {
			t.Errorf("left: %v", list)
		}
	})
}

func TestMissingDirectory(t *testing.T) {
	each(t, func(t *testing.T, dir string, opt Options) {
		if err := Write(filepath.Join(dir, "no", "file"), nil, opt); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v", err)
		}
		opt.TempDir = filepath.Join(dir, "no")
		if err := Write(filepath.Join(dir, "file"), nil, opt); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("no directory for temporary files: %v", err)
		}
	})
}

// Readers see one writer's file or another's, never a mixture or a part.
func TestReadersSeeWholeFiles(t *testing.T) {
	const size, writers, rounds = 50_000, 4, 50
	each(t, func(t *testing.T, dir string, opt Options) {
		path := filepath.Join(dir, "file")
		if err := Write(path, bytes.Repeat([]byte{0}, size), opt); err != nil {
			t.Fatal(err)
		}
		var writing, reading sync.WaitGroup
		for w := range writers {
			writing.Go(func() {
				for range rounds {
					if err := Write(path, bytes.Repeat([]byte{byte(w)}, size), opt); err != nil {
						t.Error(err)
					}
				}
			})
		}
		done := make(chan struct{})
		reading.Go(func() {
			for {
				b, err := os.ReadFile(path)
				if err != nil || len(b) != size || bytes.Count(b, b[:1]) != size {
					t.Errorf("%d bytes, %v", len(b), err)
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
		writing.Wait()
		close(done)
		reading.Wait()
		if list := names(t, dir); len(list) != 1 {
			t.Errorf("left: %v", list)
		}
	})
}

func TestIsTemp(t *testing.T) {
	if !IsTemp(filepath.Base(tempName("x"))) || IsTemp("file") {
		t.Error("temporary names are not told from others")
	}
}

func BenchmarkWrite(b *testing.B) {
	data := make([]byte, 100_000)
	run := func(name string, opt Options, replace bool) {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			for i := 0; b.Loop(); i++ {
				if replace {
					i = 0
				}
				if err := Write(filepath.Join(dir, fmt.Sprint(i)), data, opt); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("new", Options{}, false)
	run("replace", Options{}, true)
	run("durable", Options{Durable: true}, false)
}
