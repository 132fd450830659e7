package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Directory keeps objects as files, each under its name: a disk, a network share,
// or a mirror of a bucket that people can read, copy and carry. Names that begin
// with a dot are Directory's own (".tmp", ".lock"), and other files that have no
// object's name are left alone.
//
// All is done below the directory as the kernel sees it (os.Root): neither a name
// nor a link that somebody put there leads out.
//
// Between processes, and between machines that share the directory, an object
// appears whole (a rename or a link of a finished file), and Absent lets one writer
// win, as far as the file system's link is atomic: all local ones and NFS are. A
// Version is held to by a lock, so that it needs flock to work between those who
// write: Linux's NFS since 2.6.12 and SMB do, unless mounted with nolock or nobrl.
// Times are the writer's clock's.
//
// A version is the time of modification and the size, so that a file system that
// keeps whole seconds (FAT) can give two contents of one size the same, if an object
// is deleted and put anew within one.
type Directory struct {
	path string
	opt  DirectoryOptions
	// Calls that the kernel has not answered: of a share that is away, any number
	// would gather, each with a thread.
	slots chan struct{}
	// Who may write, of this process; the lock files are between processes.
	stripes [stripes]chan struct{}

	// opening is held by who opens the directory, which may hang: nobody else needs
	// to, Close least of all.
	opening chan struct{}

	mu     sync.Mutex // not held through calls of the file system that may hang
	root   *os.Root   // nil until it is needed
	closed bool
}

// DirectoryOptions say how a directory is used.
type DirectoryOptions struct {
	// ReadOnly makes all that changes anything ErrReadOnly.
	ReadOnly bool
	// Create makes the directory when there is none. Without it a share that is not
	// mounted is ErrUnavailable, instead of a store on the disk below.
	Create bool
}

const (
	stripes  = 64
	maxCalls = 64
	tempDir  = ".tmp"
	lockDir  = ".lock"
	// tempAge is when a temporary file's writer has died: none writes so long.
	tempAge = 24 * time.Hour
)

// OpenDirectory returns the store of a directory. It does not look at it yet: a
// network share may be away, and come back.
func OpenDirectory(dir string, opt DirectoryOptions) (*Directory, error) {
	if dir == "" {
		return nil, errors.New("store: no directory")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	d := &Directory{path: dir, opt: opt, slots: make(chan struct{}, maxCalls), opening: make(chan struct{}, 1)}
	for i := range d.stripes {
		d.stripes[i] = make(chan struct{}, 1)
	}
	return d, nil
}

func (d *Directory) String() string { return "file://" + filepath.ToSlash(d.path) }

// check is CheckName, and what this system's files cannot be called besides.
func (d *Directory) check(name string, write bool) error {
	if err := CheckName(name); err != nil {
		return err
	}
	// There "a." and "a" are one file. os.Root refuses the names of devices.
	if runtime.GOOS == "windows" && strings.Contains(name+"/", "./") {
		return fmt.Errorf("%w on Windows: %q", ErrName, name)
	}
	if write && d.opt.ReadOnly {
		return ErrReadOnly
	}
	return nil
}

// versionOf is the version of a file's content.
func versionOf(fi fs.FileInfo) Version {
	return Version(strconv.FormatInt(fi.ModTime().UnixNano(), 36) + "-" + strconv.FormatInt(fi.Size(), 36))
}

func (d *Directory) Get(ctx context.Context, name string, limit int64) (Object, error) {
	if err := d.check(name, false); err != nil {
		return Object{}, err
	}
	return do(ctx, d, func(root *os.Root) (Object, error) { return get(ctx, root, name, limited(limit)) })
}

// piece is how much of a file is read at once, for Progress's sake.
const piece = 1 << 20

func get(ctx context.Context, root *os.Root, name string, limit int64) (Object, error) {
	// A FIFO, which somebody may have put there, would be waited for.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return Object{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	switch {
	case err != nil:
		return Object{}, err
	case !fi.Mode().IsRegular():
		return Object{}, fmt.Errorf("%w: %s is no file", ErrNotFound, name)
	case fi.Size() > limit:
		return Object{}, fmt.Errorf("%w: %s has %d bytes", ErrTooLarge, name, fi.Size())
	}
	body := make([]byte, fi.Size())
	for at := 0; at < len(body); {
		n, err := io.ReadFull(f, body[at:min(len(body), at+piece)])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return Object{}, fmt.Errorf("%w: %s became shorter", ErrCorrupt, name)
		} else if err != nil {
			return Object{}, err
		}
		at += n
		Progress(ctx, n)
	}
	return Object{Body: body, Version: versionOf(fi), Modified: fi.ModTime()}, nil
}

func (d *Directory) Stat(ctx context.Context, name string) (Info, error) {
	if err := d.check(name, false); err != nil {
		return Info{}, err
	}
	return do(ctx, d, func(root *os.Root) (Info, error) {
		fi, err := root.Lstat(name)
		if err != nil {
			return Info{}, err
		}
		if !fi.Mode().IsRegular() {
			return Info{}, fmt.Errorf("%w: %s is no file", ErrNotFound, name)
		}
		return infoOf(name, fi), nil
	})
}

