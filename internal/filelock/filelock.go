// Package filelock locks files between processes, and between openings of a file in
// one: on Unix by flock, on Windows by a lock of the first byte. A lock ends when its
// file is closed, and so with its process, however that ends.
package filelock

import "os"

// Try locks f alone, or reports false if another opening of the file has any lock.
func Try(f *os.File) (bool, error) { return try(f, true) }

// TryShared locks f beside others that do so, or reports false if another opening has
// it alone.
func TryShared(f *os.File) (bool, error) { return try(f, false) }
