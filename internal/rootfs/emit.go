package rootfs

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"hpcc.dev/hpcc/internal/rootfs/ext4"
)

// spool holds the contents of files, one after the other, in one file that has
// no name: nothing is left behind, however the process ends.
type spool struct {
	f *os.File
	w *bufio.Writer
	n int64
}

func newSpool(f *os.File) *spool { return &spool{f: f, w: bufio.NewWriterSize(hostWriter{f}, 1<<20)} }

// add appends size bytes of r, and returns where they begin.
func (s *spool) add(r io.Reader, size int64) (offset int64, err error) {
	n, err := io.CopyN(s.w, r, size)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	offset = s.n
	s.n += n
	return offset, err
}

// emit writes a finished tree as an archive that package ext4 takes: sorted, parents
// first, hard links after their targets, and sums up each file. progress is called with the bytes of
// content so far.
func (t *tree) emit(ctx context.Context, w io.Writer, progress func(int64)) error {
	e := &emitter{ctx: ctx, spool: t.spool.f, tw: tar.NewWriter(w), hash: sha256.New(), buf: make([]byte, 256<<10), progress: progress}
	if err := e.write("./", t.root); err != nil {
		return err
	}
	if err := e.children("", t.root); err != nil {
		return err
	}
	return e.tw.Close()
}

// finish ends the applying of layers. It counts what is left: each file's names,
// each directory's directories, and the bytes of content. Not before, since layers
// take names away by whole directories.
func (t *tree) finish() (size int64, err error) {
	if err := t.spool.w.Flush(); err != nil {
		return 0, err
	}
	return t.countNames(t.root)
}

func (t *tree) countNames(n *inode) (size int64, err error) {
	dirs := 0
	for base, c := range n.dir.children {
		if n == t.root && base == "lost+found" && c.dir == nil {
			return 0, &Refusal{Reason: NotADirectory, Path: base, Detail: "ext4 wants a directory of that name"}
		}
		if c.dir != nil {
			below, err := t.countNames(c.inode)
			if err != nil {
				return 0, err
			}
			size += below
			if dirs++; dirs > ext4.MaxLinks {
				return 0, &Refusal{Reason: TooManyLinks, Path: base, Detail: "more directories in one than ext4 allows"}
			}
			continue
		}
		if c.names++; c.names == 1 {
			size += c.size
		} else if c.names > ext4.MaxLinks {
			return 0, &Refusal{Reason: TooManyLinks, Path: base, Detail: "more names than ext4 allows one file"}
		}
	}
	return size, nil
}

type emitter struct {
	ctx      context.Context
	spool    io.ReaderAt
	tw       *tar.Writer
	hash     hash.Hash
	buf      []byte
	done     int64
	progress func(int64)
}

func (e *emitter) children(path string, n *inode) error {
	for _, base := range slices.Sorted(maps.Keys(n.dir.children)) {
		if err := e.ctx.Err(); err != nil {
			return err
		}
		c, p := n.dir.children[base].inode, path+base
		if c.dir != nil {
			if err := e.write(p+"/", c); err != nil {
				return err
			}
			if err := e.children(p+"/", c); err != nil {
				return err
			}
			continue
		}
		if c.path != "" {
			h := &tar.Header{Typeflag: tar.TypeLink, Name: p, Linkname: c.path, Format: tar.FormatPAX}
			if err := e.tw.WriteHeader(h); err != nil {
				return err
			}
			continue
		}
		if c.names > 1 {
			c.path = p
		}
		if err := e.write(p, c); err != nil {
			return err
		}
	}
	return nil
}

func (e *emitter) write(path string, n *inode) error {
	h := &tar.Header{
		Typeflag: n.kind, Name: path, Linkname: n.target, Size: n.size, Mode: int64(n.mode),
		Uid: int(n.uid), Gid: int(n.gid), ModTime: time.Unix(n.sec, int64(n.nsec)), Format: tar.FormatPAX,
	}
	if len(n.xattrs) > 0 {
		h.PAXRecords = map[string]string{}
		for _, x := range n.xattrs {
			h.PAXRecords[paxXattr+x.name] = x.value
		}
	}
	if err := e.tw.WriteHeader(h); err != nil {
		return err
	}
	if n.kind != tar.TypeReg {
		return nil
	}
	// Here, and not when a layer has it, since most that layers have twice is
	// deleted or replaced, and every byte passes by anyway.
	e.hash.Reset()
	// CopyBuffer would ask the writer for ReadFrom, which looks for holes.
	for off := int64(0); off < n.size; {
		if err := e.ctx.Err(); err != nil {
			return err
		}
		k := min(int64(len(e.buf)), n.size-off)
		if _, err := e.spool.ReadAt(e.buf[:k], n.offset+off); err != nil {
			return err
		}
		e.hash.Write(e.buf[:k])
		if _, err := e.tw.Write(e.buf[:k]); err != nil {
			return err
		}
		off += k
		e.done += k
		e.progress(e.done)
	}
	e.hash.Sum(n.sum[:0])
	return nil
}
