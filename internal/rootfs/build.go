package rootfs

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"

	"hpcc.dev/hpcc/internal/rootfs/ext4"
)

// Progress says how far a build is.
type Progress struct {
	// Stage is "pull" (Bytes of the compressed layers), "write" (Bytes of the
	// files' content) or "verity" (all of the file system, said once).
	Stage string
	// Layer counts from 1, of Layers.
	Layer, Layers int
	Bytes, Total  int64
}

// write builds the image of a manifest in out, an empty file, with its files'
// contents spooled in sp, another, and the index of the files at the path index.
func write(ctx context.Context, src Source, r *resolved, p Platform, lim Limits, out, sp *os.File, index string, progress func(Progress)) (Image, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	config, err := readConfig(ctx, src, r, p)
	if err != nil {
		return Image{}, err
	}
	now := Progress{Stage: "pull", Layers: len(r.layers)}
	for _, l := range r.layers {
		now.Total += l.Size
	}
	t := newTree(newSpool(sp), lim)
	for i, l := range r.layers {
		now.Layer = i + 1
		if err := t.pull(ctx, src, l, config.RootFS.DiffIDs[i], func(n int64) {
			now.Bytes += n
			progress(now)
		}); err != nil {
			return Image{}, err
		}
	}
	total, err := t.finish()
	if err != nil {
		return Image{}, err
	}
	size, err := writeFileSystem(ctx, t, out, func(n int64) {
		progress(Progress{Stage: "write", Layers: len(r.layers), Bytes: n, Total: total})
	})
	if err != nil {
		return Image{}, err
	}
	progress(Progress{Stage: "verity", Layers: len(r.layers), Bytes: size, Total: size})
	v, whole, err := ext4.AppendVerity(ctx, out, size, sha256.Sum256([]byte(r.digest)))
	if err != nil {
		return Image{}, err
	}
	files, err := t.writeFiles(index)
	if err != nil {
		return Image{}, err
	}
	return Image{
		Digest: r.digest, Size: whole, DataBlocks: v.DataBlocks, RootHash: v.RootHash, Salt: v.Salt,
		Platform: p.String(), Env: config.Config.Env, Layers: len(r.layers), Content: total, Files: files.String(),
	}, nil
}

func (t *tree) pull(ctx context.Context, src Source, l Descriptor, diffID string, progress func(int64)) error {
	body, err := src.Blob(ctx, l)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	return t.applyLayer(ctx, countingReader{body, progress}, l, diffID)
}

// countingReader is read by a goroutine of readAhead's: progress is called by
// that one, and by none when applyLayer has returned.
type countingReader struct {
	r     io.Reader
	count func(int64)
}

func (c countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.count(int64(n))
	return n, err
}

// writeFileSystem writes the tree as ext4: the archive goes through a pipe, so
// that it is never anywhere as a whole.
func writeFileSystem(ctx context.Context, t *tree, out *os.File, progress func(int64)) (int64, error) {
	pr, pw := io.Pipe()
	emitted := make(chan error, 1)
	go func() {
		w := bufio.NewWriterSize(pw, 512<<10)
		err := t.emit(ctx, w, progress)
		if err == nil {
			err = w.Flush()
		}
		_ = pw.CloseWithError(err) // never fails
		emitted <- err
	}()
	size, err := ext4.Write(out, pr)
	if err == nil {
		// What follows the archive's end, or the writer would wait for ever.
		_, err = io.Copy(io.Discard, pr)
	}
	_ = pr.CloseWithError(errStopped)
	if e := <-emitted; e != nil && !errors.Is(e, errStopped) {
		return 0, e
	}
	return size, err
}

// errStopped tells the emitter that nobody reads on.
var errStopped = errors.New("the file system's writer has given up")
