//go:build linux

// Guestinit is an /init for tests of the guest kernel: it says in marked lines
// on the console what it finds in its machine, and ends it.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// say writes a marked line. A serial console adds a carriage return.
func say(key string, value any) { fmt.Fprintf(os.Stdout, "guest: %s=%v\n", key, value) }

// errno is an error's name, or "ok".
func errno(err error) string {
	var e unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return unix.ErrnoName(e)
	}
	return err.Error()
}

func main() {
	if os.Args[0] == "nothing" { // the child of namespaces
		return
	}
	defer func() {
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}()
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			say("mount"+m.at, errno(err))
		}
	}
	say("pid", os.Getpid())
	var up unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &up)
	say("uptime", time.Duration(up.Nano()).Seconds())
	var u unix.Utsname
	_ = unix.Uname(&u)
	say("release", unix.ByteSliceToString(u.Release[:]))
	say("modules", loadModules())
	sockets()
	calls()
	devices()
	filesystems()
	namespaces()
	root()
	say("done", "yes")
}

// loadModules loads what a distribution's kernel needs; "none" without a list.
func loadModules() string {
	list, err := os.ReadFile("/lib/modules/hpcc.list")
	if err != nil {
		return "none"
	}
	n := 0
	for _, path := range strings.Fields(string(list)) {
		f, err := os.Open(path)
		if err != nil {
			return errno(err)
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		// A processor without the instructions, a machine without the device.
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return path + ":" + errno(err)
		}
		n++
	}
	return fmt.Sprint(n)
}

func sockets() {
	for _, s := range []struct {
		name         string
		family, kind int
	}{
		{"inet", unix.AF_INET, unix.SOCK_STREAM},
		{"inet6", unix.AF_INET6, unix.SOCK_STREAM},
		{"packet", unix.AF_PACKET, unix.SOCK_RAW},
		{"xdp", unix.AF_XDP, unix.SOCK_RAW},
		{"alg", unix.AF_ALG, unix.SOCK_SEQPACKET},
		{"unix", unix.AF_UNIX, unix.SOCK_STREAM},
		{"vsock", unix.AF_VSOCK, unix.SOCK_STREAM},
	} {
		fd, err := unix.Socket(s.family, s.kind, 0)
		say("socket-"+s.name, errno(err))
		if err == nil {
			_ = unix.Close(fd)
		}
	}
	// Someone listens; who is inside must not reach him.
	l, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(l, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: 1024})
	}
	if err == nil {
		err = unix.Listen(l, 1)
	}
	say("vsock-listen", errno(err))
	own := uint32(0)
	if f, err := os.Open("/dev/vsock"); err == nil {
		id, err := unix.IoctlGetUint32(int(f.Fd()), unix.IOCTL_VM_SOCKETS_GET_LOCAL_CID)
		say("vsock-cid", fmt.Sprint(id, " ", errno(err)))
		own = id
		f.Close()
	} else {
		say("vsock-cid", errno(err))
	}
	for _, to := range []struct {
		name string
		cid  uint32
	}{{"loopback", unix.VMADDR_CID_LOCAL}, {"own", own}} {
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			t := unix.Timeval{Sec: 1}
			_ = unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD, &t)
			err = unix.Connect(fd, &unix.SockaddrVM{CID: to.cid, Port: 1024})
			_ = unix.Close(fd)
		}
		say("vsock-to-"+to.name, errno(err))
	}
}

// calls are system calls that the kernel should not have.
func calls() {
	_, _, e := unix.Syscall(unix.SYS_FINIT_MODULE, ^uintptr(0), uintptr(unsafe.Pointer(&[]byte{0}[0])), 0)
	say("finit_module", errno(e))
	_, _, e = unix.Syscall(unix.SYS_BPF, 0, 0, 0)
	say("bpf", errno(e))
	_, _, e = unix.Syscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)
	say("io_uring_setup", errno(e))
	_, _, e = unix.Syscall(unix.SYS_USERFAULTFD, 0, 0, 0)
	say("userfaultfd", errno(e))
	_, _, e = unix.Syscall(unix.SYS_KEXEC_FILE_LOAD, 0, 0, 0)
	say("kexec_file_load", errno(e))
	_, _, e = unix.Syscall(unix.SYS_IOPL, 3, 0, 0)
	say("iopl", errno(e))
	_, _, e = unix.Syscall(unix.SYS_MODIFY_LDT, 0, 0, 0)
	say("modify_ldt", errno(e))
	say("user-namespace", errno(unix.Unshare(unix.CLONE_NEWUSER)))
	var st unix.Stat_t
	say("dev-mem", errno(unix.Stat("/dev/mem", &st)))
	say("proc-kcore", errno(unix.Stat("/proc/kcore", &st)))
	say("proc-modules", errno(unix.Stat("/proc/modules", &st)))
}

