package action

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hpcc.dev/hpcc/internal/digest"
	actionv1 "hpcc.dev/hpcc/proto/hpcc/action/v1"
)

func TestEntryRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := &Entry{*anyAction.Draw(t, "action"), *anyResult.Draw(t, "result")}
		k := e.Action.Key()
		b, err := EncodeEntry(k, e)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeEntry(k, b)
		if err != nil || !equal(got, e) {
			t.Fatalf("decoded %+v, %v; want %+v", got, err, e)
		}
		if got.Action.Key() != k {
			t.Fatal("another key")
		}
		r, err := DecodeResult(k, b)
		if err != nil || !equal(r, &e.Result) {
			t.Fatalf("decoded %+v, %v; want %+v", r, err, e.Result)
		}
	})
}

func TestManifestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, k := anyManifest.Draw(t, "manifest"), key.Draw(t, "key")
		b, err := EncodeManifest(k, m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeManifest(k, b)
		if err != nil || !equal(got, m) {
			t.Fatalf("decoded %+v, %v; want %+v", got, err, m)
		}
	})
}

// Each flipped bit and each missing byte is found, and so is another key.
func TestDamageIsFound(t *testing.T) {
	k := digest.Key{1}
	entry, err := EncodeEntry(k, &Entry{Result: Result{Stderr: []byte("x")}})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := EncodeManifest(k, &Manifest{Candidates: []Candidate{{Absent: []string{"a"}}}})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, encoded []byte, decode func(digest.Key, []byte) error) {
		if err := decode(k, encoded); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, err := range []error{decode(digest.Key{2}, encoded), decode(k, append(bytes.Clone(encoded), 0)), decode(k, nil)} {
			if !errors.Is(err, digest.ErrDamaged) {
				t.Errorf("%s: another key, a byte more, nothing at all: %v", what, err)
			}
		}
		for i := range encoded {
			if err := decode(k, encoded[:i]); !errors.Is(err, digest.ErrDamaged) {
				t.Errorf("%s cut at %d: %v", what, i, err)
			}
			for bit := range 8 {
				b := bytes.Clone(encoded)
				b[i] ^= 1 << bit
				if err := decode(k, b); !errors.Is(err, digest.ErrDamaged) {
					t.Errorf("%s, bit %d of byte %d: %v", what, bit, i, err)
				}
			}
		}
	}
	check("entry", entry, func(k digest.Key, b []byte) error { _, err := DecodeEntry(k, b); return err })
	check("manifest", manifest, func(k digest.Key, b []byte) error { _, err := DecodeManifest(k, b); return err })
	if _, err := DecodeManifest(k, entry); !errors.Is(err, digest.ErrDamaged) {
		t.Errorf("an entry as a manifest: %v", err)
	}
}

