//go:build linux

// The part of the benchmark that measures what the wrapper itself costs a
// compile: processor time of hpcc on a hit, against a Go program that does
// nothing. They take turns, so that they meet the same machine; what is printed
// are medians, in seconds:
//
//	go run ./bench/start -hpcc bin/hpcc -empty PROGRAM COMMAND…
//
//	empty 0.000790
//	answered 0.001020   a stand-in for the daemon answers at once
//	waiting 0.001250    the daemon of the environment answers COMMAND
//
// The second is the wrapper's own. The third adds what it costs to wait: while
// the daemon works, the Go runtime of the wrapper looks some ten times a
// millisecond whether there is something to do.
//
// bench/run calls it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"

	"hpcc.dev/hpcc/bench/measure"
	"hpcc.dev/hpcc/internal/ipc"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

var (
	hpcc  = flag.String("hpcc", "bin/hpcc", "the wrapper")
	empty = flag.String("empty", "", "the empty program")
	runs  = flag.Int("runs", 1000, "how often each is started")
)

// warmup is how many first starts do not count.
const warmup = 20

func main() {
	flag.Parse()
	if err := run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench/start:", err)
		os.Exit(1)
	}
}

func run(command []string) error {
	if *empty == "" || len(command) == 0 {
		return errors.New("an empty program and a command are needed")
	}
	dir, err := os.MkdirTemp("", "hpcc-start")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// Copies, as an installed program is one. What a linker has just written may lie
	// in the page cache page by page; that costs hpcc's start a tenth more, and the
	// smaller program's a twentieth.
	programs := [2]string{*hpcc, *empty}
	for i, name := range [2]string{"hpcc", "empty"} {
		to := filepath.Join(dir, name)
		if err := copyProgram(to, programs[i]); err != nil {
			return err
		}
		programs[i] = to
	}
	answered, stop, err := answerAtOnce(dir)
	if err != nil {
		return err
	}
	defer stop()

	hit := append([]string{programs[0]}, command...)
	measured := []struct {
		name  string
		args  []string
		env   []string // nil: this process's own
		times measure.Series
	}{
		{name: "empty", args: []string{programs[1]}},
		{name: "answered", args: hit, env: append(os.Environ(), "HPCC_CONFIG_DIR="+dir)},
		{name: "waiting", args: hit},
	}
	for round := range warmup + *runs {
		for i := range measured {
			m := &measured[i]
			cmd := &exec.Cmd{Path: m.args[0], Args: m.args, Env: m.env, Stderr: os.Stderr}
			if err := cmd.Run(); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			if round >= warmup {
				m.times = append(m.times, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
			}
		}
	}
	if n := answered.Load(); n != int64(warmup+*runs) {
		return fmt.Errorf("%d answers in %d runs: the wrapper went on by itself", n, warmup+*runs)
	}
	for _, m := range measured {
		fmt.Fprintf(os.Stdout, "%s %.6f\n", m.name, m.times.Median().Seconds())
	}
	return nil
}

func copyProgram(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o700)
}

// answerAtOnce answers each compile with success and nothing to print, for who
// has dir as the configuration directory, until stop is called. It counts them.
func answerAtOnce(dir string) (answered *atomic.Int64, stop func(), err error) {
	e := &ipc.Endpoint{Socket: filepath.Join(dir, "socket"), Pid: os.Getpid(), Token: make([]byte, ipc.TokenSize)}
	listen, err := net.Listen("unix", e.Socket)
	if err != nil {
		return nil, nil, err
	}
	if err := ipc.PublishEndpoint(dir, e); err != nil {
		listen.Close()
		return nil, nil, err
	}
	answered = new(atomic.Int64)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			stream, err := listen.Accept()
			if err != nil {
				return
			}
			c := ipc.NewServerConn(stream)
			if c.Receive(new(ipcv1.ClientMessage)) == nil && c.Send(&ipcv1.ServerMessage{Done: &ipcv1.Done{}}) == nil {
				answered.Add(1)
			}
			_ = c.Close()
		}
	}()
	return answered, func() { listen.Close(); <-ended }, nil
}