func infoOf(name string, fi fs.FileInfo) Info {
	return Info{Name: name, Size: fi.Size(), Version: versionOf(fi), Modified: fi.ModTime()}
}

func (d *Directory) Put(ctx context.Context, name string, body []byte, when Condition) (Version, error) {
	if err := d.check(name, true); err != nil {
		return "", err
	}
	if len(body) > MaxObject {
		return "", fmt.Errorf("%w: %s has %d bytes", ErrTooLarge, name, len(body))
	}
	body = bytes.Clone(body) // the caller's is not ours any more when ctx has ended
	return do(ctx, d, func(root *os.Root) (Version, error) { return d.put(ctx, root, name, body, when) })
}

func (d *Directory) put(ctx context.Context, root *os.Root, name string, body []byte, when Condition) (Version, error) {
	temp := fmt.Sprintf("%s/%016x", tempDir, rand.Uint64())
	if err := write(root, temp, body); err != nil {
		return "", err
	}
	defer func() { _ = root.Remove(temp) }() // renamed already, mostly
	unlock, err := d.lock(ctx, root, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	old, err := root.Lstat(name)
	switch {
	case err == nil && old.IsDir():
		return "", fmt.Errorf("%w here: objects lie below %s", ErrName, name)
	case errors.Is(err, syscall.ENOTDIR):
		return "", fmt.Errorf("%w here: a part of %s is an object", ErrName, name)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	exists := err == nil
	if when.Absent && exists || when.Version != "" && (!exists || versionOf(old) != when.Version) {
		return "", fmt.Errorf("%w: %s", ErrConflict, name)
	}
	version, err := stamp(root, temp, old)
	if err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	// Delete removes directories that are empty, maybe just now.
	for try := 0; ; try++ {
		err := publish(root, temp, name, exists, when.Absent)
		if try == 3 || !errors.Is(err, fs.ErrNotExist) {
			return version, err
		}
		if err := root.MkdirAll(path.Dir(name), 0o777); errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("%w here: a part of %s is an object", ErrName, name)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
}

// write makes a file. The umask says who else may read and write it.
func write(root *os.Root, name string, body []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, fs.ErrNotExist) {
		if err := root.MkdirAll(path.Dir(name), 0o777); err != nil {
			return err
		}
		f, err = root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	// Network file systems report a full disk here at the latest.
	if err := errors.Join(err, f.Close()); err != nil {
		_ = root.Remove(name)
		return err
	}
	return nil
}

// stamp gives a new file a time that makes its version another than the old file's,
// if there is one, and returns the version. The kernel's own times stand still for
// some milliseconds, in which an object can be written twice.
func stamp(root *os.Root, temp string, old fs.FileInfo) (Version, error) {
	return stampAt(root, temp, old, time.Now())
}

func stampAt(root *os.Root, temp string, old fs.FileInfo, when time.Time) (Version, error) {
	for _, step := range []time.Duration{time.Microsecond, time.Millisecond, time.Second, 2 * time.Second} {
		if err := root.Chtimes(temp, time.Time{}, when); err != nil {
			return "", err
		}
		fi, err := root.Lstat(temp)
		if err != nil {
			return "", err
		}
		if old == nil || versionOf(old) != versionOf(fi) {
			return versionOf(fi), nil
		}
		when = when.Add(step)
	}
	return "", errors.New("the file system keeps no times of modification")
}

// publish gives a finished file its name.
func publish(root *os.Root, temp, name string, replace, absent bool) error {
	if replace {
		return root.Rename(temp, name)
	}
	// A link never replaces, whatever the locks are worth.
	err := root.Link(temp, name)
	switch {
	case errors.Is(err, fs.ErrExist) && absent:
		return fmt.Errorf("%w: %s", ErrConflict, name)
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return err
	}
	return root.Rename(temp, name) // FAT has no links
}

func (d *Directory) Touch(ctx context.Context, name string) error {
	if err := d.check(name, true); err != nil {
		return err
	}
	_, err := do(ctx, d, func(root *os.Root) (struct{}, error) {
		err := root.Chtimes(name, time.Time{}, time.Now())
		if !errors.Is(err, fs.ErrPermission) {
			return struct{}{}, err
		}
		// Only a file's owner may set its times. Whoever may write to the directory
		// can put the same again.
		o, err := get(ctx, root, name, MaxObject)
		if err == nil {
			_, err = d.put(ctx, root, name, o.Body, Condition{Version: o.Version})
		}
		if errors.Is(err, ErrConflict) {
			err = nil // it is new
		}
		return struct{}{}, err
	})
	return err
}

func (d *Directory) Delete(ctx context.Context, name string) error {
	if err := d.check(name, true); err != nil {
		return err
	}
	_, err := do(ctx, d, func(root *os.Root) (struct{}, error) {
		unlock, err := d.lock(ctx, root, name)
		if err != nil {
			return struct{}{}, err
		}
		defer unlock()
		if fi, err := root.Lstat(name); err == nil && fi.IsDir() {
			return struct{}{}, nil
		}
		if err := root.Remove(name); err != nil {
			return struct{}{}, err
		}
		for dir := path.Dir(name); dir != "." && root.Remove(dir) == nil; dir = path.Dir(dir) {
		}
		return struct{}{}, nil
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
