package daemon

import "time"

// Stats counts what became of compiles. Its JSON is what `hpcc stats --json`
// prints: fields are added but never renamed or removed.
type Stats struct {
	// Since is when counting began: the first compile, or the last zeroing.
	Since time.Time `json:"since"`

	// HitsDirect were answered from a manifest, without a preprocessor run.
	HitsDirect int64 `json:"hits_direct"`
	// HitsPreprocessed were found by the digest of the preprocessed source.
	HitsPreprocessed int64 `json:"hits_preprocessed"`
	// HitsRemote were compiled nowhere in this build: a shared cache or a worker had
	// them.
	HitsRemote int64 `json:"hits_remote"`
	// HitsByTier counts those of them that came from a shared cache, by its name.
	HitsByTier map[string]int64 `json:"hits_by_tier"`
	// Misses were compiled, and stored where the compile succeeded.
	Misses int64 `json:"misses"`
	// CompilesFailed counts the misses whose compiler reported an error;
	// their results are not stored.
	CompilesFailed int64 `json:"compiles_failed"`
	// Uncacheable counts, by reason, the calls that were passed to the
	// compiler as they were. The reasons are package compiler's.
	Uncacheable map[string]int64 `json:"uncacheable"`
	// NotRemote counts, by reason, the compiles that a compiler of this machine
	// made in a worker's place.
	NotRemote map[string]int64 `json:"not_remote"`
	// NotPreprocessed counts, by reason, the compiles that preprocessed text was
	// to be sent for and that went, or hit, by their files. They are among the
	// numbers above.
	NotPreprocessed map[string]int64 `json:"not_preprocessed"`
	// Races counts the compiles that were made here while a worker made them, too.
	Races RaceStats `json:"races"`
	// DependencyRuns counts the misses whose dependency file (-MMD) needed a
	// run of the preprocessor besides the compile.
	DependencyRuns int64 `json:"dependency_runs"`
	// ListHits and ListMisses count the calls that only list dependencies (-M,
	// -MM) and were answered from the cache, or made. They are no compiles, so
	// no part of the numbers above.
	ListHits   int64 `json:"list_hits"`
	ListMisses int64 `json:"list_misses"`
	// Errors counts faults of hpcc itself (a damaged entry, a full disk),
	// after which the compiler ran as if hpcc were not there.
	Errors int64 `json:"errors"`

	// Verify counts the hits that were compiled anyway.
	Verify VerifyStats `json:"verify"`
	// Damaged counts the files of the cache that did not hold what they should
	// and were removed.
	Damaged int64 `json:"damaged"`

	// CompileSecondsSaved is the sum of what the compiles cost whose results
	// were reused, less what reusing them cost, in seconds.
	CompileSecondsSaved float64 `json:"compile_seconds_saved"`

	// CacheBytes and Entries are the size of the disk cache, and
	// CacheMaxBytes the size at which it evicts.
	CacheBytes    int64 `json:"cache_bytes"`
	CacheMaxBytes int64 `json:"cache_max_bytes"`
	Entries       int64 `json:"entries"`
}

// RaceStats counts races by who was ready first.
type RaceStats struct {
	// Started are those for which a compiler was started here.
	Started int64 `json:"started"`
	// WonHere were ready here first; they are among NotRemote, too. WonThere were
	// ready on the worker first. The rest of Started was interrupted, or failed
	// here and on the way to the worker.
	WonHere  int64 `json:"won_here"`
	WonThere int64 `json:"won_there"`
}

// VerifyStats counts hits that were to be verified.
type VerifyStats struct {
	// Checked were compiled and compared.
	Checked int64 `json:"checked"`
	// Mismatched are those of them that differed; their entries are in
	// quarantine.
	Mismatched int64 `json:"mismatched"`
	// Skipped counts, by reason, those that could not be judged.
	Skipped map[string]int64 `json:"skipped"`
}

// Hits is the number of compiles that were answered from the cache.
func (s *Stats) Hits() int64 {
	return s.HitsDirect + s.HitsPreprocessed + s.HitsRemote
}

// HitRate is the share of cacheable compiles that hit, 0 to 1; 0 before the
// first.
func (s *Stats) HitRate() float64 {
	n := s.Hits() + s.Misses
	if n == 0 {
		return 0
	}
	return float64(s.Hits()) / float64(n)
}

// CleanOptions says what CleanCache removes.
type CleanOptions struct {
	// All removes everything.
	All bool
	// OlderThan removes what was not used for that long; 0 removes what is
	// over the size limit, and what was left behind by programs that died.
	OlderThan time.Duration
}

// CleanReport says what CleanCache removed.
type CleanReport struct {
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
	// EntriesLeft and BytesLeft are what is still there.
	EntriesLeft int64 `json:"entries_left"`
	BytesLeft   int64 `json:"bytes_left"`
}
