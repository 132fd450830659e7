package shared

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

const (
	// batchSize is how many objects are looked at at once and then removed, with one
	// look at the lease before: the fewer, the less time there is in between.
	batchSize = 32
	// maxCandidates bounds how many objects a listing remembers for removal, the
	// oldest: twice as many take 100 MB. Where they are not enough, it lists again.
	maxCandidates = 1 << 19
	// maxListings bounds that.
	maxListings = 100
)

// SweepOptions say what a sweep removes besides what exceeds MaxBytes.
type SweepOptions struct {
	// OlderThan, if it is not 0, removes all objects that were not put or touched
	// for so long, even if it is less than Grace.
	OlderThan time.Duration
	// Progress, if not nil, is called with what was listed and removed so far, by
	// one goroutine at a time.
	Progress func(SweepReport)
}

// SweepReport is what a sweep found and removed.
type SweepReport struct {
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
	// FreshBytes is the size of those of them that are within the grace period.
	FreshBytes int64 `json:"fresh_bytes"`
	// Foreign are objects below the tenant's name that are not hpcc's.
	Foreign      int64 `json:"foreign"`
	Removed      int64 `json:"removed"`
	RemovedBytes int64 `json:"removed_bytes"`
	// Spared were used after they had been listed.
	Spared int64 `json:"spared"`
}

// Left is the size of what is left.
func (r *SweepReport) Left() int64 { return r.Bytes - r.RemovedBytes }

// candidate is an object that may be removed, with its name as a key: a million of
// names takes a hundred megabytes more.
type candidate struct {
	// used is when it was put or touched, in nanoseconds since 1970 by the store's
	// clock; order is what candidates are sorted by.
	used, order int64
	size        int64
	blobSize    int64
	key         digest.Key
	kind        byte   // index of kinds
	sealed      string // the name of an object that another key encrypts
}

var kinds = [...]Kind{KindManifest, KindResult, KindBlob, KindCcache}

func (c *candidate) name(tenant string) string {
	switch {
	case c.sealed != "":
		return c.sealed
	case kinds[c.kind] == KindBlob:
		return fmt.Sprintf("%s-%d", objectName(tenant, KindBlob, c.key), c.blobSize)
	}
	return objectName(tenant, kinds[c.kind], c.key)
}

// candidateOf returns what is known of an object of the tenant; ok is false where it
// is not hpcc's.
func candidateOf(tenant string, info store.Info) (c candidate, ok bool) {
	c.used, c.size = info.Modified.UnixNano(), info.Size
	c.order = c.used
	of, kind, key, blobSize, ok := parseName(info.Name)
	switch {
	case ok && of == tenant:
		c.key, c.blobSize, c.kind = key, blobSize, byte(slices.Index(kinds[:], kind))
		if kind == KindBlob {
			// It is put just before the pack that names it, which should go first: a
			// pack without its blob costs a request for nothing.
			c.order += int64(time.Minute)
		}
	case store.IsSealedName(info.Name) && isKindOf(tenant, info.Name):
		c.sealed, ok = info.Name, true
	default:
		ok = false
	}
	return c, ok
}

// isKindOf reports whether a name lies below one of the tenant's kinds.
func isKindOf(tenant, name string) bool {
	rest, ok := strings.CutPrefix(name, tenant+"/")
	kind, _, deeper := strings.Cut(rest, "/")
	return ok && deeper && slices.Contains(kinds[:], Kind(kind))
}

// Sweep lists the tenant's objects, sets the estimate right, and removes what
// exceeds MaxBytes, down to nine tenths of it. An error that wraps ErrEvicting says
// that another client does so. What was done before an error is in the report.
func (e *Evictor) Sweep(ctx context.Context, opt SweepOptions) (SweepReport, error) {
	var r SweepReport
	l, err := e.acquire(ctx)
	if err != nil {
		return r, err
	}
	ctx, stop := context.WithCancelCause(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		l.keep(ctx, stop)
	}()
	defer func() {
		stop(nil)
		<-kept
		l.release(ctx)
	}()
	for range maxListings {
		var enough bool
		before := r.Removed
		if r, enough, err = e.sweepOnce(ctx, l, opt, r); enough || err != nil || r.Removed == before {
			break
		}
	}
	if errors.Is(context.Cause(ctx), errLeaseLost) {
		err = errLeaseLost
	}
	e.mu.Lock()
	e.stats.Sweeps++
	e.mu.Unlock()
	if err == nil {
		e.opt.Log.Info("shared-cache-swept", "store", e.opt.Store.String(), "tenant", e.opt.Tenant,
			"objects", r.Objects, "bytes", r.Bytes, "removed", r.Removed, "removed_bytes", r.RemovedBytes)
	}
	return r, err
}

