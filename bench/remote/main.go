//go:build linux

// The part of the benchmark that measures compiles on workers: the whole chain on
// loopback (test/chain: scheduler, worker without isolation, client, daemon,
// wrapper), the plain compiler and distcc, in turn, round by round, in one run.
// It needs root, as the chain does, and prints tables in Markdown:
//
//	go run ./bench/remote -bin bin                 all
//	go run ./bench/remote -bin bin -rounds 5 small  one part of: small, medium, cxx, redis
//
// bench/run calls it.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"syscall"
	"time"

	"hpcc.dev/hpcc/test/chain"
)

var (
	bin     = flag.String("bin", "bin", "directory of hpcc, hpccd and hpcc-agent")
	source  = flag.String("redis", "", "redis' unpacked source")
	unit    = flag.String("cc", "bench/unit.cc", "a C++ unit with heavy headers")
	rounds  = flag.Int("rounds", 60, "how often the small compile is timed")
	larger  = flag.Int("larger", 10, "how often the larger compiles are timed")
	files   = flag.Int("files", 0, "how many of redis' C files are built; 0 for all")
	repeats = flag.Int("repeats", 3, "how often redis is built by each")
	profile = flag.String("cpuprofile", "", "file for a profile of the worker, which runs in this process")
	verbose = flag.Bool("v", false, "print each time")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench/remote:", err)
		stop()
		os.Exit(1)
	}
}

// bench is what all parts use.
type bench struct {
	work  string // a project's root
	chain *chain.Chain
	peer  *distcc
}

func run(ctx context.Context, parts []string) (err error) {
	if os.Getuid() != 0 {
		return fmt.Errorf("the agent makes mounts and namespaces: run it as root")
	}
	programs, err := filepath.Abs(*bin)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "hpcc-bench-remote-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	// distccd is another user.
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(work+"/.git", 0o755); err != nil {
		return err
	}
	b := &bench{work: work}
	start, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	b.chain, err = chain.Start(start, chain.Options{Bin: programs, Workers: 1, VCPUs: 4, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}, "one", "two", "three")
	if err != nil {
		return err
	}
	defer func() {
		if e := b.chain.Stop(); err == nil {
			err = e
		}
	}()
	if b.peer, err = startDistcc(start, work); err != nil {
		return err
	}
	defer b.peer.stop()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	wants := func(part string) bool { return len(parts) == 0 || slices.Contains(parts, part) }
	if err := b.miss(ctx, wants); err != nil {
		return err
	}
	if wants("redis") {
		return b.redis(ctx)
	}
	return nil
}
