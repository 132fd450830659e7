package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hpcc.dev/hpcc/guest"
	"hpcc.dev/hpcc/test/lab/wire"
)

// hostModules are what the software-KVM host needs of Debian's kernel besides
// what is compiled in; their dependencies are found out. kvm_amd, since the
// processor that QEMU emulates has AMD's virtualisation; overlays, loop devices
// and the device mapper for tests of what the agent does with them.
var hostModules = []string{"virtio_pci", "virtio_blk", "virtio_console", "xfs", "kvm_amd", "overlay", "loop", "dm_verity"}

// software starts the software-KVM host with its files in dir.
func software(ctx context.Context, job *Job, dir string) (*environment, error) {
	kernel, err := hostKernel(ctx)
	if err != nil {
		return nil, err
	}
	initrd := filepath.Join(dir, "initrd")
	if err := hostInitrd(ctx, kernel, initrd); err != nil {
		return nil, err
	}
	disk := filepath.Join(dir, "data.img")
	if err := makeDisk(ctx, job, dir, disk); err != nil {
		return nil, err
	}
	console := filepath.Join(dir, "console")
	// -smp 1: with two processors the host locks up now and then, when one that
	// runs a guest no longer takes interrupts. A tick that is due anyway instead
	// of a timer for the next event: of an event that is lost nothing else wakes
	// a processor that idles.
	cmd := exec.Command("qemu-system-x86_64",
		"-M", "q35,accel=tcg", "-cpu", "max", "-smp", "1", "-m", strconv.Itoa(job.MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
		"-kernel", kernel.image, "-initrd", initrd,
		"-append", "console=ttyS0 quiet reboot=t panic=-1 nokaslr nohz=off highres=off rdinit=/init",
		"-serial", "file:"+console,
		"-drive", "file="+disk+",format=raw,if=virtio,cache=unsafe",
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=lab,signal=off", "-device", "virtserialport,chardev=lab,name=lab")
	cmd.WaitDelay = 5 * time.Second
	// It ends with this process, however that ends.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe() // stays open: its end would be an event
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("lab: %w; make setup installs QEMU", err)
	}
	began := time.Now()
	return &environment{frames: stdout, end: func() string {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = stdin.Close()
		text, _ := os.ReadFile(console)
		// A host that locked up keeps its processor busy, one that waits does not.
		used := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		return fmt.Sprintf("QEMU ran for %.0f s and used %.0f s of processor time\n%s%s", time.Since(began).Seconds(), used.Seconds(),
			stderr.Bytes(), strings.TrimSpace(tail(text, 4000)))
	}}, nil
}

func tail(text []byte, n int) string {
	if len(text) > n {
		text = text[len(text)-n:]
	}
	return strings.ToValidUTF8(strings.ReplaceAll(string(text), "\r", ""), "?")
}

// hostInitrd writes the host's initramfs: the lab's init and modules.
func hostInitrd(ctx context.Context, kernel *debianKernel, to string) error {
	init, err := BuildProgram(ctx, "hpcc.dev/hpcc/test/lab/init")
	if err != nil {
		return err
	}
	program, err := os.ReadFile(init)
	if err != nil {
		return err
	}
	modules, err := guest.FindModules(kernel.modules, hostModules)
	if err != nil {
		return err
	}
	var a guest.Archive
	for _, name := range []string{"dev", "proc", "sys"} {
		a.Dir(name)
	}
	a.CharDevice("dev/console", 5, 1)
	a.File("init", 0o755, program)
	var list []string
	for _, m := range modules {
		list = append(list, m.Name+".ko")
		a.File("modules/"+m.Name+".ko", 0o444, m.Data)
	}
	a.File("modules/list", 0o444, []byte(strings.Join(list, "\n")))
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	if err := a.Write(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// files returns what is to be below /data: names there, files here.
func (j *Job) files(dir string) (map[string]string, error) {
	spec, err := json.Marshal(wire.Job{Args: append([]string{filepath.Base(j.Program)}, j.Args...), Env: j.environ()})
	if err != nil {
		return nil, err
	}
	specFile := filepath.Join(dir, "job.json")
	if err := os.WriteFile(specFile, spec, 0o644); err != nil {
		return nil, err
	}
	below := func(name string) string { return strings.TrimPrefix(name, wire.Data+"/") }
	all := map[string]string{
		below(wire.Program): j.Program,
		below(wire.Spec):    specFile,
		below(wire.Busybox): "/bin/busybox",
	}
	for name, file := range j.Files {
		if name == "" || path.Clean("/"+name) != "/"+name || strings.ContainsAny(name, " \t\n") || all[name] != "" {
			return nil, fmt.Errorf("lab: %q cannot be a file below /data", name)
		}
		all[name] = file
	}
	return all, nil
}

// makeDisk makes an XFS image that holds the job's files. mkfs.xfs writes them
// itself, so that neither a mount nor root is needed.
func makeDisk(ctx context.Context, job *Job, dir, disk string) error {
	files, err := job.files(dir)
	if err != nil {
		return err
	}
	tree := make(map[string][]string) // directory -> names in it
	for name := range files {
		for name != "." {
			parent := path.Dir(name)
			if slices.Contains(tree[parent], name) {
				break
			}
			tree[parent] = append(tree[parent], name)
			name = parent
		}
	}
	// The format of mkfs.xfs -p: a boot block and two numbers that nobody
	// reads, then a tree of names, types with modes, owners, and contents.
	var proto strings.Builder
	proto.WriteString("/\n0 0\nd--755 0 0\n")
	var write func(of string) error
	write = func(of string) error {
		slices.Sort(tree[of])
		for _, name := range tree[of] {
			if file, ok := files[name]; !ok {
				fmt.Fprintf(&proto, "%s d--755 0 0\n", path.Base(name))
				if err := write(name); err != nil {
					return err
				}
			} else if file, err := filepath.Abs(file); err != nil {
				return err
			} else if strings.ContainsAny(file, " \t\n") {
				return fmt.Errorf("lab: mkfs.xfs cannot read %q: the name has a space", file)
			} else {
				fmt.Fprintf(&proto, "%s ---755 0 0 %s\n", path.Base(name), file)
			}
		}
		proto.WriteString("$\n")
		return nil
	}
	if err := write("."); err != nil {
		return err
	}
	protoFile := filepath.Join(dir, "proto")
	if err := os.WriteFile(protoFile, []byte(proto.String()), 0o644); err != nil {
		return err
	}
	// Two allocation groups are the fewest: mkfs.xfs writes a file into one
	// extent, and gives up where a group has none that long.
	out, err := exec.CommandContext(ctx, "mkfs.xfs", "-q", "-m", "reflink=1", "-p", protoFile,
		"-d", fmt.Sprintf("file,name=%s,size=%dg,agcount=2", disk, job.DiskGiB)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("lab: mkfs.xfs: %w: %s; make setup installs xfsprogs", err, bytes.TrimSpace(out))
	}
	return nil
}
