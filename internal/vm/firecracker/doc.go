//go:build linux

// Package firecracker is the runtime whose machines are Firecracker's, each in
// a jail that hpcc-jail makes. Nothing in it is privileged: it holds open files,
// connections that the helper has made and checked, and no path below a jail.
//
// A machine has one vCPU set, one read-only drive with its dm-verity table in
// the boot arguments, one vsock device, and nothing else; before it boots, the
// monitor itself is asked whether that is so (check in machine.go).
//
// What comes from a jail is hostile: answers of the API, the console, and all
// that comes by vsock (package agentapi) are bounded, and have a time limit.
//
// Firecracker 1.12 and later 1.x releases are supported; tests run 1.12.1. In
// 1.12 snapshots are a preview: machines that shall be snapshotted need 1.13.
package firecracker
