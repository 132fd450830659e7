package worker

import (
	"sync"

	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/digest"
)

// maxFitted bounds what is remembered of rows, to some megabyte.
const maxFitted = 8192

// fitted is what became of a row whose command and reads moved to a blob: the
// hits of one action have that blob in common, and it takes longer to write out a
// thousand paths than all else of a hit.
type fitted struct {
	source audit.Key
	detail audit.Digest
	// short says that the command stays in the row.
	short bool
}

// fits remembers, for tenant, action and command.
type fits struct {
	mu sync.Mutex
	m  map[digest.Key]fitted
}

func (f *fits) get(key digest.Key) (fitted, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, ok := f.m[key]
	return v, ok
}

func (f *fits) put(key digest.Key, v fitted) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// All is forgotten once in a while, and written out once more.
	if f.m == nil || len(f.m) >= maxFitted {
		f.m = map[digest.Key]fitted{}
	}
	f.m[key] = v
}

// fitKey names what decides a row's blob: reads follow from the action key.
func fitKey(r *audit.Row) digest.Key {
	k := digest.NewKey("fit").Field("tenant", r.Tenant).Bytes("action", r.Action[:]).
		Field("argv", r.Argv...).Field("env", r.Env...).Field("cwd", r.Cwd).Field("roots", r.Roots...).Field("source", r.Source)
	for _, d := range r.Declared {
		optional := ""
		if d.Optional {
			optional = "optional"
		}
		k.Field("declared", d.Role, d.Path, optional)
	}
	return k.Sum()
}

// fitHit is Row.Fit for the row of a hit, which has no reads yet; fill adds them
// where nobody remembers. The blob that the row names is in the store then.
func (c *compile) fitHit(row *audit.Row, fill func()) error {
	key := fitKey(row)
	if v, ok := c.fits.get(key); ok && c.store.HasBlob(digest.Digest(v.detail)) {
		row.Time = row.Time.UTC()
		row.SourceDigest, row.Detail = v.source, v.detail
		if !v.short {
			row.Command = audit.Command{}
		}
		return nil
	}
	fill()
	detail, err := row.Fit()
	if err != nil || detail == nil {
		return err
	}
	if _, err := c.store.PutBlob(detail); err != nil {
		return err
	}
	c.fits.put(key, fitted{row.SourceDigest, row.Detail, len(row.Argv) > 0})
	return nil
}
