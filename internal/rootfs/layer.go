package rootfs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// verified reads exactly the bytes that d names from r, and ends with a Refusal
// instead of io.EOF if they are others.
func verified(r io.Reader, d Descriptor) io.Reader {
	return &verifier{r: io.LimitReader(hostReader{r}, d.Size+1), h: sha256.New(), size: d.Size, want: d.Digest}
}

type verifier struct {
	r    io.Reader
	h    hash.Hash
	n    int64
	size int64 // -1: unknown, and only the digest counts
	want string
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	v.n += int64(n)
	if v.size >= 0 && v.n > v.size {
		return 0, refuse(WrongDigest, "more than the %d bytes of %s", v.size, v.want)
	}
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		if v.size >= 0 && v.n < v.size {
			return n, refuse(Truncated, "%d bytes of the %d of %s", v.n, v.size, v.want)
		}
		if err != io.EOF {
			return n, err
		}
		if got := "sha256:" + hex.EncodeToString(v.h.Sum(nil)); got != v.want {
			return n, refuse(WrongDigest, "content is %s, not %s", got, v.want)
		}
	}
	return n, err
}

// budget is what is left of Limits.Bytes for the layers that follow.
type budget struct{ left, limit int64 }

func (b *budget) take(n int64) error {
	if n > b.left {
		return refuse(TooManyBytes, "layers of more than %d bytes, unpacked", b.limit)
	}
	b.left -= n
	return nil
}

type budgetReader struct {
	r io.Reader
	b *budget
}

func (b budgetReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if e := b.b.take(int64(n)); e != nil {
		return 0, e
	}
	return n, err
}

// maxZstdWindow is the memory that a zstd layer may ask for. The format
// recommends that readers take 8 MiB; --long takes 128.
const maxZstdWindow = 128 << 20

// decompress reads a stream that is compressed by gzip, zstd or not at all.
func decompress(r io.Reader) (io.Reader, func(), error) {
	br := bufio.NewReaderSize(r, 256<<10)
	head, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // it has begun
		}
		if err != nil {
			return nil, nil, damaged(err)
		}
		return damageReader{z}, func() { _ = z.Close() }, nil
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow),
			zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, damaged(err)
		}
		return damageReader{z}, z.Close, nil
	}
	return br, func() {}, nil
}

// damageReader names the errors of a decompressor.
type damageReader struct{ r io.Reader }

func (d damageReader) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err == io.EOF {
		return n, err
	}
	return n, damaged(err)
}

// damaged words an error of reading a compressed stream or an archive. Refusals,
// and what failed on this side of the layer, stay what they are.
func damaged(err error) error {
	var r *Refusal
	var h hostError
	switch {
	case err == nil || errors.As(err, &r) || errors.As(err, &h) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return refuse(Truncated, "ends in the middle")
	}
	return refuse(BadArchive, "%v", err)
}

// hostError is no fault of the layer: the network's or the disk's. It tells such
// from the many that decompressors and archive readers have of their own.
type hostError struct{ error }

func (h hostError) Unwrap() error { return h.error }

// hostReader and hostWriter make the errors of what they wrap hostErrors. An end
// in the middle is the layer's own.
type hostReader struct{ io.Reader }

func (h hostReader) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
		err = hostError{err}
	}
	return n, err
}

type hostWriter struct{ io.Writer }

func (h hostWriter) Write(p []byte) (int, error) {
	n, err := h.Writer.Write(p)
	if err != nil {
		err = hostError{err}
	}
	return n, err
}

// applyLayer reads one layer, checks both its digests, and applies it. compressed
// is the raw blob. The tree is of no use after an error.
func (t *tree) applyLayer(ctx context.Context, compressed io.Reader, d Descriptor, diffID string) error {
	err := t.readLayer(ctx, compressed, d, diffID)
	var r *Refusal
	if errors.As(err, &r) && r.Layer == 0 {
		r.Layer = t.layer
	}
	return err
}

func (t *tree) readLayer(ctx context.Context, compressed io.Reader, d Descriptor, diffID string) error {
	t.layer++
	// Network and first digest, decompressor, and the rest each on their own
	// processor: they take about the same time.
	blob := readAhead(verified(compressed, d))
	defer blob.Close()
	plain, done, err := decompress(blob)
	if err != nil {
		return damaged(err)
	}
	defer done()
	unpacked := readAhead(budgetReader{plain, &t.unpacked})
	defer unpacked.Close() // before done: the decompressor must be at rest
	content := &verifier{r: unpacked, h: sha256.New(), size: -1, want: diffID}

	if err := t.applyTar(ctx, content); err != nil {
		// A blob that was exchanged usually is no archive either; the digest is
		// the better reason.
		if r := (*Refusal)(nil); errors.As(err, &r) && (r.Reason == BadArchive || r.Reason == Truncated) {
			unpacked.Close() // it reads the blob as well
			if e := drain(ctx, blob); errors.As(e, &r) {
				return r
			}
		}
		return err
	}
	// Digests are only checked at the end, which lies behind the archive's.
	if err := drain(ctx, content); err != nil {
		return damaged(err)
	}
	// What follows the compressed stream belongs to the blob as well.
	return drain(ctx, blob)
}

func drain(ctx context.Context, r io.Reader) error {
	buf := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := r.Read(buf); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// applyTar applies the entries of an archive.
func (t *tree) applyTar(ctx context.Context, r io.Reader) error {
	// The reader takes headers of 512 bytes each from r.
	tr := tar.NewReader(bufio.NewReaderSize(r, 256<<10))
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return damaged(err)
		}
		if err := t.apply(h, tr); err != nil {
			err = damaged(err)
			var r *Refusal
			if errors.As(err, &r) && r.Path == "" {
				r.Path = h.Name
			}
			return err
		}
	}
}

// readAhead reads r in a goroutine of its own, up to four chunks ahead.
func readAhead(r io.Reader) *aheadReader {
	const chunks, size = 4, 512 << 10
	a := &aheadReader{full: make(chan chunk, chunks), empty: make(chan []byte, chunks), stop: make(chan struct{}), idle: make(chan struct{})}
	for range chunks {
		a.empty <- nil // made when it is needed: most layers are small
	}
	go func() {
		defer close(a.idle)
		for {
			var buf []byte
			select {
			case buf = <-a.empty:
			case <-a.stop:
				return
			}
			if buf == nil {
				buf = make([]byte, size)
			}
			var n int
			var err error
			for n < len(buf) && err == nil {
				var m int
				m, err = r.Read(buf[n:])
				n += m
			}
			select {
			case a.full <- chunk{buf, n, err}:
			case <-a.stop:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return a
}

type chunk struct {
	buf []byte
	n   int
	err error
}

type aheadReader struct {
	full  chan chunk
	empty chan []byte
	stop  chan struct{}
	idle  chan struct{}
	once  sync.Once
	now   chunk
	pos   int
}

func (a *aheadReader) Read(p []byte) (int, error) {
	for a.pos == a.now.n {
		if a.now.err != nil {
			return 0, a.now.err
		}
		if a.now.buf != nil {
			a.empty <- a.now.buf
		}
		a.now, a.pos = <-a.full, 0
	}
	n := copy(p, a.now.buf[a.pos:a.now.n])
	a.pos += n
	return n, nil
}

// Close ends the goroutine; twice is as good as once. It waits for a read that is under way: the source
// must end that one when its context ends.
func (a *aheadReader) Close() {
	a.once.Do(func() { close(a.stop) })
	<-a.idle
}
