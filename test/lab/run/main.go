// Run runs a static program, or a package's tests, in an environment where
// Firecracker works (package lab), and ends with its exit status:
//
//	go run ./test/lab/run -test hpcc.dev/hpcc/internal/vm/firecracker -- -test.v -test.run Boot
//	go run ./test/lab/run -file image.ext4=/tmp/gcc.ext4 ./program argument
//
// With -machine, /data has Firecracker (firecracker, jailer) and a guest kit
// whose /init describes the guest (vmlinux, initrd).
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"hpcc.dev/hpcc/test/lab"
)

func main() {
	job := lab.Job{Files: map[string]string{}, Stdout: os.Stdout, Stderr: os.Stderr}
	pkg := flag.String("test", "", "run the tests of this `package` (an import path), built with the tag lab")
	machine := flag.Bool("machine", false, "put Firecracker and a test guest kit into /data")
	in := flag.String("in", "", "direct or software; by default direct where it works")
	flag.StringVar(&job.Collect, "collect", "", "`directory` for what is left in /data/out")
	flag.DurationVar(&job.Timeout, "timeout", 15*time.Minute, "bound for everything")
	flag.IntVar(&job.MemoryMiB, "memory", 0, "`MiB` of memory of the software-KVM host")
	flag.Func("file", "`NAME=FILE`: a file for /data; may be given again", func(s string) error {
		name, file, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=FILE", s)
		}
		job.Files[name] = file
		return nil
	})
	flag.Parse()
	job.Log = func(line string) { fmt.Fprintln(os.Stderr, "lab:", line) }
	switch *in {
	case "":
	case "direct":
		job.In = lab.Direct
	case "software":
		job.In = lab.Software
	default:
		fail(fmt.Errorf("-in %s: direct or software", *in))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	job.Args = flag.Args()
	if *pkg != "" {
		program, err := lab.BuildTest(ctx, *pkg)
		if err != nil {
			fail(err)
		}
		job.Program = program
	} else if len(job.Args) == 0 {
		fail(fmt.Errorf("which program? see -help"))
	} else {
		job.Program, job.Args = job.Args[0], job.Args[1:]
	}
	if *machine {
		files, err := lab.Machine(ctx)
		if err != nil {
			fail(err)
		}
		for name, file := range files {
			job.Files[name] = file
		}
	}
	r, err := lab.Run(ctx, job)
	if err != nil {
		fail(err)
	}
	fmt.Fprintf(os.Stderr, "lab: %s: exit status %d after %.1f s\n", r.Environment, r.Status, r.Took.Seconds())
	os.Exit(r.Status)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "lab:", err)
	os.Exit(125)
}
