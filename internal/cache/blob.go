package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
)

// Encoders and decoders hold megabytes of tables: each process makes one and
// shares it. Both are for whole buffers only, which they take concurrently.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		// The fastest level: objects shrink three- to fivefold with it, and
		// the next one doubles the time for a tenth.
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2))
		if err != nil {
			panic(err) // the options are constants
		}
		return e
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(maxBlob))
		if err != nil {
			panic(err)
		}
		return d
	})
)

func compress(b []byte) []byte { return encoder().EncodeAll(b, make([]byte, 0, len(b)/3+64)) }

// maxRecord bounds an entry or a manifest, unpacked.
const maxRecord = 64 << 20

// readRecord reads an entry or a manifest.
func (c *Disk) readRecord(path string) ([]byte, error) {
	packed, err := os.ReadFile(path)
	if err != nil {
		return nil, notFound(err)
	}
	b, err := unpack(packed, maxRecord)
	if err != nil {
		c.discard(path)
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return b, nil
}

// unpack decodes one frame that says itself how large it is, and checks that
// before anything is allocated.
func unpack(packed []byte, limit uint64) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(packed); err != nil {
		return nil, err
	}
	if !h.HasFCS || h.FrameContentSize > limit {
		return nil, errors.New("the frame's size is missing or too large")
	}
	return decoder().DecodeAll(packed, make([]byte, 0, h.FrameContentSize))
}

func (c *Disk) blobPath(d digest.Digest) (raw, packed string) {
	raw = c.path("cas", d.Hex(), "-"+strconv.FormatInt(d.Size(), 10))
	return raw, raw + ".zst"
}

// Blob returns the bytes that d names, verified.
func (c *Disk) Blob(d digest.Digest) ([]byte, error) {
	if d.Size() > maxBlob {
		return nil, fmt.Errorf("%w: %d bytes are more than a blob may have", ErrNotFound, d.Size())
	}
	raw, packed := c.blobPath(d)
	first, second := packed, raw
	if c.reflink {
		first, second = raw, packed
	}
	b, err := c.readBlob(first, d)
	if errors.Is(err, ErrNotFound) {
		b, err = c.readBlob(second, d)
	}
	return b, err
}

func (c *Disk) readBlob(path string, d digest.Digest) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, notFound(err)
	}
	if strings.HasSuffix(path, ".zst") {
		b, err = unpack(b, uint64(d.Size()))
	}
	if err != nil || digest.Of(b) != d {
		c.discard(path)
		return nil, fmt.Errorf("%w: blob %s was damaged", ErrNotFound, d.Hex()[:16])
	}
	return b, nil
}

// PutBlob stores bytes under their digest; it does nothing where they are.
func (c *Disk) PutBlob(b []byte) (digest.Digest, error) {
	d := digest.Of(b)
	if d.Size() > maxBlob {
		return d, fmt.Errorf("%d bytes are more than a blob may have", d.Size())
	}
	raw, packed := c.blobPath(d)
	for _, p := range []string{raw, packed} {
		if _, err := os.Stat(p); err == nil {
			// What lies there may be damaged: then this is the moment to mend.
			if _, err := c.readBlob(p, d); err == nil {
				return d, nil
			}
		}
	}
	if c.reflink {
		return d, c.put(raw, b)
	}
	// Compressing must pay for the time it takes when read back.
	if z := compress(b); len(z) < len(b)-len(b)/20 {
		return d, c.put(packed, z)
	}
	return d, c.put(raw, b)
}

// CloneBlob makes dst, an empty file, share the blocks of a stored blob. It
// reports false, and dst is untouched, where the blob is not stored raw or
// the file systems cannot share.
func (c *Disk) CloneBlob(d digest.Digest, dst *os.File) (bool, error) {
	if !c.reflink || d.Size() == 0 {
		return false, nil
	}
	raw, _ := c.blobPath(d)
	src, err := os.Open(raw)
	if err != nil {
		return false, nil
	}
	defer src.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &st); err != nil {
		return false, nil
	}
	if known, ok := c.verified.Load(raw); !ok || known != stampOf(&st) {
		if _, err := c.readBlob(raw, d); err != nil {
			return false, nil
		}
		c.verified.Store(raw, stampOf(&st))
	}
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil, nil
}

// canReflink tries whether the cache's file system can share blocks.
func (c *Disk) canReflink() bool {
	a, err := os.CreateTemp(c.TempDir(), "reflink-")
	if err != nil {
		return false
	}
	defer os.Remove(a.Name())
	defer a.Close()
	b, err := os.CreateTemp(c.TempDir(), "reflink-")
	if err != nil {
		return false
	}
	defer os.Remove(b.Name())
	defer b.Close()
	if _, err := a.Write(make([]byte, 4096)); err != nil {
		return false
	}
	return unix.IoctlFileClone(int(b.Fd()), int(a.Fd())) == nil
}

// touchAfter is how old a file's mark of use may grow: marks cost a system
// call each, and eviction by the hour is exact enough.
const touchAfter = 3600

// Touch marks what a hit used as used now.
func (c *Disk) Touch(key digest.Key, e *action.Entry) {
	touch(c.path("ac", key.String(), ""))
	for _, o := range e.Result.Outputs {
		raw, packed := c.blobPath(o.Digest)
		touch(raw)
		touch(packed)
	}
}

// TouchManifest marks a manifest as used now.
func (c *Disk) TouchManifest(key digest.Key) { touch(c.path("manifest", key.String(), "")) }

func touch(path string) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return
	}
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now) == nil && now.Sec-st.Mtim.Sec > touchAfter {
		_ = unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{now, now}, 0)
	}
}

// walk calls f for every file of an area that has a place in the cache.
func (c *Disk) walk(area string, f func(path string, info fs.FileInfo)) error {
	return filepath.WalkDir(filepath.Join(c.dir, area), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed under way
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		f(path, info)
		return nil
	})
}
