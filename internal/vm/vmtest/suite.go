package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/vm"
)

// Config is a runtime under test and what it runs.
type Config struct {
	Runtime vm.Runtime
	// Rootfs holds a root with gcc, g++, their headers and a POSIX shell.
	Rootfs vm.Rootfs
	// Reference compiles with the same compiler and flags outside the machine: it
	// runs argv in a directory that holds the files, which jobs see at Root, and
	// returns the bytes of output.
	Reference func(t *testing.T, files map[string]string, argv []string, output string) []byte
	// Probe is test/lab/probe as a static program, Empty a root with next to
	// nothing in it, of which all can be searched.
	Probe string
	Empty vm.Rootfs
	// NothingLeft fails the test if anything of a machine is left on the host.
	NothingLeft func(t *testing.T)
	// Slow multiplies time limits: software emulation is 20 times slower.
	Slow int
}

// Root is the project root of the suite's jobs.
const Root = "/hpcc/src"

// Blobs is a source of inputs in memory.
type Blobs map[digest.Digest][]byte

// Open returns a blob.
func (b Blobs) Open(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
	data, ok := b[d]
	if !ok {
		return nil, os.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// NewJob describes a job whose inputs are files, by path below Root.
func NewJob(files map[string]string, argv ...string) (agentapi.Job, Blobs) {
	job := agentapi.Job{
		Argv: argv, Env: []string{"PATH=/usr/bin:/bin"}, Cwd: Root, Roots: []string{Root},
		Limits: agentapi.Limits{MemoryBytes: 1 << 30, Time: 5 * time.Minute},
	}
	blobs := Blobs{}
	for name, content := range files {
		d := digest.Of([]byte(content))
		blobs[d] = []byte(content)
		job.Inputs = append(job.Inputs, agentapi.Input{
			Path: Root + "/" + name, Kind: agentapi.File, Digest: d, Mode: 0o644, ModTime: time.Unix(1_700_000_000, 123_456_789),
		})
	}
	return job, blobs
}

// Ran is what a job printed and left.
type Ran struct {
	*agentapi.Result
	Stdout, Stderr bytes.Buffer
	Files          map[string]*bytes.Buffer
}

// Sinks collects into r.
func (r *Ran) Sinks() agentapi.Sinks {
	r.Files = map[string]*bytes.Buffer{}
	return agentapi.Sinks{Stdout: &r.Stdout, Stderr: &r.Stderr, Output: func(path string) (io.Writer, error) {
		r.Files[path] = new(bytes.Buffer)
		return r.Files[path], nil
	}}
}

// Exec runs a job that the agent must take.
func Exec(t *testing.T, m vm.Machine, job agentapi.Job, blobs agentapi.Blobs) *Ran {
	t.Helper()
	var r Ran
	result, err := m.Client().Exec(t.Context(), job, blobs, r.Sinks())
	if err != nil {
		t.Fatalf("%q: %v", job.Argv, err)
	}
	r.Result = result
	return &r
}

// Shell is a job that runs a script.
func Shell(script string) (agentapi.Job, Blobs) { return NewJob(nil, "/bin/sh", "-c", script) }

type suite struct {
	Config
	n int
}

func (s *suite) start(t *testing.T) vm.Machine { t.Helper(); return s.startWith(t, s.Rootfs) }

func (s *suite) startWith(t *testing.T, root vm.Rootfs) vm.Machine {
	t.Helper()
	s.n++
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(s.Slow)*time.Minute)
	defer cancel()
	m, err := s.Runtime.Start(ctx, vm.Spec{ID: fmt.Sprintf("m%d", s.n), Tenant: "tenant", Rootfs: root, VCPUs: 1, MemoryMiB: 1024})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Kill() })
	return m
}

// Run runs the suite.
func Run(t *testing.T, c Config) {
	c.Slow = max(c.Slow, 1)
	s := &suite{Config: c}
	m := s.start(t)
	t.Run("info", func(t *testing.T) { s.info(t, m) })
	t.Run("compile", func(t *testing.T) { s.compile(t, m) })
	t.Run("inputs", func(t *testing.T) { s.inputs(t, m) })
	t.Run("lookups", func(t *testing.T) { s.lookups(t, m) })
	t.Run("reach", func(t *testing.T) { s.reach(t, m) })
	t.Run("session", s.session)
	t.Run("cancel", func(t *testing.T) { s.cancel(t, m) })
	t.Run("limits", func(t *testing.T) { s.limits(t, m) })
	t.Run("refused", func(t *testing.T) { s.refused(t, m) })
	t.Run("killed", func(t *testing.T) { s.killed(t, m) })
	t.Run("outputs", func(t *testing.T) { s.outputs(t, m) })
	t.Run("two machines", func(t *testing.T) { s.two(t, m) })
	t.Run("stop", func(t *testing.T) { s.stop(t, m) })
	t.Run("kill", func(t *testing.T) { s.kill(t) })
	c.NothingLeft(t)
}

