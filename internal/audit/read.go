package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
)

// Read goes through the rows of the journal in dir, from that number on or from
// the oldest that is there, and checks each. The first error is the last value: a
// *DamageError, or one of reading. It needs no lock, and may go on while rows are
// written: a line that is not finished yet is the end.
//
// An entry's Raw is valid until the next.
func Read(dir string, from uint64) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		list, err := segments(dir)
		if err != nil {
			yield(nil, fmt.Errorf("audit: %w", err))
			return
		}
		// The file that holds the row is the last that begins at or before it.
		start := 0
		for i, s := range list {
			if s.first <= from {
				start = i
			}
		}
		walk(list[start:], func(e *Entry, err error) bool { return err == nil && e.Number < from || yield(e, err) })
	}
}

// walk goes through files, each of which goes on where the one before ended, and
// tells whether the last ends within a line.
func walk(list []segment, yield func(*Entry, error) bool) (torn bool) {
	w := walker{}
	defer w.close()
	for i, s := range list {
		if err := w.open(s); err != nil {
			yield(nil, err)
			return false
		}
		for {
			e, err := w.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if unfinished := (*tornError)(nil); errors.As(err, &unfinished) {
				if torn = i == len(list)-1; torn {
					break
				}
				err = w.tornInside()
			}
			if !yield(e, err) || err != nil {
				return false
			}
		}
	}
	return torn
}

// Extent is what Verify found to be whole.
type Extent struct {
	Files int
	// First and Last are rows' numbers; 0 if there is none.
	First, Last uint64
	// Chain is that of the last row. Compared with a value that was kept
	// elsewhere, it shows whether anything is missing at the end.
	Chain Key
	// Unfinished tells that the end holds a part of a line: of a row that is being
	// written, or that nobody was told of before a crash.
	Unfinished bool
}

// Verify checks all of a journal: the chain through all files, and that each row
// decodes. path is its directory, or one of its files, wherever that was moved to,
// which is then checked by itself. It returns what is whole, up to the first error:
// a *DamageError, or one of reading. visit, if it is not nil, is called for each
// row with its entry, which is valid until then; its error is Verify's.
func Verify(path string, visit func(*Entry) error) (x Extent, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return x, fmt.Errorf("audit: %w", err)
	}
	list := []segment{{path: path}}
	if info.IsDir() {
		if list, err = segments(path); err != nil {
			return x, fmt.Errorf("audit: %w", err)
		}
	}
	x.Files = len(list)
	x.Unfinished = walk(list, func(e *Entry, failed error) bool {
		if err = failed; err == nil {
			_, err = e.Row()
		}
		if err != nil {
			return false
		}
		if x.First == 0 {
			x.First = e.Number
		}
		x.Last, x.Chain = e.Number, e.Chain
		if visit != nil {
			err = visit(e)
		}
		return err == nil
	})
	return x, err
}

// tornError is a last line without newline.
type tornError struct{ line []byte }

func (e *tornError) Error() string { return "a line without end" }

// walker reads files of a journal one after the other, checking that each goes on
// where the one before ended.
type walker struct {
	path   string
	file   *os.File
	r      *bufio.Reader
	offset int64  // of the next line
	number uint64 // of the next row; 0 before the first file
	chain  Key
}

func (w *walker) close() {
	if w.file != nil {
		w.file.Close()
		w.file = nil
	}
}

func (w *walker) damaged(format string, args ...any) error {
	return &DamageError{w.path, w.offset, fmt.Sprintf(format, args...)}
}

// tornInside is what a line without newline is in a file that others follow.
func (w *walker) tornInside() error {
	return w.damaged("row %d has no end, but rows follow in another file", w.number)
}

// open begins a file. One without a number is whatever its header says.
func (w *walker) open(s segment) error {
	w.close()
	f, err := os.Open(s.path)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if w.r == nil {
		w.r = bufio.NewReaderSize(f, max(maxLine, 256<<10))
	}
	w.r.Reset(f)
	w.path, w.file, w.offset = s.path, f, 0
	line, err := w.line()
	// Headers appear whole, or not at all.
	if torn := (*tornError)(nil); errors.Is(err, io.EOF) || errors.As(err, &torn) {
		return w.damaged("no header")
	}
	if err != nil {
		return err
	}
	first, chain, err := parseHeader(line)
	if err != nil {
		return w.damaged("header: %v", err)
	}
	if s.first != 0 && first != s.first {
		return w.damaged("its header says that it begins with row %d", first)
	}
	if w.number != 0 && (first != w.number || chain != w.chain) {
		return w.damaged("it does not follow on the file before, which ends before row %d: a file is missing or was exchanged", w.number)
	}
	w.number, w.chain = first, chain
	w.offset += int64(len(line)) + 1
	return nil
}

// reopen goes on at offset, after the file was changed.
func (w *walker) reopen() error {
	if _, err := w.file.Seek(w.offset, io.SeekStart); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	w.r.Reset(w.file)
	return nil
}

// next returns the next row, io.EOF at the file's end, or *tornError there.
func (w *walker) next() (*Entry, error) {
	line, err := w.line()
	if err != nil {
		if torn := (*tornError)(nil); errors.As(err, &torn) && w.changedEnd(torn.line) {
			return nil, w.damaged("row %d has no end of line, but another byte", w.number)
		}
		return nil, err
	}
	e, err := parseLine(line, w.number, w.chain)
	if err != nil {
		return nil, w.damaged("row %d: %v", w.number, err)
	}
	w.offset += int64(len(line)) + 1
	w.number, w.chain = e.Number+1, e.Chain
	return &e, nil
}

// changedEnd tells whether a line without newline was whole once: writers leave a
// part of a line, never a whole one with something else behind.
func (w *walker) changedEnd(line []byte) bool {
	if len(line) == 0 {
		return false
	}
	_, err := parseLine(line[:len(line)-1], w.number, w.chain)
	return err == nil
}

// line reads a line, without its newline; it is valid until the next.
func (w *walker) line() ([]byte, error) {
	line, err := w.r.ReadSlice('\n')
	switch {
	case err == nil && len(line) <= maxLine:
		return line[:len(line)-1], nil
	case err == nil || errors.Is(err, bufio.ErrBufferFull) || err == io.EOF && len(line) > maxLine:
		return nil, w.damaged("a line of more than %d bytes", maxLine)
	case err == io.EOF && len(line) == 0:
		return nil, io.EOF
	case err == io.EOF:
		return nil, &tornError{bytes.Clone(line)}
	}
	return nil, fmt.Errorf("audit: %s: %w", w.path, err)
}
