package scheduler

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"
)

// Load is what a worker has to do.
type Load struct {
	// Capacity is how many compiles it runs at a time; at least 1.
	Capacity int
	// Running and Queued are what it said last.
	Running, Queued int
	// Promised is how many clients have been sent to it since: what it will say
	// next. It turns clients that come in one burst to different workers, and
	// makes nobody full.
	Promised int
}

// level is the load in quarters of the capacity. Differences below that do not
// move a tenant from where its headers are.
func (l Load) level() int { return 4 * (l.Running + l.Queued + l.Promised) / l.Capacity }

// free tells whether a compile would start at once.
func (l Load) free() bool { return l.Running+l.Queued < l.Capacity }

// full tells whether a worker gets no more clients: each of its slots has one
// compile waiting behind the one that runs. A longer line only helps the one who
// stands at its end to time out.
func (l Load) full() bool { return l.Running+l.Queued >= 2*l.Capacity }

// Session names a machine that is up: whose, with which image.
type Session struct{ Tenant, Image string }

// Candidate is a worker as routing sees it.
type Candidate struct {
	Name     string
	Platform string
	Load     Load
	// Age is how long ago it was heard of.
	Age      time.Duration
	Draining bool
	// Images and Sessions are what it has.
	Images   map[string]struct{}
	Sessions map[Session]struct{}
}

// Query is what a client asks for.
type Query struct {
	Tenant, Image string
	// Platform may be "": any worker that has the image.
	Platform string
	// Avoid are the workers that the client could not reach, or that turned it
	// away.
	Avoid []string
	// Expiry is how old a candidate may be.
	Expiry time.Duration
}

// OverloadError says that every worker that could serve a query is full.
type OverloadError struct{ Full int }

func (e *OverloadError) Error() string {
	return fmt.Sprintf("all %d workers that could compile this are full", e.Full)
}

// NoWorkerError says that there is no worker for a query.
type NoWorkerError struct{ Reason string }

func (e *NoWorkerError) Error() string { return e.Reason }

// class orders workers by what a compile has to wait for there. Waiting for a
// running compile costs less than fetching an image, so that a worker without it
// is only used once those that have it are full; that is how an image spreads
// under load, and only then.
type class int

const (
	warmFree  class = iota // starts at once
	imageFree              // a machine boots
	warmBusy               // another compile ends first
	imageBusy
	bareFree // the image is fetched
	bareBusy
)

func classOf(c *Candidate, q *Query) class {
	_, warm := c.Sessions[Session{q.Tenant, q.Image}]
	_, image := c.Images[q.Image]
	free := c.Load.free()
	switch {
	case warm && free:
		return warmFree
	case image && free:
		return imageFree
	case warm:
		return warmBusy
	case image:
		return imageBusy
	case free:
		return bareFree
	}
	return bareBusy
}

// Route orders the workers that may serve a query, best first, as indices of
// workers. Draining, silent and full ones, and those of other platforms, are
// never among them. It depends on its arguments alone, and not on the workers'
// order.
//
// Those to avoid are left out, unless there are no others at all, full or not:
// what was wrong with them may have passed, and the client has nobody else to
// try. If there are others and they are full, the query is refused.
//
// The error is *OverloadError or *NoWorkerError.
func Route(workers []Candidate, q *Query) ([]int, error) {
	var usable, avoided []int
	counts := struct{ platform, live, accepting int }{}
	for i := range workers {
		c := &workers[i]
		if !serves(c, q) {
			continue
		}
		counts.platform++
		if c.Age > q.Expiry {
			continue
		}
		counts.live++
		if c.Draining {
			continue
		}
		counts.accepting++
		if slices.Contains(q.Avoid, c.Name) {
			avoided = append(avoided, i)
		} else {
			usable = append(usable, i)
		}
	}
	if len(usable) == 0 {
		usable = avoided
	}
	switch {
	case len(workers) == 0:
		return nil, &NoWorkerError{"no worker has registered"}
	case counts.platform == 0 && q.Platform == "":
		return nil, &NoWorkerError{"no worker has the image: name a platform, and one that has not will fetch it"}
	case counts.platform == 0:
		return nil, &NoWorkerError{fmt.Sprintf("no worker is for %s", q.Platform)}
	case counts.live == 0:
		return nil, &NoWorkerError{"no worker has been heard of lately"}
	case counts.accepting == 0:
		return nil, &NoWorkerError{"all workers are draining"}
	}
	open := slices.DeleteFunc(slices.Clone(usable), func(i int) bool { return workers[i].Load.full() })
	if len(open) == 0 {
		return nil, &OverloadError{len(usable)}
	}
	type place struct {
		index int
		class class
		level int
		score float64
	}
	places := make([]place, len(open))
	for n, i := range open {
		c := &workers[i]
		places[n] = place{i, classOf(c, q), c.Load.level(), score(q.Tenant, q.Image, c.Name, c.Load.Capacity)}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(
			cmp.Compare(a.class, b.class),
			cmp.Compare(a.level, b.level),
			cmp.Compare(b.score, a.score),
			cmp.Compare(workers[a.index].Name, workers[b.index].Name),
		)
	})
	for n, p := range places {
		open[n] = p.index
	}
	return open, nil
}

// serves tells whether a worker is of the right kind.
func serves(c *Candidate, q *Query) bool {
	if q.Platform != "" {
		return c.Platform == q.Platform
	}
	_, ok := c.Images[q.Image]
	return ok
}

// score is a worker's in weighted rendezvous hashing: of several workers, each
// has the highest score for a share of all pairs of tenant and image that is
// proportional to its capacity. When one comes or goes, only pairs that it wins,
// or won, move.
func score(tenant, image, worker string, capacity int) float64 {
	h := sha256.New()
	for _, s := range []string{tenant, image, worker} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	// 53 bits, so that it is exact, and never 0 or 1.
	u := (float64(binary.BigEndian.Uint64(h.Sum(nil))>>11) + 0.5) / (1 << 53)
	return float64(capacity) / -math.Log(u)
}
