package store

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// bucket is a store that does as little as possible and shows what it holds.
type bucket struct {
	mu      sync.Mutex
	objects map[string]Object
	writes  int
}

func newBucket() *bucket { return &bucket{objects: map[string]Object{}} }

func (b *bucket) Get(_ context.Context, name string, limit int64) (Object, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o, ok := b.objects[name]
	switch {
	case !ok:
		return Object{}, ErrNotFound
	case int64(len(o.Body)) > limit:
		return Object{}, ErrTooLarge
	}
	return o, nil
}

func (b *bucket) Put(_ context.Context, name string, body []byte, when Condition) (Version, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o, ok := b.objects[name]
	if when.Absent && ok || when.Version != "" && o.Version != when.Version {
		return "", ErrConflict
	}
	b.writes++
	v := Version(fmt.Sprint(b.writes))
	b.objects[name] = Object{Body: bytes.Clone(body), Version: v, Modified: time.Now()}
	return v, nil
}

func (b *bucket) Stat(_ context.Context, name string) (Info, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o, ok := b.objects[name]
	if !ok {
		return Info{}, ErrNotFound
	}
	return Info{Name: name, Size: int64(len(o.Body)), Version: o.Version, Modified: o.Modified}, nil
}

func (b *bucket) Touch(ctx context.Context, name string) error {
	o, err := b.Get(ctx, name, MaxObject)
	if err == nil {
		_, err = b.Put(ctx, name, o.Body, Condition{})
	}
	return err
}

func (b *bucket) Delete(_ context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.objects, name)
	return nil
}

func (b *bucket) List(ctx context.Context, prefix string, visit func(Info) error) error {
	for _, name := range b.names() {
		if strings.HasPrefix(name, prefix) {
			info, err := b.Stat(ctx, name)
			if err != nil {
				return err
			}
			if err := visit(info); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bucket) names() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.objects))
}

func (b *bucket) String() string { return "bucket" }
func (b *bucket) Close() error   { return nil }

func testKey(seed byte) []byte { return bytes.Repeat([]byte{seed}, SealKeySize) }

func mustSeal(t testing.TB, s Store, seed byte) Store {
	t.Helper()
	sealed, err := Sealed(s, testKey(seed))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

const testDigest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"

// TestSealedVectors holds names and objects against those that another
// implementation made: testdata/sealed.py.
func TestSealedVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/sealed.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Key, Name, Body, Object string
		SealedName              string `json:"sealed_name"`
	}
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) < 7 {
		t.Fatalf("%d vectors", len(cases))
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			unhex := func(s string) []byte {
				b, err := hex.DecodeString(s)
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			b := newBucket()
			s, err := Sealed(b, unhex(c.Key))
			if err != nil {
				t.Fatal(err)
			}
			b.objects[c.SealedName] = Object{Body: unhex(c.Object), Version: "v"}
			o, err := s.Get(t.Context(), c.Name, MaxObject)
			if err != nil || !bytes.Equal(o.Body, unhex(c.Body)) || o.Version != "v" {
				t.Fatalf("body %x, version %q, error %v", o.Body, o.Version, err)
			}
			if got := listed(t, s, ""); !slices.Equal(got, []string{c.Name}) {
				t.Errorf("listed as %q", got)
			}
			// What is written has the same name and length; its nonce is random.
			if _, err := s.Put(t.Context(), c.Name, o.Body, Condition{}); err != nil {
				t.Fatal(err)
			}
			if got := b.names(); !slices.Equal(got, []string{c.SealedName}) {
				t.Errorf("written as %q", got)
			}
			again := b.objects[c.SealedName].Body
			if len(again) != len(c.Object)/2 || hex.EncodeToString(again) == c.Object {
				t.Errorf("wrote %d bytes, want %d with another nonce", len(again), len(c.Object)/2)
			}
		})
	}
}

