package shared

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// library is a store with ten results of alice, one of mallory, one large blob, and
// what is not hpcc's.
func library(t *testing.T) (s *store.Memory, alice *Signer, trust *Trust) {
	t.Helper()
	s = store.NewMemory(0)
	alice, mallory := testSigner(t, "alice"), testSigner(t, "mallory")
	for i := range 10 {
		out := [][]byte{noise(1000, byte(i))}
		if i == 0 {
			out = append(out, noise(maxPacked+1, 77))
		}
		e, blobs := testEntry(fmt.Sprintf("%d.c", i), out...)
		fill(t, s, alice, e, blobs)
	}
	e, blobs := testEntry("mallory.c", noise(1000, 99))
	fill(t, s, mallory, e, blobs)
	for _, name := range foreign {
		put(t, s, name, []byte("foreign"))
	}
	put(t, s, "default/usage", []byte(`{"bytes":12345}`))
	put(t, s, "default/lock/evict", []byte(`{}`))
	put(t, s, CcacheName("default", [CcacheKeySize]byte{1}), []byte("ccache's"))
	return s, alice, (*Trust)(nil).With(alice)
}

func namesIn(t *testing.T, s store.Store) (names []string) {
	t.Helper()
	if err := s.List(t.Context(), "", func(i store.Info) error {
		names = append(names, i.Name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return names
}

func TestCheck(t *testing.T) {
	s, _, trust := library(t)
	var wrong []Wrong
	opt := CheckOptions{Trust: trust, Wrong: func(w Wrong) { wrong = append(wrong, w) }}
	check := func() CheckReport {
		t.Helper()
		wrong = nil
		r, err := Check(withPatience(t), s, opt)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	// Two more of the foreign ones have names of hpcc's, with nothing in them.
	r := check()
	if r.Objects != 11+1+1+2 || r.Wrong != 3 || r.Reasons[ReasonStranger] != 1 || r.Reasons[ReasonDamaged] != 2 || r.Foreign != 6 || r.Ccache != 1 {
		t.Fatalf("%+v, %+v", r, wrong)
	}
	// Repair takes what is damaged; what may be another's, with the second word only.
	e, _ := testEntry("3.c", noise(1000, 3))
	bent := ResultName(DefaultTenant, e.Action.Key())
	body := get(t, s, bent)
	body[len(body)-1] ^= 1
	put(t, s, bent, body)
	before := namesIn(t, s)
	opt.Repair = true
	if r = check(); r.Removed != 3 || r.Wrong != 4 || r.Reasons[ReasonTampered] != 1 {
		t.Fatalf("%+v, %+v", r, wrong)
	}
	for _, w := range wrong {
		if w.Removed == (w.Reason == ReasonStranger) {
			t.Errorf("%+v", w)
		}
	}
	opt.Strangers = true
	if r = check(); r.Removed != 1 || r.Wrong != 1 {
		t.Fatalf("%+v, %+v", r, wrong)
	}
	if r = check(); r.Wrong != 0 || r.Objects != 9+1+1 {
		t.Errorf("%+v, %+v", r, wrong)
	}
	if gone := len(before) - len(namesIn(t, s)); gone != 4 {
		t.Errorf("%d objects are gone", gone)
	}
	// A result whose blob is gone.
	if err := s.Delete(t.Context(), BlobName(DefaultTenant, digest.Of(noise(maxPacked+1, 77)))); err != nil {
		t.Fatal(err)
	}
	opt.Repair = false
	if r = check(); r.Reasons[ReasonIncomplete] != 1 {
		t.Errorf("%+v", r)
	}
}

func TestCheckFails(t *testing.T) {
	s, _, trust := library(t)
	broken := &recorder{Store: s}
	broken.set(func(_ context.Context, call string) error {
		if call == "get result" {
			return store.ErrUnavailable
		}
		return nil
	})
	if _, err := Check(withPatience(t), broken, CheckOptions{Tenant: "default", Trust: trust}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("of a store that does not answer: %v", err)
	}
	if _, err := Check(withPatience(t), s, CheckOptions{Tenant: "A"}); !errors.Is(err, ErrTenant) {
		t.Errorf("of no tenant: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	opt := CheckOptions{Trust: trust, Progress: func(CheckReport) { cancel() }}
	if _, err := Check(ctx, s, opt); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestMirror(t *testing.T) {
	s, alice, trust := library(t)
	ctx := withPatience(t)
	dir, err := store.OpenDirectory(t.TempDir(), store.DirectoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	opt := MirrorOptions{Verify: true, Trust: trust, SameSizes: true}
	r, err := Mirror(ctx, s, dir, opt)
	if err != nil || r.Copied != 10+1+1 || r.Wrong != 3 || r.Foreign != 6 || r.Present != 0 || r.Ccache != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, name := range namesIn(t, dir) {
		if !bytes.Equal(get(t, dir, name), get(t, s, name)) {
			t.Errorf("%s differs", name)
		}
	}
	// Again: all is there. A result that was bent in the copy comes anew.
	if r, err = Mirror(ctx, s, dir, opt); err != nil || r.Copied != 0 || r.Present != 12 {
		t.Fatalf("%+v, %v", r, err)
	}
	e, blobs := testEntry("4.c", noise(1000, 4))
	name := ResultName(DefaultTenant, e.Action.Key())
	put(t, dir, name, []byte("bent"))
	if r, err = Mirror(ctx, s, dir, opt); err != nil || r.Copied != 1 || !bytes.Equal(get(t, dir, name), get(t, s, name)) {
		t.Fatalf("%+v, %v", r, err)
	}
	// Back into another bucket, from which builds are served.
	back := store.NewMemory(0)
	if r, err = Mirror(ctx, dir, back, opt); err != nil || r.Copied != 12 || r.Wrong != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	c := newCache(t, Options{Tiers: tierOf(back), Trust: trust})
	same(t, c.Result(ctx, e.Action.Key()), e, blobs)
	if m := known(ctx, c, testManifest); m == nil || len(m.Candidates) != 11 {
		t.Errorf("%+v", m)
	}
	// What both sides found is in the manifest in the end.
	fresh, freshBlobs := testEntry("fresh.c", noise(1000, 100))
	fill(t, back, alice, fresh, freshBlobs)
	other, otherBlobs := testEntry("other.c", noise(1000, 101))
	fill(t, dir, alice, other, otherBlobs)
	for _, way := range [][2]store.Store{{dir, back}, {back, dir}} {
		if _, err := Mirror(ctx, way[0], way[1], opt); err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range []store.Store{dir, back} {
		c := newCache(t, Options{Tiers: tierOf(at), Trust: trust})
		m := known(ctx, c, testManifest)
		for _, e := range []*action.Entry{fresh, other} {
			if m == nil || !slices.ContainsFunc(m.Candidates, func(c action.Candidate) bool { return c.Action == e.Action.Key() }) {
				t.Errorf("%s: a candidate is missing", at)
			}
			if c.Result(ctx, e.Action.Key()) == nil {
				t.Errorf("%s: a result is missing", at)
			}
		}
	}
}

func TestMirrorUnverified(t *testing.T) {
	s, _, _ := library(t)
	to := store.NewMemory(0)
	opt := MirrorOptions{Tenant: "default", SameSizes: true, NewerThan: time.Now().Add(time.Hour)}
	if r, err := Mirror(withPatience(t), s, to, opt); err != nil || r.Copied != 0 || r.Older != 11+1+1+1 {
		t.Fatalf("%+v, %v", r, err)
	}
	opt.NewerThan = time.Now().Add(-time.Hour)
	if r, err := Mirror(withPatience(t), s, to, opt); err != nil || r.Copied != 11+1+1+1 {
		t.Fatalf("%+v, %v", r, err)
	}
	e, _ := testEntry("4.c", noise(1000, 4))
	put(t, to, ResultName(DefaultTenant, e.Action.Key()), []byte("another"))
	if r, err := Mirror(withPatience(t), s, to, opt); err != nil || r.Different != 1 || r.Present != 13 {
		t.Fatalf("%+v, %v", r, err)
	}
}

// TestMirrorSealed copies what is encrypted as it is, and also decrypts on the way.
func TestMirrorSealed(t *testing.T) {
	clear, _, trust := library(t)
	ctx := withPatience(t)
	bucket, disk := store.NewMemory(0), store.NewMemory(0)
	key := bytes.Repeat([]byte{3}, store.SealKeySize)
	open := func(s store.Store) store.Store {
		sealed, err := store.Sealed(s, key)
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	if r, err := Mirror(ctx, clear, open(bucket), MirrorOptions{Verify: true, Trust: trust}); err != nil || r.Copied != 12 {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := Mirror(ctx, bucket, disk, MirrorOptions{Verify: true, Trust: trust}); err != nil || r.Sealed != 12 || r.Copied != 0 {
		t.Fatalf("with verification and without the key: %+v, %v", r, err)
	}
	if r, err := Mirror(ctx, bucket, disk, MirrorOptions{SameSizes: true}); err != nil || r.Copied != 12 {
		t.Fatalf("as it is: %+v, %v", r, err)
	}
	if r, err := Mirror(ctx, bucket, disk, MirrorOptions{SameSizes: true}); err != nil || r.Copied != 0 || r.Present != 12 {
		t.Fatalf("again: %+v, %v", r, err)
	}
	if r, err := Check(ctx, open(disk), CheckOptions{Trust: trust}); err != nil || r.Objects != 12 || r.Wrong != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := Check(ctx, disk, CheckOptions{Trust: trust}); err != nil || r.Objects != 0 || r.Sealed != 12 {
		t.Errorf("without the key: %+v, %v", r, err)
	}
	again := store.NewMemory(0)
	if r, err := Mirror(ctx, open(disk), again, MirrorOptions{Verify: true, Trust: trust}); err != nil || r.Copied != 12 {
		t.Fatalf("decrypted: %+v, %v", r, err)
	}
	for _, name := range namesIn(t, again) {
		if !bytes.Equal(get(t, again, name), get(t, clear, name)) {
			t.Errorf("%s differs", name)
		}
	}
}

func TestMeasure(t *testing.T) {
	s, _, _ := library(t)
	m, err := Measure(t.Context(), s, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	objects, sum := map[string]int64{}, int64(0)
	for _, x := range m.Totals {
		objects[x.Tenant+" "+string(x.Kind)] = x.Objects
		sum += x.Bytes
		if x.Oldest.IsZero() || x.Newest.Before(x.Oldest) {
			t.Errorf("%+v", x)
		}
	}
	if objects["default result"] != 11 || objects["default manifest"] != 1 || objects["default blob"] != 1 || objects["t2 result"] != 1 || objects["u result"] != 1 || m.Foreign != 6 {
		t.Errorf("%+v", m)
	}
	var want int64
	for _, name := range namesIn(t, s) {
		if class, _, _ := Classify(name); class == ClassObject {
			want += int64(len(get(t, s, name)))
		}
	}
	if sum != want || len(m.Estimates) != 1 || m.Estimates[0] != (Estimate{Tenant: "default", Bytes: 12345}) {
		t.Errorf("%d bytes, want %d; %+v", sum, want, m.Estimates)
	}
}

func TestClassify(t *testing.T) {
	sealed := "/ab/" + "ab" + strings.Repeat("0", 112) + ".s1"
	for name, want := range map[string]Class{
		ResultName("t", keyOf(1)): ClassObject, "t/usage": ClassState, "t/lock/evict": ClassState, "t/lock/other": ClassForeign,
		"usage": ClassForeign, "t/result" + sealed: ClassSealed, "t" + sealed: ClassState, "t/lock" + sealed: ClassState,
		"A/usage": ClassForeign, "": ClassForeign, "t": ClassForeign, "t/result/ab/x.s1": ClassForeign,
	} {
		if got, _, _ := Classify(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
