package guest

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// entry is one name in an initramfs.
type entry struct {
	name string // relative, clean
	mode uint32 // type and permission bits, as stat gives them
	dev  [2]uint32
	data []byte // a file's content, a link's target
}

// Types of an entry's mode.
const (
	modeDir  = 0o040000
	modeChar = 0o020000
	modeFile = 0o100000
)

// Archive is a file system tree as the kernel unpacks it at boot: a cpio
// archive in the "newc" format (Documentation/driver-api/early-userspace/
// buffer-format.rst in the kernel's source).
//
// It is written here in a hundred lines, for a library would bring more than it
// saves, and so that equal trees give equal bytes: names are sorted, everything
// belongs to root, has the time 0 and inode numbers in order. The zero value is
// an empty tree.
type Archive struct {
	entries map[string]entry
	err     error
}

// Dir adds a directory and those above it.
func (a *Archive) Dir(name string) { a.add(entry{name: name, mode: modeDir | 0o755}) }

// File adds a file with the permissions perm, and the directories above it.
func (a *Archive) File(name string, perm uint32, data []byte) {
	a.add(entry{name: name, mode: modeFile | perm&0o777, data: data})
}

// CharDevice adds a character device that root may read and write.
func (a *Archive) CharDevice(name string, major, minor uint32) {
	a.add(entry{name: name, mode: modeChar | 0o600, dev: [2]uint32{major, minor}})
}

func (a *Archive) add(e entry) {
	if a.entries == nil {
		a.entries = make(map[string]entry)
	}
	e.name = strings.TrimPrefix(path.Clean("/"+e.name), "/")
	if e.name == "" || strings.Contains(e.name, "\x00") || len(e.name) > 1024 || int64(len(e.data)) > 1<<31 {
		a.err = fmt.Errorf("initramfs: %.100q cannot be an entry", e.name)
		return
	}
	if old, ok := a.entries[e.name]; ok && (old.mode != e.mode || e.mode&modeDir == 0) {
		a.err = fmt.Errorf("initramfs: %s is added twice", e.name)
		return
	}
	a.entries[e.name] = e
	if dir := path.Dir(e.name); dir != "." {
		if parent, ok := a.entries[dir]; !ok {
			a.Dir(dir)
		} else if parent.mode&modeDir == 0 {
			a.err = fmt.Errorf("initramfs: %s lies below a file", e.name)
		}
	}
}

// Write writes the archive, uncompressed: the VMM copies it into memory, and
// unpacking it in the guest would cost more time than it saves.
func (a *Archive) Write(w io.Writer) error {
	if a.err != nil {
		return a.err
	}
	names := make([]string, 0, len(a.entries))
	for name := range a.entries {
		names = append(names, name)
	}
	slices.Sort(names) // a directory comes before what it holds
	var written int64
	put := func(inode int, e entry) error {
		links := 1
		if e.mode&modeDir != 0 {
			links = 2
		}
		var b bytes.Buffer
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			inode, e.mode, 0, 0, links, 0, len(e.data), 0, 0, e.dev[0], e.dev[1], len(e.name)+1, 0)
		b.WriteString(e.name)
		b.WriteByte(0)
		// Header with name, and data, each fill up to four bytes.
		b.Write(make([]byte, -b.Len()&3))
		b.Write(e.data)
		b.Write(make([]byte, -len(e.data)&3))
		written += int64(b.Len())
		_, err := w.Write(b.Bytes())
		return err
	}
	for i, name := range names {
		if err := put(i+1, a.entries[name]); err != nil {
			return err
		}
	}
	if err := put(0, entry{name: "TRAILER!!!"}); err != nil {
		return err
	}
	// The kernel takes any length, other readers whole blocks.
	_, err := w.Write(make([]byte, -written&511))
	return err
}
