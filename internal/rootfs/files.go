package rootfs

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/atomicfile"
	"hpcc.dev/hpcc/internal/digest"
)

// Beside an image lies an index of its files, so that somebody can be told what
// /usr/bin/gcc is in it without a mount or a machine: a table of names as wide
// as each other, then the bytes of names and links. A directory's names are one
// run of the table, sorted; the first entry is the root. Numbers are
// little-endian:
//
//	 0  offset of the name among the bytes, uint32
//	 4  length of the name, uint8
//	 5  kind, uint8
//	 6  length of a link's target, uint16; it follows the name
//	 8  file: size, uint64; directory: number of its first entry, uint64
//	16  file: SHA-256, 32 bytes; directory: how many entries, uint32
//
// before which stand a mark and the number of entries, uint32. The digest of it
// all is in the image's record.
const (
	filesMark  = "hpccfil1"
	filesHead  = len(filesMark) + 4
	filesEntry = 48

	// maxFilesBytes bounds the index. 500,000 entries take 24 MB for the table,
	// and the names of the longest 128 MB more; the rest is links.
	maxFilesBytes = 512 << 20
	// maxFollowed is how many symbolic links Linux follows in one path.
	maxFollowed = 40
)

const (
	fileOther = iota
	fileRegular
	fileLink
	fileDirectory
)

// writeFiles writes the index of a tree that has been emitted to path, and
// returns its digest.
func (t *tree) writeFiles(path string) (d digest.Digest, err error) {
	err = atomicfile.WriteFrom(path, func(w io.Writer) error {
		h := sha256.New()
		c := &filesWriter{w: bufio.NewWriterSize(io.MultiWriter(hostWriter{w}, h), 256<<10)}
		if err := t.encodeFiles(c); err != nil {
			return err
		}
		if err := c.w.Flush(); err != nil {
			return err
		}
		d, err = digest.FromBytes(h.Sum(nil), c.n)
		return err
	}, atomicfile.Options{Durable: true})
	return d, err
}

// filesWriter counts, and gives up beyond the limit.
type filesWriter struct {
	w *bufio.Writer
	n int64
}

func (c *filesWriter) Write(p []byte) (int, error) {
	if c.n += int64(len(p)); c.n > maxFilesBytes {
		return 0, refuse(TooMuchMetadata, "an index of more than %d bytes", maxFilesBytes)
	}
	return c.w.Write(p)
}

