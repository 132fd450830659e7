//go:build lab && linux

package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/jail"
	"hpcc.dev/hpcc/internal/vm"
)

// given is what the lab was given beside the files: see test/e2e.
type given struct {
	BootArgs string
	// Rootfs is a small one for the guest that does what it is told, GCC that of
	// the gcc image. CC1Block is a block of the compiler proper in it.
	Rootfs, GCC vm.Rootfs
	CC1Block    int64
}

func readGiven() (g given, err error) {
	text, err := os.ReadFile("/data/given.json")
	if err == nil {
		err = json.Unmarshal(text, &g)
	}
	return g, err
}

func input(t testing.TB) given {
	t.Helper()
	g, err := readGiven()
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func fileDigest(t testing.TB, path string) digest.Digest {
	t.Helper()
	d, err := digest.OfFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// configuration is made once: the digests take seconds where all is emulated.
var configuration = sync.OnceValues(func() (Config, error) {
	g, err := readGiven()
	c := Config{Socket: socket, Kernel: "/data/vmlinux", Initrd: "/data/initrd", BootArgs: g.BootArgs}
	if err == nil {
		c.KernelDigest, err = digest.OfFile(c.Kernel)
	}
	if err == nil {
		c.InitrdDigest, err = digest.OfFile(c.Initrd)
	}
	return c, err
})

var theRuntime = sync.OnceValues(func() (*Runtime, error) {
	c, err := configuration()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return New(ctx, c)
})

func newRuntime(t testing.TB) *Runtime {
	t.Helper()
	r, err := theRuntime()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// spec is a machine with a copy of the image that is the worker's own.
func spec(t testing.TB, id string) vm.Spec {
	t.Helper()
	s := vm.Spec{ID: id, Tenant: "tenant-" + id, Rootfs: input(t).Rootfs, VCPUs: 1, MemoryMiB: 256}
	own := filepath.Join(workDir, id+".img")
	if err := Clone(own, s.Rootfs.Path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(own) })
	s.Rootfs.Path = own
	return s
}

func start(t testing.TB, s vm.Spec) *machine {
	t.Helper()
	began := time.Now()
	m, err := newRuntime(t).Start(within(t), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s started in %.2f s", s.ID, time.Since(began).Seconds())
	t.Cleanup(func() { _ = m.Kill() })
	return m.(*machine)
}

// speaks waits for a word on the machine's console, which comes by a way of its own.
func speaks(t testing.TB, m vm.Machine, word string) {
	t.Helper()
	said := ""
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if said = m.(*machine).console.tail(30); strings.Contains(said, word) {
			return
		}
	}
	t.Errorf("the console does not speak of %s:\n%s", word, said)
}

// trick makes the guest do something, and returns what it says about it.
func trick(t testing.TB, m vm.Machine, argv ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	_, err := m.Client().Exec(ctx, agentapi.Job{Argv: argv, Cwd: "/"}, nil, agentapi.Sinks{Stdout: &out})
	return out.String(), err
}

func ended(t testing.TB, m vm.Machine) error {
	t.Helper()
	select {
	case <-m.Done():
		return m.Err()
	case <-time.After(3 * time.Minute):
		t.Fatal("the machine does not end")
		return nil
	}
}

func TestRuntime(t *testing.T) {
	if os.Getuid() != workerUID {
		t.Fatalf("the driver runs as %d", os.Getuid())
	}
	r := newRuntime(t)
	if i := r.Info(); i.Name != "firecracker" || i.Version != "1.12.1" || !i.Isolated {
		t.Errorf("%+v", i)
	}
	nothingLeft(t)
	c, err := configuration()
	if err != nil {
		t.Fatal(err)
	}
	c.KernelDigest = c.InitrdDigest
	if _, err := New(within(t), c); !errors.Is(err, digest.ErrMismatch) {
		t.Errorf("a kernel that is another: %v", err)
	}
}

// Two tenants' machines at once; what is in them, what is around them, and an
// end in order.
func TestTwoMachines(t *testing.T) {
	a, b := spec(t, "a"), spec(t, "b")
	one, two := start(t, a), start(t, b)
	if _, err := newRuntime(t).Start(within(t), a); !errors.Is(err, vm.ErrExists) {
		t.Errorf("a second machine of one id: %v", err)
	}
	if one.jail.UID == two.jail.UID {
		t.Errorf("both run as %d", one.jail.UID)
	}
	for _, m := range []*machine{one, two} {
		info := m.Info()
		if len(info.NICs) != 0 || !slices.Equal(info.Agent.Interfaces, []string{"lo"}) || !info.Agent.Verity {
			t.Errorf("%+v", info)
		}
		if want := "sha256:" + fileDigest(t, "/data/firecracker").Hex(); info.Digests["vmm"] != want {
			t.Errorf("vmm %s, want %s", info.Digests["vmm"], want)
		}
		if want := "sha256:" + fileDigest(t, "/data/vmlinux").Hex(); info.Digests["kernel"] != want {
			t.Errorf("kernel %s, want %s", info.Digests["kernel"], want)
		}
		outside(t, m)
		inside(t, m)
	}
	// The worker's own image is linked, the kit's files, which are root's, are not.
	if links := asRoot(t, fmt.Sprintf("stat -c %%h,%%u %s/a/root/drive %[1]s/a/root/vmlinux", jails)); links != "2,990\n1,0" {
		t.Errorf("links and owners of drive and vmlinux: %s", links)
	}
	if err := one.Stop(within(t)); err != nil || one.Err() != nil {
		t.Errorf("stop: %v, %v", err, one.Err())
	}
	if end := one.jail.Ending(); end.Status != 0 {
		t.Errorf("the monitor ended with %v", end.Status)
	}
	t.Logf("stopped; memory peak %d MiB of a machine of 256", one.jail.Ending().Peak>>20)
	if _, err := trick(t, one, "list", "/"); !isLost(err) {
		t.Errorf("a call after the end: %v", err)
	}
	if out, err := trick(t, two, "list", "/dev"); err != nil || !strings.Contains(out, "vda") {
		t.Errorf("the other machine: %s, %v", out, err)
	}
	if err := two.Kill(); err != nil || two.Err() != nil {
		t.Errorf("kill: %v, %v", err, two.Err())
	}
	nothingLeft(t)
}

func isLost(err error) bool {
	var lost *agentapi.LostError
	return errors.As(err, &lost)
}

// outside looks at the monitor from the host.
func outside(t *testing.T, m *machine) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d", m.jail.PID)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", m.jail.UID), "CapEff:\t0000000000000000\n", "Seccomp:\t2\n", "Groups:\t \n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	own := asRoot(t, "cat /proc/self/cgroup; for n in net pid mnt ipc uts; do readlink /proc/self/ns/$n; done")
	theirs := asRoot(t, "cat "+proc+"/cgroup; for n in net pid mnt ipc uts; do readlink "+proc+"/ns/$n; done")
	for _, line := range strings.Split(theirs, "\n") {
		if strings.Contains(own, line) {
			t.Errorf("the monitor shares %s", line)
		}
	}
	if net := asRoot(t, fmt.Sprintf("nsenter -t %d -n ip -o link", m.jail.PID)); strings.Count(net, "\n") != 0 || !strings.Contains(net, "lo: <LOOPBACK>") {
		t.Errorf("the monitor's network:\n%s", net)
	}
	if limit := asRoot(t, "cat "+parent+"/"+m.info.ID+"/memory.max"); limit != fmt.Sprint((256+overheadMiB)<<20) {
		t.Errorf("memory.max is %s", limit)
	}
	// The worker itself has no way to what belongs to the jail.
	if _, err := os.ReadDir(base); !errors.Is(err, os.ErrPermission) {
		t.Errorf("the worker reads %s: %v", base, err)
	}
	if err := unix.Kill(m.jail.PID, unix.SIGKILL); !errors.Is(err, unix.EPERM) {
		t.Errorf("the worker can kill the monitor: %v", err)
	}
}

