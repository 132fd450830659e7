package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/atomicfile"
	"hpcc.dev/hpcc/internal/filelock"
)

// Log takes rows. It may be used by many goroutines at once.
type Log interface {
	// Append adds a row, to which Fit was applied, and returns its number once it
	// is durable. After a *RowError the row can never be appended; after any
	// other error, ctx's end among them, it is open whether the row is there.
	Append(ctx context.Context, r *Row) (number uint64, err error)
}

// Options of a journal; the zero value has all defaults.
type Options struct {
	// SegmentBytes is at what size a new file is begun; 64 MiB by default.
	SegmentBytes int64
	// CheckBytes is how much of the journal's end is checked when it is opened,
	// to whole files; 4 GiB by default, some seconds. Verify checks all.
	CheckBytes int64
	// Log gets what was repaired, and writes that failed.
	Log *slog.Logger

	// wrap puts faults between the journal and a file, for tests.
	wrap func(segmentFile) segmentFile
}

// segmentFile is what the journal needs of the file that it appends to.
type segmentFile interface {
	io.WriteCloser
	Sync() error
	Truncate(size int64) error
}

// Journal is a log in a directory of its own. One process at a time writes it.
//
// Rows of several callers become durable together: whoever calls while a batch is
// being written is in the next. A write that fails (a full disk) is an error for
// everybody in its batch, and is taken back; later calls work again once the disk
// does.
type Journal struct {
	dir  string
	opt  Options
	log  *slog.Logger
	lock *os.File

	queue   chan *pending
	closing chan struct{} // closed by Close
	closed  chan struct{} // closed when the writer has ended
	once    sync.Once

	// The writer's own.
	file    segmentFile
	size    int64 // of the file, as far as it is durable
	next    uint64
	chain   Key
	unclean bool // behind size there may be something of a failed write
	expect  int  // how many rows the last batch had
	buf     []byte

	mu    sync.Mutex
	stats Stats
}

// Stats are a journal's counters since it was opened.
type Stats struct {
	Rows, Batches, Failures int64
	// Next is the number of the next row.
	Next uint64
	// Err is why the last batch was not written; nil if it was.
	Err error
}

// ErrLocked says that a journal is open already, here or in another process.
var ErrLocked = errors.New("the journal is in use by another process")

// ErrClosed says that a journal was closed.
var ErrClosed = errors.New("the journal is closed")

// DamageError says where a journal is not what was written. It is never repaired
// by itself: that would destroy evidence.
type DamageError struct {
	File   string
	Offset int64 // where the line begins
	Reason string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("audit: %s is damaged at byte %d: %s", e.File, e.Offset, e.Reason)
}

const (
	segmentStart = "journal-"
	segmentEnd   = ".jsonl"
	lockName     = "lock"
)

// segmentName sorts by number.
func segmentName(first uint64) string {
	return fmt.Sprintf("%s%020d%s", segmentStart, first, segmentEnd)
}

// segment is a file of the journal's.
type segment struct {
	path  string
	first uint64
	size  int64
}

// segments lists a journal's files, in order.
func segments(dir string) (list []segment, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), segmentStart)
		digits, ok2 := strings.CutSuffix(digits, segmentEnd)
		first, err := strconv.ParseUint(digits, 10, 64)
		if !ok || !ok2 || err != nil || segmentName(first) != e.Name() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // archived meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, segment{filepath.Join(dir, e.Name()), first, info.Size()})
	}
	slices.SortFunc(list, func(a, b segment) int { return strings.Compare(a.path, b.path) })
	return list, nil
}

