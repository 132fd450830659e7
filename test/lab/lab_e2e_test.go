//go:build e2e

package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/guest"
	"hpcc.dev/hpcc/internal/rootfs"
	"hpcc.dev/hpcc/test/images"
)

// leaveNothing gives the test temporary files of its own, and sees at its end
// that nothing is left: files, or a QEMU, whose command line names its files.
func leaveNothing(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if out, err := exec.Command("pgrep", "-f", "qemu-system.*"+dir).Output(); err == nil {
			t.Errorf("QEMU is left running: %s", out)
		}
	})
}

// TestInside runs inside_test.go: the real Firecracker under the real jailer
// boots both guest kernels.
func TestInside(t *testing.T) {
	ctx := t.Context()
	files, err := Machine(ctx)
	if err != nil {
		t.Fatal(err)
	}
	init, err := Guest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	distribution, err := DistributionKit(ctx, init)
	if err != nil {
		t.Fatal(err)
	}
	if files["lab-init"], err = BuildProgram(ctx, "hpcc.dev/hpcc/test/lab/init"); err != nil {
		t.Fatal(err)
	}
	files["distribution/vmlinux"], files["distribution/initrd"] = distribution.Kernel, distribution.Initrd
	root := rootImage(t)
	files["root.img"] = root.Path
	sum, block := fileOf(t, root.Path)
	RunTests(t, "hpcc.dev/hpcc/test/lab", Job{
		Files: files, Timeout: 40 * time.Minute,
		Env: []string{
			fmt.Sprintf("ROOT_BLOCKS=%d", root.DataBlocks), "ROOT_HASH=" + root.RootHash, "ROOT_SALT=" + root.Salt,
			"ROOT_FILE_SHA256=" + sum, "ROOT_FILE_BLOCK=" + block,
		},
	})
}

