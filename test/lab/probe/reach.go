//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reach tries all ways to the agent, to the machine and to other processes that
// there might be, and prints each with its result. Nothing here is a rule: what
// must be refused, and how, is the test's.
func reach() {
	try := func(what string, err error) { fmt.Println(what + "\t" + name(err)) }
	call := func(what string, nr uintptr, args ...uintptr) {
		a := make([]uintptr, 6)
		copy(a, args)
		_, _, e := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		try(what, e)
	}
	// What it was born with, as far as numbers go.
	var open []string
	for fd := range 4096 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			open = append(open, strconv.Itoa(fd)+"="+kind(fd))
		}
	}
	fmt.Println("descriptors\t" + strings.Join(open, " "))

	sockets(try)
	call("io_uring_setup", unix.SYS_IO_URING_SETUP, 1, address(make([]byte, 256)))
	call("io_uring_enter", unix.SYS_IO_URING_ENTER, 0)
	call("io_uring_register", unix.SYS_IO_URING_REGISTER, 0)
	processes(try, call)
	files(try)

	// Other rights, other worlds, the kernel's inside.
	root := address([]byte("/\x00"))
	none := address([]byte("none\x00"))
	tmpfs := address([]byte("tmpfs\x00"))
	call("mount", unix.SYS_MOUNT, none, address([]byte("/tmp\x00")), tmpfs)
	call("umount /proc", unix.SYS_UMOUNT2, address([]byte("/proc\x00")), 0)
	call("fsopen", unix.SYS_FSOPEN, tmpfs)
	call("open_tree", unix.SYS_OPEN_TREE, 0, root)
	call("pivot_root", unix.SYS_PIVOT_ROOT, root, root)
	call("chroot", unix.SYS_CHROOT, root)
	call("unshare user", unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
	call("unshare net", unix.SYS_UNSHARE, unix.CLONE_NEWNET)
	call("setns", unix.SYS_SETNS, 0, 0)
	fork("clone NEWNET", unix.CLONE_NEWNET)
	fork("clone NEWUSER", unix.CLONE_NEWUSER)
	call("clone3", unix.SYS_CLONE3, address(make([]byte, 88)), 88)
	call("openat2", unix.SYS_OPENAT2, ^uintptr(99), root, address(make([]byte, 24)), 24)
	call("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, 0, address(make([]byte, 256)))
	call("bpf", unix.SYS_BPF)
	call("perf_event_open", unix.SYS_PERF_EVENT_OPEN)
	call("userfaultfd", unix.SYS_USERFAULTFD)
	call("keyctl", unix.SYS_KEYCTL)
	call("seccomp", unix.SYS_SECCOMP, 1, 0, 0)
	call("prctl PR_SET_SECCOMP", unix.SYS_PRCTL, unix.PR_SET_SECCOMP, 2)
	call("syslog", unix.SYS_SYSLOG, 3, address(make([]byte, 64)), 64)
	call("finit_module", unix.SYS_FINIT_MODULE, 0)
	call("kexec_load", unix.SYS_KEXEC_LOAD)
	call("reboot", unix.SYS_REBOOT, 0xfee1dead, 672274793, 0)
	call("iopl", unix.SYS_IOPL, 3)
	call("clock_settime", unix.SYS_CLOCK_SETTIME, 0, address(make([]byte, 16)))
	call("sethostname", unix.SYS_SETHOSTNAME, root, 1)
	call("setuid 0", unix.SYS_SETUID, 0)
	call("setgroups", unix.SYS_SETGROUPS, 0, 0)
	call("x32 getpid", unix.SYS_GETPID|0x40000000)
	call("call 600", 600)
	flag, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	fmt.Printf("no_new_privs\t%d %v\n", flag, err)
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp", "Groups":
			fmt.Println(key + "\t" + strings.TrimSpace(value))
		}
	}
	for _, dir := range []string{"/dev", "/sys"} {
		all, _ := os.ReadDir(dir)
		var names []string
		for _, e := range all {
			names = append(names, e.Name())
		}
		fmt.Println("in " + dir + "\t" + strings.Join(names, " "))
	}
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }

