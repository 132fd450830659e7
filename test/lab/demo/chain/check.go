//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// status returns the lines of /proc/PID/status by name.
func status(pid int) (map[string]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	lines := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		lines[name] = strings.Join(strings.Fields(value), " ")
	}
	return lines, err
}

// same is the four users, or groups, of a process that has one.
func same(id int) string { return strings.TrimSpace(strings.Repeat(strconv.Itoa(id)+" ", 4)) }

const nothing = "0000000000000000" // capabilities

// unprivileged checks that what parses what others send is not root.
func (s *site) unprivileged() error {
	text, err := s.run(root, "/", nil, "ps", "-o", "pid,user,args")
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, "hpcc") || strings.Contains(line, "COMMAND") {
			indent(line)
		}
	}
	for _, x := range s.services {
		st, err := status(x.cmd.Process.Pid)
		if err != nil {
			return err
		}
		want := map[string]int{"scheduler": int(scheduler.uid), "worker": int(worker.uid), "hpcc-jail": 0}[x.name]
		if st["Uid"] != same(want) || want != 0 && st["CapEff"] != nothing {
			return fmt.Errorf("%s runs as %s with the capabilities %s", x.name, st["Uid"], st["CapEff"])
		}
	}
	return nil
}

// noCompiler checks that there is none outside of the image's file.
func noCompiler() error {
	return filepath.WalkDir("/", func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir() && (p == "/proc" || p == "/sys" || p == "/dev"):
			return fs.SkipDir
		}
		for _, name := range []string{"gcc", "g++", "cc", "c++", "cpp", "cc1", "cc1plus", "clang", "as", "ld", "tcc"} {
			if d.Name() == name && !d.IsDir() {
				return fmt.Errorf("%s: the demo was to do without a compiler", p)
			}
		}
		return nil
	})
}

// made checks that each object is the output of one row of a compile in a machine,
// and says where it came from.
func made(rows []*row, objects map[string]string) error {
	from := map[string]*row{}
	for _, r := range rows {
		name, sum := r.object()
		if name == "" {
			continue // a question
		}
		if from[name] != nil || r.Row.Cache != "miss" || r.Row.Subject != "alice" || r.Row.VM == "" || r.Row.Exit != 0 || r.Row.Error != "" || sum != objects[name] {
			return fmt.Errorf("row %d is no row of %s, whose SHA-256 is %s: %+v", r.Number, name, objects[name], r.Row)
		}
		from[name] = r
	}
	var total time.Duration
	for _, name := range names(objects) {
		r := from[name]
		if r == nil {
			return fmt.Errorf("%s has no row", name)
		}
		total += time.Duration(r.Row.Nanos)
		say("     %-12s sha256sum %.12s… = row %d's output, compiled in machine %s in %.2f s", name, objects[name], r.Number, r.Row.VM, time.Duration(r.Row.Nanos).Seconds())
	}
	say("   compilers ran for %.1f s in the machine, %.2f s for each object", total.Seconds(), total.Seconds()/float64(len(objects)))
	return nil
}

// monitor is the process of a machine: its pid.
type monitor int

// stat is the state of the process, T if it is stopped, and the ticks of processor
// time that it has used, the guest's among them.
func (m monitor) stat() (state string, used int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m))
	if err != nil {
		return "", 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return "", 0, fmt.Errorf("/proc/%d/stat: %q", m, text)
	}
	user, err := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	return f[0], user + system, errors.Join(err, err2)
}

// stop stops the machine until resume, which fails if it ran meanwhile.
func (m monitor) stop() (resume func() error, err error) {
	if err := syscall.Kill(int(m), syscall.SIGSTOP); err != nil {
		return nil, err
	}
	before := 0
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		state, used, err := m.stat()
		if err != nil || time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("%d does not stop, its state is %q", m, state), err, syscall.Kill(int(m), syscall.SIGCONT))
		}
		if before = used; state == "T" {
			break
		}
	}
	return func() error {
		state, used, err := m.stat()
		if err == nil && (state != "T" || used != before) {
			err = fmt.Errorf("the machine is in state %s and ran for %d ticks", state, used-before)
		}
		return errors.Join(err, syscall.Kill(int(m), syscall.SIGCONT))
	}, nil
}

// monitorIn is the one process of a control group. KVM puts a thread of the kernel
// there, too, which has no program.
func monitorIn(group string) (monitor, error) {
	text, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil {
		return 0, err
	}
	var found []monitor
	for pid := range strings.FieldsSeq(string(text)) {
		if _, err := os.Readlink("/proc/" + pid + "/exe"); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		n, err := strconv.Atoi(pid)
		if err != nil {
			return 0, err
		}
		found = append(found, monitor(n))
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("processes %v in %s, want the monitor alone", found, group)
	}
	return found[0], nil
}

