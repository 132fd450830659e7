package job

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/agent/internal/lookup"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// How a job ends is what its first process says.
func TestEnds(t *testing.T) {
	w := newWorld(t, "")
	for script, want := range map[string]struct{ code, signal int32 }{
		"exit 0": {0, 0}, "exit 255": {255, 0}, "kill -9 $$": {0, 9}, "kill -ABRT $$": {0, 6}, "kill -XFSZ $$": {0, 25},
		"sleep 1000 & exit 3":                         {3, 0},
		"(sleep 1000 >/dev/null 2>&1 &); exit 4":      {4, 0},
		"setsid sh -c 'sleep 1000 & sleep 1000' & :":  {0, 0},
		"kill -9 -1; exit 5":                          {5, 0}, // not itself, says kill(2)
		"exec sh -c 'exec >&- 2>&-; sleep 1; exit 6'": {6, 0},
		"(kill -XFSZ $(sh -c 'echo $PPID')); exit 1":  {1, 0},
		"exit $((128 + 25))":                          {153, 0}, // no limit, only what a shell would say
	} {
		r := w.run(t, shell(script))
		if r.ExitCode != want.code || r.Signal != want.signal || r.Limit != 0 {
			t.Errorf("%s: %v\n%s", script, r.ExecResult, r.stderr.String())
		}
		if u := r.Usage; u.UserMicros+u.SystemMicros <= 0 || u.MaxRssBytes <= 0 || u.WallMicros <= 0 {
			t.Errorf("%s: usage %v", script, u)
		}
	}
}

func TestStreams(t *testing.T) {
	w := newWorld(t, "")
	r := w.run(t, shell("echo out; echo err >&2; cat; head -c 300000 /dev/zero"))
	if r.stdout.String() != "out\n"+strings.Repeat("\x00", 300000) || r.stderr.String() != "err\n" {
		t.Errorf("%d bytes, %q", r.stdout.Len(), r.stderr.String())
	}
}

