//go:build unix

package main

import (
	"net"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/ipc"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// BenchmarkHit measures what hpcc itself costs a compile: a hit that the
// daemon answers at once, beside a Go program that does nothing. The two take
// turns, so that they meet the same machine; "ratio" is of the medians of user
// and system time, and is to stay below 1.3.
func BenchmarkHit(b *testing.B) {
	dir := b.TempDir()
	source := dir + "/empty.go"
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	empty, hpcc := build(b, source), build(b, ".")
	serveHits(b, dir)
	if err := os.WriteFile(dir+"/gcc", []byte("#!/bin/sh\n"), 0o700); err != nil {
		b.Fatal(err)
	}
	env := append(os.Environ(), "HPCC_CONFIG_DIR="+dir, "PATH="+dir+":"+os.Getenv("PATH"))

	measure := func(args ...string) (cpu time.Duration) {
		cmd := &exec.Cmd{Path: args[0], Args: args, Env: env, Dir: dir}
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
		return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	var none, hit []time.Duration
	for b.Loop() {
		none = append(none, measure(empty))
		hit = append(hit, measure(hpcc, "gcc", "-O2", "-c", "hello.c", "-o", "hello.o"))
	}
	median := func(d []time.Duration) float64 {
		slices.Sort(d)
		return float64(d[len(d)/2].Microseconds())
	}
	b.ReportMetric(median(none), "empty-us")
	b.ReportMetric(median(hit), "hit-us")
	b.ReportMetric(median(hit)/median(none), "ratio")
}

// serveHits answers each compile at once with success and nothing to print.
func serveHits(b *testing.B, dir string) {
	socket := dir + "/socket"
	listen, err := net.Listen("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { listen.Close() })
	e := &ipc.Endpoint{Socket: socket, Pid: os.Getpid(), Token: make([]byte, ipc.TokenSize)}
	if err := ipc.PublishEndpoint(dir, e); err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			stream, err := listen.Accept()
			if err != nil {
				return
			}
			c := ipc.NewServerConn(stream)
			if c.Receive(new(ipcv1.ClientMessage)) == nil {
				c.Send(&ipcv1.ServerMessage{Done: &ipcv1.Done{}})
			}
			c.Close()
		}
	}()
}
