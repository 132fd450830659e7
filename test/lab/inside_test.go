//go:build lab

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/guest"
)

// These tests run in the lab.

// lacks is what hpcc's own kernel must answer to its /init, and to whoever
// comes after it.
var lacks = map[string]string{
	"socket-inet": "EAFNOSUPPORT", "socket-inet6": "EAFNOSUPPORT", "socket-packet": "EAFNOSUPPORT",
	"socket-xdp": "EAFNOSUPPORT", "socket-alg": "EAFNOSUPPORT",
	"socket-unix": "ok", "socket-vsock": "ok", "vsock-listen": "ok", "vsock-cid": "3 ok",
	// Nobody inside reaches who listens inside.
	"vsock-to-loopback": "ETIMEDOUT", "vsock-to-own": "ENODEV",
	"finit_module": "ENOSYS", "proc-modules": "ENOENT", "bpf": "ENOSYS", "io_uring_setup": "ENOSYS",
	"userfaultfd": "ENOSYS", "kexec_file_load": "ENOSYS", "iopl": "ENOSYS", "modify_ldt": "ENOSYS",
	"user-namespace": "EINVAL", "dev-mem": "ENOENT", "proc-kcore": "ENOENT",
	"interfaces": "lo", "modules": "none", "vmgenid": "1", "clocksource": "kvm-clock",
}

// has is what both kernels must have.
var has = map[string]string{
	"pid": "1", "vda": "ro1", "overlay": "ok", "cgroup2": "ok", "namespaces": "ok", "done": "yes",
	// The image's ext4 and programs work, and nothing writes to it.
	"root-mount": "ok", "root-create": "EROFS", "root-remount": "EACCES", "write-vda": "EPERM",
}

// verity is the boot arguments for the root image with its hash tree.
func verity(t *testing.T) string {
	t.Helper()
	blocks, err := strconv.Atoi(os.Getenv("ROOT_BLOCKS"))
	if err != nil {
		t.Fatal(err)
	}
	salt := os.Getenv("ROOT_SALT")
	if salt == "" {
		salt = "-"
	}
	return fmt.Sprintf(` dm-mod.create="vroot,,,ro,0 %d verity 1 /dev/vda /dev/vda 4096 4096 %d %d sha256 %s %s" hpcc.root=/dev/dm-0`,
		blocks*8, blocks, blocks+1, os.Getenv("ROOT_HASH"), salt)
}

// checkRoot holds what /init saw of the root image against the file that the
// image was made from.
func checkRoot(t *testing.T, said map[string]string) {
	t.Helper()
	if want := "ok " + os.Getenv("ROOT_FILE_SHA256"); said["root-file"] != want {
		t.Errorf("a file of the image: %q, want %q", said["root-file"], want)
	}
	if v, ok := strings.CutPrefix(said["gcc"], "ok 1"); !ok || !strings.Contains(v, ".") {
		t.Errorf("gcc: %q", said["gcc"])
	}
}

