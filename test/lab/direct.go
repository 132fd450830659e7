package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"hpcc.dev/hpcc/guest"
)

// probe says once per process whether this machine is an environment itself.
var probe struct {
	sync.Mutex
	done   bool
	reason error
}

// directWorks returns nil where the environment Direct works here, else why not.
func directWorks(ctx context.Context) error {
	probe.Lock()
	defer probe.Unlock()
	if !probe.done {
		reason := tryDirect(ctx)
		if ctx.Err() != nil {
			return reason
		}
		probe.reason, probe.done = reason, true
	}
	return probe.reason
}

func tryDirect(ctx context.Context) error {
	if os.Getuid() != 0 {
		return errors.New("the jailer needs root")
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	f.Close()
	if err := controllers(); err != nil {
		return err
	}
	init, err := Guest(ctx)
	if err != nil {
		return err
	}
	kit, err := Kit(ctx, init)
	if err != nil {
		return err
	}
	firecracker, _, err := Firecracker(ctx)
	if err != nil {
		return err
	}
	return boots(ctx, probeLimit, firecracker, kit)
}

// controllers tells whether control groups of version 2 have the controllers
// that a jail is limited by: on a host that gives them to version 1 they are
// not to be had.
func controllers() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[2] != "cgroup2" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(f[1], "cgroup.controllers"))
		if err != nil {
			return err
		}
		for _, want := range []string{"memory", "pids", "cpu"} {
			if !strings.Contains(" "+strings.TrimSpace(string(text))+" ", " "+want+" ") {
				return fmt.Errorf("control groups of version 2 have no controller %s here", want)
			}
		}
		return nil
	}
	return errors.New("control groups of version 2 are not mounted")
}

// probeLimit is long for a real processor, which takes half a second.
const probeLimit = 15 * time.Second

// boots starts the guest kernel in Firecracker, without a jail, and sees
// whether its /init comes to its end within the limit.
func boots(ctx context.Context, limit time.Duration, firecracker string, kit *guest.Kit) error {
	dir, err := os.MkdirTemp("", "hpcc-lab-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	config, err := json.Marshal(map[string]any{
		"boot-source":    map[string]any{"kernel_image_path": kit.Kernel, "initrd_path": kit.Initrd, "boot_args": kit.BootArgs},
		"machine-config": map[string]any{"vcpu_count": 1, "mem_size_mib": 256},
		"drives":         []any{},
	})
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, firecracker, "--no-api", "--config-file", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("the guest kernel did not come up in %v", limit)
	case err != nil:
		return fmt.Errorf("firecracker: %w: %s", err, lastLine(out.String()))
	case !strings.Contains(out.String(), "guest: done=yes"):
		return fmt.Errorf("the guest kernel did not run its /init: %s", lastLine(out.String()))
	}
	return nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// direct starts the environment of this machine's own: namespaces whose first
// process is the lab's init. /data is a directory below dir, a copy.
func direct(ctx context.Context, job *Job, dir string) (*environment, error) {
	init, err := BuildProgram(ctx, "hpcc.dev/hpcc/test/lab/init")
	if err != nil {
		return nil, err
	}
	return startDirect(job, dir, init)
}

func startDirect(job *Job, dir, init string) (*environment, error) {
	files, err := job.files(dir)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	for name, file := range files {
		to := filepath.Join(data, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return nil, err
		}
		if err := copyFile(to, file); err != nil {
			return nil, err
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd := exec.Command(init, "direct", data)
	cmd.ExtraFiles = []*os.File{w}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	// All that it starts ends with the namespace's first process, which ends
	// with this one.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:  syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET,
	}
	if err := cmd.Start(); err != nil {
		r.Close()
		return nil, fmt.Errorf("lab: %w", err)
	}
	return &environment{frames: r, end: func() string {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		r.Close()
		return strings.TrimSpace(out.String())
	}}, nil
}

// copyFile copies as the kernel can: by reflink where the file system has them.
func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