func (t *tree) encodeFiles(w io.Writer) error {
	total := 1
	err := t.breadthFirst(func(string, *inode) error {
		total++
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := w.Write(binary.LittleEndian.AppendUint32([]byte(filesMark), uint32(total))); err != nil {
		return err
	}
	var text int64
	next := 1 // the first entry of the directory that comes next
	write := func(base string, n *inode) error {
		if text > math.MaxUint32 {
			return refuse(TooMuchMetadata, "names and links of more than %d bytes", text)
		}
		var b [filesEntry]byte
		binary.LittleEndian.PutUint32(b[0:], uint32(text))
		b[4] = byte(len(base))
		switch n.kind {
		case tar.TypeReg:
			b[5] = fileRegular
			binary.LittleEndian.PutUint64(b[8:], uint64(n.size))
			copy(b[16:], n.sum[:])
		case tar.TypeSymlink:
			b[5] = fileLink
			binary.LittleEndian.PutUint16(b[6:], uint16(len(n.target)))
		case tar.TypeDir:
			b[5] = fileDirectory
			binary.LittleEndian.PutUint64(b[8:], uint64(next))
			binary.LittleEndian.PutUint32(b[16:], uint32(len(n.dir.children)))
			next += len(n.dir.children)
		}
		text += int64(len(base) + len(n.target))
		_, err := w.Write(b[:])
		return err
	}
	if err := write("", t.root); err != nil {
		return err
	}
	if err := t.breadthFirst(write); err != nil {
		return err
	}
	return t.breadthFirst(func(base string, n *inode) error {
		_, err := io.WriteString(w, base+n.target)
		return err
	})
}

// breadthFirst calls visit for all names but the root, a directory after the
// other, in the order in which they were visited themselves.
func (t *tree) breadthFirst(visit func(base string, n *inode) error) error {
	for queue := []*dir{t.root.dir}; len(queue) > 0; queue = queue[1:] {
		children := queue[0].children
		for _, base := range slices.Sorted(maps.Keys(children)) {
			n := children[base].inode
			if err := visit(base, n); err != nil {
				return err
			}
			if n.dir != nil {
				queue = append(queue, n.dir)
			}
		}
	}
	return nil
}

// files is an index that is open.
type files struct {
	r     io.ReaderAt
	count uint32
	text  int64 // where the bytes of names begin
	size  int64
}

// errFiles says that an index is not what its image's record names.
var errFiles = errors.New("the index of the image's files is damaged")

// openFiles opens an index whose bytes have been checked. That it points beyond
// itself is still noticed.
func openFiles(r io.ReaderAt, size int64) (*files, error) {
	head := make([]byte, filesHead)
	if _, err := r.ReadAt(head, 0); err != nil || string(head[:len(filesMark)]) != filesMark {
		return nil, errFiles
	}
	f := &files{r: r, count: binary.LittleEndian.Uint32(head[len(filesMark):]), size: size}
	f.text = int64(filesHead) + int64(f.count)*filesEntry
	if f.count == 0 || f.text > size {
		return nil, errFiles
	}
	return f, nil
}

// fileEntry is one entry, with its numbers as they are.
type fileEntry struct {
	at     uint32
	nameAt uint32
	name   uint8
	kind   uint8
	target uint16
	number uint64
	sum    [sha256.Size]byte
}

func (f *files) entry(i uint64) (e fileEntry, err error) {
	if i >= uint64(f.count) {
		return e, errFiles
	}
	var b [filesEntry]byte
	if _, err := f.r.ReadAt(b[:], int64(filesHead)+int64(i)*filesEntry); err != nil {
		return e, fmt.Errorf("%w: %w", errFiles, err)
	}
	e = fileEntry{
		at: uint32(i), nameAt: binary.LittleEndian.Uint32(b[0:]), name: b[4], kind: b[5], target: binary.LittleEndian.Uint16(b[6:]),
		number: binary.LittleEndian.Uint64(b[8:]), sum: [sha256.Size]byte(b[16:]),
	}
	return e, nil
}

// bytes are n bytes of names and links.
func (f *files) bytes(at int64, n int) (string, error) {
	if at += f.text; at+int64(n) > f.size {
		return "", errFiles
	}
	b := make([]byte, n)
	if _, err := f.r.ReadAt(b, at); err != nil {
		return "", fmt.Errorf("%w: %w", errFiles, err)
	}
	return string(b), nil
}

// child finds a name in a directory.
func (f *files) child(dir fileEntry, base string) (e fileEntry, ok bool, err error) {
	n := uint64(binary.LittleEndian.Uint32(dir.sum[:]))
	// A directory's entries come after it, so that no walk down goes in a ring.
	if dir.number <= uint64(dir.at) || dir.number > uint64(f.count) || n > uint64(f.count)-dir.number {
		return e, false, errFiles
	}
	low, high := dir.number, dir.number+n
	for low < high {
		middle := low + (high-low)/2
		if e, err = f.entry(middle); err != nil {
			return e, false, err
		}
		name, err := f.bytes(int64(e.nameAt), int(e.name))
		if err != nil {
			return e, false, err
		}
		switch strings.Compare(name, base) {
		case 0:
			return e, true, nil
		case -1:
			low = middle + 1
		default:
			high = middle
		}
	}
	return e, false, nil
}

// lookup walks an absolute path as Linux does in a root of its own: a link is
// followed wherever it leads, and above the root is the root.
func (f *files) lookup(path string) (d digest.Digest, ok bool, err error) {
	root, err := f.entry(0)
	if err != nil {
		return d, false, err
	}
	if root.kind != fileDirectory {
		return d, false, errFiles
	}
	if !strings.HasPrefix(path, "/") || len(path) > maxPath {
		return d, false, nil
	}
	above := []fileEntry{root}
	rest := path
	for followed := 0; ; {
		rest = strings.TrimLeft(rest, "/")
		if rest == "" {
			return d, false, nil // a directory
		}
		base, behind, more := strings.Cut(rest, "/")
		rest = behind
		switch base {
		case ".":
			continue
		case "..":
			above = above[:max(len(above)-1, 1)]
			continue
		}
		e, ok, err := f.child(above[len(above)-1], base)
		if !ok || err != nil {
			return d, false, err
		}
		switch e.kind {
		case fileDirectory:
			above = append(above, e)
		case fileLink:
			if followed++; followed > maxFollowed {
				return d, false, nil
			}
			target, err := f.bytes(int64(e.nameAt)+int64(e.name), int(e.target))
			if err != nil {
				return d, false, err
			}
			if strings.HasPrefix(target, "/") {
				above = above[:1]
			}
			if more { // a slash asks for a directory, even if nothing follows
				target += "/" + rest
			}
			rest = target
		case fileRegular:
			if more {
				return d, false, nil
			}
			if e.number > math.MaxInt64 {
				return d, false, errFiles
			}
			d, err := digest.FromBytes(e.sum[:], int64(e.number))
			return d, err == nil, err
		default:
			return d, false, nil
		}
	}
}

// maxOpenFiles is how many indexes a store keeps open: as many images as a
// worker's tenants use at a time.
const maxOpenFiles = 8

// openIndex is an index that a store keeps open, the latest used first.
type openIndex struct {
	digest digest.Digest // the index's
	file   *os.File
	files  *files
}

// Lookup tells the digest of the regular file that path, which is absolute, means
// in an image that the store holds. Symbolic links are followed, as many as Linux
// would, and none leads out of the image. ok is false where there is no such
// file: nothing, a directory, or anything else. It fails as Get does, and the
// image of an index that turns out to be damaged counts as not there from then
// on, so that it is built again.
//
// It says what the image has. A machine puts its own file systems over /dev,
// /proc, /sys and /tmp.
func (s *Store) Lookup(image, path string) (d digest.Digest, ok bool, err error) {
	img, err := s.Get(image)
	if err != nil {
		return d, false, err
	}
	want, err := digest.Parse(img.Files)
	if err != nil {
		return d, false, fmt.Errorf("%s: %w", image, ErrNotFound)
	}
	s.indexes.Lock()
	defer s.indexes.Unlock()
	i := slices.IndexFunc(s.indexes.open, func(o openIndex) bool { return o.digest == want })
	var index openIndex
	if i >= 0 {
		index = s.indexes.open[i]
		s.indexes.open = slices.Delete(s.indexes.open, i, i+1)
	} else if index, err = openIndexFile(s.path(image, filesSuffix), want); err == nil && len(s.indexes.open) == maxOpenFiles {
		s.indexes.open[maxOpenFiles-1].file.Close()
		s.indexes.open = s.indexes.open[:maxOpenFiles-1]
	}
	if err == nil {
		s.indexes.open = slices.Insert(s.indexes.open, 0, index)
		d, ok, err = index.files.lookup(path)
	}
	if errors.Is(err, errFiles) || errors.Is(err, fs.ErrNotExist) {
		os.Remove(s.path(image, filesSuffix))
		s.opt.Log.Warn("the index of an image's files is damaged", "digest", image, "error", err)
		return d, false, fmt.Errorf("%s: %w: %w", image, ErrNotFound, err)
	}
	if err != nil {
		return d, false, fmt.Errorf("image store: %w", err)
	}
	return d, ok, nil
}

// openIndexFile opens an index and checks it once; from then on the descriptor is
// kept, and nobody writes to the file.
func openIndexFile(path string, want digest.Digest) (index openIndex, err error) {
	f, err := os.Open(path)
	if err != nil {
		return index, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if _, err := io.Copy(io.Discard, digest.NewVerifier(f, want)); err != nil {
		if errors.Is(err, digest.ErrMismatch) {
			err = errFiles
		}
		return index, err
	}
	list, err := openFiles(f, want.Size())
	return openIndex{want, f, list}, err
}
