package store

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"hpcc.dev/hpcc/internal/atomicfile"
)

// maxKeyFile bounds what is read of a key file: the key takes 44 bytes of it.
const maxKeyFile = 4096

// ErrKeyFile says that a file is no key, or not private enough to be one.
var ErrKeyFile = errors.New("not a usable key file")

// CreateKey draws a key of Sealed and writes it to a new file that its owner alone
// may read, as base64 and a newline. A file that is there already is an error that
// wraps fs.ErrExist: who loses a key loses all that was encrypted with it.
func CreateKey(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, base64.StdEncoding.EncodeToString(randomKey()))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

// ReadKey reads what CreateKey wrote. A file that anybody but its owner may read
// or write is an error that wraps ErrKeyFile.
func ReadKey(path string) ([]byte, error) {
	b, err := ReadPrivate(path, maxKeyFile)
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(key) != SealKeySize {
		return nil, fmt.Errorf("%s: %w: it must hold %d bytes as base64", path, ErrKeyFile, SealKeySize)
	}
	return key, nil
}

// ReadPrivate reads a file of at most limit bytes that holds a secret. One that
// anybody but its owner may use, that is larger, or no regular file, is an error that
// wraps ErrKeyFile.
func ReadPrivate(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: it is no regular file", path, ErrKeyFile)
	}
	// Windows keeps rights elsewhere than in the mode.
	if runtime.GOOS != "windows" && fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: %w: others than its owner may use it (mode %04o); chmod 600 it", path, ErrKeyFile, fi.Mode().Perm())
	}
	b, err := atomicfile.ReadFrom(f, limit)
	if errors.Is(err, atomicfile.ErrTooLarge) {
		err = fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	return b, err
}
