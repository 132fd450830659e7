package shared

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// DefaultQueueBytes is how much may wait to be written if nothing else is said.
const DefaultQueueBytes = 256 << 20

// Tier is one store of a Cache.
type Tier struct {
	// Name is what people call it, "regional"; each of a Cache's tiers has another.
	Name  string
	Store store.Store
	// Write says that results are put there. What is only read is not touched
	// either.
	Write bool
	// MaxBytes is the size below which the tenant's objects are kept (Evictor), 0 for
	// any. Who writes evicts; a tier that is not written is none of ours.
	MaxBytes int64
}

// Options say what a Cache works with.
type Options struct {
	// Tenant's objects alone are read and written; "" is DefaultTenant.
	Tenant string
	// Tiers, nearest first. Their stores should be guarded by time-outs of the kind
	// that a build can bear; without, a call ends after a minute. They are not closed.
	Tiers []Tier
	// MemoryBytes bounds a tier in memory, over packs and manifests; 0 is none.
	MemoryBytes int64
	// Signer signs what is written; without one nothing is.
	Signer *Signer
	// Trust is whose results are believed, besides Signer's own.
	Trust *Trust
	// QueueBytes bounds what waits to be written; 0 is DefaultQueueBytes.
	QueueBytes int64
	// Log may be nil.
	Log *slog.Logger
}

// Cache is what several machines share. All methods may be called concurrently.
type Cache struct {
	tenant string
	signer *Signer
	trust  *Trust
	log    *slog.Logger
	now    func() time.Time

	tiers  []*tier
	memory *memory
	queue  *queue
	// leads remembers through which manifest an action was found, for backfill.
	leads *recent[digest.Key, lead]
	locks locks
	// sealing holds a token for each result that is being compressed and signed.
	sealing chan struct{}

	manifests flights[*action.Manifest]
	results   flights[*Fetched]

	ctx    context.Context // of all that goes on behind the callers
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool
	reads  sync.WaitGroup
}

// lead is the way to an action.
type lead struct {
	manifest   digest.Key
	preprocess string
}

// New makes a Cache. It asks no store anything.
func New(opt Options) (*Cache, error) {
	if opt.Tenant == "" {
		opt.Tenant = DefaultTenant
	}
	if err := CheckTenant(opt.Tenant); err != nil {
		return nil, fmt.Errorf("shared cache: %w", err)
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.QueueBytes <= 0 {
		opt.QueueBytes = DefaultQueueBytes
	}
	c := &Cache{
		tenant: opt.Tenant, signer: opt.Signer, trust: opt.Trust.With(opt.Signer), log: opt.Log, now: time.Now,
		memory: newMemory(opt.MemoryBytes, time.Now),
		leads:  newRecent[digest.Key, lead](1 << 14),
		// The compilers need the processors: one in four will do for 250 MB/s each.
		sealing: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/4)),
	}
	names := map[string]bool{memoryName: true}
	for _, t := range opt.Tiers {
		if t.Name == "" || names[t.Name] {
			return nil, fmt.Errorf("shared cache: a tier called %q, which is no name or another's", t.Name)
		}
		if t.Store == nil {
			return nil, fmt.Errorf("shared cache: tier %q has no store", t.Name)
		}
		names[t.Name] = true
		c.tiers = append(c.tiers, newTier(t, c.log, c.now))
	}
	for _, t := range c.writable(c.tiers) {
		if t.MaxBytes > 0 {
			var err error
			t.evictor, err = NewEvictor(EvictorOptions{Store: t.Store, Tenant: c.tenant, MaxBytes: t.MaxBytes, Log: t.log})
			if err != nil {
				return nil, fmt.Errorf("shared cache: tier %q: %w", t.Name, err)
			}
		}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.queue = newQueue(c.ctx, opt.QueueBytes)
	return c, nil
}

// memoryName is the name of the memory tier in Fetched.
const memoryName = "memory"

// start runs f behind the caller, unless the Cache is closed.
func (c *Cache) start(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.reads.Go(f)
	return true
}

// Drain waits until all that was queued before is written or dropped, or until ctx
// ends, whose error it then returns.
func (c *Cache) Drain(ctx context.Context) error { return c.queue.drain(ctx) }

// closeGrace is how long Close waits, after ctx has ended, for calls of stores to
// notice.
const closeGrace = time.Second

// evictorsGrace is how long Close waits for evictors: two requests each.
const evictorsGrace = 10 * time.Second

// Close drains the queue. If ctx ends before, what is left is dropped, and the error
// is ctx's. What is called afterwards finds nothing and writes nothing. The tiers'
// stores stay open.
func (c *Cache) Close(ctx context.Context) error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	err := c.queue.close(ctx)
	c.closeEvictors(ctx)
	c.cancel()
	done := make(chan struct{})
	go func() {
		c.reads.Wait()
		c.queue.workers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		grace := time.NewTimer(closeGrace)
		defer grace.Stop()
		select {
		case <-done:
		case <-grace.C:
			err = errors.Join(err, errors.New("a store does not end its calls"))
		}
	}
	if err != nil {
		return fmt.Errorf("shared cache: %w", err)
	}
	return nil
}

// closeEvictors has each tell what was written, as long as ctx lasts. That this
// fails makes the next estimates too low by as much, and is no error.
func (c *Cache) closeEvictors(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, evictorsGrace)
	defer cancel()
	var all sync.WaitGroup
	for _, t := range c.tiers {
		if t.evictor != nil {
			all.Go(func() { _ = t.evictor.Close(ctx) })
		}
	}
	all.Wait()
}
