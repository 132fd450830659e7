// Package wirezip compresses gRPC messages between clients and workers by zstd.
// A client asks for it with grpc.UseCompressor(wirezip.Name); a server that
// imports this package understands it, and answers such a call in kind. It is
// not for the talk with a guest, which crosses no wire. Diff and Apply say what a
// file holds to somebody who has an earlier one.
//
// What is received may be hostile: a decoder holds little more than MaxWindow,
// and how much it may yield is for grpc.MaxCallRecvMsgSize and
// grpc.MaxRecvMsgSize to say, which count what is decompressed.
package wirezip

import (
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc/encoding"
)

// Name is what the compression is called in grpc-encoding. Nobody but hpcc has
// to understand it, so that the window below is part of it.
const Name = "zstd"

// MaxWindow is how far back a message may refer, in bytes. It is more than any
// chunk, so that only descriptions of large jobs are longer; a message of another
// window is refused.
const MaxWindow = 1 << 20

func init() { encoding.RegisterCompressor(compressor{}) }

type compressor struct{}

func (compressor) Name() string { return Name }

// Compress returns a writer that is free for the next message once it is closed.
func (compressor) Compress(w io.Writer) (io.WriteCloser, error) {
	e := encoders.Get().(*zstd.Encoder)
	e.Reset(w)
	return writer{e}, nil
}

type writer struct{ *zstd.Encoder }

func (w writer) Close() error {
	err := w.Encoder.Close()
	w.Reset(nil) // holds on to no message
	encoders.Put(w.Encoder)
	return err
}

// Decompress returns a reader that gRPC closes.
func (compressor) Decompress(r io.Reader) (io.Reader, error) {
	d := decoders.Get().(*zstd.Decoder)
	// The interface hides what r is: of some readers the decoder would take the
	// whole at once, and yield more than is asked for.
	if err := d.Reset(struct{ io.Reader }{r}); err != nil {
		d.Close()
		return nil, err
	}
	return reader{d}, nil
}

type reader struct{ *zstd.Decoder }

func (r reader) Close() error {
	_ = r.Reset(nil) // says that there is nothing to read, which is so
	decoders.Put(r.Decoder)
	return nil
}

// Coders of concurrency 1 have no goroutines, so that a pool may drop them. TLS
// finds damaged bytes, and digests find exchanged ones: zstd's own checksum is
// left out.
var (
	encoders = sync.Pool{New: func() any {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(MaxWindow), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic("wirezip: zstd encoder: " + err.Error()) // only for wrong options
		}
		return e
	}}
	decoders = sync.Pool{New: func() any {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(MaxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			panic("wirezip: zstd decoder: " + err.Error()) // only for wrong options
		}
		return d
	}}
)
