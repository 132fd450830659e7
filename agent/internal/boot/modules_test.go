package boot

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// kernel is a System that has some files and devices and notes what it is asked
// that distinguishes one kernel from another.
type kernel struct {
	files map[string]string
	bad   string // a module that does not load
	did   []string
}

func (k *kernel) note(what ...string) error {
	k.did = append(k.did, strings.Join(what, " "))
	return nil
}

func (k *kernel) Mount(source, target, fstype string, _ uintptr, _ string) error {
	if fstype == "ext4" {
		return k.note("mount", source, target)
	}
	return nil
}
func (k *kernel) Mkdir(string, uint32) error { return nil }
func (k *kernel) Chdir(string) error         { return nil }
func (k *kernel) Chroot(string) error        { return nil }
func (k *kernel) Sethostname(string) error   { return nil }
func (k *kernel) Sleep(time.Duration)        {}
func (k *kernel) Remove(path string) error {
	delete(k.files, path)
	return nil
}
func (k *kernel) Exists(path string) bool {
	_, ok := k.files[path]
	return ok || !strings.HasPrefix(path, "/dev/") && path != agentv1.ModuleList
}
func (k *kernel) ReadFile(path string) ([]byte, error) {
	text, ok := k.files[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return []byte(text), nil
}
func (k *kernel) WriteFile(path, text string) error {
	if strings.Contains(path, "modules") {
		return k.note("write", path, text)
	}
	return nil
}
func (k *kernel) LoadModule(path string) error {
	if path == k.bad {
		return errors.New("invalid module")
	}
	return k.note("load", path)
}
func (k *kernel) MapDevice(value string) error {
	k.files["/dev/dm-0"] = ""
	return k.note("map", value)
}

const table = "root,,,ro,0 8 verity 1 /dev/vda /dev/vda 4096 4096 1 2 sha256 00 -"

func newKernel(files map[string]string) *kernel {
	files["/proc/cmdline"] = `quiet hpcc.root=/dev/dm-0 dm-mod.create="` + table + "\"\n"
	files["/proc/meminfo"] = "MemTotal: 4096 kB\n"
	return &kernel{files: files}
}

// hpcc's own kernel has made the device when the first process starts; with a
// distribution's the modules come first, then the device, and then no module any
// more.
func TestBootByKernel(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"own", map[string]string{"/dev/dm-0": ""}, []string{"mount /dev/dm-0 " + Image}},
		{"distribution", map[string]string{agentv1.ModuleList: "/lib/modules/a.ko\n/lib/modules/b.ko\n"}, []string{
			"load /lib/modules/a.ko", "load /lib/modules/b.ko", "write /proc/sys/kernel/modules_disabled 1",
			"map " + table, "mount /dev/dm-0 " + Image,
		}},
	} {
		k := newKernel(c.files)
		m, err := Boot(k)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !m.Verity || !slices.Equal(k.did, c.want) {
			t.Errorf("%s: verity %v, did %q, want %q", c.name, m.Verity, k.did, c.want)
		}
	}
}

func TestModuleThatDoesNotLoad(t *testing.T) {
	k := newKernel(map[string]string{agentv1.ModuleList: "/lib/modules/a.ko\n/lib/modules/b.ko\n"})
	k.bad = "/lib/modules/a.ko"
	if _, err := Boot(k); err == nil || !strings.Contains(err.Error(), "a.ko") {
		t.Errorf("%v", err)
	}
	if slices.ContainsFunc(k.did, func(what string) bool { return strings.HasPrefix(what, "mount") }) {
		t.Errorf("went on: %q", k.did)
	}
}
