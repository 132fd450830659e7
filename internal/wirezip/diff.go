package wirezip

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"

	"github.com/klauspost/compress/zstd"
)

// Diff says what content is to somebody who has base: one zstd frame, with base as
// its dictionary. Apply was seen to undo it; nil is what could not be undone. Neither
// may be empty, and together they may have 256 MiB. Some ten kilobytes take a
// fraction of a millisecond and a megabyte of memory, three megabytes some 30 ms and
// 20 MB.
func Diff(base, content []byte) []byte {
	// Tables that are too small for a base forget most of it, and large ones take
	// longer to make than all else.
	level := zstd.SpeedBetterCompression
	switch {
	case len(base) <= smallDiff:
		level = zstd.SpeedFastest
	case len(base) <= mediumDiff:
		level = zstd.SpeedDefault
	}
	// The window has room for both, or the base would be out of reach before the
	// end. A frame of a single segment has its size in its header.
	window := max(zstd.MinWindowSize, 1<<bits.Len(uint(len(base)+len(content))))
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
		zstd.WithWindowSize(window), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false), zstd.WithEncoderDictRaw(0, base))
	if err != nil {
		panic("wirezip: zstd encoder: " + err.Error()) // only for wrong options
	}
	diff := e.EncodeAll(content, nil)
	if back, err := Apply(base, diff, len(content)); err != nil || !bytes.Equal(back, content) {
		return nil
	}
	return diff
}

// smallDiff and mediumDiff are up to what size of a base the tables of zstd's levels
// serve.
const (
	smallDiff  = 64 << 10
	mediumDiff = 1 << 20
)

var errDiff = errors.New("not one zstd frame of the size that is expected")

// Apply returns the content of size bytes that diff says to somebody who has base:
// no other size, and from a single frame without anything behind it. Diff may be
// hostile; base and size are for the caller to bound.
func Apply(base, diff []byte, size int) ([]byte, error) {
	if err := checkFrame(diff, size); err != nil {
		return nil, err
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(uint64(max(size, zstd.MinWindowSize))), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderDictRaw(0, base))
	if err != nil {
		panic("wirezip: zstd decoder: " + err.Error()) // only for wrong options
	}
	defer d.Close()
	content, err := d.DecodeAll(diff, make([]byte, 0, size))
	switch {
	case err != nil:
		return nil, err
	case len(content) != size:
		return nil, errDiff
	}
	return content, nil
}

// checkFrame tells whether b is one frame that says its size, as Diff makes it: a
// decoder would go on with what follows the first, and pass over some of it.
func checkFrame(b []byte, size int) error {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return fmt.Errorf("%w: %w", errDiff, err)
	}
	if h.Skippable || !h.SingleSegment || h.HasCheckSum || h.DictionaryID != 0 || h.FrameContentSize != uint64(size) || h.HeaderSize > len(b) {
		return errDiff
	}
	rest := bytes.NewBuffer(b[h.HeaderSize:])
	for last := false; !last; {
		// RFC 8878, 3.1.1.2: a block of type 1 is one byte that is repeated.
		head := rest.Next(3)
		if len(head) < 3 {
			return errDiff
		}
		n := int(head[0])>>3 | int(head[1])<<5 | int(head[2])<<13
		if head[0]>>1&3 == 1 {
			n = 1
		}
		if len(rest.Next(n)) < n {
			return errDiff
		}
		last = head[0]&1 != 0
	}
	if rest.Len() > 0 {
		return errDiff
	}
	return nil
}
