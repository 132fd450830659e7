package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrTooLarge says that a file has more bytes than its reader takes.
var ErrTooLarge = errors.New("too large")

// Read reads a file of at most limit bytes. Of a longer one, which is an error
// that wraps ErrTooLarge, no more than one byte beyond limit is read: whatever lies
// where a key or a list is looked for, it takes no more memory than that.
func Read(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadFrom(f, limit)
}

// ReadFrom is Read for a file that is open, from where it stands to its end: for
// callers that look at the very file they read, at its mode, say, before.
func ReadFrom(f *os.File, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is %w: it has more than %d bytes", f.Name(), ErrTooLarge, limit)
	}
	return b, nil
}