// inside looks at the machine from the guest.
func inside(t *testing.T, m *machine) {
	t.Helper()
	for _, dev := range []string{"/dev/vda", "/dev/dm-0"} {
		if out, err := trick(t, m, "write-drive", dev); err != nil || !strings.HasPrefix(out, "error: ") {
			t.Errorf("the guest writes to %s: %q, %v", dev, out, err)
		}
	}
	if out, err := trick(t, m, "mount-root"); err != nil || out != "" {
		t.Errorf("mounting the root: %q, %v", out, err)
	}
	if out, err := trick(t, m, "read", "/tmp/root/file"); err != nil || out != "content\n" {
		t.Errorf("a file of the image: %q, %v", out, err)
	}
	if out, err := trick(t, m, "dial"); err != nil || !strings.HasPrefix(out, "error: ") {
		t.Errorf("the guest reaches the host: %q, %v", out, err)
	}
}

// A flipped byte of the image is an error in the guest, never other bytes.
func TestFlippedByte(t *testing.T) {
	s := spec(t, "flipped")
	data, err := os.ReadFile(s.Rootfs.Path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, []byte("content\n"))
	if at < 0 {
		t.Fatal("the file's content is not in the image")
	}
	f, err := os.OpenFile(s.Rootfs.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("K"), int64(at)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	m := start(t, s)
	if out, err := trick(t, m, "mount-root"); err != nil || out != "" {
		t.Errorf("mounting the root: %q, %v", out, err)
	}
	if out, err := trick(t, m, "read", "/tmp/root/file"); err != nil || !strings.Contains(out, "input/output error") {
		t.Errorf("the damaged file: %q, %v", out, err)
	}
	speaks(t, m, "verity")
	if err := m.Kill(); err != nil {
		t.Error(err)
	}
	// A wrong root hash: nothing of the image is believed.
	s.Rootfs.RootHash = strings.Repeat("00", 32)
	m = start(t, s)
	if out, err := trick(t, m, "mount-root"); err != nil || !strings.HasPrefix(out, "error: ") {
		t.Errorf("mounting a root of another hash: %q, %v", out, err)
	}
	if err := m.Kill(); err != nil {
		t.Error(err)
	}
	nothingLeft(t)
}

// Ends that nobody asked for.
func TestCrashes(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*testing.T, *machine)
		want []string // in the error
	}{
		{"panic", func(t *testing.T, m *machine) { _, _ = trick(t, m, "exit") }, []string{"the guest ended itself", "attempted to kill init"}},
		{"reboot", func(t *testing.T, m *machine) { _, _ = trick(t, m, "reboot") }, []string{"the guest ended itself"}},
		{"killed", func(t *testing.T, m *machine) { asRoot(t, fmt.Sprintf("kill -9 %d", m.jail.PID)) }, []string{"killed by signal 9"}},
		{"oom", func(t *testing.T, m *machine) {
			// As if the limit had been too low.
			asRoot(t, "echo 64M >"+parent+"/"+m.info.ID+"/memory.max")
			_, _ = trick(t, m, "eat")
		}, []string{"out of memory"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := start(t, spec(t, c.name))
			call := make(chan error, 1)
			go func() {
				_, err := m.Client().Exec(t.Context(), agentapi.Job{Argv: []string{"hang"}, Cwd: "/"}, nil, agentapi.Sinks{})
				call <- err
			}()
			time.Sleep(300 * time.Millisecond)
			c.do(t, m)
			err := ended(t, m)
			t.Log(err)
			if !errors.Is(err, vm.ErrCrashed) {
				t.Errorf("not a crash: %v", err)
			}
			for _, w := range c.want {
				if err == nil || !strings.Contains(strings.ToLower(err.Error()), w) {
					t.Errorf("no %q in the reason", w)
				}
			}
			if err := <-call; !isLost(err) {
				t.Errorf("a call under way: %v", err)
			}
			nothingLeft(t)
		})
	}
}

