package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"hpcc.dev/hpcc/internal/digest"
)

// FuzzJournal opens whatever a disk may give back: it is damaged, or it is a
// journal that rows can be appended to.
func FuzzJournal(f *testing.F) {
	row, err := encodeRow(smallRow("a"))
	if err != nil {
		f.Fatal(err)
	}
	one := append(appendHeader(nil, 1, Key{}), '\n')
	chain := nextChain(Key{}, 1, row)
	two := append(appendLine(bytes.Clone(one), 1, chain, row), '\n')
	for _, seed := range [][]byte{nil, []byte("\n"), one[:9], one, two[:len(two)-2], two[:len(two)-1], two, append(bytes.Clone(two), 0, 0, 0), append(bytes.Clone(two), '\n')} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, segmentName(1)), content, 0o600); err != nil {
			t.Fatal(err)
		}
		before := 0
		for _, err := range Read(dir, 0) {
			if err == nil {
				before++
			}
		}
		j, err := OpenJournal(dir, Options{})
		if err != nil {
			var damage *DamageError
			if !errors.As(err, &damage) {
				t.Fatal(err)
			}
			if now, err := os.ReadFile(filepath.Join(dir, segmentName(1))); err != nil || !bytes.Equal(now, content) {
				t.Errorf("a damaged journal was changed: %v", err)
			}
			return
		}
		n, err := j.Append(t.Context(), smallRow("z"))
		j.Close()
		if err != nil || n <= uint64(before) {
			t.Fatalf("row %d after %d, %v", n, before, err)
		}
		var last *Entry
		for e, err := range Read(dir, 0) {
			if err != nil {
				t.Fatal(err)
			}
			last = e
		}
		if r, err := last.Row(); err != nil || r.Subject != "z" || last.Number != n {
			t.Errorf("the last row is %d, %+v, %v", last.Number, r, err)
		}
	})
}

// FuzzRow decodes a row that somebody else wrote. What decodes and may be
// appended has one encoding.
func FuzzRow(f *testing.F) {
	for _, r := range []*Row{smallRow("a"), someRow()} {
		raw, err := encodeRow(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"inputs":[{"path":{"base64":"/w=="},"digest":"00/1"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := (&Entry{Raw: raw}).Row()
		if err != nil {
			return
		}
		first, err := encodeRow(r)
		if err != nil {
			return
		}
		r, err = (&Entry{Raw: first}).Row()
		if err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		if second, err := encodeRow(r); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s\n%s\n%v", first, second, err)
		}
	})
}

// FuzzDetail restores a blob from a store that is not believed.
func FuzzDetail(f *testing.F) {
	b, err := encode(detail{someRow().Command, someRow().Reads})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, blob []byte) {
		r := &Row{Detail: Digest(digest.Of(blob)), SourceDigest: SourceDigest(nil)}
		if err := r.Restore(blob); err == nil && (SourceDigest(r.Inputs) != r.SourceDigest || r.Detail != Digest{}) {
			t.Errorf("%s: %+v", blob, r)
		}
	})
}
