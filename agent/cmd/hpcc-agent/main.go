// Command hpcc-agent is the first process of the virtual machine in which a
// tenant's compiles run. It mounts the tenant's image, listens for the host on a
// vsock port, runs each job that the host describes in a world of its own, and
// ends the machine when it is told to.
//
// It is a module of its own, so that a reviewer reads a dependency list of a few
// lines. What a job is and how it is kept in stands in package job; how its
// lookups are recorded in package lookup.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/agent/internal/blob"
	"hpcc.dev/hpcc/agent/internal/boot"
	"hpcc.dev/hpcc/agent/internal/job"
	"hpcc.dev/hpcc/agent/internal/server"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// Version is set by the build.
var Version = "dev"

func main() {
	if len(os.Args) > 0 && os.Args[0] == job.HelperName {
		job.Helper()
	}
	// A recorder waits in the kernel between a job's calls. Of a single P the
	// runtime deprives it each time, and has it fetch that back; where another one
	// is idle it does not. On one processor that is a fifth of what recording
	// costs.
	if runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
	switch {
	case os.Getpid() == 1:
		machine()
	default:
		if err := process(); err != nil {
			fmt.Fprintln(os.Stderr, "hpcc-agent:", err)
			os.Exit(1)
		}
	}
}

// machine is the whole life of the first process. The kernel panics if it ends,
// so it ends the machine: whether all went well or not, a machine without an
// agent is of no use. With reboot=k a restart is how the monitor is told.
func machine() {
	if err := serveMachine(); err != nil {
		fmt.Fprintln(os.Stderr, "hpcc-agent: fatal:", err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	// Where that did nothing the monitor has to kill the machine; a panic here
	// would only hide why.
	select {}
}

func serveMachine() error {
	m, err := boot.Boot(boot.Linux{})
	if err != nil {
		return err
	}
	// Nothing here goes through a network: the loopback interface stays down.
	listener, err := server.ListenVsock(agentv1.Port, agentv1.HostCID)
	if err != nil {
		return err
	}
	store, err := blob.New(boot.Blobs, m.StoreBytes)
	if err != nil {
		return err
	}
	s := server.New(server.Config{
		Version: Version, Store: store, Verity: m.Verity, Cgroup: true,
		Runner: job.New(job.Config{Image: boot.Image, Stage: boot.Stage, Cgroup: boot.Cgroup, Store: store}),
		SetClock: func(unixNanos int64) error {
			t := unix.NsecToTimespec(unixNanos)
			return unix.ClockSettime(unix.CLOCK_REALTIME, &t)
		},
	})
	return s.Serve(context.Background(), listener)
}

// process runs the agent without a machine, as the tests do: it isolates jobs
// from each other, but they share the kernel with everything else.
func process() error {
	flags := flag.NewFlagSet("hpcc-agent", flag.ExitOnError)
	socket := flags.String("listen", "", "Unix `socket` to listen on")
	image := flags.String("image", "", "`directory` with the root file system of jobs")
	state := flags.String("state", "", "empty `directory` for blobs and mounts")
	limit := flags.Int64("store", 1<<30, "limit of the blob store in `bytes`")
	cgroup := flags.String("cgroup", "", "cgroup v2 `directory` for jobs, with memory and pids enabled for children")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "hpcc-agent is the first process of hpcc's virtual machines. For tests it runs as a plain process, as root:")
		flags.PrintDefaults()
	}
	_ = flags.Parse(os.Args[1:])
	if *socket == "" || *image == "" || *state == "" {
		return fmt.Errorf("this is no virtual machine: -listen, -image and -state are needed")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	stage := filepath.Join(*state, "stage")
	if err := os.Mkdir(stage, 0o755); err != nil {
		return err
	}
	store, err := blob.New(filepath.Join(*state, "blobs"), *limit)
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", *socket)
	if err != nil {
		return err
	}
	runner := job.New(job.Config{Image: *image, Stage: stage, Cgroup: *cgroup, Store: store})
	err = server.New(server.Config{Version: Version, Store: store, Cgroup: *cgroup != "", Runner: runner}).Serve(ctx, l)
	return errors.Join(err, runner.Close())
}
