//go:build linux

// The part of the benchmark that measures hits from a bucket: versitygw on
// loopback, hpcc and sccache, in turn, round by round, in one run. Before each
// timed compile hpcc's own cache is emptied; sccache has none beside a bucket. That
// each was a hit from there is checked by both programs' counters, and each object
// by the plain compiler's. Prints tables in Markdown:
//
//	go run ./bench/s3 -bin bin -sccache PROGRAM -redis DIR           all
//	go run ./bench/s3 -bin bin -sccache PROGRAM -rounds 5 small      one part of: small, medium, cxx
//
// bench/run calls it.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"hpcc.dev/hpcc/bench/measure"
	"hpcc.dev/hpcc/test/s3"
)

var (
	bin     = flag.String("bin", "bin", "directory of hpcc and hpccd")
	peer    = flag.String("sccache", "sccache", "the peer's program")
	source  = flag.String("redis", "", "redis' unpacked source")
	unit    = flag.String("cc", "bench/unit.cc", "a C++ unit with heavy headers")
	rounds  = flag.Int("rounds", 40, "how often single compiles are timed")
	batches = flag.Int("batches", 10, "how often batches are timed")
)

// jobs is how many compiles of a batch run at a time, and how many it has.
const jobs = 8

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench/s3:", err)
		stop()
		os.Exit(1)
	}
}

// kind is a unit that is measured: several sources that differ in a line.
type kind struct {
	part, name string
	compiler   string
	sources    []string // below the project; an object lies beside its source
	args       []string
	single     [2]measure.Series // of the caches
	batch      [2]measure.Series
	first      [2]int64 // requests of a hit whose manifest is not known
	second     int64    // of hpcc's, where it is
}

func (k *kind) object(i int) string { return k.sources[i] + ".o" }

func (k *kind) command(i int) []string {
	return append(append([]string{k.compiler}, k.args...), "-c", k.sources[i], "-o", k.object(i))
}

// cache is one that is measured.
type cache interface {
	// command compiles through it.
	command(args ...string) *exec.Cmd
	// empty forgets all that is not in the bucket.
	empty() error
	// hits is how many there were from the bucket, others how much else there was.
	hits() (hits, others int64, err error)
	stop() error
}

type bench struct {
	work  string // the project's root, and of everything else
	kinds []*kind
	plain sync.Map // objects by name and variant
}

