package remote

import (
	"container/list"
	"sync"

	"hpcc.dev/hpcc/internal/digest"
)

const (
	// maxSent bounds the contents that a client remembers, in bytes: some hundreds of
	// sources.
	maxSent = 32 << 20
	// From leastSent on, in bytes, a patch is worth the digest of its base. What is
	// longer than mostSent takes long to compare; preprocessed sources are shorter,
	// mostly.
	leastSent = 128
	mostSent  = 4 << 20
)

// sent remembers the content that was last sent for each path, those sent last
// longest: the next one is the same but for a few lines, mostly. It may be used by
// many goroutines at once.
//
// What a worker had already is not remembered: nobody here has read it, and once it
// is edited, it is gone. So a file's first edit goes up whole, unless the file did.
type sent struct {
	mu    sync.Mutex
	bytes int64
	order list.List // of *content, the one sent last in front
	at    map[string]*list.Element
}

// content is what was sent for a path. Nobody changes data.
type content struct {
	path   string
	digest digest.Digest
	data   []byte
}

func newSent() *sent { return &sent{at: map[string]*list.Element{}} }

// remembered tells whether a content is one that is remembered.
func remembered(d digest.Digest) bool { return d.Size() >= leastSent && d.Size() <= mostSent }

// put remembers a content.
func (s *sent) put(c *content) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(s.at[c.path])
	s.at[c.path] = s.order.PushFront(c)
	for s.bytes += c.digest.Size(); s.bytes > maxSent; {
		s.drop(s.order.Back())
	}
}

// drop takes an element out, with mu held; nil is none.
func (s *sent) drop(e *list.Element) {
	if e == nil {
		return
	}
	c := s.order.Remove(e).(*content)
	s.bytes -= c.digest.Size()
	delete(s.at, c.path)
}

// before returns what was sent for a path; nil if nothing was.
func (s *sent) before(path string) *content {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.at[path]; e != nil {
		return e.Value.(*content)
	}
	return nil
}
