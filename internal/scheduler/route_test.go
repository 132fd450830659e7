package scheduler

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	imageA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	imageB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	amd64  = "linux/amd64"
)

// worker makes a candidate from words: "image", "warm", "other-warm" (another
// tenant's session), "other-image", "draining", "silent", "arm", "run=N",
// "queue=N", "promised=N"; its capacity is 4 or "cap=N".
func worker(t testing.TB, name, words string) Candidate {
	t.Helper()
	c := Candidate{
		Name: name, Platform: amd64, Load: Load{Capacity: 4},
		Images: map[string]struct{}{}, Sessions: map[Session]struct{}{},
	}
	for w := range strings.FieldsSeq(words) {
		var n int
		key, value, _ := strings.Cut(w, "=")
		if value != "" {
			if _, err := fmt.Sscan(value, &n); err != nil {
				t.Fatal(err)
			}
		}
		switch key {
		case "image":
			c.Images[imageA] = struct{}{}
		case "other-image":
			c.Images[imageB] = struct{}{}
		case "warm":
			c.Images[imageA] = struct{}{}
			c.Sessions[Session{"red", imageA}] = struct{}{}
		case "other-warm":
			c.Images[imageA] = struct{}{}
			c.Sessions[Session{"blue", imageA}] = struct{}{}
			c.Sessions[Session{"red", imageB}] = struct{}{}
		case "draining":
			c.Draining = true
		case "silent":
			c.Age = time.Minute
		case "arm":
			c.Platform = "linux/arm64"
		case "cap":
			c.Load.Capacity = n
		case "run":
			c.Load.Running = n
		case "queue":
			c.Load.Queued = n
		case "promised":
			c.Load.Promised = n
		default:
			t.Fatalf("%q", w)
		}
	}
	return c
}

func TestRoute(t *testing.T) {
	tests := []struct {
		name    string
		workers string // name: words; …
		avoid   string
		any     bool // no platform
		want    string
	}{
		{"warm before image before bare", "a:; b: image; c: warm", "", false, "c b a"},
		{"another tenant's session is only an image", "a: other-warm run=1; b: image; c: warm run=2", "", false, "c b a"},
		{"warm though loaded", "a: image; b: warm run=3", "", false, "b a"},
		{"no slot free: a free machine boots sooner", "a: image; b: warm run=4", "", false, "a b"},
		{"a line is shorter than a fetch", "a:; b: warm run=4 queue=3; c: image run=7", "", false, "b c a"},
		{"full ones are out", "a:; b: warm run=4 queue=4", "", false, "a"},
		{"load", "a: image run=3; b: image run=1; c: image run=2", "", false, "b c a"},
		{"load is relative", "a: image run=2; b: image run=3 cap=32", "", false, "b a"},
		{"queued counts", "a: image run=1; b: image run=1 queue=1", "", false, "a b"},
		{"promises count", "a: image promised=3; b: image run=1", "", false, "b a"},
		{"promises fill nobody", "a: image promised=99", "", false, "a"},
		{"promises keep no slot", "a: warm promised=99; b: image", "", false, "a b"},
		{"draining", "a: warm draining; b:", "", false, "b"},
		{"silent", "a: warm silent; b:", "", false, "b"},
		{"platform", "a: warm arm; b:", "", false, "b"},
		{"avoided", "a: warm; b:", "a", false, "b"},
		{"nobody else", "a: warm; b: draining; c: silent", "a", false, "a"},
		{"several avoided", "a:; b: image", "a b", false, "b a"},
		{"avoid a stranger", "a:", "z", false, "a"},
		{"any platform", "a: image arm; b:; c: other-image", "", true, "a"},

		{"nobody", "", "", false, "none: no worker has registered"},
		{"only others' platforms", "a: arm", "", false, "none: no worker is for linux/amd64"},
		{"nobody has it", "a:", "", true, "none: no worker has the image: name a platform, and one that has not will fetch it"},
		{"all silent", "a: silent; b: silent draining", "", false, "none: no worker has been heard of lately"},
		{"all draining", "a: draining; b: silent", "", false, "none: all workers are draining"},
		{"all full", "a: run=8; b: warm queue=8", "", false, "full: 2"},
		{"the others are full", "a: warm; b: run=8", "a", false, "full: 1"},
		{"only an avoided one, and full", "a: run=8", "a", false, "full: 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var workers []Candidate
			for w := range strings.SplitSeq(tt.workers, ";") {
				if name, words, ok := strings.Cut(strings.TrimSpace(w), ":"); ok {
					workers = append(workers, worker(t, name, words))
				}
			}
			q := &Query{Tenant: "red", Image: imageA, Platform: amd64, Avoid: strings.Fields(tt.avoid), Expiry: 20 * time.Second}
			if tt.any {
				q.Platform = ""
			}
			for range 2 {
				if got := outcome(workers, q); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				slices.Reverse(workers)
			}
		})
	}
}

