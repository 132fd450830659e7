package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// tempRoom is how much room a disk must have for temporary files, in bytes:
// more than any preprocessed text that was seen. With less than fullRoom it
// counts as full, so that a list may have failed to be written.
const (
	tempRoom = 32 << 20
	fullRoom = 1 << 20
)

var tempCounter atomic.Uint64

// temp makes an empty file for something that is not needed for long: in the
// cache's own temporary directory, where a later run finds what a killed one
// left. A compiler that is asked to write a list there fails if it cannot, so
// that where the cache is full, read-only or has just been deleted, the system's
// temporary directory serves, which compilers use themselves.
func (j *job) temp(suffix string) (string, error) {
	dir := j.e.cache.TempDir()
	for try := 0; try < 2 && hasRoom(dir, tempRoom); try++ {
		name := filepath.Join(dir, fmt.Sprintf("job-%d-%d.%s", os.Getpid(), tempCounter.Add(1), suffix))
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return name, f.Close()
		}
		if !errors.Is(err, fs.ErrExist) { // an earlier process had our number
			break
		}
	}
	dir = os.TempDir()
	if !filepath.IsAbs(dir) {
		dir = "/tmp" // the compiler runs elsewhere
	}
	f, err := os.CreateTemp(dir, "hpcc-*."+suffix)
	if err != nil {
		return "", fmt.Errorf("making a temporary file: %w", err)
	}
	return f.Name(), f.Close()
}

func hasRoom(dir string, bytes uint64) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && uint64(st.Bavail)*uint64(st.Bsize) >= bytes
}

// blames reports whether a compile may have failed only because it could not
// write its lists: a disk is full, or the compiler names one in what it prints.
// That a list is not there says nothing, as clang removes it when it crashes.
func blames(ran *ipcv1.Ran, lists ...string) bool {
	for _, list := range lists {
		if list == "" {
			continue
		}
		dir := filepath.Dir(list)
		if _, err := os.Stat(dir); err == nil && !hasRoom(dir, fullRoom) ||
			bytes.Contains(ran.GetStderr(), []byte(list)) || bytes.Contains(ran.GetStdout(), []byte(list)) {
			return true
		}
	}
	return false
}