// A guest that does not stop, and one that writes to its console without end.
func TestUnwillingGuests(t *testing.T) {
	m := start(t, spec(t, "unwilling"))
	if _, err := trick(t, m, "deaf"); err != nil {
		t.Fatal(err)
	}
	if _, err := trick(t, m, "flood"); err != nil {
		t.Fatal(err)
	}
	said := ""
	for end := time.Now().Add(time.Minute); said == "" && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		said = m.console.tail(1000)
	}
	if len(said) == 0 || len(said) > consoleBytes+1000 || strings.ContainsAny(said, "\x1b\x07") {
		t.Errorf("console of %d bytes: %.300q", len(said), said)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	began := time.Now()
	if err := m.Stop(ctx); err != nil || m.Err() != nil {
		t.Errorf("stop: %v, %v", err, m.Err())
	}
	if took := time.Since(began); took < 2*time.Second || took > 2*time.Minute {
		t.Errorf("stopped after %v", took)
	}
	nothingLeft(t)
}

// A start that fails leaves nothing.
func TestFailedStarts(t *testing.T) {
	r := newRuntime(t)
	s := spec(t, "failed")
	// Less than a guest takes on any machine.
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := r.Start(short, s); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no time: %v", err)
	}
	nothingLeft(t)
	other := *r
	other.Kernel = "/data/given.json"
	var fault *FaultError
	if _, err := other.Start(within(t), s); !errors.As(err, &fault) {
		t.Errorf("no kernel: %v", err)
	} else {
		t.Log(err)
	}
	other = *r
	other.BootArgs = "console=ttyS0 quiet loglevel=4 reboot=k panic=1 rdinit=/absent"
	_, err := other.Start(within(t), s)
	if err == nil || !strings.Contains(err.Error(), "the guest ended itself") || !strings.Contains(err.Error(), "console:") {
		t.Errorf("no init: %v", err)
	}
	nothingLeft(t)
}

