//go:build unix

package wrapper

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What is said about hpcc's own state goes to the stderr of some compile.
// Configure scripts judge a compiler by its stderr, and a build has hundreds
// of calls: so each kind of note is given once in quietTime to a user. The
// times of empty files in the configuration directory remember it.

// quietTime is also how long a hung daemon is not asked again.
const quietTime = time.Minute

// Kinds of notes; each is the name of a file.
const (
	noteEndpoint = "bad-endpoint"
	noteStale    = "stale-endpoint"
	noteForeign  = "foreign-peer"
	noteLost     = "lost-daemon"
	noteHung     = "hung-daemon"
	noteToken    = "refused-token"
	noteVersion  = "other-version"
	noteNoHpccd  = "no-hpccd"
	noteNoCache  = "no-cache"
)

// hungFile holds the process id of a daemon that did not answer, as of the
// file's time.
const hungFile = "hung"

// NoteNoCache says on stderr why a compile goes on without a cache, unless that
// was said of late. config is the configuration directory, or empty.
func NoteNoCache(config string, why error) {
	// Joined errors have a line each.
	note(config, noteNoCache, strings.ReplaceAll(why.Error(), "\n", "; ")+"; compiling without a cache")
}

func (c *call) note(kind, text string) { note(c.config, kind, text) }

// note says text on stderr unless this kind was said of late. Where nothing
// can be remembered, nothing is said: a read-only home would have it in each
// compile's output.
func note(config, kind, text string) {
	if config == "" {
		return
	}
	dir := filepath.Join(config, "notes")
	if os.MkdirAll(dir, 0o700) != nil {
		return
	}
	f, err := os.OpenFile(filepath.Join(dir, kind), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	// Of calls that find the same at the same time, one speaks.
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return
	}
	// A file that was just made looks fresh, so what counts is a byte in it.
	if info, err := f.Stat(); err != nil || (info.Size() > 0 && recent(info)) {
		return
	}
	if _, err := f.WriteAt([]byte("\n"), 0); err != nil {
		return
	}
	complain(text)
}

// rememberHung notes that the daemon pid did not answer in time.
func (c *call) rememberHung(pid int) {
	os.WriteFile(filepath.Join(c.config, hungFile), []byte(strconv.Itoa(pid)), 0o600)
}

// isHung reports whether the daemon pid did not answer of late.
func (c *call) isHung(pid int) bool {
	path := c.config + "/" + hungFile
	if unix.Access(path, unix.F_OK) != nil {
		return false // as nearly always; an os.Stat costs more
	}
	info, err := os.Stat(path)
	if err != nil || !recent(info) {
		return false
	}
	b, err := os.ReadFile(path)
	return err == nil && strings.TrimSpace(string(b)) == strconv.Itoa(pid)
}

// recent reports whether a file was written within quietTime. One from the
// future, after a clock was set back, was not.
func recent(info os.FileInfo) bool {
	age := time.Since(info.ModTime())
	return age >= 0 && age < quietTime
}
