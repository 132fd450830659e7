package cache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"hpcc.dev/hpcc/internal/digest"
)

// MaxBlob is the largest blob that is kept, 1 GiB: blobs are read into memory,
// and no object that a compiler made has been seen to come near.
const MaxBlob = 1 << 30

// suffix of the files that hold blobs compressed.
const suffix = ".zst"

// blobPath is where a blob lies that is not compressed.
func (c *Disk) blobPath(d digest.Digest) string {
	name := d.Hex()
	return c.dir + "/cas/" + name[:2] + "/" + name + "-" + strconv.FormatInt(d.Size(), 10)
}

// Blob returns the bytes that d names: their size and SHA-256 were checked
// just now. Errors are ErrNotFound, ErrTooLarge and the file system's.
func (c *Disk) Blob(d digest.Digest) ([]byte, error) {
	if d.Size() > MaxBlob {
		return nil, fmt.Errorf("blob of %d bytes: %w", d.Size(), ErrTooLarge)
	}
	path := c.blobPath(d)
	first, second := path+suffix, path
	if c.reflinks() {
		first, second = path, path+suffix
	}
	b, err := c.blobAt(first, d)
	if errors.Is(err, ErrNotFound) {
		b, err = c.blobAt(second, d)
	}
	return b, err
}

// blobAt reads a blob from one of the files that may hold it.
func (c *Disk) blobAt(path string, d digest.Digest) ([]byte, error) {
	// Incompressible bytes grow by a few when compressed; they are not stored
	// so, and a file that is longer than what it should hold is damaged.
	f, s, err := c.open(path, d.Size())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := readBlob(f, int64(s.size), d)
	if errors.Is(err, digest.ErrMismatch) {
		c.discard(path, s)
		return nil, ErrNotFound
	}
	return b, err
}

// readBlob reads and checks a blob from a file of the given size. It allocates
// the blob's size only for a file that claims to hold as much.
func readBlob(f *os.File, size int64, d digest.Digest) ([]byte, error) {
	read := readRaw
	if isCompressed(f.Name()) {
		read = readCompressed
	}
	b, err := read(f, size, d.Size())
	if err == nil && digest.Of(b) != d {
		err = digest.ErrMismatch
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

func readRaw(f *os.File, size, want int64) ([]byte, error) {
	if size != want {
		return nil, digest.ErrMismatch
	}
	b := make([]byte, want)
	_, err := io.ReadFull(f, b)
	return b, notShort(err)
}

func readCompressed(f *os.File, size, want int64) ([]byte, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	*buf = grow(*buf, int(size))
	if _, err := io.ReadFull(f, *buf); err != nil {
		return nil, notShort(err)
	}
	var h zstd.Header
	if err := h.Decode(*buf); err != nil || !h.HasFCS || h.FrameContentSize != uint64(want) {
		return nil, digest.ErrMismatch
	}
	// More frames may follow: the decoder stops at the slice's capacity.
	b, err := decoder().DecodeAll(*buf, make([]byte, 0, want))
	if err != nil {
		return nil, digest.ErrMismatch
	}
	return b, nil
}

// notShort turns the end of a file that came too early into a mismatch: files
// are never changed in place, but disks fail.
func notShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return digest.ErrMismatch
	}
	return err
}

func isCompressed(path string) bool {
	return len(path) > len(suffix) && path[len(path)-len(suffix):] == suffix
}

// HasBlob tells whether a file of the blob is there, which counts as its use. That
// the file holds what it should is only known once it was read: where Blob finds
// it damaged, HasBlob no longer finds it.
func (c *Disk) HasBlob(d digest.Digest) bool {
	path := c.blobPath(d)
	for _, p := range [2]string{path + suffix, path} {
		// A crash of the machine leaves files empty or short; where that can be
		// seen, it is mended by the next PutBlob. Otherwise a reader sees it.
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && (fi.Size() == d.Size() || isCompressed(p) && fi.Size() > 0) {
			touch(p, fi)
			return true
		}
	}
	return false
}

// block is what a file takes on most disks, however short it is: to compress what
// fits saves nothing. (Frames of less than 256 bytes do not say their size
// either, without which none is read.)
const block = 4096

