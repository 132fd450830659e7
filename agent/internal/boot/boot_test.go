package boot

import (
	"errors"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// world is a kernel of which only the name space is modelled: files, mounts by
// where they are reached from the program's root, and faults.
type world struct {
	files   map[string]string // name -> content; "" of a directory too
	mounts  map[string]string // place -> type
	flags   map[string]uintptr
	modules []string
	host    string
	slept   time.Duration
	chroot  bool
	fail    map[string]error // by what is asked for
	late    string           // a device that appears after a while
}

func newWorld(cmdline string) *world {
	return &world{
		files:  map[string]string{"/init": "", "/cmdline": cmdline, "/dev0": ""},
		mounts: map[string]string{}, flags: map[string]uintptr{}, fail: map[string]error{},
	}
}

func (w *world) Exists(p string) bool {
	if p == w.late {
		return w.slept > 50*time.Millisecond
	}
	_, ok := w.files[p]
	return ok
}

func (w *world) Mkdir(p string, _ uint32) error {
	if w.Exists(p) {
		return os.ErrExist
	}
	w.files[p] = ""
	return nil
}

func (w *world) Mount(source, target, fstype string, flags uintptr, _ string) error {
	if err := w.fail["mount "+source]; err != nil {
		return err
	}
	if target == "/" {
		// The new root, over the initramfs. What was mounted below it comes along.
		if w.mounts["/newroot"] != "tmpfs" {
			return errors.New("the new root is no file system")
		}
		files, mounts := map[string]string{}, map[string]string{}
		for name, content := range w.files {
			if rest, ok := strings.CutPrefix(name, "/newroot/"); ok {
				files["/"+rest] = content
			}
		}
		for name, fs := range w.mounts {
			if rest, ok := strings.CutPrefix(name, "/newroot/"); ok {
				mounts["/"+rest] = fs
			}
		}
		if mounts["/dev"] == "devtmpfs" {
			files["/dev/vda"], files["/dev/dm-0"] = "", ""
		}
		w.files, w.mounts = files, mounts
		return nil
	}
	if !w.Exists(target) {
		return os.ErrNotExist
	}
	if flags&move != 0 {
		w.mounts[target] = w.mounts[source]
		delete(w.mounts, source)
		return nil
	}
	w.mounts[target], w.flags[target] = fstype, flags
	if fstype == "cgroup2" {
		w.files[target+"/cgroup.subtree_control"] = ""
	}
	return nil
}

func (w *world) ReadFile(p string) ([]byte, error) {
	if dir := path.Dir(p); dir == "/proc" {
		if w.mounts["/proc"] != "proc" {
			return nil, os.ErrNotExist
		}
		if p == "/proc/cmdline" {
			return []byte(w.files["/cmdline"] + "\n"), nil
		}
		return []byte("MemFree: 1 kB\nMemTotal:     512000 kB\n"), nil
	}
	content, ok := w.files[p]
	if !ok {
		return nil, os.ErrNotExist
	}
	return []byte(content), nil
}

func (w *world) WriteFile(p, text string) error {
	if !w.Exists(p) {
		return os.ErrNotExist
	}
	w.files[p] = text
	return nil
}

func (w *world) LoadModule(p string) error {
	if !w.Exists(p) {
		return os.ErrNotExist
	}
	w.modules = append(w.modules, p)
	return w.fail["module "+p]
}

func (w *world) Chdir(string) error  { return nil }
func (w *world) Chroot(string) error { w.chroot = true; return nil }
func (w *world) Remove(p string) error {
	if !w.Exists(p) {
		return os.ErrNotExist
	}
	delete(w.files, p)
	return nil
}
func (w *world) Sethostname(name string) error { w.host = name; return nil }
func (w *world) Sleep(d time.Duration)         { w.slept += d }
func (w *world) MapDevice(string) error        { return w.fail["dm"] }

const verityArgs = `console=ttyS0 quiet hpcc.root=/dev/dm-0 dm-mod.create="vroot,,,ro,0 8 verity 1 /dev/vda /dev/vda 4096 4096 1 2 sha256 ab cd" panic=1`

func TestBoot(t *testing.T) {
	w := newWorld(verityArgs)
	m, err := Boot(w)
	if err != nil {
		t.Fatal(err)
	}
	if !m.Verity || m.StoreBytes != 512000<<10/4 {
		t.Errorf("%+v", m)
	}
	for place, fs := range map[string]string{"/proc": "proc", "/dev": "devtmpfs", Image: "ext4", Cgroup: "cgroup2"} {
		if w.mounts[place] != fs {
			t.Errorf("%s on %s, want %s", w.mounts[place], place, fs)
		}
	}
	if w.flags[Image]&unix.MS_RDONLY == 0 || w.flags[Image]&unix.MS_NODEV == 0 || w.flags[Image]&unix.MS_NOSUID == 0 {
		t.Errorf("the image is mounted with flags %#x", w.flags[Image])
	}
	if !w.chroot || w.Exists("/init") || w.host != "hpcc" {
		t.Errorf("root, program or hostname: %+v", w)
	}
	if got := w.files[Cgroup+"/cgroup.subtree_control"]; got != "+memory +pids" {
		t.Errorf("controllers %q", got)
	}
	for _, dir := range []string{Stage, Blobs} {
		if !w.Exists(dir) {
			t.Errorf("no %s", dir)
		}
	}
}

func TestArguments(t *testing.T) {
	w := newWorld("hpcc.root=/dev/vda hpcc.store=1000")
	m, err := Boot(w)
	if err != nil {
		t.Fatal(err)
	}
	if m.Verity || m.StoreBytes != 1000 {
		t.Errorf("%+v", m)
	}
	// A device mapper's device of another kind is not verity.
	if m, err = Boot(newWorld(`hpcc.root=/dev/dm-0 dm-mod.create="r,,,ro,0 8 linear /dev/vda 0"`)); err != nil || m.Verity {
		t.Errorf("linear: %+v, %v", m, err)
	}
}

// After any of these the machine powers off: the error has to say why.
func TestFailures(t *testing.T) {
	for _, c := range []struct {
		name, args, want string
		change           func(*world)
	}{
		{"wrong root hash", verityArgs, "the image", func(w *world) { w.fail["mount /dev/dm-0"] = unix.EIO }},
		{"no argument", "quiet", "hpcc.root", nil},
		{"no device", "hpcc.root=vda", "hpcc.root", nil},
		{"a device that never comes", "hpcc.root=/dev/vdb", "does not appear", nil},
		{"store", "hpcc.root=/dev/vda hpcc.store=-1", "hpcc.store", nil},
		{"cgroups", verityArgs, "cgroup2", func(w *world) { w.fail["mount cgroup2"] = unix.ENODEV }},
		{"device mapper", strings.ReplaceAll(verityArgs, "dm-0", "dm-1"), "no such target", func(w *world) { w.fail["dm"] = errors.New("no such target") }},
		{"module", verityArgs, "/m.ko", func(w *world) {
			w.files["/lib/modules/hpcc.list"], w.files["/m.ko"] = "/m.ko\n", ""
			w.fail["module /m.ko"] = unix.ENOEXEC
		}},
		{"a module that is not there", verityArgs, "/m.ko", func(w *world) { w.files["/lib/modules/hpcc.list"] = "/m.ko\n" }},
	} {
		w := newWorld(c.args)
		if c.change != nil {
			c.change(w)
		}
		if _, err := Boot(w); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestDeviceThatComesLate(t *testing.T) {
	w := newWorld("hpcc.root=/dev/vdb")
	w.late = "/dev/vdb"
	if _, err := Boot(w); err != nil {
		t.Error(err)
	}
	if w.slept > time.Second {
		t.Errorf("slept %s", w.slept)
	}
}
