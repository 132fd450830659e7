package worker

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

func TestCompileQuota(t *testing.T) {
	q := &quotas{Quotas: Quotas{Compiles: 2}}
	first, err := q.begin("acme")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.begin("acme"); err != nil {
		t.Fatal(err)
	}
	var over *QuotaError
	if _, err := q.begin("acme"); !errors.As(err, &over) || over.Quota != "tenant_compiles" || over.RetryAfter <= 0 {
		t.Errorf("%v", err)
	}
	if _, err := q.begin("zeta"); err != nil {
		t.Errorf("another tenant: %v", err)
	}
	first()
	if _, err := q.begin("acme"); err != nil {
		t.Errorf("after an end: %v", err)
	}
}

const mebibyte = 1 << 20

// TestUploadQuota: a tenant has a burst, then waits for its turn, then is sent away
// with the time to come again; others do not notice.
func TestUploadQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &quotas{Quotas: Quotas{UploadRate: mebibyte}}
		began := time.Now()
		upload := func(tenant string, n int64) (*meter, error) {
			t.Helper()
			m, err := q.upload(t.Context(), tenant, n)
			return m, err
		}
		after := func(want time.Duration) {
			t.Helper()
			if got := time.Since(began).Round(time.Millisecond); got != want {
				t.Errorf("after %v, want %v", got, want)
			}
		}
		for range 2 {
			if _, err := upload("acme", 5*mebibyte); err != nil {
				t.Fatal(err)
			}
		}
		after(0)
		if _, err := upload("acme", 0); err != nil {
			t.Errorf("nothing is free: %v", err)
		}
		if _, err := upload("acme", 4*mebibyte); err != nil {
			t.Fatal(err)
		}
		after(4 * time.Second)
		var over *QuotaError
		if _, err := upload("acme", 7*mebibyte); !errors.As(err, &over) || over.Quota != "tenant_upload_rate" || over.RetryAfter.Round(time.Millisecond) != 7*time.Second {
			t.Errorf("%v, %+v", err, over)
		}
		if _, err := upload("zeta", 10*mebibyte); err != nil {
			t.Errorf("another tenant: %v", err)
		}
		after(4 * time.Second)
		// What was refused was not counted.
		time.Sleep(over.RetryAfter)
		if _, err := upload("acme", 7*mebibyte); err != nil {
			t.Error(err)
		}
		after(11 * time.Second)

		// More than a burst goes on at the rate, as it comes.
		time.Sleep(time.Minute)
		began = time.Now()
		m, err := upload("acme", 12*mebibyte)
		if err != nil {
			t.Fatal(err)
		}
		for range 12 * mebibyte / workerv1.ChunkSize {
			if err := m.take(t.Context(), workerv1.ChunkSize); err != nil {
				t.Fatal(err)
			}
		}
		after(2 * time.Second)

		// Who goes does not wait.
		gone, cancel := context.WithCancelCause(t.Context())
		cancel(errEnded)
		if _, err := q.upload(gone, "acme", 4*mebibyte); !errors.Is(err, errEnded) {
			t.Error(err)
		}
		after(2 * time.Second)
	})
}

func TestNoUploadQuota(t *testing.T) {
	q := &quotas{}
	m, err := q.upload(t.Context(), "acme", 1<<60)
	if err == nil {
		err = m.take(t.Context(), workerv1.ChunkSize)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestQuotasOverTheWire: who is sent away is told which quota it was and when to
// come again, and holds nothing.
func TestQuotasOverTheWire(t *testing.T) {
	refused := func(t *testing.T, err error, quota string) {
		t.Helper()
		s := status.Convert(err)
		if s.Code() != codes.ResourceExhausted || !strings.Contains(s.Message(), "limits."+quota) || len(s.Details()) != 1 {
			t.Fatalf("%v", err)
		}
		if d := s.Details()[0].(*errdetails.RetryInfo).GetRetryDelay().AsDuration(); d <= 0 || d > time.Minute {
			t.Errorf("come again after %v", d)
		}
	}
	t.Run("compiles", func(t *testing.T) {
		r := newRig(t, func(o *Options) { o.Quotas.Compiles = 1 })
		held := r.client(t, "acme").open()
		held.job(newJob(program))
		held.needed()
		k := r.client(t, "acme").open()
		k.job(newJob(program))
		refused(t, k.failure(), "tenant_compiles")
		r.client(t, "zeta").compile(program)
		held.cancel()
		r.nothingHeld(t)
		r.client(t, "acme").compile(program)
	})
	t.Run("uploads", func(t *testing.T) {
		r := newRig(t, func(o *Options) { o.Quotas.UploadRate = mebibyte })
		big := func(c string) map[string]string {
			return map[string]string{"a.c": "/hpcc/src/b.h\n", "b.h": strings.Repeat(c, 12*mebibyte)}
		}
		first, second := newJob(big("a")), newJob(big("b"))
		held, c := r.client(t, "acme").open(), r.client(t, "acme")
		held.job(first)
		held.needed()
		// One that comes when half of the burst is there again, since the machine
		// was busy for seconds, is let in and takes it.
		for {
			k := c.open()
			k.job(second)
			if m, err := k.Recv(); err != nil {
				refused(t, err, "tenant_upload_rate")
				break
			} else if m.GetNeeded() == nil {
				t.Fatalf("%v", m)
			}
		}
		r.client(t, "zeta").compile(program)
		held.cancel()
		r.nothingHeld(t)
	})
}

func TestQuotaOptions(t *testing.T) {
	for _, rate := range []int64{-1, 1, 1 << 41} {
		opt := newRig(t, nil).opt
		opt.Quotas.UploadRate, opt.Dir = rate, t.TempDir()
		if _, err := New(opt); err == nil {
			t.Errorf("a rate of %d", rate)
		}
	}
}
