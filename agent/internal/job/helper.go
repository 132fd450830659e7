package job

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/agent/internal/lookup"
	"syscall"
)

// HelperName is argv[0] of the helper: the agent's own program, started again.
const HelperName = "hpcc-job"

// Descriptors that the helper is born with, besides the console's.
const (
	fdControl = 3 + iota
	fdStdout
	fdStderr
)

// setup is the agent's first message: what the job's world is made of.
type setup struct {
	Lower        string // the image's root
	Stage        string // an empty directory to mount on
	Size, Inodes uint64 // of the job's file system
	Hostname     string
}

// start is the second, once the inputs are there.
type start struct {
	Argv, Env []string
	Cwd       string
	UID       int
	// Where no cgroup bounds the job: its processes, and the memory of each of
	// them. That a program ran into these nobody is told.
	Processes, AddressSpace uint64
}

// report is what the helper says: after the setup, with the listener of the
// filter, and at the end.
type report struct {
	Error    string // anything but empty ends the job
	Listener int    // number of a descriptor of the helper's
	Exited   *exited
}

type exited struct {
	Status uint32 // as of wait4(2)
	Rusage unix.Rusage
}

// Helper is the first process of a job's PID namespace. The compiler must not be
// that: the kernel drops signals to it that have no handler, so that abort()
// would look like a crash of another kind, and it would have to reap what its
// children leave. The helper makes the job's mounts, starts the compiler with
// nothing but its own uid, reaps, and holds the job's files until the agent has
// read the outputs. It ends, and with it all of the job, when the agent's end of
// the control socket closes.
//
// It never returns.
func Helper() {
	// The filter belongs to a thread, and so do the privileges that it drops.
	runtime.LockOSThread()
	// What the agent was born with, should there be anything, is not the job's.
	if err := unix.CloseRange(fdControl, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		os.Exit(1)
	}
	control := os.NewFile(fdControl, "control")
	in, out := json.NewDecoder(control), json.NewEncoder(control)
	fail := func(err error) {
		_ = out.Encode(report{Error: err.Error()})
		os.Exit(1)
	}
	var s setup
	if err := in.Decode(&s); err != nil {
		os.Exit(1)
	}
	if err := s.enter(); err != nil {
		fail(err)
	}
	null, err := os.OpenFile("/dev/null", os.O_RDONLY, 0)
	if err != nil {
		fail(err)
	}
	listener, err := confine()
	if err != nil {
		fail(err)
	}
	warm()
	_ = out.Encode(report{Listener: listener})
	var j start
	if err := in.Decode(&j); err != nil {
		os.Exit(1)
	}
	unix.Close(listener) // the agent has it
	// From here the agent says nothing more but by the end of the socket.
	go func() {
		var end struct{}
		_ = in.Decode(&end)
		os.Exit(0)
	}()
	pid, err := j.run(null)
	if err != nil {
		fail(err)
	}
	unix.Close(fdStdout)
	unix.Close(fdStderr)
	_ = out.Encode(report{Exited: reap(pid)})
	select {}
}

// enter makes the job's mount namespace: the image under an overlay of a size,
// a small /dev, a /proc of its own.
func (s *setup) enter() error {
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	if err := unix.Setdomainname([]byte("(none)")); err != nil {
		return fmt.Errorf("domain name: %w", err)
	}
	unix.Umask(0)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	options := fmt.Sprintf("size=%d,nr_inodes=%d,mode=0755", s.Size, s.Inodes)
	if err := unix.Mount("job", s.Stage, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("file system of the job: %w", err)
	}
	for _, name := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(s.Stage, name), 0o755); err != nil {
			return err
		}
	}
	root := filepath.Join(s.Stage, "root")
	// What the image's author wrote into trusted.overlay attributes is not
	// followed.
	options = "lowerdir=" + s.Lower + ",upperdir=" + s.Stage + "/upper,workdir=" + s.Stage + "/work,redirect_dir=nofollow,metacopy=off,index=off"
	if err := unix.Mount("job", root, "overlay", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	// The new root lies below the old one now, which is what "." means.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the machine's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return furnish()
}

