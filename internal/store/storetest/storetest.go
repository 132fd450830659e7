// Package storetest is what every store.Store must do, as a test.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/store"
)

// Features say how far a store is tried.
type Features struct {
	// Listed is how many objects are put and listed: some more than the store lists
	// by one request, so that pages meet; 0 is 50.
	Listed int
	// Big is the size of the largest body that is put; 0 is 9 MiB.
	Big int
	// Writers is how many write at once; 0 is 16.
	Writers int
	// Skew is how far the store's clock may be from this one, and the unit of its
	// times; 0 is 5 s.
	Skew time.Duration
	// Names is how long names may be; 0 is store.MaxName.
	Names int
	// Padded says that Info.Size is what an object takes, which may be an eighth more
	// than its body, and a hundred bytes.
	Padded bool
}

// sized reports whether a size that the store tells is that of a body of n bytes.
func (f *Features) sized(size int64, n int) bool {
	return size == int64(n) || f.Padded && size > int64(n) && size <= int64(n)+int64(n)/8+100
}

// patience is for a call on a busy machine.
const patience = 2 * time.Minute

// suite is one test's store.
type suite struct {
	*testing.T
	store.Store
	f   Features
	ctx context.Context
}

// Run tries stores that open makes: each an empty one, for the test that it is
// given, which also closes it at its end if it wants it closed.
func Run(t *testing.T, open func(t *testing.T) store.Store, f Features) {
	if f.Listed == 0 {
		f.Listed = 50
	}
	if f.Big == 0 {
		f.Big = 9 << 20
	}
	if f.Writers == 0 {
		f.Writers = 16
	}
	if f.Skew == 0 {
		f.Skew = 5 * time.Second
	}
	if f.Names == 0 {
		f.Names = store.MaxName
	}
	for _, test := range []struct {
		name string
		run  func(s suite)
	}{
		{"names", names},
		{"bodies", bodies},
		{"limit", limit},
		{"replaced", replaced},
		{"absent", absent},
		{"version", version},
		{"one wins", oneWins},
		{"counter", counter},
		{"stat", stat},
		{"touch", touch},
		{"delete", remove},
		{"delete many", removeMany},
		{"list", list},
		{"list stops", listStops},
		{"at once", atOnce},
		{"cancelled", cancelled},
		{"aliases", aliases},
		{"close", closes},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			test.run(suite{t, open(t), f, ctx})
		})
	}
}

func (s suite) put(name string, body []byte) store.Version {
	s.Helper()
	v, err := s.Put(s.ctx, name, body, store.Condition{})
	if err != nil {
		s.Fatal(err)
	}
	return v
}

func (s suite) get(name string) store.Object {
	s.Helper()
	o, err := s.Get(s.ctx, name, store.MaxObject)
	if err != nil {
		s.Fatal(err)
	}
	return o
}

func (s suite) has(name string, body []byte) {
	s.Helper()
	if o := s.get(name); !bytes.Equal(o.Body, body) {
		s.Fatalf("%s has %s; want %s", name, brief(o.Body), brief(body))
	}
}

func (s suite) want(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("error %v; want %v", err, want)
	}
}

