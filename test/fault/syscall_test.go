//go:build linux

package fault

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sysFault is what strace does to one system call of a process: error=… or
// signal=KILL, at the nth call of a thread ("3"), or from there on ("3+").
type sysFault struct{ call, what, when string }

func (f sysFault) String() string { return f.call + ":" + f.what + ":when=" + f.when }

// strace is the command that makes f happen to hpccd and not to the compilers
// that it runs, and writes what it did to a file.
func (f sysFault) strace(log string) []string {
	return []string{"strace", "-f", "-b", "execve", "-qq", "-y", "-o", log, "-e", "trace=" + f.call, "-e", "inject=" + f.String()}
}

// interrupted is an error that makes a program call again at once: no kernel
// gives it each time.
const interrupted = "EINTR"

// fileCalls are the system calls by which hpccd reads and writes files, with
// errors that a file system gives.
var fileCalls = []struct {
	call   string
	errors []string
}{
	{"write", []string{"ENOSPC", "EIO"}},
	{"openat", []string{"EIO", "EMFILE"}},
	{"linkat", []string{"ENOSPC", "EIO", "EXDEV"}},
	{"renameat", []string{"ENOSPC", "EIO"}},
	{"mkdirat", []string{"ENOSPC", "EACCES"}},
	{"unlinkat", []string{"EIO", "EACCES"}},
	{"ftruncate", []string{"EIO"}},
	{"fchmod", []string{"EPERM"}},
	{"read", []string{"EIO"}},
	{"pread64", []string{"EIO"}},
	{"pwrite64", []string{"ENOSPC"}},
	{"flock", []string{"ENOLCK", interrupted}},
	{"fstat", []string{"EIO"}},
	{"getdents64", []string{"EIO"}},
	{"utimensat", []string{"EPERM"}},
	{"statfs", []string{"ENOSYS"}},
	{"fsync", []string{"EIO"}},
	{"copy_file_range", []string{"EIO"}},
	{"ioctl", []string{"EIO", "ENOSPC", "EOPNOTSUPP"}},
}

// plumbing matches a call that was failed on a pipe, an event descriptor or
// the process's own stdio: none of them fails in this world, and Go's runtime
// ends the process if they do.
var plumbing = regexp.MustCompile(`\w+\((\d+<(pipe|anon_inode|socket|UNIX|TCP|/dev/null)|[012]<).*INJECTED`)

// lab is one unit and its states of the cache, each to be copied for a compile
// in which something fails.
type lab struct {
	t       *testing.T
	dir     string
	w       *world
	states  []state
	harmed  int // compiles that a fault in the plumbing ended
	faulted int // compiles in which a call failed
}

type state struct {
	name   string
	source string
	cache  string // to copy; "" for an empty one
	plain  map[string]string
}

// newLab makes a unit below dir, where its cache is as well.
func newLab(t *testing.T, dir string) *lab {
	t.Helper()
	_, err := exec.LookPath("strace")
	need(t, "strace", err == nil)
	l := &lab{t: t, dir: filepath.Join(dir, "src"), w: newWorld(t)}
	l.w.cache = filepath.Join(dir, "cache")
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, l.dir+"/a.h", []byte("#define A 1\n"))
	for _, s := range []state{
		{name: "miss", source: "miss"}, {name: "hit", source: "warm", cache: dir + "/warm"}, {name: "edited", source: "edited", cache: dir + "/warm"},
	} {
		l.put(s.source)
		out, err := l.run([]string{"gcc"})
		if err != nil || !bytes.Contains(out, []byte("warning")) {
			t.Fatalf("the plain compile: %v\n%s", err, out)
		}
		s.plain = l.left()
		l.states = append(l.states, s)
	}
	l.put("warm")
	if out, err := l.run(l.behind()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run(t, "cp", "-a", l.w.cache, dir+"/warm")
	return l
}

// put writes the source.
func (l *lab) put(version string) {
	l.t.Helper()
	write(l.t, l.dir+"/a.c", fmt.Appendf(nil, "#include \"a.h\"\nchar version[] = \"%s\";\nstatic int unused = A;\n", version))
	settle()
}

func (l *lab) behind() []string { return []string{filepath.Join(bin, "hpccd"), "compile", "--", "gcc"} }

