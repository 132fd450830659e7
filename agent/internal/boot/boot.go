// Package boot is what the first process of a machine does before it can be
// talked to: modules, mounts, the image. What it asks of the kernel goes through
// System, so that its logic can be tested where nothing may be mounted.
package boot

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// Places in the machine's own root, which no job sees.
const (
	Image  = "/image"  // the image, read-only
	Stage  = "/stage"  // jobs mount here, each in its own namespace
	Blobs  = "/blobs"  // the blob store
	Cgroup = "/cgroup" // cgroup v2
)

// System is what booting asks of the kernel.
type System interface {
	Mount(source, target, fstype string, flags uintptr, data string) error
	Mkdir(path string, mode uint32) error
	Chdir(path string) error
	Chroot(path string) error
	// Remove removes a file or an empty directory.
	Remove(path string) error
	// Exists tells whether a name is there.
	Exists(path string) bool
	ReadFile(path string) ([]byte, error)
	WriteFile(path, text string) error
	// LoadModule loads a kernel module from a file. A driver for what this
	// machine does not have is no error.
	LoadModule(path string) error
	// MapDevice makes the device that a value of dm-mod.create= describes.
	MapDevice(value string) error
	Sethostname(name string) error
	Sleep(d time.Duration)
}

// Mount flags of mount(2).
const (
	readOnly = 1
	noSUID   = 2
	noDev    = 4
	noExec   = 8
	move     = 8192
)

// Machine is what booting has found.
type Machine struct {
	// Verity says that the image is read through dm-verity.
	Verity     bool
	StoreBytes int64
}

// deviceWait is how long the image's device may take to appear; device mapper's
// tables are made while the kernel starts, before the first process.
const deviceWait = 5 * time.Second

// Boot makes the machine ready for jobs. After an error it is of no use.
func Boot(s System) (*Machine, error) {
	for _, m := range []struct{ dir, fstype string }{{"/proc", "proc"}, {"/dev", "devtmpfs"}} {
		if err := mount(s, m.fstype, m.dir, m.fstype, noSUID|noExec, ""); err != nil {
			return nil, err
		}
	}
	if err := loadModules(s); err != nil {
		return nil, err
	}
	args, err := arguments(s)
	if err != nil {
		return nil, err
	}
	device := args[agentv1.BootRoot]
	if !strings.HasPrefix(device, "/dev/") {
		return nil, fmt.Errorf("boot argument %s=%s: want the device of the image", agentv1.BootRoot, device)
	}
	var m Machine
	if m.StoreBytes, err = storeBytes(s, args[agentv1.BootStore]); err != nil {
		return nil, err
	}
	if err := newRoot(s); err != nil {
		return nil, err
	}
	if create := args["dm-mod.create"]; create != "" && !s.Exists(device) {
		// The kernel has no CONFIG_DM_INIT, or has the disk only now.
		if err := s.MapDevice(create); err != nil {
			return nil, err
		}
	}
	for waited := time.Duration(0); !s.Exists(device); waited += 10 * time.Millisecond {
		if waited >= deviceWait {
			return nil, fmt.Errorf("the image's device %s does not appear: is its dm-mod.create right?", device)
		}
		s.Sleep(10 * time.Millisecond)
	}
	// A device of the image is no device here, and its set-uid files gain nothing.
	if err := mount(s, device, Image, "ext4", readOnly|noSUID|noDev, ""); err != nil {
		return nil, fmt.Errorf("the image: %w", err)
	}
	m.Verity = strings.HasPrefix(device, "/dev/dm-") && strings.Contains(args["dm-mod.create"], " verity ")
	if err := mount(s, "cgroup2", Cgroup, "cgroup2", noSUID|noDev|noExec, ""); err != nil {
		return nil, err
	}
	if err := s.WriteFile(Cgroup+"/cgroup.subtree_control", "+memory +pids"); err != nil {
		return nil, fmt.Errorf("cgroup controllers: %w", err)
	}
	if err := s.Sethostname(agentv1.Hostname); err != nil {
		return nil, fmt.Errorf("hostname: %w", err)
	}
	return &m, nil
}

func mount(s System, source, target, fstype string, flags uintptr, data string) error {
	if !s.Exists(target) {
		if err := s.Mkdir(target, 0o755); err != nil {
			return err
		}
	}
	if err := s.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", source, target, err)
	}
	return nil
}

// newRoot replaces the initramfs as root by a tmpfs: pivot_root(2), by which
// jobs leave this root, refuses to leave an initramfs. The files of the
// initramfs are removed for their memory; the agent's own program stays as long
// as it runs.
func newRoot(s System) error {
	const dir = "/newroot"
	if err := mount(s, "root", dir, "tmpfs", noSUID|noDev, "mode=0755"); err != nil {
		return err
	}
	for _, name := range []string{"/proc", "/dev"} {
		if err := s.Mkdir(dir+name, 0o755); err != nil {
			return err
		}
		if err := s.Mount(name, dir+name, "", move, ""); err != nil {
			return fmt.Errorf("moving %s: %w", name, err)
		}
	}
	for _, name := range []string{Image, Stage, Cgroup} {
		if err := s.Mkdir(dir+name, 0o755); err != nil {
			return err
		}
	}
	if err := s.Mkdir(dir+Blobs, 0o700); err != nil {
		return err
	}
	// The kernel opened this program already; nothing needs its name.
	if err := s.Remove("/init"); err != nil {
		return fmt.Errorf("removing /init: %w", err)
	}
	if err := s.Chdir(dir); err != nil {
		return err
	}
	if err := s.Mount(".", "/", "", move, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := s.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return s.Chdir("/")
}

// loadModules loads what the initramfs lists, in its order: it is made for this
// kernel, so a module that does not load is an error.
func loadModules(s System) error {
	if !s.Exists(agentv1.ModuleList) {
		return nil
	}
	list, err := s.ReadFile(agentv1.ModuleList)
	if err != nil {
		return err
	}
	for path := range strings.Lines(string(list)) {
		path = strings.TrimSpace(path)
		if path == "" {
			continue
		}
		if err := s.LoadModule(path); err != nil {
			return fmt.Errorf("loading %s: %w", path, err)
		}
		if err := s.Remove(path); err != nil {
			return err
		}
	}
	// No more than these, for anybody.
	if err := s.WriteFile("/proc/sys/kernel/modules_disabled", "1"); err != nil {
		return fmt.Errorf("loading of modules cannot be ended: %w", err)
	}
	return nil
}

// arguments reads the kernel's command line. Values may be quoted.
func arguments(s System) (map[string]string, error) {
	line, err := s.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	args := make(map[string]string)
	var word strings.Builder
	quoted := false
	flush := func() {
		if name, value, ok := strings.Cut(word.String(), "="); ok {
			args[name] = value
		}
		word.Reset()
	}
	for _, c := range strings.TrimSpace(string(line)) {
		switch {
		case c == '"':
			quoted = !quoted
		case c == ' ' && !quoted:
			flush()
		default:
			word.WriteRune(c)
		}
	}
	flush()
	return args, nil
}

// storeBytes is the limit of the blob store: as told, else a quarter of the
// memory.
func storeBytes(s System, arg string) (int64, error) {
	if arg != "" {
		n, err := strconv.ParseInt(arg, 10, 64)
		if err != nil || n <= 0 {
			return 0, fmt.Errorf("boot argument %s=%s: want a number of bytes", agentv1.BootStore, arg)
		}
		return n, nil
	}
	b, err := s.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return 0, err
			}
			return kib << 10 / 4, nil
		}
	}
	return 0, errors.New("/proc/meminfo has no MemTotal")
}
