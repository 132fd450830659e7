// Package atomicfile writes files that other processes see whole or not at
// all.
package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Options say how a file is written.
type Options struct {
	// Mode of the file, regardless of the umask; 0 means 0600.
	Mode os.FileMode
	// Durable makes the file survive a crash of the machine: file and
	// directory are synced, which costs a millisecond or more. Caches leave it
	// off, since they check what they read.
	Durable bool
}

// Write puts data at path.
func Write(path string, data []byte, opt Options) error {
	return WriteFrom(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}, opt)
}

// WriteFrom puts at path what fill writes. Until fill has returned nil and
// everything is written, path keeps what it held; after any error too.
func WriteFrom(path string, fill func(io.Writer) error, opt Options) (err error) {
	if opt.Mode == 0 {
		opt.Mode = 0o600
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Chmod(opt.Mode); err != nil {
		return err
	}
	if opt.Durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if !opt.Durable {
		return nil
	}
	// Without this a crash may bring the old name back, or none.
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
