package rootfs

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"time"
)

// tree is a file system in memory: names, headers, and where each file's
// content lies in the spool. Layers are applied to it one after the other.
//
// Every rule that depends on order inside a layer works by the number of the
// layer that last made a name: whiteouts reach what lower layers left, wherever
// in their own layer they stand (OCI image specification, "Whiteouts").
type tree struct {
	root  *inode
	spool *spool
	lim   Limits
	layer int // the one being applied, from 1

	unpacked budget // bytes of the layers' streams
	contents budget // bytes of files, which sparse ones have more of
	entries  int
	metadata int64
}

// inode is a file, whatever number of names it has.
type inode struct {
	kind     byte // tar.TypeReg, TypeDir, TypeSymlink or TypeFifo
	mode     uint16
	uid, gid uint32
	sec      int64
	nsec     int32
	size     int64
	offset   int64  // in the spool
	target   string // of a symbolic link
	xattrs   []xattr
	dir      *dir // nil for all but directories

	// names, path and sum belong to emit: how many names there are, the one
	// under which the content has been written, and its SHA-256.
	names int
	path  string
	sum   [sha256.Size]byte
}

type xattr struct{ name, value string }

type dir struct {
	children map[string]name
	// touched is the last layer that put something beneath, purged the last
	// in which everything of lower layers was taken away.
	touched, purged int
}

// name is a directory's entry: the inode, and the layer that made it.
type name struct {
	*inode
	layer int
}

func newTree(sp *spool, lim Limits) *tree {
	t := &tree{
		spool:    sp,
		lim:      lim,
		unpacked: budget{lim.Bytes, lim.Bytes},
		contents: budget{lim.Bytes, lim.Bytes},
	}
	t.root = t.newDir()
	return t
}

// newDir is a directory as those are that no layer has an entry for.
func (t *tree) newDir() *inode {
	return &inode{kind: tar.TypeDir, mode: 0o755, dir: &dir{children: map[string]name{}, purged: t.layer}}
}

// apply applies one entry of a layer; content is that of a regular file.
func (t *tree) apply(h *tar.Header, content io.Reader) error {
	if err := t.count(h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // a comment, in effect
	}
	parts, err := t.split(h.Name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return t.applyRoot(h)
	}
	base := parts[len(parts)-1]
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return t.whiteout(parts[:len(parts)-1], hidden)
	}
	if h.Typeflag == tar.TypeLink {
		return t.link(parts, h.Linkname)
	}
	n, err := t.inodeOf(h)
	if err != nil {
		return err
	}
	if n.kind == tar.TypeReg {
		if err := t.contents.take(h.Size); err != nil {
			return err
		}
		n.size = h.Size
		if n.offset, err = t.spool.add(content, h.Size); err != nil {
			return err
		}
	}
	return t.put(parts, n)
}

// count charges an entry to the limits.
func (t *tree) count(h *tar.Header) error {
	if t.entries++; t.entries > t.lim.Entries {
		return refuse(TooManyEntries, "more than %d entries", t.lim.Entries)
	}
	t.metadata += int64(len(h.Name) + len(h.Linkname))
	for k, v := range h.PAXRecords {
		t.metadata += int64(len(k) + len(v))
	}
	if t.metadata > t.lim.Metadata {
		return refuse(TooMuchMetadata, "names and attributes of more than %d bytes", t.lim.Metadata)
	}
	return nil
}

