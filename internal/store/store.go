// Package store keeps named objects for caches that several machines share: in
// memory, in a directory, or, by package s3store, in a bucket. It knows nothing of
// compiles. What an object means, and whether it may be believed, is its readers'
// business: whoever can write to a bucket can put any bytes under any name.
package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// MaxObject is the largest object, 1 GiB: bodies are held in memory.
const MaxObject = 1 << 30

// MaxName is the longest name of an object, in bytes, and maxPart of what lies
// between two slashes: file systems take no longer ones.
const (
	MaxName = 512
	maxPart = 255
)

var (
	// ErrNotFound says that the store has no such object.
	ErrNotFound = errors.New("not in the store")
	// ErrConflict says that a condition of Put did not hold: somebody else wrote.
	ErrConflict = errors.New("another has written the object")
	// ErrTooLarge says that an object exceeds MaxObject, or what its reader takes.
	ErrTooLarge = errors.New("object too large")
	// ErrReadOnly says that the store may be read and not written.
	ErrReadOnly = errors.New("the store is read-only")
	// ErrDenied says that the store does not know the credentials, does not allow
	// them this, or had them expire.
	ErrDenied = errors.New("the store denies access")
	// ErrUnavailable says that the store did not answer, or in time, or was not
	// asked because it did not answer before.
	ErrUnavailable = errors.New("the store is not available")
	// ErrCorrupt says that the bytes that came are not those that were sent.
	ErrCorrupt = errors.New("the object arrived damaged")
)

// Version tells two contents of one name apart, as HTTP's ETag does (RFC 9110,
// section 8.8.3); "" is none. It means something to the store that made it only.
type Version string

// Object is what Get returns.
type Object struct {
	Body    []byte
	Version Version
	// Modified is when it was put or touched, by the store's clock.
	Modified time.Time
}

// Info is an object without its content.
type Info struct {
	Name     string
	Size     int64
	Version  Version
	Modified time.Time
}

// Condition limits a Put; the zero Condition is none. At most one field is set.
type Condition struct {
	// Absent demands that there is no object of the name.
	Absent bool
	// Version demands that the object has this version still.
	Version Version
}

// Store holds objects by name. A name is that of CheckName; other names are an
// error that wraps ErrName. All methods may be called concurrently, end with ctx,
// and return errors that wrap one of the package's where one fits. Objects appear
// whole: no reader sees a part of one.
//
// A store that maps names to files cannot hold both "a" and "a/b". Its Put of the
// second is an error that wraps ErrName, so nobody may rely on such names.
type Store interface {
	// Get returns an object of at most limit bytes (MaxObject if that is less); a
	// larger one is ErrTooLarge, and is not read further than that.
	Get(ctx context.Context, name string, limit int64) (Object, error)
	// Put stores body, which it does not keep nor change, and returns the version.
	// Of several Puts with one condition at most one succeeds. A Put whose answer
	// was lost on the way may be an error, ErrConflict even, although it was done.
	Put(ctx context.Context, name string, body []byte, when Condition) (Version, error)
	Stat(ctx context.Context, name string) (Info, error)
	// Touch makes an object's time of modification now. Its content stays; its
	// version may change.
	Touch(ctx context.Context, name string) error
	// Delete removes an object. That there is none is no error.
	Delete(ctx context.Context, name string) error
	// List calls visit for each object whose name begins with prefix, in the order
	// of the names' bytes, until visit returns an error, which it returns. What is
	// put or deleted meanwhile may be seen or not. prefix is "" or the beginning of
	// a name.
	List(ctx context.Context, prefix string, visit func(Info) error) error
	// String names the store for people, without secrets: "s3://bucket/cache".
	String() string
	// Close waits for nothing; calls that are under way may fail.
	Close() error
}

// ErrName says that a name is none that a store takes.
var ErrName = errors.New("not a name of an object")

// CheckName reports an error that wraps ErrName unless name is one that every
// store can hold: 1 to MaxName bytes of lower-case letters, digits and "-._/", in
// which no part between slashes is empty or begins with a dot.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("%w: %d bytes", ErrName, len(name))
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || len(part) > maxPart || part[0] == '.' {
			return fmt.Errorf("%w: %q", ErrName, name)
		}
		for i := range len(part) {
			switch c := part[i]; {
			case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.', c == '_':
			default:
				return fmt.Errorf("%w: %q", ErrName, name)
			}
		}
	}
	return nil
}

// checkPrefix reports an error that wraps ErrName unless prefix is "" or the
// beginning of a name.
func checkPrefix(prefix string) error {
	// What is cut off may be all of a part: "a/" begins "a/b", and "a" begins "ab".
	if prefix == "" || CheckName(prefix+"0") == nil || CheckName(prefix) == nil {
		return nil
	}
	return fmt.Errorf("%w: prefix %q", ErrName, prefix)
}

// limited is the most that Get returns for what its caller asked.
func limited(limit int64) int64 { return max(0, min(limit, MaxObject)) }

// DeleteMany removes objects, by few requests where s can.
func DeleteMany(ctx context.Context, s Store, names []string) error {
	if many, ok := s.(interface {
		DeleteMany(ctx context.Context, names []string) error
	}); ok {
		return many.DeleteMany(ctx, names)
	}
	for _, name := range names {
		if err := s.Delete(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
