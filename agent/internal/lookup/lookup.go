// Package lookup records which names below the project roots a job looks up,
// found or absent. A seccomp filter stops every system call of the job that
// takes a path; the agent reads the path, walks it in the job's own root as the
// kernel is about to, notes what it meets, and lets the kernel go on. The same
// filter refuses what a compile does not need.
//
// The kernel reads the path again after the agent has, so a job that wants to
// can look up something else than is noted. That is no way out of anything: a
// job that lies about its inputs could as well write a wrong object. What is
// noted is right for programs that do not try.
package lookup

import (
	"bytes"
	"errors"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Found is what a lookup met.
type Found int

const (
	Absent Found = iota + 1
	File
	Directory
	Symlink
	Other
)

// Lookup is one name and what was there when the job looked first.
type Lookup struct {
	Path  string
	Found Found
}

// Limits of what is recorded.
type Limits struct{ Count, Bytes int }

// Recorder notes the lookups of one job.
type Recorder struct {
	root   int // O_PATH descriptor of the job's root
	roots  []string
	uid    uint32
	limits Limits

	// process answers what only /proc knows of a thread; tests replace it.
	process process

	// mu is held while one call is noted and answered.
	mu        sync.Mutex
	seen      map[string]bool
	all       []Lookup
	bytes     int
	truncated bool

	// fixed are names outside the roots that the job cannot change, since it
	// may not write to the directories above them: asked once.
	fixed map[string]entry
	// settled are absolute paths, by whether a link at their end is followed, that
	// lead only over such names and of which nothing is noted: each program that a
	// compiler starts looks up the same ones.
	settled [2]map[string]struct{}
	// walking is set while that may be so of the path that is walked.
	walking bool
}

type entry struct {
	found  Found
	target string // of a symlink
	// sealed: a directory that the job cannot write to, in none that it can.
	sealed bool
}

// maxFixed bounds memory; a compile has some hundreds.
const maxFixed = 50_000

// NewRecorder returns a recorder for a job of user uid whose root directory is
// open as root, an O_PATH descriptor, for as long as the recorder is used.
func NewRecorder(root int, roots []string, uid uint32, limits Limits) *Recorder {
	return &Recorder{
		root: root, roots: roots, uid: uid, limits: limits, process: &procfs{},
		seen: map[string]bool{}, fixed: map[string]entry{}, settled: [2]map[string]struct{}{{}, {}},
	}
}

// Lookups returns what was recorded, in the order of first lookups, and whether
// something was left out: above a limit, or because the kernel would not tell. It
// is not to be called before all of the job's processes are dead; Record may still
// wait for the last one that has the filter and is none of the job's.
func (r *Recorder) Lookups() (all []Lookup, truncated bool) {
	// A call of a process that has died may still be under way. It is taken back.
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all), r.truncated
}

func (r *Recorder) below(p string) bool {
	for _, root := range r.roots {
		if p == root || strings.HasPrefix(p, root) && p[len(root)] == '/' {
			return true
		}
	}
	return false
}

func (r *Recorder) note(p string, f Found) {
	if !r.below(p) {
		return
	}
	r.walking = false
	// A longer name exists nowhere: the kernel says ENAMETOOLONG.
	if r.seen[p] || len(p) >= unix.PathMax {
		return
	}
	if len(r.all) >= r.limits.Count || r.bytes+len(p) > r.limits.Bytes {
		r.truncated = true
		return
	}
	r.seen[p] = true
	r.bytes += len(p)
	r.all = append(r.all, Lookup{p, f})
}

// maxLinks is MAXSYMLINKS of linux/namei.h.
const maxLinks = 40

// walk follows p from base, a clean path without links, as the kernel would for
// thread tid, and notes: each link that it passes, each directory that ".."
// leaves, and what stands at the end or is missing there. Directories that are
// only passed through need no note: what they hold says that they are there.
func (r *Recorder) walk(tid uint32, base, p string, follow bool) {
	if strings.HasPrefix(p, "/") {
		base = "/"
	}
	follow = follow || asksForDir(p)
	if !r.direct(base, p, follow) {
		r.step(tid, base, p, follow)
	}
}

