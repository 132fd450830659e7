package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/digest"
)

// errIrregular marks an input that is neither a plain file nor the null device:
// reading it twice need not give the same bytes.
var errIrregular = errors.New("not a regular file")

// maxInput bounds one input. A compiler that reads more than this has other
// troubles than a cold cache.
const maxInput = 1 << 30

// stamp is what stat says of a file's identity and content. Two equal stamps
// of one path mean equal content once proves says so.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64 // nanoseconds
	mode         uint32
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{
		dev: st.Dev, ino: st.Ino, size: st.Size,
		mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(), mode: st.Mode,
	}
}

func (s stamp) isRegular() bool { return s.mode&unix.S_IFMT == unix.S_IFREG }

// file remembers one path: its last stamp, and the digest of what it held.
// The zero stamp is never trusted.
type file struct {
	path string
	mu   sync.Mutex
	last stamp
	sum  digest.Digest
	// trusted is false while last proves nothing (clock.go), or the file lies
	// on a file system whose times cannot be relied on: then the content is
	// read again each time.
	trusted bool
}

// fileTable remembers digests of files by their stamps, so that a hit costs
// one stat for each input. Safe for concurrent use.
type fileTable struct {
	mu    sync.RWMutex
	files map[string]*file
	// timing tells for each device what stamps its files.
	timing sync.Map // uint64 -> timing
	// now is the file systems' clock, exact the same where it can be read to the
	// nanosecond, else nil, fine the time of day, and stamp what file systems
	// say of a file; tests put others here.
	now   func() int64
	exact func() int64
	fine  func() int64
	stamp func(*unix.Stat_t) stamp
}

// maxFiles bounds the table. Past it everything is forgotten at once: a
// rebuilt table costs one read of each file, and no bookkeeping on the way.
const maxFiles = 1 << 20

func newFileTable() *fileTable {
	return &fileTable{files: map[string]*file{}, now: coarseNow, exact: exactNow(), fine: fineNow, stamp: stampOf}
}

// at returns the record of an absolute path.
func (t *fileTable) at(path string) *file {
	t.mu.RLock()
	f := t.files[path]
	t.mu.RUnlock()
	if f != nil {
		return f
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f = t.files[path]; f == nil {
		if len(t.files) >= maxFiles {
			t.files = map[string]*file{}
		}
		f = &file{path: path}
		t.files[path] = f
	}
	return f
}

// digest returns what the file holds now, and its stamp. It stats the file
// always and reads it only if it may have changed.
func (t *fileTable) digest(f *file) (digest.Digest, stamp, error) {
	return t.digestOr(f, nil, nil)
}

// digestOr is digest, but reads the file, and calls use with its bytes, also
// where nothing is known of the digest. See read for use.
func (t *fileTable) digestOr(f *file, known func(digest.Digest) bool, use func(digest.Digest, []byte)) (digest.Digest, stamp, error) {
	var st unix.Stat_t
	if err := unix.Stat(f.path, &st); err != nil {
		if throughProc(f.path) {
			err = errOwnName
		}
		return digest.Digest{}, stamp{}, &fs.PathError{Op: "stat", Path: f.path, Err: err}
	}
	s := t.stamp(&st)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.trusted && f.last == s && (known == nil || known(f.sum)) {
		return f.sum, s, nil
	}
	return t.read(f, use)
}

// isAt reports whether path leads to the file as it was when it was last read.
func (f *file) isAt(path string) bool {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last.ino == st.Ino && f.last.dev == st.Dev
}

// content returns the file's bytes besides.
func (t *fileTable) content(f *file) (sum digest.Digest, s stamp, data []byte, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sum, s, err = t.read(f, func(_ digest.Digest, text []byte) { data = bytes.Clone(text) })
	return sum, s, data, err
}

// read hashes the file as it is now and records it; f.mu is held. If use is not
// nil, it is called with the bytes, which are valid during the call. The file is
// stated before and after on the open descriptor: content that changed while it
// was read has no digest.
func (t *fileTable) read(f *file, use func(digest.Digest, []byte)) (digest.Digest, stamp, error) {
	fail := func(err error) (digest.Digest, stamp, error) {
		f.trusted = false
		return digest.Digest{}, stamp{}, err
	}
	now := t.now()
	// Non-blocking, or a FIFO in an input's place would hang the daemon.
	fd, err := openShared(f.path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fail(&fs.PathError{Op: "stat", Path: f.path, Err: err})
	}
	before := t.stamp(&st)
	if before.mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
		// /dev/null is a common empty source; it holds nothing, always.
		sum := digest.Of(nil)
		if use != nil {
			use(sum, nil)
		}
		return sum, stamp{mode: before.mode}, nil
	}
	if !before.isRegular() {
		return fail(&fs.PathError{Op: "read", Path: f.path, Err: errIrregular})
	}
	if before.size > maxInput {
		return fail(fmt.Errorf("%s: %d bytes are more than the %d that an input may have", f.path, before.size, maxInput))
	}
	buffer := buffers.Get().(*[]byte)
	defer func() {
		if cap(*buffer) <= maxBuffer {
			buffers.Put(buffer)
		}
	}()
	// One byte more than there should be: files of procfs and sysfs hold what
	// their size does not tell.
	*buffer = slices.Grow((*buffer)[:0], int(before.size)+1)
	data := (*buffer)[:before.size+1]
	switch n, err := readFull(fd, data); {
	case err != nil:
		return fail(&fs.PathError{Op: "read", Path: f.path, Err: err})
	case n == len(data):
		return fail(&fs.PathError{Op: "read", Path: f.path, Err: errIrregular})
	default:
		data = data[:n]
	}
	if err := unix.Fstat(fd, &st); err != nil {
		return fail(&fs.PathError{Op: "stat", Path: f.path, Err: err})
	}
	if t.stamp(&st) != before || int64(len(data)) != before.size {
		return fail(fmt.Errorf("%s changed while it was read", f.path))
	}
	f.last, f.sum = before, digest.Of(data)
	f.trusted = before.proves(now) && !t.looseTimes(f.path, before.dev)
	if use != nil {
		use(f.sum, data)
	}
	return f.sum, before, nil
}

// buffers are for the files that are read; larger ones than maxBuffer are not kept.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const maxBuffer = 4 << 20

// readFull reads until the buffer is full or the file ends.
func readFull(fd int, buffer []byte) (n int, err error) {
	for n < len(buffer) {
		more, err := unix.Read(fd, buffer[n:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return n, err
		case more == 0:
			return n, nil
		}
		n += more
	}
	return n, nil
}
