//go:build e2e && linux

package tiers

import (
	"fmt"

	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/test/s3"
)

// site is a bucket, and what its users have in common.
type site struct {
	t       *testing.T
	server  *s3.Server
	counter *counter
	bucket  string
	source  string // of redis
	keys    string // directory of signing keys and of trusted ones
}

func newSite(t *testing.T) *site {
	t.Helper()
	server := s3.Start(t, s3.Versity)
	s := &site{t: t, server: server, counter: newCounter(t, server.Endpoint), bucket: server.NewBucket(t), keys: t.TempDir(), source: filepath.Join(t.TempDir(), "redis")}
	if err := run("../../scripts/fetch-source", "redis", s.source); err != nil {
		t.Fatal(err)
	}
	return s
}

// member makes a machine that has a signing key, which all others trust.
func (s *site) member(place string) *machine {
	s.t.Helper()
	m := newMachine(s.t, s.source, place, s.server.Env())
	line, err := shared.GenerateKey(filepath.Join(s.keys, m.name), shared.RoleClient, m.name)
	if err != nil {
		s.t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(s.keys, "trusted"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, line); err != nil {
		s.t.Fatal(err)
	}
	return m
}

// patient is longer than a busy machine takes for a request.
const patient = time.Minute

// tier are the settings of a machine that reaches the bucket at an endpoint, and
// waits so long for what it reads. Writes have more time, so that of a bucket that
// hangs a read tells first.
func (s *site) tier(m *machine, endpoint string, read time.Duration) string {
	return fmt.Sprintf("[cache]\nsigning_key_file = %q\ntrusted_keys_file = %q\n[[cache.tiers]]\nname = \"bucket\"\nurl = \"s3://%s\"\nregion = %q\nendpoint = %q\npath_style = true\nread_timeout = %q\nwrite_timeout = %q\n",
		filepath.Join(s.keys, m.name), filepath.Join(s.keys, "trusted"), s.bucket, s3.Region, endpoint, read, 2*patient)
}

// sameObjects compares what two builds left.
func sameObjects(t *testing.T, what string, want, got map[string]string) {
	t.Helper()
	if len(want) < 100 || len(got) != len(want) {
		t.Errorf("%s: %d objects, want %d", what, len(got), len(want))
	}
	for name, b := range want {
		if got[name] != b {
			t.Errorf("%s: %s is another object", what, name)
		}
	}
}

// compiles is how many compiles a build counted that the cache could have.
func (s *stats) compiles() int { return s.HitsDirect + s.HitsRemote + s.Misses }

// TestTwoMachines has a second machine take everything that the first one compiled
// from the bucket, and from then on from its own disk; and asks no more than it has
// to.
func TestTwoMachines(t *testing.T) {
	s := newSite(t)
	one, two := s.member("src"), s.member("work/checkout/of")
	for _, m := range []*machine{one, two} {
		m.settings(s.tier(m, newWire(t, m.gateway, s.counter.address).endpoint(), patient))
		m.start()
	}
	objects, took := one.build()
	cold := one.count()
	if cold.Misses < 100 || cold.Errors > 0 || cold.compiles() != cold.Misses+cold.HitsDirect {
		t.Errorf("%+v", cold)
	}
	began := time.Now()
	one.written()
	t.Logf("the first machine: %.1f s, and %.1f s until all was written; requests %v", took.Seconds(), time.Since(began).Seconds(), s.counter.count())
	one.stop()

	again, took := two.build()
	sameObjects(t, "the second machine", objects, again)
	warm, asked := two.count(), s.counter.count()
	t.Logf("the second machine: %.1f s; requests %v", took.Seconds(), asked)
	if warm.Misses != 0 || warm.Errors != 0 || warm.compiles() != cold.compiles() || warm.HitsRemote != cold.Misses || warm.HitsByTier["bucket"] != warm.HitsRemote {
		t.Errorf("%+v, and the first machine %+v", warm, cold)
	}
	// Two requests for each hit: a manifest, and a result with all it left. A list of
	// dependencies may be a miss, since makefiles have it made of what they just wrote.
	if hits := warm.HitsRemote + warm.ListHits; asked["GET manifest"] != hits+warm.ListMisses || asked["GET result"] != hits ||
		asked["GET blob"] != 0 || asked["PUT result"] > warm.ListMisses {
		t.Errorf("%d hits took %v", hits, asked)
	}

	if level, text := two.doctor("tier-bucket"); level != "ok" || !strings.Contains(text, "credentials from EnvConfigCredentials, writes on conditions hold") {
		t.Errorf("the doctor says %s: %s", level, text)
	}

	two.clean()
	two.count()
	s.counter.count()
	again, took = two.build()
	sameObjects(t, "from the disk", objects, again)
	disk, asked := two.count(), s.counter.count()
	t.Logf("from the disk: %.1f s; requests %v", took.Seconds(), asked)
	if disk.Misses != 0 || disk.HitsRemote != 0 || disk.HitsDirect != cold.compiles() || len(asked) != 0 {
		t.Errorf("%+v, requests %v", disk, asked)
	}

	// The disk knows what the results are called, and has them no more: one request
	// for each.
	two.clean()
	two.stop()
	for _, d := range []string{"ac", "cas"} {
		two.must(os.RemoveAll(filepath.Join(two.dir, "cache", d)))
	}
	two.start()
	two.count()
	s.counter.count()
	again, took = two.build()
	sameObjects(t, "what was evicted", objects, again)
	evicted, asked := two.count(), s.counter.count()
	t.Logf("what was evicted: %.1f s; requests %v", took.Seconds(), asked)
	if evicted.Misses != 0 || evicted.compiles() != cold.compiles() || evicted.HitsRemote != cold.Misses ||
		asked["GET manifest"] != 0 || asked["GET result"] != evicted.HitsRemote+evicted.ListHits {
		t.Errorf("%+v, requests %v", evicted, asked)
	}
	two.stop()
}

// TestBucketFails has the bucket be dead from the start, hang, and die and begin to
// hang in the middle of a build: what is built is right, and nothing is waited for
// but one time-out. How long the builds take is for long runs to judge, on machines
// that do nothing else: they build without the bucket before and after.
func TestBucketFails(t *testing.T) {
	s := newSite(t)
	soak := os.Getenv("HPCC_SOAK") != ""
	plain := s.member("src")
	plain.settings("[reproducible]\nenabled = true\n")
	cold := func() (map[string]string, time.Duration) {
		t.Helper()
		plain.must(os.RemoveAll(plain.dir + "/cache"))
		plain.must(os.Mkdir(plain.dir+"/cache", 0o700))
		plain.start()
		defer plain.stop()
		objects, took := plain.build()
		if c := plain.count(); c.Misses < 100 {
			t.Fatalf("%+v", c)
		}
		plain.clean()
		return objects, took
	}
	want, without := cold()
	// Each of more than a hundred compiles asks for a manifest first, and is answered:
	// so many pieces have passed when not half of them are done, whatever was written.
	const middle = 100
	// The calls that a bucket which begins to hang finds under way, of two compiles and
	// eight writers, can run out of time at one moment. Without a circuit each compile
	// would wait for itself.
	const underWay = 2 + 8
	for _, c := range []struct {
		name  string
		hangs bool
		fail  func(m *machine, w *wire) (endpoint string)
	}{
		{"healthy", false, func(_ *machine, w *wire) string { return w.endpoint() }},
		{"dead from the start", false, func(_ *machine, w *wire) string { defer w.cut(); return w.endpoint() }},
		{"hanging", true, func(_ *machine, w *wire) string { w.hang(); return w.endpoint() }},
		{"no way there", true, func(m *machine, _ *wire) string { return "http://" + strings.TrimSuffix(m.gateway, "1") + "3:1" }},
		{"dies in the middle", false, func(_ *machine, w *wire) string { w.later(middle, w.cut); return w.endpoint() }},
		{"hangs in the middle", true, func(_ *machine, w *wire) string { w.later(middle, w.hang); return w.endpoint() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := *s
			s.t = t
			s.bucket = s.server.NewBucket(t)
			m := s.member("src")
			w := newWire(t, m.gateway, s.counter.address)
			timeout := 2 * time.Second // of a read, which is the default
			switch {
			case soak:
			case c.hangs:
				timeout = 10 * time.Second
			default:
				timeout = patient
			}
			m.settings(s.tier(m, c.fail(m, w), timeout))
			m.start()
			got, took := m.build()
			sameObjects(t, c.name, want, got)
			count := m.count()
			if count.HitsRemote != 0 || count.Misses < 100 || count.Errors != 0 || len(count.Shared.Tiers) != 1 {
				t.Errorf("%+v", count)
			} else if tier := count.Shared.Tiers[0]; (tier.State == "ok") != (c.name == "healthy") || tier.Timeouts > underWay {
				t.Errorf("the daemon says that the tier is %+v", tier)
			}
			drained := m.stop()
			if soak {
				_, after := cold()
				without = max(without, after)
				defer func() { without = after }()
			}
			t.Logf("%.2f x the build without a shared cache (%.1f s, %+.1f s); %.1f s until the daemon had ended",
				took.Seconds()/without.Seconds(), took.Seconds(), (took - without).Seconds(), drained.Seconds())
			if most := time.Duration(1.05*float64(without)) + timeout; soak && took > most {
				t.Errorf("%.1f s, want %.1f s at most", took.Seconds(), most.Seconds())
			}
			if drained > 2*time.Minute {
				t.Errorf("the daemon took %.1f s to end", drained.Seconds())
			}
		})
	}
}
