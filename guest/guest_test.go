package guest

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pierrec/lz4/v4"

	"hpcc.dev/hpcc/internal/digest"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// The issue's own list of what must and must not be there, beside the file's.
func TestKernelConfigSays(t *testing.T) {
	settings, err := parseConfig(kernelConfig)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, s := range settings {
		got[s.option] = s.value
	}
	for _, name := range strings.Fields(`VSOCKETS VIRTIO_VSOCKETS VIRTIO_MMIO VIRTIO_BLK EXT4_FS OVERLAY_FS TMPFS
		NAMESPACES PID_NS IPC_NS UTS_NS NET_NS CGROUPS MEMCG CGROUP_PIDS SECCOMP_FILTER VMGENID DM_VERITY DM_INIT`) {
		if got["CONFIG_"+name] != "y" {
			t.Errorf("kernel.config lacks %s", name)
		}
	}
	for _, name := range strings.Fields(`MODULES INET IPV6 PACKET NETDEVICES VSOCKETS_LOOPBACK USER_NS IO_URING BPF_SYSCALL DEVMEM`) {
		if v, stated := got["CONFIG_"+name]; !stated || v != "" {
			t.Errorf("kernel.config does not forbid %s", name)
		}
	}
}

func TestCheckConfig(t *testing.T) {
	wanted, err := parseConfig([]byte("# reason\nCONFIG_A=y\nCONFIG_N=32\n# CONFIG_OFF is not set\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ config, problem string }{
		{"CONFIG_A=y\nCONFIG_N=32\n", ""},
		{"CONFIG_N=32\nCONFIG_A=y\n# CONFIG_OFF is not set\nCONFIG_OTHER=y\n", ""},
		{"CONFIG_N=32\n", "wanted CONFIG_A=y, got # CONFIG_A is not set"},
		{"CONFIG_A=m\nCONFIG_N=32\n", "wanted CONFIG_A=y, got CONFIG_A=m"},
		{"CONFIG_A=y\nCONFIG_N=64\n", "wanted CONFIG_N=32, got CONFIG_N=64"},
		{"CONFIG_A=y\nCONFIG_N=32\nCONFIG_OFF=y\n", "wanted # CONFIG_OFF is not set, got CONFIG_OFF=y"},
		{"CONFIG_A=y\nCONFIG_N=32\nCONFIG_OFF=m\n", "wanted # CONFIG_OFF is not set, got CONFIG_OFF=m"},
	} {
		err := checkConfig([]byte(c.config), wanted)
		if c.problem == "" && err != nil || c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)) {
			t.Errorf("%q: %v, want %q", c.config, err, c.problem)
		}
	}
	for _, bad := range []string{"CONFIG_A=y\nCONFIG_A=y\n", "CONFIG_A=y\n# CONFIG_A is not set\n", "A=y\n", "CONFIG_A\n", "CONFIG_A=\n"} {
		if _, err := parseConfig([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func busybox(t *testing.T, dir string, stdin []byte, args ...string) string {
	t.Helper()
	cmd := exec.Command("/bin/busybox", args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("busybox %s: %v\n%s(make setup installs busybox-static)", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// busybox's cpio is the judge of the archive.
func TestArchive(t *testing.T) {
	long := strings.Repeat("long/", 50) + "name"
	make := func() []byte {
		var a Archive
		a.File("init", 0o755, []byte("#!/bin/sh\n"))
		a.Dir("proc")
		a.File(long, 0o444, bytes.Repeat([]byte{1, 2, 3}, 1000))
		a.File("lib/modules/a.ko", 0o644, nil)
		a.Dir("lib") // again
		var b bytes.Buffer
		if err := a.Write(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	archive := make()
	if !bytes.Equal(archive, make()) {
		t.Error("the same tree twice gives two archives")
	}
	if len(archive)%512 != 0 {
		t.Errorf("%d bytes are no whole blocks", len(archive))
	}
	dir := t.TempDir()
	busybox(t, dir, archive, "cpio", "-i", "-d")
	for name, want := range map[string]string{"init": "#!/bin/sh\n", long: strings.Repeat("\x01\x02\x03", 1000), "lib/modules/a.ko": ""} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	listing := busybox(t, dir, archive, "cpio", "-t", "-v")
	for _, want := range []string{"-rwxr-xr-x", "-r--r--r--", "drwxr-xr-x"} {
		if !strings.Contains(listing, want) {
			t.Errorf("no %s in\n%s", want, listing)
		}
	}
}

func TestArchiveRefuses(t *testing.T) {
	for name, fill := range map[string]func(*Archive){
		"no name":      func(a *Archive) { a.File("..", 0o644, nil) },
		"zero byte":    func(a *Archive) { a.File("a\x00b", 0o644, nil) },
		"twice":        func(a *Archive) { a.File("a", 0o644, nil); a.File("./a", 0o644, nil) },
		"below a file": func(a *Archive) { a.File("a", 0o644, nil); a.File("a/b", 0o644, nil) },
		"file as dir":  func(a *Archive) { a.File("a/b", 0o644, nil); a.File("a", 0o644, nil) },
		"long name":    func(a *Archive) { a.Dir(strings.Repeat("a", 1025)) },
	} {
		var a Archive
		fill(&a)
		if err := a.Write(&bytes.Buffer{}); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

// bzImage makes an image like those of x86 kernels around vmlinux.
func bzImage(t testing.TB, vmlinux []byte) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := lz4.NewWriter(&packed)
	if err := w.Apply(lz4.LegacyOption(true)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(vmlinux); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	image := make([]byte, 5*512+32)
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint32(image[0x248:], 32)
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(packed.Len()+4))
	image = append(image, packed.Bytes()...)
	return binary.LittleEndian.AppendUint32(image, uint32(len(vmlinux)))
}

func self(t testing.TB) []byte {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox") // an ELF file
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func TestUnpackImage(t *testing.T) {
	vmlinux := self(t)
	image := bzImage(t, vmlinux)
	got, err := unpackImage(image)
	if err != nil || !bytes.Equal(got, vmlinux) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	change := func(at int, b ...byte) []byte {
		c := bytes.Clone(image)
		copy(c[at:], b)
		return c
	}
	for name, bad := range map[string][]byte{
		"empty":            nil,
		"short":            image[:0x240],
		"no magic":         change(0x202, 'X'),
		"payload outside":  change(0x24c, 0xff, 0xff, 0xff, 0xff),
		"offset outside":   change(0x248, 0xff, 0xff, 0xff, 0xff),
		"no payload":       change(0x24c, 0, 0, 0, 0),
		"other packing":    change(5*512+32, 0x1f, 0x8b),
		"size too small":   change(len(image)-4, 1, 0, 0, 0),
		"size too large":   change(len(image)-4, 0xff, 0xff, 0xff, 0x7f),
		"size is larger":   change(len(image)-4, 0, 0, 0, 1),
		"cut stream":       append(bytes.Clone(image[:5*512+32+1000]), make([]byte, len(image)-5*512-32-1000)...),
		"not an ELF image": bzImage(t, []byte("no program")),
	} {
		if _, err := unpackImage(bad); !errors.Is(err, ErrImage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzUnpackImage(f *testing.F) {
	f.Add(bzImage(f, []byte("no program")))
	f.Add(bzImage(f, self(f)[:4096]))
	f.Fuzz(func(t *testing.T, image []byte) {
		vmlinux, err := unpackImage(image)
		if err != nil {
			return
		}
		if _, err := elf.NewFile(bytes.NewReader(vmlinux)); err != nil {
			t.Errorf("what came out is no ELF file: %v", err)
		}
	})
}

func TestDependenciesRefuse(t *testing.T) {
	for name, data := range map[string][]byte{"empty": nil, "text": []byte("no module"), "no section": self(t)} {
		if got, err := dependencies(data); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzDependencies(f *testing.F) {
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := dependencies(data)
		for _, d := range all {
			if err != nil || d == "" || strings.Contains(d, ",") {
				t.Errorf("%q, %v", all, err)
			}
		}
	})
}

// fakeKernel puts a kernel into a store, as BuildKernel would.
func fakeKernel(t *testing.T, dir, content string) *Kernel {
	t.Helper()
	key := digest.NewKey("test").Field("content", content).Sum()
	k, err := makeKernel(context.Background(), dir, key, func(tmp string) (*Kernel, error) {
		if err := os.WriteFile(filepath.Join(tmp, "config"), []byte("CONFIG_A=y\n"), 0o444); err != nil {
			return nil, err
		}
		return &Kernel{Version: "6.1.0-test", Kind: KindOwn}, os.WriteFile(filepath.Join(tmp, "vmlinux"), []byte(content), 0o444)
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestStore(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := Open(dir); !errors.Is(err, ErrNoKit) {
		t.Fatalf("an empty store: %v", err)
	}
	k := fakeKernel(t, dir, "kernel one")
	init := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(init, []byte("agent one"), 0o755); err != nil {
		t.Fatal(err)
	}
	kit, err := Assemble(dir, k, init)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(dir); !errors.Is(err, ErrNoKit) {
		t.Fatalf("assembled but not in use: %v", err)
	}
	if err := Use(dir, k, kit); err != nil {
		t.Fatal(err)
	}
	got, kernel, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if *got != *kit || kernel.Version != "6.1.0-test" {
		t.Errorf("opened %+v, want %+v", got, kit)
	}
	if !strings.Contains(kit.BootArgs, "rdinit=/init") || strings.Contains(kit.BootArgs, "i8042") {
		t.Errorf("boot arguments %q", kit.BootArgs)
	}
	archive, err := os.ReadFile(kit.Initrd)
	if err != nil {
		t.Fatal(err)
	}
	if listing := busybox(t, dir, archive, "cpio", "-t", "-v"); !strings.Contains(listing, "crw-------") || !strings.Contains(listing, " init") {
		t.Errorf("no console or init in\n%s", listing)
	}

	// The same again is the same; another agent is another initramfs beside it.
	if again, err := Assemble(dir, k, init); err != nil || *again != *kit {
		t.Errorf("again: %+v, %v", again, err)
	}
	if err := os.WriteFile(init, []byte("agent two"), 0o755); err != nil {
		t.Fatal(err)
	}
	other, err := Assemble(dir, k, init)
	if err != nil {
		t.Fatal(err)
	}
	if other.InitrdDigest == kit.InitrdDigest || other.Verify() != nil || kit.Verify() != nil {
		t.Error("two agents, and not two initramfs")
	}

	// What was changed is found out.
	for _, path := range []string{kit.Kernel, kit.Initrd} {
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(old)
		bad[len(bad)/2] ^= 1
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Open(dir); !errors.Is(err, digest.ErrMismatch) {
			t.Errorf("%s changed: %v", filepath.Base(path), err)
		}
		if err := os.WriteFile(path, old, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(kernel.Path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("kernel removed: %v", err)
	}
	for _, text := range []string{"", "{}", `{"kernel":"../../x","initrd":"x"}`} {
		if err := os.WriteFile(filepath.Join(dir, "kit.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Open(dir); err == nil {
			t.Errorf("kit.json %q is taken", text)
		}
	}
}

// Of several that want one kernel at once, one makes it.
func TestKernelIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	// A killed builder's leavings are removed.
	stale := filepath.Join(dir, "kernel", "tmp-1")
	if err := os.MkdirAll(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	key := digest.NewKey("test").Sum()
	made := make(chan struct{}, 8)
	errs := make(chan error)
	for range 4 {
		go func() {
			_, err := makeKernel(context.Background(), dir, key, func(tmp string) (*Kernel, error) {
				made <- struct{}{}
				return &Kernel{}, os.WriteFile(filepath.Join(tmp, "vmlinux"), []byte("x"), 0o444)
			})
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if len(made) != 1 {
		t.Errorf("made %d times", len(made))
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "kernel", "tmp-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A failed build leaves nothing and says why.
func TestBuildFails(t *testing.T) {
	dir := t.TempDir()
	if _, err := BuildKernel(context.Background(), dir, filepath.Join(dir, "none.tar"), func(string) {}); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "linux-source-6.1") {
		t.Errorf("no source: %v", err)
	}
	bad := filepath.Join(dir, "bad.tar")
	if err := os.WriteFile(bad, []byte("no archive"), 0o644); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "store")
	if _, err := BuildKernel(context.Background(), store, bad, func(string) {}); err == nil || !strings.Contains(err.Error(), "tar") {
		t.Errorf("bad source: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(store, "kernel", "*")); fmt.Sprint(left) != fmt.Sprint([]string{filepath.Join(store, "kernel", "lock")}) {
		t.Errorf("left behind: %v", left)
	}
}

// A package of a distribution's kernel, in small: modules that the compiler
// makes, an image around a program.
func TestUnpackKernel(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	const version = "6.1.0-9-small"
	modules := filepath.Join(root, "lib/modules", version)
	if err := os.MkdirAll(filepath.Join(modules, "kernel/drivers"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "boot"), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	module := func(name, depends string) {
		t.Helper()
		cmd := exec.Command("gcc", "-c", "-x", "c", "-o", filepath.Join(modules, "kernel/drivers", name+".ko"), "-")
		cmd.Stdin = strings.NewReader(fmt.Sprintf(`char info[] __attribute__((section(".modinfo"))) = "license=GPL\0depends=%s\0retpoline=Y";`, depends))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	// Names have dashes in files and underscores in lists.
	module("virtio-core", "")
	for _, m := range guestModules {
		if m != "ext4" {
			module(strings.ReplaceAll(m, "_", "-"), "virtio-core,top")
		}
	}
	module("top", "virtio_core,ext4")
	write("lib/modules/"+version+"/modules.builtin", []byte("kernel/fs/ext4/ext4.ko\n"))
	if _, err := UnpackKernel(t.Context(), dir, root, ""); err == nil || !strings.Contains(err.Error(), "no kernel") {
		t.Errorf("no kernel: %v", err)
	}
	vmlinux := self(t)
	write("boot/vmlinuz-"+version, bzImage(t, vmlinux))
	write("boot/config-"+version, []byte("CONFIG_X=y\n"))

	k, err := UnpackKernel(t.Context(), dir, root, "")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"virtio_core.ko", "top.ko"}
	for _, m := range guestModules {
		if m != "ext4" {
			want = append(want, m+".ko")
		}
	}
	if k.Kind != KindDistribution || k.Version != version || k.Digest != digest.Of(vmlinux) || fmt.Sprint(k.Modules) != fmt.Sprint(want) {
		t.Errorf("%+v, want modules %v", k, want)
	}
	if config, err := k.Config(); err != nil || string(config) != "CONFIG_X=y\n" {
		t.Errorf("configuration %q, %v", config, err)
	}
	kit, err := Assemble(dir, k, "/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(kit.Initrd)
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	busybox(t, out, archive, "cpio", "-i", "-d")
	list, err := os.ReadFile(filepath.Join(out, agentv1.ModuleList))
	if err != nil || strings.Join(strings.Fields(string(list)), " ") != "/lib/modules/"+strings.Join(want, " /lib/modules/") {
		t.Errorf("%v\n%s", err, list)
	}
	for _, path := range strings.Fields(string(list)) {
		if _, err := os.Stat(filepath.Join(out, path)); err != nil {
			t.Error(err)
		}
	}

	// Another kernel beside it has to be chosen; a module that is gone, or that
	// needs itself, is an error.
	write("boot/vmlinuz-6.1.0-10-small", nil)
	if _, err := UnpackKernel(t.Context(), dir, root, ""); err == nil || !strings.Contains(err.Error(), "2 kernels") {
		t.Errorf("two kernels: %v", err)
	}
	if again, err := UnpackKernel(t.Context(), dir, root, version); err != nil || again.Path != k.Path {
		t.Errorf("again: %+v, %v", again, err)
	}
	module("top", "overlay")
	if _, err := UnpackKernel(t.Context(), dir, root, version); err == nil || !strings.Contains(err.Error(), "depends on itself") {
		t.Errorf("circle: %v", err)
	}
	write("lib/modules/"+version+"/absent.ko.xz", nil)
	module("top", "absent")
	if _, err := UnpackKernel(t.Context(), dir, root, version); err == nil || !strings.Contains(err.Error(), "no absent") || !strings.Contains(err.Error(), "decompress") {
		t.Errorf("absent: %v", err)
	}
}