// What a hostile store may send: sealed well, and wrong inside.
func TestHostileRecords(t *testing.T) {
	k := digest.Key{1}
	candidate := func(change func(*actionv1.Candidate)) *actionv1.Manifest {
		c := &actionv1.Candidate{
			Action: k[:], InputPaths: []uint32{0}, InputSums: make([]byte, 32), InputSizes: []int64{1}, Absent: []uint32{0},
		}
		change(c)
		return &actionv1.Manifest{Paths: []string{"a"}, Candidates: []*actionv1.Candidate{c}}
	}
	if err := tryManifest(k, candidate(func(*actionv1.Candidate) {})); err != nil {
		t.Fatal(err)
	}
	many := &actionv1.Manifest{}
	for range MaxCandidates + 1 {
		many.Candidates = append(many.Candidates, &actionv1.Candidate{Action: k[:]})
	}
	references := candidate(func(c *actionv1.Candidate) { c.Absent = make([]uint32, maxReferences+1) })
	for what, m := range map[string]*actionv1.Manifest{
		"many candidates": many,
		"many references": references,
		"many paths":      {Paths: make([]string, maxFields+1)},
		"path index":      candidate(func(c *actionv1.Candidate) { c.InputPaths[0] = 1 }),
		"absent index":    candidate(func(c *actionv1.Candidate) { c.Absent[0] = 1 << 31 }),
		"present index":   candidate(func(c *actionv1.Candidate) { c.Present = []uint32{^uint32(0)} }),
		"chain index":     candidate(func(c *actionv1.Candidate) { c.Chain = []uint32{^uint32(0)} }),
		"same index":      candidate(func(c *actionv1.Candidate) { c.Same = []uint32{0, ^uint32(0)} }),
		"half a pair":     candidate(func(c *actionv1.Candidate) { c.Same = []uint32{0} }),
		"short key":       candidate(func(c *actionv1.Candidate) { c.Action = k[:31] }),
		"short sums":      candidate(func(c *actionv1.Candidate) { c.InputSums = make([]byte, 31) }),
		"long sums":       candidate(func(c *actionv1.Candidate) { c.InputSums = make([]byte, 64) }),
		"no sizes":        candidate(func(c *actionv1.Candidate) { c.InputSizes = nil }),
		"negative size":   candidate(func(c *actionv1.Candidate) { c.InputSizes[0] = -1 }),
	} {
		if err := tryManifest(k, m); !errors.Is(err, digest.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}

	good := func() (*actionv1.Action, *actionv1.Result) {
		e := Entry{Action: Action{Inputs: []Input{{Path: "a"}}}, Result: Result{Outputs: []Output{{Role: "object"}}}}
		return actionToProto(&e.Action), resultToProto(&e.Result)
	}
	for what, change := range map[string]func(*actionv1.Action, *actionv1.Result){
		"no toolchain":     func(a *actionv1.Action, _ *actionv1.Result) { a.Toolchain = nil },
		"short toolchain":  func(a *actionv1.Action, _ *actionv1.Result) { a.Toolchain.Sha256 = k[:5] },
		"input's sum":      func(a *actionv1.Action, _ *actionv1.Result) { a.Inputs[0].Digest.Sha256 = nil },
		"no input's sum":   func(a *actionv1.Action, _ *actionv1.Result) { a.Inputs[0].Digest = nil },
		"input's size":     func(a *actionv1.Action, _ *actionv1.Result) { a.Inputs[0].Digest.Size = -1 },
		"text's sum":       func(a *actionv1.Action, _ *actionv1.Result) { a.Preprocessed = &actionv1.Digest{} },
		"many absences":    func(a *actionv1.Action, _ *actionv1.Result) { a.Absent = make([]string, maxFields) },
		"output's sum":     func(_ *actionv1.Action, r *actionv1.Result) { r.Outputs[0].Digest = nil },
		"negative time":    func(_ *actionv1.Action, r *actionv1.Result) { r.CompileNanos = -1 },
		"many outputs":     func(_ *actionv1.Action, r *actionv1.Result) { r.Outputs = make([]*actionv1.Output, maxFields+1) },
		"many, and nested": func(a *actionv1.Action, _ *actionv1.Result) { a.Inputs = make([]*actionv1.Input, maxFields+1) },
	} {
		a, r := good()
		change(a, r)
		b := digest.Seal(nil, tagResult, k, marshal(t, r))
		b = digest.Seal(b, tagAction, k, marshal(t, a))
		if _, err := DecodeEntry(k, b); !errors.Is(err, digest.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func tryManifest(k digest.Key, m *actionv1.Manifest) error {
	b, err := m.MarshalVT()
	if err != nil {
		return err
	}
	_, err = DecodeManifest(k, digest.Seal(nil, tagManifest, k, b))
	return err
}

func marshal(t *testing.T, m message) []byte {
	t.Helper()
	b, err := m.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Sixty-four megabytes of the shortest messages are refused before memory is
// taken for them.
func TestHostileRecordTakesNoMemory(t *testing.T) {
	body := bytes.Repeat([]byte{5<<3 | 2, 0}, digest.MaxSealed/2) // an empty Input each
	k := digest.Key{1}
	r, err := EncodeEntry(k, &Entry{})
	if err != nil {
		t.Fatal(err)
	}
	_, rest, err := digest.Unseal(r, tagResult, k)
	if err != nil {
		t.Fatal(err)
	}
	b := digest.Seal(bytes.Clone(r[:len(r)-len(rest)]), tagAction, k, body)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := DecodeEntry(k, b); !errors.Is(err, digest.ErrDamaged) {
		t.Errorf("%v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes allocated", n)
	}
}

// A manifest that has become too large loses its oldest candidates.
func TestLargeManifestLosesOldest(t *testing.T) {
	m := &Manifest{}
	for i := range MaxCandidates {
		c := Candidate{Action: digest.Key{byte(i)}}
		for j := range 5000 {
			c.Absent = append(c.Absent, fmt.Sprintf("%s/%d/%d", strings.Repeat("d", 200), i, j))
		}
		m.Candidates = append(m.Candidates, c)
	}
	k := digest.Key{1}
	b, err := EncodeManifest(k, m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeManifest(k, b)
	if err != nil || len(got.Candidates) != MaxCandidates/4 && len(got.Candidates) != MaxCandidates/2 || got.Candidates[0].Action != (digest.Key{0}) {
		t.Errorf("%d candidates, %v", len(got.Candidates), err)
	}
	m.Candidates[0].Absent = make([]string, maxReferences+1)
	if _, err := EncodeManifest(k, m); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one that is too large by itself: %v", err)
	}
}

// A fuzzed body is sealed, so that the decoder behind the checksum is tried.
// What decodes must encode to something that decodes to the same.
func FuzzEntry(f *testing.F) {
	k := digest.Key{1}
	a, r := large(3, 2)
	e := Entry{a, r}
	f.Add(must(actionToProto(&e.Action).MarshalVT()), must(resultToProto(&e.Result).MarshalVT()))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, action, result []byte) {
		b := digest.Seal(nil, tagResult, k, result)
		b = digest.Seal(b, tagAction, k, action)
		e, err := DecodeEntry(k, b)
		if err != nil {
			if !errors.Is(err, digest.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		b, err = EncodeEntry(k, e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeEntry(k, b)
		if err != nil || !equal(again, e) {
			t.Fatalf("%+v became %+v, %v", e, again, err)
		}
	})
}

func FuzzManifest(f *testing.F) {
	k := digest.Key{1}
	a, _ := large(3, 2)
	b := must(EncodeManifest(k, &Manifest{"why", []Candidate{{Inputs: a.Inputs, Absent: a.Absent}, {Present: a.Absent}}}))
	body, _, err := digest.Unseal(b, tagManifest, k)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := DecodeManifest(k, digest.Seal(nil, tagManifest, k, body))
		if err != nil {
			if !errors.Is(err, digest.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		b, err := EncodeManifest(k, m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeManifest(k, b)
		if err != nil || !equal(again, m) {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// large is an action and its result as a heavy C++ unit has them.
func large(inputs, absences int) (Action, Result) {
	a := Action{Toolchain: digest.Key{9}, Command: []string{"-O2", "-c", "src/x.cc"}, Env: []string{"LANG=C"}}
	var r Result
	for i := range inputs {
		path := fmt.Sprintf("/usr/lib/gcc/x86_64-linux-gnu/12/../../../../include/c++/12/bits/header_%04d.h", i)
		a.Inputs = append(a.Inputs, Input{path, digest.Of([]byte(path))})
		r.Dependencies = append(r.Dependencies, Dependency{path, true})
	}
	for i := range absences {
		a.Absent = append(a.Absent, fmt.Sprintf("/usr/lib/gcc/x86_64-linux-gnu/12/include/bits/header_%04d.h", i))
	}
	r.Outputs = []Output{{Role: "object", Digest: digest.Of(nil)}}
	return a, r
}

func BenchmarkKey(b *testing.B) {
	a, _ := large(500, 800)
	for b.Loop() {
		a.Key()
	}
}

func BenchmarkDecode(b *testing.B) {
	a, r := large(500, 800)
	k := a.Key()
	e := must(EncodeEntry(k, &Entry{a, r}))
	m := must(EncodeManifest(k, &Manifest{"", []Candidate{{Action: k, Inputs: a.Inputs, Absent: a.Absent}}}))
	run := func(name string, size int, decode func() error) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := decode(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("entry", len(e), func() error { _, err := DecodeEntry(k, e); return err })
	run("result", len(e), func() error { _, err := DecodeResult(k, e); return err })
	run("manifest", len(m), func() error { _, err := DecodeManifest(k, m); return err })
}
