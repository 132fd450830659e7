package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"hpcc.dev/hpcc/internal/atomicfile"
	"hpcc.dev/hpcc/internal/digest"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// Kit is what a machine boots. Its files never change: another kit has other
// files.
type Kit struct {
	// Kernel and Initrd are paths on the host: an ELF vmlinux, and an
	// initramfs whose /init is hpcc-agent.
	Kernel, Initrd             string
	KernelDigest, InitrdDigest digest.Digest
	// AgentDigest is that of /init.
	AgentDigest digest.Digest
	// KernelVersion is what uname -r says in the guest.
	KernelVersion string
	// BootArgs are the kernel's boot arguments; a runtime appends its own.
	BootArgs string
}

// Boot arguments. reboot=k with reboot(2) from PID 1 is Firecracker's clean way
// out; panic=1 ends a guest whose kernel failed the same way. The serial port
// is slow: only warnings.
const bootArgs = "console=ttyS0 quiet loglevel=4 reboot=k panic=1 rdinit=/init"

// A distribution's kernel has a driver for PC keyboards, which would probe for
// devices that Firecracker does not have, for half a second.
const distributionBootArgs = bootArgs + " i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd"

// Assemble makes a kit of kernel k and the static program at init, puts its
// initramfs into the store at dir, and returns it. It does not change which kit
// the store names as the one in use: see Use.
func Assemble(dir string, k *Kernel, init string) (*Kit, error) {
	program, err := os.ReadFile(init)
	if err != nil {
		return nil, fmt.Errorf("the agent: %w", err)
	}
	var a Archive
	// Directories that the agent mounts on. The kernel opens /dev/console for
	// its first process before that can mount anything.
	for _, name := range []string{"dev", "proc", "sys", "run", "tmp"} {
		a.Dir(name)
	}
	a.CharDevice("dev/console", 5, 1)
	a.File("init", 0o755, program)
	args := bootArgs
	if k.Kind == KindDistribution {
		args = distributionBootArgs
		list := ""
		for _, m := range k.Modules {
			data, err := os.ReadFile(filepath.Join(filepath.Dir(k.Path), "modules", m))
			if err != nil {
				return nil, err
			}
			name := path.Join("lib/modules", m)
			a.File(name, 0o444, data)
			list += "/" + name + "\n"
		}
		a.File(agentv1.ModuleList, 0o444, []byte(list))
	}
	initrd, d, err := putInitrd(dir, &a)
	if err != nil {
		return nil, err
	}
	return &Kit{
		Kernel: k.Path, KernelDigest: k.Digest, KernelVersion: k.Version,
		Initrd: initrd, InitrdDigest: d, AgentDigest: digest.Of(program), BootArgs: args,
	}, nil
}

// record is kit.json.
type record struct {
	Kernel   string `json:"kernel"` // key
	Initrd   string `json:"initrd"` // digest
	Agent    string `json:"agent"`  // digest
	BootArgs string `json:"boot_args"`
}

// Use makes kit, of kernel k, the one that Open returns for the store at dir.
func Use(dir string, k *Kernel, kit *Kit) error {
	text, err := json.MarshalIndent(record{k.Key.String(), kit.InitrdDigest.String(), kit.AgentDigest.String(), kit.BootArgs}, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, "kit.json"), append(text, '\n'), atomicfile.Options{Mode: 0o644, Durable: true})
}

// Open returns the kit in use of the store at dir, and its kernel: ErrNoKit if
// there is none. Both files are read, and must have their digests.
func Open(dir string) (*Kit, *Kernel, error) {
	text, err := os.ReadFile(filepath.Join(dir, "kit.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s: %w", dir, ErrNoKit)
	} else if err != nil {
		return nil, nil, err
	}
	kit, k, err := open(dir, text)
	if err != nil {
		return nil, nil, fmt.Errorf("guest kit in %s: %w; build it again", dir, err)
	}
	return kit, k, nil
}

func open(dir string, text []byte) (*Kit, *Kernel, error) {
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, nil, fmt.Errorf("kit.json: %w", err)
	}
	key, err := digest.ParseKey(r.Kernel)
	if err != nil {
		return nil, nil, fmt.Errorf("kit.json: %w", err)
	}
	k, err := openKernel(dir, key)
	if err != nil {
		return nil, nil, err
	}
	d, err := digest.Parse(r.Initrd)
	if err != nil {
		return nil, nil, fmt.Errorf("kit.json: %w", err)
	}
	agent, err := digest.Parse(r.Agent)
	if err != nil {
		return nil, nil, fmt.Errorf("kit.json: %w", err)
	}
	kit := &Kit{
		Kernel: k.Path, KernelDigest: k.Digest, KernelVersion: k.Version,
		Initrd: filepath.Join(dir, "initrd", d.Hex()), InitrdDigest: d, AgentDigest: agent, BootArgs: r.BootArgs,
	}
	return kit, k, kit.Verify()
}

// Verify reads kernel and initramfs and checks their digests.
func (k *Kit) Verify() error {
	for _, f := range []struct {
		path string
		want digest.Digest
	}{{k.Kernel, k.KernelDigest}, {k.Initrd, k.InitrdDigest}} {
		if got, err := digest.OfFile(f.path); err != nil {
			return err
		} else if got != f.want {
			return fmt.Errorf("%s: %w", f.path, digest.ErrMismatch)
		}
	}
	return nil
}