// A byte of the image that was changed is an error for who reads it, never
// other content.
func TestVerityInJail(t *testing.T) {
	if err := copyFile("/data/flipped.img", "/data/root.img"); err != nil {
		t.Fatal(err)
	}
	defer os.Remove("/data/flipped.img")
	block, err := strconv.ParseInt(os.Getenv("ROOT_FILE_BLOCK"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	image, err := os.OpenFile("/data/flipped.img", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	var b [1]byte
	if _, err := image.ReadAt(b[:], block*4096+100); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := image.WriteAt(b[:], block*4096+100); err != nil {
		t.Fatal(err)
	}
	t.Run("flipped", func(t *testing.T) {
		said := bootJailed(t, "/data/vmlinux", "/data/initrd", "/data/flipped.img", ownArgs+verity(t))
		if said["root-mount"] != "ok" || !strings.HasPrefix(said["root-file"], "EIO ") {
			t.Errorf("mounted %q, read %q, want EIO", said["root-mount"], said["root-file"])
		}
	})
	t.Run("other root hash", func(t *testing.T) {
		other := strings.ReplaceAll(verity(t), os.Getenv("ROOT_HASH"), strings.Repeat("0", 64))
		said := bootJailed(t, "/data/vmlinux", "/data/initrd", "/data/root.img", ownArgs+other)
		if said["root-mount"] != "EIO" {
			t.Errorf("mounted %q, want EIO", said["root-mount"])
		}
	})
}

func TestOwnKernelInJail(t *testing.T) {
	said := bootJailed(t, "/data/vmlinux", "/data/initrd", "/data/root.img", ownArgs+verity(t))
	if !strings.HasSuffix(said["release"], "-hpcc") {
		t.Errorf("the kernel calls itself %q", said["release"])
	}
	for _, table := range []map[string]string{has, lacks} {
		for key, want := range table {
			if said[key] != want {
				t.Errorf("%s = %q, want %q", key, said[key], want)
			}
		}
	}
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !strings.Contains(said["controllers"], c) {
			t.Errorf("no controller %s in %q", c, said["controllers"])
		}
	}
	checkRoot(t, said)
	if said["write-dm-0"] != "EPERM" {
		t.Errorf("writing to the verity device: %s", said["write-dm-0"])
	}
	// The generic one, and one by the processor's instructions.
	if said["sha256-drivers"] < "2" {
		t.Errorf("%s drivers for SHA-256", said["sha256-drivers"])
	}
}

func TestDistributionKernelInJail(t *testing.T) {
	said := bootJailed(t, "/data/distribution/vmlinux", "/data/distribution/initrd", "/data/root.img", distributionArgs+" hpcc.root=/dev/vda")
	if !strings.HasSuffix(said["release"], "-cloud-amd64") {
		t.Errorf("the kernel calls itself %q", said["release"])
	}
	for key, want := range has {
		if said[key] != want {
			t.Errorf("%s = %q, want %q", key, said[key], want)
		}
	}
	for key, want := range map[string]string{"interfaces": "lo", "socket-vsock": "ok", "vsock-cid": "3 ok", "vsock-to-own": "ENODEV"} {
		if said[key] != want {
			t.Errorf("%s = %q, want %q", key, said[key], want)
		}
	}
	checkRoot(t, said)
	// virtio_mmio, virtio_blk, vsock's transport, overlay, dm_verity at least.
	if n := 0; said["modules"] < "5" {
		_, _ = fmt.Sscan(said["modules"], &n)
		if n < 5 {
			t.Errorf("loaded %q modules", said["modules"])
		}
	}
}

const (
	ownArgs          = "console=ttyS0 quiet loglevel=4 reboot=k panic=1 rdinit=/init"
	distributionArgs = ownArgs + " i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd"
)

// bootJailed boots a guest in Firecracker under the real jailer, waits for its
// end, which must be a clean one, and returns what its /init said.
func bootJailed(t *testing.T, kernel, initrd, disk, args string) map[string]string {
	t.Helper()
	const uid = 10001
	id := fmt.Sprintf("t%d", time.Now().UnixNano()%1e9)
	base := "/data/jail"
	jail := filepath.Join(base, "firecracker", id, "root")
	if err := os.MkdirAll(jail, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(base); err != nil {
			t.Error(err)
		}
		for _, dir := range []string{"/sys/fs/cgroup/hpcc/" + id, "/sys/fs/cgroup/hpcc"} {
			if err := syscall.Rmdir(dir); err != nil {
				t.Errorf("%s: %v", dir, err)
			}
		}
	})
	for name, file := range map[string]string{"vmlinux": kernel, "initrd": initrd, "disk": disk} {
		if err := os.Link(file, filepath.Join(jail, name)); err != nil {
			t.Fatal(err)
		}
	}
	netns := emptyNetwork(t)

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/data/jailer", "--id", id, "--exec-file", "/data/firecracker",
		"--uid", fmt.Sprint(uid), "--gid", fmt.Sprint(uid), "--chroot-base-dir", base, "--netns", netns,
		"--cgroup-version", "2", "--parent-cgroup", "hpcc", "--cgroup", "memory.max=1073741824", "--cgroup", "pids.max=64",
		"--", "--level", "Warning")
	var console, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &stderr
	started := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	gone := make(chan struct{})
	go func() {
		ended <- cmd.Wait()
		close(gone)
	}()
	defer func() {
		_ = cmd.Process.Kill()
		<-gone
	}()

	socket := filepath.Join(jail, "run", "firecracker.socket")
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	defer client.CloseIdleConnections()
	for {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("the jailer ended: %v\n%s%s", err, console.Bytes(), stderr.Bytes())
		case <-time.After(10 * time.Millisecond):
		}
	}
	call := func(method, path string, body any) []byte {
		t.Helper()
		var text []byte
		if body != nil {
			var err error
			if text, err = json.Marshal(body); err != nil {
				t.Fatal(err)
			}
		}
		req, err := http.NewRequestWithContext(ctx, method, "http://firecracker"+path, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode >= 300 {
			t.Fatalf("%s %s: %s %s %v", method, path, resp.Status, answer, err)
		}
		return answer
	}
	call("PUT", "/boot-source", map[string]any{"kernel_image_path": "/vmlinux", "initrd_path": "/initrd", "boot_args": args})
	call("PUT", "/machine-config", map[string]any{"vcpu_count": 1, "mem_size_mib": 512})
	call("PUT", "/drives/root", map[string]any{"drive_id": "root", "path_on_host": "/disk", "is_root_device": false, "is_read_only": true})
	call("PUT", "/vsock", map[string]any{"guest_cid": 3, "uds_path": "/v.sock"})
	call("PUT", "/actions", map[string]any{"action_type": "InstanceStart"})
	t.Logf("started after %.2f s", time.Since(started).Seconds())

	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil || !strings.Contains(string(status), fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d", uid)) {
		t.Errorf("Firecracker does not run as %d: %v\n%s", uid, err, status)
	}
	var config struct {
		Networks []any `json:"network-interfaces"`
	}
	if err := json.Unmarshal(call("GET", "/vm/config", nil), &config); err != nil || len(config.Networks) != 0 {
		t.Errorf("network interfaces %v, %v", config.Networks, err)
	}

	if err := <-ended; err != nil {
		t.Errorf("Firecracker: %v", err)
	}
	t.Logf("ended after %.2f s", time.Since(started).Seconds())
	said := make(map[string]string)
	for line := range strings.Lines(console.String()) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "guest: "); ok {
			key, value, _ := strings.Cut(rest, "=")
			said[key] = value
		}
	}
	if t.Failed() || said["done"] != "yes" {
		t.Errorf("console:\n%s\nstderr:\n%s", console.Bytes(), stderr.Bytes())
	}
	return said
}

