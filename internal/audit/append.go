package audit

import (
	"context"
	"fmt"
	"time"
)

const (
	// maxWait bounds how long a batch waits for more rows.
	maxWait = 2 * time.Millisecond
	// maxBatch bounds the rows of a batch, 1.2 MB for ordinary rows and 60 MB for
	// the largest.
	maxBatch = 1024
	// maxKept is how large a buffer is kept for the next batch.
	maxKept = 4 << 20
)

// pending is a row on its way.
type pending struct {
	row    []byte
	number uint64
	done   chan error // takes one, without being waited for
}

// Append implements Log.
func (j *Journal) Append(ctx context.Context, r *Row) (uint64, error) {
	row, err := encodeRow(r)
	if err != nil {
		return 0, err
	}
	p := &pending{row: row, done: make(chan error, 1)}
	select {
	case j.queue <- p:
	case <-j.closing:
		return 0, ErrClosed
	case <-ctx.Done():
		return 0, fmt.Errorf("audit: %w", ctx.Err())
	}
	select {
	case err := <-p.done:
		return p.number, err
	case <-ctx.Done():
		return 0, fmt.Errorf("audit: %w", ctx.Err())
	}
}

// write is the goroutine that appends.
func (j *Journal) write() {
	defer close(j.closed)
	defer func() {
		_ = j.file.Close() // what counts is durable
		j.lock.Close()
	}()
	for {
		select {
		case first := <-j.queue:
			batch := j.gather(first)
			err := j.commit(batch)
			j.count(len(batch), err)
			for _, p := range batch {
				p.done <- err
			}
		case <-j.closing:
			return
		}
	}
}

// gather collects the rows of a batch: all that wait, and for a moment those
// that are likely to come. Callers of one batch are told together, and often come
// back together; without the wait the first of them would get a sync for itself,
// and all others wait for the next. A lone caller never waits.
func (j *Journal) gather(first *pending) []*pending {
	batch := []*pending{first}
	var patience <-chan time.Time
	for len(batch) < maxBatch {
		select {
		case p := <-j.queue:
			batch = append(batch, p)
			continue
		default:
		}
		if len(batch) >= j.expect {
			break
		}
		if patience == nil {
			timer := time.NewTimer(maxWait)
			defer timer.Stop()
			patience = timer.C
		}
		select {
		case p := <-j.queue:
			batch = append(batch, p)
			continue
		case <-patience:
		case <-j.closing:
		}
		break
	}
	j.expect = len(batch)
	return batch
}

// commit makes a batch durable, or leaves the journal as it was.
func (j *Journal) commit(batch []*pending) error {
	if j.unclean {
		if err := j.takeBack(); err != nil {
			return err
		}
	}
	if j.size >= j.opt.SegmentBytes {
		if err := j.begin(); err != nil {
			return err
		}
	}
	b, number, chain := j.buf[:0], j.next, j.chain
	for _, p := range batch {
		chain = nextChain(chain, number, p.row)
		b = append(appendLine(b, number, chain, p.row), '\n')
		p.number = number
		number++
	}
	if cap(b) <= maxKept {
		j.buf = b
	}
	_, err := j.file.Write(b)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		err = fmt.Errorf("audit: rows %d to %d: %w", j.next, number-1, err)
		j.log.Error("audit-write-failed", "first", j.next, "rows", len(batch), "error", err)
		j.unclean = true
		// If this fails too, the next batch tries again before it writes.
		_ = j.takeBack()
		return err
	}
	j.size += int64(len(b))
	j.next, j.chain = number, chain
	return nil
}

// takeBack removes what a failed write left. Its rows' numbers are given anew, so
// nothing of them may come back after a crash: hence the sync.
func (j *Journal) takeBack() error {
	if err := j.file.Truncate(j.size); err != nil {
		return fmt.Errorf("audit: taking back a failed write: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("audit: taking back a failed write: %w", err)
	}
	j.unclean = false
	return nil
}

func (j *Journal) count(rows int, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.stats.Err = err
	j.stats.Next = j.next
	if err != nil {
		j.stats.Failures++
		return
	}
	j.stats.Batches++
	j.stats.Rows += int64(rows)
}