// kind is what a descriptor leads to.
func kind(fd int) string {
	target, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return name(err)
	}
	before, _, _ := strings.Cut(target, ":[")
	return before
}

func fork(what string, flags uintptr) {
	pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if e == 0 && pid == 0 {
		unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	fmt.Println(what + "\t" + name(e))
}

func sockets(try func(string, error)) {
	// The agent's port by every address, should there be a socket to try it with.
	for _, cid := range []uint32{0, 1, 2, 3, unix.VMADDR_CID_ANY} {
		try(fmt.Sprintf("vsock to %d", int32(cid)), vsock(cid))
	}
	create := func(what string, family, kind, protocol int) {
		fd, err := unix.Socket(family, kind, protocol)
		try("socket "+what, err)
		if err == nil {
			unix.Close(fd)
		}
	}
	create("vsock datagram", unix.AF_VSOCK, unix.SOCK_DGRAM, 0)
	create("vsock seqpacket", unix.AF_VSOCK, unix.SOCK_SEQPACKET, 0)
	for family := 2; family < 64; family++ { // 1 is AF_UNIX
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
			if fd, err := unix.Socket(family, kind, 0); err == nil {
				create(fmt.Sprintf("of family %d, kind %d", family, kind), family, kind, 0)
				unix.Close(fd)
			}
		}
	}
	create("inet", unix.AF_INET, unix.SOCK_STREAM, 0)
	create("inet6", unix.AF_INET6, unix.SOCK_DGRAM, 0)
	create("packet", unix.AF_PACKET, unix.SOCK_RAW, 0x300)
	create("netlink route", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	create("netlink sock_diag", unix.AF_NETLINK, unix.SOCK_RAW, 4)
	create("alg", unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
	create("xdp", unix.AF_XDP, unix.SOCK_RAW, 0)
	// The upper half of the argument is not the kernel's to look at.
	_, _, e := unix.RawSyscall(unix.SYS_SOCKET, 1<<32|unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	try("socket vsock, 64 bits", e)
	// Another call that makes sockets, and an address of one family for a
	// socket of the other.
	_, err := unix.Socketpair(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	try("socketpair vsock", err)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	try("socket unix", err)
	try("vsock address for a unix socket", unix.Connect(fd, &unix.SockaddrVM{CID: 1, Port: 1024}))
	// Names that an agent might have, and those that the kernel tells.
	for _, to := range append([]string{"@agent", "@hpcc-agent", "@1024", "/run/hpcc-agent", "/run/agent.sock", "/agent"}, tableOfUnixSockets()...) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: to})
			unix.Close(fd)
		}
		try("unix to "+to, err)
	}
}

func tableOfUnixSockets() []string {
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 8 && f[0] != "Num" {
			names = append(names, f[7])
		}
	}
	return names
}

func vsock(cid uint32) error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	limit := unix.Timeval{Sec: 1}
	_ = unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD, &limit)
	return unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: 1024})
}

