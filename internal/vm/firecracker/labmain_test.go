//go:build lab && linux

package firecracker

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests of this package run in the lab, as a worker that is nobody in
// particular. The process that the lab starts is root: it runs hpcc-jail, and
// scripts that look at what the worker cannot see (asRoot).
const (
	workerUID = 990
	firstUID  = 700000
	socket    = "/run/hpcc/jail.socket"
	base      = "/data/jail"
	jails     = base + "/firecracker"
	parent    = "/sys/fs/cgroup/hpcc"
	workDir   = "/data/work" // the worker's own
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv("HPCC_PLAY") != "":
		play()
	case os.Getenv("HPCC_DRIVE") != "":
		otherWorker()
	case os.Getuid() == 0:
		os.Exit(asRootParent())
	default:
		os.Exit(m.Run())
	}
}

type rootAnswer struct {
	Out    string
	Failed bool
}

// asRootParent starts the tests again as the worker, and serves their scripts.
func asRootParent() int {
	fail := func(err error) int {
		fmt.Println("lab main:", err)
		return 1
	}
	if err := os.MkdirAll(workDir, 0o700); err != nil {
		return fail(err)
	}
	if err := os.Chown(workDir, workerUID, workerUID); err != nil {
		return fail(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "scripts"), os.NewFile(uintptr(pair[1]), "scripts")
	self, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	h := &helper{}
	if err := h.start(); err != nil {
		return fail(err)
	}
	defer h.kill()
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: workerUID, Gid: workerUID}}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	theirs.Close()
	go func() {
		lines := bufio.NewScanner(ours)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var script string
			_ = json.Unmarshal(lines.Bytes(), &script)
			var a rootAnswer
			var err error
			switch script {
			case "start-helper":
				err = h.start()
			case "kill-helper":
				h.kill()
			default:
				var out []byte
				out, err = exec.Command("/bin/sh", "-c", script).CombinedOutput()
				a.Out = string(out)
			}
			if err != nil {
				a.Failed = true
				a.Out += err.Error()
			}
			text, _ := json.Marshal(a)
			if _, err := ours.Write(append(text, '\n')); err != nil {
				return
			}
		}
	}()
	if err := cmd.Wait(); err != nil {
		return fail(err)
	}
	return 0
}

// helper is hpcc-jail's process.
type helper struct{ cmd *exec.Cmd }

func (h *helper) start() error {
	h.cmd = exec.Command("/data/hpcc-jail", "-client-uid", fmt.Sprint(workerUID), "-first-uid", fmt.Sprint(firstUID), "-uids", "3",
		"-base", base, "-socket", socket, "-firecracker", "/data/firecracker", "-jailer", "/data/jailer", "-max-memory", fmt.Sprint(2<<30))
	h.cmd.Stdout, h.cmd.Stderr = os.Stdout, os.Stdout
	_ = os.Remove(socket)
	if err := h.cmd.Start(); err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var st unix.Stat_t
		if unix.Stat(socket, &st) == nil && st.Uid == workerUID {
			return nil
		}
	}
	return fmt.Errorf("hpcc-jail does not listen")
}

func (h *helper) kill() {
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
}

var scripts = struct {
	f *os.File
	r *bufio.Reader
}{}

// asRoot runs a shell script as root and returns what it prints.
func asRoot(t testing.TB, script string) string {
	t.Helper()
	if scripts.f == nil {
		scripts.f = os.NewFile(3, "scripts")
		scripts.r = bufio.NewReader(scripts.f)
	}
	text, _ := json.Marshal(script)
	if _, err := scripts.f.Write(append(text, '\n')); err != nil {
		t.Fatal(err)
	}
	line, err := scripts.r.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var a rootAnswer
	if err := json.Unmarshal(line, &a); err != nil {
		t.Fatal(err)
	}
	if a.Failed {
		t.Fatalf("as root: %s\n%s", script, a.Out)
	}
	return strings.TrimSpace(a.Out)
}

// nothingLeft checks what machines could leave: processes of jails' users,
// control groups, files, mounts, network namespaces.
func nothingLeft(t testing.TB) {
	t.Helper()
	var left string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		left = asRoot(t, `ls -A `+jails+`; ls -d `+parent+`/*/ 2>/dev/null
			for p in /proc/[0-9]*; do u=$(stat -c %u $p 2>/dev/null) || continue; [ "$u" -ge `+fmt.Sprint(firstUID)+` ] && echo "$p $u $(cat $p/comm)"; done
			grep -e /data/ -e nsfs /proc/mounts; true`)
		if left == "" {
			return
		}
	}
	t.Errorf("left behind:\n%s", left)
}

// play is an escaped monitor: a process with its user and root directory.
func play() {
	die := func(err error) {
		if err != nil {
			fmt.Println("play:", err)
			os.Exit(1)
		}
	}
	var uid int
	_, err := fmt.Sscan(os.Getenv("HPCC_UID"), &uid)
	die(err)
	die(unix.Chroot(os.Getenv("HPCC_ROOT")))
	die(os.Chdir("/"))
	runtime.LockOSThread()
	die(syscall.Setgroups(nil))
	die(syscall.Setresgid(uid, uid, uid))
	die(syscall.Setresuid(uid, uid, uid))
	name := os.Getenv("HPCC_NAME")
	die(os.RemoveAll(name))
	switch os.Getenv("HPCC_PLAY") {
	case "symlink":
		die(os.Symlink(os.Getenv("HPCC_TARGET"), name))
	case "directory":
		die(os.Mkdir(name, 0o755))
	case "fifo":
		die(unix.Mkfifo(name, 0o666))
	case "deep":
		die(os.Mkdir(name, 0o755))
		die(os.Chdir(name))
		for i := range 1000 {
			die(os.Mkdir("d", 0o700))
			if i%100 == 0 {
				die(os.WriteFile("f", nil, 0))
				die(os.Symlink("/../../../../../etc", "link"))
			}
			die(os.Chdir("d"))
		}
		die(os.Mkdir("/.moved0", 0))
		die(os.WriteFile("/full", make([]byte, 1<<20), 0))
	case "write":
		f, err := os.OpenFile(name+"x", os.O_CREATE|os.O_WRONLY, 0)
		_ = f.Close()
		die(err)
		for _, file := range []string{"/vmlinux", "/initrd", "/drive", "/firecracker"} {
			if f, err := os.OpenFile(file, os.O_WRONLY, 0); err == nil {
				f.Close()
				fmt.Println("can write", file)
			}
			if os.Chmod(file, 0o777) == nil {
				fmt.Println("can chmod", file)
			}
		}
	case "listen":
		l, err := net.Listen("unix", name)
		die(err)
		die(os.Chmod(name, 0o777))
		fmt.Println("listening")
		_ = l.(*net.UnixListener).SetDeadline(time.Now().Add(10 * time.Minute))
		for {
			c, err := l.Accept()
			if err != nil {
				os.Exit(0)
			}
			c.Close()
		}
	}
	os.Exit(0)
}
