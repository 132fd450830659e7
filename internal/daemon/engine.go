package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// Options say how an Engine works.
type Options struct {
	Cache *cache.Disk
	Log   *slog.Logger
	// Reproducible maps the project roots to fixed paths, so that checkouts
	// at different places share results.
	Reproducible bool
	// Roots are the project roots; empty means the nearest ancestor of the
	// working directory that holds .hpcc.toml or a version-control directory.
	Roots []string
	// DateTime is the policy for __DATE__ and __TIME__ in reproducible
	// builds: "warn", "error", "pin" or "allow".
	DateTime string
	// Verify is the share of hits, 0 to 1, that are compiled anyway and
	// compared.
	Verify float64
	// StatsLog is a file that gets one JSON line for each compile, or "".
	StatsLog string
	// Away has workers make the compiles, if it is not nil. Reproducible is on
	// then.
	Away *Away
	// Shared, if it is not nil, is asked for what is not in Cache, and gets what is
	// compiled here in reproducible mode. The engine closes it.
	Shared Shared
	// Disabled passes every compile through.
	Disabled bool
	// Background lets results be stored after the build has gone on. A
	// process that ends with its compile leaves it off.
	Background bool
}

// Client is the far side of one conversation: it runs commands where the
// build lives. Run returns an error only if the far side is gone. A command of
// STAGE_RACE it ends, with all that it started, where ctx ends before it; Run
// returns when nothing of it runs, with Ran.cancelled.
type Client interface {
	Run(ctx context.Context, run *ipcv1.Run) (*ipcv1.Ran, error)
}

// Engine carries out compiles: it finds results, has the misses compiled by
// the client, and stores them. Safe for concurrent use; Close waits for what
// is being stored.
type Engine struct {
	opt       Options
	cache     *cache.Disk
	log       *slog.Logger
	detector  *compiler.Detector
	files     *fileTable
	scans     *lru[digest.Digest, *compiler.FileScan]
	prepared  *lru[string, *prepared]
	manifests *lru[manifestID, *manifest]
	results   *lru[digest.Key, *result]
	listings  *lru[string, *listing]
	// guesses are what commands have read on workers, by prepared.key.
	guesses *lru[digest.Key, []string]
	// rooted are those of them that must run at the caller's own paths.
	rooted *lru[digest.Key, struct{}]
	// untexted are the units whose files must be sent, by the manifest that they
	// have then, and textTold the compilers of which the builds know so.
	untexted *lru[digest.Key, *compiler.NotCacheable]
	textTold sync.Map // string -> struct{}
	// sameness tells which compilers of this machine are an image's.
	sameness sameness
	// local bounds the compilers that run here in workers' place, or race them.
	local   chan struct{}
	flights flights
	stats   *recorder
	history *history
	running running
	// described are the toolchains whose descriptions are on disk.
	described  sync.Map // digest.Key -> struct{}
	mismatched atomic.Bool

	// compiling counts the compiles under way in this process.
	compiling atomic.Int64
	storing   sync.WaitGroup
	// slots bounds the results that are stored in the background at once;
	// past it a build waits for its own.
	slots chan struct{}
}

// NewEngine returns an engine over an open cache.
func NewEngine(opt Options) *Engine {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Away != nil && opt.Away.Paranoid {
		opt.Shared = nil // each hit is to be a worker's
	}
	local := 1
	if opt.Away != nil {
		local = max(local, opt.Away.LocalJobs)
	}
	return &Engine{
		local:    make(chan struct{}, local),
		guesses:  newLRU[digest.Key, []string](20_000),
		rooted:   newLRU[digest.Key, struct{}](20_000),
		untexted: newLRU[digest.Key, *compiler.NotCacheable](20_000),
		opt:      opt, cache: opt.Cache, log: opt.Log,
		detector: compiler.NewDetector(opt.Cache),
		files:    newFileTable(),
		// A scan holds a few kilobytes; a large C++ tree has some 20,000
		// distinct headers.
		scans:     newLRU[digest.Digest, *compiler.FileScan](50_000),
		prepared:  newLRU[string, *prepared](20_000),
		manifests: newLRU[manifestID, *manifest](20_000),
		// By names: half a million take some 50 MB.
		listings: newWeightedLRU[string, *listing](500_000),
		results:  newWeightedLRU[digest.Key, *result](256 << 20),
		stats:    newRecorder(opt.Cache, opt.StatsLog, opt.Log),
		history:  newHistory(opt.Cache),
		slots:    make(chan struct{}, 16),
	}
}

