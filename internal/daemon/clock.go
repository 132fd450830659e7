package daemon

import (
	"context"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// What follows decides what the times of files prove. A file system stamps a
// change with a clock that stands still between two ticks, so of two changes
// within one tick the second may leave no trace; and the clock may be another
// machine's, or be set.

// tick is longer than any kernel's clock tick (CONFIG_HZ=100: 10 ms).
const tick = int64(20 * time.Millisecond)

// coarseTick bounds the steps of file systems that keep whole seconds (ext4
// with small inodes, NFS servers on them: 1 s; FAT: 2 s).
const coarseTick = int64(2 * time.Second)

// looseSlack is how far the clock of a network file system may be behind ours,
// where nothing tells more.
const looseSlack = int64(2 * time.Minute)

// coarseNow reads the clock that file systems stamp with (CLOCK_REALTIME_COARSE,
// see clock_gettime(2)), in nanoseconds: a file written after this moment has
// a time of at least it.
func coarseNow() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &ts) != nil {
		return time.Now().UnixNano()
	}
	return ts.Nano()
}

// fineNow reads the clock that no file's time is ahead of, in nanoseconds. The
// coarse one can be far behind it on a busy virtual machine, while new kernels
// give fine times to files that somebody looks at.
func fineNow() int64 { return time.Now().UnixNano() }

// steadyNow reads a clock that nobody sets, in nanoseconds.
func steadyNow() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return time.Now().UnixNano()
	}
	return ts.Nano()
}

// step is how far apart two changes must be for the times of a file to tell
// them apart: t is one of its times. Only a file system that keeps whole
// seconds has many that are.
func step(t int64) int64 {
	if t%int64(time.Second) == 0 {
		return coarseTick
	}
	return tick
}

// proves reports whether a file that still shows s later than now has not
// changed since now: a change then would show another time.
func (s stamp) proves(now int64) bool {
	return s.ctime < now-step(s.ctime) && !(now-tick <= s.mtime && s.mtime <= now+tick)
}

// moment is when a compile began, on the clocks that count.
type moment struct {
	// files is the file systems' clock at its last tick, exact the same where
	// it can be read to the nanosecond.
	files, exact int64
	// fine is the time of day. steady is a clock that nobody sets: where that
	// has gone on further, the other was set back meanwhile, and files proves
	// nothing.
	fine, steady int64
	// loose are lower bounds of what other machines' clocks showed, for each
	// device that is stamped by one.
	loose map[uint64]int64
}

func (t *fileTable) moment() moment {
	m := moment{files: t.now()}
	if t.exact != nil {
		m.exact = t.exact()
	}
	m.fine, m.steady, _ = t.clocks()
	if m.exact < m.files || m.exact > m.fine {
		m.exact = m.files
	}
	return m
}

// clocks reads the time of day between two readings of the steady clock. On a
// busy machine the process may stand still between any two of them, so it
// tries again until they are close. Where it gives up, whoever takes the
// earlier of the two for a begin and the later for an end does not measure too
// little between them.
func (t *fileTable) clocks() (fine, before, after int64) {
	for range 100 {
		before = steadyNow()
		fine = t.fine()
		if after = steadyNow(); after-before < int64(time.Millisecond) {
			break
		}
	}
	return fine, before, after
}

// changedSince reports whether a file with the stamp s may have changed since
// the moment m. path is its name.
//
// A time in the future does not count: it was set on purpose (touch), or
// stems from a clock that has been set back since, and a change after m would
// have replaced it by one that is not.
func (t *fileTable) changedSince(m *moment, path string, s stamp) bool {
	now, _, steady := t.clocks()
	gone := steady - m.steady
	if gone-(now-m.fine) > tick+gone/1000 {
		return true // the clock was set back
	}
	start := m.files
	switch t.timingOf(path, s.dev) {
	case byOthers:
		bound, ok := m.loose[s.dev]
		if !ok {
			bound = start - looseSlack
		}
		return s.ctime >= bound || s.mtime >= bound
	case byExact:
		start = m.exact
	}
	within := func(at int64) bool {
		if step(at) == coarseTick {
			return at > start-coarseTick && at <= now+tick
		}
		return at >= start && at <= now+tick
	}
	return within(s.ctime) || within(s.mtime)
}

// sawOutput takes what the time of a file that the compile has just written
// tells of another machine's clock: it cannot have stood before that time, less
// all that has passed here since m.
func (t *fileTable) sawOutput(m *moment, path string) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || !t.looseTimes(path, st.Dev) {
		return
	}
	bound := st.Ctim.Nano() - (steadyNow() - m.steady)
	if old, ok := m.loose[st.Dev]; !ok || bound < old {
		if m.loose == nil {
			m.loose = map[uint64]int64{}
		}
		m.loose[st.Dev] = bound
	}
}

// settleTries bounds how often settle looks at the clock, a millisecond apart. The
// next tick ends it as a rule; on a busy virtual machine that may come late.
const settleTries = 200

// settle waits for the clock's next tick where something was written since the
// last, so that it is older than this compile: a header that the same rule of a
// makefile has just made could otherwise not be told from one that changes under
// the compiler's hands, and the result would be dropped.
func (j *job) settle(ctx context.Context, id manifestID) {
	inv, p, files := j.prep.inv, j.prep.place, j.e.files
	now := files.fine()
	newest := int64(0)
	look := func(name string) {
		var st unix.Stat_t
		if abs := p.absolute(name); unix.Stat(abs, &st) == nil && !(files.exact != nil && files.timingOf(abs, st.Dev) == byExact) {
			// Beyond the tick it is from the future, or another clock's.
			if s := files.stamp(&st); s.ctime <= now+tick {
				newest = max(newest, s.ctime)
			}
		}
	}
	// A file that was made shows in its directory's time, one that was written
	// over in its own: so the inputs of the last time are asked, too.
	look(inv.Source)
	look(path.Dir(inv.Source))
	look(".")
	inc := &inv.Includes
	dirs := slices.Concat(inc.Quote, inc.Angle, inc.System, inc.After)
	for _, name := range slices.Concat(dirs, inc.Forced, inc.Macros) {
		look(name)
	}
	for _, name := range slices.Concat(inc.Forced, inc.Macros) {
		for _, dir := range dirs {
			if !path.IsAbs(name) {
				look(dir + "/" + name)
			}
		}
	}
	if m, ok := j.e.manifests.get(id); ok && len(m.candidates) > 0 {
		for _, in := range m.candidates[0].inputs {
			look(in.file.path)
		}
	}
	for tries := 0; newest >= files.now() && tries < settleTries; tries++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Millisecond):
		}
	}
}