// OpenJournal opens the journal in dir, or makes one. A last line that a crash
// left unfinished is cut off; nobody was told that it was there. It is kept in a
// file torn-… beside the journal. Any other damage is a *DamageError, and a
// journal that somebody else has open is ErrLocked.
//
// The oldest files may be moved elsewhere, also while the journal is in use; the
// rest stays a journal.
func OpenJournal(dir string, opt Options) (_ *Journal, err error) {
	if opt.SegmentBytes <= 0 {
		opt.SegmentBytes = 64 << 20
	}
	if opt.CheckBytes <= 0 {
		opt.CheckBytes = 4 << 30
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.wrap == nil {
		opt.wrap = func(f segmentFile) segmentFile { return f }
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if ok, err := filelock.Try(lock); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	} else if !ok {
		return nil, fmt.Errorf("audit: %s: %w", dir, ErrLocked)
	}
	j := &Journal{
		dir: dir, opt: opt, log: opt.Log, lock: lock,
		queue: make(chan *pending), closing: make(chan struct{}), closed: make(chan struct{}),
	}
	if err := j.recover(); err != nil {
		return nil, err
	}
	j.stats.Next = j.next
	go j.write()
	return j, nil
}

// recover reads the end of the journal, and opens it for appending.
func (j *Journal) recover() error {
	list, err := segments(j.dir)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if len(list) == 0 {
		j.next = 1
		return errors.Join(j.begin(), syncDir(filepath.Dir(j.dir)))
	}
	from := len(list) - 1
	for checked := list[from].size; from > 0 && checked+list[from-1].size <= j.opt.CheckBytes; from-- {
		checked += list[from-1].size
	}
	w := walker{}
	for i, s := range list[from:] {
		if err := w.open(s); err != nil {
			return err
		}
		for {
			_, err := w.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if torn := (*tornError)(nil); errors.As(err, &torn) {
				if from+i < len(list)-1 {
					err = w.tornInside()
				} else if err = j.repair(&w, torn); err == nil {
					continue
				}
			}
			if err != nil {
				w.close()
				return err
			}
		}
		w.close()
	}
	last := list[len(list)-1]
	f, err := os.OpenFile(last.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	// A row that is here may never have been synced, if the writer died before
	// it was told to anybody.
	if err := f.Sync(); err != nil {
		f.Close()
		return fmt.Errorf("audit: %w", err)
	}
	j.file, j.size, j.next, j.chain = j.opt.wrap(f), w.offset, w.number, w.chain
	return nil
}

// repair cuts off an unfinished last line, or finishes it where only its newline
// is missing; w goes on behind.
func (j *Journal) repair(w *walker, torn *tornError) (err error) {
	if _, err := parseLine(torn.line, w.number, w.chain); err == nil {
		f, err := os.OpenFile(w.path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		_, err = f.WriteString("\n")
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("audit: finishing a row: %w", err)
		}
		return w.reopen()
	}
	aside := filepath.Join(j.dir, fmt.Sprintf("torn-%020d-%d", w.number, time.Now().UnixNano()))
	if err := atomicfile.Write(aside, torn.line, atomicfile.Options{Durable: true}); err != nil {
		return fmt.Errorf("audit: keeping an unfinished row: %w", err)
	}
	f, err := os.OpenFile(w.path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	err = errors.Join(f.Truncate(w.offset), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("audit: cutting off an unfinished row: %w", err)
	}
	j.log.Warn("audit-row-unfinished", "file", w.path, "row", w.number, "bytes", len(torn.line), "kept", aside)
	return w.reopen()
}

// begin makes the file that starts with row j.next.
func (j *Journal) begin() error {
	path := filepath.Join(j.dir, segmentName(j.next))
	header := append(appendHeader(nil, j.next, j.chain), '\n')
	if err := atomicfile.Write(path, header, atomicfile.Options{Durable: true}); err != nil {
		return fmt.Errorf("audit: beginning a file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if j.file != nil {
		_ = j.file.Close() // all of it is durable
	}
	j.file, j.size, j.unclean = j.opt.wrap(f), int64(len(header)), false
	return nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Stats returns the counters.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.stats
}

// Close ends the journal once the batch that is being written is; callers that
// wait behind it get ErrClosed.
func (j *Journal) Close() error {
	j.once.Do(func() { close(j.closing) })
	<-j.closed
	return nil
}
