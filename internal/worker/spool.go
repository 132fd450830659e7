package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/digest"
)

const (
	// smallBytes is up to what size bytes stay in memory while somebody else
	// decides how fast they come or go. Sources, and most objects, are smaller.
	smallBytes = 1 << 20
	// budgetBytes bounds what is read as a whole, for local work alone, by all
	// streams together. One blob may be all of it, and more.
	budgetBytes = 256 << 20
	// spoolBytes bounds the files of all streams together.
	spoolBytes = 16 << 30
)

// errSpoolFull says that all streams together hold too much that is not whole.
var errSpoolFull = errors.New("too many large blobs and outputs are under way at once")

// memory is what all streams of a service share.
type memory struct {
	budget  *semaphore.Weighted
	spooled atomic.Int64
}

func newMemory() *memory { return &memory{budget: semaphore.NewWeighted(budgetBytes)} }

// reserve waits until n bytes may be held in memory. Who holds them waits for
// nobody but the disk, so that this wait is short.
func (m *memory) reserve(ctx context.Context, n int64) (release func(), err error) {
	if n <= smallBytes {
		return func() {}, nil
	}
	n = min(n, budgetBytes)
	if err := m.budget.Acquire(ctx, n); err != nil {
		return nil, err
	}
	return func() { m.budget.Release(n) }, nil
}

// spool takes bytes that come at somebody else's pace: in memory while they are
// few, then in a file that has no name, so that a killed worker leaves none.
type spool struct {
	memory *memory
	dir    string
	// few is how many bytes may be in memory; several spools may share one.
	few  *int64
	mem  []byte
	file *os.File
	size int64
}

func (m *memory) spool(dir string, few *int64) *spool {
	return &spool{memory: m, dir: dir, few: few}
}

func (s *spool) Write(p []byte) (int, error) {
	if s.file == nil && int64(len(p)) <= *s.few {
		*s.few -= int64(len(p))
		s.size += int64(len(p))
		s.mem = append(s.mem, p...)
		return len(p), nil
	}
	if s.file == nil {
		if err := s.spill(); err != nil {
			return 0, err
		}
	}
	if s.memory.spooled.Add(int64(len(p))) > spoolBytes {
		s.memory.spooled.Add(-int64(len(p)))
		return 0, errSpoolFull
	}
	s.size += int64(len(p))
	return s.file.Write(p)
}

// spill moves what is in memory to a file.
func (s *spool) spill() error {
	f, err := os.CreateTemp(s.dir, "spool-")
	if err != nil {
		return err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return err
	}
	s.memory.spooled.Add(s.size)
	s.file = f
	_, err = f.Write(s.mem)
	*s.few += int64(len(s.mem))
	s.mem = nil
	return err
}

// reader reads all of it.
func (s *spool) reader() io.Reader {
	if s.file == nil {
		return bytes.NewReader(s.mem)
	}
	return io.NewSectionReader(s.file, 0, s.size)
}

// bytes is all of it; what is in a file needs its size of the budget.
func (s *spool) bytes(ctx context.Context) (b []byte, release func(), err error) {
	if s.file == nil {
		return s.mem, func() {}, nil
	}
	if release, err = s.memory.reserve(ctx, s.size); err != nil {
		return nil, nil, err
	}
	b = make([]byte, s.size)
	if _, err := io.ReadFull(s.reader(), b); err != nil {
		release()
		return nil, nil, fmt.Errorf("reading back %d bytes: %w", s.size, err)
	}
	return b, release, nil
}

// close gives back what it holds. It may be called twice.
func (s *spool) close() {
	if s.file != nil {
		s.memory.spooled.Add(-s.size)
		s.file.Close()
	} else {
		*s.few += int64(len(s.mem))
	}
	s.file, s.mem, s.size = nil, nil, 0
}

// blobSource opens a store's blobs for a machine, or for an answer.
type blobSource struct {
	memory *memory
	store  *cache.Disk
}

// Open implements agentapi.Blobs. Reading what it returned needs no budget: a
// machine takes its time.
func (b blobSource) Open(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	s, err := b.open(ctx, d)
	if err != nil {
		return nil, err
	}
	return opened{s.reader(), s}, nil
}

// open returns a blob, which was verified.
func (b blobSource) open(ctx context.Context, d digest.Digest) (*spool, error) {
	release, err := b.memory.reserve(ctx, d.Size())
	if err != nil {
		return nil, err
	}
	defer release()
	data, err := b.store.Blob(d)
	if err != nil {
		return nil, err
	}
	few := int64(smallBytes)
	s := b.memory.spool(b.store.TempDir(), &few)
	if len(data) <= smallBytes {
		few -= int64(len(data))
		s.mem, s.size = data, int64(len(data))
		return s, nil
	}
	if _, err := s.Write(data); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

type opened struct {
	io.Reader
	spool *spool
}

func (o opened) Close() error {
	o.spool.close()
	return nil
}
