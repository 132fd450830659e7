//go:build linux

// Machine is the part of make demo-vm that runs where Firecracker works: it
// starts hpcc-jail as root, and as another user the machine, a compile in it and
// what was compiled.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/rootfs"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/internal/vm/firecracker"
)

const (
	workerUID = 990
	socket    = "/run/hpcc/jail.socket"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	run := asRoot
	if os.Getuid() != 0 {
		run = asWorker
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }

// asRoot starts the helper, and this program again as the worker's user.
func asRoot(ctx context.Context) error {
	var said bytes.Buffer
	helper := exec.CommandContext(ctx, "/data/hpcc-jail", "-socket", socket, "-base", "/data/jails", "-client-uid", fmt.Sprint(workerUID),
		"-first-uid", "100000", "-uids", "4", "-firecracker", "/data/firecracker", "-jailer", "/data/jailer")
	helper.Stderr = &said
	if err := helper.Start(); err != nil {
		return err
	}
	defer func() {
		_ = helper.Process.Signal(syscall.SIGTERM)
		_ = helper.Wait()
	}()
	// It is there before it is the worker's.
	for range 2400 {
		var st unix.Stat_t
		if unix.Stat(socket, &st) == nil && st.Uid == workerUID {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	worker := exec.CommandContext(ctx, "/proc/self/exe")
	worker.Stdout, worker.Stderr = os.Stdout, os.Stderr
	worker.Dir = "/"
	worker.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: workerUID, Gid: workerUID}}
	if err := worker.Run(); err != nil {
		return fmt.Errorf("%w\nhpcc-jail: %s", err, said.Bytes())
	}
	return nil
}

// probe is the program that is compiled: it asks its kernel for sockets.
const probe = `#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
int main(void) {
	static const struct { const char *name; int family; } ask[] = {
		{"AF_INET", AF_INET}, {"AF_INET6", AF_INET6}, {"AF_PACKET", AF_PACKET}, {"AF_VSOCK", 40}};
	int open = 0;
	for (unsigned i = 0; i < sizeof ask / sizeof *ask; i++) {
		int s = socket(ask[i].family, SOCK_STREAM, 0);
		printf("     socket(%s): %s\n", ask[i].name, s < 0 ? strerror(errno) : "open");
		open += s >= 0;
	}
	return open;
}
`

func asWorker(ctx context.Context) error {
	text, err := os.ReadFile("/data/spec.json")
	if err != nil {
		return err
	}
	var spec struct {
		Kit struct {
			BootArgs string
		} `json:"kit"`
		KernelDigest string       `json:"kernel_digest"`
		InitrdDigest string       `json:"initrd_digest"`
		Root         rootfs.Image `json:"root"`
	}
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	kernel, err := digest.Parse(spec.KernelDigest)
	if err != nil {
		return err
	}
	initrd, err := digest.Parse(spec.InitrdDigest)
	if err != nil {
		return err
	}
	runtime, err := firecracker.New(ctx, firecracker.Config{
		Socket: socket, Kernel: "/data/vmlinux", Initrd: "/data/initrd",
		KernelDigest: kernel, InitrdDigest: initrd, BootArgs: spec.Kit.BootArgs,
	})
	if err != nil {
		return err
	}
	say("4. Boot: Firecracker %s, jailed with a user of its own", runtime.Info().Version)
	began := time.Now()
	machine, err := runtime.Start(ctx, vm.Spec{
		ID: "demo", Tenant: "demo", VCPUs: 1, MemoryMiB: 1024,
		Rootfs: vm.Rootfs{Path: "/data/root.img", DataBlocks: spec.Root.DataBlocks, RootHash: spec.Root.RootHash, Salt: spec.Root.Salt},
	})
	if err != nil {
		return err
	}
	defer func() { _ = machine.Kill() }()
	say("   the agent answers after %.2f s", time.Since(began).Seconds())
	info := machine.Info()
	say("   network interfaces in the machine's configuration: %d; in the guest: %s", len(info.NICs), strings.Join(info.Agent.Interfaces, " "))
	if len(info.NICs) != 0 {
		return fmt.Errorf("network interfaces %v", info.NICs)
	}

	say("5. Compile in the machine: gcc -O2 -o probe probe.c")
	source := digest.Of([]byte(probe))
	job := agentapi.Job{
		Argv: []string{"gcc", "-O2", "-o", "/w/probe", "/w/probe.c"},
		Env:  []string{"PATH=/usr/bin", "LC_ALL=C.UTF-8"}, Cwd: "/w", Roots: []string{"/w"},
		Inputs:  []agentapi.Input{{Path: "/w/probe.c", Kind: agentapi.File, Digest: source, Mode: 0o644, ModTime: time.Unix(0, 0)}},
		Outputs: []string{"/w/probe"},
	}
	blobs := blobs{source: []byte(probe)}
	var program []byte
	for _, which := range []string{"first, from a cold image", "again"} {
		began = time.Now()
		out, r, err := execute(ctx, machine.Client(), job, blobs)
		if err != nil {
			return err
		}
		if r.ExitCode != 0 || len(r.Outputs) != 1 {
			return fmt.Errorf("gcc ended with status %d", r.ExitCode)
		}
		if program != nil && !bytes.Equal(program, out) {
			return errors.New("two compiles gave two programs")
		}
		program = out
		say("   %s: %.2f s, gcc itself %.2f s; %d bytes sha256:%.12s…", which, time.Since(began).Seconds(), r.Usage.Wall.Seconds(), len(out), r.Outputs[0].Digest.Hex())
		if which == "again" {
			say("   looked up below /w: %s", lookups(r))
		}
	}

	say("6. What it finds in the machine")
	made := digest.Of(program)
	blobs[made] = program
	_, r, err := execute(ctx, machine.Client(), agentapi.Job{
		Argv: []string{"/w/probe"}, Env: []string{"LC_ALL=C.UTF-8"}, Cwd: "/w", Roots: []string{"/w"},
		Inputs: []agentapi.Input{{Path: "/w/probe", Kind: agentapi.File, Digest: made, Mode: 0o755, ModTime: time.Unix(0, 0)}},
	}, blobs)
	if err != nil {
		return err
	}
	if r.ExitCode != 0 {
		return fmt.Errorf("%d sockets could be opened", r.ExitCode)
	}
	began = time.Now()
	if err := machine.Stop(ctx); err != nil {
		return err
	}
	say("7. Stopped in %.2f s", time.Since(began).Seconds())
	return nil
}

func lookups(r *agentapi.Result) string {
	var all []string
	for _, l := range r.Lookups {
		all = append(all, fmt.Sprintf("%s (%v)", l.Path, l.Found))
	}
	return strings.Join(all, ", ")
}

// execute runs a job, shows what it prints, and returns its output.
func execute(ctx context.Context, c *agentapi.Client, job agentapi.Job, b blobs) ([]byte, *agentapi.Result, error) {
	var out bytes.Buffer
	r, err := c.Exec(ctx, job, b, agentapi.Sinks{
		Stdout: os.Stdout, Stderr: os.Stderr,
		Output: func(string) (io.Writer, error) { return &out, nil },
	})
	return out.Bytes(), r, err
}

// blobs are the jobs' inputs.
type blobs map[digest.Digest][]byte

func (b blobs) Open(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b[d])), nil
}