func devices() {
	links, _ := filepath.Glob("/sys/class/net/*")
	for i := range links {
		links[i] = filepath.Base(links[i])
	}
	say("interfaces", strings.Join(links, ","))
	disk := "absent"
	if ro, err := os.ReadFile("/sys/block/vda/ro"); err == nil {
		disk = "ro" + string(bytes.TrimSpace(ro))
	}
	say("vda", disk)
	vmgenid, _ := filepath.Glob("/sys/bus/acpi/drivers/vmgenid/*:*")
	say("vmgenid", len(vmgenid))
	clock, _ := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	say("clocksource", string(bytes.TrimSpace(clock)))
	crypto, _ := os.ReadFile("/proc/crypto")
	say("sha256-drivers", strings.Count(string(crypto), "name         : sha256\n"))
}

// filesystems mounts an overlay on a tmpfs, as the agent does for each job.
func filesystems() {
	say("overlay", errno(func() error {
		for _, dir := range []string{"/tmp/lower", "/tmp/upper", "/tmp/work", "/tmp/merged"} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile("/tmp/lower/file", []byte("lower"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount("overlay", "/tmp/merged", "overlay", 0, "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work"); err != nil {
			return err
		}
		if err := os.Remove("/tmp/merged/file"); err != nil {
			return err
		}
		_, err := os.Stat("/tmp/lower/file")
		return err
	}()))
	say("cgroup2", errno(func() error {
		if err := os.MkdirAll("/run/cgroup", 0o755); err != nil {
			return err
		}
		return unix.Mount("cgroup2", "/run/cgroup", "cgroup2", 0, "")
	}()))
	controllers, _ := os.ReadFile("/run/cgroup/cgroup.controllers")
	say("controllers", strings.ReplaceAll(strings.TrimSpace(string(controllers)), " ", ","))
}

// root looks at the root image, if the boot arguments name one as the agent's do.
func root() {
	cmdline, _ := os.ReadFile("/proc/cmdline")
	device := ""
	for _, word := range strings.Fields(string(cmdline)) {
		if d, ok := strings.CutPrefix(word, "hpcc.root="); ok {
			device = d
		}
	}
	if device == "" {
		return
	}
	if err := os.Mkdir("/image", 0o755); err != nil {
		say("root-mount", errno(err))
		return
	}
	if err := unix.Mount(device, "/image", "ext4", unix.MS_RDONLY, ""); err != nil {
		say("root-mount", errno(err))
		return
	}
	say("root-mount", "ok")
	text, err := os.ReadFile("/image/usr/lib/gcc/x86_64-linux-gnu/12/include/stddef.h")
	say("root-file", fmt.Sprintf("%s %x", errno(err), sha256.Sum256(text)))
	_, err = os.Create("/image/file")
	say("root-create", errno(err))
	say("root-remount", errno(unix.Mount("", "/image", "", unix.MS_REMOUNT, "")))
	for _, d := range []string{device, "/dev/vda"} {
		f, err := os.OpenFile(d, os.O_WRONLY, 0)
		if err == nil {
			if _, err = f.Write(make([]byte, 4096)); err == nil {
				err = f.Sync()
			}
			f.Close()
		}
		say("write-"+filepath.Base(d), errno(err))
	}
	version, err := runIn("/image", "/usr/bin/gcc", "-dumpfullversion")
	say("gcc", errno(err)+" "+version)
}

// runIn runs a program of the image and returns what it prints.
func runIn(dir, program string, args ...string) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	p, err := os.StartProcess(program, append([]string{program}, args...), &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/bin"}, Files: []*os.File{nil, w, w}, Sys: &syscall.SysProcAttr{Chroot: dir},
	})
	w.Close()
	if err != nil {
		return "", err
	}
	text := make([]byte, 200)
	n, _ := r.Read(text)
	_, err = p.Wait()
	return string(bytes.TrimSpace(text[:n])), err
}

// namespaces starts a process in all that a job gets.
func namespaces() {
	started := time.Now()
	p, err := os.StartProcess("/proc/self/exe", []string{"nothing"}, &os.ProcAttr{
		Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET},
	})
	if err == nil {
		_, err = p.Wait()
	}
	say("namespaces", errno(err))
	say("fork-seconds", time.Since(started).Seconds() < 10)
}
