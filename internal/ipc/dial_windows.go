package ipc

import (
	"errors"
	"os"
	"time"
)

// ErrForeignPeer is documented with the Unix implementation.
var ErrForeignPeer = errors.New("the peer belongs to another user")

// Dial is not there yet: wrappers on Windows run the compiler themselves.
func Dial(*Endpoint, time.Duration) (*Conn, error) {
	return nil, errors.New("no daemon on this platform")
}

// readPrivate relies on the directory: the user's profile is closed to others.
func readPrivate(path string, limit int) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err == nil && len(b) > limit {
		err = errors.New("file too large")
	}
	return b, err
}
