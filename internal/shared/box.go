package shared

import (
	"encoding/binary"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// A part is some bytes, compressed where that helps:
//
//	method, 1 | length of the bytes, uvarint | length of what follows, uvarint | the bytes, or a frame of zstd that holds them
//
// A box, which is the object of a manifest or a blob, is "hpcc", four bytes that
// say of what, and one part.
const (
	methodRaw  = 0
	methodZstd = 1
)

var (
	boxManifest = digest.Tag{'m', 'a', 'n', '1'}
	boxBlob     = digest.Tag{'b', 'l', 'b', '1'}
)

const magic = "hpcc"

// partOverhead bounds how much longer a part is than the bytes in it.
const partOverhead = 1 + 2*binary.MaxVarintLen64

// boxOverhead is the same of a box.
const boxOverhead = len(magic) + 4 + partOverhead

// worthwhile is the least that is compressed: a frame of zstd has a header of up
// to 14 bytes, and one of less than 256 bytes does not say its size, without
// which none is read.
const worthwhile = 512

// appendPart appends b as a part to dst.
func appendPart(dst, b []byte) []byte {
	if len(b) >= worthwhile {
		buf := buffers.Get().(*[]byte)
		defer buffers.Put(buf)
		*buf = encoder().EncodeAll(b, (*buf)[:0])
		// Below that, decompression costs more than it saves.
		if len(*buf) < len(b)/100*95 {
			return appendFrame(dst, methodZstd, len(b), *buf)
		}
	}
	return appendFrame(dst, methodRaw, len(b), b)
}

func appendFrame(dst []byte, method byte, raw int, data []byte) []byte {
	dst = append(dst, method)
	dst = binary.AppendUvarint(dst, uint64(raw))
	dst = binary.AppendUvarint(dst, uint64(len(data)))
	return append(dst, data...)
}

// cutPart returns the bytes of the part that b begins with, at most limit of
// them, and what follows it. The bytes may share b's memory. It allocates no more
// than a frame that is there claims to hold.
func cutPart(b []byte, limit int64) (raw, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, reject(ReasonDamaged, "cut short")
	}
	method := b[0]
	size, b, ok := cutUvarint(b[1:])
	if !ok || size > uint64(limit) {
		return nil, nil, reject(ReasonDamaged, "a part of %d bytes where %d are the most", size, limit)
	}
	n, b, ok := cutUvarint(b)
	if !ok || n > uint64(len(b)) {
		return nil, nil, reject(ReasonDamaged, "cut short")
	}
	data, rest := b[:n], b[n:]
	switch method {
	case methodRaw:
		if n != size {
			return nil, nil, reject(ReasonDamaged, "%d bytes that call themselves %d", n, size)
		}
		return data, rest, nil
	case methodZstd:
		var h zstd.Header
		if err := h.Decode(data); err != nil || !h.HasFCS || h.FrameContentSize != size {
			return nil, nil, reject(ReasonDamaged, "not a frame of %d bytes", size)
		}
		// More frames may follow: the decoder stops at the slice's capacity.
		raw, err := decoder().DecodeAll(data, make([]byte, 0, size))
		if err != nil || uint64(len(raw)) != size {
			return nil, nil, reject(ReasonDamaged, "it does not decompress to %d bytes", size)
		}
		return raw, rest, nil
	}
	return nil, nil, reject(ReasonDamaged, "compressed by method %d", method)
}

func cutUvarint(b []byte) (uint64, []byte, bool) {
	v, w := binary.Uvarint(b)
	if w <= 0 {
		return 0, nil, false
	}
	return v, b[w:], true
}

// box makes the object that holds b.
func box(tag digest.Tag, b []byte) []byte {
	dst := append(make([]byte, 0, min(len(b), 1<<20)+boxOverhead), magic...)
	return appendPart(append(dst, tag[:]...), b)
}

// unbox returns the bytes in an object, at most limit of them.
func unbox(tag digest.Tag, b []byte, limit int64) ([]byte, error) {
	if len(b) < 8 || string(b[:4]) != magic || digest.Tag(b[4:8]) != tag {
		return nil, reject(ReasonDamaged, "no header")
	}
	raw, rest, err := cutPart(b[8:], limit)
	if err == nil && len(rest) > 0 {
		err = reject(ReasonDamaged, "%d bytes too many", len(rest))
	}
	if err != nil {
		return nil, err
	}
	return raw, nil
}

// unboxBlob returns the bytes of d from its object.
func unboxBlob(d digest.Digest, b []byte) ([]byte, error) {
	raw, err := unbox(boxBlob, b, d.Size())
	if err != nil {
		return nil, err
	}
	if digest.Of(raw) != d {
		return nil, reject(ReasonTampered, "not the bytes of %s", d.Hex())
	}
	return raw, nil
}

// Both may be used concurrently. What they handle is covered by a signature or a
// SHA-256, so that zstd's own checksum is left out.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
			zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
		if err != nil {
			panic("shared: zstd encoder: " + err.Error()) // only for wrong options
		}
		return e
	})
	decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(store.MaxObject),
			zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			panic("shared: zstd decoder: " + err.Error()) // only for wrong options
		}
		return d
	})
)

// buffers holds []byte for what is being compressed.
var buffers = sync.Pool{New: func() any { return new([]byte) }}
