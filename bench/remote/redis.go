//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"hpcc.dev/hpcc/bench/measure"
	"hpcc.dev/hpcc/test/chain"
)

// redis builds redis' C files, all new to everybody, by each in turn.
func (b *bench) redis(ctx context.Context) error {
	dir, err := measure.Redis(ctx, *source, b.work)
	if err != nil {
		return err
	}
	paths, err := filepath.Glob(filepath.Join(b.work, dir, "src/*.c"))
	if err != nil {
		return err
	}
	three, err := b.client(ctx, "three", chain.ClientOptions{Compilers: true, Settings: `fallback = "fail"`})
	if err != nil {
		return err
	}
	defer func() { _ = three.Stop() }()
	var units []string
	for _, p := range paths {
		// The event loops of other systems, which ae.c includes, are no units.
		if name := filepath.Base(p); strings.HasPrefix(name, "variant-") || strings.HasPrefix(name, "ae_") {
			continue
		}
		rel, _ := filepath.Rel(b.work, p)
		units = append(units, rel)
	}
	if *files > 0 {
		units = units[:min(*files, len(units))]
	}
	type way struct {
		name    string
		jobs    int
		command func(args ...string) *exec.Cmd
		took    measure.Series
	}
	plain := func(args ...string) *exec.Cmd {
		cmd := exec.Command("/usr/bin/gcc", args...)
		cmd.Dir, cmd.Env = b.work, plainEnv()
		return cmd
	}
	peer := func(pump bool) func(args ...string) *exec.Cmd {
		return func(args ...string) *exec.Cmd {
			cmd := b.peer.command(b.peer.server, pump, append([]string{"gcc"}, args...)...)
			cmd.Dir = b.work
			return cmd
		}
	}
	ways := []*way{
		{name: "plain", jobs: 2, command: plain},
		{name: "through a worker", jobs: 4, command: func(args ...string) *exec.Cmd { return b.through(three, "gcc", args...) }},
		{name: "distcc", jobs: 4, command: peer(false)},
	}
	if b.peer.pump != "" {
		ways = append(ways, &way{name: "distcc, pump", jobs: 4, command: peer(true)})
	}
	for i := range *repeats {
		for _, w := range ways {
			began := time.Now()
			err := parallel(ctx, w.jobs, len(units), func(k int) error {
				// Another macro each time, so that it is a miss.
				args := append(measure.RedisFlags(dir), fmt.Sprintf("-DHPCC_BENCH=%d", i), "-c", units[k], "-o", fmt.Sprintf("%s.%d.o", units[k], i))
				_, err := measure.Timed(w.command(args...))
				return err
			})
			if err != nil {
				return fmt.Errorf("redis, %s: %w", w.name, err)
			}
			w.took = append(w.took, time.Since(began))
			if *verbose {
				fmt.Fprintln(os.Stderr, w.name, w.took[i])
			}
		}
	}
	s, err := three.Stats()
	if err != nil {
		return err
	}
	if s.Misses != len(units)**repeats {
		return fmt.Errorf("%d compiles of redis were %d misses", len(units)**repeats, s.Misses)
	}
	fmt.Fprintf(os.Stdout, "| redis, %d C files, %d times | seconds, median (least) | ratio to plain, of the least |\n|---|---|---|\n", len(units), *repeats)
	for _, w := range ways {
		fmt.Fprintf(os.Stdout, "| %s, -j%d | %.1f (%.1f) | %s |\n", w.name, w.jobs, w.took.Median().Seconds(), w.took.Least().Seconds(), measure.Ratio(w.took.Least(), ways[0].took.Least()))
	}
	return nil
}

// parallel calls f for 0 to n-1, as many at once, and returns one of the errors.
func parallel(ctx context.Context, jobs, n int, f func(int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan int)
	var all sync.WaitGroup
	for range jobs {
		all.Go(func() {
			for i := range work {
				if err := f(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		work <- i
	}
	close(work)
	all.Wait()
	return context.Cause(ctx)
}
