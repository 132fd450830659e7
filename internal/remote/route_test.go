package remote

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
)

// testRouter is a router with a scheduler of the test's, in a bubble's time.
func testRouter(t *testing.T, fetch func(ctx context.Context, avoid []string) (*route, error)) *router {
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	return newRouter(time.Now, func(ctx context.Context, _ string, avoid []string) (*route, error) { return fetch(ctx, avoid) },
		func(f func(context.Context)) bool {
			running.Go(func() { f(context.Background()) })
			return true
		})
}

func lasting(d time.Duration) *route {
	return &route{refresh: time.Now().Add(d * 2 / 3), expires: time.Now().Add(d)}
}

// TestRefresh: a route is exchanged behind the builds' back before it expires,
// by one question however many compiles there are.
func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		questions := 0
		r := testRouter(t, func(context.Context, []string) (*route, error) {
			questions++
			time.Sleep(time.Second)
			return lasting(time.Minute), nil
		})
		begun := time.Now()
		get := func() *route {
			t.Helper()
			got, err := r.get(t.Context(), image)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		first := get()
		if questions != 1 || time.Since(begun) != time.Second {
			t.Errorf("%d questions in %v", questions, time.Since(begun))
		}
		time.Sleep(45 * time.Second)
		at := time.Now()
		for range 50 {
			if got := get(); got != first {
				t.Error("another route before there is one")
			}
		}
		if time.Since(at) > 0 {
			t.Errorf("the builds waited for %v", time.Since(at))
		}
		time.Sleep(2 * time.Second)
		if got := get(); got == first || questions != 2 {
			t.Errorf("%d questions", questions)
		}
		// After it has expired, there is nothing to give meanwhile.
		time.Sleep(time.Hour)
		at = time.Now()
		var waiting sync.WaitGroup
		for range 50 {
			waiting.Go(func() { get() })
		}
		waiting.Wait()
		if questions != 3 || time.Since(at) != time.Second {
			t.Errorf("%d questions in %v", questions, time.Since(at))
		}
	})
}

// TestFailedRefresh leaves what is there, and asks in its time.
func TestFailedRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down error
		questions := 0
		r := testRouter(t, func(context.Context, []string) (*route, error) {
			questions++
			if down != nil {
				return nil, down
			}
			return lasting(time.Hour), nil
		})
		first, err := r.get(t.Context(), image)
		if err != nil {
			t.Fatal(err)
		}
		down = &schedulerDown{silentPause, errors.New("silence")}
		time.Sleep(50 * time.Minute)
		for range 9 * 60 {
			if got, err := r.get(t.Context(), image); got != first || err != nil {
				t.Fatalf("%v, %v", got, err)
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if questions < 9 || questions > 11 {
			t.Errorf("%d questions in nine minutes", questions)
		}
		time.Sleep(time.Hour)
		var away *UnavailableError
		if _, err := r.get(t.Context(), image); !errors.As(err, &away) || time.Until(away.Retry) != silentPause {
			t.Error(err)
		}
		// One image's question is for all: nobody else waits for a dead scheduler.
		before := questions
		if _, err := r.get(t.Context(), "another image"); !errors.As(err, &away) || questions != before {
			t.Error(err)
		}
		down = nil
		time.Sleep(silentPause)
		if _, err := r.get(t.Context(), image); err != nil {
			t.Error(err)
		}
	})
}

// TestNewer asks once in a while.
func TestNewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		questions := 0
		r := testRouter(t, func(_ context.Context, avoid []string) (*route, error) {
			if questions++; questions > 1 && (len(avoid) != 1 || avoid[0] != "dead") {
				t.Errorf("avoid %q", avoid)
			}
			return lasting(time.Hour), nil
		})
		old, err := r.get(t.Context(), image)
		if err != nil {
			t.Fatal(err)
		}
		newer, err := r.newer(t.Context(), image, old, []string{"dead"})
		if err != nil || newer == old {
			t.Fatal(err)
		}
		if again, err := r.newer(t.Context(), image, old, []string{"dead"}); again != newer || err != nil || questions != 2 {
			t.Errorf("%v, %d questions", err, questions)
		}
		if _, err := r.newer(t.Context(), image, newer, []string{"dead"}); !errors.Is(err, errTooSoon) {
			t.Error(err)
		}
		time.Sleep(newerPause)
		if _, err := r.newer(t.Context(), image, newer, []string{"dead"}); err != nil || questions != 3 {
			t.Errorf("%v, %d questions", err, questions)
		}
	})
}

