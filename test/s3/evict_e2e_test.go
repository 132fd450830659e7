//go:build e2e && linux

package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/store/s3store"
	"hpcc.dev/hpcc/internal/store/storetest"
	"hpcc.dev/hpcc/test/s3"
)

// judge sees what all clients of a bucket put and remove.
type judge struct {
	t     *testing.T
	grace time.Duration

	mu       sync.Mutex
	begun    map[string]time.Time // when its last put or touch began, and
	put      map[string]time.Time // when that was done: the server's time is between them
	looked   map[string]time.Time // when an evictor last looked at it
	removing string               // the client that removes at present
	removed  int
	// used were put or touched between an evictor's look and their removal, which
	// nothing can rule out: S3 removes on no condition that tells of a use.
	used int
}

// judged is one client's way to the bucket.
type judged struct {
	store.Store
	*judge
	name string
}

func (j *judged) fresh(name string, began time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if began.After(j.begun[name]) {
		j.begun[name] = began
	}
	j.put[name] = time.Now()
}

func (j *judged) Put(ctx context.Context, name string, body []byte, when store.Condition) (store.Version, error) {
	began := time.Now()
	v, err := j.Store.Put(ctx, name, body, when)
	if err == nil {
		j.fresh(name, began)
	}
	return v, err
}

// Stat is an evictor's look.
func (j *judged) Stat(ctx context.Context, name string) (store.Info, error) {
	j.mu.Lock()
	j.looked[name] = time.Now()
	j.mu.Unlock()
	return j.Store.Stat(ctx, name)
}

func (j *judged) Touch(ctx context.Context, name string) error {
	began := time.Now()
	err := j.Store.Touch(ctx, name)
	if err == nil {
		j.fresh(name, began)
	}
	return err
}

// DeleteMany is how evictors remove.
func (j *judged) DeleteMany(ctx context.Context, names []string) error {
	j.mu.Lock()
	if j.removing != "" {
		j.t.Errorf("%s and %s remove at the same time", j.removing, j.name)
	}
	j.removing = j.name
	for _, name := range names {
		_, _, _, ours := shared.ParseName(name)
		// The server's times are in whole seconds.
		switch age := time.Since(j.begun[name]); {
		case !ours:
			j.t.Errorf("%s removes %s", j.name, name)
		case age >= j.grace-time.Second:
		case j.put[name].After(j.looked[name]):
			j.used++
		default:
			j.t.Errorf("%s removes %s, put or touched %s ago", j.name, name, age)
		}
	}
	j.removed += len(names)
	j.mu.Unlock()
	err := store.DeleteMany(ctx, j.Store, names)
	j.mu.Lock()
	j.removing = ""
	j.mu.Unlock()
	return err
}

