package daemon

import (
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
)

// manifestID names a manifest as one place sees it: its relative paths depend
// on the working directory, its neutral ones on the roots.
type manifestID struct {
	key   digest.Key
	place string
}

// manifest is a stored manifest made ready for checking: paths resolved,
// absences grouped by directory. It is replaced as a whole when the disk's
// changed; only the candidates' memories of directories change in place.
type manifest struct {
	stamp      cache.Stamp
	preprocess string
	candidates []*candidate
}

type candidate struct {
	action  digest.Key
	stdio   string
	inputs  []expected
	present []string
	same    []action.Pair // absolute
	links   []action.Pair // absolute, each with what it holds
	mu      sync.Mutex    // guards absent
	absent  []directory
}

// expected is an input and what it must hold.
type expected struct {
	file *file
	want digest.Digest
}

// place resolves stored paths for one compile.
type place struct {
	cwd   string
	paths *compiler.PathMap
	// machine is where the roots lie in a worker's machine, whose results name
	// them so; nil for results made here.
	machine *compiler.PathMap
}

func (p place) id() string {
	id := p.cwd
	if p.paths != nil {
		for _, r := range p.paths.Roots {
			id += "\x00" + r.Dir
		}
	}
	return id
}

// rootDirs are the project roots, none without reproducible mode.
func (p place) rootDirs() (dirs []string) {
	if p.paths != nil {
		for _, r := range p.paths.Roots {
			dirs = append(dirs, r.Dir)
		}
	}
	return dirs
}

// absolute joins a path as the compiler spelled it to the working directory.
// It is not cleaned: "link/../x" must go through the link, as the compiler's
// open did.
func (p place) absolute(name string) string {
	if path.IsAbs(name) {
		return name
	}
	return p.cwd + "/" + name
}

// directory is the absolute form of a directory of the search path, where "."
// is the working directory.
func (p place) directory(dir string) string {
	if dir == "." {
		return p.cwd
	}
	return p.absolute(dir)
}

// resolve makes a stored path absolute here.
func (p place) resolve(stored string) string { return p.absolute(p.local(stored)) }

// local spells a stored path as this checkout does.
func (p place) local(stored string) string {
	if p.machine != nil {
		stored = p.machine.Neutral(stored)
	}
	return p.paths.Local(stored)
}

// localText does the same to the paths in a text.
func (p place) localText(stored []byte) []byte {
	if p.machine != nil {
		stored = p.machine.NeutralText(stored)
	}
	return p.paths.LocalText(stored)
}

// away spells a path of this checkout as a worker's machine sees it.
func (p place) away(path string) string { return p.machine.Local(p.paths.Neutral(path)) }

func (e *Engine) resolveCandidate(c *action.Candidate, p place) *candidate {
	rc := &candidate{action: c.Action, stdio: c.StdioContext}
	rc.inputs = make([]expected, len(c.Inputs))
	for i, in := range c.Inputs {
		rc.inputs[i] = expected{e.files.at(p.resolve(in.Path)), in.Digest}
	}
	absent := make([]string, len(c.Absent))
	for i, a := range c.Absent {
		absent[i] = p.resolve(a)
	}
	chain := make([]string, len(c.Chain))
	for i, d := range c.Chain {
		chain[i] = p.directory(p.local(d))
	}
	rc.absent = groupAbsent(absent, chain)
	for _, s := range c.Same {
		rc.same = append(rc.same, action.Pair{A: p.directory(p.local(s.A)), B: p.directory(p.local(s.B))})
	}
	for _, l := range c.Links {
		rc.links = append(rc.links, action.Pair{A: p.resolve(l.A), B: p.local(l.B)})
	}
	for _, pr := range c.Present {
		rc.present = append(rc.present, p.resolve(pr))
	}
	return rc
}

