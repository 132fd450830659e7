//go:build linux

// Package search looks for a mark in everything that a process can read: names,
// contents, links and devices below a directory, the memory of processes, the
// kernel's tables of sockets and System V objects. Tests ask with it what one
// tenant's machine, or one job, can see of another's.
package search

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Search is one search. Found says where the mark was; the numbers say how much
// was looked at, so that a search that saw nothing is told from one that did
// not look.
type Search struct {
	mark  []byte
	Found []string
	// Names, and of these files and devices that could be read; the bytes of
	// contents and of memory.
	Names, Files  int
	Bytes, Memory int64
	// Denied are names that are there and could not be opened.
	Denied int

	buf  []byte
	seen map[[2]uint64]bool
}

// Hide is how a mark is given to a program that is to search for it: the
// program's own arguments are among what it finds.
func Hide(mark string) string { return hex.EncodeToString([]byte(mark)) }

// New makes a search for a hidden mark.
func New(hidden string) (*Search, error) {
	mark, err := hex.DecodeString(hidden)
	if err == nil && len(mark) < 8 {
		err = errors.New("too short to mean anything")
	}
	return &Search{mark: mark, buf: make([]byte, 1<<20), seen: map[[2]uint64]bool{}}, err
}

// String is a summary for logs.
func (s *Search) String() string {
	return fmt.Sprintf("searched %d names, %d files of %d bytes, %d bytes of memory; %d denied; found %d", s.Names, s.Files, s.Bytes, s.Memory, s.Denied, len(s.Found))
}

func (s *Search) found(where string, around []byte) {
	if len(s.Found) < 1000 {
		s.Found = append(s.Found, fmt.Sprintf("%s: %.60q", where, around))
	}
}

// check looks at bytes that are in memory.
func (s *Search) check(where string, b []byte) {
	if i := bytes.Index(b, s.mark); i >= 0 {
		s.found(where, b[i:])
	}
}

// Tree searches everything at and below dir, through mounts but not through
// links. What was seen by another name is not read again.
func (s *Search) Tree(dir string) {
	own := "/proc/" + strconv.Itoa(os.Getpid())
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		s.Names++
		s.check("the name "+p, []byte(p))
		if err != nil {
			s.Denied++
			return nil //nolint:nilerr // it is counted
		}
		switch in := strings.TrimPrefix(p, dir); {
		case d.Type()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(p)
			s.check("the link "+p, []byte(target))
		case d.IsDir():
			// Threads have what their processes have.
			if ok, _ := filepath.Match("/proc/[0-9]*/task", in); ok {
				return fs.SkipDir
			}
		default:
			// What follows does not end, or means something else than it says:
			// addresses instead of memory. Memory has a search of its own.
			if slices.Contains([]string{"mem", "pagemap", "kcore", "kpagecount", "kpageflags", "kpagecgroup"}, d.Name()) && strings.Contains(p, "/proc/") {
				return nil
			}
			if strings.HasPrefix(p, own+"/") && d.Name() == "auxv" {
				return nil
			}
			s.file(p, d.Type())
		}
		return nil
	})
}

// file searches the content of a file or device.
func (s *Search) file(p string, kind fs.FileMode) {
	device := kind&fs.ModeDevice != 0
	if kind&fs.ModeCharDevice != 0 && filepath.Base(p) != "kmsg" || kind&(fs.ModeSocket|fs.ModeNamedPipe) != 0 {
		return // random bytes, terminals
	}
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		s.Denied++
		return
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && !device && st.Size > 0 {
		if id := [2]uint64{st.Dev, st.Ino}; s.seen[id] {
			return
		} else {
			s.seen[id] = true
		}
	}
	// A table of the kernel's ends some time, or a lot of it will do.
	most := int64(16 << 20)
	if st.Size > 0 || device {
		most = 1 << 40
	}
	n := s.stream(p, most, func(b []byte) (int, error) { return unix.Read(fd, b) })
	s.Files++
	s.Bytes += n
}

