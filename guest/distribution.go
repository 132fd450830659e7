package guest

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	// The kernel is packed as an LZ4 "legacy" stream, which the standard library
	// does not read; this reader does, is pure Go and has no dependencies.
	"github.com/pierrec/lz4/v4"

	"hpcc.dev/hpcc/internal/atomicfile"
	"hpcc.dev/hpcc/internal/digest"
)

// guestModules are what hpcc needs of a distribution's kernel, where these are
// modules: the devices of the machine, the verity tree of the root image and
// overlays on it. Dependencies are found out.
var guestModules = []string{
	"virtio_mmio", "virtio_blk", "vmw_vsock_virtio_transport", "virtio_balloon", "virtio_rng",
	"ext4", "overlay", "dm_verity", "sha256_ssse3", "ptp_kvm",
}

// Limits of what is unpacked: a kernel of a distribution has about 60 MB.
const (
	maxPacked  = 256 << 20
	maxVMLinux = 512 << 20
	maxModule  = 64 << 20
)

// UnpackKernel returns a distribution's kernel from the store at dir; if it is
// not there it takes it from root, into which the kernel's package has been
// installed or unpacked ("/" for this machine): boot/vmlinuz-VERSION,
// boot/config-VERSION and lib/modules/VERSION. With version "" there must be
// exactly one.
func UnpackKernel(ctx context.Context, dir, root, version string) (*Kernel, error) {
	if version == "" {
		var err error
		if version, err = onlyVersion(root); err != nil {
			return nil, err
		}
	}
	image, err := atomicfile.Read(filepath.Join(root, "boot", "vmlinuz-"+version), maxPacked)
	if err != nil {
		return nil, fmt.Errorf("the distribution's kernel: %w", err)
	}
	config, err := atomicfile.Read(filepath.Join(root, "boot", "config-"+version), maxModule)
	if err != nil {
		return nil, fmt.Errorf("the distribution's kernel: %w", err)
	}
	modules, err := FindModules(filepath.Join(root, "lib/modules", version), guestModules)
	if err != nil {
		return nil, fmt.Errorf("modules of kernel %s: %w", version, err)
	}
	key := digest.NewKey("hpcc distribution kernel").
		Field("recipe", recipe).Field("version", version).Field("image", digest.Of(image).String()).Bytes("config", config)
	k := &Kernel{Version: version, Kind: KindDistribution, Source: "vmlinuz-" + version + " sha256:" + digest.Of(image).Hex()}
	for _, m := range modules {
		key.Field("module", m.Name, digest.Of(m.Data).String())
		k.Modules = append(k.Modules, m.Name+".ko")
	}
	return makeKernel(ctx, dir, key.Sum(), func(tmp string) (*Kernel, error) {
		vmlinux, err := unpackImage(image)
		if err != nil {
			return nil, fmt.Errorf("boot/vmlinuz-%s: %w", version, err)
		}
		files := map[string][]byte{"vmlinux": vmlinux, "config": config}
		for _, m := range modules {
			files["modules/"+m.Name+".ko"] = m.Data
		}
		if err := os.Mkdir(filepath.Join(tmp, "modules"), 0o755); err != nil {
			return nil, err
		}
		for name, data := range files {
			if err := os.WriteFile(filepath.Join(tmp, name), data, 0o444); err != nil {
				return nil, err
			}
		}
		return k, nil
	})
}

func onlyVersion(root string) (string, error) {
	found, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil {
		return "", err
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("no kernel in %s; unpack or install a kernel's package there, such as Debian's linux-image-cloud-amd64", filepath.Join(root, "boot"))
	case 1:
		_, version, _ := strings.Cut(filepath.Base(found[0]), "-")
		return version, nil
	}
	return "", fmt.Errorf("%d kernels in %s; say which version", len(found), filepath.Join(root, "boot"))
}

// ErrImage says that a kernel image is not one that can be unpacked.
var ErrImage = errors.New("not a kernel image with an LZ4 payload")