// check reports whether everything the candidate was made from still holds;
// if not, why names the first path that differs.
func (c *candidate) check(files *fileTable, seen map[*file]digest.Digest) (ok bool, why string) {
	for _, in := range c.inputs {
		sum, known := seen[in.file]
		if !known {
			var err error
			if sum, _, err = files.digest(in.file); err != nil {
				return false, in.file.path
			}
			if seen != nil {
				seen[in.file] = sum
			}
		}
		if sum != in.want {
			return false, in.file.path
		}
	}
	var st unix.Stat_t
	for _, p := range c.present {
		if !isPresent(p, &st) {
			return false, p
		}
	}
	for _, pair := range c.same {
		if !isSame(pair) {
			return false, pair.A
		}
	}
	for _, l := range c.links {
		if !holdsLink(l) {
			return false, l.A
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	moved := false
	for i := range c.absent {
		ok, appeared := c.absent[i].allAbsent(files)
		if !ok {
			return false, appeared
		}
		moved = moved || c.absent[i].moved
	}
	if moved {
		if d := c.joined(); d != "" {
			return false, d
		}
	}
	return true, ""
}

// isSame reports whether two paths lead to one file or directory.
func isSame(p action.Pair) bool {
	var a, b unix.Stat_t
	return unix.Stat(p.A, &a) == nil && unix.Stat(p.B, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

// holdsLink reports whether a symbolic link holds what it held.
func holdsLink(l action.Pair) bool {
	target, err := os.Readlink(l.A)
	return err == nil && target == l.B
}

// joined names a directory of the search path that has become a second name of
// another one; then the compiler searches one of the two only. c.mu is held,
// and all directories have been looked at.
func (c *candidate) joined() string {
	type inode struct{ dev, ino uint64 }
	seen := make(map[inode]string, len(c.absent))
	for i := range c.absent {
		d := &c.absent[i]
		if !d.chain || d.last == (stamp{}) {
			continue
		}
		id := inode{d.last.dev, d.last.ino}
		other, dup := seen[id]
		if dup && !slices.ContainsFunc(c.same, func(p action.Pair) bool {
			return p == action.Pair{A: other, B: d.path} || p == action.Pair{A: d.path, B: other}
		}) {
			return d.path
		}
		seen[id] = d.path
	}
	for i := range c.absent {
		c.absent[i].moved = false
	}
	return ""
}

// isPresent reports whether a path that a search ended at still ends it. A
// directory does not: compilers pass it over. One that they passed over is
// recorded with "/." behind it.
func isPresent(path string, st *unix.Stat_t) bool {
	return unix.Stat(path, st) == nil && (st.Mode&unix.S_IFMT == unix.S_IFDIR) == strings.HasSuffix(path, "/.")
}

// load returns the manifest as this place sees it, from memory if it is there.
// A manifest that does not exist is an empty one.
func (e *Engine) load(id manifestID, p place) *manifest {
	if m, ok := e.manifests.get(id); ok {
		return m
	}
	return e.reload(id, p)
}

func (e *Engine) reload(id manifestID, p place) *manifest {
	stored, stamp, err := e.cache.Manifest(id.key)
	if err != nil {
		return &manifest{}
	}
	m := &manifest{stamp: stamp, preprocess: stored.Preprocess}
	for i := range stored.Candidates {
		m.candidates = append(m.candidates, e.resolveCandidate(&stored.Candidates[i], p))
	}
	e.manifests.put(id, m)
	return m
}

// find returns the candidate of a manifest that holds now, and which manifest it
// is in. If none does, it looks whether another process has added one since.
func (j *job) find(id manifestID) (found *candidate, in manifestID, why string) {
	e, p := j.e, j.prep.place
	m := e.load(id, p)
	// Candidates share most of their inputs; a single one needs no memory.
	var seen map[*file]digest.Digest
	if len(m.candidates) > 1 {
		seen = make(map[*file]digest.Digest, len(m.candidates[0].inputs))
	}
	for again := false; ; again = true {
		for _, c := range m.candidates {
			if !j.prep.messages.serve(c.stdio) {
				continue
			}
			ok, differs := c.check(e.files, seen)
			if ok {
				return c, id, ""
			}
			if why == "" {
				why = differs
			}
		}
		if again {
			return nil, id, why
		}
		if stamp, err := e.cache.ManifestStamp(id.key); err != nil || stamp == m.stamp {
			return nil, id, why
		}
		if m = e.reload(id, p); m.preprocess == needSource {
			id = j.sourced(id)
			m = e.load(id, p)
		}
	}
}
