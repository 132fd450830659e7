//go:build linux

// Init is the first process of an environment of the lab. It makes the file
// system that the program expects, runs the program, sends what it writes to
// the lab, and ends the environment.
//
// As the first process of a virtual machine it begins by loading modules; the
// lab talks to it by a virtio port. With the argument "direct" it is the first
// process of new namespaces on a host, the directory for /data is its second
// argument, and its file descriptor 3 leads to the lab.
package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/test/lab/wire"
)

func main() {
	direct := len(os.Args) == 3 && os.Args[1] == "direct"
	var channel *os.File
	var err error
	if direct {
		channel = os.NewFile(3, "lab")
		unix.CloseOnExec(3)
	} else if channel, err = startMachine(); err != nil {
		fmt.Fprintln(os.Stderr, "lab init:", err)
		time.Sleep(time.Second)
		powerOff()
	}
	w := wire.NewWriter(channel)
	go func() {
		for {
			_ = w.Frame(wire.Heartbeat, nil)
			time.Sleep(wire.HeartbeatSeconds * time.Second)
		}
	}()
	var end wire.Ending
	if end.Status, err = serve(w, direct); err != nil {
		end = wire.Ending{Error: err.Error()}
	}
	text, _ := json.Marshal(end)
	_ = w.Frame(wire.Exit, text)
	if !direct {
		// The lab ends the machine when it has read the frame.
		time.Sleep(5 * time.Second)
		powerOff()
	}
}

func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // QEMU is told not to reboot
}

// startMachine makes devices appear, and opens the port to the lab.
func startMachine() (*os.File, error) {
	for _, m := range []struct{ fs, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m.fs, m.at, m.fs, 0, ""); err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	list, err := os.ReadFile("/modules/list")
	if err != nil {
		return nil, err
	}
	for _, name := range strings.Fields(string(list)) {
		if err := loadModule(filepath.Join("/modules", name)); err != nil {
			return nil, fmt.Errorf("module %s: %w", name, err)
		}
	}
	for range 300 {
		ports, _ := filepath.Glob("/dev/vport*")
		if len(ports) == 1 {
			return os.OpenFile(ports[0], os.O_RDWR, 0)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, errors.New("no virtio port appears")
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// serve makes the root, runs the program, and sends what it left.
func serve(w *wire.Writer, direct bool) (status int, err error) {
	if err := makeRoot(direct); err != nil {
		return 0, err
	}
	text, err := os.ReadFile(wire.Spec)
	if err != nil {
		return 0, err
	}
	var job wire.Job
	if err := json.Unmarshal(text, &job); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(wire.Out, 0o755); err != nil {
		return 0, err
	}
	if status, err = run(w, &job); err != nil {
		return 0, err
	}
	return status, sendTree(w.To(wire.Tar), wire.Out)
}

type mount struct {
	source, at, kind string
	flags            uintptr
	options          string
}

func (m mount) do() error {
	if err := os.MkdirAll(m.at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.at, m.kind, m.flags, m.options); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.kind, m.at, err)
	}
	return nil
}

// makeRoot puts the process onto a root file system of its own: a tmpfs, for
// pivot_root, which the jailer does, refuses an initramfs. There is nothing in
// it but busybox and /data.
func makeRoot(direct bool) error {
	const root = "/lab-root"
	data := mount{"/dev/vda", root + wire.Data, "xfs", unix.MS_NOATIME, ""}
	if direct {
		// What is mounted here is nobody else's business.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		data = mount{os.Args[2], root + wire.Data, "", unix.MS_BIND, ""}
		// The host's root need not be writable: the new one goes over /mnt.
		if err := (mount{"tmpfs", "/mnt", "tmpfs", 0, "size=2g,mode=755"}).do(); err != nil {
			return err
		}
		if err := os.Mkdir("/mnt"+wire.Data, 0o755); err != nil {
			return err
		}
		data.at = "/mnt" + wire.Data
		if err := data.do(); err != nil {
			return err
		}
		return enter("/mnt")
	}
	if err := (mount{"tmpfs", root, "tmpfs", 0, "size=2g,mode=755"}).do(); err != nil {
		return err
	}
	if err := data.do(); err != nil {
		return err
	}
	return enter(root)
}

// enter makes the file system mounted at root the root, and fills it.
func enter(root string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	for _, m := range []mount{
		{"proc", "/proc", "proc", 0, ""},
		{"sysfs", "/sys", "sysfs", 0, ""},
		{"devtmpfs", "/dev", "devtmpfs", 0, ""},
		{"devpts", "/dev/pts", "devpts", 0, ""},
		{"tmpfs", "/dev/shm", "tmpfs", 0, ""},
		{"tmpfs", "/run", "tmpfs", 0, "mode=755"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory +pids +cpu"), 0); err != nil {
		return err
	}
	for _, dir := range []string{"/tmp", "/etc", "/root", "/bin"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod("/tmp", 0o1777); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"/etc/group":  "root:x:0:\nnogroup:x:65534:\n",
		"/etc/hosts":  "127.0.0.1 localhost\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := copyFile("/bin/busybox", wire.Busybox); err != nil {
		return err
	}
	install, err := os.StartProcess("/bin/busybox", []string{"busybox", "--install", "-s", "/bin"}, &os.ProcAttr{})
	if err != nil {
		return err
	}
	if _, err := install.Wait(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("lab")); err != nil {
		return err
	}
	return loopbackUp()
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

// loopbackUp starts the only network interface that there is.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, ifr); err != nil {
		return err
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr)
}

// run runs the program, and is the parent of all that lose theirs.
func run(w *wire.Writer, job *wire.Job) (int, error) {
	var done []chan struct{}
	stream := func(kind byte) (*os.File, error) {
		r, wr, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		ended := make(chan struct{})
		done = append(done, ended)
		go func() {
			defer close(ended)
			_, _ = io.CopyBuffer(struct{ io.Writer }{w.To(kind)}, struct{ io.Reader }{r}, make([]byte, wire.MaxPayload))
		}()
		return wr, nil
	}
	stdout, err := stream(wire.Stdout)
	if err != nil {
		return 0, err
	}
	stderr, err := stream(wire.Stderr)
	if err != nil {
		return 0, err
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		return 0, err
	}
	p, err := os.StartProcess(wire.Program, job.Args, &os.ProcAttr{
		Dir: wire.Data, Env: job.Env, Files: []*os.File{null, stdout, stderr},
	})
	if err != nil {
		return 0, err
	}
	pid := p.Pid
	stdout.Close()
	stderr.Close()
	var status unix.WaitStatus
	for {
		var st unix.WaitStatus
		got, err := unix.Wait4(-1, &st, 0, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, err
		}
		if got == pid && (st.Exited() || st.Signaled()) {
			status = st
			break
		}
	}
	// Whoever it left running may hold its streams open; they do not count.
	deadline, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, d := range done {
		select {
		case <-d:
		case <-deadline.Done():
		}
	}
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// sendTree writes the files and directories below dir as a tar archive.
func sendTree(to io.Writer, dir string) error {
	t := tar.NewWriter(to)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		head, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		head.Name, _ = filepath.Rel(dir, path)
		if err := t.WriteHeader(head); err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(t, f)
		return err
	})
	if err != nil {
		return err
	}
	return t.Close()
}
