//go:build linux

package fault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/cache"
)

// bin is where hpcc and hpccd were built for this run.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "hpcc-fault-bin-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		// Another user runs them too.
		if err := os.Chmod(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		bin = dir
		build := exec.Command("go", "build", "-o", dir+"/", "hpcc.dev/hpcc/cmd/hpcc", "hpcc.dev/hpcc/cmd/hpccd")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the programs: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// times is how often a fault is repeated: few, or in a soak many.
func times(few, many int) int {
	if os.Getenv("HPCC_SOAK") != "" {
		return many
	}
	return few
}

// need fails the test where something is missing that it cannot do without, or
// skips it where nothing says that it must be there.
func need(t *testing.T, what string, present bool) {
	t.Helper()
	switch {
	case present:
	case os.Getenv("HPCC_TEST_REQUIRE") != "":
		t.Fatalf("%s is missing: run make setup, as root", what)
	default:
		t.Skipf("%s is missing", what)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	need(t, "root, for mounts and other users,", os.Getuid() == 0)
}

// mount mounts a file system on a new directory, for the test's time.
func mount(t *testing.T, args ...string) (dir string) {
	t.Helper()
	needRoot(t)
	dir = t.TempDir()
	run(t, "mount", append(args, dir)...)
	t.Cleanup(func() {
		// What was killed may take a moment to let go.
		for range 100 {
			if exec.Command("umount", dir).Run() == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		run(t, "umount", "--lazy", dir)
	})
	return dir
}

// run runs a tool that must succeed.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// settle waits until what was just written is older than the next compile.
func settle() { time.Sleep(25 * time.Millisecond) }

// world is one configuration and one cache, and perhaps a daemon.
type world struct {
	t      *testing.T
	config string
	cache  string
	tmp    string
	more   []string // environment variables
	daemon *exec.Cmd
	log    *os.File
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, config: dir + "/config", cache: dir + "/cache", tmp: dir + "/tmp"}
	if err := os.Mkdir(w.tmp, 0o777); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.kill)
	return w
}

// env is the environment of a build.
func (w *world) env() []string {
	return append([]string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + filepath.Dir(w.config), "TMPDIR=" + w.tmp, "LC_ALL=C.UTF-8",
		"HPCC_CONFIG_DIR=" + w.config, "HPCC_CACHE_DIR=" + w.cache,
	}, w.more...)
}

// start starts a daemon and waits until it serves.
func (w *world) start() {
	w.t.Helper()
	if !w.tryStart(2 * time.Minute) {
		w.t.Fatalf("the daemon does not start\n%s", w.logText())
	}
}