// TestWaitEnds with the caller's context; the question goes on for others.
func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testRouter(t, func(context.Context, []string) (*route, error) {
			time.Sleep(time.Minute)
			return lasting(time.Hour), nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.get(ctx, image); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, err := r.get(t.Context(), image); err != nil {
			t.Error(err)
		}
	})
}

// TestManyImages forgets routes, not questions.
func TestManyImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testRouter(t, func(context.Context, []string) (*route, error) { return lasting(time.Hour), nil })
		for i := range 1000 {
			if _, err := r.get(t.Context(), string(rune('a'+i))); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(r.images); n > 64 {
			t.Errorf("%d images", n)
		}
	})
}

func TestHealth(t *testing.T) {
	now := time.Unix(1000, 0)
	h := newHealth(func() time.Time { return now })
	r := &route{workers: []*assignment{{worker: "a"}, {worker: "b"}}}
	blocked := func() time.Duration {
		rec := h.all["a"]
		if rec == nil || !rec.until.After(now) {
			return 0
		}
		return rec.until.Sub(now)
	}
	why := errors.New("why")
	pass := func(d time.Duration) { now = now.Add(d) }

	// Each lie costs twice the one before, and right answers do not help.
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		for range 64 {
			h.lied("a", why)
		}
		h.ok("a")
		if got := blocked(); got != want*time.Minute {
			t.Errorf("a lie costs %v, want %v min", got, int64(want))
		}
		if a := h.choose(r, nil); a.worker != "b" {
			t.Errorf("chose %s", a.worker)
		} else {
			h.done(a)
		}
		pass(blocked())
	}
	if a := h.choose(r, nil); a.worker != "a" {
		t.Errorf("chose %s", a.worker)
	} else {
		h.done(a)
	}
	if a := h.choose(r, map[string]bool{"a": true, "b": true}); a != nil {
		t.Errorf("chose %s", a.worker)
	}

	// Failures in a row, of which many at once are one.
	h = newHealth(h.now)
	for _, want := range []time.Duration{5, 10, 20, 40, 60, 60} {
		for range 64 {
			h.failed("a", &failure{kind: unreachable, err: why})
		}
		if got := blocked(); got != want*time.Second {
			t.Errorf("a failure costs %v, want %v s", got, int64(want))
		}
		pass(blocked())
	}
	h.ok("a")
	h.failed("a", &failure{kind: lost, err: why})
	if got := blocked(); got != lostFirst {
		t.Errorf("after a success: %v", got)
	}
	pass(time.Hour)

	// A worker's own errors may be one job's.
	h = newHealth(h.now)
	for i := range 4 {
		h.failed("a", &failure{kind: broke, err: why})
		if got := blocked(); (got > 0) != (i >= forgiven) {
			t.Errorf("error %d: %v", i, got)
		}
		pass(blocked())
	}

	// What a worker says of itself is believed within bounds.
	h = newHealth(h.now)
	for _, c := range [][2]time.Duration{{-time.Hour, fullLeast}, {0, fullLeast}, {time.Second, time.Second}, {1000 * time.Hour, fullMost}} {
		h.failed("a", &failure{kind: full, delay: c[0], err: why})
		if got := blocked(); got != c[1] {
			t.Errorf("full for %v: %v", c[0], got)
		}
		pass(blocked())
	}

	if len(h.running) > 0 {
		t.Errorf("calls are left: %v", h.running)
	}

	// Names are a scheduler's: there may be many.
	for i := range 3 * maxRecords {
		h.lied(string(rune(i)), why)
	}
	if len(h.all) > maxRecords || len(h.avoid([]string{"x"})) != schedulerv1.MaxAvoid {
		t.Errorf("%d records", len(h.all))
	}
}
