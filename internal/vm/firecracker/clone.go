//go:build linux

package firecracker

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Clone makes a tenant's own copy of an image at path to, which must not exist:
// a reflink where the file system can (FICLONE), else a copy within the kernel.
// Its pages are then shared by that tenant's machines and nobody else's.
func Clone(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			os.Remove(to)
		}
	}()
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil {
		if _, err := io.Copy(out, in); err != nil { // copy_file_range(2)
			return fmt.Errorf("copying %s: %w", from, err)
		}
	}
	// hpcc-jail links into jails what all may read; the directory is the
	// worker's alone.
	return out.Chmod(0o644)
}