// tryStart starts a daemon by the command wrap, such as strace, and reports
// whether it serves before the time is up.
func (w *world) tryStart(patience time.Duration, wrap ...string) bool {
	w.t.Helper()
	argv := append(wrap, filepath.Join(bin, "hpccd"), "start")
	w.daemon = exec.Command(argv[0], argv[1:]...)
	w.daemon.Env = w.env()
	w.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	var err error
	if w.log, err = os.CreateTemp(w.t.TempDir(), "log"); err != nil {
		w.t.Fatal(err)
	}
	w.daemon.Stdout, w.daemon.Stderr = w.log, w.log
	if err := w.daemon.Start(); err != nil {
		w.t.Fatal(err)
	}
	began := time.Now()
	for time.Since(began) < patience {
		var endpoint struct{ Pid int }
		text, err := os.ReadFile(w.config + "/daemon.json")
		if err == nil && json.Unmarshal(text, &endpoint) == nil && sameGroup(endpoint.Pid, w.daemon.Process.Pid) {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

func sameGroup(pid, group int) bool {
	g, err := syscall.Getpgid(pid)
	return err == nil && g == group
}

func (w *world) logText() string {
	text, _ := os.ReadFile(w.log.Name())
	return string(text[max(0, len(text)-4000):])
}

// kill ends the daemon without warning, if there is one.
func (w *world) kill() {
	if w.daemon == nil {
		return
	}
	_ = syscall.Kill(-w.daemon.Process.Pid, syscall.SIGKILL)
	_ = w.daemon.Wait()
	w.daemon = nil
	w.log.Close()
}

// stop ends the daemon as a user would; it must end well.
func (w *world) stop() {
	w.t.Helper()
	if w.daemon == nil {
		return
	}
	_ = w.daemon.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- w.daemon.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			w.t.Errorf("the daemon ended with %v\n%s", err, w.logText())
		}
		w.daemon = nil
		w.log.Close()
	case <-time.After(2 * time.Minute):
		w.t.Errorf("the daemon does not end\n%s", w.logText())
		w.kill()
		<-done
	}
}

// modes says whether the nth of many cases runs with a daemon: in a soak both
// ways, else in turn.
func modes(n int) []bool {
	if times(0, 1) == 1 {
		return []bool{false, true}
	}
	return []bool{n%2 == 0}
}

// counters are some of what `hpcc stats --json` says.
type counters struct {
	Hits   int `json:"hits_direct"`
	Misses int `json:"misses"`
	Errors int `json:"errors"`
}

// count returns the counters since the last call.
func (w *world) count() counters {
	w.t.Helper()
	cmd := exec.Command(filepath.Join(bin, "hpccd"), "stats", "--json", "--zero")
	cmd.Env = w.env()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var c counters
	if err == nil {
		err = json.Unmarshal(out, &c)
	}
	if err != nil {
		w.t.Fatalf("stats: %v\n%s%s", err, out, &stderr)
	}
	return c
}

// repair has the cache's check remove what is damaged and was not met since.
func (w *world) repair() { w.check(true) }

// fsck checks the cache as it lies on the disk: nothing in it may be wrong.
func (w *world) fsck() cache.FsckReport { return w.check(false) }

func (w *world) check(repair bool) cache.FsckReport {
	w.t.Helper()
	c, err := cache.Open(cache.Options{Dir: w.cache})
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := c.Fsck(context.Background(), repair)
	if err != nil {
		w.t.Fatal(err)
	}
	if !r.Clean() && !repair {
		w.t.Errorf("fsck: %d damaged, %d stray: %+v", r.Damaged, r.Stray, r.Problems[:min(len(r.Problems), 5)])
	}
	if err := c.Close(); err != nil {
		w.t.Error(err)
	}
	return r
}

// sweep checks that unfinished files are where the next day's sweep finds them,
// and nowhere else.
func (w *world) sweep() {
	w.t.Helper()
	unfinished, err := os.ReadDir(w.cache + "/tmp")
	if err != nil {
		w.t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	for _, e := range unfinished {
		if err := os.Chtimes(w.cache+"/tmp/"+e.Name(), old, old); err != nil {
			w.t.Error(err)
		}
	}
	c, err := cache.Open(cache.Options{Dir: w.cache})
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	if left, err := os.ReadDir(w.cache + "/tmp"); err != nil || len(left) > 0 {
		w.t.Errorf("%d unfinished files left of %d, %v", len(left), len(unfinished), err)
	}
	if left, _ := filepath.Glob(w.tmp + "/hpcc-*"); len(left) > 0 {
		w.t.Errorf("left in TMPDIR: %q", left)
	}
}

// stored lists the results and blobs of the cache.
func (w *world) stored() map[string]bool {
	w.t.Helper()
	files := map[string]bool{}
	for _, path := range w.files("ac", "cas") {
		files[path] = true
	}
	return files
}

// files lists the files in some of the cache's directories, in order.
func (w *world) files(dirs ...string) (files []string) {
	for _, dir := range dirs {
		_ = filepath.WalkDir(filepath.Join(w.cache, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				files = append(files, path)
			}
			return nil // what vanishes meanwhile is not there
		})
	}
	slices.Sort(files)
	return files
}

// project is a small program in a directory of its own, which is built in
// place again and again. Its units go through gcc, g++, clang and the
// assembler, with dependency files of all kinds and with messages.
type project struct {
	t       *testing.T
	dir     string
	units   int
	sources map[string]bool
	plain   map[string]map[string]string // by round
}

// newProject writes a program of some units; every fourth carries a payload of
// random bytes, in KB, so that its object takes room in the cache.
func newProject(t *testing.T, dir string, units, payload int) *project {
	t.Helper()
	for _, tool := range []string{"gcc", "g++", "clang", "make"} {
		_, err := exec.LookPath(tool)
		need(t, tool, err == nil)
	}
	p := &project{t: t, dir: dir, units: units, sources: map[string]bool{}, plain: map[string]map[string]string{}}
	rnd := rand.New(rand.NewPCG(uint64(units), uint64(payload)))
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		p.sources[name] = true
	}
	write("common.h", "#include <stddef.h>\n#include \"deep.h\"\nstruct s { size_t n; int round; };\n")
	write("deep.h", "#pragma once\n#define DEEP 1\n#if __has_include(\"none.h\")\n#include \"none.h\"\n#endif\n")
	var mk strings.Builder
	mk.WriteString("ROUND = 0\nCC = gcc\nCXX = g++\nCLANG = clang\nall:")
	for i := range units {
		fmt.Fprintf(&mk, " u%d.o", i)
	}
	mk.WriteString("\n")
	for i := range units {
		name := "u" + strconv.Itoa(i)
		body := fmt.Sprintf("#include \"common.h\"\nstruct s %s = { sizeof(struct s) + DEEP, ROUND };\nint f%d(int x) { int unused = %d; return x * %d; }\n", name, i, i, i)
		ext, rule := ".c", "$(CC) -O1 -g -Wall -MMD -MP"
		switch i % 4 {
		case 1:
			ext, rule = ".cc", "$(CXX) -O1 -MD"
		case 2:
			ext, rule = ".c", "$(CC) -O2 -fPIC"
			if payload > 0 {
				b := make([]byte, payload<<10)
				for i := range b {
					b[i] = byte(rnd.Uint32())
				}
				write(name+".bin", string(b))
				body += fmt.Sprintf("__asm__(\".incbin \\\"%s.bin\\\"\");\n", name)
			}
		case 3:
			ext, rule = ".c", "$(CLANG) -O1 -Wall -MMD -MF "+name+".mk"
		}
		write(name+ext, body)
		fmt.Fprintf(&mk, "%s.o:\n\t%s -DROUND=$(ROUND) -c %s -o $@\n", name, rule, name+ext)
	}
	write("Makefile", mk.String())
	settle()
	return p
}