// machine checks, from outside, what the machine of a row is that still runs.
func (s *site) machine(r *row) (monitor, error) {
	all, err := os.ReadDir(jails + "/firecracker")
	if err != nil {
		return 0, err
	}
	if len(all) != 1 {
		return 0, fmt.Errorf("%d jails, want one", len(all))
	}
	id := all[0].Name()
	jail := filepath.Join(jails, "firecracker", id, "root")
	pid, err := monitorIn(filepath.Join(groups, id))
	if err != nil {
		return 0, err
	}
	text, err := s.run(root, "/", nil, "ps", "-o", "pid,user,args")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 0 && (f[0] == fmt.Sprint(pid) || f[0] == "PID") {
			indent(line)
		}
	}
	st, err := status(int(pid))
	if err != nil {
		return 0, err
	}
	if st["Uid"] != same(firstMachine) || st["Gid"] != same(firstMachine) || st["CapEff"] != nothing || st["Seccomp"] != "2" {
		return 0, fmt.Errorf("the monitor's status: %v", st)
	}
	say("   its own user, no capability (CapEff %s), seccomp filter (Seccomp %s)", st["CapEff"], st["Seccomp"])
	var its, want unix.Stat_t
	if err := errors.Join(unix.Stat(fmt.Sprintf("/proc/%d/root", pid), &its), unix.Stat(jail, &want)); err != nil {
		return 0, err
	}
	if its.Dev != want.Dev || its.Ino != want.Ino {
		return 0, fmt.Errorf("the monitor's root is not %s", jail)
	}
	say("   its root directory is %s", jail)
	interfaces, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(interfaces)) {
		if name, _, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) != "lo" {
			return 0, fmt.Errorf("the monitor's network has %s", line)
		}
	}
	say("   its network has nothing but lo (/proc/%d/net/dev)", pid)
	if err := s.configuration(jail); err != nil {
		return 0, err
	}
	for name, file := range map[string]string{"vmm": fmt.Sprintf("/proc/%d/exe", pid), "kernel": jail + "/vmlinux", "initrd": jail + "/initrd"} {
		text, err := s.run(root, "/", nil, "sha256sum", file)
		if err != nil {
			return 0, err
		}
		sum, _, _ := strings.Cut(text, " ")
		if r.Row.Isolation.Digests[name] != "sha256:"+sum {
			return 0, fmt.Errorf("row %d has %s for the %s, %s is %s", r.Number, r.Row.Isolation.Digests[name], name, file, sum)
		}
	}
	if r.Row.Isolation.NICs == nil || len(r.Row.Isolation.NICs) != 0 {
		return 0, fmt.Errorf("row %d has the interfaces %q", r.Number, r.Row.Isolation.NICs)
	}
	say("   what it runs (sha256sum of /proc/%d/exe, kernel, initramfs) is what row %d has; nics: none", pid, r.Number)
	return pid, nil
}

// configuration asks Firecracker itself what the machine consists of.
func (s *site) configuration(jail string) error {
	// The path may be too long for a socket's.
	dir, err := os.Open(jail + "/run")
	if err != nil {
		return err
	}
	defer dir.Close()
	api := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/firecracker.socket", dir.Fd()))
	}}}
	resp, err := api.Get("http://localhost/vm/config")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var has struct {
		Machine struct {
			VCPUs  int `json:"vcpu_count"`
			Memory int `json:"mem_size_mib"`
		} `json:"machine-config"`
		Interfaces []any `json:"network-interfaces"`
		Drives     []struct {
			ReadOnly bool `json:"is_read_only"`
		} `json:"drives"`
		Vsock *struct{} `json:"vsock"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&has); err != nil {
		return err
	}
	if len(has.Interfaces) != 0 || len(has.Drives) != 1 || !has.Drives[0].ReadOnly || has.Vsock == nil {
		return fmt.Errorf("the monitor says that it has %+v", has)
	}
	say("   Firecracker's API: %d vCPU, %d MiB, one drive, read only, one vsock device, network interfaces: none", has.Machine.VCPUs, has.Machine.Memory)
	return nil
}

// hits checks that the second client got all it has from the worker's store.
func (s *site) hits(c *client, before []*row, objects map[string]string) error {
	have, err := s.objects(c)
	if err != nil {
		return err
	}
	for name, sum := range objects {
		if have[name] != sum {
			return fmt.Errorf("%s's %s is %s, alice's %s", c.name, name, have[name], sum)
		}
	}
	st, err := s.stats(c)
	if err != nil {
		return err
	}
	if st.HitsRemote != len(objects) || st.HitsDirect+st.Misses+st.Errors != 0 {
		return fmt.Errorf("%s's daemon counts %+v", c.name, st)
	}
	rows, err := s.rows()
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, r := range rows[len(before):] {
		name, sum := r.object()
		if r.Row.Cache != "hit" || r.Row.VM != "" || r.Row.Subject != c.name || seen[name] || sum != objects[name] {
			return fmt.Errorf("row %d is no hit of %s's: %+v", r.Number, c.name, r.Row)
		}
		seen[name] = true
	}
	if len(seen) != len(objects) {
		return fmt.Errorf("%d rows of hits, want %d", len(seen), len(objects))
	}
	say("   rows %d to %d: %d hits, no job in a machine; hpcc stats: %d remote hits, no miss, %.1f s of compiling saved",
		rows[len(before)].Number, rows[len(rows)-1].Number, len(seen), st.HitsRemote, st.Saved)
	return nil
}

// nothingLeft checks that the machine is gone with all that belonged to it.
func nothingLeft() error {
	for _, dir := range []string{jails + "/firecracker", groups} {
		all, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range all {
			if e.IsDir() {
				return fmt.Errorf("%s is left in %s", e.Name(), dir)
			}
		}
	}
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return err
	}
	for _, name := range names {
		text, _ := os.ReadFile(name)
		if comm := strings.TrimSpace(string(text)); comm == "firecracker" || strings.HasPrefix(comm, "hpcc") {
			return fmt.Errorf("%s is left running: %s", filepath.Dir(name), comm)
		}
	}
	say("12. All ended: no process, jail or control group is left")
	return nil
}