// rootImage is the root file system of the test image with gcc.
func rootImage(t *testing.T) rootfs.Image {
	t.Helper()
	img, err := images.GCC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	src, closer, err := rootfs.Layout(img.Layout, img.Tag)
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	store, err := rootfs.Open(rootfs.Options{Dir: filepath.Join(t.TempDir(), "images")})
	if err != nil {
		t.Fatal(err)
	}
	root, err := store.Build(t.Context(), src, func(rootfs.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// fileOf returns the digest of the file that guestinit reads, and its first
// block in the image, as debugfs sees them, which has nothing in common with
// what wrote the image.
func fileOf(t *testing.T, image string) (sum, block string) {
	t.Helper()
	const file = "/usr/lib/gcc/x86_64-linux-gnu/12/include/stddef.h"
	ask := func(question string) []byte {
		out, err := exec.Command("debugfs", "-R", question+" "+file, image).Output()
		if err != nil || len(out) < 2 {
			t.Fatalf("debugfs: %q, %v", out, err)
		}
		return out
	}
	return fmt.Sprintf("%x", sha256.Sum256(ask("cat"))), strings.Fields(string(ask("blocks")))[0]
}

// The agent's calls to the device mapper, judged by a kernel that has one.
func TestDeviceMapper(t *testing.T) {
	RunTests(t, "hpcc.dev/hpcc/agent/internal/dm", Job{In: Software, Timeout: 15 * time.Minute})
}

// What limits a job by its control group: on this machine there may be none of
// version 2, or none with controllers.
func TestLimitsOfGroup(t *testing.T) {
	leaveNothing(t)
	RunTests(t, "hpcc.dev/hpcc/agent/internal/job", Job{In: Software, Args: []string{"-test.run", "Group"}, Timeout: 20 * time.Minute})
}

// TestSoftwareHost runs on every machine, whatever KVM it has.
func TestSoftwareHost(t *testing.T) {
	leaveNothing(t)
	input := filepath.Join(t.TempDir(), "input")
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	if err := os.WriteFile(input, content, 0o644); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	var stdout, stderr bytes.Buffer
	r, err := Run(t.Context(), Job{
		In: Software, Program: "/bin/busybox", Timeout: 15 * time.Minute,
		Args: []string{"sh", "-c", `set -e
			[ -c /dev/kvm ]; [ "$(nproc)" = 1 ]; [ "$(id -u)" = 0 ]
			grep -q '^/dev/vda /data xfs' /proc/mounts; grep -q '^tmpfs / tmpfs' /proc/mounts
			for c in memory pids cpu; do grep -qw $c /sys/fs/cgroup/cgroup.subtree_control; done
			cp a/b/input out/; mkdir out/empty; echo "to stdout: $X"; echo to stderr >&2
			kill -9 $$`},
		Env: []string{"X=y z"}, Files: map[string]string{"a/b/input": input, "a/c": input},
		Collect: out, Stdout: &stdout, Stderr: &stderr, Log: func(line string) { t.Log(line) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Environment != Software || r.Status != 128+9 || stdout.String() != "to stdout: y z\n" || stderr.String() != "to stderr\n" {
		t.Errorf("%+v\nstdout %q\nstderr %q", r, stdout.Bytes(), stderr.Bytes())
	}
	if got, err := os.ReadFile(filepath.Join(out, "input")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	if info, err := os.Stat(filepath.Join(out, "empty")); err != nil || !info.IsDir() {
		t.Errorf("an empty directory did not come back: %v", err)
	}
}

// A job that is cancelled, or takes too long, ends at once, and its machine too.
func TestSoftwareHostTimeout(t *testing.T) {
	leaveNothing(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cancelled := time.Time{}
	_, err := Run(ctx, Job{
		In: Software, Program: "/bin/busybox", Args: []string{"sh", "-c", "echo ready; sleep 1000"}, Timeout: 15 * time.Minute,
		Stdout: writerFunc(func([]byte) { cancelled = time.Now(); cancel() }),
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	if took := time.Since(cancelled); cancelled.IsZero() || took > 2*time.Minute {
		t.Errorf("ended %v after it was cancelled", took)
	}
	// While the host is being made, and while it starts or runs.
	for _, timeout := range []time.Duration{100 * time.Millisecond, 3 * time.Second} {
		_, err = Run(t.Context(), Job{In: Software, Program: "/bin/busybox", Args: []string{"sleep", "1000"}, Timeout: timeout})
		if err == nil || !strings.Contains(err.Error(), "not done after "+timeout.String()) {
			t.Errorf("timeout: %v", err)
		}
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// The order in which modules are loaded is judged by depmod.
func TestModuleOrder(t *testing.T) {
	k, err := hostKernel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "lib/modules"), 0o755); err != nil {
		t.Fatal(err)
	}
	// depmod writes into the directory: it gets its own, of links.
	if out, err := exec.Command("cp", "-al", k.modules, filepath.Join(dir, "lib/modules")).CombinedOutput(); err != nil {
		if out, err := exec.Command("cp", "-a", k.modules, filepath.Join(dir, "lib/modules")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		_ = out
	}
	if out, err := exec.Command("/bin/busybox", "depmod", "-b", dir, k.version).CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v: %s", err, out)
	}
	dep, err := os.ReadFile(filepath.Join(dir, "lib/modules", k.version, "modules.dep"))
	if err != nil {
		t.Fatal(err)
	}
	name := func(path string) string {
		return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
	}
	needs := make(map[string][]string)
	for line := range strings.Lines(string(dep)) {
		of, list, _ := strings.Cut(line, ":")
		for _, path := range strings.Fields(list) {
			needs[name(of)] = append(needs[name(of)], name(path))
		}
	}
	wanted := append([]string{"dm_verity", "overlay", "vmw_vsock_virtio_transport"}, hostModules...)
	modules, err := guest.FindModules(k.modules, wanted)
	if err != nil {
		t.Fatal(err)
	}
	loaded := make(map[string]bool)
	closure := make(map[string]bool)
	for _, w := range wanted {
		closure[w] = true
		for _, n := range needs[w] {
			closure[n] = true
		}
	}
	for _, m := range modules {
		for _, n := range needs[m.Name] {
			if !loaded[n] {
				t.Errorf("%s is loaded before %s, which it needs", m.Name, n)
			}
		}
		if !closure[m.Name] {
			t.Errorf("%s is loaded, and nothing needs it", m.Name)
		}
		loaded[m.Name] = true
	}
	for n := range closure {
		if !loaded[n] {
			t.Errorf("%s is not loaded", n)
		}
	}
	if _, err := guest.FindModules(k.modules, []string{"no_such_module"}); err == nil {
		t.Error("a module that is not there is found")
	}
}
