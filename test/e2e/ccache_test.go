//go:build e2e && linux

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"hpcc.dev/hpcc/test/s3"
)

// ccacheBuild is lua's sources, and a ccache whose remote storage is hpcc's.
type ccacheBuild struct {
	t       *testing.T
	ccache  string
	dir     string   // of the sources
	sources []string // in it
	env     []string
}

// patient are time-outs that a busy machine keeps: ccache's for its helper, of which
// one is a second by default, and the helper's for the store.
const patient = " data-timeout=60s request-timeout=60s @read-timeout=1m @write-timeout=1m"

// TestCcache builds lua through the newest ccache with a store of hpcc's behind it:
// what one machine compiled another gets from there, and a store that is away costs
// a build nothing but time.
func TestCcache(t *testing.T) {
	server := s3.Start(t, s3.Versity)
	b := &ccacheBuild{t: t, dir: filepath.Join(t.TempDir(), "lua")}
	b.ccache = newestCcache(t)
	if out, err := exec.Command("../../scripts/fetch-source", "lua5.4", b.dir).CombinedOutput(); err != nil {
		t.Fatalf("fetch-source: %v\n%s", err, out)
	}
	prepareLua(t, b.dir, "")
	var err error
	if b.sources, err = filepath.Glob(filepath.Join(b.dir, "src/l*.c")); err != nil || len(b.sources) < 30 {
		t.Fatalf("%d sources: %v", len(b.sources), err)
	}
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	// The socket's path is short; the test's own directory may not be.
	runtime, err := os.MkdirTemp("", "cc")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(runtime)
	b.env = append(append(plainEnv(""), server.Env()...), "CCACHE_CONFIGPATH="+os.DevNull, "CCACHE_LIBEXEC_DIRS="+bin, "XDG_RUNTIME_DIR="+runtime)
	want := b.build("")

	shared := t.TempDir()
	for name, storage := range map[string]string{
		"bucket":    "hpcc://" + server.NewBucket(t) + patient + " @endpoint=" + server.Endpoint + " @path-style=true",
		"directory": "hpcc://" + shared + patient + " @tenant=lua",
	} {
		t.Run(name, func(t *testing.T) {
			b := b.with(t, storage)
			same(t, "ccache", want, b.build(b.ccache))
			n := len(b.sources)
			b.stats(map[string]int{"cache_miss": n, "remote_storage_miss": n, "remote_storage_error": 0, "remote_storage_timeout": 0})
			// Another machine: nothing is there but the store.
			b = b.with(t, storage)
			same(t, "ccache", want, b.build(b.ccache))
			b.stats(map[string]int{"cache_miss": 0, "direct_cache_hit": n, "remote_storage_hit": n, "local_storage_hit": 0, "remote_storage_error": 0, "remote_storage_timeout": 0})
		})
	}
	if names, err := filepath.Glob(filepath.Join(shared, "lua/ccache/??/*")); err != nil || len(names) < len(b.sources) {
		t.Errorf("the directory has %d objects of ccache's: %v", len(names), err)
	}

	for name, hurt := range map[string]func(*s3.Proxy){"hangs": (*s3.Proxy).Hang, "refuses": (*s3.Proxy).Cut} {
		t.Run(name, func(t *testing.T) {
			way := s3.Toxic(t, server.Endpoint)
			hurt(way)
			b := b.with(t, "hpcc://"+server.NewBucket(t)+" data-timeout=60s request-timeout=60s @endpoint="+way.Endpoint+" @path-style=true")
			same(t, "ccache", want, b.build(b.ccache))
			got := b.stats(map[string]int{"cache_miss": len(b.sources), "remote_storage_hit": 0, "remote_storage_timeout": 0})
			// Each compile was told at once, but those that the first time-out met.
			if got["remote_storage_error"] != len(b.sources) {
				t.Errorf("%d of %d compiles were told that the store is away", got["remote_storage_error"], len(b.sources))
			}
		})
	}
	t.Run("no such setting", func(t *testing.T) {
		b := b.with(t, "hpcc://bucket data-timeout=60s request-timeout=60s @endpiont="+server.Endpoint)
		same(t, "ccache", want, b.build(b.ccache))
		b.stats(map[string]int{"remote_storage_error": len(b.sources)})
	})
}

// newestCcache returns the ccache that make bench compares with.
func newestCcache(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("HPCC_TEST_CACHE")
	if cache == "" {
		cache = filepath.Join(os.Getenv("HOME"), ".cache/hpcc-test")
	}
	if out, err := exec.Command("../../bench/peers", filepath.Join(cache, "peers")).CombinedOutput(); err != nil {
		t.Fatalf("bench/peers: %v\n%s", err, out)
	}
	return filepath.Join(cache, "peers/bin/ccache")
}

// with is b with an empty local cache and some remote storage, until the test's end.
func (b *ccacheBuild) with(t *testing.T, storage string) *ccacheBuild {
	t.Helper()
	c := *b
	c.t = t
	c.env = append(c.env[:len(c.env):len(c.env)], "CCACHE_DIR="+t.TempDir(), "CCACHE_REMOTE_STORAGE="+storage)
	t.Cleanup(func() { c.run("--stop-storage-helpers") })
	return &c
}

func (b *ccacheBuild) run(args ...string) []byte {
	b.t.Helper()
	cmd := exec.Command(b.ccache, args...)
	cmd.Env = b.env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("ccache %q: %v\n%s", args, err, stderr.Bytes())
	}
	return out
}

// build compiles all sources, four at a time, and returns the objects.
func (b *ccacheBuild) build(launcher string) map[string][]byte {
	b.t.Helper()
	objects := map[string][]byte{}
	var mu sync.Mutex
	var all sync.WaitGroup
	places := make(chan struct{}, 4)
	for _, source := range b.sources {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			object := source + ".o"
			argv := []string{"gcc", "-std=gnu99", "-O2", "-c", source, "-o", object}
			if launcher != "" {
				argv = append([]string{launcher}, argv...)
			}
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Env, cmd.Dir = b.env, b.dir
			_ = os.Remove(object)
			if out, err := cmd.CombinedOutput(); err != nil {
				b.t.Errorf("%q: %v\n%s", argv, err, out)
				return
			}
			body, err := os.ReadFile(object)
			if err != nil {
				b.t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			objects[filepath.Base(object)] = body
		})
	}
	all.Wait()
	return objects
}

// stats checks some of ccache's counters and returns all that are not 0.
func (b *ccacheBuild) stats(want map[string]int) map[string]int {
	b.t.Helper()
	all := map[string]int{}
	for line := range strings.Lines(string(b.run("--print-stats"))) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "\t")
		n, err := strconv.Atoi(value)
		if err != nil {
			b.t.Fatalf("%q: %v", line, err)
		}
		if n != 0 {
			all[name] = n
		}
	}
	for name, n := range want {
		if all[name] != n {
			b.t.Errorf("%s is %d, want %d: %v", name, all[name], n, all)
		}
	}
	return all
}