// sharedPatience bounds how long an engine that ends waits for what is still to
// be written to the shared caches.
const sharedPatience = 30 * time.Second

// Drain waits until every result that is on its way is stored and the
// statistics are on disk.
func (e *Engine) Drain() {
	e.storing.Wait()
	e.history.flush()
	e.stats.flush()
}

// Close drains the engine and closes its cache. No Compile may be under way or
// follow. That the cache's accounting could not be written is logged and no
// more: the next eviction counts anew.
func (e *Engine) Close() {
	e.Drain()
	if e.opt.Away != nil {
		if c, ok := e.opt.Away.Worker.(io.Closer); ok {
			_ = c.Close() // no compile is under way
		}
	}
	if e.opt.Shared != nil {
		ctx, cancel := context.WithTimeout(context.Background(), sharedPatience)
		defer cancel()
		if err := e.opt.Shared.Close(ctx); err != nil {
			e.log.Warn("shared-not-written", "error", err.Error(), "waited", sharedPatience.String())
		}
	}
	if err := e.cache.Close(); err != nil {
		e.log.Warn("usage-not-written", "error", err.Error())
	}
}

// Compile carries out one compiler call and returns how the conversation
// ends: Done, Pass or OneShot. It never fails: whatever goes wrong inside
// becomes a compile without a cache, and is counted.
func (e *Engine) Compile(ctx context.Context, req *ipcv1.Compile, client Client) *ipcv1.ServerMessage {
	started := time.Now()
	j := &job{e: e, req: req, client: client, started: started}
	msg, err := j.run(ctx)
	if err != nil {
		var refused *compiler.NotCacheable
		if !errors.As(err, &refused) {
			e.log.Warn("compile-uncached", "error", err.Error(), "source", j.source())
			refused = &compiler.NotCacheable{Reason: reasonError, Detail: err.Error()}
		}
		j.outcome = outcome{kind: uncacheable, reason: refused.Reason, detail: refused.Detail, silent: req.GetShowCommand()}
		msg = &ipcv1.ServerMessage{Pass: &ipcv1.Pass{Reason: string(refused.Reason)}}
	}
	switch {
	case j.deferred:
	case err == nil && j.behind != nil:
		j.client = nil // the wrapper goes on
		j.finishBehind()
	default:
		j.finish()
	}
	return msg
}

// remember stores, once for each toolchain, what its identity stands for. Only
// results that are stored are ever compared, so that hits are spared this.
func (e *Engine) remember(t *compiler.Toolchain) {
	if _, known := e.described.LoadOrStore(t.Identity, struct{}{}); !known {
		t.Remember(e.cache)
	}
}