// Whoever takes a monitor over owns the jail's user and root. He reaches
// nothing by what he puts there.
func TestEscapedMonitor(t *testing.T) {
	asRoot(t, `cat >/run/secret <<'E'
secret
E
chmod 600 /run/secret`)
	m := start(t, spec(t, "escaped"))
	root := jails + "/escaped/root"
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	play := func(what, name, target string) string {
		// In the jail's control group, as all that a monitor starts.
		script := fmt.Sprintf("export HPCC_PLAY=%s HPCC_UID=%d HPCC_ROOT=%s HPCC_NAME=%s HPCC_TARGET=%s; rm -f /run/play; sh -c 'echo $$ >%s/escaped/cgroup.procs; exec %s'",
			what, m.jail.UID, root, name, target, parent, self)
		if what != "listen" {
			return asRoot(t, script)
		}
		return asRoot(t, script+` >/run/play 2>&1 </dev/null &
			for i in $(seq 1200); do grep -qs listening /run/play && exit; sleep 0.1; done; cat /run/play; exit 1`)
	}
	if out := play("write", "/new", ""); out != "" {
		t.Error(out)
	}
	ctx := within(t)
	for _, c := range []struct{ what, name, target, want string }{
		{"symlink", "/v.sock", "/run/hpcc/jail.socket", "too many levels of symbolic links"},
		{"symlink", "/v.sock", "../../../../../run/hpcc/jail.socket", "too many levels of symbolic links"},
		{"symlink", "/v.sock", "run/firecracker.socket", "too many levels of symbolic links"},
		{"directory", "/v.sock", "", "not a socket"},
		{"fifo", "/v.sock", "", "not a socket"},
		{"listen", "/v.sock", "", "not the monitor"},
		{"symlink", "/run", "/", "too many levels of symbolic links"},
		{"directory", "/run", "", "not there"},
		{"listen", "/run/firecracker.socket", "", "not the monitor"},
	} {
		if out := play(c.what, c.name, c.target); out != "" {
			t.Error(out)
		}
		to := jail.ConnectVsock
		if strings.HasPrefix(c.name, "/run") {
			to = jail.ConnectAPI
		}
		conn, err := m.jail.Connect(ctx, to)
		if err == nil {
			conn.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s %s: %v, want %q", c.what, c.name, c.target, err, c.want)
		}
	}
	if out := play("deep", "/deep", ""); out != "" {
		t.Error(out)
	}
	if err := m.Kill(); err != nil {
		t.Errorf("kill: %v", err)
	}
	if out := asRoot(t, "cat /run/secret; ls -d /etc"); out != "secret\n/etc" {
		t.Error(out)
	}
	nothingLeft(t)
}

