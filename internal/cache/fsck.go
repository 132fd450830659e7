package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/atomicfile"
	"hpcc.dev/hpcc/internal/digest"
)

// FsckReport says what Fsck found.
type FsckReport struct {
	Blobs     int64 `json:"blobs"`
	Entries   int64 `json:"entries"`
	Manifests int64 `json:"manifests"`
	Memos     int64 `json:"memos"`
	// Quarantined entries are kept for people to look at.
	Quarantined int64 `json:"quarantined"`
	Bytes       int64 `json:"bytes"`

	// Damaged files do not hold what their name says.
	Damaged int64 `json:"damaged"`
	// Stray files have names that hpcc does not give, or not there.
	Stray int64 `json:"stray"`
	// Dangling entries and candidates name what is not there any more. That is
	// what eviction leaves, and no fault.
	Dangling int64 `json:"dangling"`
	// Repaired is how many of all these were removed.
	Repaired int64 `json:"repaired"`
	// Problems are the first maxProblems of them.
	Problems []Problem `json:"problems"`
}

// Clean reports whether everything that is there is right.
func (r *FsckReport) Clean() bool { return r.Damaged == 0 && r.Stray == 0 }

// Problem is a file that is not as it should be.
type Problem struct {
	Path string `json:"path"`
	// What is "damaged", "stray" or "dangling".
	What   string `json:"what"`
	Detail string `json:"detail"`
}

const maxProblems = 1000

// What a Problem can be.
const (
	damaged  = "damaged"
	stray    = "stray"
	dangling = "dangling"
)

func (r *FsckReport) add(path, what, detail string, repaired bool) {
	switch what {
	case damaged:
		r.Damaged++
	case stray:
		r.Stray++
	case dangling:
		r.Dangling++
	}
	if repaired {
		r.Repaired++
	}
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, Problem{path, what, detail})
	}
}

// Fsck reads and checks every file, recomputes every action's key, and follows
// every name; with repair it removes what is wrong. Compiles may go on
// meanwhile. It keeps eviction away, and is ErrBusy if one does not end.
func (c *Disk) Fsck(ctx context.Context, repair bool) (FsckReport, error) {
	return c.FsckProgress(ctx, repair, func(int64) {})
}

// FsckProgress is Fsck for somebody who waits: progress is called for each
// file with the bytes of those before it.
func (c *Disk) FsckProgress(ctx context.Context, repair bool, progress func(bytes int64)) (FsckReport, error) {
	report := FsckReport{Problems: []Problem{}}
	unlock, err := c.lock("evict", lockPatience)
	if err != nil {
		return report, fmt.Errorf("checking the cache: %w", err)
	}
	defer unlock()
	var held tally
	var seen int64
	// Blobs come first, so that entries are judged by those that are left.
	err = c.walk(ctx, func(f file) error {
		err := ctx.Err() // a blob may be large
		progress(seen)
		seen += f.size
		if err == nil {
			err = c.check(f, repair, &report)
		}
		if _, statErr := os.Lstat(f.path()); statErr == nil {
			_ = held.add(f)
		}
		return err
	})
	report.Bytes = held.bytes
	if err != nil {
		return report, fmt.Errorf("checking the cache: %w", err)
	}
	// A cache that cannot be written can be checked all the same.
	if err := c.setUsage(held); err != nil && !errors.Is(err, ErrReadOnly) {
		return report, fmt.Errorf("checking the cache: %w", err)
	}
	return report, nil
}

// check checks one file.
func (c *Disk) check(f file, repair bool, report *FsckReport) error {
	path := f.path()
	fail := func(what, detail string, s Stamp) {
		repaired := repair
		if repair && what != stray {
			c.discard(path, s)
		} else if repair {
			repaired = os.RemoveAll(path) == nil
		}
		report.add(path, what, detail, repaired)
	}
	src, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	s := stampOf(fi)
	if !fi.Mode().IsRegular() || filepath.Base(f.dir) != f.name[:min(2, len(f.name))] || atomicfile.IsTemp(f.name) {
		fail(stray, "not a file of the cache", s)
		return nil
	}
	if f.kind == KindBlob {
		d, err := parseBlobName(f.name)
		if err != nil {
			fail(stray, "not the name of a blob", s)
			return nil
		}
		report.Blobs++
		_, err = readBlob(src, fi.Size(), d)
		if errors.Is(err, digest.ErrMismatch) {
			fail(damaged, err.Error(), s)
			err = nil
		}
		return err
	}
	key, err := digest.ParseKey(f.name)
	if err != nil {
		fail(stray, "not the name of a "+f.kind.String(), s)
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(src, MaxReport+digest.SealOverhead+action.MaxEntry))
	if err != nil {
		return err
	}
	switch f.kind {
	case KindEntry:
		report.Entries++
		e, err := action.DecodeEntry(key, b)
		switch {
		case err != nil:
			fail(damaged, err.Error(), s)
		case e.Action.Key() != key:
			fail(damaged, "the entry of another action", s)
		case !c.hasBlobs(&e.Result):
			fail(dangling, "names a blob that is gone", s)
		}
	case KindManifest:
		report.Manifests++
		m, err := action.DecodeManifest(key, b)
		if err != nil {
			fail(damaged, err.Error(), s)
			return nil
		}
		gone := slices.IndexFunc(m.Candidates, c.isGone)
		if gone < 0 {
			return nil
		}
		repaired := repair && c.dropGone(key) == nil
		report.add(path, dangling, "names an entry that is gone", repaired)
	case KindQuarantined:
		report.Quarantined++
		if _, _, err := decodeQuarantined(key, b); err != nil {
			fail(damaged, err.Error(), s)
		}
	case KindMemo:
		report.Memos++
		name := filepath.Base(filepath.Dir(f.dir)) + "/" + f.name
		if _, err := decodeMemo(memoKey(name), b); err != nil {
			fail(damaged, err.Error(), s)
		}
	}
	return nil
}

func (c *Disk) hasBlobs(r *action.Result) bool {
	for _, o := range r.Outputs {
		path := c.blobPath(o.Digest)
		if !exists(path) && !exists(path+suffix) {
			return false
		}
	}
	return true
}

func (c *Disk) isGone(x action.Candidate) bool { return !exists(c.path(KindEntry, x.Action)) }

// dropGone takes the candidates out of a manifest that name entries that are
// gone.
func (c *Disk) dropGone(key digest.Key) error {
	_, err := c.UpdateManifest(key, func(m *action.Manifest) error {
		m.Candidates = slices.DeleteFunc(m.Candidates, c.isGone)
		return nil
	})
	return err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// parseBlobName reads what blobPath wrote.
func parseBlobName(name string) (digest.Digest, error) {
	sum, size, _ := strings.Cut(strings.TrimSuffix(name, suffix), "-")
	d, err := digest.Parse(sum + "/" + size)
	if err == nil && d.Size() > MaxBlob {
		err = errors.New("blob of " + strconv.FormatInt(d.Size(), 10) + " bytes")
	}
	return d, err
}