// outcome is what Route says, as text.
func outcome(workers []Candidate, q *Query) string {
	order, err := Route(workers, q)
	var full *OverloadError
	var none *NoWorkerError
	switch {
	case errors.As(err, &full):
		return fmt.Sprintf("full: %d", full.Full)
	case errors.As(err, &none):
		return "none: " + none.Reason
	case err != nil:
		return err.Error()
	}
	names := make([]string, len(order))
	for n, i := range order {
		names[n] = workers[i].Name
	}
	return strings.Join(names, " ")
}

// Equal workers share tenants and images out among them by their capacity, and
// each pair always goes to the same.
func TestSpread(t *testing.T) {
	workers := []Candidate{worker(t, "a", "image"), worker(t, "b", "image"), worker(t, "c", "image cap=8")}
	first := func(workers []Candidate, tenant string) string {
		order, err := Route(workers, &Query{Tenant: tenant, Image: imageA, Platform: amd64})
		if err != nil {
			t.Fatal(err)
		}
		return workers[order[0]].Name
	}
	const n = 4000
	got := map[string]int{}
	moved := 0
	for i := range n {
		tenant := fmt.Sprint("tenant-", i)
		was := first(workers, tenant)
		got[was]++
		if now := first(workers[1:], tenant); was != "a" && now != was {
			moved++
		}
	}
	// Five standard deviations of a binomial distribution are 137 of 1000.
	for name, want := range map[string]int{"a": n / 4, "b": n / 4, "c": n / 2} {
		if d := got[name] - want; d < -160 || d > 160 {
			t.Errorf("%s has %d of %d, want about %d", name, got[name], n, want)
		}
	}
	if moved > 0 {
		t.Errorf("%d tenants of other workers moved when one went", moved)
	}
}

func genCandidates() *rapid.Generator[[]Candidate] {
	return rapid.Custom(func(rt *rapid.T) []Candidate {
		n := rapid.IntRange(0, 12).Draw(rt, "workers")
		workers := make([]Candidate, n)
		for i := range workers {
			c := &workers[i]
			*c = Candidate{
				Name:     fmt.Sprint("w", i),
				Platform: rapid.SampledFrom([]string{amd64, amd64, "linux/arm64"}).Draw(rt, "platform"),
				Load: Load{
					Capacity: rapid.IntRange(1, 64).Draw(rt, "capacity"),
					Running:  rapid.IntRange(0, 64).Draw(rt, "running"),
					Queued:   rapid.IntRange(0, 64).Draw(rt, "queued"),
					Promised: rapid.IntRange(0, 64).Draw(rt, "promised"),
				},
				Age:      time.Duration(rapid.IntRange(0, 25).Draw(rt, "age")) * time.Second,
				Draining: rapid.IntRange(0, 4).Draw(rt, "draining") == 0,
				Images:   map[string]struct{}{},
				Sessions: map[Session]struct{}{},
			}
			if rapid.Bool().Draw(rt, "image") {
				c.Images[imageA] = struct{}{}
				if rapid.Bool().Draw(rt, "warm") {
					c.Sessions[Session{"red", imageA}] = struct{}{}
				}
			}
		}
		return workers
	})
}

