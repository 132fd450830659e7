//go:build linux

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/jail"
)

// startLimit bounds the jailer, which takes milliseconds.
const startLimit = 30 * time.Second

// minMemory is less than any monitor runs with.
const minMemory = 16 << 20

// cell is a jail that lives, or is about to.
type cell struct {
	id  string
	uid uint32

	root   int // the jail's root directory
	pid    int
	pidfd  int
	ended  chan struct{}      // closed once the monitor has been waited for
	status syscall.WaitStatus // then
	gone   chan struct{}      // closed once end is through
}

// reserve takes an id and a uid.
func (k *keeper) reserve(id string) (*cell, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.live[id] != nil {
		return nil, &jail.Error{Code: jail.Exists, Text: "a jail " + id + " lives"}
	}
	for uid := uint32(k.firstUID); uid < uint32(k.firstUID+k.UIDs); uid++ {
		if !k.uids[uid] {
			c := &cell{id: id, uid: uid, root: -1, pidfd: -1, ended: make(chan struct{}), gone: make(chan struct{})}
			k.uids[uid], k.live[id] = true, c
			return c, nil
		}
	}
	return nil, &jail.Error{Code: jail.Full, Text: "as many jails as users live"}
}

// start makes a jail. After an error nothing of it is left.
func (k *keeper) start(m *jail.Message, fds []int) (*cell, error) {
	if m.Memory < minMemory || m.Memory > k.maxMemory || m.PIDs < 1 || uint(m.PIDs) > k.maxPIDs {
		return nil, fmt.Errorf("limits of %d bytes and %d processes: want %d to %d and 1 to %d", m.Memory, m.PIDs, minMemory, k.maxMemory, k.maxPIDs)
	}
	if len(fds) != jail.Descriptors {
		return nil, fmt.Errorf("%d descriptors, want %d", len(fds), jail.Descriptors)
	}
	for i, name := range jail.Names {
		if err := checkFile(fds[i]); err != nil {
			return nil, fmt.Errorf("the descriptor for %s %w", name, err)
		}
	}
	if err := checkConsole(fds[jail.Console]); err != nil {
		return nil, fmt.Errorf("the descriptor for the console %w", err)
	}
	k.starting.RLock()
	defer k.starting.RUnlock()
	c, err := k.reserve(m.ID)
	if err != nil {
		return nil, err
	}
	// What an earlier jail left under this id, sweep could not remove either.
	if err := k.jails.Mkdir(c.id, 0o700); err != nil {
		k.release(c)
		if errors.Is(err, os.ErrExist) {
			err = &jail.Error{Code: jail.Exists, Text: "something is left of a jail " + c.id}
		}
		return nil, err
	}
	if err := k.fill(c, m, fds); err != nil {
		if ended := k.end(c); ended.Text != "" {
			err = fmt.Errorf("%w; left: %s", err, ended.Text)
		}
		return nil, err
	}
	return c, nil
}

// fill puts files into a jail's directory, and lets the jailer start the monitor
// in it.
func (k *keeper) fill(c *cell, m *jail.Message, fds []int) error {
	if err := k.jails.Mkdir(c.id+"/root", 0o700); err != nil {
		return err
	}
	dir, err := k.jails.Open(c.id + "/root")
	if err != nil {
		return err
	}
	defer dir.Close()
	if c.root, err = unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return err
	}
	for i, name := range jail.Names {
		if err := place(c.root, name, fds[i], k.client); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := k.runJailer(c, m, fds[jail.Console]); err != nil {
		return err
	}
	return k.adopt(c)
}

// runJailer runs Firecracker's jailer to its end, which leaves the monitor.
//
// The network is new namespace's: nothing in it but a loopback that is down.
// --netns would do the same with a file that must be mounted and removed.
func (k *keeper) runJailer(c *cell, m *jail.Message, console int) error {
	uid := strconv.FormatUint(uint64(c.uid), 10)
	memory := strconv.FormatUint(m.Memory, 10)
	cmd := exec.Command(k.jailer, "--id", c.id, "--exec-file", k.firecracker, "--uid", uid, "--gid", uid,
		"--chroot-base-dir", k.base, "--new-pid-ns", "--cgroup-version", "2", "--parent-cgroup", k.cgroup,
		"--cgroup", "memory.max="+memory, "--cgroup", "pids.max="+strconv.FormatUint(uint64(m.PIDs), 10),
		// A monitor that was taken over writes no file larger than its machine.
		"--resource-limit", "fsize="+memory,
		"--", "--level", "Warning")
	cmd.Env = []string{}
	cmd.Dir = "/"
	// An *os.File of its own, so that no goroutine copies: the descriptor itself
	// goes to the monitor.
	dup, err := unix.FcntlInt(uintptr(console), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(dup), "console")
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS, Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	timer := time.AfterFunc(startLimit, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("the jailer: %w (it says more on the console)", err)
	}
	return nil
}

