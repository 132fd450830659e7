//go:build e2e

package chain

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/test/s3"
)

// startChain starts scheduler, workers and what they need.
func startChain(t *testing.T, workers int, clients ...string) *Chain {
	t.Helper()
	return startSharing(t, nil, workers, clients...)
}

// startSharing is startChain with a cache that the workers share.
func startSharing(t *testing.T, tier *config.Tier, workers int, clients ...string) *Chain {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("the agent makes mounts and namespaces: run the tests as root")
	}
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := Start(ctx, Options{Bin: bin, Workers: workers, VCPUs: 2, Tier: tier}, clients...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func newClient(t *testing.T, c *Chain, name string, opt ClientOptions) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cl, err := c.NewClient(ctx, name, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cl.Stop() })
	return cl
}

func statsOf(t *testing.T, cl *Client) Stats {
	t.Helper()
	s, err := cl.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// jobs counts the compiles that machines ran.
func jobs(t *testing.T, c *Chain, workers int) (n int) {
	t.Helper()
	for i := range workers {
		rows, err := c.Worker(i).Rows()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if r.Cache == audit.Miss {
				n++
			}
		}
	}
	return n
}

// checkout copies a source tree to a new project.
func checkout(t *testing.T, from string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "project")
	if out, err := exec.Command("cp", "-a", from, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.MkdirAll(filepath.Join(dir, ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// compiled is one compile of a build: its command, and the object.
type compiled struct {
	dir    string // of the command, below the project
	args   []string
	object string // below the project
}

// compiledIn lists what a client's build compiled below dir.
func compiledIn(t *testing.T, cl *Client, dir string) (all []compiled) {
	t.Helper()
	lines, err := cl.Lines()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		in, err := filepath.Rel(dir, l.Cwd)
		if err != nil || strings.HasPrefix(in, "..") || !slices.Contains(l.Args, "-c") || l.Source == "" {
			continue
		}
		object := l.Output
		if !filepath.IsAbs(object) {
			object = filepath.Join(l.Cwd, object)
		}
		rel, err := filepath.Rel(dir, object)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, compiled{in, l.Args, rel})
	}
	return all
}

// byHand runs, in one place, what `hpcc wrap --show-command` prints for each
// compile, by the image's own compiler, with the project where machines have it.
// What it leaves is the object at /hpcc/out, which goes to results/INDEX.
func byHand(t *testing.T, cl *Client, dir string, all []compiled, results string) {
	t.Helper()
	var script strings.Builder
	script.WriteString(`set -e
mount -t tmpfs none /mnt; mkdir /mnt/u /mnt/w /mnt/r
mount -t overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w none /mnt/r
mkdir -p /mnt/r/hpcc/src /mnt/r/hpcc/out /mnt/r/hpcc/results
mount --bind "$1" /mnt/r/hpcc/src; mount --bind "$2" /mnt/r/hpcc/results
mount --rbind /dev /mnt/r/dev; mount --rbind /proc /mnt/r/proc
chroot /mnt/r /usr/bin/env -i PATH=/usr/bin:/bin LC_ALL=C.UTF-8 TZ=UTC ${SOURCE_DATE_EPOCH:+SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH} sh -e /hpcc/results/commands
`)
	var commands strings.Builder
	for i, c := range all {
		show := cl.Command(filepath.Join(dir, c.dir), filepath.Join(filepath.Dir(cl.Hpcc().Path), "hpcc"), append([]string{"wrap", "--show-command", "--"}, c.args...)...)
		out, err := show.Output()
		if err != nil {
			t.Fatalf("%q: %v", c.args, err)
		}
		fmt.Fprintf(&commands, "cd %s; %s 2>/dev/null; mv /hpcc/out/object /hpcc/results/%d\n", filepath.Join("/hpcc/src", c.dir), strings.TrimSpace(string(out)), i)
	}
	if err := os.WriteFile(filepath.Join(results, "commands"), []byte(commands.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("unshare", "-m", "sh", "-c", script.String(), "sh", dir, results).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func build(t *testing.T, cl *Client, dir string, args ...string) {
	t.Helper()
	if out, err := cl.Command(dir, "make", args...).CombinedOutput(); err != nil {
		t.Fatalf("make %q: %v\n%s\n%s", args, err, tailOf(out), cl.Log())
	}
}

func tailOf(out []byte) []byte { return out[max(0, len(out)-3000):] }

// TestChain builds programs on workers: each object must be what the image's
// compiler makes by hand with the command that hpcc shows, and a second checkout,
// a second client, a second worker and a client that knows the workers' shared cache
// need no compile.
func TestChain(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000") // redis stamps its build with the time
	for _, p := range []program{
		{"redis", inBucket, "", []string{"-C", "src", "-j4", "MALLOC=libc", "USE_SYSTEMD=no", "redis-server"}, 130},
		// Without optimisation, which takes most of the time and changes nothing here.
		{"yaml-cpp", inDirectory, "objects := $(patsubst %.cpp,%.o,$(wildcard src/*.cpp))\nall: $(objects)\n%.o: %.cpp\n\tg++ -std=gnu++11 -g -Iinclude -MMD -c $< -o $@\n",
			[]string{"-j4"}, 25},
	} {
		t.Run(p.source, func(t *testing.T) { testProgram(t, p) })
	}
}

// program is one that workers compile.
type program struct {
	source   string // of Debian
	tier     func(*testing.T) *config.Tier
	makefile string // in its place, "" for its own
	args     []string
	objects  int // at least
}

// inBucket is a shared cache of a real server.
func inBucket(t *testing.T) *config.Tier {
	server := s3.Start(t, s3.Versity)
	server.Setenv(t)
	return &config.Tier{
		Name: "bucket", Bucket: server.NewBucket(t), Prefix: "cache/", Region: s3.Region, Endpoint: server.Endpoint, PathStyle: true, Access: config.ReadWrite,
		ReadTimeout: time.Minute, WriteTimeout: time.Minute, ListTimeout: time.Minute,
	}
}

// inDirectory is one of a directory.
func inDirectory(t *testing.T) *config.Tier {
	return &config.Tier{
		Name: "directory", Dir: t.TempDir(), Access: config.ReadWrite,
		ReadTimeout: time.Minute, WriteTimeout: time.Minute, ListTimeout: time.Minute,
	}
}

// written waits until what the workers made is in their shared cache.
func written(t *testing.T, c *Chain, workers int) {
	t.Helper()
	for i := range workers {
		if err := c.Worker(i).Written(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func testProgram(t *testing.T, p program) {
	c := startSharing(t, p.tier(t), 2, "one", "two", "three", "four")
	src := filepath.Join(t.TempDir(), "source")
	if out, err := exec.Command("../../scripts/fetch-source", p.source, src).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if p.makefile != "" {
		if err := os.WriteFile(filepath.Join(src, "Makefile"), []byte(p.makefile), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Its links are made by this machine's linker; nothing else may be.
	one := newClient(t, c, "one", ClientOptions{Compilers: true, Settings: `fallback = "fail"`})
	dir := checkout(t, src)
	build(t, one, dir, p.args...)
	all := compiledIn(t, one, dir)
	s, ran := statsOf(t, one), jobs(t, c, 2)
	t.Logf("first build: %d compiles, %+v, %d jobs", len(all), s, ran)
	if len(all) < p.objects || s.Misses+s.HitsDirect+s.HitsRemote != len(all) || s.Errors != 0 || ran < s.Misses {
		t.Errorf("%d compiles, %+v, %d jobs", len(all), s, ran)
	}
	objects := map[string][]byte{}
	// The makefile tries what the compiler can, and removes that.
	all = slices.DeleteFunc(all, func(o compiled) bool {
		b, err := os.ReadFile(filepath.Join(dir, o.object))
		objects[o.object] = b
		return os.IsNotExist(err)
	})
	if len(all) < p.objects {
		t.Fatalf("%d objects", len(all))
	}
	for i := range 2 {
		rows, err := c.Worker(i).Rows()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("worker %d: %d rows", i, len(rows))
	}

	results := t.TempDir()
	byHand(t, one, dir, all, results)
	last := map[string]int{} // an object that is compiled twice is the last one's
	for i, o := range all {
		last[o.object] = i
	}
	for object, i := range last {
		b, err := os.ReadFile(filepath.Join(results, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, objects[object]) {
			t.Errorf("%s is not what its command makes by hand", object)
		}
	}

	// The sources as they are now, with what the build generated, and no objects.
	clean := checkout(t, dir)
	if out, err := exec.Command("find", clean, "-name", "*.o", "-delete").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	replay := func(t *testing.T, cl *Client) {
		t.Helper()
		dir := checkout(t, clean)
		for _, o := range all {
			cmd := cl.Command(filepath.Join(dir, o.dir), o.args[0], o.args[1:]...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%q: %v\n%s", o.args, err, out)
			}
		}
		for _, o := range all {
			b, err := os.ReadFile(filepath.Join(dir, o.object))
			if err != nil || !bytes.Equal(b, objects[o.object]) {
				t.Errorf("%s: %v, or another object", o.object, err)
			}
		}
	}
	t.Run("second checkout", func(t *testing.T) {
		before := statsOf(t, one)
		replay(t, one)
		if s := statsOf(t, one); s.HitsDirect-before.HitsDirect != len(all) || jobs(t, c, 2) != ran {
			t.Errorf("%+v, was %+v; %d jobs", s, before, jobs(t, c, 2)-ran)
		}
	})
	written(t, c, 2)
	t.Run("second client", func(t *testing.T) {
		two := newClient(t, c, "two", ClientOptions{})
		replay(t, two)
		if s := statsOf(t, two); s.HitsRemote+s.HitsDirect != len(all) || s.HitsRemote == 0 || s.Misses != 0 || jobs(t, c, 2) != ran {
			t.Errorf("%+v, %d jobs", s, jobs(t, c, 2)-ran)
		}
	})
	t.Run("client of the tier", func(t *testing.T) {
		four := newClient(t, c, "four", ClientOptions{Top: c.TierSettings()})
		rows := func() (n int) {
			for i := range 2 {
				rows, err := c.Worker(i).Rows()
				if err != nil {
					t.Fatal(err)
				}
				n += len(rows)
			}
			return n
		}
		before := rows()
		replay(t, four)
		if s := statsOf(t, four); s.HitsByTier[c.opt.Tier.Name] == 0 || s.HitsByTier[c.opt.Tier.Name] != s.HitsRemote || s.HitsRemote+s.HitsDirect != len(all) || rows() != before {
			t.Errorf("%+v, and the workers were asked %d times", s, rows()-before)
		}
	})
	// It has a store of its own, and most of the results in the shared cache alone.
	t.Run("second worker", func(t *testing.T) {
		if err := c.Worker(0).Stop(); err != nil {
			t.Fatal(err)
		}
		three := newClient(t, c, "three", ClientOptions{Top: "paranoid = true"})
		replay(t, three)
		if s := statsOf(t, three); s.HitsRemote != len(all) || jobs(t, c, 2) != ran {
			t.Errorf("%+v, %d jobs", s, jobs(t, c, 2)-ran)
		}
	})
}
