//go:build e2e && linux

package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/store/s3store"
	"hpcc.dev/hpcc/internal/store/storetest"
	"hpcc.dev/hpcc/test/s3"
)

func put(t *testing.T, st store.Store, name string, body []byte) store.Version {
	t.Helper()
	v, err := st.Put(t.Context(), name, body, store.Condition{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

// The suite passes over a slow way, only slower.
func TestStoreOverSlowNetwork(t *testing.T) {
	s := s3.Start(t, s3.Versity)
	s.Setenv(t)
	bucket := s.NewBucket(t)
	p := s3.Toxic(t, s.Endpoint)
	p.Latency(5 * time.Millisecond)
	n := 0
	storetest.Run(t, func(t *testing.T) store.Store {
		n++
		return open(t, s3store.Options{Bucket: bucket, Prefix: fmt.Sprint("slow-", n), Endpoint: p.Endpoint, PageSize: 20})
	}, storetest.Features{Writers: 6, Big: 1 << 20})
}

// More objects than S3 lists at once, by the pages that a server makes by itself.
func TestListOverAThousand(t *testing.T) {
	each(t, func(t *testing.T, s *s3.Server) {
		s.Setenv(t)
		bucket := s.NewBucket(t)
		st := open(t, s3store.Options{Bucket: bucket, Endpoint: s.Endpoint})
		other := open(t, s3store.Options{Bucket: bucket, Prefix: "cache2", Endpoint: s.Endpoint})
		put(t, other, "t/name", nil)
		const n = 1100
		var all sync.WaitGroup
		for w := range 8 {
			all.Go(func() {
				for i := w; i < n; i += 8 {
					if _, err := st.Put(t.Context(), fmt.Sprintf("t/%04d", i*7%n), nil, store.Condition{}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		var names []string
		if err := st.List(t.Context(), "", func(i store.Info) error {
			if want := fmt.Sprintf("t/%04d", len(names)); i.Name != want {
				return fmt.Errorf("%s; want %s", i.Name, want)
			}
			names = append(names, i.Name)
			return nil
		}); err != nil || len(names) != n {
			t.Fatalf("%d listed, %v", len(names), err)
		}
		if err := st.DeleteMany(t.Context(), names); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			st   store.Store
			left int
		}{{st, 0}, {other, 1}} {
			left := 0
			if err := c.st.List(t.Context(), "", func(store.Info) error { left++; return nil }); err != nil || left != c.left {
				t.Errorf("%d left in %s, %v; want %d", left, c.st, err, c.left)
			}
		}
	})
}

// What a network does to a store, and that the store is well again when it is.
func TestBadNetwork(t *testing.T) {
	s := s3.Start(t, s3.Versity)
	s.Setenv(t)
	p := s3.Toxic(t, s.Endpoint)
	st := open(t, s3store.Options{Bucket: s.NewBucket(t), Endpoint: p.Endpoint})
	body := noise(1 << 20)
	put(t, st, "name", body)
	get := func() error {
		o, err := st.Get(t.Context(), "name", store.MaxObject)
		if err == nil && !bytes.Equal(o.Body, body) {
			t.Fatal("another body")
		}
		return err
	}
	for name, c := range map[string]struct {
		bad  func()
		want error
	}{
		"cut":                   {p.Cut, store.ErrUnavailable},
		"reset":                 {p.Reset, store.ErrUnavailable},
		"cut within the header": {func() { p.LimitData(20) }, store.ErrUnavailable},
		"cut within the body":   {func() { p.LimitData(100_000) }, store.ErrUnavailable},
		"slow":                  {func() { p.Latency(300 * time.Millisecond) }, nil},
		"narrow":                {func() { p.Bandwidth(2000) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c.bad()
			if err := get(); !errors.Is(err, c.want) {
				t.Errorf("get: %v; want %v", err, c.want)
			}
			_, err := st.Put(t.Context(), "name", body, store.Condition{})
			if name != "cut within the body" && !errors.Is(err, c.want) { // it is the answer's
				t.Errorf("put: %v; want %v", err, c.want)
			}
			p.Heal()
			if err := get(); err != nil {
				t.Errorf("healed: %v", err)
			}
			put(t, st, "name", body)
		})
	}
	t.Run("hang", func(t *testing.T) {
		p.Hang()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := st.Get(ctx, "name", 1<<20); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		p.Heal()
		if err := get(); err != nil {
			t.Errorf("healed: %v", err)
		}
	})
}

// A store that hangs, or dies in the middle of things, costs 32 callers one time-out
// together, and is used again when it is back.
func TestGuardedStoreDies(t *testing.T) {
	for name, c := range map[string]struct {
		bad      func(p *s3.Proxy)
		timeouts bool // several at most in the one instant
	}{
		"hang":      {(*s3.Proxy).Hang, true},
		"cut":       {(*s3.Proxy).Cut, false},
		"reset":     {(*s3.Proxy).Reset, false},
		"very slow": {func(p *s3.Proxy) { p.Latency(time.Hour) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := s3.Start(t, s3.Versity)
			s.Setenv(t)
			p := s3.Toxic(t, s.Endpoint)
			inner := open(t, s3store.Options{Bucket: s.NewBucket(t), Endpoint: p.Endpoint})
			put(t, inner, "name", []byte("body"))
			g := store.Guard(inner, store.GuardOptions{Read: 10 * time.Second, Write: 20 * time.Second, FirstProbe: 100 * time.Millisecond, LastProbe: time.Second})
			defer g.Close()
			if _, err := g.Get(t.Context(), "name", 10); err != nil {
				t.Fatal(err)
			}
			var reads atomic.Int64
			stop := make(chan struct{})
			var all sync.WaitGroup
			var begun sync.WaitGroup
			for range 32 {
				begun.Add(1)
				all.Go(func() {
					once := sync.OnceFunc(begun.Done)
					for {
						_, err := g.Get(t.Context(), "name", 10)
						if err != nil && !errors.Is(err, store.ErrUnavailable) {
							t.Error(err)
						}
						if reads.Add(1); err == nil {
							once()
						}
						select {
						case <-stop:
							return
						default:
							time.Sleep(time.Millisecond)
						}
					}
				})
			}
			begun.Wait()
			c.bad(p)
			deadline := time.Now().Add(2 * time.Minute)
			for !g.State().Away && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond)
			}
			before := g.State()
			if !before.Away || (before.Timeouts > 0) != c.timeouts {
				t.Errorf("%+v", before.Counts)
			}
			// Nobody waits any more: there are reads, and none is made.
			for n := reads.Load(); reads.Load() < n+1000 && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			after := g.State()
			if after.Calls != before.Calls || after.Refused < before.Refused+900 {
				t.Errorf("%+v, then %+v", before.Counts, after.Counts)
			}
			p.Heal()
			for g.State().Away && time.Now().Before(deadline) {
				time.Sleep(10 * time.Millisecond)
			}
			close(stop)
			all.Wait()
			if _, err := g.Get(t.Context(), "name", 10); err != nil {
				t.Errorf("healed: %v; %v", err, g.State())
			}
		})
	}
}

// A large object over a narrow network takes longer than a read may without progress,
// and is no reason to give the store up.
func TestLargeObjectOverNarrowNetwork(t *testing.T) {
	s := s3.Start(t, s3.Versity)
	s.Setenv(t)
	p := s3.Toxic(t, s.Endpoint)
	st := open(t, s3store.Options{Bucket: s.NewBucket(t), Endpoint: p.Endpoint})
	body := noise(32 << 20)
	put(t, st, "name", body)
	p.Bandwidth(4000)
	const limit = 5 * time.Second
	g := store.Guard(st, store.GuardOptions{Read: limit})
	defer g.Close()
	began := time.Now()
	o, err := g.Get(t.Context(), "name", store.MaxObject)
	if err != nil || !bytes.Equal(o.Body, body) || g.State().Away {
		t.Errorf("%v, %s", err, g.State())
	}
	if took := time.Since(began); took < limit {
		t.Errorf("it took %v, which shows nothing", took)
	}
	p.Heal()
	p.Bandwidth(10)
	if _, err := g.Get(t.Context(), "name", store.MaxObject); !errors.Is(err, store.ErrUnavailable) || !g.State().Away {
		t.Errorf("a trickle: %v, %s", err, g.State())
	}
}

// tamper is a server that changes what it passes on.
func tamper(t *testing.T, s *s3.Server, answer func(res *http.Response) error) string {
	t.Helper()
	to, err := url.Parse(s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
		ModifyResponse: answer,
	}}
	address := listen(t, server)
	return "http://" + address
}

// Bytes that changed on the way, on the server's disk, or by a writer who left the
// checksum are found.
func TestDamageIsFound(t *testing.T) {
	each(t, func(t *testing.T, s *s3.Server) {
		s.Setenv(t)
		bucket := s.NewBucket(t)
		st := open(t, s3store.Options{Bucket: bucket, Endpoint: s.Endpoint})
		body := noise(200_000)
		put(t, st, "name", body)
		flip := tamper(t, s, func(res *http.Response) error {
			if res.Request.Method == http.MethodGet {
				res.Body = &flipped{res.Body, 150_000}
			}
			return nil
		})
		bad := open(t, s3store.Options{Bucket: bucket, Endpoint: flip})
		if _, err := bad.Get(t.Context(), "name", 1<<20); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("a byte that a proxy changed: %v", err)
		}
		// Somebody with the keys puts another body with the old sum.
		if err := s.Do(t.Context(), http.MethodPut, "/"+bucket+"/cache/name", map[string]string{"x-amz-meta-sha256": strings.Repeat("0", 64)}, body); err != nil {
			t.Fatal(err)
		}
		if _, err := st.Get(t.Context(), "name", 1<<20); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("a wrong sum: %v", err)
		}
		put(t, st, "name", body)
		if s.Kind == s3.Versity {
			path := filepath.Join(s.Dir, bucket, "cache", "name")
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte("x"), 100_000); err != nil {
				t.Fatal(err)
			}
			f.Close()
			if _, err := st.Get(t.Context(), "name", 1<<20); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("a byte that changed on disk: %v", err)
			}
		}
		put(t, st, "name", body)
		if o, err := st.Get(t.Context(), "name", 1<<20); err != nil || !bytes.Equal(o.Body, body) {
			t.Errorf("put anew: %v", err)
		}
		// Touching an object does not lose its sum.
		if err := st.Touch(t.Context(), "name"); err != nil {
			t.Error(err)
		}
		if _, err := bad.Get(t.Context(), "name", 1<<20); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("touched, and a byte that a proxy changed: %v", err)
		}
	})
}