// copy puts the same sources into another directory.
func (p *project) copy(dir string) *project {
	p.t.Helper()
	for name := range p.sources {
		text, err := os.ReadFile(filepath.Join(p.dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o644)
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
	settle()
	return &project{t: p.t, dir: dir, units: p.units, sources: p.sources, plain: map[string]map[string]string{}}
}

// behind are the make variables that put hpcc before the compilers.
var behind = []string{"CC=hpcc gcc", "CXX=hpcc g++", "CLANG=hpcc clang"}

// make is a build as a command; args are for make.
func (p *project) make(env []string, args ...string) *exec.Cmd {
	cmd := exec.Command("make", append([]string{"--no-print-directory", "-s"}, args...)...)
	cmd.Dir, cmd.Env = p.dir, env
	// A group of its own, so that a test can wait for all of it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// clean removes what builds have made.
func (p *project) clean() {
	p.t.Helper()
	names, err := os.ReadDir(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range names {
		if !p.sources[e.Name()] {
			if err := os.Remove(filepath.Join(p.dir, e.Name())); err != nil {
				p.t.Fatal(err)
			}
		}
	}
}

// outputs reads what builds have made.
func (p *project) outputs() map[string]string {
	p.t.Helper()
	names, err := os.ReadDir(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range names {
		if !p.sources[e.Name()] {
			b, err := os.ReadFile(filepath.Join(p.dir, e.Name()))
			if err != nil {
				p.t.Fatal(err)
			}
			files[e.Name()] = string(b)
		}
	}
	return files
}

// want is what the plain compilers make in a round.
func (p *project) want(round int) map[string]string {
	p.t.Helper()
	key := strconv.Itoa(round)
	if p.plain[key] == nil {
		p.clean()
		if out, err := p.make(append(os.Environ(), "LC_ALL=C.UTF-8"), "-j4", "ROUND="+key).CombinedOutput(); err != nil {
			p.t.Fatalf("the plain build: %v\n%s", err, out)
		}
		p.plain[key] = p.outputs()
	}
	return p.plain[key]
}

// check compares what lies there with what the plain compilers make.
func (p *project) check(what string, round int, want map[string]string) {
	p.t.Helper()
	got := p.outputs()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[name]; !ok {
			p.t.Errorf("%s, round %d: %s is missing", what, round, name)
		} else if g != want[name] {
			p.t.Errorf("%s, round %d: %s differs from the plain compiler's", what, round, name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			p.t.Errorf("%s, round %d: %s is there and the plain compiler makes none", what, round, name)
		}
	}
}

// build builds behind hpcc from nothing: it must succeed and be right.
func (p *project) build(w *world, what string, round int, args ...string) {
	p.t.Helper()
	p.during(w, what, round, nil, args...)
}

// during is build with something that happens meanwhile: fault is called with
// a context that ends with the build.
func (p *project) during(w *world, what string, round int, fault func(context.Context), args ...string) {
	p.t.Helper()
	want := p.want(round)
	p.clean()
	out, err := p.attempt(w, round, fault, args...)
	if err != nil {
		p.t.Errorf("%s, round %d: the build fails: %v\n%s", what, round, err, out[max(0, len(out)-3000):])
		return
	}
	p.check(what, round, want)
}

// attempt builds behind hpcc what is missing.
func (p *project) attempt(w *world, round int, fault func(context.Context), args ...string) ([]byte, error) {
	p.t.Helper()
	cmd := p.make(w.env(), slices.Concat([]string{"ROUND=" + strconv.Itoa(round)}, behind, args)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	faulty := make(chan struct{})
	go func() {
		defer close(faulty)
		if fault != nil {
			fault(ctx)
		}
	}()
	// A build that hangs is a failure of its own.
	timer := time.AfterFunc(2*time.Minute, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	timer.Stop()
	cancel()
	<-faulty
	awaitGroup(cmd.Process.Pid)
	return out.Bytes(), err
}

// awaitGroup waits until nothing runs of a process group any more: killed
// wrappers leave compilers behind, which would write into the next build.
func awaitGroup(pid int) {
	for range 3000 {
		if errors.Is(syscall.Kill(-pid, 0), syscall.ESRCH) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
