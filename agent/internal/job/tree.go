package job

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/agent/internal/blob"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// tree puts inputs into a job's root and takes outputs out of it. Every name is
// resolved by the kernel with openat2(2) from a descriptor of that root, so that
// neither the image's links nor the host's names nor the job lead out of it.
type tree struct {
	root int // O_PATH
	uid  int
	dirs int // that were made
}

// openRoot opens the root directory of process pid.
func openRoot(pid int) (int, error) {
	return unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

func openat2(dir int, name string, flags uint64, resolve uint64) (int, error) {
	for {
		fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve})
		// EAGAIN: something was renamed meanwhile (openat2(2)).
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// within is a clean absolute path as one below a root's descriptor, no longer
// than it was.
func within(p string) string {
	if p = strings.TrimPrefix(p, "/"); p == "" {
		return "."
	}
	return p
}

const (
	asDir   = unix.O_PATH | unix.O_DIRECTORY
	beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS
)

// makeRoots makes the project roots, which must be free in the image.
func (t *tree) makeRoots(roots []string) error {
	for _, root := range roots {
		if err := t.makeRoot(root); err != nil {
			return fmt.Errorf("project root %s: %w", root, err)
		}
	}
	return nil
}

// ErrTaken says that the image has something where a project root should be.
var ErrTaken = errors.New("the image has something there; choose another root")

func (t *tree) makeRoot(root string) error {
	names := strings.Split(strings.TrimPrefix(root, "/"), "/")
	dir := t.root
	defer func() {
		if dir != t.root {
			unix.Close(dir)
		}
	}()
	for i, name := range names {
		last := i == len(names)-1
		fd, err := openat2(dir, name, asDir, beneath)
		if err == unix.ENOENT {
			if err = unix.Mkdirat(dir, name, 0o755); err != nil {
				return err
			}
			if fd, err = openat2(dir, name, asDir, beneath); err != nil {
				return err
			}
		} else if err == unix.ELOOP || err == unix.ENOTDIR {
			// Lookups are told by their real paths: a root behind a link would
			// have another one.
			return ErrTaken
		} else if err != nil {
			return err
		} else if last {
			if empty, err := isEmpty(fd); err != nil || !empty {
				unix.Close(fd)
				return errors.Join(ErrTaken, err)
			}
		}
		if dir != t.root {
			unix.Close(dir)
		}
		dir = fd
	}
	if err := unix.Fchownat(dir, "", t.uid, t.uid, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	return nil
}

func isEmpty(dir int) (bool, error) {
	fd, err := openat2(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY, beneath)
	if err != nil {
		return false, err
	}
	f := os.NewFile(uintptr(fd), "root")
	defer f.Close()
	names, err := f.Readdirnames(1)
	if err == io.EOF {
		err = nil
	}
	return len(names) == 0, err
}

// makeDirs makes directory p below root, and those on the way, and returns an
// O_PATH descriptor of it.
func (t *tree) makeDirs(root, p string) (int, error) {
	dir, err := openat2(t.root, within(root), asDir, beneath)
	if err != nil {
		return -1, err
	}
	if p == root {
		return dir, nil
	}
	below, ok := strings.CutPrefix(p, root+"/")
	if !ok {
		unix.Close(dir)
		return -1, unix.EXDEV
	}
	for name := range strings.SplitSeq(below, "/") {
		if err := unix.Mkdirat(dir, name, 0o755); err == nil {
			if t.dirs++; t.dirs > maxInodes {
				// A header of some megabytes can name millions of them.
				unix.Close(dir)
				return -1, errNoRoom
			}
			err = unix.Fchownat(dir, name, t.uid, t.uid, unix.AT_SYMLINK_NOFOLLOW)
			if err != nil {
				unix.Close(dir)
				return -1, err
			}
		} else if err != unix.EEXIST {
			unix.Close(dir)
			return -1, err
		}
		next, err := openat2(dir, name, asDir, beneath)
		unix.Close(dir)
		if err != nil {
			return -1, err
		}
		dir = next
	}
	return dir, nil
}

// materialise puts the inputs where they belong. Every file is an inode of its
// own with its own times; directories get theirs last, since what is put into
// them changes them.
func (t *tree) materialise(roots []string, inputs []*agentv1.Input, store *blob.Store) error {
	inputs = slices.Clone(inputs)
	slices.SortFunc(inputs, func(a, b *agentv1.Input) int { return strings.Compare(a.GetPath(), b.GetPath()) })
	dir, dirPath := -1, ""
	defer func() {
		if dir >= 0 {
			unix.Close(dir)
		}
	}()
	buf := make([]byte, 64<<10)
	for _, in := range inputs {
		p := in.GetPath()
		parent, name := path.Split(p)
		parent = path.Clean(parent)
		if in.GetKind() == agentv1.Input_KIND_DIRECTORY {
			parent = p
		}
		if parent != dirPath || dir < 0 {
			if dir >= 0 {
				unix.Close(dir)
			}
			var err error
			if dir, err = t.makeDirs(agentv1.RootOf(roots, p), parent); err != nil {
				return fmt.Errorf("input %s: %w", p, err)
			}
			dirPath = parent
		}
		var err error
		switch in.GetKind() {
		case agentv1.Input_KIND_FILE:
			err = t.file(dir, name, in, store, buf)
		case agentv1.Input_KIND_SYMLINK:
			if err = unix.Symlinkat(in.GetTarget(), dir, name); err == nil {
				if err = unix.Fchownat(dir, name, t.uid, t.uid, unix.AT_SYMLINK_NOFOLLOW); err == nil {
					err = setTime(dir, name, in.GetMtime())
				}
			}
		}
		if err != nil {
			return fmt.Errorf("input %s: %w", p, err)
		}
	}
	for _, in := range slices.Backward(inputs) {
		if in.GetKind() != agentv1.Input_KIND_DIRECTORY {
			continue
		}
		if err := t.finishDir(in); err != nil {
			return fmt.Errorf("input %s: %w", in.GetPath(), err)
		}
	}
	return nil
}

func (t *tree) finishDir(in *agentv1.Input) error {
	fd, err := openat2(t.root, within(in.GetPath()), unix.O_RDONLY|unix.O_DIRECTORY, beneath)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchmod(fd, in.GetMode()); err != nil {
		return err
	}
	return setTime(fd, "", in.GetMtime())
}

// setTime sets both times of name in dir, or of dir itself.
func setTime(dir int, name string, nanos int64) error {
	at := unix.NsecToTimespec(nanos)
	if name == "" {
		return utimensat(dir, nil, []unix.Timespec{at, at}, 0)
	}
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
}

func (t *tree) file(dir int, name string, in *agentv1.Input, store *blob.Store, buf []byte) error {
	fd, err := openat2(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, beneath)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if in.GetDigest().GetSize() > 0 {
		src, err := store.Open(keyOf(in.GetDigest()))
		if err != nil {
			return err
		}
		defer src.Close()
		for {
			n, err := src.Read(buf)
			for b := buf[:n]; len(b) > 0; {
				w, err := unix.Write(fd, b)
				if err != nil {
					return err
				}
				b = b[w:]
			}
			if err == io.EOF {
				break
			} else if err != nil {
				return err
			}
		}
	}
	if err := unix.Fchown(fd, t.uid, t.uid); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, in.GetMode()); err != nil {
		return err
	}
	return setTime(fd, "", in.GetMtime())
}

func keyOf(d *agentv1.Digest) blob.Key {
	return blob.Key{Sum: [32]byte(d.GetSha256()), Size: d.GetSize()}
}

// output opens what the job left at p, nil if it left nothing there that counts
// as an output: a regular file of the job's own. Links are followed as the job
// followed them when it wrote, inside its root. A file of the image's, which a
// link might name, is no output.
func (t *tree) output(p string) (*os.File, os.FileInfo, error) {
	fd, err := openat2(t.root, within(p), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV, unix.ENXIO, unix.ENODEV:
		return nil, nil, nil
	default:
		return nil, nil, fmt.Errorf("output %s: %w", p, err)
	}
	f := os.NewFile(uintptr(fd), p)
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	sys, ok := st.Sys().(*unixStat)
	if !ok || !st.Mode().IsRegular() || int(sys.Uid) != t.uid {
		f.Close()
		return nil, nil, nil
	}
	return f, st, nil
}

// outputSize is the size of what output would open, 0 if it would open nothing.
// The job may still run, so nothing is opened for it to notice: no pipe.
func (t *tree) outputSize(p string) uint64 {
	fd, err := openat2(t.root, within(p), unix.O_PATH, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != t.uid {
		return 0
	}
	return uint64(st.Size)
}

// disk says how many bytes and files the job's file system holds.
func (t *tree) disk() (bytes, files uint64) {
	var st unix.Statfs_t
	if unix.Fstatfs(t.root, &st) != nil {
		return 0, 0
	}
	return (st.Blocks - st.Bfree) * uint64(st.Bsize), st.Files - st.Ffree
}
