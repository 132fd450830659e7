package lookup

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// confinedName is argv[0] of a process that puts the filter on itself, as a
// job's first process does, and makes calls.
const confinedName = "confined"

func TestMain(m *testing.M) {
	if os.Args[0] == confinedName {
		confined(os.Args[1], os.Args[2])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// did is a call and what came of it.
type did struct {
	What  string
	Errno unix.Errno
}

// confined gives the filter's descriptor away by the socket 3, waits until
// somebody records, makes calls of one kind and tells of them on stdout.
func confined(kind, dir string) {
	runtime.LockOSThread()
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	check(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	sub, err := unix.Open(dir+"/sub", unix.O_PATH|unix.O_DIRECTORY, 0)
	check(err)
	listener, err := Install()
	check(err)
	check(unix.Sendmsg(3, []byte{0}, unix.UnixRights(listener), nil, 0))
	unix.Close(listener)
	_, err = unix.Read(3, make([]byte, 1))
	check(err)
	var all []did
	call := func(what string, err error) {
		var e unix.Errno
		errors.As(err, &e)
		all = append(all, did{what, e})
	}
	switch kind {
	case "paths":
		pathsOf(dir, sub, call)
	case "refused":
		for name, nrs := range map[string][]uint32{"missing": missing, "denied": denied, "unknown": {lastKnown + 1, 1000, 1 << 30, 1<<30 | unix.SYS_GETPID, 1<<32 - 1}} {
			for _, nr := range nrs {
				_, _, e := unix.RawSyscall6(uintptr(nr), 0, 0, 0, 0, 0, 0)
				call(fmt.Sprintf("%s %d", name, nr), e)
			}
		}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET, unix.AF_VSOCK, unix.AF_ALG, unix.AF_UNIX} {
			fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
			call(fmt.Sprintf("socket %d", family), err)
			unix.Close(fd)
		}
		// The upper half of an argument is not the kernel's either.
		_, _, e := unix.RawSyscall(unix.SYS_SOCKET, 1<<32|unix.AF_INET, unix.SOCK_STREAM, 0)
		call("socket, 64 bits", e)
		for _, flag := range []uintptr{unix.CLONE_NEWNS, unix.CLONE_NEWUSER, unix.CLONE_NEWPID, unix.CLONE_NEWNET, unix.CLONE_NEWIPC, unix.CLONE_NEWUTS, unix.CLONE_NEWCGROUP} {
			pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, flag|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
			if pid == 0 && e == 0 {
				os.Exit(1)
			}
			call(fmt.Sprintf("clone %x", flag), e)
		}
		call("prctl seccomp", unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_STRICT+1, 0, 0, 0))
		call("prctl name", unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&[]byte("x\x00")[0])), 0, 0, 0))
	}
	text, err := json.Marshal(all)
	check(err)
	_, err = os.Stdout.Write(text)
	check(err)
}

