package main

import (
	"context"
	"log/slog"
	"syscall"

	"hpcc.dev/hpcc/guest"
	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/internal/vm/firecracker"
)

// newRuntime makes the runtime that the settings name; there is one.
func newRuntime(ctx context.Context, c *config.Worker, log *slog.Logger) (vm.Runtime, error) {
	kit, _, err := guest.Open(c.Firecracker.GuestKit)
	if err != nil {
		return nil, withHint(err, "build one: hpcc guest build --dir %s", c.Firecracker.GuestKit)
	}
	r, err := firecracker.New(ctx, firecracker.Config{
		Socket: c.Firecracker.Socket, Kernel: kit.Kernel, Initrd: kit.Initrd, BootArgs: kit.BootArgs,
		KernelDigest: kit.KernelDigest, InitrdDigest: kit.InitrdDigest, Log: log,
	})
	if err != nil {
		return nil, withHint(err, "hpcc-jail has to run, as root, with its socket at %s and this user's id as -client-uid", c.Firecracker.Socket)
	}
	return r, nil
}

// cloneDrive makes a tenant's own copy of an image.
func cloneDrive(to, from string) error { return firecracker.Clone(to, from) }

// keepPrivate makes files that only this user can read.
func keepPrivate() { syscall.Umask(0o077) }
