//go:build lab && linux

package firecracker

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/internal/vm/vmtest"
)

// withAgent is the runtime whose machines have hpcc-agent, and the tenant's own
// copy of the gcc image.
func withAgent(t *testing.T) (*Runtime, vm.Rootfs) {
	t.Helper()
	r := *newRuntime(t)
	r.Initrd = "/data/agent-initrd"
	r.InitrdDigest = fileDigest(t, r.Initrd)
	return &r, own(t, "gcc", input(t).GCC)
}

// own is a copy of an image that is the worker's.
func own(t *testing.T, name string, root vm.Rootfs) vm.Rootfs {
	t.Helper()
	path := filepath.Join(workDir, strings.ReplaceAll(t.Name(), "/", "-")+"-"+name+".img")
	if err := Clone(path, root.Path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	root.Path = path
	return root
}

// reference compiles with the image's own compiler, in a chroot of this host.
func reference(t *testing.T, files map[string]string, argv []string, output string) []byte {
	t.Helper()
	var script strings.Builder
	script.WriteString(`set -e
		mkdir -p /run/ref/lower /run/ref/upper /run/ref/root
		mount -t tmpfs ref /run/ref/upper; mkdir /run/ref/upper/u /run/ref/upper/w
		mount -o loop,ro -t ext4 /data/gcc.img /run/ref/lower
		mount -t overlay -o lowerdir=/run/ref/lower,upperdir=/run/ref/upper/u,workdir=/run/ref/upper/w ref /run/ref/root
		trap 'cd /; umount /run/ref/root /run/ref/lower /run/ref/upper' EXIT
		cd /run/ref/root; mkdir -p hpcc/src dev tmp; mknod dev/null c 1 3 2>/dev/null || true
`)
	for name, text := range files {
		fmt.Fprintf(&script, "mkdir -p $(dirname hpcc/src/%[1]s); echo %[2]s | base64 -d >hpcc/src/%[1]s\n", name, base64.StdEncoding.EncodeToString([]byte(text)))
	}
	fmt.Fprintf(&script, "chroot . /usr/bin/env -i PATH=/usr/bin:/bin LC_ALL=C.UTF-8 /bin/sh -c 'cd %s && %s' >&2 && base64 hpcc/src/%s\n", vmtest.Root, strings.Join(argv, " "), output)
	data, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(asRoot(t, script.String()), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Objects are those that the same image's compiler makes outside.
func TestObjects(t *testing.T) {
	r, root := withAgent(t)
	m, err := r.Start(within(t), vm.Spec{ID: "objects", Tenant: "tenant", Rootfs: root, VCPUs: 1, MemoryMiB: 512})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	files := map[string]string{
		"a.c":     "#include <stdio.h>\n#include \"inc/b.h\"\nint main(void) { printf(\"%d\\n\", B); return 0; }\n",
		"inc/b.h": "#define B 42\n",
		"a.cc":    "#include <new>\n#include \"inc/b.h\"\ntemplate <class T> struct S { T v; T f() const { return v * B; } };\nint f(int x) { return S<int>{x}.f(); }\n",
	}
	for _, argv := range [][]string{
		{"gcc", "-O2", "-g", "-c", "a.c", "-o", "a.o"},
		{"g++", "-O2", "-g", "-c", "a.cc", "-o", "a.o"},
	} {
		job, blobs := vmtest.NewJob(files, argv...)
		job.Outputs = []string{vmtest.Root + "/a.o"}
		ran := vmtest.Exec(t, m, job, blobs)
		if ran.ExitCode != 0 || len(ran.Outputs) != 1 {
			t.Fatalf("%v: %+v\n%s", argv, ran.Result, ran.Stderr.String())
		}
		want := reference(t, files, argv, "a.o")
		if got := ran.Files[vmtest.Root+"/a.o"].Bytes(); len(want) == 0 || !bytes.Equal(got, want) {
			t.Errorf("%v: %d bytes, and %d outside, differ", argv, len(got), len(want))
		}
		t.Logf("%v: %d bytes, equal, after %v", argv, len(want), ran.Usage.Wall)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		t.Error(err)
	}
	nothingLeft(t)
}

// TestSuite is what every runtime passes.
func TestSuite(t *testing.T) {
	r, root := withAgent(t)
	vmtest.Run(t, vmtest.Config{
		Runtime: r, Rootfs: root, Reference: reference, Slow: 10,
		Probe: "/data/probe", Empty: own(t, "empty", input(t).Rootfs),
		NothingLeft: func(t *testing.T) { nothingLeft(t) },
	})
}

// A flipped byte of the compiler is a compile that fails, never another object.
func TestFlippedCompiler(t *testing.T) {
	r, root := withAgent(t)
	offset := input(t).CC1Block * 4096
	f, err := os.OpenFile(root.Path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, offset); err != nil {
		t.Fatal(err)
	}
	f.Close()
	m, err := r.Start(within(t), vm.Spec{ID: "flip", Tenant: "tenant", Rootfs: root, VCPUs: 1, MemoryMiB: 512})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	job, blobs := vmtest.NewJob(map[string]string{"a.c": "int x;\n"}, "gcc", "-c", "a.c", "-o", "a.o")
	job.Outputs = []string{vmtest.Root + "/a.o"}
	ran := vmtest.Exec(t, m, job, blobs)
	if ran.ExitCode == 0 || len(ran.Outputs) != 0 {
		t.Errorf("a compile by a damaged compiler: %+v\n%s", ran.Result, ran.Stderr.String())
	}
	speaks(t, m, "verity")
	// What the flipped block is no part of goes on.
	job, blobs = vmtest.Shell("echo fine")
	if ran := vmtest.Exec(t, m, job, blobs); ran.Stdout.String() != "fine\n" {
		t.Errorf("the shell: %+v", ran.Result)
	}
	if err := m.Kill(); err != nil {
		t.Error(err)
	}
	nothingLeft(t)
}

// Figures for docs/performance.md.
func TestFigures(t *testing.T) {
	r, root := withAgent(t)
	began := time.Now()
	m, err := r.Start(within(t), vm.Spec{ID: "figures", Tenant: "tenant", Rootfs: root, VCPUs: 1, MemoryMiB: 1024})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	job, blobs := vmtest.NewJob(nil, "/bin/true")
	vmtest.Exec(t, m, job, blobs)
	t.Logf("figure: boot to the end of the first Exec: %.2f s", time.Since(began).Seconds())
	big := make([]byte, 20<<20)
	for i := range big {
		big[i] = byte(i * i >> 7)
	}
	d := digest.Of(big)
	job, blobs = vmtest.NewJob(nil, "/bin/true")
	blobs[d] = big
	job.Inputs = append(job.Inputs, agentapi.Input{Path: vmtest.Root + "/big", Kind: agentapi.File, Digest: d, Mode: 0o644})
	at := time.Now()
	ran := vmtest.Exec(t, m, job, blobs)
	took := time.Since(at)
	if ran.Sent.Bytes != int64(len(big)) {
		t.Errorf("sent %d", ran.Sent.Bytes)
	}
	t.Logf("figure: %d MiB of input: %v, %.1f MB/s", len(big)>>20, took, float64(len(big))/1e6/took.Seconds())

	// The monitor's memory: all its mappings but the guest's memory.
	kib := asRoot(t, fmt.Sprintf(`awk '/^Size:/ { big = $2 >= 1024 * 1024 } /^Rss:/ { if (big) guest += $2; else own += $2 } END { print own, guest }' /proc/%d/smaps`, m.(*machine).jail.PID))
	t.Logf("figure: memory of the monitor, of the guest as far as touched (KiB): %s", kib)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	at = time.Now()
	if err := m.Stop(ctx); err != nil {
		t.Error(err)
	}
	t.Logf("figure: a clean end: %.2f s", time.Since(at).Seconds())
}