// TestRouteProperties holds Route against its contract, said a second time and
// differently.
func TestRouteProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		workers := genCandidates().Draw(rt, "candidates")
		q := &Query{
			Tenant: "red", Image: imageA, Expiry: 20 * time.Second,
			Platform: rapid.SampledFrom([]string{amd64, "linux/arm64", ""}).Draw(rt, "asked"),
			Avoid:    rapid.SliceOfN(rapid.SampledFrom([]string{"w0", "w1", "w2", "w3", "w99"}), 0, 4).Draw(rt, "avoid"),
		}
		may := func(c *Candidate) bool {
			_, has := c.Images[imageA]
			return !c.Draining && c.Age <= q.Expiry && (c.Platform == q.Platform || q.Platform == "" && has)
		}
		avoided := func(c *Candidate) bool { return slices.Contains(q.Avoid, c.Name) }
		full := func(c *Candidate) bool { return c.Load.Running+c.Load.Queued >= 2*c.Load.Capacity }
		var good, all []int
		for i := range workers {
			if may(&workers[i]) {
				all = append(all, i)
				if !avoided(&workers[i]) {
					good = append(good, i)
				}
			}
		}
		if len(good) == 0 {
			good = all
		}
		want := slices.DeleteFunc(slices.Clone(good), func(i int) bool { return full(&workers[i]) })

		order, err := Route(workers, q)
		var over *OverloadError
		var none *NoWorkerError
		switch {
		case len(all) == 0:
			if !errors.As(err, &none) || none.Reason == "" {
				rt.Fatalf("nobody may, and Route says %v, %v", order, err)
			}
			return
		case len(want) == 0:
			if !errors.As(err, &over) || over.Full != len(good) {
				rt.Fatalf("%d are full, and Route says %v, %v", len(good), order, err)
			}
			return
		case err != nil:
			rt.Fatalf("want some of %v: %v", want, err)
		}
		if got := slices.Sorted(slices.Values(order)); !slices.Equal(got, want) {
			rt.Fatalf("got %v, want in some order %v", got, want)
		}
		// No worker stands before one that is at least as good in every
		// respect and better in one.
		type merits struct{ free, warm, image, level int }
		of := func(c *Candidate) (m merits) {
			if c.Load.Running+c.Load.Queued < c.Load.Capacity {
				m.free = 1
			}
			m.warm = len(c.Sessions)
			m.image = len(c.Images)
			m.level = -(4 * (c.Load.Running + c.Load.Queued + c.Load.Promised) / c.Load.Capacity)
			return m
		}
		for n := 1; n < len(order); n++ {
			a, b := of(&workers[order[n-1]]), of(&workers[order[n]])
			if b != a && b.free >= a.free && b.warm >= a.warm && b.image >= a.image && b.level >= a.level {
				rt.Fatalf("%s stands before %s: %+v, %+v", workers[order[n-1]].Name, workers[order[n]].Name, a, b)
			}
		}
		// The order of what is known changes nothing.
		shuffled := slices.Clone(workers)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if a, b := outcome(workers, q), outcome(shuffled, q); a != b {
			rt.Fatalf("%q in one order, %q in another", a, b)
		}
	})
}

// BenchmarkRoute is what one question costs among a thousand workers.
func BenchmarkRoute(b *testing.B) {
	workers := make([]Candidate, 1000)
	for i := range workers {
		workers[i] = worker(b, fmt.Sprint("w", i), fmt.Sprintf("image run=%d", i%4))
	}
	q := &Query{Tenant: "red", Image: imageA, Platform: amd64}
	for b.Loop() {
		if _, err := Route(workers, q); err != nil {
			b.Fatal(err)
		}
	}
}
