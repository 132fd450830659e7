//go:build unix

package rootfs

import (
	"errors"
	"os"
	"strings"
)

// unnamedFile makes a file for reading and writing that has no name, so that it
// goes with the process. It removes part as well, which a build that died may
// have left; the caller has the lock.
func unnamedFile(part string) (*os.File, error) {
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	path := strings.TrimSuffix(part, ".part") + ".spool"
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return f, os.Remove(path)
}