// processes tries the first process of the job's namespace, which is the
// agent's, by everything that takes a number of a process. The agent itself has
// none here.
func processes(try func(string, error), call func(string, uintptr, ...uintptr)) {
	var all []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if dir != "/proc/"+strconv.Itoa(os.Getpid()) {
			line, _ := os.ReadFile(dir + "/cmdline")
			all = append(all, filepath.Base(dir)+"="+strings.Trim(string(line), "\x00"))
		}
	}
	fmt.Println("processes\t" + strings.Join(all, " "))
	const pid = 1
	open := func(p string, flags int) {
		fd, err := unix.Open(p, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		try("open "+p, err)
		if err == nil {
			unix.Close(fd)
		}
	}
	for _, f := range []string{"fd", "fdinfo", "mem", "maps", "environ", "root", "cwd", "exe", "ns/mnt", "syscall", "stack", "auxv", "map_files", "pagemap", "io"} {
		open("/proc/1/"+f, unix.O_RDONLY)
	}
	for fd := range 10 {
		open(fmt.Sprintf("/proc/1/fd/%d", fd), unix.O_RDONLY)
	}
	open("/proc/1/oom_score_adj", unix.O_WRONLY)
	open("/proc/1/comm", unix.O_WRONLY)
	call("ptrace attach", unix.SYS_PTRACE, unix.PTRACE_ATTACH, pid)
	call("ptrace seize", unix.SYS_PTRACE, unix.PTRACE_SEIZE, pid)
	call("ptrace traceme", unix.SYS_PTRACE, unix.PTRACE_TRACEME)
	buf := make([]byte, 16)
	local := []uintptr{address(buf), 16}
	remote := []uintptr{0x400000, 16}
	call("process_vm_readv", unix.SYS_PROCESS_VM_READV, pid, uintptr(unsafe.Pointer(&local[0])), 1, uintptr(unsafe.Pointer(&remote[0])), 1)
	call("process_vm_writev", unix.SYS_PROCESS_VM_WRITEV, pid, uintptr(unsafe.Pointer(&local[0])), 1, uintptr(unsafe.Pointer(&remote[0])), 1)
	call("kcmp", unix.SYS_KCMP, pid, uintptr(os.Getpid()), 0, 0, 0)
	try("kill 0", unix.Kill(pid, 0))
	try("kill 9", unix.Kill(pid, unix.SIGKILL))
	call("tgkill", unix.SYS_TGKILL, pid, pid, uintptr(unix.SIGKILL))
	// A handle is no more than the number, as long as nothing takes it.
	if handle, err := unix.PidfdOpen(pid, 0); err == nil {
		try("pidfd_send_signal", unix.PidfdSendSignal(handle, unix.SIGKILL, nil, 0))
		for fd := range 12 {
			_, err := unix.PidfdGetfd(handle, fd, 0)
			try(fmt.Sprint("pidfd_getfd ", fd), err)
		}
		call("process_madvise", unix.SYS_PROCESS_MADVISE, uintptr(handle), uintptr(unsafe.Pointer(&remote[0])), 1, unix.MADV_COLD, 0)
		unix.Close(handle)
	} else {
		try("pidfd_open", err)
	}
	try("setpriority", unix.Setpriority(unix.PRIO_PROCESS, pid, 19))
	limit := unix.Rlimit{Cur: 3, Max: 3}
	try("prlimit", unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil))
	var cpus unix.CPUSet
	cpus.Set(0)
	try("sched_setaffinity", unix.SchedSetaffinity(pid, &cpus))
}

// files tries devices and the kernel's own files: as they may lie about, and as
// one could make them.
func files(try func(string, error)) {
	for _, p := range []string{"/dev/vsock", "/dev/vhost-vsock", "/dev/console", "/dev/ttyS0", "/dev/tty0", "/dev/hvc0", "/dev/ptmx", "/dev/mem", "/dev/port",
		"/dev/kmsg", "/dev/kvm", "/dev/vda", "/dev/dm-0", "/dev/mapper/control", "/dev/ptp0", "/dev/hwrng", "/dev/fuse", "/dev/net/tun", "/dev/userfaultfd", "/dev/tty",
		"/proc/kcore", "/proc/kmsg", "/proc/vmcore", "/sys/kernel/security", "/sys/fs/cgroup"} {
		fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		try("open "+p, err)
		if err == nil {
			unix.Close(fd)
		}
	}
	for _, p := range []string{"/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/self/oom_score_adj", "/usr/bin/new", "/new"} {
		fd, err := unix.Open(p, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
		try("write "+p, err)
		if err == nil {
			unix.Close(fd)
		}
	}
	for _, n := range []struct {
		what         string
		mode         uint32
		major, minor uint32
	}{{"mem", unix.S_IFCHR, 1, 1}, {"kmsg", unix.S_IFCHR, 1, 11}, {"ttyS0", unix.S_IFCHR, 4, 64}, {"console", unix.S_IFCHR, 5, 1}, {"vsock", unix.S_IFCHR, 10, 121}, {"dm-0", unix.S_IFBLK, 254, 0}, {"vda", unix.S_IFBLK, 253, 0}} {
		p := "/tmp/" + n.what
		err := unix.Mknod(p, n.mode|0o666, int(unix.Mkdev(n.major, n.minor)))
		try("mknod "+n.what, err)
		_ = os.Remove(p)
	}
}