func (s *suite) info(t *testing.T, m vm.Machine) {
	info := m.Info()
	if len(info.NICs) > 0 {
		t.Errorf("network interfaces: %v", info.NICs)
	}
	if info.Runtime != s.Runtime.Info() || info.ID == "" || info.Agent.KernelVersion == "" {
		t.Errorf("%+v", info)
	}
	if info.Runtime.Isolated {
		if !info.Agent.Verity || !info.Agent.Cgroup {
			t.Errorf("no verity or no cgroups: %+v", info.Agent)
		}
		for _, nic := range info.Agent.Interfaces {
			if nic != "lo" {
				t.Errorf("the guest has an interface %s", nic)
			}
		}
	}
	select {
	case <-m.Done():
		t.Error("ended")
	default:
	}
	if m.Err() != nil {
		t.Error(m.Err())
	}
}

var sources = map[string]string{
	"a.c":       "#include <stdio.h>\n#include \"inc/b.h\"\nint main(void) { printf(\"%d\\n\", B); return 0; }\n",
	"inc/b.h":   "#define B 42\n",
	"a.cc":      "#include <vector>\n#include <string>\n#include \"inc/b.h\"\nint f(const std::vector<std::string>& v) { return v.size() + B; }\n",
	"bad.c":     "int main(void) { return x; }\n",
	"warning.c": "int f(void) { int unused; return 0; }\n",
}

func (s *suite) compile(t *testing.T, m vm.Machine) {
	for name, argv := range map[string][]string{
		"C":         {"gcc", "-O2", "-g", "-c", "a.c", "-o", "a.o"},
		"C++":       {"g++", "-O2", "-g", "-c", "a.cc", "-o", "a.o"},
		"C, no -O":  {"/usr/bin/gcc", "-c", "a.c", "-o", "a.o"},
		"assembler": {"gcc", "-S", "-O1", "warning.c", "-o", "a.o"},
	} {
		job, blobs := NewJob(sources, argv...)
		job.Outputs = []string{Root + "/a.o", Root + "/not-made"}
		r := Exec(t, m, job, blobs)
		if r.ExitCode != 0 || r.Signal != 0 || r.Limit != "" || r.Stderr.Len() > 0 {
			t.Fatalf("%s: %+v\n%s", name, r.Result, r.Stderr.String())
		}
		if len(r.Outputs) != 1 || r.Outputs[0].Path != Root+"/a.o" || r.Outputs[0].Mode != 0o644 {
			t.Fatalf("%s: outputs %+v", name, r.Outputs)
		}
		want := s.Reference(t, sources, argv, "a.o")
		if got := r.Files[Root+"/a.o"].Bytes(); len(want) == 0 || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, and %d outside, differ", name, len(got), len(want))
		}
		if r.Usage.Wall <= 0 || r.Usage.User+r.Usage.System <= 0 || r.Usage.MaxRSS <= 0 {
			t.Errorf("%s: usage %+v", name, r.Usage)
		}
	}
	// Blobs that were sent stay.
	job, blobs := NewJob(sources, "gcc", "-c", "bad.c")
	r := Exec(t, m, job, blobs)
	if r.Sent.Blobs != 0 {
		t.Errorf("%d blobs were sent again", r.Sent.Blobs)
	}
	if r.ExitCode != 1 || !strings.Contains(r.Stderr.String(), "undeclared (first use") {
		t.Errorf("an error: exit %d\n%s", r.ExitCode, r.Stderr.String())
	}
}