// direct is walk for a name below the roots that no link and no ".." leads to:
// nothing but that name is to be noted, and the kernel can be asked for it at once.
// It does nothing, and returns false, where that is not so.
func (r *Recorder) direct(base, p string, follow bool) bool {
	if strings.Contains(p, "..") {
		return false
	}
	full := p
	if p[0] != '/' {
		full = path.Join(base, p)
	} else if r.below(p) {
		full = path.Clean(p)
	}
	if full == base || !r.below(full) {
		return false
	}
	fd, err := openPath(r.root, full, unix.RESOLVE_NO_SYMLINKS)
	if err == unix.ENOENT {
		r.note(full, Absent)
		return true
	} else if err != nil {
		// ELOOP: a link on the way. ENOTDIR: something else, which is to be noted.
		return false
	}
	defer unix.Close(fd)
	e, _, err := entryOf(fd)
	if err != nil || e.found == Symlink && follow {
		return false
	}
	r.note(full, e.found)
	return true
}

// step is walk name by name.
func (r *Recorder) step(tid uint32, base, p string, follow bool) {
	cur, rest := base, split(p)
	last := Directory // what cur is
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			r.note(cur, Directory)
			cur, last = path.Dir(cur), Directory
			continue
		}
		next := path.Join(cur, name)
		if cur == "/proc" && (name == "self" || name == "thread-self") {
			next = r.process.self(tid, name)
			r.walking = false
		}
		e := r.look(cur, next)
		switch {
		case e.found == Absent:
			r.missing(next, rest)
			return
		case e.found == Symlink && (follow || len(rest) > 0):
			r.note(next, Symlink)
			if links++; links > maxLinks {
				return
			}
			if strings.HasPrefix(e.target, "/") {
				cur = "/"
			}
			if asksForDir(e.target) && len(rest) == 0 {
				follow = true
			}
			rest = append(split(e.target), rest...)
			last = Directory
		case e.found != Directory && len(rest) > 0:
			// Not a directory: nothing can be below.
			r.note(next, e.found)
			r.missing(next, rest)
			return
		default:
			cur, last = next, e.found
		}
	}
	r.note(cur, last)
}

// missing notes that next is absent, or cannot be passed, with rest to go. The
// whole path is the better absence: it holds even where the directory exists.
// Not if ".." follows, which leads elsewhere once next is there.
func (r *Recorder) missing(next string, rest []string) {
	for _, name := range rest {
		if name == ".." {
			r.note(next, Absent)
			return
		}
	}
	r.note(path.Join(next, strings.Join(rest, "/")), Absent)
}

// asksForDir tells whether a link before the end of p is followed in any case,
// since something comes after it: a slash, or the directory itself.
func asksForDir(p string) bool { return strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") }

func split(p string) []string {
	var names []string
	for name := range strings.SplitSeq(p, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	return names
}

// look says what is at p, an entry of the directory dir.
func (r *Recorder) look(dir, p string) entry {
	cache := !r.below(p) && r.sealed(dir)
	if cache {
		if e, ok := r.fixed[p]; ok {
			return e
		}
	}
	e, st, err := lookAt(r.root, p)
	if err != nil {
		r.truncated, r.walking = true, false
		return e
	}
	if cache && len(r.fixed) < maxFixed {
		e.sealed = e.found == Directory && st.Uid != r.uid && st.Mode&0o002 == 0
		r.fixed[p] = e
	} else {
		r.walking = false
	}
	return e
}

func (r *Recorder) sealed(dir string) bool { return dir == "/" || r.fixed[dir].sealed }

// lookAt asks the kernel what p is, without leaving root: between two looks the
// job can put a link in the way. An error says that the kernel does not tell,
// which is not that nothing is there.
func lookAt(root int, p string) (entry, unix.Stat_t, error) {
	fd, err := openPath(root, p, 0)
	switch err {
	case nil:
	// ESRCH: of a process that has ended, in /proc.
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG, unix.ESRCH:
		return entry{found: Absent}, unix.Stat_t{}, nil
	default:
		return entry{found: Absent}, unix.Stat_t{}, err
	}
	defer unix.Close(fd)
	return entryOf(fd)
}

// openPath opens p, whatever it is, as an O_PATH descriptor, without leaving root.
func openPath(root int, p string, resolve uint64) (int, error) {
	name := p[1:]
	if name == "" {
		name = "."
	}
	return unix.Openat2(root, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | resolve})
}

// entryOf says what an O_PATH descriptor is of.
func entryOf(fd int) (entry, unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return entry{found: Absent}, st, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return entry{found: File}, st, nil
	case unix.S_IFDIR:
		return entry{found: Directory}, st, nil
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", buf)
		if err != nil {
			return entry{found: Other}, st, nil //nolint:nilerr // in /proc, of a process that has ended
		}
		return entry{found: Symlink, target: string(buf[:n])}, st, nil
	}
	return entry{found: Other}, st, nil
}