// TestEviction has 20 clients write, use and evict at once: none removes what is
// fresh, nor what is not hpcc's, and in the end the tier is below its size.
func TestEviction(t *testing.T) {
	each(t, func(t *testing.T, s *s3.Server) {
		s.Setenv(t)
		const (
			clients  = 20
			maxBytes = 3_000_000
			size     = 20_000
			writes   = 40
			grace    = 3 * time.Second
		)
		bucket := s.NewBucket(t)
		opt := s3store.Options{Bucket: bucket, Endpoint: s.Endpoint, PageSize: 50}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		plain := open(t, opt)
		foreign := []string{"t/notes.txt", "t/result/ab/" + strings.Repeat("a", 64), "t/result/readme", "t2/result/ab/" + strings.Repeat("ab", 32)}
		for _, name := range foreign {
			put(t, plain, name, noise(size))
		}
		j := &judge{t: t, grace: grace, begun: map[string]time.Time{}, put: map[string]time.Time{}, looked: map[string]time.Time{}}
		var all sync.WaitGroup
		evictors := make([]*shared.Evictor, clients)
		key := func(client, n int) string {
			return shared.ResultName("t", digest.NewKey("e").Field("n", fmt.Sprint(client, " ", n)).Sum())
		}
		for i := range clients {
			c := &judged{Store: open(t, opt), judge: j, name: fmt.Sprint("client ", i)}
			e, err := shared.NewEvictor(shared.EvictorOptions{Store: c, Tenant: "t", MaxBytes: maxBytes, Grace: grace, Lease: 20 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			evictors[i] = e
			all.Go(func() {
				for n := range writes {
					if _, err := c.Put(ctx, key(i, n), noise(size), store.Condition{}); err != nil {
						t.Errorf("put: %v", err)
						return
					}
					e.Wrote(size)
					if n%4 == 3 {
						if err := c.Touch(ctx, key(i, n/2)); err != nil && !errors.Is(err, store.ErrNotFound) {
							t.Errorf("touch: %v", err)
						}
					}
					// It takes eight times the grace period, so that there is something to evict.
					select {
					case <-ctx.Done():
					case <-time.After(8 * grace / writes):
					}
				}
			})
		}
		all.Wait()
		var sweeps int64
		for _, e := range evictors {
			if err := e.Close(ctx); err != nil {
				t.Error(err)
			}
			st := e.Stats()
			if sweeps += st.Sweeps; st.Error != "" {
				t.Errorf("%+v", st)
			}
		}
		if sweeps == 0 || j.removed == 0 {
			t.Errorf("%d sweeps removed %d objects while %d were written", sweeps, j.removed, clients*writes)
		}
		// The last of them are no longer fresh.
		time.Sleep(grace + 2*time.Second)
		last, err := shared.NewEvictor(shared.EvictorOptions{Store: &judged{Store: plain, judge: j, name: "last"}, Tenant: "t", MaxBytes: maxBytes, Grace: grace})
		if err != nil {
			t.Fatal(err)
		}
		r, err := last.Sweep(ctx, shared.SweepOptions{})
		if err := errors.Join(err, last.Close(ctx)); err != nil {
			t.Fatal(err)
		}
		m, err := shared.Measure(ctx, plain, "t", nil)
		if err != nil {
			t.Fatal(err)
		}
		var bytes int64
		for _, x := range m.Totals {
			bytes += x.Bytes
		}
		if bytes > maxBytes || bytes != r.Left() || len(m.Estimates) != 1 || m.Estimates[0].Bytes != bytes {
			t.Errorf("%d bytes are left; %+v, %+v", bytes, r, m.Estimates)
		}
		for _, name := range foreign {
			if _, err := plain.Stat(ctx, name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		t.Logf("%d sweeps and a last one removed %d of %d objects, %d of them used just then; %d bytes are left", sweeps, j.removed, clients*writes, j.used, bytes)
	})
}

// TestEncryptedBucket: what is encrypted is a store like the others.
func TestEncryptedBucket(t *testing.T) {
	each(t, func(t *testing.T, s *s3.Server) {
		s.Setenv(t)
		bucket := s.NewBucket(t)
		n := 0
		storetest.Run(t, func(t *testing.T) store.Store {
			n++
			sealed, err := store.Sealed(open(t, s3store.Options{Bucket: bucket, Prefix: fmt.Sprint("test-", n), Endpoint: s.Endpoint, PageSize: 7}),
				bytes.Repeat([]byte{1}, store.SealKeySize))
			if err != nil {
				t.Fatal(err)
			}
			return sealed
		}, storetest.Features{Names: 200, Padded: true})
		// Nothing that was put is in what the bucket tells.
		all := open(t, s3store.Options{Bucket: bucket, Prefix: "test-1", Endpoint: s.Endpoint})
		var names []string
		if err := all.List(t.Context(), "", func(i store.Info) error {
			names = append(names, i.Name)
			return nil
		}); err != nil || len(names) == 0 {
			t.Fatalf("%d names, %v", len(names), err)
		}
		for _, name := range names {
			if !store.IsSealedName(name) {
				t.Errorf("in clear: %s", name)
			}
		}
	})
}