func (s suite) listed(prefix string) (list []store.Info) {
	s.Helper()
	err := s.List(s.ctx, prefix, func(i store.Info) error {
		list = append(list, i)
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
	return list
}

func namesOf(list []store.Info) (names []string) {
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names
}

func brief(b []byte) string {
	if len(b) > 20 {
		return fmt.Sprintf("%q... (%d bytes)", b[:20], len(b))
	}
	return fmt.Sprintf("%q", b)
}

// noise does not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1, byte(n), byte(n >> 8), byte(n >> 16)})
	_, _ = r.Read(b)
	return b
}

// Good are names that every store holds, in the order of their bytes.
var good = []string{
	"0", "a", "a-b/c", "a.b/c", "a0", "b-/x", "b/c", "b/d/e/f/g/h", "b0/c", "con.fig", "default/blob/ab/0123-45",
	"default/manifest/ab/" + strings.Repeat("0f", 32), "x/-", "x/_..", strings.Repeat("y", 250) + "/" + strings.Repeat("z", 250),
}

// Bad are names that no store takes.
var bad = []string{
	"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b", ".tmp", ".lock/00", "a/.b", "A", "a b", "a\\b", "a\x00b",
	"ä", "a:b", "a*", "a?", "a%2f", "a+b", "~a", "a\n", "\xff", strings.Repeat("a", 256), strings.Repeat("a/", 256) + "a",
}

func names(s suite) {
	good := slices.DeleteFunc(slices.Clone(good), func(name string) bool { return len(name) > s.f.Names })
	for _, name := range good {
		s.put(name, []byte("in "+name))
	}
	for _, name := range good {
		s.has(name, []byte("in "+name))
	}
	if got := namesOf(s.listed("")); !slices.Equal(got, good) {
		s.Errorf("listed %q; want %q", got, good)
	}
	for _, name := range bad {
		_, err := s.Get(s.ctx, name, 1)
		s.want(err, store.ErrName)
		_, err = s.Put(s.ctx, name, nil, store.Condition{})
		s.want(err, store.ErrName)
		_, err = s.Stat(s.ctx, name)
		s.want(err, store.ErrName)
		s.want(s.Touch(s.ctx, name), store.ErrName)
		s.want(s.Delete(s.ctx, name), store.ErrName)
	}
	for _, prefix := range []string{"/", "../", "a//", "A", "a/.", "a\x00"} {
		s.want(s.List(s.ctx, prefix, func(store.Info) error { return nil }), store.ErrName)
	}
	// A store may hold a name below another or not, but must stay as it is then.
	if _, err := s.Put(s.ctx, "a/below", []byte("1"), store.Condition{}); err == nil {
		s.has("a/below", []byte("1"))
	} else {
		s.want(err, store.ErrName)
		_, err := s.Get(s.ctx, "a/below", 1)
		s.want(err, store.ErrNotFound)
	}
	s.has("a", []byte("in a"))
	if _, err := s.Put(s.ctx, "b", []byte("1"), store.Condition{}); err == nil {
		s.has("b", []byte("1"))
	} else {
		s.want(err, store.ErrName)
		_, err := s.Get(s.ctx, "b", 1)
		s.want(err, store.ErrNotFound)
		s.want(s.Delete(s.ctx, "b"), nil)
	}
	s.has("b/c", []byte("in b/c"))
}

func bodies(s suite) {
	for _, n := range []int{0, 1, 4095, 4096, 32<<10 - 1, 32 << 10, 64<<10 + 1, 1 << 20, 5 << 20, 5<<20 + 1, 8<<20 - 1, 8 << 20, s.f.Big} {
		body := noise(n)
		v := s.put("body", body)
		o := s.get("body")
		if !bytes.Equal(o.Body, body) {
			s.Fatalf("of %d bytes, %s came back", n, brief(o.Body))
		}
		if v == "" || o.Version != v {
			s.Errorf("version %q, then %q", v, o.Version)
		}
		if d := time.Since(o.Modified); d < -s.f.Skew || d > patience {
			s.Errorf("modified %v ago", d)
		}
	}
	if s.String() == "" {
		s.Error("the store has no name")
	}
}

func limit(s suite) {
	body := noise(100_000)
	s.put("body", body)
	for n, want := range map[int64]error{0: store.ErrTooLarge, 1: store.ErrTooLarge, 99_999: store.ErrTooLarge, -1: store.ErrTooLarge, 100_000: nil, 1 << 62: nil} {
		o, err := s.Get(s.ctx, "body", n)
		s.want(err, want)
		if want == nil && !bytes.Equal(o.Body, body) {
			s.Errorf("limit %d: another body", n)
		}
	}
	s.put("empty", nil)
	if o, err := s.Get(s.ctx, "empty", 0); err != nil || len(o.Body) != 0 {
		s.Errorf("an empty body: %v, %v", o, err)
	}
}

func replaced(s suite) {
	seen := map[store.Version]bool{}
	// One size and, on a fast store, one moment.
	for i := range 20 {
		body := fmt.Appendf(nil, "%08d", i)
		v := s.put("name", body)
		if seen[v] {
			s.Fatalf("version %q twice", v)
		}
		seen[v] = true
		s.has("name", body)
	}
	s.put("name", nil)
	s.has("name", nil)
	s.put("name", noise(100_000))
	s.has("name", noise(100_000))
}

func absent(s suite) {
	when := store.Condition{Absent: true}
	v, err := s.Put(s.ctx, "dir/name", []byte("one"), when)
	if err != nil {
		s.Fatal(err)
	}
	_, err = s.Put(s.ctx, "dir/name", []byte("two"), when)
	s.want(err, store.ErrConflict)
	if o := s.get("dir/name"); string(o.Body) != "one" || o.Version != v {
		s.Errorf("%q, version %q; want version %q", o.Body, o.Version, v)
	}
	s.want(s.Delete(s.ctx, "dir/name"), nil)
	_, err = s.Put(s.ctx, "dir/name", []byte("two"), when)
	s.want(err, nil)
	s.has("dir/name", []byte("two"))
}

func version(s suite) {
	first := s.put("name", []byte("one"))
	second, err := s.Put(s.ctx, "name", []byte("two"), store.Condition{Version: first})
	if err != nil {
		s.Fatal(err)
	}
	_, err = s.Put(s.ctx, "name", []byte("three"), store.Condition{Version: first})
	s.want(err, store.ErrConflict)
	s.has("name", []byte("two"))
	_, err = s.Put(s.ctx, "name", []byte("three"), store.Condition{Version: second})
	s.want(err, nil)
	s.has("name", []byte("three"))
	_, err = s.Put(s.ctx, "another", []byte("four"), store.Condition{Version: second})
	s.want(err, store.ErrConflict)
	_, err = s.Get(s.ctx, "another", 10)
	s.want(err, store.ErrNotFound)
	last := s.get("name").Version
	s.want(s.Delete(s.ctx, "name"), nil)
	_, err = s.Put(s.ctx, "name", []byte("five"), store.Condition{Version: last})
	s.want(err, store.ErrConflict)
}

// oneWins lets many write on one condition: one may, and its body stays.
func oneWins(s suite) {
	for _, existing := range []bool{false, true} {
		name, when := "new", store.Condition{Absent: true}
		if existing {
			name = "old"
			when = store.Condition{Version: s.put("old", []byte("old"))}
		}
		won := make(chan string, s.f.Writers)
		begin := make(chan struct{})
		var all sync.WaitGroup
		for i := range s.f.Writers {
			all.Go(func() {
				<-begin
				body := fmt.Sprintf("%d %s", i, strings.Repeat("x", i*1000))
				switch _, err := s.Put(s.ctx, name, []byte(body), when); {
				case err == nil:
					won <- body
				case !errors.Is(err, store.ErrConflict):
					s.Errorf("one that does not win: %v", err)
				}
			})
		}
		close(begin)
		all.Wait()
		if len(won) != 1 {
			s.Fatalf("%d of %d have won; existing: %v", len(won), s.f.Writers, existing)
		}
		s.has(name, []byte(<-won))
	}
}

// counter adds up by versions: no addition may be lost.
func counter(s suite) {
	s.put("counter", nil)
	const each = 4
	var all sync.WaitGroup
	writers := s.f.Writers/2 + 1
	for range writers {
		all.Go(func() {
			for added := 0; added < each; {
				o, err := s.Get(s.ctx, "counter", 1000)
				if err != nil {
					s.Errorf("counter: %v", err)
					return
				}
				switch _, err := s.Put(s.ctx, "counter", append(o.Body, '1'), store.Condition{Version: o.Version}); {
				case err == nil:
					added++
				case !errors.Is(err, store.ErrConflict):
					s.Errorf("counter: %v", err)
					return
				}
			}
		})
	}
	all.Wait()
	if n := len(s.get("counter").Body); n != each*writers {
		s.Errorf("counted %d; want %d", n, each*writers)
	}
}

func stat(s suite) {
	_, err := s.Stat(s.ctx, "name")
	s.want(err, store.ErrNotFound)
	_, err = s.Get(s.ctx, "name", 1)
	s.want(err, store.ErrNotFound)
	v := s.put("name", noise(12_345))
	i, err := s.Stat(s.ctx, "name")
	if err != nil {
		s.Fatal(err)
	}
	o := s.get("name")
	if i.Name != "name" || !s.f.sized(i.Size, 12_345) || i.Version != v || i.Modified.Sub(o.Modified).Abs() > time.Second {
		s.Errorf("%+v; want 12345 bytes, version %q, modified %v", i, v, o.Modified)
	}
}

func touch(s suite) {
	s.want(s.Touch(s.ctx, "name"), store.ErrNotFound)
	_, err := s.Stat(s.ctx, "name")
	s.want(err, store.ErrNotFound)
	body := noise(50_000)
	s.put("name", body)
	before := s.get("name")
	// Stores keep times in units of up to a second.
	for deadline := time.Now().Add(patience); ; {
		s.want(s.Touch(s.ctx, "name"), nil)
		after := s.get("name")
		if !bytes.Equal(after.Body, body) {
			s.Fatal("another body")
		}
		if after.Modified.After(before.Modified) {
			break
		}
		if after.Modified.Before(before.Modified) || time.Now().After(deadline) {
			s.Fatalf("modified %v, and touched %v", before.Modified, after.Modified)
		}
	}
	_, err = s.Put(s.ctx, "name", []byte("new"), store.Condition{Version: s.get("name").Version})
	s.want(err, nil)
}

func remove(s suite) {
	s.want(s.Delete(s.ctx, "dir/name"), nil)
	s.put("dir/name", []byte("1"))
	s.put("dir/name2", []byte("2"))
	s.want(s.Delete(s.ctx, "dir/name"), nil)
	_, err := s.Get(s.ctx, "dir/name", 1)
	s.want(err, store.ErrNotFound)
	s.has("dir/name2", []byte("2"))
	s.want(s.Delete(s.ctx, "dir/name2"), nil)
	if left := s.listed(""); len(left) > 0 {
		s.Errorf("left: %v", left)
	}
	s.put("dir", []byte("3")) // no directory stands in the way
	s.has("dir", []byte("3"))
}

func removeMany(s suite) {
	var gone []string
	for i := range 30 {
		name := fmt.Sprintf("dir/%02d", i)
		s.put(name, []byte(name))
		if i%3 != 0 {
			gone = append(gone, name)
		}
	}
	gone = append(gone, "dir/never")
	s.want(store.DeleteMany(s.ctx, s, gone), nil)
	if left := s.listed(""); len(left) != 10 || left[1].Name != "dir/03" {
		s.Errorf("left: %v", namesOf(left))
	}
	s.want(store.DeleteMany(s.ctx, s, nil), nil)
}