// otherWorker is another worker process, for tests that kill it.
func otherWorker() {
	var s vm.Spec
	r, err := theRuntime()
	if err == nil {
		err = json.Unmarshal([]byte(os.Getenv("HPCC_DRIVE")), &s)
	}
	if err == nil {
		var m vm.Machine
		if m, err = r.Start(context.Background(), s); err == nil {
			fmt.Println("started", m.(*machine).jail.PID)
			select {}
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

func startWorker(t *testing.T, s vm.Spec) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "HPCC_DRIVE="+string(text))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	b := make([]byte, 4096)
	n, err := out.Read(b)
	if err != nil || !strings.HasPrefix(string(b[:n]), "started") {
		t.Fatalf("%s, %v", b[:n], err)
	}
	return cmd
}

// A worker that is killed leaves nothing; a helper that is killed leaves
// machines, which the next one removes when it starts, or is told to.
func TestKilledHalves(t *testing.T) {
	worker := startWorker(t, spec(t, "orphan"))
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = worker.Wait()
	nothingLeft(t)

	m := start(t, spec(t, "widow"))
	asRoot(t, "kill-helper")
	if err := ended(t, m); !errors.Is(err, vm.ErrCrashed) || !errors.Is(err, jail.ErrHelperLost) {
		t.Errorf("without the helper: %v", err)
	}
	if err := m.Kill(); !errors.Is(err, jail.ErrHelperLost) {
		t.Errorf("kill without the helper: %v", err)
	}
	if err := unix.Kill(m.jail.PID, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("the monitor does not live on: %v", err)
	}
	asRoot(t, "start-helper")
	nothingLeft(t)

	// Sweep ends what another worker has, and removes rests.
	startWorker(t, spec(t, "other"))
	asRoot(t, "mkdir -p "+jails+"/rest/root/x "+parent+"/rest; ln -s /etc "+jails+"/rest/root/etc")
	if err := newRuntime(t).Sweep(within(t)); err != nil {
		t.Error(err)
	}
	nothingLeft(t)
}

// The helper under a worker in an attacker's hands.
func TestHostileWorker(t *testing.T) {
	ctx := within(t)
	open := func(path string, flags int) *os.File {
		t.Helper()
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(path, err)
		}
		f := os.NewFile(uintptr(fd), path)
		t.Cleanup(func() { f.Close() })
		return f
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	asRoot(t, "echo secret >/run/shadow; chmod 600 /run/shadow; cp /bin/busybox /data/setuid; chmod 4755 /data/setuid")
	image := open("/data/vmlinux", unix.O_RDONLY)
	good := jail.Files{Kernel: image, Initrd: image, Drive: image, Console: write}
	with := func(change func(*jail.Files)) jail.Files {
		f := good
		change(&f)
		return f
	}
	own := filepath.Join(workDir, "own")
	if err := os.WriteFile(own, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what   string
		memory int64
		pids   int
		files  jail.Files
		want   string
	}{
		{"a file that it cannot read", 1 << 28, 64, with(func(f *jail.Files) { f.Drive = open("/run/shadow", unix.O_PATH) }), "not open for reading"},
		{"write-only", 1 << 28, 64, with(func(f *jail.Files) { f.Drive = open(own, unix.O_WRONLY) }), "not open for reading"},
		{"a directory", 1 << 28, 64, with(func(f *jail.Files) { f.Kernel = open("/etc", unix.O_RDONLY) }), "not an ordinary file"},
		{"a device", 1 << 28, 64, with(func(f *jail.Files) { f.Kernel = open("/dev/zero", unix.O_RDONLY) }), "not an ordinary file"},
		{"a pipe", 1 << 28, 64, with(func(f *jail.Files) { f.Initrd = read }), "not an ordinary file"},
		{"a file as console", 1 << 28, 64, with(func(f *jail.Files) { f.Console = open(own, unix.O_WRONLY) }), "not a pipe"},
		{"the wrong end", 1 << 28, 64, with(func(f *jail.Files) { f.Console = read }), "not a pipe"},
		{"too much memory", 2<<30 + 1, 64, good, "limits"},
		{"too little", 1, 64, good, "limits"},
		{"too many processes", 1 << 28, 257, good, "limits"},
	} {
		j, err := jail.New(ctx, socket, "hostile", c.memory, c.pids, c.files)
		if err == nil {
			j.End()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
	// What it may read but does not own is copied: no set-user-ID bit, no inode of
	// root's, comes into a jail.
	j, err := jail.New(ctx, socket, "copied", 1<<28, 64, with(func(f *jail.Files) { f.Drive = open("/data/setuid", unix.O_RDONLY) }))
	if err != nil {
		t.Fatal(err)
	}
	if got := asRoot(t, "stat -c %a,%u,%h "+jails+"/copied/root/drive; cmp "+jails+"/copied/root/drive /data/setuid"); got != "444,0,1" {
		t.Errorf("the copy: %s", got)
	}
	j.End()
	<-j.Done()
	// As many as there are users, and no more.
	var live []*jail.Jail
	for i := range 3 {
		j, err := jail.New(ctx, socket, fmt.Sprint("full-", i), 1<<28, 64, good)
		if err != nil {
			t.Fatal(err)
		}
		live = append(live, j)
	}
	if _, err := jail.New(ctx, socket, "full-3", 1<<28, 64, good); !jail.IsCode(err, jail.Full) {
		t.Errorf("one too many: %v", err)
	}
	for _, j := range live {
		j.End()
	}
	nothingLeft(t)
	// Nobody else is served.
	if out := asRoot(t, "cat </dev/null | nc -U "+socket+" 2>&1 || true; echo done"); !strings.HasSuffix(out, "done") {
		t.Error(out)
	}
	_ = os.Remove(own)
}