// furnish makes what programs expect of a root. The image may have links at
// these names: they lead nowhere but into the job's own root.
func furnish() error {
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{"/proc", 0o555}, {"/dev", 0o755}, {"/tmp", 0o777 | os.ModeSticky}, {"/var", 0o755}, {"/var/tmp", 0o777 | os.ModeSticky}} {
		if err := os.Mkdir(d.path, d.mode.Perm()); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if d.mode&os.ModeSticky != 0 {
			if err := os.Chmod(d.path, d.mode); err != nil {
				return err
			}
		}
	}
	const hard = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("proc", "/proc", "proc", hard|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	// Not the machine's own /dev, which has its disks and the kernel's log.
	if err := unix.Mount("dev", "/dev", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "size=1m,nr_inodes=64,mode=0755"); err != nil {
		return fmt.Errorf("/dev: %w", err)
	}
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		if err := unix.Mknod("/dev/"+d.name, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("/dev/%s: %w", d.name, err)
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, "/dev/"+name); err != nil {
			return err
		}
	}
	if err := os.Mkdir("/dev/shm", 0o777); err != nil {
		return err
	}
	return os.Chmod("/dev/shm", 0o777|os.ModeSticky)
}

// warm does once what else the job would wait for: the first use of a type by
// package json costs more than all later ones.
func warm() {
	_ = json.Unmarshal([]byte(`{"Argv":["a"],"Env":["b"],"Cwd":"c","UID":1,"Processes":1,"AddressSpace":1}`), new(start))
	_, _ = json.Marshal(report{Exited: new(exited)})
}

// confine takes the helper's thread what the job must not have, and puts the
// filter on it: from here on it makes no call with a path, for nobody answers yet.
func confine() (listener int, err error) {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		// EINVAL: a kernel with fewer.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL {
			return -1, fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("no_new_privs: %w", err)
	}
	unix.Umask(0o022)
	if listener, err = lookup.Install(); err != nil {
		return -1, fmt.Errorf("filter of system calls: %w", err)
	}
	return listener, nil
}

// run starts the job's first process.
func (j *start) run(null *os.File) (pid int, err error) {
	program, err := j.programApart()
	if err != nil {
		return 0, err
	}
	limits := map[int]uint64{
		// None of the size of a file: the signal would end a compiler's child, and
		// the compiler would exit with 1.
		unix.RLIMIT_FSIZE: unix.RLIM_INFINITY, unix.RLIMIT_CORE: 0,
		// The first process of a machine has one from the machine's memory.
		unix.RLIMIT_NPROC:  j.Processes,
		unix.RLIMIT_NOFILE: 1024, unix.RLIMIT_MEMLOCK: 1 << 20, unix.RLIMIT_MSGQUEUE: 0,
		// Not RLIMIT_AS: the helper's own address space is larger than what a job
		// may have.
		unix.RLIMIT_DATA: j.AddressSpace,
	}
	for resource, n := range limits {
		// By way of package syscall, which else gives children the old number of
		// open files back.
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: n, Max: n}); err != nil {
			return 0, fmt.Errorf("resource limit %d: %w", resource, err)
		}
	}
	pid, err = syscall.ForkExec(program, j.Argv, &syscall.ProcAttr{
		Dir: j.Cwd, Env: j.Env, Files: []uintptr{null.Fd(), fdStdout, fdStderr},
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Credential: &syscall.Credential{Uid: uint32(j.UID), Gid: uint32(j.UID)},
		},
	})
	if err != nil {
		return 0, fmt.Errorf("starting %s in %s: %w", program, j.Cwd, err)
	}
	return pid, nil
}

// programApart is program on another thread, which has no filter: where the
// helper looks is no look-up of the job's. (A goroutine that is locked to its
// thread has no other that comes of it.)
func (j *start) programApart() (program string, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		program, err = j.program()
	}()
	<-done
	return program, err
}

// program finds argv[0] in PATH, as execvp(3) does.
func (j *start) program() (string, error) {
	name := j.Argv[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, e := range j.Env {
		dirs, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(dirs) {
			p := filepath.Join(dir, name)
			if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 && filepath.IsAbs(p) {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("%s: %w in PATH of the job's environment", name, exec.ErrNotFound)
}

// reap waits for the job's first process, kills what it left running, and waits
// for all of that.
func reap(pid int) *exited {
	var e exited
	for running := true; ; {
		var status unix.WaitStatus
		var usage unix.Rusage
		got, err := unix.Wait4(-1, &status, 0, &usage)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return &e
		case got == pid:
			e = exited{uint32(status), usage}
			running = false
			_ = unix.Kill(-1, unix.SIGKILL)
		case !running:
			// A process that was being forked at the time of the kill.
			_ = unix.Kill(-1, unix.SIGKILL)
		}
	}
}