// split returns the components of an entry's name. Names are relative to the
// image's root whether or not they begin with a slash.
func (t *tree) split(path string) ([]string, error) {
	if len(path) > maxPath {
		return nil, refuse(NameTooLong, "a path of %d bytes: %d is the limit", len(path), maxPath)
	}
	if path == "" || strings.Contains(path, "\x00") {
		return nil, refuse(BadName, "an empty name, or one with a zero byte")
	}
	var parts []string
	for part := range strings.SplitSeq(path, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return nil, refuse(PathEscape, `a name with ".."`)
		case len(part) > maxName:
			return nil, refuse(NameTooLong, "a name of %d bytes: %d is the limit", len(part), maxName)
		}
		if len(parts) == t.lim.Depth {
			return nil, refuse(TooDeep, "more than %d directories deep", t.lim.Depth)
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// applyRoot applies the entry "./".
func (t *tree) applyRoot(h *tar.Header) error {
	n, err := t.inodeOf(h)
	if err != nil {
		return err
	}
	if n.kind != tar.TypeDir {
		return refuse(NotADirectory, "the root must be a directory")
	}
	n.dir = t.root.dir
	t.root = n
	return nil
}

// inodeOf makes the inode of an entry that is no hard link, without content.
func (t *tree) inodeOf(h *tar.Header) (*inode, error) {
	n := &inode{kind: h.Typeflag, mode: uint16(h.Mode & 0o7777)}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeRegA, tar.TypeCont, tar.TypeGNUSparse: //nolint:staticcheck // old archives have TypeRegA
		n.kind = tar.TypeReg
	case tar.TypeDir:
		n.dir = t.newDir().dir
	case tar.TypeFifo:
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxPath || strings.Contains(h.Linkname, "\x00") {
			return nil, refuse(BadSymlink, "a target of %d bytes: 1 to %d, and no zero byte", len(h.Linkname), maxPath)
		}
		n.target, n.mode = h.Linkname, 0o777
	case tar.TypeChar, tar.TypeBlock:
		return nil, refuse(DeviceNode, "devices are the guest's own")
	default:
		return nil, refuse(BadType, "type %q is not read", h.Typeflag)
	}
	// The greatest numbers stand for "leave as it is" in chown(2).
	if h.Uid < 0 || int64(h.Uid) >= 1<<32-1 || h.Gid < 0 || int64(h.Gid) >= 1<<32-1 {
		return nil, refuse(BadOwner, "%d:%d", h.Uid, h.Gid)
	}
	n.uid, n.gid = uint32(h.Uid), uint32(h.Gid)
	n.sec, n.nsec = fileTime(h.ModTime)
	var err error
	n.xattrs, err = xattrsOf(h)
	return n, err
}

// fileTime clamps a time to what ext4 keeps: from 1970, for the writer knows no
// earlier ones, to 2446.
func fileTime(t time.Time) (sec int64, nsec int32) {
	const last = 0x37fffffff
	switch s := t.Unix(); {
	case s < 0:
		return 0, 0
	case s > last:
		return last, 0
	default:
		return s, int32(t.Nanosecond())
	}
}

// put gives n the name parts.
func (t *tree) put(parts []string, n *inode) error {
	above, err := t.directory(parts[:len(parts)-1], true)
	if err != nil {
		return err
	}
	base := parts[len(parts)-1]
	in := above[len(above)-1].dir
	if old, ok := in.children[base]; ok {
		switch {
		case old.dir != nil && n.dir != nil:
			// The directory's new attributes; what is in it stays.
			n.dir = old.dir
		case old.layer == t.layer || old.dir != nil && old.dir.touched == t.layer:
			return refuse(Duplicate, "a path that this layer has already")
		}
	}
	in.children[base] = name{n, t.layer}
	for _, d := range above {
		d.dir.touched = t.layer
	}
	return nil
}

// link gives the file at target another name.
func (t *tree) link(parts []string, target string) error {
	to, err := t.split(target)
	if err != nil {
		if r := (*Refusal)(nil); errors.As(err, &r) {
			r.Detail = "link target: " + r.Detail
		}
		return err
	}
	if len(to) == 0 {
		return refuse(BadLink, "to the root")
	}
	above, err := t.directory(to[:len(to)-1], false)
	if err != nil {
		return err
	}
	if above == nil {
		return refuse(BadLink, "to %q, which is not there", clip(target))
	}
	n, ok := above[len(above)-1].dir.children[to[len(to)-1]]
	switch {
	case !ok:
		return refuse(BadLink, "to %q, which is not there", clip(target))
	case n.dir != nil:
		return refuse(BadLink, "to %q, a directory", clip(target))
	}
	// The name would be its own target; unlinking it first, as extractors do,
	// would leave nothing.
	from, err := t.directory(parts[:len(parts)-1], false)
	if err != nil {
		return err
	}
	if from != nil && from[len(from)-1].dir == above[len(above)-1].dir && parts[len(parts)-1] == to[len(to)-1] {
		return refuse(BadLink, "to itself")
	}
	return t.put(parts, n.inode)
}

// directory finds the directory at parts, and those above it, from the root. One
// that is missing is made, or, unless it shall be, the answer is nil.
//
// A symbolic link in the way is followed, within the image, if a lower layer
// made it: images are built on Debian's "bin -> usr/bin" by tools that only see
// their own layer. One that the same layer made is a trap for extractors.
func (t *tree) directory(parts []string, create bool) ([]*inode, error) {
	above := []*inode{t.root}
	followed := 0 // leading parts that come from a link
	steps, longest := 0, 4*t.lim.Depth
	for len(parts) > 0 {
		part := parts[0]
		parts = parts[1:]
		fromLink := followed > 0
		if fromLink {
			followed--
		}
		if steps++; steps > longest || len(parts) > longest || len(above) > t.lim.Depth+1 {
			return nil, refuse(TooDeep, "symbolic links lead more than %d directories deep", t.lim.Depth)
		}
		switch part {
		case "", ".": // only of a link
			continue
		case "..":
			if len(above) == 1 {
				return nil, refuse(PathEscape, "a symbolic link that leads above the root")
			}
			above = above[:len(above)-1]
			continue
		}
		in := above[len(above)-1]
		n, ok := in.dir.children[part]
		switch {
		case !ok && fromLink:
			return nil, refuse(NotADirectory, "a symbolic link that leads nowhere")
		case !ok && !create:
			return nil, nil
		case !ok:
			// Depth times the entries, if each has directories of its own.
			if t.entries++; t.entries > t.lim.Entries {
				return nil, refuse(TooManyEntries, "more than %d entries", t.lim.Entries)
			}
			made := t.newDir()
			in.dir.children[part] = name{made, t.layer}
			in.dir.touched = t.layer
			above = append(above, made)
		case n.dir != nil:
			above = append(above, n.inode)
		case n.kind == tar.TypeSymlink && n.layer == t.layer:
			return nil, refuse(WriteThroughLink, "a path through a symbolic link of the same layer")
		case n.kind == tar.TypeSymlink:
			to := strings.Split(n.target, "/")
			if n.target[0] == '/' {
				above = above[:1]
			}
			followed += len(to)
			parts = append(to, parts...)
		default:
			return nil, refuse(NotADirectory, "a path through something that is no directory")
		}
	}
	return above, nil
}

const (
	whiteoutPrefix = ".wh."
	opaque         = ".wh..opq" // behind the prefix
)

// whiteout hides what lower layers have at a name in the directory at parts, or
// everything in it. It stands for nothing where there is nothing.
func (t *tree) whiteout(parts []string, hidden string) error {
	if hidden != opaque && (hidden == "" || hidden == "." || hidden == ".." || strings.HasPrefix(hidden, ".wh.")) {
		return refuse(BadWhiteout, "a whiteout of nothing, or of aufs")
	}
	above, err := t.directory(parts, false)
	if above == nil || err != nil {
		return err
	}
	in := above[len(above)-1].dir
	if hidden == opaque {
		t.purge(in)
		return nil
	}
	n, ok := in.children[hidden]
	switch {
	case !ok:
	case n.dir != nil && (n.layer == t.layer || n.dir.touched == t.layer):
		t.purge(n.dir)
	case n.layer != t.layer:
		delete(in.children, hidden)
	}
	return nil
}

// purge takes away everything beneath d that lower layers have put there. Each
// directory is gone through once a layer, whatever number of whiteouts there
// are.
func (t *tree) purge(d *dir) {
	if d.purged == t.layer {
		return
	}
	d.purged = t.layer
	for base, n := range d.children {
		switch {
		case n.dir != nil && (n.layer == t.layer || n.dir.touched == t.layer):
			t.purge(n.dir)
		case n.layer != t.layer:
			delete(d.children, base)
		}
	}
}