// The engine's own reasons for not caching, beside the compiler package's.
const (
	reasonError         compiler.Reason = "internal-error"
	reasonFailed        compiler.Reason = "compile-failed"
	reasonDisabled      compiler.Reason = "disabled"
	reasonScript        compiler.Reason = "compiler-script"
	reasonUnknown       compiler.Reason = "unknown-compiler"
	reasonModified      compiler.Reason = "input-modified"
	reasonIrregular     compiler.Reason = "input-irregular"
	reasonOutputMissing compiler.Reason = "output-missing"
	reasonOutputSpecial compiler.Reason = "output-special"
	reasonOutputLarge   compiler.Reason = "output-too-large"
	reasonOutputShared  compiler.Reason = "output-shared"
	reasonStdio         compiler.Reason = "stdio-not-neutral"
	reasonStdioLarge    compiler.Reason = "stdio-too-large"
	reasonStdioGone     compiler.Reason = "stdio-not-writable"
	reasonDepFile       compiler.Reason = "dependency-file"
	reasonDateTime      compiler.Reason = "date-time"
	reasonOnceCopies    compiler.Reason = "pragma-once-copies"
	reasonAsmInclude    compiler.Reason = "assembler-include"
	reasonDependency    compiler.Reason = "pragma-dependency"
	reasonComputed      compiler.Reason = "computed-lookup"
	reasonStore         compiler.Reason = "store-failed"
	reasonVerify        compiler.Reason = "verify-mismatch"
	reasonRoot          compiler.Reason = "root-prefix"

	// Of compiles that no worker makes.
	reasonAway      compiler.Reason = "worker-unavailable"
	reasonNoRoot    compiler.Reason = "no-project-root"
	reasonLimit     compiler.Reason = "worker-limit"
	reasonUnbounded compiler.Reason = "too-many-inputs"
	reasonProjectCC compiler.Reason = "project-compiler"
	reasonOutputDir compiler.Reason = "output-directory"
	reasonRace      compiler.Reason = "race-won"

	// Of units whose files are sent though preprocessed text was to be.
	reasonTextCompiler compiler.Reason = "preprocessed-compiler"
	reasonTextLookup   compiler.Reason = "preprocessed-lookup"
	reasonTextMessages compiler.Reason = "preprocessed-messages"
)

var engineReasons = map[compiler.Reason]string{
	reasonError:         "hpcc failed; the log says how",
	reasonFailed:        "the compiler reported an error",
	reasonDisabled:      "switched off by the configuration",
	reasonScript:        "the compiler is a script, whose behaviour has no digest",
	reasonUnknown:       "the compiler did not say what it is",
	reasonModified:      "an input changed while, or just before, it was compiled",
	reasonIrregular:     "an input is not a regular file",
	reasonOutputMissing: "the compiler left no output where it was expected",
	reasonOutputLarge:   "an output is larger than the cache takes",
	reasonOutputShared:  "two compiles wrote one output at the same time",
	reasonOutputSpecial: "the output is a device, a pipe or another special file",
	reasonStdio:         "the messages cannot be made independent of where the project lies",
	reasonStdioLarge:    "the compiler printed more than the cache keeps",
	reasonStdioGone:     "the build's stdout or stderr cannot be written",
	reasonDepFile:       "the dependency file was not understood",
	reasonDateTime:      "the source uses __DATE__, __TIME__ or __TIMESTAMP__",
	reasonOnceCopies:    "two files of equal content are included once",
	reasonAsmInclude:    "the assembler may read files that nothing lists",
	reasonDependency:    "#pragma GCC dependency compares file times",
	reasonComputed:      "which headers are asked for is made by macros: known from the second compile on",
	reasonStore:         "the result could not be written to the cache",
	reasonVerify:        "a hit was compiled to verify it, and differed; its entry is in quarantine",
	reasonAway:          "no worker could be reached, or none had room",
	reasonNoRoot:        "the compile is not below a project root, so that a worker would lack its files",
	reasonLimit:         "the compile passed one of the worker's limits",
	reasonUnbounded:     "more files than a worker takes for one compile",
	reasonProjectCC:     "the compiler lies in the project itself",
	reasonOutputDir:     "the directory of an output cannot be written",
	reasonRace:          "it was compiled here as well, and was ready before the worker (remote.race)",

	reasonTextCompiler: "the compiler here does not read files as the image's does, or there is none",
	reasonTextLookup:   "the compile of preprocessed text looked for a file besides (.incbin, .include)",
	reasonTextMessages: "the compile has messages, which quote the lines of files",

	reasonRoot: "an input's path begins with the root's name without being below it",
}

// DescribeReason says in one line what a reason for not caching means; "" for
// one that this version does not know.
func DescribeReason(name string) string {
	if text, ok := engineReasons[compiler.Reason(name)]; ok {
		return text
	}
	for _, r := range slices.Concat(compiler.Reasons(), compiler.RemoteReasons(), compiler.TextReasons()) {
		if string(r.Reason) == name {
			return r.Description
		}
	}
	return ""
}

// refuse is a NotCacheable error.
func refuse(reason compiler.Reason, format string, args ...any) error {
	return &compiler.NotCacheable{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}
