//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups is where control groups of version 2 are mounted.
const cgroups = "/sys/fs/cgroup"

// group is a jail's control group. Its files are root's, so that they tell the
// truth about a jail whatever happens in it.
type group string

func (k *keeper) group(id string) group { return group(filepath.Join(cgroups, k.cgroup, id)) }

// pids are the processes in the group; none if there is no group.
func (g group) pids() ([]int, error) {
	text, err := os.ReadFile(filepath.Join(string(g), "cgroup.procs"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var pids []int
	for line := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(line)
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// value reads a number: a whole file's, or that of a key in it. Where there is
// none it is 0.
func (g group) value(file, key string) uint64 {
	text, _ := os.ReadFile(filepath.Join(string(g), file))
	for line := range strings.Lines(string(text)) {
		name, number, found := strings.Cut(strings.TrimSpace(line), " ")
		if !found {
			name, number = "", name
		}
		if name == key {
			n, _ := strconv.ParseUint(number, 10, 64)
			return n
		}
	}
	return 0
}

// endLimit is how long killed processes may take to end: they may be in the
// middle of giving back gigabytes.
const endLimit = 30 * time.Second

// kill kills all that is in the group by cgroup.kill (Linux 5.14), which nothing
// can outrun by forking. No group is no error.
func (g group) kill() error {
	f, err := os.OpenFile(filepath.Join(string(g), "cgroup.kill"), os.O_WRONLY, 0)
	if err == nil {
		defer f.Close()
		_, err = f.WriteString("1")
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// remove kills all that is in the group, and removes it.
func (g group) remove() error {
	deadline := time.Now().Add(endLimit)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if err := g.kill(); err != nil {
			return fmt.Errorf("control group: %w", err)
		}
		pids, err := g.pids()
		if err != nil {
			return fmt.Errorf("control group: %w", err)
		}
		for _, pid := range pids {
			// Only our own children answer; others are init's to reap.
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
		if err = unix.Rmdir(string(g)); err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("control group %s: %w, with %d processes", g, err, len(pids))
		}
		time.Sleep(pause)
	}
}