// Nothing but what the host says is in a job's environment, and what is the same
// in every machine.
func TestEnvironment(t *testing.T) {
	got := environ([]string{"A=b", "LC_ALL=de_DE", "TZ=CET", "TZX=1", "LC_ALLX=2", "A=c"})
	if want := []string{"A=b", "TZX=1", "LC_ALLX=2", "A=c", "LC_ALL=C.UTF-8", "TZ=UTC"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	w := newWorld(t, "")
	h := shell("")
	h.Argv, h.Env = []string{"/usr/bin/env"}, []string{"X=1=2", "EMPTY="}
	if r := w.run(t, h); r.stdout.String() != "X=1=2\nEMPTY=\nWORLD="+w.dir+"\nLC_ALL=C.UTF-8\nTZ=UTC\n" {
		t.Errorf("%q", r.stdout.String())
	}
}

// argv[0] is found as execvp(3) finds it, in the job's own PATH.
func TestProgram(t *testing.T) {
	w := newWorld(t, "")
	script := "#!/bin/sh\necho ours\n"
	sum := w.put(t, script)
	header := func(argv, path string) *agentv1.ExecHeader {
		h := shell("")
		h.Argv, h.Env = []string{argv}, nil
		if path != "" {
			h.Env = []string{"PATH=" + path}
		}
		for name, mode := range map[string]uint32{"bin/ours": 0o755, "data/ours": 0o644} {
			h.Inputs = append(h.Inputs, &agentv1.Input{Path: root + "/" + name, Kind: agentv1.Input_KIND_FILE, Mode: mode, Digest: sum})
		}
		h.Inputs = append(h.Inputs, &agentv1.Input{Path: root + "/dir/ours", Kind: agentv1.Input_KIND_DIRECTORY, Mode: 0o755})
		return h
	}
	for _, c := range []struct{ argv, path string }{
		{root + "/bin/ours", ""}, {"bin/ours", ""}, {"./bin/../bin/ours", ""},
		{"ours", "/bin:" + root + "/dir:" + root + "/data:" + root + "/bin"},
	} {
		r := w.run(t, header(c.argv, c.path))
		if r.stdout.String() != "ours\n" {
			t.Errorf("%q: %q %q", c, r.stdout.String(), r.stderr.String())
		}
		// Where it was looked for is no look-up of the job's.
		for _, l := range r.lookups {
			if strings.HasPrefix(l.Path, root+"/dir") || strings.HasPrefix(l.Path, root+"/data") {
				t.Errorf("%q: looked up %s", c, l.Path)
			}
		}
	}
	for _, c := range []struct{ argv, path string }{
		{"ours", ""}, {"ours", "/bin"}, {"ours", root + "/data"}, {"ours", root + "/dir"}, {"ours", ":.:bin"},
		{root + "/data/ours", ""}, {root + "/dir/ours", ""}, {root + "/none", ""}, {"/", ""}, {"bin/none", ""},
	} {
		var refused *RefusedError
		if err := w.try(t, t.Context(), header(c.argv, c.path), new(ran)); !errors.As(err, &refused) {
			t.Errorf("%q: %v", c, err)
		}
	}
}

func TestWorkingDirectory(t *testing.T) {
	w := newWorld(t, "")
	inputs := func(h *agentv1.ExecHeader) {
		h.Inputs = append(h.Inputs,
			&agentv1.Input{Path: root + "/real", Kind: agentv1.Input_KIND_DIRECTORY, Mode: 0o755},
			&agentv1.Input{Path: root + "/link", Kind: agentv1.Input_KIND_SYMLINK, Target: "real"},
			&agentv1.Input{Path: root + "/away", Kind: agentv1.Input_KIND_SYMLINK, Target: "/etc"},
			&agentv1.Input{Path: root + "/up", Kind: agentv1.Input_KIND_SYMLINK, Target: "../../../../../.."},
			&agentv1.Input{Path: root + "/loop", Kind: agentv1.Input_KIND_SYMLINK, Target: "loop"},
			&agentv1.Input{Path: root + "/dangling", Kind: agentv1.Input_KIND_SYMLINK, Target: "none"},
			&agentv1.Input{Path: root + "/file", Kind: agentv1.Input_KIND_FILE, Mode: 0o644, Digest: w.put(t, "")})
	}
	for cwd, want := range map[string]string{
		root: root, root + "/new/and/deep": root + "/new/and/deep", root + "/link": root + "/real",
		root + "/away": "/etc", root + "/up": "/", "/": "/", "/usr/lib": "/usr/lib",
	} {
		r := w.run(t, shell("pwd -P; [ -w . ] && echo writable", inputs, func(h *agentv1.ExecHeader) { h.Cwd = cwd }))
		if strings.HasPrefix(want, root) {
			want += "\nwritable"
		}
		if r.stdout.String() != want+"\n" {
			t.Errorf("%s: %q", cwd, r.stdout.String())
		}
	}
	for _, cwd := range []string{root + "/file", root + "/file/x", root + "/loop", root + "/dangling", root + "/dangling/x", root + "/link/none", "/no/such", "/etc/passwd"} {
		var refused *RefusedError
		if err := w.try(t, t.Context(), shell("pwd", inputs, func(h *agentv1.ExecHeader) { h.Cwd = cwd }), new(ran)); !errors.As(err, &refused) {
			t.Errorf("%s: %v", cwd, err)
		}
	}
}

// Outputs are regular files of the job's own, wherever its links lead.
func TestOutputs(t *testing.T) {
	w := newWorld(t, "")
	// As long as a path may be: the last name fills it up.
	long := strings.Repeat("/"+strings.Repeat("d", 200), 20)
	long = long[1:] + "/"
	long += strings.Repeat("f", agentv1.MaxPath-len(root)-1-len(long))
	names := []string{"in", "image", "away", "up", "magic", "fd", "null", "chardev", "socket", "hard", "sub/x", "deleted", "sparse", long}
	r := w.run(t, shell(`
		echo changed >>in
		ln -s /etc/passwd image; echo x >/tmp/away; ln -s /tmp/away away; ln -s ../../../../../../tmp/away up
		ln -s /proc/self/root/etc/passwd magic; ln -s /proc/1/fd/0 fd; ln -s /dev/null null; ln -s /dev/zero chardev
		ln in hard; mkdir sub; echo deep >sub/x; echo y >deleted; rm deleted
		dd if=/dev/null of=sparse bs=1 seek=10 2>/dev/null
		p=$LONG; while case $p in */*) :;; *) false;; esac; do mkdir "${p%%/*}" && cd -P "${p%%/*}" || exit 9; p=${p#*/}; done; echo long >"$p"`,
		w.files(t, map[string]string{"in": "was\n"}), outputs(names...), func(h *agentv1.ExecHeader) { h.Env = append(h.Env, "LONG="+long) }))
	got := map[string]string{}
	for _, o := range r.Outputs {
		got[names[o.Output]] = r.files[int(o.Output)]
	}
	want := map[string]string{"in": "was\nchanged\n", "away": "x\n", "up": "x\n", "hard": "was\nchanged\n", "sub/x": "deep\n", "sparse": strings.Repeat("\x00", 10), long: "long\n"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %.600q\nwant %.600q\n%s", got, want, r.stderr.String())
	}
	for _, o := range r.Outputs {
		if o.Digest.Size != int64(len(r.files[int(o.Output)])) || o.Mode != 0o644 {
			t.Errorf("%s: %v", names[o.Output], o)
		}
	}
}

// A project root is the client's alone.
func TestRoots(t *testing.T) {
	w := newWorld(t, "")
	for root, free := range map[string]bool{
		"/hpcc/src": true, "/a": true, "/home/user/deep/new": true, "/usr/new": true,
		"/usr": false, "/etc/passwd": false, "/etc/passwd/x": false,
		// Behind links, as /bin and /lib are on most systems: the job would tell
		// its lookups by another name.
		"/bin": false, "/bin/new": false,
	} {
		h := shell("echo x >x && pwd -P", func(h *agentv1.ExecHeader) { h.Roots, h.Cwd = []string{root}, root })
		r := new(ran)
		err := w.try(t, t.Context(), h, r)
		var refused *RefusedError
		switch {
		case free && (err != nil || r.stdout.String() != root+"\n"):
			t.Errorf("%s: %v, %q", root, err, r.stderr.String())
		case !free && !errors.As(err, &refused):
			t.Errorf("%s: %v", root, err)
		}
	}
	// Several, and none.
	r := w.run(t, shell("cat /a/b/x /c/y; ls -d /a", func(h *agentv1.ExecHeader) {
		h.Roots, h.Cwd = []string{"/a/b", "/c", "/a/d"}, "/a/d"
		h.Inputs = []*agentv1.Input{
			{Path: "/c/y", Kind: agentv1.Input_KIND_FILE, Mode: 0o444, Digest: w.put(t, "y")},
			{Path: "/a/b/x", Kind: agentv1.Input_KIND_FILE, Mode: 0o444, Digest: w.put(t, "x")},
		}
	}))
	if r.stdout.String() != "xy/a\n" {
		t.Errorf("%q %q", r.stdout.String(), r.stderr.String())
	}
	r = w.run(t, shell("cat /etc/passwd >/dev/null; pwd", func(h *agentv1.ExecHeader) { h.Roots, h.Cwd = nil, "/tmp" }))
	if r.stdout.String() != "/tmp\n" || len(r.lookups) > 0 {
		t.Errorf("%q, %v", r.stdout.String(), r.lookups)
	}
}

// Inputs that are more than the disk are refused before the job runs, and
// before they are written.
func TestInputsOverDisk(t *testing.T) {
	w := newWorld(t, "")
	for name, change := range map[string]func(h *agentv1.ExecHeader){
		"bytes": w.files(t, map[string]string{"a": strings.Repeat("a", 30_000), "b": strings.Repeat("b", 30_000)}),
		"blocks": func(h *agentv1.ExecHeader) {
			for i := range 20 {
				h.Inputs = append(h.Inputs, &agentv1.Input{Path: fmt.Sprintf("%s/%d", root, i), Kind: agentv1.Input_KIND_FILE, Digest: w.put(t, "x")})
			}
		},
		"targets": func(h *agentv1.ExecHeader) {
			for i := range 100 {
				h.Inputs = append(h.Inputs, &agentv1.Input{Path: fmt.Sprintf("%s/%d", root, i), Kind: agentv1.Input_KIND_SYMLINK, Target: strings.Repeat("x", 4000)})
			}
		},
		"directories": func(h *agentv1.ExecHeader) {
			h.Limits.DiskBytes = 1 << 30
			for i := range 1000 {
				h.Inputs = append(h.Inputs, &agentv1.Input{Path: fmt.Sprintf("%s/%d%s", root, i, strings.Repeat("/d", 130)), Kind: agentv1.Input_KIND_DIRECTORY, Mode: 0o755})
			}
		},
	} {
		var refused *RefusedError
		h := shell("echo ran", func(h *agentv1.ExecHeader) { h.Limits.DiskBytes = 50_000 }, change)
		r := new(ran)
		if err := w.try(t, t.Context(), h, r); !errors.As(err, &refused) || !errors.Is(err, errNoRoom) || r.stdout.Len() > 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// When the context ends, wherever the job is, Run returns its error and nothing
// of the job runs on.
func TestCancel(t *testing.T) {
	w := newWorld(t, "")
	for name, after := range map[string]time.Duration{"before": -1, "at once": 0, "starting": 3 * time.Millisecond, "running": 300 * time.Millisecond} {
		ctx, cancel := context.WithCancel(t.Context())
		if after < 0 {
			cancel()
		} else {
			time.AfterFunc(after, cancel)
		}
		begun := time.Now()
		err := w.try(t, ctx, shell("trap '' TERM HUP INT; (sleep 1000 & sleep 1000) & while :; do echo x; done"), new(ran))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("%s: took %s", name, took)
		}
		w.nothingLeft(t)
		cancel()
	}
	// While it waits for its turn.
	var taken []int
	for range MaxJobs {
		taken = append(taken, <-w.slots)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := w.try(t, ctx, shell("true"), new(ran)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting: %v", err)
	}
	for _, s := range taken {
		w.slots <- s
	}
	// While its outputs are read.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	r := &ran{onOutput: func() error { cancel(); return nil }}
	if err := w.try(t, ctx, shell("head -c 10000000 /dev/zero >out", outputs("out")), r); !errors.Is(err, context.Canceled) {
		t.Errorf("at its outputs: %v", err)
	}
}

// What a job came to is told once none of its processes lives, whatever it left
// running, and all that they looked up is in it.
func TestEnded(t *testing.T) {
	w := newWorld(t, "")
	script := "for i in 1 2 3 4; do (while :; do ls none$i >/dev/null 2>&1; done) & sleep 4242 & done; ls none0 2>/dev/null; exit 3"
	told := 0
	for range 10 {
		r := new(ran)
		r.onEnded = func() error {
			told++
			all, err := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, name := range all {
				if line, _ := os.ReadFile(name); string(line) == "sleep\x004242\x00" || strings.Contains(string(line), "ls none$i") {
					t.Errorf("%s is alive: %q", name, line)
				}
			}
			return err
		}
		if err := w.try(t, t.Context(), shell(script), r); err != nil || r.GetExitCode() != 3 || r.GetLookupsTruncated() {
			t.Errorf("%v: %v", r.ExecResult, err)
		}
		if !slices.Contains(r.lookups, lookup.Lookup{Path: root + "/none0", Found: lookup.Absent}) {
			t.Errorf("none0 is missing of %v", r.lookups)
		}
	}
	if told != 10 {
		t.Errorf("told %d times of 10 jobs", told)
	}
}

// A stream that takes no more ends the job.
func TestSinkFails(t *testing.T) {
	w := newWorld(t, "")
	broken := errors.New("broken stream")
	fail := func() error { return broken }
	begun := time.Now()
	if err := w.try(t, t.Context(), shell("while :; do echo x; done"), &ran{onStdio: fail}); !errors.Is(err, broken) {
		t.Errorf("stdio: %v", err)
	}
	w.nothingLeft(t)
	if err := w.try(t, t.Context(), shell("echo x >out; echo y >b", outputs("out", "b")), &ran{onOutput: fail}); !errors.Is(err, broken) {
		t.Errorf("output: %v", err)
	}
	if err := w.try(t, t.Context(), shell("true"), &ran{onEnded: fail}); !errors.Is(err, broken) {
		t.Errorf("end: %v", err)
	}
	w.nothingLeft(t)
	if took := time.Since(begun); took > time.Minute {
		t.Errorf("took %s", took)
	}
}

// What the machine lacks is an error of the agent's, and nothing is left of the
// try.
func TestBrokenMachine(t *testing.T) {
	for name, change := range map[string]func(c *Config){
		"no image":  func(c *Config) { c.Image += "none" },
		"no stage":  func(c *Config) { c.Stage += "/none" },
		"no cgroup": func(c *Config) { c.Cgroup = "/no/such" },
		// A directory without a kernel behind it: there is no memory.max.
		"no controllers": func(c *Config) { c.Cgroup = filepath.Dir(c.Stage) },
	} {
		w := newWorld(t, "")
		change(&w.Config)
		err := w.try(t, t.Context(), shell("true"), new(ran))
		var refused *RefusedError
		if err == nil || errors.As(err, &refused) {
			t.Errorf("%s: %v", name, err)
		}
		w.Stage, w.Cgroup = strings.TrimSuffix(w.Stage, "/none"), ""
		if left, _ := filepath.Glob(w.dir + "/job-*"); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
	// The blob went away under the job.
	w := newWorld(t, "")
	h := shell("true", w.files(t, map[string]string{"a": "content"}))
	if err := os.RemoveAll(w.dir + "/blobs"); err != nil {
		t.Fatal(err)
	}
	if err := w.try(t, t.Context(), h, new(ran)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no blob: %v", err)
	}
}

// Jobs at one time know nothing of each other: not their files, processes,
// semaphores or names.
func TestApart(t *testing.T) {
	w := newWorld(t, "")
	type result struct {
		r   *ran
		err error
	}
	results := make(chan result, 4)
	for range cap(results) {
		go func() {
			r := new(ran)
			err := w.try(t, t.Context(), shell(`echo >/tmp/apart-$(id -u); echo >x-$(id -u); id -u; sleep 2
				echo /tmp/apart-* x-*; for p in /proc/[0-9]*; do cat $p/comm; done | sort | uniq -c; cat /proc/sys/kernel/hostname; ls /sys 2>/dev/null; cat /proc/net/dev | grep -c :`), r)
			results <- result{r, err}
		}()
	}
	users := map[string]bool{}
	for range cap(results) {
		got := <-results
		if got.err != nil {
			t.Fatal(got.err)
		}
		user, rest, _ := strings.Cut(got.r.stdout.String(), "\n")
		if users[user] {
			t.Errorf("two jobs are user %s", user)
		}
		users[user] = true
		if !strings.HasPrefix(rest, "/tmp/apart-"+user+" x-"+user+"\n") || strings.Count(rest, " sh\n") > 2 || strings.Contains(rest, "sleep") || !strings.Contains(rest, agentv1.Hostname+"\n") || !strings.HasSuffix(rest, "\n1\n") {
			t.Errorf("%s", rest)
		}
	}
}

// The world has what the header says, to the nanosecond, and its lookups are
// those of the program alone.
func TestInputs(t *testing.T) {
	w := newWorld(t, "")
	at := int64(1_500_000_000_123_456_789)
	r := w.run(t, shell(`stat -c '%n %F %a %u %.9Y %h' * sub/*; readlink l; cat a b; id -u`, func(h *agentv1.ExecHeader) {
		h.Inputs = []*agentv1.Input{
			{Path: root + "/a", Kind: agentv1.Input_KIND_FILE, Mode: 0o640, Mtime: at, Digest: w.put(t, "text\n")},
			{Path: root + "/b", Kind: agentv1.Input_KIND_FILE, Mode: 0o404, Mtime: -1_000_000_000, Digest: w.put(t, "text\n")},
			{Path: root + "/l", Kind: agentv1.Input_KIND_SYMLINK, Mtime: at + 1, Target: "no/such \n thing"},
			{Path: root + "/sub", Kind: agentv1.Input_KIND_DIRECTORY, Mode: 0o500, Mtime: at + 2},
			{Path: root + "/sub/in", Kind: agentv1.Input_KIND_FILE, Mode: 0o444, Mtime: at + 3, Digest: w.put(t, "")},
		}
	}))
	uid := fmt.Sprint(firstUID + MaxJobs)
	if i := strings.LastIndexByte(strings.TrimSpace(r.stdout.String()), '\n'); i > 0 {
		uid = strings.TrimSpace(r.stdout.String()[i:])
	}
	want := strings.ReplaceAll(`a regular file 640 UID 1500000000.123456789 1
b regular file 404 UID -1.000000000 1
l symbolic link 777 UID 1500000000.123456790 1
sub directory 500 UID 1500000000.123456791 2
sub/in regular empty file 444 UID 1500000000.123456792 1
no/such 
 thing
text
text
UID
`, "UID", uid)
	// An overlay counts one link of a directory.
	if got := strings.ReplaceAll(r.stdout.String(), "791 1\n", "791 2\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s\n%s", got, want, r.stderr.String())
	}
	for _, l := range r.lookups {
		if l.Path == root+"/unlisted" || !strings.HasPrefix(l.Path, root) {
			t.Errorf("%v", l)
		}
	}
	if !slices.Contains(r.lookups, lookup.Lookup{Path: root + "/sub/in", Found: lookup.File}) {
		t.Errorf("%v", r.lookups)
	}
}

// Whatever names the tree is given, it makes nothing outside its root, even if
// nobody has checked them.
func TestTreeStaysInside(t *testing.T) {
	w := newWorld(t, "")
	outside := t.TempDir()
	for name, p := range map[string]string{
		"dots": root + "/../../../x", "dots at the end": root + "/..", "through a link": root + "/out/x", "through a link up": root + "/up/x",
		"through a file": root + "/file/x", "NUL": root + "/a\x00b", "long": root + "/" + strings.Repeat("x", 300), "the root": root,
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(dir+"/image/hpcc", 0o755); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(dir+"/image", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		tr := &tree{root: fd, uid: firstUID}
		if err := tr.makeRoots([]string{root}); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []agentv1.Input_Kind{agentv1.Input_KIND_FILE, agentv1.Input_KIND_SYMLINK, agentv1.Input_KIND_DIRECTORY} {
			for link, target := range map[string]string{"out": outside, "up": "../../.."} {
				os.Symlink(target, dir+"/image"+root+"/"+link)
			}
			os.WriteFile(dir+"/image"+root+"/file", nil, 0o644)
			err := tr.materialise([]string{root}, []*agentv1.Input{{Path: p, Kind: kind, Mode: 0o755, Target: "x", Digest: w.put(t, "x")}}, w.Store)
			if err == nil && !(kind == agentv1.Input_KIND_DIRECTORY && name == "the root") {
				t.Errorf("%s: %v is made", name, kind)
			}
		}
		unix.Close(fd)
		for where, want := range map[string]int{outside: 0, dir: 1, dir + "/image": 1, dir + "/image/hpcc": 1, dir + "/image" + root: 3} {
			if all, err := os.ReadDir(where); err != nil || len(all) != want {
				t.Errorf("%s: %s has %v, %v", name, where, all, err)
			}
		}
	}
}