// sweepOnce lists once and removes what it then knows to be too much. enough is
// false where more candidates than it remembered would have to go.
func (e *Evictor) sweepOnce(ctx context.Context, l *lease, opt SweepOptions, before SweepReport) (r SweepReport, enough bool, err error) {
	was, err := e.readUsage(ctx)
	if err != nil {
		return before, false, err
	}
	// What is written from now on is younger than this, by the store's clock.
	grace := e.opt.Grace
	if opt.OlderThan > 0 {
		grace = min(grace, opt.OlderThan)
	}
	fresh := l.began.Add(-grace).UnixNano()
	r = SweepReport{Removed: before.Removed, RemovedBytes: before.RemovedBytes, Spared: before.Spared}
	var list []candidate
	cut := false
	err = e.opt.Store.List(ctx, e.opt.Tenant+"/", func(info store.Info) error {
		c, ok := candidateOf(e.opt.Tenant, info)
		if !ok {
			if info.Name != e.usageName() && info.Name != e.lockName() {
				r.Foreign++
			}
			return nil
		}
		r.Objects++
		r.Bytes += c.size
		if opt.Progress != nil {
			opt.Progress(r)
		}
		if c.used >= fresh {
			r.FreshBytes += c.size
			return nil
		}
		if list = append(list, c); len(list) == 2*e.remember {
			list, cut = oldest(list, e.remember), true
		}
		return nil
	})
	// The objects that an earlier listing removed belong to the total that is told.
	r.Objects += before.Removed
	r.Bytes += before.RemovedBytes
	if err != nil {
		return before, false, err
	}
	if cut { // those after the oldest e.remember may be younger than some that were cut
		list = oldest(list, min(len(list), e.remember))
	} else {
		list = oldest(list, len(list))
	}
	last := l.began.Add(-opt.OlderThan).UnixNano()
	target := r.Left()
	if target > e.opt.MaxBytes {
		target = percent(e.opt.MaxBytes, lowWater)
	}
	remove := func(c *candidate) bool {
		return r.Left() > target || opt.OlderThan > 0 && c.used < last
	}
	for len(list) > 0 && err == nil && remove(&list[0]) {
		list, err = e.removeBatch(ctx, l, list, remove, &r)
		if opt.Progress != nil {
			opt.Progress(r)
		}
	}
	// The estimate is set right even after an error, for what was listed and removed
	// is known; but by who has the lease alone.
	if _, lost := l.renew(ctx); lost != nil {
		return r, false, cmp.Or(err, lost)
	}
	_, setErr := e.changeUsage(ctx, func(now usage) usage {
		// What others have told meanwhile may be in the listing or not: too much is
		// better, for the next listing comes earlier then.
		told := max(now.Bytes-was.Bytes, 0)
		now.Bytes, now.Listed = r.Left()+told, l.began
		return now
	})
	return r, !cut || len(list) > 0, errors.Join(err, setErr)
}

// oldest sorts candidates and keeps the n that were not used for longest.
func oldest(list []candidate, n int) []candidate {
	slices.SortFunc(list, func(a, b candidate) int { return cmp.Compare(a.order, b.order) })
	return list[:n]
}

// removeBatch removes candidates from the list's beginning, as long as remove says
// so, and returns the rest. It removes none without the lease.
func (e *Evictor) removeBatch(ctx context.Context, l *lease, list []candidate, remove func(*candidate) bool, r *SweepReport) ([]candidate, error) {
	until, err := l.renew(ctx)
	if err != nil {
		return list, err
	}
	ctx, cancel := context.WithDeadlineCause(ctx, until, errLeaseLost)
	defer cancel()
	batch := list[:min(len(list), batchSize)]
	names := make([]string, len(batch))
	gone := make([]bool, len(batch))
	looks, lookCtx := errgroup.WithContext(ctx)
	for i := range batch {
		looks.Go(func() error {
			name := batch[i].name(e.opt.Tenant)
			info, err := e.opt.Store.Stat(lookCtx, name)
			switch {
			case errors.Is(err, store.ErrNotFound):
				gone[i] = true
			case err != nil:
				return err
			case unused(info, &batch[i]):
				names[i] = name
			}
			return nil
		})
	}
	if err := looks.Wait(); err != nil {
		return list, cmp.Or(contextCause(ctx), err)
	}
	// Which of them go is decided in order, one by one: each makes room.
	after := *r
	var doomed []string
	n := 0
	for n < len(batch) && remove(&batch[n]) {
		switch {
		case names[n] != "":
			doomed = append(doomed, names[n])
			r.Removed++
			r.RemovedBytes += batch[n].size
		case gone[n]: // by a lifecycle rule, or by hand: it makes room as well
			r.RemovedBytes += batch[n].size
		default:
			r.Spared++
		}
		n++
	}
	if err := store.DeleteMany(ctx, e.opt.Store, doomed); err != nil {
		*r = after // which of them went, the next listing tells
		return list, cmp.Or(contextCause(ctx), err)
	}
	e.mu.Lock()
	e.stats.Removed += r.Removed - after.Removed
	e.stats.RemovedBytes += r.RemovedBytes - after.RemovedBytes
	e.mu.Unlock()
	return list[n:], nil
}

// unused reports whether an object is as it was listed. Some services list times in
// milliseconds and tell an object's own in seconds; whoever used it meanwhile made
// it younger by more.
func unused(now store.Info, listed *candidate) bool {
	since := time.Duration(now.Modified.UnixNano() - listed.used)
	return since.Abs() < time.Second && now.Size == listed.size
}

// contextCause is why a context ended, or nil.
func contextCause(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}
