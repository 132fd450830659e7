package remote

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// ErrInputChanged says that a file holds something else than when its digest was
// taken, or is gone. The job may be made anew from what is there now.
var ErrInputChanged = errors.New("an input changed while it was sent")

// ErrClosed is the error of a call after, or during, Close.
var ErrClosed = errors.New("the client of the workers is closed")

// UnavailableError says that no worker did the job: none was reachable, all were
// full, or those that were tried failed. Compile somewhere else.
type UnavailableError struct {
	// Retry is when another try may end differently. Until then the client
	// answers most calls with this error at once, and asks nobody.
	Retry time.Time
	// Err tells what happened; it may hold several errors, *LyingError among
	// them.
	Err error
}

func (e *UnavailableError) Error() string { return fmt.Sprintf("no worker is available: %v", e.Err) }
func (e *UnavailableError) Unwrap() error { return e.Err }

// RefusedError says that scheduler or worker does not serve this tenant, this
// image or this job, or that the job cannot be sent. Another try ends the same.
type RefusedError struct {
	// Reason says what is refused and what to do about it. What the other side
	// said is in it, without control characters and at most 300 bytes long.
	Reason string
	Err    error
}

func (e *RefusedError) Error() string { return e.Reason }
func (e *RefusedError) Unwrap() error { return e.Err }

// LyingError says that a worker broke the contract. Nothing that it said was
// used.
type LyingError struct{ Worker, Reason string }

func (e *LyingError) Error() string {
	return fmt.Sprintf("worker %q breaks the contract: %s", e.Worker, e.Reason)
}

// InputError says that an input could not be sent. It wraps ErrInputChanged if
// that is why.
type InputError struct {
	Path string // one of those that have the content
	Err  error
}

func (e *InputError) Error() string { return fmt.Sprintf("input %q: %v", e.Path, e.Err) }
func (e *InputError) Unwrap() error { return e.Err }

// lie makes a LyingError whose worker is put in later.
func lie(format string, args ...any) error { return &LyingError{Reason: fmt.Sprintf(format, args...)} }

// said makes text of the other side's fit for a line of a terminal or a log.
func said(text string) string {
	const most = 300
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsPrint(r) && r != ' ' {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}
