package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"
)

// Close lets calls that are under way fail.
func (d *Directory) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return d.reset()
}

// reset forgets the directory, to open it anew; d.mu is held.
func (d *Directory) reset() error {
	root := d.root
	d.root = nil
	if root == nil {
		return nil
	}
	return root.Close()
}

// opened returns the directory, or nil if it is not open.
func (d *Directory) opened() (*os.Root, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, fmt.Errorf("%w: closed", ErrUnavailable)
	}
	return d.root, nil
}

// open opens the directory, if it is not.
func (d *Directory) open(ctx context.Context) (*os.Root, error) {
	if root, err := d.opened(); root != nil || err != nil {
		return root, err
	}
	select {
	case d.opening <- struct{}{}:
		defer func() { <-d.opening }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if root, err := d.opened(); root != nil || err != nil {
		return root, err // another was faster
	}
	if d.opt.Create && !d.opt.ReadOnly {
		if err := os.MkdirAll(d.path, 0o777); err != nil {
			return nil, err
		}
	}
	root, err := os.OpenRoot(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no directory %s", ErrUnavailable, d.path)
	} else if err != nil {
		return nil, err
	}
	if !d.opt.ReadOnly {
		sweep(root)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errors.Join(fmt.Errorf("%w: closed", ErrUnavailable), root.Close())
	}
	d.root = root
	return root, nil
}

// sweep removes what writers left that were killed.
func sweep(root *os.Root) {
	f, err := openDir(root, tempDir)
	if err != nil {
		return
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	for _, name := range names {
		name = path.Join(tempDir, name)
		if fi, err := root.Lstat(name); err == nil && time.Since(fi.ModTime()) > tempAge {
			_ = root.Remove(name)
		}
	}
}

// openDir opens a directory. A FIFO, which somebody may have put in its place, is not
// waited for.
func openDir(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// do runs f, which may hang for as long as a network share does, until ctx ends. f
// may then still run: what it uses is its own.
func do[T any](ctx context.Context, d *Directory, f func(root *os.Root) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	select {
	case d.slots <- struct{}{}:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-d.slots }()
		var r result
		root, err := d.open(ctx)
		if err == nil {
			r.value, err = f(root)
		}
		if errors.Is(err, syscall.ESTALE) {
			d.mu.Lock()
			_ = d.reset()
			d.mu.Unlock()
		}
		r.err = classify(err)
		done <- r
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// away are what the kernel says of disks and servers that do not answer.
var away = []error{
	syscall.EIO, syscall.ESTALE, syscall.ETIMEDOUT, syscall.ENOTCONN, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
	syscall.ENETUNREACH, syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.ECONNABORTED, syscall.ENODEV, syscall.ENXIO, fs.ErrClosed,
}

// classify wraps an error of the file system in the one of this package that fits.
func classify(err error) error {
	var of *error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		of = &ErrNotFound
	case errors.Is(err, syscall.EROFS):
		of = &ErrReadOnly
	case errors.Is(err, fs.ErrPermission):
		of = &ErrDenied
	default:
		for _, e := range away {
			if errors.Is(err, e) {
				of = &ErrUnavailable
			}
		}
	}
	if of == nil || errors.Is(err, *of) {
		return err
	}
	return fmt.Errorf("%w: %w", *of, err)
}
