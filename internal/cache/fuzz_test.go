package cache

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcc.dev/hpcc/internal/digest"
)

// Whatever stands in a blob's file, Blob returns the bytes that it was asked
// for or nothing, and the file is gone then.
func FuzzBlob(f *testing.F) {
	want := bytes.Repeat([]byte("some bytes of an object "), 100)
	packed := encoder().EncodeAll(want, nil)
	f.Add(want, false)
	f.Add(packed, true)
	f.Add(append(bytes.Clone(packed), packed...), true)
	f.Add(packed[:len(packed)-1], true)
	f.Add([]byte{}, true)
	f.Add([]byte("\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\x7f"), true) // claims 2^63 bytes
	c, err := Open(Options{Dir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	d := digest.Of(want)
	path := c.blobPath(d)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, file []byte, compressed bool) {
		path := path
		if compressed {
			path += suffix
		}
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(path)
		got, err := c.Blob(d)
		if err == nil {
			if !bytes.Equal(got, want) {
				t.Fatalf("got %q", got)
			}
			return
		}
		if !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		if exists(path) {
			t.Errorf("the damaged file stays")
		}
	})
}

// The accounting that is read is never negative, and is written back as it is.
func FuzzUsage(f *testing.F) {
	f.Add(string(formatUsage(123, 4)))
	f.Add("-5 -5\n")
	f.Add("99999999999999999999 1\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		b, e, ok := readUsage(strings.NewReader(text))
		if !ok {
			return
		}
		if b < 0 || e < 0 {
			t.Fatalf("%q: %d bytes, %d entries", text, b, e)
		}
		if b2, e2, ok := readUsage(bytes.NewReader(formatUsage(b, e))); !ok || b2 != b || e2 != e {
			t.Fatalf("%d %d became %d %d", b, e, b2, e2)
		}
	})
}

// A name that is taken for a blob's is the one that blobPath gives.
func FuzzBlobName(f *testing.F) {
	c := &Disk{dir: "/c"}
	f.Add(filepath.Base(c.blobPath(digest.Of([]byte("x")))))
	f.Add(filepath.Base(c.blobPath(digest.Of(nil))) + suffix)
	f.Add("0-0.zst.zst")
	f.Fuzz(func(t *testing.T, name string) {
		d, err := parseBlobName(name)
		if err != nil {
			return
		}
		if again := filepath.Base(c.blobPath(d)); again != name && again+suffix != name {
			t.Fatalf("%q is taken for %s", name, again)
		}
	})
}

// Whatever stands in a quarantined entry's file, what is read of it is what was
// kept, or nothing.
func FuzzQuarantined(f *testing.F) {
	c, err := Open(Options{Dir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	key := digest.NewKey("test").Sum()
	if err := c.Quarantine(key, []byte("report")); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(c.path(KindQuarantined, key))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(append(bytes.Clone(good), good...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, file []byte) {
		report, entry, err := decodeQuarantined(key, file)
		if err == nil && (!bytes.Equal(file, good) || string(report) != "report" || entry != nil) {
			t.Fatalf("%q is taken: %q, %v", file, report, entry)
		}
	})
}