func listed(t *testing.T, s Store, prefix string) []string {
	t.Helper()
	var names []string
	err := s.List(t.Context(), prefix, func(i Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestSealedKeepsContract: what a user of the store sees is what they put.
func TestSealedKeepsContract(t *testing.T) {
	b := newBucket()
	s := mustSeal(t, b, 1)
	ctx := t.Context()
	var want []string
	for i := range 40 {
		for _, name := range []string{
			fmt.Sprintf("t/result/%02x/%02x%s", i, i, testDigest[2:]),
			fmt.Sprintf("t/blob/%02x/%02x%s-%d", i, i, testDigest[2:], i*1000),
			fmt.Sprintf("other/x%d", i),
			fmt.Sprintf("n%d", i),
		} {
			if _, err := s.Put(ctx, name, []byte(name), Condition{Absent: true}); err != nil {
				t.Fatal(err)
			}
			want = append(want, name)
		}
	}
	slices.Sort(want)
	for _, prefix := range []string{"", "t", "t/", "t/result/", "t/result/1", "t/res", "other/x1", "n", "none"} {
		var of []string
		for _, name := range want {
			if strings.HasPrefix(name, prefix) {
				of = append(of, name)
			}
		}
		if got := listed(t, s, prefix); !slices.Equal(got, of) {
			t.Errorf("prefix %q: %d names, want %d: %q", prefix, len(got), len(of), got)
		}
	}
	for _, name := range want {
		o, err := s.Get(ctx, name, int64(len(name)))
		if err != nil || string(o.Body) != name {
			t.Fatalf("%s: %q, %v", name, o.Body, err)
		}
		if _, err := s.Get(ctx, name, int64(len(name)-1)); !errors.Is(err, ErrTooLarge) {
			t.Fatalf("%s with a limit one less: %v", name, err)
		}
		if _, err := s.Put(ctx, name, nil, Condition{Absent: true}); !errors.Is(err, ErrConflict) {
			t.Fatalf("%s put twice: %v", name, err)
		}
		if v, err := s.Put(ctx, name, []byte("new"), Condition{Version: o.Version}); err != nil || v == o.Version {
			t.Fatalf("%s put over its version: %q, %v", name, v, err)
		}
		info, err := s.Stat(ctx, name)
		if err != nil || info.Name != name {
			t.Fatalf("stat: %+v, %v", info, err)
		}
		if err := errors.Join(s.Touch(ctx, name), s.Delete(ctx, name)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(ctx, name, MaxObject); !errors.Is(err, ErrNotFound) {
			t.Fatalf("%s after its removal: %v", name, err)
		}
	}
	if left := b.names(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	for _, bad := range []string{"", "/x", "A", "a//b", ".a", "t/result/ab/" + strings.Repeat("ab", 58) + ".s1", strings.Repeat("a", MaxName)} {
		if _, err := s.Put(ctx, bad, nil, Condition{}); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	stop := errors.New("stop")
	if _, err := s.Put(ctx, "t/x", nil, Condition{}); err != nil {
		t.Fatal(err)
	}
	if err := s.List(ctx, "", func(Info) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a visitor's error became %v", err)
	}
}

// TestSealedTellsNothing looks for what a provider must not learn in all that it
// is given.
func TestSealedTellsNothing(t *testing.T) {
	b := newBucket()
	s := mustSeal(t, b, 1)
	secret := bytes.Repeat([]byte("secret source text "), 100)
	for _, name := range []string{"t/blob/2c/" + testDigest + "-1900", "t/result/2c/" + testDigest} {
		if _, err := s.Put(t.Context(), name, secret, Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	names := b.names()
	for _, name := range names {
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
		if strings.Contains(name, testDigest[:8]) || strings.Contains(name, "1900") || strings.Contains(name, "/2c/") {
			t.Errorf("%s tells the digest or size", name)
		}
		body := b.objects[name].Body
		if bytes.Contains(body, []byte("secret")) || bytes.Contains(body, []byte(testDigest[:8])) || bytes.Contains(body, []byte("result")) {
			t.Errorf("%s holds clear text", name)
		}
	}
	if len(names[0])-len("t/blob/") != len(names[1])-len("t/result/") {
		t.Errorf("%s tells by its length that there is a size", names[0])
	}
	// Sizes fall into classes of at most one part in eight.
	sizes := map[int]bool{}
	for n := range 100_000 {
		p := padded(n)
		if p < n+sealPrefix || p > max(64, (n+sealPrefix)*9/8) {
			t.Fatalf("%d bytes take %d", n, p)
		}
		sizes[p] = true
	}
	if len(sizes) > 200 {
		t.Errorf("100000 sizes fall into %d classes", len(sizes))
	}
	if p := padded(sealMaxBody) + sealAround; p != MaxObject {
		t.Errorf("the largest body takes %d", p)
	}
}

// TestSealedTamper changes every byte of an object, cuts and extends it: the body
// never comes out, and never a wrong one.
func TestSealedTamper(t *testing.T) {
	b := newBucket()
	s := mustSeal(t, b, 1)
	name := "t/result/2c/" + testDigest
	if _, err := s.Put(t.Context(), name, []byte("the body of an object"), Condition{}); err != nil {
		t.Fatal(err)
	}
	raw := b.names()[0]
	good := b.objects[raw].Body
	try := func(what string, object []byte) {
		t.Helper()
		b.objects[raw] = Object{Body: object}
		o, err := s.Get(t.Context(), name, MaxObject)
		if !errors.Is(err, ErrCorrupt) || o.Body != nil {
			t.Errorf("%s: %q, %v", what, o.Body, err)
		}
	}
	for i := range good {
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			try(fmt.Sprintf("byte %d, bit %d", i, bit), bad)
		}
		try(fmt.Sprintf("cut to %d", i), good[:i])
	}
	try("one byte more", append(bytes.Clone(good), 0))
	try("twice", append(bytes.Clone(good), good...))

	b.objects[raw] = Object{Body: good}
	if o, err := s.Get(t.Context(), name, MaxObject); err != nil || string(o.Body) != "the body of an object" {
		t.Fatalf("the good one: %q, %v", o.Body, err)
	}
	// Under another name, another tenant's too.
	for _, other := range []string{"t/result/2d/2d" + testDigest[2:], "u/result/2c/" + testDigest, "t/manifest/2c/" + testDigest, "t/usage"} {
		if _, err := s.Put(t.Context(), other, []byte("x"), Condition{}); err != nil {
			t.Fatal(err)
		}
		names := b.names()
		for _, n := range names {
			b.objects[n] = Object{Body: good}
		}
		if o, err := s.Get(t.Context(), other, MaxObject); !errors.Is(err, ErrCorrupt) || o.Body != nil {
			t.Errorf("moved to %s: %q, %v", other, o.Body, err)
		}
	}
}

// TestSealedOtherKey: with another key nothing is there, what is there can be
// seen to be another's, and be removed.
func TestSealedOtherKey(t *testing.T) {
	b := newBucket()
	old, now := mustSeal(t, b, 1), mustSeal(t, b, 2)
	ctx := t.Context()
	name := "t/result/2c/" + testDigest
	if _, err := old.Put(ctx, name, []byte("old"), Condition{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(ctx, "t/result/ab/stranger", []byte("clear"), Condition{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Put(ctx, "t/result/"+testDigest+".s1", []byte("clear"), Condition{}); err != nil {
		t.Fatal(err)
	}
	if _, err := now.Get(ctx, name, MaxObject); !errors.Is(err, ErrNotFound) {
		t.Fatalf("with the wrong key: %v", err)
	}
	raw := listed(t, now, "t/result/")
	if len(raw) != 1 || !IsSealedName(raw[0]) {
		t.Fatalf("listed %q", raw)
	}
	// A name that Sealed made is no name for a new object, and opens nothing.
	if _, err := now.Get(ctx, raw[0], MaxObject); !errors.Is(err, ErrName) {
		t.Errorf("read by its sealed name: %v", err)
	}
	if info, err := now.Stat(ctx, raw[0]); err != nil || info.Name != raw[0] {
		t.Errorf("%+v, %v", info, err)
	}
	if err := errors.Join(now.Touch(ctx, raw[0]), now.Delete(ctx, raw[0])); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, old, ""); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
	if got := b.names(); len(got) != 2 {
		t.Errorf("the strangers' objects: %q", got)
	}
	if _, err := Sealed(b, testKey(1)[1:]); err == nil {
		t.Error("a key of 31 bytes is taken")
	}
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if err := CreateKey(path); err != nil {
		t.Fatal(err)
	}
	key, err := ReadKey(path)
	if err != nil || len(key) != SealKeySize || bytes.Equal(key, make([]byte, SealKeySize)) {
		t.Fatalf("%x, %v", key, err)
	}
	if err := CreateKey(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made over a key: %v", err)
	}
	if again, err := ReadKey(path); err != nil || !bytes.Equal(again, key) {
		t.Errorf("%x, %v", again, err)
	}
	if runtime.GOOS != "windows" {
		for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o601} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			if _, err := ReadKey(path); !errors.Is(err, ErrKeyFile) {
				t.Errorf("mode %o: %v", mode, err)
			}
		}
	}
	for name, text := range map[string]string{
		"short": "AAAA", "long": strings.Repeat("A", 88), "odd": strings.Repeat("!", 44),
		"huge": strings.Repeat("A", 100_000), "empty": "", "sloppy": strings.Repeat("A", 42) + "B=",
	} {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKey(p); !errors.Is(err, ErrKeyFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadKey(dir); !errors.Is(err, ErrKeyFile) {
		t.Errorf("a directory: %v", err)
	}
	if _, err := ReadKey(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
}

func FuzzSealedOpen(f *testing.F) {
	s := mustSeal(f, newBucket(), 1).(*sealed)
	// Written down, since each of the fuzzer's processes would make another.
	good, err := hex.DecodeString("687063632d73310aa20eac32d29d6228c8b6234c4c05fb681f6424558658714063749d1ba806452858df85cfd17155317a405e31ef0560d18ae6d648d9db6065de2d22bc9033f6b249aa7876b6e1d5229e2e679306134bf780a8ba26038ddf2b55e5ea07")
	if err != nil {
		f.Fatal(err)
	}
	if body, err := s.open("t/usage", good); err != nil || string(body) != "body" {
		f.Fatalf("%q, %v", body, err)
	}
	f.Add([]byte(nil))
	f.Add(good)
	f.Add(append([]byte(sealMagic), make([]byte, 100)...))
	f.Fuzz(func(t *testing.T, object []byte) {
		body, err := s.open("t/usage", object)
		switch {
		case err != nil && (!errors.Is(err, ErrCorrupt) || body != nil):
			t.Errorf("%q, %v", body, err)
		case err == nil && !bytes.Equal(object, good):
			t.Error("a forged object was opened")
		}
	})
}

// FuzzSealedName: a name comes back from its sealed form, and no other name opens.
func FuzzSealedName(f *testing.F) {
	k := mustSeal(f, newBucket(), 1).(*sealed).names
	for _, name := range []string{"t/usage", "t/result/2c/" + testDigest, "t/blob/2c/" + testDigest + "-0",
		"t/blob/2c/" + testDigest + "-00", "2c/" + testDigest, "x/" + strings.Repeat("y", 180), "a/b/c/d/e.s1",
		"ab/" + strings.Repeat("ab", 30) + ".s1", "a/ab/" + strings.Repeat("ab", 100) + "/ab.s1"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if raw, err := k.seal(name); err == nil {
			if CheckName(raw) != nil || !IsSealedName(raw) {
				t.Fatalf("%q sealed to %q", name, raw)
			}
			if back, err := k.open(raw); err != nil || back != name {
				t.Fatalf("%q came back from %q as %q, %v", name, raw, back, err)
			}
		} else if !errors.Is(err, ErrName) {
			t.Fatal(err)
		}
		// The name as a provider's: nothing opens that was not sealed.
		if clear, err := k.open(name); err == nil {
			if raw, err := k.seal(clear); err != nil || raw != name {
				t.Fatalf("%q opened to %q, which seals to %q", name, clear, raw)
			}
		}
	})
}
