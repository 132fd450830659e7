// Package lab runs a program in an environment where Firecracker and its jailer
// work, on any Linux machine.
//
// Where /dev/kvm can boot the guest kernel, which is found out by booting it
// (the device may exist and still not run a stock kernel), the environment is a
// set of fresh namespaces on this machine, and needs root. Anywhere else it is
// the software-KVM host: a virtual machine that QEMU emulates without KVM's
// help, with a processor that has virtualisation of its own, in which Debian's
// kernel offers a /dev/kvm. That is slow, but it is the real Firecracker, the
// real jailer and a real guest. No root is needed for it.
//
// Both look the same to the program, which must be static (a Go test binary
// built without cgo serves well, see BuildTest):
//
//   - It runs as root in a root file system that is a tmpfs with busybox (/bin/sh
//     and all its tools) and nothing else: /dev, /dev/shm, /proc, /sys, /run,
//     /tmp, control groups of version 2 at /sys/fs/cgroup with memory, pids and
//     cpu enabled for children.
//   - /data holds the files it was given, and is its working directory; in the
//     software-KVM host it is XFS, which has reflinks. What it leaves in
//     /data/out comes back.
//   - There is no network but the loopback.
//   - Its processes end with it, and mounts and files with the environment.
//
// A run that gives no sign of life is ended and repeated once: QEMU's emulation
// of nested virtualisation has been seen to lock up, though not with one
// processor, which is what the host has.
//
// What the lab needs (Debian's kernel, Firecracker, the guest kernel) it makes
// or downloads when it is not there and keeps in ${HPCC_TEST_CACHE:-~/.cache/
// hpcc-test}; digests are pinned or signatures checked.
package lab
