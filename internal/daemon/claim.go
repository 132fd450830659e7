package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/digest"
)

// claims are the outputs that a compile is about to write, each claimed by a
// file that all processes of this cache see. Two compiles that write one
// output at once (a makefile with a rule too many) may each find the other's
// object there when it has ended, and would store it as their own.
//
// Whoever claims an output adds a byte to its file and holds a shared lock on
// it; the last to let go removes it. Who finds more than the own byte was not
// alone.
type claims []*os.File

// claim claims outputs. The error says that nothing is known about others.
func (e *Engine) claim(outputs []string) (claims, error) {
	held := make(claims, 0, len(outputs))
	for _, path := range outputs {
		name := digest.NewKey("claim").Field("path", filepath.Clean(path)).Sum().String()
		f, err := claimFile(filepath.Join(e.cache.TempDir(), "claim-"+name[:32]))
		if err != nil {
			held.release()
			return nil, err
		}
		held = append(held, f)
	}
	return held, nil
}

// claimTries is how often a claim is tried, a millisecond apart: others hold
// what is in its way for less, unless they were stopped.
const claimTries = 100

func claimFile(name string) (*os.File, error) {
	for try := 0; ; try++ {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if errors.Is(err, fs.ErrNotExist) && try < claimTries {
			// The cache has been emptied, directories and all.
			if err = os.MkdirAll(filepath.Dir(name), 0o700); err == nil {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		if err = unix.Fstat(int(f.Fd()), &st); err == nil && st.Size > 0 && unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			// Nobody holds it: those who wrote there were killed. Whoever claims
			// it now writes only once this lock is given up for the shared one.
			err = f.Truncate(0)
		}
		if err == nil {
			if err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err == nil {
				err = unix.Fstat(int(f.Fd()), &st)
			}
		}
		if err == nil && st.Nlink > 0 {
			if _, err = f.Write([]byte{'x'}); err == nil {
				return f, nil
			}
		}
		f.Close()
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EWOULDBLOCK) || try == claimTries {
			return nil, fmt.Errorf("claiming an output: %w", cmp.Or(err, error(unix.EWOULDBLOCK)))
		}
		// Interrupted, or being emptied or removed by another just now.
		time.Sleep(time.Millisecond)
	}
}

// shared reports whether anybody else has claimed one of the outputs since.
func (c claims) shared() bool {
	for _, f := range c {
		if st, err := f.Stat(); err != nil || st.Size() != 1 {
			return true
		}
	}
	return false
}

func (c claims) release() {
	for _, f := range c {
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			os.Remove(f.Name())
		}
		f.Close()
	}
}

// written lists the paths that the job's command writes.
func (j *job) written() []string {
	inv, p := j.prep.inv, j.prep.place
	var paths []string
	for _, o := range inv.Outputs {
		paths = append(paths, p.absolute(o.Path))
	}
	if inv.Deps.Requested {
		paths = append(paths, p.absolute(inv.Deps.File))
	}
	return paths
}
