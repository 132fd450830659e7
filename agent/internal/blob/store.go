// Package blob keeps the inputs of jobs for as long as the machine lives, so
// that a header crosses to it once. A blob is a file named by its SHA-256, in a
// directory that no job can see; the directory lies in memory, so a limit counts
// bytes. The least recently used goes first, one that a job uses not at all.
package blob

import (
	"container/list"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"sync"
)

// Key names a blob by the SHA-256 and the number of its bytes.
type Key struct {
	Sum  [sha256.Size]byte
	Size int64
}

func (k Key) String() string { return hex.EncodeToString(k.Sum[:]) }

var (
	// ErrFull says that a blob does not fit beside those in use.
	ErrFull = errors.New("the blob store is full of blobs in use")
	// ErrMismatch says that bytes are not those that their key names.
	ErrMismatch = errors.New("blob does not match its digest")
)

// Store is a set of blobs. It may be used by many goroutines at once.
type Store struct {
	dir   string
	limit int64

	mu      sync.Mutex
	used    int64 // of entries and of writers under way
	entries map[Key]*entry
	idle    *list.List // of *entry with no pins, the least recently used first
}

type entry struct {
	key  Key
	pins int
	idle *list.Element // nil while pinned
}

// New makes a store in an empty directory.
func New(dir string, limit int64) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &Store{dir: dir, limit: limit, entries: map[Key]*entry{}, idle: list.New()}, nil
}

func (s *Store) path(k Key) string { return filepath.Join(s.dir, k.String()) }

// Pin keeps a blob from being evicted until Unpin, and tells whether it is
// there. Pins count.
func (s *Store) Pin(k Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[k]
	if e == nil {
		return false
	}
	s.pin(e)
	return true
}

func (s *Store) pin(e *entry) {
	if e.pins++; e.idle != nil {
		s.idle.Remove(e.idle)
		e.idle = nil
	}
}

// Unpin undoes one Pin, or the pin that Commit made.
func (s *Store) Unpin(k Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[k]
	if e.pins--; e.pins == 0 {
		e.idle = s.idle.PushBack(e)
	}
}

// Open opens a pinned blob for reading.
func (s *Store) Open(k Key) (*os.File, error) { return os.Open(s.path(k)) }

// Used is how many bytes the store holds.
func (s *Store) Used() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// Create begins a blob, for which it makes room at once.
func (s *Store) Create(k Key) (*Writer, error) {
	if err := s.reserve(k.Size); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(s.dir, "new-")
	if err != nil {
		s.release(k.Size)
		return nil, err
	}
	return &Writer{s: s, key: k, f: f, hash: sha256.New()}, nil
}

func (s *Store) reserve(size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.used+size > s.limit {
		oldest := s.idle.Front()
		if oldest == nil {
			return fmt.Errorf("%w: %d of %d bytes, and %d more wanted", ErrFull, s.used, s.limit, size)
		}
		e := oldest.Value.(*entry)
		s.idle.Remove(oldest)
		delete(s.entries, e.key)
		s.used -= e.key.Size
		if err := os.Remove(s.path(e.key)); err != nil {
			return err
		}
	}
	s.used += size
	return nil
}

func (s *Store) release(size int64) {
	s.mu.Lock()
	s.used -= size
	s.mu.Unlock()
}

// Writer takes a blob's bytes. Either Commit or Abort ends it.
type Writer struct {
	s    *Store
	key  Key
	f    *os.File
	hash hash.Hash
	n    int64
}

// Left is how many bytes are still to come.
func (w *Writer) Left() int64 { return w.key.Size - w.n }

// Write takes the next bytes; more than the key says are refused.
func (w *Writer) Write(p []byte) (int, error) {
	if int64(len(p)) > w.Left() {
		return 0, ErrMismatch
	}
	w.hash.Write(p)
	w.n += int64(len(p))
	return w.f.Write(p)
}

// Commit checks the bytes against the key, puts the blob into the store and
// pins it. After an error there is no blob.
func (w *Writer) Commit() error {
	if w.Left() != 0 || [sha256.Size]byte(w.hash.Sum(nil)) != w.key.Sum {
		w.Abort()
		return fmt.Errorf("%w %s", ErrMismatch, w.key)
	}
	s := w.s
	s.mu.Lock()
	if e := s.entries[w.key]; e != nil {
		// Another job brought it meanwhile.
		s.pin(e)
		s.mu.Unlock()
		w.Abort()
		return nil
	}
	if err := os.Rename(w.f.Name(), s.path(w.key)); err != nil {
		s.mu.Unlock()
		w.Abort()
		return err
	}
	s.entries[w.key] = &entry{key: w.key, pins: 1}
	s.mu.Unlock()
	return w.f.Close()
}

// Abort drops what was written.
func (w *Writer) Abort() {
	w.f.Close()
	os.Remove(w.f.Name())
	w.s.release(w.key.Size)
}