// unpackImage takes the ELF vmlinux out of a bzImage (Documentation/arch/x86/
// boot.rst in the kernel's source). Firecracker starts nothing else.
func unpackImage(image []byte) ([]byte, error) {
	if len(image) < 0x250 || string(image[0x202:0x206]) != "HdrS" {
		return nil, ErrImage
	}
	sectors := uint64(image[0x1f1]) // of the real-mode code, after the boot sector
	if sectors == 0 {
		sectors = 4
	}
	offset := uint64(binary.LittleEndian.Uint32(image[0x248:]))
	length := uint64(binary.LittleEndian.Uint32(image[0x24c:]))
	start := (sectors+1)*512 + offset
	if length < 8 || start+length > uint64(len(image)) {
		return nil, fmt.Errorf("%w: its payload lies outside", ErrImage)
	}
	payload := image[start : start+length]
	// The last four bytes are the size of what was packed.
	packed, size := payload[:length-4], binary.LittleEndian.Uint32(payload[length-4:])
	if binary.LittleEndian.Uint32(packed) != 0x184c2102 {
		return nil, fmt.Errorf("%w: its payload is packed otherwise", ErrImage)
	}
	if size > maxVMLinux {
		return nil, fmt.Errorf("%w: it claims %d MB", ErrImage, size>>20)
	}
	vmlinux, err := io.ReadAll(io.LimitReader(lz4.NewReader(bytes.NewReader(packed)), int64(size)+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	if uint64(len(vmlinux)) != uint64(size) {
		return nil, fmt.Errorf("%w: %d bytes where it claims %d", ErrImage, len(vmlinux), size)
	}
	if _, err := elf.NewFile(bytes.NewReader(vmlinux)); err != nil {
		return nil, fmt.Errorf("%w: what is in it: %w", ErrImage, err)
	}
	return vmlinux, nil
}

// Module is a loadable module of a kernel.
type Module struct {
	Name string // as lsmod shows it
	Data []byte
}

// FindModules returns those modules of the directory lib/modules/VERSION that
// are wanted, and all that they depend on, each
// after its dependencies. What is built in is left out. The packages of kernels
// hold no modules.dep, which is made when they are installed, so that each
// module is asked for what it depends on.
func FindModules(dir string, wanted []string) ([]Module, error) {
	files := make(map[string]string)
	packed := ""
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if strings.Contains(filepath.Base(path), ".ko.") {
			packed = "; compressed modules are not read: decompress them first"
		}
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok && err == nil && d.Type().IsRegular() {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	builtin := make(map[string]bool)
	list, err := atomicfile.Read(filepath.Join(dir, "modules.builtin"), maxModule)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(list)) {
		name := strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko")
		builtin[strings.ReplaceAll(name, "-", "_")] = true
	}

	var all []Module
	state := make(map[string]int) // 1: its dependencies are looked for; 2: it is in all
	var add func(name string) error
	add = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if builtin[name] || state[name] == 2 {
			return nil
		}
		if state[name] == 1 {
			return fmt.Errorf("%s depends on itself", name)
		}
		path, ok := files[name]
		if !ok {
			return fmt.Errorf("there is no %s in %s%s", name, dir, packed)
		}
		state[name] = 1
		data, err := atomicfile.Read(path, maxModule)
		if err != nil {
			return err
		}
		depends, err := dependencies(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, d := range depends {
			if err := add(d); err != nil {
				return err
			}
		}
		state[name] = 2
		all = append(all, Module{name, data})
		return nil
	}
	for _, name := range wanted {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// dependencies reads which modules a module needs from its section .modinfo:
// strings KEY=VALUE, each ended by a zero byte.
func dependencies(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no section .modinfo: not a module")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	var all []string
	for _, line := range strings.Split(string(info), "\x00") {
		if list, ok := strings.CutPrefix(line, "depends="); ok {
			all = append(all, strings.FieldsFunc(list, func(r rune) bool { return r == ',' })...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}
