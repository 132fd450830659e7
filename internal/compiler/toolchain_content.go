package compiler

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/digest"
)

// contentMemo remembers the digests of files by stamp: gcc and g++ share an
// assembler and a dozen libraries, and clang's are 200 MB. The zero value is
// ready and persists nothing.
type contentMemo struct {
	store MemoStore
	known sync.Map // stamp -> digest.Digest
}

// storedContent is the size from which a digest is worth a record of its own:
// hashing less is no slower than reading the record.
const storedContent = 1 << 20

// digest returns the digest of the regular file at path, whose stamp is s. The
// file must not change meanwhile.
func (c *contentMemo) digest(path string, s stamp) (digest.Digest, error) {
	if d, ok := c.known.Load(s); ok {
		return d.(digest.Digest), nil
	}
	name := recordName("content", fmt.Sprint(s))
	if c.store != nil && s.Size >= storedContent {
		if b, err := c.store.Memo(name); err == nil {
			// The size is a second check that the record is about this file.
			if d, err := digest.Parse(string(b)); err == nil && d.Size() == s.Size {
				c.known.Store(s, d)
				return d, nil
			}
		}
	}
	start := time.Now()
	d, err := digest.OfFile(path)
	if err != nil {
		return digest.Digest{}, err
	}
	if stampOf(path) != s {
		return digest.Digest{}, fmt.Errorf("%s changed while it was read", strconv.Quote(path))
	}
	if s.settledAt(start) {
		c.known.Store(s, d)
		if c.store != nil && s.Size >= storedContent {
			// A store that is full or read-only costs time, not correctness.
			_ = c.store.PutMemo(name, []byte(d.String()))
		}
	}
	return d, nil
}
