package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/atomicfile"
	"hpcc.dev/hpcc/internal/digest"
)

// A store holds
//
//	kernel/KEY/{vmlinux,config,modules,kernel.json}   KEY: of all it was made from
//	initrd/SHA-256                                     an initramfs, by its content
//	kit.json                                           the kit in use
//
// and beside these, while something is made, tmp-… directories, which no
// reader looks at.

// Kernel is a kernel of a store.
type Kernel struct {
	// Path is the ELF vmlinux.
	Path   string        `json:"-"`
	Digest digest.Digest `json:"-"`
	// Key names what it was made from.
	Key digest.Key `json:"-"`

	// Version is what uname -r says in the guest.
	Version string `json:"version"`
	// Kind is KindOwn or KindDistribution.
	Kind string `json:"kind"`
	// Source says what it was made from, and Compiler by which compiler and
	// linker; for people.
	Source   string `json:"source"`
	Compiler string `json:"compiler,omitempty"`
	// Modules are the modules that the guest loads, in this order; they lie in
	// the directory modules beside Path. Empty for hpcc's own kernel.
	Modules []string `json:"modules,omitempty"`

	VMLinux string `json:"vmlinux"` // Digest as text
}

// Kinds of kernel.
const (
	KindOwn          = "own"
	KindDistribution = "distribution"
)

// ErrNoKit says that a store has no kit yet.
var ErrNoKit = errors.New("no guest kit has been built")

// Config is the kernel's configuration.
func (k *Kernel) Config() ([]byte, error) {
	return os.ReadFile(filepath.Join(filepath.Dir(k.Path), "config"))
}

// openKernel returns the kernel under key in the store at dir; an error for
// which errors.Is(err, fs.ErrNotExist) holds if there is none.
func openKernel(dir string, key digest.Key) (*Kernel, error) {
	at := filepath.Join(dir, "kernel", key.String())
	text, err := os.ReadFile(filepath.Join(at, "kernel.json"))
	if err != nil {
		return nil, err
	}
	k := &Kernel{Path: filepath.Join(at, "vmlinux"), Key: key}
	if err := json.Unmarshal(text, k); err != nil {
		return nil, fmt.Errorf("%s/kernel.json: %w", at, err)
	}
	if k.Digest, err = digest.Parse(k.VMLinux); err != nil {
		return nil, fmt.Errorf("%s/kernel.json: %w", at, err)
	}
	return k, nil
}

// makeKernel returns the kernel under key, which fill makes in an empty
// directory if it is not there: vmlinux, config, and what else the kernel has.
// Of two that want the same kernel at once, the second waits for the first.
func makeKernel(ctx context.Context, dir string, key digest.Key, fill func(tmp string) (*Kernel, error)) (*Kernel, error) {
	kernels := filepath.Join(dir, "kernel")
	if err := os.MkdirAll(kernels, 0o755); err != nil {
		return nil, err
	}
	if k, err := openKernel(dir, key); !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	unlock, err := lock(ctx, filepath.Join(kernels, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if k, err := openKernel(dir, key); !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	// Whoever left one of these was killed: the lock is ours.
	stale, err := filepath.Glob(filepath.Join(kernels, "tmp-*"))
	if err != nil {
		return nil, err
	}
	for _, s := range stale {
		if err := os.RemoveAll(s); err != nil {
			return nil, err
		}
	}
	tmp, err := os.MkdirTemp(kernels, "tmp-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	k, err := fill(tmp)
	if err != nil {
		return nil, err
	}
	d, err := digest.OfFile(filepath.Join(tmp, "vmlinux"))
	if err != nil {
		return nil, err
	}
	k.VMLinux = d.String()
	text, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(tmp, "kernel.json"), text, 0o644); err != nil {
		return nil, err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, filepath.Join(kernels, key.String())); err != nil {
		return nil, err
	}
	return openKernel(dir, key)
}

// putInitrd stores an archive and returns its path and digest.
func putInitrd(dir string, a *Archive) (string, digest.Digest, error) {
	var zero digest.Digest
	if err := os.MkdirAll(filepath.Join(dir, "initrd"), 0o755); err != nil {
		return "", zero, err
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(a.Write(pw)) }()
	d, err := digest.Copy(io.Discard, pr)
	if err != nil {
		return "", zero, err
	}
	path := filepath.Join(dir, "initrd", d.Hex())
	if have, err := digest.OfFile(path); err == nil && have == d {
		return path, d, nil
	}
	return path, d, atomicfile.WriteFrom(path, a.Write, atomicfile.Options{Mode: 0o444})
}

// lock takes the lock file at path, and waits for it until ctx ends.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