// Credentials that are wrong, and sessions that are over.
func TestCredentials(t *testing.T) {
	each(t, func(t *testing.T, s *s3.Server) {
		s.Setenv(t)
		bucket := s.NewBucket(t)
		for name, c := range map[string]struct{ key, secret, session, hint string }{
			"wrong secret":  {s.AccessKey, "wrong", "", "AWS_PROFILE"},
			"unknown key":   {"AKIANOBODY", s.SecretKey, "", "AWS_PROFILE"},
			"ended session": {s.AccessKey, s.SecretKey, "ended", ""},
		} {
			if name == "ended session" && s.Kind == s3.Versity {
				continue // it knows no sessions, and ignores the token
			}
			t.Setenv("AWS_ACCESS_KEY_ID", c.key)
			t.Setenv("AWS_SECRET_ACCESS_KEY", c.secret)
			t.Setenv("AWS_SESSION_TOKEN", c.session)
			st := open(t, s3store.Options{Bucket: bucket, Endpoint: s.Endpoint})
			_, err := st.Get(t.Context(), "name", 1)
			if !errors.Is(err, store.ErrDenied) || !strings.Contains(err.Error(), c.hint) {
				t.Errorf("%s: %v", name, err)
			}
			_, err = st.Put(t.Context(), "name", nil, store.Condition{Absent: true})
			if !errors.Is(err, store.ErrDenied) {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := st.Check(t.Context()); !errors.Is(err, store.ErrDenied) {
				t.Errorf("%s: %v", name, err)
			}
			t.Log(err)
		}
		s.Setenv(t)
		st := open(t, s3store.Options{Bucket: "no-such-bucket", Endpoint: s.Endpoint})
		if _, err := st.Get(t.Context(), "name", 1); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "create the bucket") {
			t.Errorf("no bucket: %v", err)
		}
		made := open(t, s3store.Options{Bucket: "made-by-hpcc", Endpoint: s.Endpoint, AutoCreate: true})
		put(t, made, "name", nil)
	})
}