// process is what the recorder asks of a stopped thread.
type process interface {
	// path reads the NUL-terminated string at address, "" if there is none: the
	// call fails then. known is false if it may have one that cannot be read.
	path(tid uint32, address uint64) (p string, known bool)
	// dir is the path of directory fd, or of the working directory for AT_FDCWD;
	// "" if it has none, known as in path.
	dir(tid uint32, fd int32) (p string, known bool)
	// self is what /proc/self or /proc/thread-self mean to the thread.
	self(tid uint32, name string) string
}

// procfs asks the kernel. One recorder uses it, from one goroutine.
type procfs struct{ buf [unix.PathMax]byte }

// path is called for every call that stops, so it costs one call itself, and no
// memory but the path's. Like the kernel, and unlike /proc/PID/mem, it reads
// nothing that the thread cannot read.
func (p *procfs) path(tid uint32, address uint64) (string, bool) {
	if address == 0 {
		return "", true
	}
	// Most paths are short, and the page behind may not be there.
	for got, want := 0, 256; got < len(p.buf); want = len(p.buf) {
		end := min(want, len(p.buf))
		if page := 4096 - int((address+uint64(got))%4096); got+page < end {
			end = got + page
		}
		local := unix.Iovec{Base: &p.buf[got]}
		local.SetLen(end - got)
		n, err := unix.ProcessVMReadv(int(tid), []unix.Iovec{local}, []unix.RemoteIovec{{Base: uintptr(address) + uintptr(got), Len: end - got}}, 0)
		if err != nil || n <= 0 {
			// A bad address is the job's own fault. ESRCH: it has died, and Record
			// forgets what this call noted.
			return "", err == nil || err == unix.EFAULT || err == unix.ESRCH
		}
		if i := bytes.IndexByte(p.buf[got:got+n], 0); i >= 0 {
			return string(p.buf[:got+i]), true
		}
		got += n
	}
	return "", true // longer than any path
}

func (*procfs) dir(tid uint32, fd int32) (string, bool) {
	link := "/proc/" + strconv.Itoa(int(tid)) + "/cwd"
	if fd != unix.AT_FDCWD {
		link = "/proc/" + strconv.Itoa(int(tid)) + "/fd/" + strconv.Itoa(int(fd))
	}
	p, err := os.Readlink(link)
	if err != nil {
		// Without such a descriptor the call fails.
		return "", errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	if !path.IsAbs(p) {
		return "", true // a pipe or such
	}
	return p, true
}

func (*procfs) self(tid uint32, name string) string {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(int(tid)) + "/status")
	if err != nil {
		return "/proc/" + name
	}
	// The last number is the one in the job's own namespace.
	inner := func(field string) string {
		for line := range strings.Lines(string(status)) {
			if numbers, ok := strings.CutPrefix(line, field+":"); ok {
				if all := strings.Fields(numbers); len(all) > 0 {
					return all[len(all)-1]
				}
			}
		}
		return name
	}
	if name == "thread-self" {
		return "/proc/" + inner("NStgid") + "/task/" + inner("NSpid")
	}
	return "/proc/" + inner("NStgid")
}

// call notes the lookups of one system call.
func (r *Recorder) call(tid uint32, nr uint32, args [6]uint64) {
	for _, c := range pathCalls[nr] {
		p, known := r.process.path(tid, args[c.path])
		if p == "" {
			// No path, or the directory itself by AT_EMPTY_PATH: no lookup.
			r.truncated = r.truncated || !known
			continue
		}
		base := "/"
		if p[0] != '/' {
			fd := int32(unix.AT_FDCWD)
			if c.dir >= 0 {
				fd = int32(args[c.dir])
			}
			if base, known = r.process.dir(tid, fd); base == "" {
				r.truncated = r.truncated || !known
				continue
			}
		}
		flags := uint64(0)
		if c.flags >= 0 {
			flags = args[c.flags]
		}
		follow := c.style.follows(flags)
		if p[0] != '/' {
			r.walk(tid, base, p, follow)
			continue
		}
		settled := r.settled[0]
		if follow {
			settled = r.settled[1]
		}
		if _, known := settled[p]; known {
			continue
		}
		r.walking = true
		if r.walk(tid, base, p, follow); r.walking && len(settled) < maxFixed {
			settled[p] = struct{}{}
		}
	}
}

func (s style) follows(flags uint64) bool {
	switch s {
	case noFollow:
		return false
	case atFlags:
		return flags&unix.AT_SYMLINK_NOFOLLOW == 0
	case linkFlags:
		return flags&unix.AT_SYMLINK_FOLLOW != 0
	case openFlags:
		return flags&unix.O_NOFOLLOW == 0 && flags&(unix.O_CREAT|unix.O_EXCL) != unix.O_CREAT|unix.O_EXCL
	}
	return true
}
