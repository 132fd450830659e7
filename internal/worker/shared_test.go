package worker

import (
	"context"
	"errors"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/store"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// bucket is a store that counts what is read.
type bucket struct {
	store.Store
	mu    sync.Mutex
	reads []string
	// lie changes what is read, if it is not nil.
	lie func(name string, o store.Object) store.Object
}

func (b *bucket) Get(ctx context.Context, name string, limit int64) (store.Object, error) {
	o, err := b.Store.Get(ctx, name, limit)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads = append(b.reads, strings.Split(name, "/")[1])
	if b.lie != nil && err == nil {
		o = b.lie(name, o)
	}
	return o, err
}

func (b *bucket) asked() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := strings.Join(b.reads, " ")
	b.reads = nil
	return s
}

// sharing is a worker called name that has b in common with others.
func sharing(t *testing.T, b *bucket, name string, all ...string) *rig {
	t.Helper()
	return sharingTiers(t, []shared.Tier{{Name: "near", Store: b, Write: true}}, name, all...)
}

func sharingTiers(t *testing.T, tiers []shared.Tier, name string, all ...string) *rig {
	t.Helper()
	seed := func(name string) []byte { return []byte(strings.Repeat(name, 32)[:32]) }
	var lines []string
	for _, n := range all {
		s, err := shared.NewSigner(seed(n), n)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, s.Line(shared.RoleWorker))
	}
	file := t.TempDir() + "/trust"
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	trust, err := shared.ReadTrust(file, true)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := shared.NewSigner(seed(name), name)
	if err != nil {
		t.Fatal(err)
	}
	return newRig(t, func(o *Options) {
		o.Shared = func(tenant string) (Shared, error) {
			return shared.New(shared.Options{
				Tenant: tenant, Tiers: tiers, Signer: signer, Trust: trust,
			})
		}
	})
}