// wait reaps the monitor.
func (c *cell) wait() {
	defer close(c.ended)
	for {
		if _, err := syscall.Wait4(c.pid, &c.status, 0, nil); !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}

// adopt finds the monitor, by the control group and not by the file that the
// jailer leaves in the jail: that is the monitor's already. As our child it
// keeps its number until it is waited for.
func (k *keeper) adopt(c *cell) error {
	pids, err := k.group(c.id).pids()
	if err != nil {
		return err
	}
	if len(pids) != 1 {
		return fmt.Errorf("the monitor has ended (%d processes); it says more on the console", len(pids))
	}
	c.pid = pids[0]
	go c.wait()
	if c.pidfd, err = unix.PidfdOpen(c.pid, 0); err != nil {
		return err
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	proc := filepath.Join("/proc", strconv.Itoa(c.pid))
	theirs, err := os.Readlink(proc + "/ns/net")
	if err != nil {
		return err
	}
	if own == theirs {
		return errors.New("the monitor is in the host's network")
	}
	// The jailer does not wait for what it leaves. /proc shows a process that
	// changed its user as root's until it has executed a program since.
	var st unix.Stat_t
	for deadline := time.Now().Add(startLimit); ; time.Sleep(time.Millisecond) {
		if err := unix.Stat(proc, &st); err != nil {
			return err
		}
		if st.Uid == c.uid {
			return nil
		}
		select {
		case <-c.ended:
			return errors.New("the monitor has ended; it says more on the console")
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the monitor runs as %d, want %d", st.Uid, c.uid)
		}
	}
}

// kill kills all that runs in a jail, and waits for the monitor, which is then
// reaped.
func (k *keeper) kill(c *cell) error {
	_ = k.group(c.id).kill()
	if c.pid == 0 {
		return nil
	}
	select {
	case <-c.ended:
		return nil
	case <-time.After(endLimit):
		return fmt.Errorf("process %d does not end", c.pid)
	}
}

// end ends a jail, whatever is left of it, and says how it ended. What cannot be
// removed keeps its id and uid from being used, until a sweep can.
func (k *keeper) end(c *cell) *jail.Message {
	m := &jail.Message{Kind: jail.Ended}
	err := k.kill(c)
	if err == nil {
		m.Status = uint32(c.status)
	}
	g := k.group(c.id)
	m.OOMKills, m.Peak = g.value("memory.events", "oom_kill"), g.value("memory.peak", "")
	err = errors.Join(err, k.remove(c.id))
	for _, fd := range []int{c.root, c.pidfd} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if err != nil {
		m.Text = err.Error()
		k.log.Error("jail-left", "id", c.id, "uid", c.uid, "err", err)
	} else {
		k.release(c)
	}
	close(c.gone)
	return m
}

// remove removes what there is of a jail: first the processes, then what they
// could use.
func (k *keeper) remove(id string) error {
	if err := k.group(id).remove(); err != nil {
		return err
	}
	return removeTree(k.jails, id)
}

func (k *keeper) release(c *cell) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.live, c.id)
	delete(k.uids, c.uid)
}

// sweep ends all jails, and removes what any jail has left: also those of a
// helper that was killed, whose monitors live on.
func (k *keeper) sweep() error {
	k.starting.Lock() // so that none is half made
	defer k.starting.Unlock()
	var all []error
	for _, c := range k.cells() {
		// Its connection's goroutine does the rest.
		if err := k.kill(c); err != nil {
			all = append(all, err)
		}
		<-c.gone
	}
	ids := map[string]bool{}
	for _, c := range k.cells() { // what could not be removed
		ids[c.id] = true
	}
	for _, dir := range []string{k.jails.Name(), string(k.group(""))} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			all = append(all, err)
		}
		for _, e := range entries {
			if e.IsDir() {
				ids[e.Name()] = true
			}
		}
	}
	for id := range ids {
		if err := k.remove(id); err != nil {
			all = append(all, fmt.Errorf("jail %s: %w", id, err))
			continue
		}
		k.mu.Lock()
		c := k.live[id]
		k.mu.Unlock()
		if c != nil {
			k.release(c)
		}
		k.log.Info("jail swept", "id", id)
	}
	return errors.Join(all...)
}

func (k *keeper) cells() []*cell {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.live))
}