// pathsOf makes each kind of call with a path once, each with a name of its own.
func pathsOf(dir string, sub int, call func(string, error)) {
	n := 0
	name := func() string { n++; return fmt.Sprintf("%s/n%02d", dir, n) }
	under := func() string { n++; return fmt.Sprintf("n%02d", n) }
	var st unix.Stat_t
	var fs unix.Statfs_t
	var x unix.Statx_t
	times := []unix.Timespec{{}, {}}
	open := func(fd int, err error) error {
		unix.Close(fd)
		return err
	}
	raw := func(nr uintptr, p string) error {
		b, _ := unix.BytePtrFromString(p)
		_, _, e := unix.Syscall(nr, uintptr(unsafe.Pointer(b)), 0, 0)
		runtime.KeepAlive(b)
		return e
	}
	rawat := func(nr uintptr, p string) error {
		b, _ := unix.BytePtrFromString(p)
		_, _, e := unix.Syscall6(nr, uintptr(sub), uintptr(unsafe.Pointer(b)), 0, 0, 0, 0)
		runtime.KeepAlive(b)
		return e
	}
	call("faccessat2", rawat(unix.SYS_FACCESSAT2, under()))
	call("fchmodat2", rawat(unix.SYS_FCHMODAT2, under()))
	call("execveat", rawat(unix.SYS_EXECVEAT, under()))
	call("futimesat", rawat(unix.SYS_FUTIMESAT, under()))
	call("open", raw(unix.SYS_OPEN, name()))
	call("openat", open(unix.Openat(sub, under(), unix.O_RDONLY, 0)))
	call("openat absolute", open(unix.Openat(sub, name(), unix.O_RDONLY, 0)))
	call("stat", raw(unix.SYS_STAT, name()))
	call("lstat", raw(unix.SYS_LSTAT, name()))
	call("fstatat", unix.Fstatat(sub, under(), &st, 0))
	call("statx", unix.Statx(sub, under(), 0, unix.STATX_ALL, &x))
	call("statfs", unix.Statfs(name(), &fs))
	call("access", raw(unix.SYS_ACCESS, name()))
	call("faccessat", unix.Faccessat(sub, under(), 0, 0))
	_, err := unix.Readlink(name(), make([]byte, 10))
	call("readlink", err)
	_, err = unix.Readlinkat(sub, under(), make([]byte, 10))
	call("readlinkat", err)
	call("execve", unix.Exec(name(), []string{"x"}, nil))
	call("chdir", unix.Chdir(name()))
	call("truncate", unix.Truncate(name(), 0))
	call("mkdir", unix.Mkdir(name()+"/x", 0))
	call("mkdirat", unix.Mkdirat(sub, under()+"/x", 0))
	call("mknod", unix.Mknod(name()+"/x", unix.S_IFREG, 0))
	call("mknodat", unix.Mknodat(sub, under()+"/x", unix.S_IFREG, 0))
	call("rmdir", unix.Rmdir(name()))
	call("unlink", unix.Unlink(name()))
	call("unlinkat", unix.Unlinkat(sub, under(), 0))
	call("rename", unix.Rename(name(), name()))
	call("renameat", unix.Renameat(sub, under(), sub, under()))
	call("renameat2", unix.Renameat2(sub, under(), sub, under(), unix.RENAME_NOREPLACE))
	call("link", unix.Link(name(), name()))
	call("linkat", unix.Linkat(sub, under(), sub, under(), 0))
	call("symlink", unix.Symlink("target", name()+"/x"))
	call("symlinkat", unix.Symlinkat("target", sub, under()+"/x"))
	call("chmod", unix.Chmod(name(), 0o644))
	call("fchmodat", unix.Fchmodat(sub, under(), 0o644, 0))
	call("chown", unix.Chown(name(), 0, 0))
	call("lchown", unix.Lchown(name(), 0, 0))
	call("fchownat", unix.Fchownat(sub, under(), 0, 0, 0))
	call("utime", raw(unix.SYS_UTIME, name()))
	call("utimes", raw(unix.SYS_UTIMES, name()))
	call("utimensat", unix.UtimesNanoAt(sub, under(), times, 0))
	_, err = unix.Getxattr(name(), "user.x", nil)
	call("getxattr", err)
	_, err = unix.Lgetxattr(name(), "user.x", nil)
	call("lgetxattr", err)
	_, err = unix.Listxattr(name(), nil)
	call("listxattr", err)
	_, err = unix.Llistxattr(name(), nil)
	call("llistxattr", err)
	call("setxattr", unix.Setxattr(name(), "user.x", nil, 0))
	call("lsetxattr", unix.Lsetxattr(name(), "user.x", nil, 0))
	call("removexattr", unix.Removexattr(name(), "user.x"))
	call("lremovexattr", unix.Lremovexattr(name(), "user.x"))
	watch, err := unix.InotifyInit1(0)
	if err != nil {
		call("inotify", err)
		return
	}
	_, err = unix.InotifyAddWatch(watch, name(), unix.IN_MODIFY)
	call("inotify_add_watch", err)
	call("creat", raw(unix.SYS_CREAT, name()+"/x"))
	// Not UTF-8; a bad address; a path that ends at the last byte of a page,
	// with nothing behind.
	call("bytes", raw(unix.SYS_STAT, dir+"/n\xff\xfe"))
	_, _, e := unix.RawSyscall(unix.SYS_STAT, 1, 0, 0)
	call("EFAULT", e)
	page := unix.Getpagesize()
	m, err := unix.Mmap(-1, 0, 2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil || unix.Mprotect(m[page:], unix.PROT_NONE) != nil {
		call("mmap", unix.ENOMEM)
		return
	}
	edge := dir + "/nedge\x00"
	copy(m[page-len(edge):], edge)
	_, _, e = unix.Syscall(unix.SYS_STAT, uintptr(unsafe.Pointer(&m[page-len(edge)])), 0, 0)
	call("edge", e)
	copy(m[page-4:], "/abc")
	_, _, e = unix.Syscall(unix.SYS_STAT, uintptr(unsafe.Pointer(&m[page-4])), 0, 0)
	call("EFAULT", e)
	long := dir + "/" + strings.Repeat("x", unix.PathMax)
	call("ENAMETOOLONG", raw(unix.SYS_STAT, long))
	_, _, e = unix.Syscall6(unix.SYS_NEWFSTATAT, uintptr(sub), uintptr(unsafe.Pointer(&[]byte{0}[0])), uintptr(unsafe.Pointer(&st)), unix.AT_EMPTY_PATH, 0, 0)
	call("fine", e)
	call("names", unix.Errno(n))
}

// confine runs a confined process and records it.
func confine(t *testing.T, kind string) ([]did, *Recorder, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var stdout, stderr strings.Builder
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{confinedName, kind, dir}, Stdout: &stdout, Stderr: &stderr, ExtraFiles: []*os.File{theirs}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	var wait sync.WaitGroup
	defer wait.Wait()
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	b, oob := make([]byte, 1), make([]byte, 64)
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(b, oob)
	if err != nil || n == 0 {
		_ = cmd.Wait()
		t.Fatalf("no descriptor: %v\n%s", err, stderr.String())
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(root) })
	r := NewRecorder(root, []string{dir}, 1000, Limits{1000, 1 << 20})
	if _, err := conn.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	wait.Go(func() { ended <- cmd.Wait() })
	// It ends when no process has the filter any more.
	if err := r.Record(fds[0]); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var all []did
	if err := json.Unmarshal([]byte(stdout.String()), &all); err != nil {
		t.Fatalf("%v: %s", err, stdout.String())
	}
	return all, r, dir
}