// A client whose clock is an hour off. The server's time is in its answers, by which
// the client corrects itself; a proxy that falsifies them makes it as wrong as a clock
// does that nothing corrects.
func TestClockSkew(t *testing.T) {
	each(t, func(t *testing.T, s *s3.Server) {
		s.Setenv(t)
		bucket := s.NewBucket(t)
		var lies atomic.Bool
		endpoint := tamper(t, s, func(res *http.Response) error {
			if lies.Load() {
				res.Header.Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
			}
			return nil
		})
		st := open(t, s3store.Options{Bucket: bucket, Endpoint: endpoint})
		h, err := st.Check(t.Context())
		if err != nil || h.Skew.Abs() > 20*time.Second || !h.Writable || h.Endpoint != endpoint || h.Credentials == "" {
			t.Fatalf("%+v, %v", h, err)
		}
		lies.Store(true)
		if h, err := st.Check(t.Context()); err == nil || h.Skew > -50*time.Minute {
			t.Errorf("%+v, %v", h, err)
		}
		// It signs by the wrong time now.
		_, err = st.Get(t.Context(), "name", 1)
		if !errors.Is(err, store.ErrDenied) || !strings.Contains(err.Error(), "clock") {
			t.Errorf("skewed: %v", err)
		}
		t.Log(err)
		lies.Store(false)
		for range 3 {
			if _, err = st.Get(t.Context(), "name", 1); errors.Is(err, store.ErrNotFound) {
				break
			}
		}
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("corrected: %v", err)
		}
	})
}

