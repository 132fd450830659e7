package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/atomicfile"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
)

// kind is how a compile ended, as the cache sees it.
type kind uint8

const (
	uncacheable kind = iota
	hitDirect
	hitPreprocessed
	hitRemote
	miss
	failed
	listHit
	listMiss
)

var kindNames = [...]string{
	uncacheable: "uncacheable", hitDirect: "hit", hitPreprocessed: "hit-preprocessed", hitRemote: "hit-remote", miss: "miss", failed: "failed",
	listHit: "list-hit", listMiss: "list-miss",
}

func (k kind) String() string { return kindNames[k] }

// outcome is what came of one compile.
type outcome struct {
	kind   kind
	reason compiler.Reason
	detail string
	// action is the key of the result that was found or stored, and manifest
	// that of the manifest that names it.
	action, manifest digest.Key
	// why is the first path that kept a stored candidate from being a hit.
	why string
	// saved is what the compile took when it was made.
	saved time.Duration
	total time.Duration
	// silent is set where nothing was compiled, and nothing is counted.
	silent bool
	// preprocessedForDeps is set where the user's dependency file needed a
	// run of the preprocessor.
	preprocessedForDeps bool
	// notText is why files were sent where preprocessed text was to be.
	notText compiler.Reason
	// verify is what came of verifying a hit.
	verify verdict
	// tier is the shared cache that had the result, "" for none.
	tier string
}

// add adds what another count found.
func (s *Stats) add(d *Stats) {
	s.HitsDirect += d.HitsDirect
	s.HitsPreprocessed += d.HitsPreprocessed
	s.HitsRemote += d.HitsRemote
	s.Misses += d.Misses
	s.CompilesFailed += d.CompilesFailed
	s.Errors += d.Errors
	s.DependencyRuns += d.DependencyRuns
	s.ListHits += d.ListHits
	s.ListMisses += d.ListMisses
	s.CompileSecondsSaved += d.CompileSecondsSaved
	s.Verify.Checked += d.Verify.Checked
	s.Verify.Mismatched += d.Verify.Mismatched
	s.Damaged += d.Damaged
	s.Races.Started += d.Races.Started
	s.Races.WonHere += d.Races.WonHere
	s.Races.WonThere += d.Races.WonThere
	s.Complete()
	for t, n := range d.HitsByTier {
		s.HitsByTier[t] += n
	}
	for r, n := range d.Uncacheable {
		s.Uncacheable[r] += n
	}
	for r, n := range d.NotRemote {
		s.NotRemote[r] += n
	}
	for r, n := range d.NotPreprocessed {
		s.NotPreprocessed[r] += n
	}
	for r, n := range d.Verify.Skipped {
		s.Verify.Skipped[r] += n
	}
}

// Complete makes the maps, so that their JSON is an object and never null.
func (s *Stats) Complete() {
	if s.Uncacheable == nil {
		s.Uncacheable = map[string]int64{}
	}
	if s.HitsByTier == nil {
		s.HitsByTier = map[string]int64{}
	}
	if s.NotRemote == nil {
		s.NotRemote = map[string]int64{}
	}
	if s.NotPreprocessed == nil {
		s.NotPreprocessed = map[string]int64{}
	}
	if s.Verify.Skipped == nil {
		s.Verify.Skipped = map[string]int64{}
	}
}

// flushAfter is how long counts may stay in memory: long enough to write them
// once for many compiles, short enough for `hpcc stats` on a killed daemon's
// cache to be about right.
const flushAfter = time.Second

// recorder counts compiles and writes the statistics log. Safe for
// concurrent use.
type recorder struct {
	path  string
	cache *cache.Disk
	log   *slog.Logger

	mu    sync.Mutex
	delta Stats
	// damaged is how much of what the cache counts is counted here.
	damaged int64
	dirty   bool
	timer   *time.Timer

	// writing is held while counts go from memory to the file, so that nobody
	// who flushes and then reads finds them in neither.
	writing sync.Mutex

	logPath string
}

func newRecorder(c *cache.Disk, logPath string, log *slog.Logger) *recorder {
	return &recorder{path: statsPath(c), cache: c, log: log, logPath: logPath}
}

func statsPath(c *cache.Disk) string { return filepath.Join(c.Dir(), "stats.json") }

// logLine is one line of the statistics log, for the compile that ended.
type logLine struct {
	Time     time.Time       `json:"time"`
	Outcome  string          `json:"outcome"`
	Reason   compiler.Reason `json:"reason,omitempty"`
	Detail   string          `json:"detail,omitempty"`
	Source   string          `json:"source,omitempty"`
	Output   string          `json:"output,omitempty"`
	Cwd      string          `json:"cwd"`
	Compiler string          `json:"compiler"`
	Args     []string        `json:"args"`
	Action   string          `json:"action,omitempty"`
	Tier     string          `json:"tier,omitempty"`
	Differs  string          `json:"differs,omitempty"`
	Seconds  float64         `json:"seconds"`
	Saved    float64         `json:"seconds_saved,omitempty"`
	// Race is where a compile was ready first that was made here and on a worker.
	Race string `json:"race,omitempty"`
}