// Every call with a path is recorded, as the kernel reads it.
func TestEveryPathCall(t *testing.T) {
	t.Run("as the kernel can", testEveryPathCall)
	as := endsReceive
	t.Cleanup(func() { endsReceive = as })
	endsReceive = func() bool { return false }
	t.Run("as older kernels can", testEveryPathCall)
}

func testEveryPathCall(t *testing.T) {
	all, r, dir := confine(t, "paths")
	names := int(all[len(all)-1].Errno)
	if names < len(pathCalls) {
		t.Errorf("%d names for %d calls", names, len(pathCalls))
	}
	for _, d := range all[:len(all)-1] {
		want := unix.ENOENT
		switch d.What {
		case "EFAULT":
			want = unix.EFAULT
		case "ENAMETOOLONG":
			want = unix.ENAMETOOLONG
		case "fine":
			want = 0
		}
		// fchmodat2 is of Linux 6.6.
		if d.Errno != want && (d.What != "fchmodat2" || d.Errno != unix.ENOSYS) {
			t.Errorf("%s: %v, want %v", d.What, d.Errno, want)
		}
	}
	got, truncated := r.Lookups()
	if truncated {
		t.Error("truncated")
	}
	noted := map[string]Found{}
	for _, l := range got {
		name := strings.TrimSuffix(filepath.Base(strings.TrimSuffix(l.Path, "/x")), "/x")
		noted[name] = l.Found
	}
	for n := 1; n <= names; n++ {
		name := fmt.Sprintf("n%02d", n)
		if noted[name] != Absent {
			t.Errorf("%s is not recorded: %s", name, say(got))
		}
		delete(noted, name)
	}
	for _, name := range []string{"n\xff\xfe", "nedge"} {
		if noted[name] != Absent {
			t.Errorf("%q is not recorded", name)
		}
		delete(noted, name)
	}
	if len(noted) > 0 {
		t.Errorf("and %v below %s", noted, dir)
	}
}

// What the filter refuses is refused, each by the error that programs expect.
func TestRefusedCalls(t *testing.T) {
	all, _, _ := confine(t, "refused")
	if len(all) < len(missing)+len(denied)+20 {
		t.Fatalf("%d calls", len(all))
	}
	for _, d := range all {
		kind, rest, _ := strings.Cut(d.What, " ")
		want := unix.EPERM
		switch {
		case kind == "missing" || kind == "unknown":
			want = unix.ENOSYS
		case kind == "socket" && rest == fmt.Sprint(unix.AF_UNIX), d.What == "prctl name":
			want = 0
		case strings.HasPrefix(kind, "socket"):
			want = unix.EAFNOSUPPORT
		}
		if d.Errno != want {
			t.Errorf("%s: %v, want %v", d.What, d.Errno, want)
		}
	}
}

// No call has two verdicts, and a jump reaches its target: the kernel checks the
// rest of a filter.
func TestFilter(t *testing.T) {
	for nr := range pathCalls {
		if slices.Contains(missing, nr) || slices.Contains(denied, nr) || nr > lastKnown {
			t.Errorf("call %d has two verdicts", nr)
		}
	}
	for _, nr := range slices.Concat(missing, denied) {
		if nr > lastKnown {
			t.Errorf("call %d is not known", nr)
		}
	}
	if n := len(filter()); n > unix.BPF_MAXINSNS {
		t.Errorf("%d instructions", n)
	}
}