func (s *suite) inputs(t *testing.T, m vm.Machine) {
	job, blobs := NewJob(map[string]string{"a": "same", "b": "same", "sub/c": ""},
		"/bin/sh", "-c", `stat -c '%n %i %h %s %a %.9Y %U' a b sub/c >&2; stat -c '%n %F %a %.9Y' a b sub/c empty link dangling; readlink link dangling; cat link; hostname 2>/dev/null || cat /proc/sys/kernel/hostname; date +%Z; echo $LC_ALL; cat; ls -A empty`)
	for i := range job.Inputs {
		if job.Inputs[i].Path == Root+"/b" {
			job.Inputs[i].ModTime = time.Unix(1_600_000_000, 5)
			job.Inputs[i].Mode = 0o755
		}
	}
	at := time.Unix(1_500_000_000, 7)
	job.Inputs = append(job.Inputs,
		agentapi.Input{Path: Root + "/empty", Kind: agentapi.Directory, Mode: 0o700, ModTime: at},
		agentapi.Input{Path: Root + "/link", Kind: agentapi.Symlink, Target: "sub/../a", ModTime: at},
		agentapi.Input{Path: Root + "/dangling", Kind: agentapi.Symlink, Target: "/nowhere", ModTime: at})
	r := Exec(t, m, job, blobs)
	want := `a regular file 644 1700000000.123456789
b regular file 755 1600000000.000000005
sub/c regular empty file 644 1700000000.123456789
empty directory 700 1500000000.000000007
link symbolic link 777 1500000000.000000007
dangling symbolic link 777 1500000000.000000007
sub/../a
/nowhere
samehpcc
UTC
C.UTF-8
`
	if r.Stdout.String() != want {
		t.Errorf("got\n%s\nwant\n%s", r.Stdout.String(), want)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(r.Stderr.String()) {
		f := strings.Fields(line)
		if len(f) < 3 || seen[f[1]] || f[2] != "1" {
			t.Errorf("inode shared or linked: %s", line)
			continue
		}
		seen[f[1]] = true
	}
	// Empty content crosses once at most, equal content once.
	if r.Sent.Blobs > 1 {
		t.Errorf("%d blobs sent", r.Sent.Blobs)
	}
}

func (s *suite) lookups(t *testing.T, m vm.Machine) {
	job, blobs := NewJob(map[string]string{
		"a.c":         "#if __has_include(\"opt.h\")\n#error\n#endif\n#include \"x.h\"\n#include <via.h>\n",
		"second/x.h":  "",
		"real/via.h":  "",
		"unrelated.h": "",
	}, "gcc", "-Ifirst", "-Isecond", "-Ilinked", "-c", "a.c", "-o", "a.o")
	job.Inputs = append(job.Inputs, agentapi.Input{Path: Root + "/linked", Kind: agentapi.Symlink, Target: "real"},
		agentapi.Input{Path: Root + "/first", Kind: agentapi.Directory, Mode: 0o755})
	r := Exec(t, m, job, blobs)
	if r.ExitCode != 0 || r.LookupsTruncated {
		t.Fatalf("exit %d\n%s", r.ExitCode, r.Stderr.String())
	}
	got := map[string]agentapi.Found{}
	for _, l := range r.Lookups {
		got[l.Path] = l.Found
	}
	for name, want := range map[string]agentapi.Found{
		"a.c": agentapi.FoundFile, "opt.h": agentapi.Absent, "x.h": agentapi.Absent, "first/x.h": agentapi.Absent,
		"second/x.h": agentapi.FoundFile, "linked": agentapi.FoundSymlink, "real/via.h": agentapi.FoundFile,
		"second/via.h": agentapi.Absent, "a.o": agentapi.Absent,
	} {
		if got[Root+"/"+name] != want {
			t.Errorf("%s: %v, want %v", name, got[Root+"/"+name], want)
		}
	}
	if _, seen := got[Root+"/unrelated.h"]; seen {
		t.Error("a file that nobody looked up")
	}
	// Through a directory descriptor, the working directory, /proc and links.
	job, blobs = NewJob(map[string]string{"d/e/f": "x", "g": "#!/bin/sh\n"},
		"/bin/sh", "-c", `cd d; cat e/f ../none /proc/self/cwd/e/absent; /bin/cat ../d/./e//f/; ln -s `+Root+`/d/e /tmp/l; cat /tmp/l/f2; rm -rf e; test -e ../missing/../x`)
	r = Exec(t, m, job, blobs)
	got = map[string]agentapi.Found{}
	for _, l := range r.Lookups {
		got[l.Path] = l.Found
	}
	for name, want := range map[string]agentapi.Found{
		"d/e/f": agentapi.FoundFile, "none": agentapi.Absent, "d/e/absent": agentapi.Absent, "d/e/f2": agentapi.Absent,
		"d/e": agentapi.FoundDirectory, "missing": agentapi.Absent,
	} {
		if got[Root+"/"+name] != want {
			t.Errorf("%s: %v, want %v", name, got[Root+"/"+name], want)
		}
	}
}

func (s *suite) cancel(t *testing.T, m vm.Machine) {
	ctx, cancel := context.WithCancel(t.Context())
	job, blobs := Shell("echo up; (sleep 1000 & sleep 1000); sleep 1000")
	begun := time.Now()
	_, err := m.Client().Exec(ctx, job, blobs, agentapi.Sinks{Stdout: writer(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	})})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if d := time.Since(begun); d > time.Duration(s.Slow)*30*time.Second {
		t.Errorf("a cancel took %s", d)
	}
	s.usable(t, m)
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// usable fails the test if the machine does not go on.
func (s *suite) usable(t *testing.T, m vm.Machine) {
	t.Helper()
	job, blobs := Shell("echo fine")
	if r := Exec(t, m, job, blobs); r.ExitCode != 0 || r.Stdout.String() != "fine\n" {
		t.Errorf("the next job: %+v %s%s", r.Result, r.Stdout.String(), r.Stderr.String())
	}
}

func (s *suite) limits(t *testing.T, m vm.Machine) {
	second := time.Duration(s.Slow) * time.Second
	// Where no cgroup counts the processes, the bomb burns until its time is up.
	bomb, fuse := agentapi.LimitTime, 4*second
	if m.Info().Agent.Cgroup {
		bomb, fuse = agentapi.LimitProcesses, 60*second
	}
	forks := map[string]string{"bomb.c": "#include <unistd.h>\nint main(void) { for (;;) fork(); }\n"}
	for _, c := range []struct {
		name   string
		files  map[string]string
		script string
		limits agentapi.Limits
		want   agentapi.Limit
	}{
		{"time", nil, "sleep 1000", agentapi.Limits{Time: second}, agentapi.LimitTime},
		{"fork bomb", forks, "gcc bomb.c -o bomb && ./bomb", agentapi.Limits{Time: fuse, Processes: 40}, bomb},
		{"2 GB of output", nil, "exec head -c 2000000000 /dev/zero >out", agentapi.Limits{FileBytes: 10 << 20, Time: 60 * second}, agentapi.LimitFile},
		// What a shell would swallow, and what a compiler driver would say exit 1 of.
		{"2 GB by a child", nil, "head -c 2000000000 /dev/zero >out; exit 0", agentapi.Limits{FileBytes: 10 << 20, Time: 60 * second}, agentapi.LimitFile},
		{"large object", map[string]string{"big.c": "char big[50 << 20] = {1};\n"}, "gcc -c big.c -o out; exit 0", agentapi.Limits{FileBytes: 10 << 20, Time: 60 * second}, agentapi.LimitFile},
		{"sparse file", nil, "truncate -s 1G out", agentapi.Limits{FileBytes: 10 << 20, Time: 60 * second}, agentapi.LimitFile},
		{"full disk", nil, "for i in 1 2 3 4 5 6 7 8 9; do head -c 8000000 /dev/zero >out$i; done; sleep 1", agentapi.Limits{DiskBytes: 32 << 20, Time: 60 * second}, agentapi.LimitDisk},
		{"2 GB printed", nil, "exec head -c 2000000000 /dev/zero", agentapi.Limits{StdioBytes: 1 << 20, Time: 60 * second}, agentapi.LimitStdio},
	} {
		t.Run(c.name, func(t *testing.T) {
			job, blobs := NewJob(c.files, "/bin/sh", "-c", c.script)
			job.Limits = c.limits
			job.Outputs = []string{Root + "/out"}
			r := Exec(t, m, job, blobs)
			if r.Limit != c.want {
				t.Errorf("limit %q, want %q: %+v\n%s", r.Limit, c.want, r.Result, r.Stderr.String())
			}
			if len(r.Outputs) > 0 {
				t.Errorf("outputs of a job at its limit: %v", r.Outputs)
			}
			if c.limits.StdioBytes > 0 && int64(r.Stdout.Len()) != c.limits.StdioBytes {
				t.Errorf("%d bytes printed", r.Stdout.Len())
			}
			s.usable(t, m)
		})
	}
	// A limit of the disk is either told, or no program has felt it.
	job, blobs := Shell("head -c 48000000 /dev/zero >out && echo whole; rm out; exit 0")
	job.Limits.DiskBytes = 32 << 20
	if r := Exec(t, m, job, blobs); r.Limit != agentapi.LimitDisk && (r.Limit != "" || r.Stdout.String() != "whole\n") {
		t.Errorf("a full disk for a moment: %+v\n%s%s", r.Result, r.Stdout.String(), r.Stderr.String())
	}
	if m.Info().Agent.Cgroup {
		job, blobs := NewJob(map[string]string{"m.c": "#include <stdlib.h>\n#include <string.h>\nint main(void) { for (;;) memset(malloc(1 << 20), 1, 1 << 20); }\n"},
			"/bin/sh", "-c", "gcc m.c -o m && ./m; exit 0")
		job.Limits.MemoryBytes = 200 << 20
		if r := Exec(t, m, job, blobs); r.Limit != agentapi.LimitMemory {
			t.Errorf("memory: limit %q: %+v", r.Limit, r.Result)
		}
		s.usable(t, m)
		// Refused for a moment, by a child, and swallowed.
		job, blobs = Shell("(i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done) 2>/dev/null; kill -9 -1; exit 0")
		job.Limits.Processes = 20
		if r := Exec(t, m, job, blobs); r.Limit != agentapi.LimitProcesses {
			t.Errorf("processes: limit %q: %+v", r.Limit, r.Result)
		}
		s.usable(t, m)
	}
}

func (s *suite) refused(t *testing.T, m vm.Machine) {
	for name, change := range map[string]func(*agentapi.Job, Blobs){
		"no such program":         func(j *agentapi.Job, _ Blobs) { j.Argv = []string{"/no/such"} },
		"not in PATH":             func(j *agentapi.Job, _ Blobs) { j.Argv = []string{"no-such-compiler"} },
		"a root of the image's":   func(j *agentapi.Job, _ Blobs) { j.Roots = []string{"/usr"}; j.Cwd = "/usr" },
		"a cwd that is not there": func(j *agentapi.Job, _ Blobs) { j.Cwd = "/no/such" },
		"an output outside":       func(j *agentapi.Job, _ Blobs) { j.Outputs = []string{"/etc/passwd"} },
		"too large for its disk": func(j *agentapi.Job, b Blobs) {
			big := bytes.Repeat([]byte("x"), 2<<20)
			d := digest.Of(big)
			b[d] = big
			j.Inputs = append(j.Inputs, agentapi.Input{Path: Root + "/big", Kind: agentapi.File, Digest: d, Mode: 0o644})
			j.Limits.DiskBytes = 1 << 20
		},
	} {
		job, blobs := Shell("true")
		change(&job, blobs)
		_, err := m.Client().Exec(t.Context(), job, blobs, agentapi.Sinks{})
		var refused *agentapi.RefusedError
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A source that lies ends the job.
	job, blobs := NewJob(map[string]string{"a": "never sent before"}, "/bin/true")
	for d := range blobs {
		blobs[d] = []byte("never sent befora")
	}
	var source *agentapi.SourceError
	if _, err := m.Client().Exec(t.Context(), job, blobs, agentapi.Sinks{}); !errors.As(err, &source) {
		t.Errorf("wrong bytes: %v", err)
	}
	s.usable(t, m)
}

func (s *suite) killed(t *testing.T, m vm.Machine) {
	job, blobs := Shell("kill -9 $$")
	if r := Exec(t, m, job, blobs); r.Signal != 9 || r.ExitCode != 0 {
		t.Errorf("kill -9: %+v", r.Result)
	}
	job, blobs = Shell("kill -ABRT $$")
	if r := Exec(t, m, job, blobs); r.Signal != 6 {
		t.Errorf("abort: %+v", r.Result)
	}
	// A compiler that is killed leaves what it started, which waits for ever.
	for _, c := range []struct{ victim, want string }{{"gcc", "137"}, {"cc1", "1"}} {
		job, blobs = Shell(`mkfifo source; gcc -x c -c source -o o & p=$!
			while :; do for d in /proc/[0-9]*; do
				read -r name <$d/comm && [ "$name" = cc1 ] && cc1=${d#/proc/} && break 2
			done 2>/dev/null; done
			case ` + c.victim + ` in gcc) kill -9 $p;; cc1) kill -9 $cc1;; esac
			wait $p; echo $?`)
		job.Outputs = []string{Root + "/o"}
		if r := Exec(t, m, job, blobs); r.Stdout.String() != c.want+"\n" || len(r.Outputs) != 0 {
			t.Errorf("kill -9 of %s: %+v\n%s%s", c.victim, r.Result, r.Stdout.String(), r.Stderr.String())
		}
	}
	// What runs on in the background does not hold the job up.
	job, blobs = Shell("sleep 1000 & exit 3")
	if r := Exec(t, m, job, blobs); r.ExitCode != 3 {
		t.Errorf("exit 3: %+v", r.Result)
	}
	// All that a job may kill is its own.
	job, blobs = Shell("kill -9 -1; echo still")
	Exec(t, m, job, blobs)
	s.usable(t, m)
}

func (s *suite) outputs(t *testing.T, m vm.Machine) {
	job, blobs := Shell("mkdir dir; echo a >file; chmod 600 file; : >empty; ln -s file link; ln -s /etc/passwd passwd; mkfifo fifo; echo x >dir/x; ln -s dir d2; ln -s loop loop")
	for _, name := range []string{"empty", "file", "link", "passwd", "fifo", "dir", "d2/x", "loop", "none"} {
		job.Outputs = append(job.Outputs, Root+"/"+name)
	}
	r := Exec(t, m, job, blobs)
	got := ""
	for _, o := range r.Outputs {
		got += fmt.Sprintf("%s %o %q\n", o.Path[len(Root)+1:], o.Mode, r.Files[o.Path].String())
	}
	if want := "empty 644 \"\"\nfile 600 \"a\\n\"\nlink 600 \"a\\n\"\nd2/x 644 \"x\\n\"\n"; got != want {
		t.Errorf("got\n%swant\n%s%s", got, want, r.Stderr.String())
	}
	// Nothing of it is there for the next job.
	job, blobs = Shell("ls -A; ls -A /tmp")
	if r := Exec(t, m, job, blobs); strings.Contains(r.Stdout.String(), "file") {
		t.Errorf("another job's files: %s", r.Stdout.String())
	}
}

func (s *suite) two(t *testing.T, m vm.Machine) {
	other := s.start(t)
	type done struct {
		r   Ran
		err error
	}
	results := make(chan *done, 4)
	for i := range 4 {
		go func() {
			job, blobs := NewJob(sources, "gcc", "-O2", "-c", "a.c", "-o", "a.o")
			job.Outputs = []string{Root + "/a.o"}
			d := new(done)
			d.r.Result, d.err = []vm.Machine{m, other}[i%2].Client().Exec(t.Context(), job, blobs, d.r.Sinks())
			results <- d
		}()
	}
	want := s.Reference(t, sources, []string{"gcc", "-O2", "-c", "a.c", "-o", "a.o"}, "a.o")
	for range 4 {
		d := <-results
		if d.err != nil {
			t.Error(d.err)
		} else if !bytes.Equal(d.r.Files[Root+"/a.o"].Bytes(), want) {
			t.Errorf("another object: %+v\n%s", d.r.Result, d.r.Stderr.String())
		}
	}
	if _, err := s.Runtime.Start(t.Context(), vm.Spec{ID: other.Info().ID, Rootfs: s.Rootfs, VCPUs: 1, MemoryMiB: 1024}); !errors.Is(err, vm.ErrExists) {
		t.Errorf("one id twice: %v", err)
	}
	if err := other.Kill(); err != nil {
		t.Error(err)
	}
}

func (s *suite) stop(t *testing.T, m vm.Machine) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(s.Slow)*time.Minute)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Error("it had to be killed")
	}
	s.gone(t, m)
}