func run(ctx context.Context, parts []string) error {
	work, err := os.MkdirTemp("", "hpcc-bench-s3-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	b := &bench{work: work}
	if err := b.write(ctx, parts); err != nil {
		return err
	}
	server, err := s3.Launch(ctx, s3.Versity, filepath.Join(work, "server"))
	if err != nil {
		return err
	}
	defer server.Stop()
	for _, bucket := range []string{hpccBucket, sccacheBucket} {
		if err := server.MakeBucket(ctx, bucket); err != nil {
			return err
		}
	}
	if err := b.fill(ctx, server); err != nil {
		return fmt.Errorf("filling the buckets: %w", err)
	}
	if err := b.through(ctx, server, server.Endpoint, "", b.time); err != nil {
		return err
	}
	count, err := newCounter(server.Endpoint)
	if err != nil {
		return err
	}
	defer count.close()
	err = b.through(ctx, server, count.endpoint, "64MB", func(_ context.Context, caches [2]cache) error { return b.count(caches, count) })
	if err != nil {
		return err
	}
	b.print(os.Stdout)
	return nil
}

// write makes the project.
func (b *bench) write(ctx context.Context, parts []string) error {
	wants := func(part string) bool { return len(parts) == 0 || slices.Contains(parts, part) }
	if err := os.Mkdir(filepath.Join(b.work, ".git"), 0o755); err != nil {
		return err
	}
	heavy, err := os.ReadFile(*unit)
	if err != nil {
		return err
	}
	add := func(k *kind, dir, ext string, text []byte) error {
		if !wants(k.part) {
			return nil
		}
		b.kinds = append(b.kinds, k)
		for i := range jobs {
			name := filepath.Join(dir, fmt.Sprintf("%s-%d%s", k.part, i, ext))
			k.sources = append(k.sources, name)
			line := fmt.Sprintf("#include \"variant.h\"\nint hpcc_variant_%d = VARIANT;\n", i)
			if err := os.WriteFile(filepath.Join(b.work, name), append(bytes.Clone(text), line...), 0o644); err != nil {
				return err
			}
		}
		return b.variant(filepath.Join(b.work, dir), 1)
	}
	if err := add(&kind{part: "small", name: "small C", compiler: "gcc", args: []string{"-O2", "-Wall"}}, ".", ".c", []byte(measure.Small)); err != nil {
		return err
	}
	if wants("medium") {
		dir, err := measure.Redis(ctx, *source, b.work)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(filepath.Join(b.work, dir, "src/t_list.c"))
		if err != nil {
			return err
		}
		if err := add(&kind{part: "medium", name: "redis' t_list.c", compiler: "gcc", args: measure.RedisFlags(dir)}, dir+"/src", ".c", text); err != nil {
			return err
		}
	}
	return add(&kind{part: "cxx", name: "C++, heavy headers", compiler: "g++", args: []string{"-O2", "-Wall"}}, ".", ".cc", heavy)
}

// variant writes the header that all units of dir include, and waits until no cache
// has to fear that it is being written.
func (b *bench) variant(dir string, n int) error {
	defer time.Sleep(2 * time.Second)
	return os.WriteFile(filepath.Join(dir, "variant.h"), fmt.Appendf(nil, "#define VARIANT %d\n", n), 0o644)
}

// variants gives all units' header another content.
func (b *bench) variants(n int) error {
	for _, k := range b.kinds {
		if err := b.variant(filepath.Dir(filepath.Join(b.work, k.sources[0])), n); err != nil {
			return err
		}
	}
	return nil
}

// through starts both caches with a bucket at endpoint for as long as f runs.
func (b *bench) through(ctx context.Context, server *s3.Server, endpoint, memory string, f func(context.Context, [2]cache) error) (err error) {
	var caches [2]cache
	defer func() {
		for _, c := range caches {
			if c == nil {
				continue
			}
			if e := c.stop(); err == nil {
				err = e
			}
		}
	}()
	if caches[0], err = startHpcc(ctx, b.work, server, endpoint, memory); err != nil {
		return err
	}
	if caches[1], err = startSccache(b.work, server, endpoint); err != nil {
		return err
	}
	return f(ctx, caches)
}

// fill compiles everything by the plain compiler and through both caches: both
// variants of the first of each kind, and the first variant of the others.
func (b *bench) fill(ctx context.Context, server *s3.Server) error {
	return b.through(ctx, server, server.Endpoint, "", func(ctx context.Context, caches [2]cache) error {
		for _, variant := range []int{2, 1} {
			if err := b.variants(variant); err != nil {
				return err
			}
			all, ctx := errgroup.WithContext(ctx)
			all.SetLimit(runtime.NumCPU())
			for _, k := range b.kinds {
				for i := range k.sources {
					if i == 0 || variant == 1 {
						all.Go(func() error { return b.fillOne(ctx, caches, k, i, variant) })
					}
				}
			}
			if err := all.Wait(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *bench) fillOne(ctx context.Context, caches [2]cache, k *kind, i, variant int) error {
	args := k.command(i)
	plain := exec.CommandContext(ctx, args[0], args[1:]...)
	plain.Dir = b.work
	if _, err := measure.Timed(plain); err != nil {
		return err
	}
	object, err := os.ReadFile(filepath.Join(b.work, k.object(i)))
	if err != nil {
		return err
	}
	b.plain.Store(fmt.Sprint(k.object(i), variant), object)
	for _, c := range caches {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, err := b.compile(c, k, i, variant); err != nil {
			return err
		}
	}
	return nil
}

// compile times one compile through c, whose object must be the plain compiler's.
func (b *bench) compile(c cache, k *kind, i, variant int) (time.Duration, error) {
	object := filepath.Join(b.work, k.object(i))
	if err := os.Remove(object); err != nil && !os.IsNotExist(err) {
		return 0, err
	}
	took, err := measure.Timed(c.command(k.command(i)...))
	if err != nil {
		return 0, err
	}
	got, err := os.ReadFile(object)
	want, _ := b.plain.Load(fmt.Sprint(k.object(i), variant))
	if plain, ok := want.([]byte); err == nil && (!ok || !bytes.Equal(got, plain)) {
		err = fmt.Errorf("%q made another object than the plain compiler", c.command(k.command(i)...).Args)
	}
	return took, err
}

// hit runs f, which must be n hits from the bucket and nothing else.
func hit(c cache, n int, f func() error) error {
	if err := c.empty(); err != nil {
		return err
	}
	hits, others, err := c.hits()
	if err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	now, more, err := c.hits()
	if err == nil && (now-hits != int64(n) || more != others) {
		err = fmt.Errorf("%T: %d compiles were %d hits from the bucket, and %d else", c, n, now-hits, more-others)
	}
	return err
}

// time takes all times.
func (b *bench) time(ctx context.Context, caches [2]cache) error {
	for _, k := range b.kinds {
		for r := -1; r < *rounds; r++ { // one more, not counted
			for o := range caches {
				n := (o + r + 1) % 2
				err := hit(caches[n], 1, func() error {
					took, err := b.compile(caches[n], k, (r+jobs)%jobs, 1)
					if r >= 0 {
						k.single[n] = append(k.single[n], took)
					}
					return err
				})
				if err != nil {
					return err
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
			}
		}
		for r := -1; r < *batches; r++ {
			for o := range caches {
				n := (o + r + 1) % 2
				err := hit(caches[n], jobs, func() error {
					took, err := b.atOnce(caches[n], k)
					if r >= 0 {
						k.batch[n] = append(k.batch[n], took)
					}
					return err
				})
				if err != nil {
					return err
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
			}
		}
	}
	return nil
}

// atOnce times a compile of each of a kind's sources, at the same time.
func (b *bench) atOnce(c cache, k *kind) (time.Duration, error) {
	var all sync.WaitGroup
	errs := make([]error, len(k.sources))
	began := time.Now()
	for i := range k.sources {
		all.Go(func() { _, errs[i] = b.compile(c, k, i, 1) })
	}
	all.Wait()
	took := time.Since(began)
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return took, nil
}

// count counts requests: of a first hit, and of one whose manifest came with the
// first, since only a header was another.
func (b *bench) count(caches [2]cache, requests *counter) error {
	one := func(c cache, k *kind, variant int) (n int64, err error) {
		err = hit(c, 1, func() error {
			before := requests.n.Load()
			_, err := b.compile(c, k, 0, variant)
			n = requests.n.Load() - before
			return err
		})
		return n, err
	}
	for _, k := range b.kinds {
		for n, c := range caches {
			var err error
			if k.first[n], err = one(c, k, 1); err != nil {
				return err
			}
		}
		dir := filepath.Dir(filepath.Join(b.work, k.sources[0]))
		if err := b.variant(dir, 2); err != nil {
			return err
		}
		var err error
		if k.second, err = one(caches[0], k, 2); err != nil {
			return err
		}
		if err := b.variant(dir, 1); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) print(w io.Writer) {
	fmt.Fprintln(w, "Milliseconds, median and (least); a batch is eight compiles at a time.")
	fmt.Fprintln(w)
	fmt.Fprintln(w, "| hit from S3 | hpcc | sccache | ratio | goal |")
	fmt.Fprintln(w, "|---|---|---|---|---|")
	for _, k := range b.kinds {
		for _, row := range []struct {
			what  string
			times [2]measure.Series
		}{{"`-j1`", k.single}, {"`-j8`", k.batch}} {
			if len(row.times[0]) > 0 {
				fmt.Fprintf(w, "| %s, %s, %d rounds | %s | %s | %s | ≤ 0.5 |\n", k.name, row.what, len(row.times[0]), row.times[0], row.times[1], measure.Ratio(row.times[0].Median(), row.times[1].Median()))
			}
		}
	}
	fmt.Fprintln(w)
	fmt.Fprintln(w, "| requests of a hit | hpcc | hpcc, manifest known | sccache | goal |")
	fmt.Fprintln(w, "|---|---|---|---|---|")
	for _, k := range b.kinds {
		fmt.Fprintf(w, "| %s | %d | %d | %d | 2, 1 |\n", k.name, k.first[0], k.second, k.first[1])
	}
}