// stream searches what read gives, of which the mark may be anywhere.
func (s *Search) stream(where string, most int64, read func([]byte) (int, error)) (total int64) {
	kept := 0
	for total < most {
		n, err := read(s.buf[kept:])
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EPIPE) && strings.HasSuffix(where, "kmsg") {
			continue
		}
		if err != nil || n <= 0 {
			return total
		}
		total += int64(n)
		b := s.buf[:kept+n]
		if i := bytes.Index(b, s.mark); i >= 0 {
			s.found(where, b[i:])
			return total
		}
		kept = min(len(b), len(s.mark)-1)
		copy(s.buf, b[len(b)-kept:])
	}
	return total
}

// Processes searches the memory and the open files of all other processes, and
// the trees that they see and this one does not.
func (s *Search) Processes() {
	roots := map[string]bool{}
	if own, err := os.Readlink("/proc/self/ns/mnt"); err == nil {
		roots[own] = true
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if dir == "/proc/"+strconv.Itoa(os.Getpid()) {
			continue
		}
		s.memory(dir)
		fds, _ := os.ReadDir(dir + "/fd")
		for _, fd := range fds {
			p := filepath.Join(dir, "fd", fd.Name())
			if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
				s.file(p, 0)
			}
		}
		if ns, err := os.Readlink(dir + "/ns/mnt"); err == nil && !roots[ns] {
			roots[ns] = true
			s.Tree(dir + "/root/")
		}
	}
}

func (s *Search) memory(dir string) {
	maps, err := os.ReadFile(dir + "/maps")
	if err != nil {
		s.Denied++
		return
	}
	mem, err := os.Open(dir + "/mem")
	if err != nil {
		s.Denied++
		return
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var access string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &access); n != 3 || access[0] != 'r' || from < 0 {
			continue
		}
		at := from
		s.Memory += s.stream(dir+"/mem "+strings.TrimSpace(line), to-from, func(b []byte) (int, error) {
			n, err := mem.ReadAt(b[:min(int64(len(b)), to-at)], at)
			at += int64(n)
			if n > 0 {
				err = nil
			}
			return n, err
		})
	}
}

// Objects searches what has no name in a tree: sockets, System V shared memory
// and message queues. All of these that are there are found, whatever they hold:
// a job that has made none has none.
func (s *Search) Objects() {
	for _, table := range []string{"/proc/net/unix", "/proc/sysvipc/shm", "/proc/sysvipc/msg", "/proc/sysvipc/sem"} {
		text, err := os.ReadFile(table)
		if err != nil {
			s.Denied++
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		for _, line := range lines[min(1, len(lines)):] {
			s.found(table, []byte(strings.Join(strings.Fields(line), " ")))
		}
	}
	// By number, without the tables: SHM_STAT of shmctl(2) takes an index.
	for i := range 64 {
		var info [256]byte
		id, _, e := unix.Syscall(unix.SYS_SHMCTL, uintptr(i), shmStat, uintptr(unsafe.Pointer(&info[0])))
		if e != 0 {
			continue
		}
		s.found("shared memory", []byte(strconv.Itoa(int(id))))
		if b, err := unix.SysvShmAttach(int(id), 0, unix.SHM_RDONLY); err == nil {
			s.check(fmt.Sprint("shared memory ", id), b)
			_ = unix.SysvShmDetach(b)
		}
	}
}

const shmStat = 13 // SHM_STAT of linux/shm.h

// Others names the processes that are there besides this one, with what can be
// known of them.
func Others() []string {
	var all []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		if dir == "/proc/"+strconv.Itoa(os.Getpid()) {
			continue
		}
		line, _ := os.ReadFile(dir + "/cmdline")
		all = append(all, filepath.Base(dir)+" "+strings.TrimSpace(string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))))
	}
	return all
}
