package cache_test

import (
	"fmt"
	"testing"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
)

// object is the size of an object of a C++ unit with heavy headers.
const object = 300_000

func BenchmarkPutBlob(b *testing.B) {
	c := open(b, b.TempDir())
	data := text(1, object)
	b.SetBytes(object)
	for i := 0; b.Loop(); i++ {
		copy(data, fmt.Sprintf("%20d", i)) // new each time
		if _, err := c.PutBlob(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPutKnownBlob(b *testing.B) {
	c := open(b, b.TempDir())
	data := text(1, object)
	b.SetBytes(object)
	for b.Loop() {
		if _, err := c.PutBlob(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBlob(b *testing.B) {
	c := open(b, b.TempDir())
	for name, data := range map[string][]byte{"compressed": text(1, object), "raw": noise(1, object)} {
		d, err := c.PutBlob(data)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(object)
			for b.Loop() {
				if _, err := c.Blob(d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// heavy is an entry with 500 inputs and 800 absences, and its manifest.
func heavy(b *testing.B) (digest.Key, *action.Entry, action.Candidate) {
	b.Helper()
	e := &action.Entry{}
	for i := range 500 {
		path := fmt.Sprintf("/usr/lib/gcc/x86_64-linux-gnu/12/../../../../include/c++/12/bits/header_%04d.h", i)
		e.Action.Inputs = append(e.Action.Inputs, action.Input{Path: path, Digest: digest.Of([]byte(path))})
		e.Result.Dependencies = append(e.Result.Dependencies, action.Dependency{Path: path, System: true})
	}
	for i := range 800 {
		e.Action.Absent = append(e.Action.Absent, fmt.Sprintf("/usr/lib/gcc/x86_64-linux-gnu/12/include/bits/header_%04d.h", i))
	}
	key := e.Action.Key()
	return key, e, action.Candidate{Action: key, Inputs: e.Action.Inputs, Absent: e.Action.Absent}
}

func BenchmarkRecords(b *testing.B) {
	c := open(b, b.TempDir())
	key, e, candidate := heavy(b)
	store := func() error { return c.PutEntry(key, e) }
	n := 0
	update := func() error {
		_, err := c.UpdateManifest(key, func(m *action.Manifest) error {
			n++
			m.Preprocess = fmt.Sprint(n) // new each time
			m.Add(candidate)
			return nil
		})
		return err
	}
	if err := store(); err != nil {
		b.Fatal(err)
	}
	if err := update(); err != nil {
		b.Fatal(err)
	}
	for _, bench := range []struct {
		name string
		f    func() error
	}{
		{"PutEntry", store},
		{"UpdateManifest", update},
		{"Entry", func() error { _, err := c.Entry(key); return err }},
		{"Result", func() error { _, err := c.Result(key); return err }},
		{"Manifest", func() error { _, _, err := c.Manifest(key); return err }},
		{"ManifestStamp", func() error { _, err := c.ManifestStamp(key); return err }},
		{"Touch", func() error { c.Touch(key, key, &e.Result); return nil }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := bench.f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