// gone fails the test unless m has ended as it was told to.
func (s *suite) gone(t *testing.T, m vm.Machine) {
	t.Helper()
	select {
	case <-m.Done():
	default:
		t.Error("Done is open")
	}
	if m.Err() != nil {
		t.Errorf("ended as told, and %v", m.Err())
	}
	job, blobs := Shell("true")
	var lost *agentapi.LostError
	if _, err := m.Client().Exec(t.Context(), job, blobs, agentapi.Sinks{}); !errors.As(err, &lost) {
		t.Errorf("a job after the end: %v", err)
	}
	if err := m.Kill(); err != nil {
		t.Errorf("again: %v", err)
	}
}

func (s *suite) kill(t *testing.T) {
	m := s.start(t)
	up := make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		job, blobs := Shell("echo up; sleep 1000")
		_, err := m.Client().Exec(t.Context(), job, blobs, agentapi.Sinks{Stdout: writer(func(p []byte) (int, error) {
			close(up)
			return len(p), nil
		})})
		failed <- err
	}()
	select {
	case <-up:
	case err := <-failed:
		t.Fatal(err)
	}
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	var lost *agentapi.LostError
	if err := <-failed; !errors.As(err, &lost) {
		t.Errorf("the running job: %v", err)
	}
	s.gone(t, m)
}
