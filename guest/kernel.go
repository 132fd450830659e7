package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"hpcc.dev/hpcc/internal/digest"
)

// DefaultSource is where Debian's package linux-source-6.1 puts the sources,
// with Debian's patches.
const DefaultSource = "/usr/src/linux-source-6.1.tar.xz"

// recipe counts the ways in which a kernel was built from the same sources and
// configuration: raise it when the commands below change what they make.
const recipe = "1"

// BuildKernel returns hpcc's own kernel from the store at dir. If it is not
// there it builds it, which takes some minutes and 1.5 GB of disk, both given
// back: source is a tar archive of Linux 6.1 in one directory, whatever its
// compression. It takes make, gcc, flex, bison, bc and libelf's headers, no
// root, and nice's lowest priority. progress is told what is being done.
//
// Equal sources, configuration and compilers give equal kernels, byte for byte.
func BuildKernel(ctx context.Context, dir, source string, progress func(string)) (*Kernel, error) {
	wanted, err := parseConfig(kernelConfig)
	if err != nil {
		return nil, err
	}
	src, err := digest.OfFile(source)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the kernel's source is missing: %w; install Debian's package linux-source-6.1, or name another tar archive of Linux 6.1", err)
	} else if err != nil {
		return nil, err
	}
	compiler, err := compilers(ctx)
	if err != nil {
		return nil, err
	}
	key := digest.NewKey("hpcc guest kernel").
		Field("recipe", recipe).Field("source", src.String()).Field("compiler", compiler...).
		Bytes("config", kernelConfig).Sum()
	return makeKernel(ctx, dir, key, func(tmp string) (*Kernel, error) {
		b := kernelBuild{ctx: ctx, tree: filepath.Join(tmp, "tree")}
		k := &Kernel{Kind: KindOwn, Source: filepath.Base(source) + " sha256:" + src.Hex(), Compiler: strings.Join(compiler, "; ")}
		progress("unpacking " + source)
		if err := b.unpack(source); err != nil {
			return nil, err
		}
		progress("configuring the kernel")
		config, err := b.configure(wanted)
		if err != nil {
			return nil, err
		}
		progress("compiling the kernel, which takes some minutes")
		if err := b.run("make", "-s", "-j"+strconv.Itoa(runtime.NumCPU()), "vmlinux"); err != nil {
			return nil, err
		}
		release, err := os.ReadFile(filepath.Join(b.tree, "include/config/kernel.release"))
		if err != nil {
			return nil, err
		}
		k.Version = strings.TrimSpace(string(release))
		if err := os.WriteFile(filepath.Join(tmp, "config"), config, 0o444); err != nil {
			return nil, err
		}
		if err := os.Rename(filepath.Join(b.tree, "vmlinux"), filepath.Join(tmp, "vmlinux")); err != nil {
			return nil, err
		}
		if err := os.Chmod(filepath.Join(tmp, "vmlinux"), 0o444); err != nil {
			return nil, err
		}
		return k, os.RemoveAll(b.tree)
	})
}

// compilers names what makes the bytes of a kernel.
func compilers(ctx context.Context) ([]string, error) {
	var all []string
	for _, program := range []string{"gcc", "ld"} {
		out, err := exec.CommandContext(ctx, program, "--version").Output()
		if err != nil {
			return nil, fmt.Errorf("%s --version: %w; install gcc and binutils", program, err)
		}
		first, _, _ := strings.Cut(string(out), "\n")
		all = append(all, first)
	}
	return all, nil
}

type kernelBuild struct {
	ctx  context.Context
	tree string
}

func (b *kernelBuild) unpack(source string) error {
	if err := os.Mkdir(b.tree, 0o755); err != nil {
		return err
	}
	return b.run("tar", "--extract", "--file", source, "--strip-components=1", "--no-same-owner")
}

// configure makes .config and returns it.
func (b *kernelBuild) configure(wanted []setting) ([]byte, error) {
	fragment := filepath.Join(b.tree, "hpcc.config")
	if err := os.WriteFile(fragment, kernelConfig, 0o644); err != nil {
		return nil, err
	}
	if err := b.run("make", "-s", "allnoconfig", "KCONFIG_ALLCONFIG="+fragment); err != nil {
		return nil, err
	}
	config, err := os.ReadFile(filepath.Join(b.tree, ".config"))
	if err != nil {
		return nil, err
	}
	return config, checkConfig(config, wanted)
}

// run runs a command in the tree. What it prints is only worth reading when it
// fails.
func (b *kernelBuild) run(args ...string) error {
	cmd := exec.CommandContext(b.ctx, "nice", append([]string{"-n", "19"}, args...)...)
	cmd.Dir = b.tree
	// Nothing of the caller's environment but where programs are: not make's
	// flags, if make called us, nor anything that Kbuild reads. Who built the
	// kernel, where and when stands in it, unless it is pinned.
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC",
		"KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970", "KBUILD_BUILD_VERSION=1",
		"KBUILD_BUILD_USER=hpcc", "KBUILD_BUILD_HOST=hpcc", "SOURCE_DATE_EPOCH=0",
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// The compilers under make end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Run(); err != nil {
		if b.ctx.Err() != nil {
			return b.ctx.Err()
		}
		text := strings.TrimSpace(out.String())
		if len(text) > 2000 {
			text = "…" + text[len(text)-2000:]
		}
		return fmt.Errorf("%s: %w; the kernel's build needs gcc, make, flex, bison, bc, xz and libelf-dev:\n%s", strings.Join(args, " "), err, text)
	}
	return nil
}