// written waits until what a worker has for the bucket is there.
func (r *rig) written(t *testing.T) {
	t.Helper()
	r.stores.sharing(func(_ string, s Shared) {
		if err := s.(*shared.Cache).Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestWorkersShare has a second worker answer by what the first one made.
func TestWorkersShare(t *testing.T) {
	b := &bucket{Store: store.NewMemory(1 << 30)}
	first, second := sharing(t, b, "w1", "w1", "w2"), sharing(t, b, "w2", "w1", "w2")
	miss := first.client(t, "acme").compile(program)
	first.written(t)
	b.asked()
	c := second.client(t, "acme")
	for _, asked := range []string{"manifest result", ""} {
		hit := c.compile(program)
		if !hit.GetHit() || hit.outputs["object"] != miss.outputs["object"] || !slices.Equal(hit.GetActionKey(), miss.GetActionKey()) ||
			string(hit.GetStdout()) != "out" || string(hit.GetStderr()) != "warning\n" || hit.GetCompileNanos() != miss.GetCompileNanos() {
			t.Errorf("%v", hit)
		}
		if q := b.asked(); q != asked {
			t.Errorf("asked for %q, want %q", q, asked)
		}
	}
	if runs, _, _ := second.machines.count(); runs != 0 {
		t.Errorf("%d runs", runs)
	}
	rows := second.log.all()
	if len(rows) != 2 {
		t.Fatalf("%d rows", len(rows))
	}
	if a, b := rows[0], rows[1]; a.Cache != audit.Hit || a.Tier != "near" || a.Signer != "w1" || !a.Offered || a.Accepted || len(a.Inputs) != 3 || b.Tier != "" || b.Signer != "" ||
		a.Action != b.Action || a.Outputs[0].Digest != b.Outputs[0].Digest {
		t.Errorf("%+v\n%+v", a, b)
	}
	// Another tenant finds nothing, and other files are another action.
	if second.client(t, "evil").compile(program).GetHit() {
		t.Error("a tenant has another one's result")
	}
	if c.compile(map[string]string{"a.c": program["a.c"], "b.h": "int c;"}).GetHit() {
		t.Error("a result of other inputs")
	}
	// Nobody looks for what is not to be kept.
	second.written(t)
	b.asked()
	if c.compile(program, func(j *workerv1.Job) { j.Uncached = true }).GetHit() || b.asked() != "" {
		t.Error("a job that wants no result was looked for")
	}
	second.nothingHeld(t)
}

// TestWorkersShareNearest has a far bucket asked only for what the near one has not.
func TestWorkersShareNearest(t *testing.T) {
	near, far := &bucket{Store: store.NewMemory(1 << 30)}, &bucket{Store: store.NewMemory(1 << 30)}
	first := sharing(t, far, "w1", "w1", "w2")
	want := first.client(t, "acme").compile(program).outputs["object"]
	first.written(t)
	for _, step := range []struct{ tier, ofNear, ofFar string }{
		{"far", "manifest result", "manifest result"},
		{"near", "manifest result", ""},
	} {
		r := sharingTiers(t, []shared.Tier{{Name: "near", Store: near, Write: true}, {Name: "far", Store: far}}, "w2", "w1", "w2")
		near.asked()
		far.asked()
		c := r.client(t, "acme")
		hit := c.compile(program)
		ofNear, ofFar := near.asked(), far.asked()
		r.written(t) // the near one gets it
		if rows := r.log.all(); !hit.GetHit() || hit.outputs["object"] != want || len(rows) != 1 || rows[0].Tier != step.tier {
			t.Errorf("%s: %v, %+v", step.tier, hit, rows)
		}
		// What the near one gets may be read there already.
		if !strings.HasPrefix(ofNear, step.ofNear) || ofFar != step.ofFar {
			t.Errorf("%s: asked near for %q, far for %q", step.tier, ofNear, ofFar)
		}
	}
}

// TestSharedLies has the bucket's owner do what they can.
func TestSharedLies(t *testing.T) {
	honest := &bucket{Store: store.NewMemory(1 << 30)}
	first := sharing(t, honest, "w1", "w1")
	want := first.client(t, "acme").compile(program).outputs["object"]
	other := map[string]string{"a.c": program["a.c"], "b.h": "int other;"}
	first.client(t, "acme").compile(other)
	first.written(t)
	var results []string
	if err := honest.List(t.Context(), "acme/result/", func(i store.Info) error {
		results = append(results, i.Name)
		return nil
	}); err != nil || len(results) != 2 {
		t.Fatal(results, err)
	}
	for _, c := range []struct {
		name    string
		members []string
		lie     func(name string, o store.Object) store.Object
		hit     bool
	}{
		{"nothing", []string{"w1"}, nil, true},
		{"a stranger's", nil, nil, false},
		{"a flipped bit", []string{"w1"}, func(name string, o store.Object) store.Object {
			if strings.Contains(name, "/result/") {
				o.Body = slices.Clone(o.Body)
				o.Body[len(o.Body)-1] ^= 1
			}
			return o
		}, false},
		{"another action's result", []string{"w1"}, func(name string, o store.Object) store.Object {
			if i := slices.Index(results, name); i >= 0 {
				o, _ = honest.Store.Get(context.Background(), results[1-i], 1<<20)
			}
			return o
		}, false},
		{"no manifest", []string{"w1"}, func(name string, o store.Object) store.Object {
			if strings.Contains(name, "/manifest/") {
				o.Body = []byte("?")
			}
			return o
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			honest.mu.Lock()
			honest.lie = c.lie
			honest.mu.Unlock()
			r := sharing(t, honest, "w2", c.members...)
			got := r.client(t, "acme").compile(program)
			if got.GetHit() != c.hit || got.outputs["object"] != want {
				t.Errorf("hit %v, %q", got.GetHit(), got.outputs["object"])
			}
			r.written(t)
		})
	}
}

func TestSharedFailsToOpen(t *testing.T) {
	r := newRig(t, func(o *Options) {
		o.Shared = func(string) (Shared, error) { return nil, errors.New("no tier") }
	})
	k := r.client(t, "acme").open()
	k.job(newJob(program))
	if err := k.failure(); err == nil || !strings.Contains(err.Error(), "no tier") {
		t.Errorf("%v", err)
	}
}

// A job that makes the service fail holds up none that is equal.
func TestFlightOfAFailure(t *testing.T) {
	b := &bucket{Store: store.NewMemory(1 << 30)}
	panics := true
	var mu sync.Mutex
	r := newRig(t, func(o *Options) {
		o.Shared = func(string) (Shared, error) {
			s, err := shared.New(shared.Options{Tenant: "acme", Tiers: []shared.Tier{{Name: "near", Store: b}}})
			return failing{s, func() {
				mu.Lock()
				defer mu.Unlock()
				if panics {
					panics = false
					panic("what nobody thought of")
				}
			}}, err
		}
	})
	k := r.client(t, "acme").open()
	k.job(newJob(program))
	if code := k.code(); code != codes.Internal {
		t.Errorf("%v", code)
	}
	if got := r.client(t, "acme").compile(program); got.GetHit() || got.GetExitCode() != 0 {
		t.Errorf("%v", got)
	}
	r.nothingHeld(t)
}

// failing calls fail at each look-up.
type failing struct {
	Shared
	fail func()
}

func (f failing) Manifests(ctx context.Context, key digest.Key) iter.Seq[*action.Manifest] {
	f.fail()
	return f.Shared.Manifests(ctx, key)
}
