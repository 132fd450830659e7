//go:build linux

// Demo shows hpcc at work on any Linux machine.
//
//	go run ./test/lab/demo BIN [UNIT…]
//
// is make demo: scheduler, worker and clients, from nothing (chain.go). BIN has
// hpcc's programs; UNITs are the sources of lua to build, all by default.
//
//	go run ./test/lab/demo -machine [-distribution] BIN
//
// is make demo-vm, the machine alone: it makes an image with gcc and a guest kit,
// boots them in Firecracker under its jailer, compiles a C program there, and
// shows that the machine has no network. With -distribution the kernel is Debian's
// own.
//
// What happens where Firecracker works is test/lab/demo/chain and
// test/lab/demo/machine.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"hpcc.dev/hpcc/internal/rootfs"
	"hpcc.dev/hpcc/test/images"
	"hpcc.dev/hpcc/test/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }

func demo(ctx context.Context) error {
	machine := flag.Bool("machine", false, "show the machine alone")
	distribution := flag.Bool("distribution", false, "boot Debian's kernel instead of hpcc's")
	flag.Parse()
	if flag.NArg() == 0 {
		return errors.New("where are hpcc's programs? make demo says it")
	}
	dir, err := os.MkdirTemp("", "hpcc-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin := flag.Arg(0)
	if *machine {
		return vm(ctx, dir, filepath.Join(bin, "hpcc-agent"), *distribution)
	}
	return chain(ctx, dir, bin, flag.Args()[1:])
}

// vm shows a machine with the agent.
func vm(ctx context.Context, dir, agent string, distribution bool) error {
	say("1. Guest kit: a kernel, hpcc-agent as its first process")
	makeKit := lab.Kit
	if distribution {
		makeKit = lab.DistributionKit
	}
	kit, err := makeKit(ctx, agent)
	if err != nil {
		return err
	}
	say("   kernel %s sha256:%.12s…, initramfs sha256:%.12s…", kit.KernelVersion, kit.KernelDigest.Hex(), kit.InitrdDigest.Hex())

	say("2. Image: gcc, made by mmdebstrap, as one verified ext4 file")
	img, err := images.GCC(ctx)
	if err != nil {
		return err
	}
	root, took, err := build(ctx, img, filepath.Join(dir, "images"))
	if err != nil {
		return err
	}
	say("   %.19s…, %d MB in %.1f s, root hash %.12s…", root.Digest, root.Size>>20, took.Seconds(), root.RootHash)

	firecracker, jailer, err := lab.Firecracker(ctx)
	if err != nil {
		return err
	}
	helper, err := lab.BuildProgram(ctx, "hpcc.dev/hpcc/cmd/hpcc-jail")
	if err != nil {
		return err
	}
	machine, err := lab.BuildProgram(ctx, "hpcc.dev/hpcc/test/lab/demo/machine")
	if err != nil {
		return err
	}
	// The machine's program gets kit and image as they are described here.
	spec, err := json.Marshal(map[string]any{"kit": kit, "kernel_digest": kit.KernelDigest.String(), "initrd_digest": kit.InitrdDigest.String(), "root": root})
	if err != nil {
		return err
	}
	specFile := filepath.Join(dir, "spec.json")
	if err := os.WriteFile(specFile, spec, 0o644); err != nil {
		return err
	}
	say("3. A place where Firecracker works")
	return run(ctx, lab.Job{
		Program: machine, Timeout: 45 * time.Minute,
		Files: map[string]string{
			"firecracker": firecracker, "jailer": jailer, "hpcc-jail": helper,
			"vmlinux": kit.Kernel, "initrd": kit.Initrd, "root.img": root.Path, "spec.json": specFile,
		},
	})
}

// run runs the part of a demo that is where Firecracker works.
func run(ctx context.Context, job lab.Job) error {
	job.Stdout, job.Stderr = os.Stdout, os.Stderr
	job.Log = func(line string) { say("   %s", line) }
	r, err := lab.Run(ctx, job)
	if err != nil {
		return err
	}
	if r.Status != 0 {
		return fmt.Errorf("the part in the %s ended with status %d", r.Environment, r.Status)
	}
	say("Done in the %s. Nothing is left running.", r.Environment)
	return nil
}

func build(ctx context.Context, img images.Image, dir string) (rootfs.Image, time.Duration, error) {
	src, closer, err := rootfs.Layout(img.Layout, img.Tag)
	if err != nil {
		return rootfs.Image{}, 0, err
	}
	defer func() { _ = closer.Close() }()
	store, err := rootfs.Open(rootfs.Options{Dir: dir})
	if err != nil {
		return rootfs.Image{}, 0, err
	}
	began := time.Now()
	root, err := store.Build(ctx, src, func(rootfs.Progress) {})
	return root, time.Since(began), err
}