// emptyNetwork makes a network namespace without interfaces and returns a file
// that stands for it.
func emptyNetwork(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread is not used again: it ends here
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), file, "", unix.MS_BIND, "")
		}
		made <- err
	}()
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(file, 0); err != nil {
			t.Error(err)
		}
	})
	return file
}

// /data has reflinks: a tenant's own copy of an image costs nothing.
func TestReflink(t *testing.T) {
	if os.Getenv("HPCC_LAB_ENVIRONMENT") != string(Software) {
		t.Log("this machine's own file system may have none")
		return
	}
	from, err := os.Open("/data/vmlinux")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create("/data/clone")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove("/data/clone")
	defer to.Close()
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err != nil {
		t.Errorf("reflink: %v", err)
	}
}

// Here /dev/kvm boots the guest kernel, so that this is also a machine on which
// the lab needs no QEMU: what it does then is tested here.
func TestThisMachineIsAnEnvironment(t *testing.T) {
	if err := controllers(); err != nil {
		t.Errorf("control groups: %v", err)
	}
	kit := &guest.Kit{Kernel: "/data/vmlinux", Initrd: "/data/initrd", BootArgs: ownArgs}
	if err := boots(t.Context(), 5*time.Minute, "/data/firecracker", kit); err != nil {
		t.Errorf("boots: %v", err)
	}
	// A kernel that does not come to its /init does not count.
	kit.BootArgs = "console=ttyS0 quiet reboot=k panic=1 rdinit=/absent"
	if err := boots(t.Context(), 5*time.Minute, "/data/firecracker", kit); err == nil {
		t.Error("a guest without /init counts as booted")
	}
	kit.Kernel = "/data/jailer"
	if err := boots(t.Context(), 5*time.Minute, "/data/firecracker", kit); err == nil {
		t.Error("a program counts as a kernel")
	}

	out := t.TempDir()
	var stdout bytes.Buffer
	job := &Job{
		Program: "/bin/busybox", Args: []string{"sh", "-c", `set -e
			[ "$$" != 1 ]; [ "$PWD" = /data ]; [ "$X" = y ]; ls / | tr '\n' ' '
			cat sub/file; ls /dev/kvm; mkdir /sys/fs/cgroup/lab-direct; rmdir /sys/fs/cgroup/lab-direct
			ip link | grep -c mtu
			mkdir /data/out/d; echo left >/data/out/d/file
			sleep 1000 & exit 3`},
		Env: []string{"X=y"}, Files: map[string]string{"sub/file": "/etc/passwd"},
		Collect: out, Stdout: &stdout, Stderr: &stdout, Log: func(line string) { t.Log(line) },
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	r, err := attempt(ctx, job, func(_ context.Context, job *Job, dir string) (*environment, error) {
		return startDirect(job, dir, "/data/lab-init")
	}, limits{2 * time.Minute, time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	want := "bin data dev etc proc root run sys tmp root:x:0:0"
	if r.Status != 3 || !strings.HasPrefix(stdout.String(), want) || !strings.HasSuffix(stdout.String(), "/dev/kvm\n1\n") {
		t.Errorf("status %d:\n%s", r.Status, stdout.Bytes())
	}
	if left, err := os.ReadFile(filepath.Join(out, "d", "file")); err != nil || string(left) != "left\n" {
		t.Errorf("left %q, %v", left, err)
	}
	if sleeping, err := exec.Command("/bin/busybox", "pgrep", "-f", "sleep 1000").Output(); err == nil {
		t.Errorf("left running: %s", sleeping)
	}
	if _, err := os.Stat("/lab-root"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}
