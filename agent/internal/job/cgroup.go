package job

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

// cgroup is a job's directory in a cgroup v2 hierarchy. A nil one bounds
// nothing.
type cgroup struct {
	dir string
	f   *os.File
}

// helperTasks are the threads that the helper may have: they count.
const helperTasks = 16

// newCgroup makes a group that has no limits yet.
func newCgroup(parent, name string) (*cgroup, error) {
	dir := filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	c := &cgroup{dir: dir}
	f, err := os.Open(dir)
	if err != nil {
		_ = c.remove()
		return nil, err
	}
	c.f = f
	return c, nil
}

// limit bounds what the group may use from now on.
func (c *cgroup) limit(memory uint64, processes uint32) error {
	if c == nil {
		return nil
	}
	for file, value := range map[string]uint64{"memory.max": memory, "pids.max": uint64(processes) + helperTasks} {
		if err := c.write(file, strconv.FormatUint(value, 10)); err != nil {
			return err
		}
	}
	// Absent where the kernel has no swap.
	if err := c.write("memory.swap.max", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (c *cgroup) write(file, value string) error {
	// Not os.WriteFile: it would make a file that is not there.
	f, err := os.OpenFile(filepath.Join(c.dir, file), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}

// event reads a counter of a flat keyed file. A nil group has counted nothing.
func (c *cgroup) event(file, key string) (int, error) {
	if c == nil {
		return 0, nil
	}
	b, err := os.ReadFile(filepath.Join(c.dir, file))
	if err != nil {
		return 0, fmt.Errorf("cgroup: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, fmt.Errorf("cgroup: %s has no %s", file, key)
}

// remove removes the group. Its processes are gone, but the kernel may still
// hold the last of them for a moment.
func (c *cgroup) remove() error {
	if c == nil {
		return nil
	}
	if c.f != nil {
		c.f.Close()
	}
	var err error
	for wait := time.Millisecond; wait < 2*time.Second; wait *= 2 {
		if err = unix.Rmdir(c.dir); err == nil || err == unix.ENOENT {
			return nil
		}
		time.Sleep(wait)
	}
	return fmt.Errorf("cgroup %s: %w", c.dir, err)
}