// PutBlob stores b and returns its digest; if the cache has it already, nothing
// is written. Errors are ErrTooLarge, ErrFull, ErrReadOnly and the file
// system's.
func (c *Disk) PutBlob(b []byte) (digest.Digest, error) {
	if len(b) > MaxBlob {
		return digest.Digest{}, fmt.Errorf("blob of %d bytes: %w", len(b), ErrTooLarge)
	}
	d := digest.Of(b)
	if c.HasBlob(d) {
		return d, nil
	}
	data, path := b, c.blobPath(d)
	if len(b) > block && !c.reflinks() {
		buf := buffers.Get().(*[]byte)
		defer buffers.Put(buf)
		*buf = encoder().EncodeAll(b, (*buf)[:0])
		// Below that, decompression costs more than it saves.
		if len(*buf) < len(b)/100*95 {
			data, path = *buf, path+suffix
		}
	}
	if err := c.write(path, data); err != nil {
		return digest.Digest{}, fmt.Errorf("storing a blob: %w", err)
	}
	c.account(int64(len(data)), 0)
	return d, nil
}

// CloneBlob makes dst, an empty file open for writing, share the blocks of the
// blob that d names. It reports false, and leaves dst empty, where that cannot
// be: the blob is stored compressed or not at all, or dst lies on another file
// system or one that shares no blocks. The caller then uses Blob. An error
// means that dst may have been written to.
//
// What is cloned was checked as by Blob, if need be earlier: a file that this
// Disk has checked before is not read again while its stamp is the same.
func (c *Disk) CloneBlob(d digest.Digest, dst *os.File) (bool, error) {
	if d.Size() > MaxBlob || !c.reflinks() {
		return false, nil
	}
	path := c.blobPath(d)
	src, s, err := c.open(path, d.Size())
	if err != nil {
		return false, nil
	}
	defer src.Close()
	if !c.verified.has(d, s) {
		if _, err := io.Copy(io.Discard, digest.NewVerifier(src, d)); err != nil {
			if errors.Is(err, digest.ErrMismatch) {
				c.discard(path, s)
			}
			return false, nil
		}
		c.verified.add(d, s)
	}
	if err := clone(dst, src); err != nil {
		if notClonable(err) {
			return false, nil
		}
		return false, classify(err)
	}
	// Written to since it was checked? Nothing of hpcc does that.
	if fi, err := src.Stat(); err != nil || stampOf(fi) != s {
		return false, dst.Truncate(0)
	}
	return true, nil
}

// verified remembers which files were found to hold what their name says.
type verified struct {
	mu     sync.Mutex
	stamps map[digest.Digest]Stamp
}

// maxVerified bounds the memory to some 8 MB; beyond it everything is forgotten
// and checked once more.
const maxVerified = 1 << 16

// settled is how old a file's last change must be for its stamp to vouch for
// it: coarse clocks give two changes within a tick (10 ms at most) one time.
const settled = 100 * time.Millisecond

func (v *verified) has(d digest.Digest, s Stamp) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	known, ok := v.stamps[d]
	return ok && known == s
}

func (v *verified) add(d digest.Digest, s Stamp) {
	if time.Since(time.Unix(0, s.ctime)) < settled {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stamps == nil || len(v.stamps) >= maxVerified {
		v.stamps = map[digest.Digest]Stamp{}
	}
	v.stamps[d] = s
}

// canClone reports whether files of a directory can share blocks, by trying.
func canClone(dir string) bool {
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(dir, "probe-")
		if err != nil {
			return false
		}
		defer os.Remove(f.Name())
		defer f.Close()
		files[i] = f
	}
	if _, err := files[0].Write(make([]byte, 4096)); err != nil {
		return false
	}
	return clone(files[1], files[0]) == nil
}

// Encoder and decoder are made when first needed, which a one-shot compile that
// only clones never does. Both may be used concurrently; blobs are checked by
// their SHA-256, so that zstd's own checksum is left out.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
			zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
		if err != nil {
			panic("cache: zstd encoder: " + err.Error()) // only for wrong options
		}
		return e
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxBlob),
			zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			panic("cache: zstd decoder: " + err.Error()) // only for wrong options
		}
		return d
	})
)

// buffers holds []byte for compressed blobs.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// grow returns a slice of n bytes, b's memory if it is large enough.
func grow(b []byte, n int) []byte {
	if cap(b) >= n {
		return b[:n]
	}
	return make([]byte, n)
}