// The largest object there may be is not read past a smaller limit, and one that is
// larger not at all. The file is sparse.
func TestGigabyte(t *testing.T) {
	s := s3.Start(t, s3.Versity)
	s.Setenv(t)
	bucket := s.NewBucket(t)
	var sent atomic.Int64
	endpoint := tamper(t, s, func(res *http.Response) error {
		res.Body = &counted{res.Body, &sent}
		return nil
	})
	st := open(t, s3store.Options{Bucket: bucket, Endpoint: endpoint})
	put(t, st, "name", []byte("x"))
	path := filepath.Join(s.Dir, bucket, "cache", "name")
	for size, limit := range map[int64]int64{store.MaxObject + 1: 1 << 40, store.MaxObject: store.MaxObject - 1} {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		if i, err := st.Stat(t.Context(), "name"); err != nil || i.Size != size {
			t.Errorf("%+v, %v", i, err)
		}
		sent.Store(0)
		if _, err := st.Get(t.Context(), "name", limit); !errors.Is(err, store.ErrTooLarge) {
			t.Error(err)
		}
		if n := sent.Load(); n > 32<<20 {
			t.Errorf("%d bytes were sent of an object that is too large", n)
		}
	}
	if _, err := st.Put(t.Context(), "name", make([]byte, store.MaxObject+1), store.Condition{}); !errors.Is(err, store.ErrTooLarge) {
		t.Error(err)
	}
}