func (r *recorder) record(j *job) {
	o := &j.outcome
	r.mu.Lock()
	d := &r.delta
	switch o.kind {
	case hitDirect:
		d.HitsDirect++
	case hitPreprocessed:
		d.HitsPreprocessed++
	case hitRemote:
		d.HitsRemote++
		if o.tier != "" {
			if d.HitsByTier == nil {
				d.HitsByTier = map[string]int64{}
			}
			d.HitsByTier[o.tier]++
		}
	case miss:
		d.Misses++
	case failed:
		d.CompilesFailed++
	case listHit:
		d.ListHits++
	case listMiss:
		d.ListMisses++
	default:
		if d.Uncacheable == nil {
			d.Uncacheable = map[string]int64{}
		}
		d.Uncacheable[string(o.reason)]++
		if o.reason == reasonError || o.reason == reasonStore || o.reason == reasonVerify {
			d.Errors++
		}
	}
	if o.preprocessedForDeps {
		d.DependencyRuns++
	}
	if j.instead != "" {
		if d.NotRemote == nil {
			d.NotRemote = map[string]int64{}
		}
		d.NotRemote[string(j.instead)]++
	}
	switch j.raced {
	case raceWonHere:
		d.Races.WonHere++
	case raceWonThere:
		d.Races.WonThere++
	}
	if j.raced != noRace {
		d.Races.Started++
	}
	if o.notText != "" {
		if d.NotPreprocessed == nil {
			d.NotPreprocessed = map[string]int64{}
		}
		d.NotPreprocessed[string(o.notText)]++
	}
	switch v := &o.verify; {
	case v.skipped != "":
		if d.Verify.Skipped == nil {
			d.Verify.Skipped = map[string]int64{}
		}
		d.Verify.Skipped[v.skipped]++
	case v.checked:
		d.Verify.Checked++
		if v.mismatched {
			d.Verify.Mismatched++
		}
	}
	d.CompileSecondsSaved += o.saved.Seconds()
	if !r.dirty {
		r.dirty = true
		r.timer = time.AfterFunc(flushAfter, r.flush)
	}
	r.mu.Unlock()
	r.writeLog(j)
}

func (r *recorder) writeLog(j *job) {
	path := r.logPath
	if v := getenv(j.req.GetEnv(), "HPCC_STATS_LOG"); v != "" {
		path = v
	}
	if path == "" {
		return
	}
	if !filepath.IsAbs(path) {
		// The directories of a build's compiles differ.
		r.log.Warn("stats-log-not-absolute", "path", path)
		return
	}
	o := &j.outcome
	line := logLine{
		Time: j.started.UTC(), Outcome: o.kind.String(), Reason: o.reason, Detail: o.detail,
		Cwd: j.req.GetCwd(), Compiler: j.req.GetCompiler(), Args: j.req.GetArgs(), Differs: o.why,
		Tier: o.tier, Seconds: o.total.Seconds(), Saved: o.saved.Seconds(), Race: raceNames[j.raced],
	}
	if j.prep != nil {
		line.Source, line.Output = j.prep.inv.Source, j.prep.inv.Object
	}
	if !o.action.IsZero() {
		line.Action = o.action.String()
	}
	b, err := json.Marshal(line)
	if err == nil {
		var f *os.File
		// One write for each line, so that lines of many processes never mix.
		if f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644); err == nil {
			_, err = f.Write(append(b, '\n'))
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		r.log.Warn("stats-log-failed", "path", path, "error", err.Error())
	}
}

// flush adds what was counted since the last flush to the file. When it returns
// the file has all that was counted before it was called.
func (r *recorder) flush() {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.mu.Lock()
	if !r.dirty {
		r.mu.Unlock()
		return
	}
	delta := r.delta
	damaged := r.cache.Damaged()
	delta.Damaged += damaged - r.damaged
	r.damaged = damaged
	r.delta, r.dirty = Stats{}, false
	r.timer.Stop()
	r.mu.Unlock()
	if err := updateCounters(r.path, func(c *Stats) { c.add(&delta) }); err != nil {
		r.log.Warn("stats-not-written", "error", err.Error())
		r.mu.Lock()
		r.delta.add(&delta) // for the flush after the next compile
		r.mu.Unlock()
	}
}

// statsPatience is how long the counters' lock is waited for.
const statsPatience = 2 * time.Second

// updateCounters changes the counters on disk under a lock that every
// process takes.
func updateCounters(path string, change func(*Stats)) error {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	// A process holds it for a millisecond; one that was stopped meanwhile must
	// not stop every build.
	for deadline := time.Now().Add(statsPatience); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR || time.Now().After(deadline) {
			return fmt.Errorf("locking the counters: %w", err)
		}
	}
	c, err := readCounters(path)
	if err != nil {
		return err
	}
	if c.Since.IsZero() {
		c.Since = time.Now().UTC().Truncate(time.Second)
	}
	change(c)
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, b, atomicfile.Options{Mode: 0o600})
}

// readCounters reads the counters; a missing or damaged file counts nothing.
func readCounters(path string) (*Stats, error) {
	c := &Stats{}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case json.Unmarshal(b, c) != nil:
		c = &Stats{}
	}
	c.Complete()
	return c, nil
}

// Stats are the counters of the engine's cache as they are now.
func (e *Engine) Stats() (*Stats, error) {
	e.stats.flush()
	return ReadStats(e.cache)
}

// ReadStats reads the counters and the usage of a cache. What a running
// daemon counted in the last second is missing unless it was drained first.
func ReadStats(c *cache.Disk) (*Stats, error) {
	counters, err := readCounters(statsPath(c))
	if err != nil {
		return nil, err
	}
	use, err := c.Usage()
	if err != nil {
		return nil, err
	}
	counters.CacheBytes, counters.CacheMaxBytes, counters.Entries = use.Bytes, use.MaxBytes, use.Entries
	return counters, nil
}

// ZeroStats sets the counters back, and nothing else.
func ZeroStats(c *cache.Disk) error {
	return updateCounters(statsPath(c), func(c *Stats) {
		*c = Stats{Since: time.Now().UTC().Truncate(time.Second)}
		c.Complete()
	})
}
