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
	"time"

	"hpcc.dev/hpcc/internal/store"
)

// parallel calls f for all numbers below n, some at a time.
func parallel(n int, f func(i int)) {
	var all sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			f(i)
		})
	}
	all.Wait()
}

// list puts more objects than a page has, in no order, and lists what they begin with.
func list(s suite) {
	if got := s.listed(""); len(got) > 0 {
		s.Fatalf("a new store has %v", got)
	}
	var all []string
	for i := range s.f.Listed {
		// Names that differ before, at and after slashes and what sorts around them.
		switch i % 4 {
		case 0:
			all = append(all, fmt.Sprintf("t/result/%02x/%05d", i%7, i))
		case 1:
			all = append(all, fmt.Sprintf("t/result-%05d", i))
		case 2:
			all = append(all, fmt.Sprintf("t/result.%d/%05d", i%3, i))
		case 3:
			all = append(all, fmt.Sprintf("t2/result/%05d", i))
		}
	}
	shuffled := slices.Clone(all)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	parallel(len(shuffled), func(i int) {
		if _, err := s.Put(s.ctx, shuffled[i], []byte(shuffled[i]), store.Condition{}); err != nil {
			s.Errorf("put: %v", err)
		}
	})
	slices.Sort(all)
	for _, prefix := range []string{"", "t", "t/", "t/result", "t/result/", "t/result/03/", "t/result/03/0", "t/result-", "t/result.", "t2", "t2/result/00003", "u", "t/none/", "t/result-00001/"} {
		var want []string
		for _, name := range all {
			if strings.HasPrefix(name, prefix) {
				want = append(want, name)
			}
		}
		got := s.listed(prefix)
		if !slices.Equal(namesOf(got), want) {
			s.Errorf("prefix %q: %d names; want %d\n%.500q\n%.500q", prefix, len(got), len(want), namesOf(got), want)
		}
		for _, i := range got {
			if !s.f.sized(i.Size, len(i.Name)) || i.Version == "" || time.Since(i.Modified) < -s.f.Skew {
				s.Fatalf("prefix %q: %+v", prefix, i)
			}
		}
	}
	for _, i := range s.listed("t2/")[:3] {
		if o := s.get(i.Name); o.Version != i.Version || o.Modified.Sub(i.Modified).Abs() > time.Second {
			s.Errorf("listed as %+v; has version %q, modified %v", i, o.Version, o.Modified)
		}
	}
}

func listStops(s suite) {
	for i := range 10 {
		s.put(fmt.Sprint("name", i), nil)
	}
	enough := errors.New("enough")
	seen := 0
	err := s.List(s.ctx, "", func(store.Info) error {
		if seen++; seen == 3 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || seen != 3 {
		s.Errorf("%d seen, %v", seen, err)
	}
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	seen = 0
	err = s.List(ctx, "", func(store.Info) error {
		seen++
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		s.Errorf("cancelled after %d: %v", seen, err)
	}
}

// atOnce reads, lists and deletes what is being written: a reader sees one whole
// body or none.
func atOnce(s suite) {
	body := func(writer, round int) []byte {
		return bytes.Repeat([]byte{byte('a' + writer), byte('0' + round)}, 1+(writer*7+round)*3001)
	}
	whole := func(b []byte) bool {
		return len(b) >= 2 && bytes.Equal(b, body(int(b[0]-'a'), int(b[1]-'0')))
	}
	const names, rounds = 3, 6
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprint("at/once", rand.N(names))
				o, err := s.Get(s.ctx, name, store.MaxObject)
				if err == nil && !whole(o.Body) {
					s.Errorf("read a part: %s", brief(o.Body))
				} else if err != nil && !errors.Is(err, store.ErrNotFound) {
					s.Errorf("read: %v", err)
					return
				}
				err = s.List(s.ctx, "at/", func(store.Info) error { return nil })
				if err != nil {
					s.Errorf("list: %v", err)
					return
				}
			}
		})
	}
	for w := range 4 {
		writers.Go(func() {
			for r := range rounds {
				name := fmt.Sprint("at/once", rand.N(names))
				if _, err := s.Put(s.ctx, name, body(w, r), store.Condition{}); err != nil {
					s.Errorf("put: %v", err)
				}
				if r%3 == 2 {
					if err := s.Delete(s.ctx, name); err != nil {
						s.Errorf("delete: %v", err)
					}
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	for _, i := range s.listed("") {
		if !whole(s.get(i.Name).Body) {
			s.Errorf("%s is not whole", i.Name)
		}
	}
}

func cancelled(s suite) {
	s.put("name", []byte("one"))
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := s.Get(ctx, "name", 10)
	s.want(err, context.Canceled)
	_, err = s.Stat(ctx, "name")
	s.want(err, context.Canceled)
	_, err = s.Put(ctx, "name", []byte("two"), store.Condition{})
	s.want(err, context.Canceled)
	s.want(s.Touch(ctx, "name"), context.Canceled)
	s.want(s.Delete(ctx, "name"), context.Canceled)
	s.want(s.List(ctx, "", func(store.Info) error { return nil }), context.Canceled)
	s.has("name", []byte("one"))
}

func aliases(s suite) {
	body := []byte("body")
	s.put("name", body)
	if string(body) != "body" {
		s.Error("Put has changed the body")
	}
	copy(body, "xxxx")
	o := s.get("name")
	if string(o.Body) != "body" {
		s.Fatalf("%q after the caller changed what it put", o.Body)
	}
	copy(o.Body, "yyyy")
	_ = append(o.Body, "more"...)
	s.has("name", []byte("body"))
}

func closes(s suite) {
	s.put("name", []byte("1"))
	before := s.String()
	s.want(s.Close(), nil)
	s.want(s.Close(), nil)
	if s.String() != before {
		s.Errorf("was %s, is %s", before, s.String())
	}
	// Whether it still serves is its affair; it may not panic.
	_, err := s.Get(s.ctx, "name", 1)
	s.Logf("after Close: %v", err)
}