// run compiles by a command that ends with the compiler's name. What it prints
// is messages.
func (l *lab) run(argv []string) ([]byte, error) {
	l.t.Helper()
	for path := range l.left() {
		if err := os.Remove(filepath.Join(l.dir, path)); err != nil {
			l.t.Fatal(err)
		}
	}
	argv = append(slices.Clone(argv), "-O1", "-Wall", "-MMD", "-c", "a.c", "-o", "a.o")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = l.dir, l.w.env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	timer := time.AfterFunc(2*time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	timer.Stop()
	awaitGroup(cmd.Process.Pid)
	return out.Bytes(), err
}

// left is what a compile has made.
func (l *lab) left() map[string]string {
	l.t.Helper()
	files := map[string]string{}
	names, err := os.ReadDir(l.dir)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, e := range names {
		if e.Name() != "a.c" && e.Name() != "a.h" {
			files[e.Name()] = string(read(l.t, filepath.Join(l.dir, e.Name())))
		}
	}
	return files
}

// try makes one compile with a fault, then one without, and reports whether
// the fault happened at all. Whatever comes, the second is right, nothing that
// was stored is lost, and the cache is sound.
func (l *lab) try(s state, f sysFault) (happened bool) {
	t := l.t
	t.Helper()
	what := s.name + ", " + f.String()
	l.put(s.source)
	if err := os.RemoveAll(l.w.cache); err != nil {
		t.Fatal(err)
	}
	if s.cache != "" {
		run(t, "cp", "-a", s.cache, l.w.cache)
	}
	before := l.w.stored()
	log := filepath.Join(l.w.tmp, "strace")
	out, err := l.run(append(f.strace(log), l.behind()...))
	trace := read(t, log)
	injected := bytes.Contains(trace, []byte("INJECTED"))
	killed := strings.HasPrefix(f.what, "signal=")
	happened = injected || killed && err != nil
	if happened {
		l.faulted++
	}
	same := func(which string) {
		t.Helper()
		got := l.left()
		for name, want := range s.plain {
			if got[name] != want {
				t.Errorf("%s: %s: %s differs from the plain compiler's (%d bytes, there %d)", what, which, name, len(got[name]), len(want))
			}
		}
		if len(got) != len(s.plain) {
			t.Errorf("%s: %s: %d files, by the plain compiler %d", what, which, len(got), len(s.plain))
		}
	}
	switch {
	case killed && err != nil:
	case err != nil && plumbing.Match(trace):
		l.harmed++
	case err != nil:
		t.Errorf("%s: the compile fails: %v\n%s%s", what, err, out, tailOf(trace))
	default:
		same("with the fault")
		if !bytes.Contains(out, []byte("warning: ‘unused’")) && !plumbing.Match(trace) {
			t.Errorf("%s: the warning is lost\n%s", what, out)
		}
	}
	if out, err := l.run(l.behind()); err != nil {
		t.Errorf("%s: the next compile fails: %v\n%s", what, err, out)
	} else {
		same("next")
	}
	l.w.count()
	if out, err := l.run(l.behind()); err != nil {
		t.Errorf("%s: the last compile fails: %v\n%s", what, err, out)
	} else {
		same("last")
	}
	if c := l.w.count(); c.Hits != 1 {
		t.Errorf("%s: the last compile is no hit: %+v", what, c)
	}
	l.w.fsck()
	after := l.w.stored()
	for path := range before {
		if !after[path] {
			t.Errorf("%s: %s is gone", what, path)
		}
	}
	return happened
}

func tailOf(b []byte) []byte { return b[max(0, len(b)-1500):] }

// report says how much was tried, and fails if it was nothing: which thread makes
// how many calls is the scheduler's choice, so that of a few faults only the first
// is sure to happen.
func (l *lab) report(tried int) {
	l.t.Helper()
	l.t.Logf("%d compiles, a call failed in %d, %d ended by it in Go's own plumbing", tried, l.faulted, l.harmed)
	if few := times(1, 0) == 1; l.faulted == 0 || !few && (l.faulted < tried/4 || l.harmed > l.faulted/2) {
		l.t.Error("too few faults came where they were meant to")
	}
}

// chosen draws the few faults of a run that is no soak, which are the same each
// time: a run must not fail by what it happened to draw. A soak tries them all.
func chosen() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// TestFailingSystemCalls fails each system call by which a compile without a
// daemon touches files: the compile is right all the same.
func TestFailingSystemCalls(t *testing.T) {
	l := newLab(t, t.TempDir())
	tried := 0
	if times(0, 1) == 0 {
		l.try(l.states[0], sysFault{"linkat", "error=EIO", "1"})
		tried++
		rnd := chosen()
		for range 13 {
			c := fileCalls[rnd.IntN(12)] // the rest is seldom made
			e := c.errors[rnd.IntN(len(c.errors))]
			f := sysFault{c.call, "error=" + e, fmt.Sprint(1 + rnd.IntN(6))}
			if e != interrupted && rnd.IntN(2) == 0 {
				f.when += "+"
			}
			l.try(l.states[rnd.IntN(len(l.states))], f)
			tried++
		}
		l.report(tried)
		return
	}
	for _, c := range fileCalls {
		for _, e := range c.errors {
			for _, s := range l.states {
				happened := 0
				for n := 1; n <= 12; n++ {
					tried++
					if !l.try(s, sysFault{c.call, "error=" + e, fmt.Sprint(n)}) {
						break
					}
					happened++
				}
				for _, n := range []string{"1+", "3+", "10+"} {
					if e == interrupted {
						break
					}
					tried++
					l.try(s, sysFault{c.call, "error=" + e, n})
				}
				t.Logf("%s %s, %s: %d", c.call, e, s.name, happened)
			}
		}
	}
	l.report(tried)
}

// TestKilledAtSystemCalls kills a compile at each system call by which it
// changes anything.
func TestKilledAtSystemCalls(t *testing.T) {
	l := newLab(t, t.TempDir())
	tried := 0
	calls := []string{"write", "linkat", "renameat", "openat", "unlinkat", "flock", "mkdirat", "fchmod", "close", "pwrite64"}
	if times(0, 1) == 0 {
		l.try(l.states[0], sysFault{"linkat", "signal=KILL", "1"})
		tried++
		rnd := chosen()
		for range 5 {
			l.try(l.states[rnd.IntN(len(l.states))], sysFault{calls[rnd.IntN(5)], "signal=KILL", fmt.Sprint(1 + rnd.IntN(6))})
			tried++
		}
		l.report(tried)
		return
	}
	for _, c := range calls {
		for _, s := range l.states {
			for n := 1; n <= 12; n++ {
				tried++
				if !l.try(s, sysFault{c, "signal=KILL", fmt.Sprint(n)}) {
					break
				}
			}
		}
	}
	l.report(tried)
}

// TestFailingClones fails the sharing of blocks on a file system that can.
func TestFailingClones(t *testing.T) {
	needRoot(t)
	image := filepath.Join(t.TempDir(), "xfs")
	f, err := os.Create(image)
	if err == nil {
		err = errors.Join(f.Truncate(512<<20), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = exec.LookPath("mkfs.xfs")
	need(t, "mkfs.xfs", err == nil)
	run(t, "mkfs.xfs", "-q", "-m", "reflink=1", image)
	l := newLab(t, mount(t, "-o", "loop", image))
	tried := 0
	for _, e := range []string{"EIO", "ENOSPC", "EOPNOTSUPP", "EXDEV", "EINVAL"} {
		for n := 1; n <= times(1, 8); n++ {
			for _, s := range l.states {
				tried++
				l.try(s, sysFault{"ioctl", "error=" + e, fmt.Sprint(n, "+")})
			}
		}
	}
	l.report(tried)
}

// TestDaemonWithFailingSystemCalls has calls of a daemon fail now and then
// during whole builds. It may even end by that: the build goes on.
func TestDaemonWithFailingSystemCalls(t *testing.T) {
	_, err := exec.LookPath("strace")
	need(t, "strace", err == nil)
	p := newProject(t, t.TempDir(), 7, 4)
	served := 0
	rnd := chosen()
	for i := range times(2, 4*len(fileCalls)) {
		c := fileCalls[i%len(fileCalls)]
		if times(0, 1) == 0 {
			c = fileCalls[rnd.IntN(12)]
		}
		f := sysFault{c.call, "error=" + c.errors[rnd.IntN(len(c.errors))], fmt.Sprintf("%d+%d", 2+rnd.IntN(20), 2+rnd.IntN(9))}
		w := newWorld(t)
		p.build(w, "before "+f.String(), 0, "-j4")
		before := w.stored()
		if w.tryStart(10*time.Second, f.strace(filepath.Join(w.tmp, "strace"))...) {
			served++
		}
		for range 2 {
			p.build(w, f.String(), 0, "-j4")
			p.build(w, f.String(), 1, "-j4")
		}
		w.kill()
		w.fsck()
		after := w.stored()
		for path := range before {
			if !after[path] {
				t.Errorf("%s: %s is gone", f, path)
			}
		}
		p.build(w, "after "+f.String(), 0, "-j4")
		p.build(w, "after "+f.String(), 1, "-j4")
		w.count()
		p.build(w, "after "+f.String(), 1, "-j4")
		if c := w.count(); c.Hits != p.units {
			t.Errorf("after %s: %+v, want %d hits", f, c, p.units)
		}
	}
	t.Logf("%d daemons served", served)
}
