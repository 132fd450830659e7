package script

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/ipc"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

type doctorFinding struct{ Check, Level, Text, Mend string }

// setup is a sound set-up of hpcc in a directory of its own, for a fault to be
// made in. PATH holds one compiler and little else.
type setup struct {
	t    *testing.T
	dir  string
	path []string
	env  []string // besides PATH and hpcc's own
	// program is run as hpccd.
	program string
	daemon  *exec.Cmd
}

func newSetup(t *testing.T) *setup {
	t.Helper()
	s := &setup{t: t, dir: t.TempDir(), program: filepath.Join(bin, "hpccd")}
	for _, d := range []string{"config", "cache", "tools", "work"} {
		if err := os.Mkdir(filepath.Join(s.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"gcc", "as", "true", "sh"} {
		real, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		s.must(os.Symlink(real, filepath.Join(s.dir, "tools", name)))
	}
	s.path = []string{bin, s.dir + "/tools"}
	return s
}

func (s *setup) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *setup) environ() []string {
	return append([]string{
		"PATH=" + strings.Join(s.path, ":"), "HOME=" + s.dir,
		"HPCC_CONFIG_DIR=" + s.dir + "/config", "HPCC_CACHE_DIR=" + s.dir + "/cache",
	}, s.env...)
}

func (s *setup) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = s.dir+"/work", s.environ()
	return cmd
}

// start starts a daemon, and end ends it by a signal.
func (s *setup) start(env ...string) {
	s.t.Helper()
	s.daemon = s.command(filepath.Join(bin, "hpccd"), "start")
	s.daemon.Env = append(s.daemon.Env, env...)
	s.must(s.daemon.Start())
	s.t.Cleanup(func() {
		s.daemon.Process.Signal(syscall.SIGCONT)
		s.end(syscall.SIGTERM)
	})
	for range 2400 {
		if _, err := os.Stat(s.dir + "/config/daemon.json"); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.t.Fatal("the daemon did not start within two minutes")
}

func (s *setup) end(sig syscall.Signal) {
	s.daemon.Process.Signal(sig)
	s.daemon.Wait()
}

// compile compiles a file through hpcc.
func (s *setup) compile(env ...string) {
	s.t.Helper()
	s.must(os.WriteFile(s.dir+"/work/a.c", []byte("int a;\n"), 0o644))
	time.Sleep(30 * time.Millisecond)
	cmd := s.command(filepath.Join(bin, "hpcc"), "gcc", "-c", "a.c")
	cmd.Env = append(cmd.Env, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
}

func (s *setup) write(name, text string, mode os.FileMode) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	s.must(os.MkdirAll(filepath.Dir(path), 0o700))
	s.must(os.WriteFile(path, []byte(text), mode))
	s.must(os.Chmod(path, mode))
	return path
}

// root is for faults that only root can make.
func (s *setup) root() {
	s.t.Helper()
	if os.Geteuid() != 0 {
		s.t.Fatal("needs root, to make the fault")
	}
}

// mount mounts a small file system at a directory.
func (s *setup) mount(dir, options string) {
	s.t.Helper()
	s.root()
	s.must(syscall.Mount("tmpfs", dir, "tmpfs", 0, options))
	s.t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
}

func (s *setup) examine() (findings []doctorFinding, status int, text string) {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := s.command(s.program, "doctor", "--json")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	var answer struct{ Findings []doctorFinding }
	if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil {
		s.t.Fatalf("%v: %s%s", err, stdout.Bytes(), stderr.Bytes())
	}
	return answer.Findings, cmd.ProcessState.ExitCode(), stdout.String()
}

// snapshot lists what lies in the configuration and the cache, with times.
func (s *setup) snapshot() string {
	var b strings.Builder
	for _, d := range []string{"config", "cache", "work", "tools"} {
		filepath.Walk(filepath.Join(s.dir, d), func(path string, info os.FileInfo, err error) error {
			if err == nil {
				fmt.Fprintln(&b, path, info.Mode(), info.Size(), info.ModTime().UnixNano())
			}
			return nil
		})
	}
	return b.String()
}

// A sound set-up is all ok, and is left as it was.
func TestDoctorSound(t *testing.T) {
	s := newSetup(t)
	s.start()
	s.compile()
	s.compile()
	s.command(filepath.Join(bin, "hpcc"), "stats").Run()
	before := s.snapshot()
	findings, status, text := s.examine()
	if status != 0 {
		t.Errorf("status %d", status)
	}
	var checks []string
	for _, f := range findings {
		checks = append(checks, f.Check)
		if f.Level != "ok" {
			t.Errorf("%+v", f)
		}
	}
	for _, want := range []string{"programs", "settings", "daemon", "config-dir", "cache-dir", "cache-space", "cache-filesystem", "clock",
		"cache", "environment", "links", "compilers", "compile", "compile-daemon"} {
		if !slices.Contains(checks, want) {
			t.Errorf("no check %s in %s", want, text)
		}
	}
	if after := s.snapshot(); after != before {
		t.Errorf("something was changed:\n%s\nbefore:\n%s", after, before)
	}
}

var faults = []struct {
	name  string
	fault func(*setup)
	// The finding that names it. mend is a part of its Mend.
	check, level, text, mend string
}{
	{"hpcc is missing", func(s *setup) {
		s.program = s.dir + "/alone/hpccd"
		s.must(os.Mkdir(s.dir+"/alone", 0o700))
		s.must(os.Link(filepath.Join(bin, "hpccd"), s.program))
	}, "programs", "fail", "hpcc is not beside", "into one directory"},
	{"hpcc of another version", func(s *setup) {
		s.program = s.dir + "/mixed/hpccd"
		s.must(os.Mkdir(s.dir+"/mixed", 0o700))
		s.must(os.Link(filepath.Join(bin, "hpccd"), s.program))
		s.must(os.Link(filepath.Join(bin, "other", "hpcc"), s.dir+"/mixed/hpcc"))
	}, "programs", "fail", "hpcc is version other", "of one version"},
	{"hpcc is no program", func(s *setup) {
		s.program = s.dir + "/bad/hpccd"
		s.must(os.Mkdir(s.dir+"/bad", 0o700))
		s.must(os.Link(filepath.Join(bin, "hpccd"), s.program))
		s.write("bad/hpcc", "nonsense", 0o700)
	}, "programs", "fail", "does not run", "install"},
	{"another hpcc in PATH", func(s *setup) {
		s.write("old/hpcc", "#!/bin/sh\n", 0o700)
		s.path = slices.Insert(s.path, 0, s.dir+"/old")
	}, "programs-path", "warn", "another hpcc", "before it in PATH"},
	{"hpcc not in PATH", func(s *setup) { s.path = s.path[1:] }, "programs-path", "warn", "not found", "into PATH"},

	{"unknown setting", func(s *setup) { s.write("config/client.toml", "[cache]\nmaxsize = 1\n", 0o600) },
		"settings", "fail", "did you mean cache.max_size", "hpcc config --help"},
	{"bad variable", func(s *setup) { s.env = []string{"HPCC_VERIFY=often"} }, "settings", "fail", "HPCC_VERIFY", "mend the setting"},
	{"switched off", func(s *setup) { s.env = []string{"HPCC_DISABLE=1"} }, "settings-disable", "warn", "switched off", "unset HPCC_DISABLE"},
	{"all verified", func(s *setup) { s.env = []string{"HPCC_VERIFY=1"} }, "settings-verify", "warn", "compiled anyway", "unset HPCC_VERIFY"},

	{"no daemon", func(*setup) {}, "daemon", "warn", "none runs", "hpcc start"},
	{"daemon killed", func(s *setup) { s.start(); s.end(syscall.SIGKILL) }, "daemon", "warn", "left by one that was killed", "hpcc start"},
	{"daemon stopped", func(s *setup) { s.start(); s.must(s.daemon.Process.Signal(syscall.SIGSTOP)) }, "daemon", "fail", "does not answer", "kill -9"},
	{"daemon.json readable", func(s *setup) { s.start(); s.must(os.Chmod(s.dir+"/config/daemon.json", 0o644)) }, "daemon", "fail", "others can read it", "remove"},
	{"daemon.json of another user", func(s *setup) { s.root(); s.start(); s.must(os.Chown(s.dir+"/config/daemon.json", 1, 1)) },
		"daemon", "fail", "belongs to another user", "remove"},
	{"daemon.json damaged", func(s *setup) { s.write("config/daemon.json", "{", 0o600) }, "daemon", "fail", "parse", "remove"},
	{"daemon.json removed", func(s *setup) { s.start(); s.must(os.Remove(s.dir + "/config/daemon.json")) }, "daemon", "warn", "a daemon runs, but", "start it anew"},
	{"token exchanged", func(s *setup) {
		s.start()
		e, err := ipc.ReadEndpoint(s.dir + "/config")
		s.must(err)
		e.Token[0]++
		s.must(ipc.PublishEndpoint(s.dir+"/config", &e))
	}, "daemon", "fail", "refuses the token", "start it anew"},
	{"daemon of another version", func(s *setup) { otherDaemon(s) }, "daemon", "fail", "another version runs: the daemon is version 0.1", "start this version"},
	{"daemon of another cache", func(s *setup) { s.start("HPCC_CACHE_DIR=" + s.dir + "/elsewhere") }, "daemon-cache", "warn", "/elsewhere", "client.toml"},

	{"configuration open to others", func(s *setup) { s.must(os.Chmod(s.dir+"/config", 0o777)) }, "config-dir", "fail", "others may write", "chmod 700"},
	{"configuration of another user", func(s *setup) { s.root(); s.must(os.Chown(s.dir+"/config", 1, 1)) }, "config-dir", "fail", "belongs to user 1", "this user's own"},
	{"cache open to others", func(s *setup) { s.must(os.Chmod(s.dir+"/cache", 0o770)) }, "cache-dir", "fail", "others may write", "chmod 700"},
	{"cache to be read by others", func(s *setup) { s.must(os.Chmod(s.dir+"/cache", 0o755)) }, "cache-dir", "warn", "others may read", "chmod 700"},
	{"cache is a file", func(s *setup) { s.must(os.Remove(s.dir + "/cache")); s.write("cache", "", 0o600) }, "cache-dir", "fail", "is not a directory", "another path"},
	{"cache of another user", func(s *setup) { s.root(); s.must(os.Chown(s.dir+"/cache", 1, 1)) }, "cache-dir", "fail", "belongs to user 1", "this user's own"},
	{"cache read-only", func(s *setup) {
		s.mount(s.dir+"/cache", "mode=700")
		s.must(syscall.Mount("", s.dir+"/cache", "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	},
		"cache-dir", "fail", "cannot be written", "may write"},
	{"disk full", func(s *setup) { s.mount(s.dir+"/cache", "mode=700,size=1m") }, "cache-space", "fail", "free where the cache lies", "make room"},
	{"cache of another version", func(s *setup) { s.write("cache/VERSION", "hpcc cache 99\n", 0o600) }, "cache", "fail", "another version", "another directory"},
	{"cache over its limit", func(s *setup) { s.compile(); s.env = []string{"HPCC_CACHE_MAX_SIZE=1kB"} }, "cache", "warn", "more than", "hpcc clean"},
	{"damaged cache", func(s *setup) {
		s.compile()
		s.must(exec.Command("sh", "-c", "for f in "+s.dir+"/cache/cas/*/*; do echo damage >$f; done").Run())
		s.compile()
	}, "cache-damage", "warn", "1 files were damaged", "hpcc fsck"},
	{"quarantine", func(s *setup) {
		s.compile()
		s.must(exchange(s.dir + "/cache"))
		s.compile("HPCC_VERIFY=1")
	}, "quarantine", "warn", "1 results were not", "hpcc inspect"},

	{"shared cache that is well", func(s *setup) { s.share(""); s.must(os.Mkdir(s.dir+"/share", 0o700)); s.start() }, "tier-near", "ok", "writes on conditions hold", ""},
	{"shared cache that is not mounted", func(s *setup) { s.share("") }, "tier-near", "warn", "not available", "can be reached"},
	{"shared cache without a daemon", func(s *setup) { s.share("") }, "tiers-daemon", "warn", "no shared cache is asked", "hpcc start"},
	{"shared cache of results that are nobody else's", func(s *setup) { s.share("[reproducible]\nenabled = false\n") }, "tiers", "warn", "no shared cache is asked", "remove reproducible.enabled"},
	{"shared cache that may not be written", func(s *setup) {
		s.share("")
		s.write("share", "", 0o600)
	}, "tier-near", "fail", "/share", "builds go on without it"},
	{"bucket that nobody serves", func(s *setup) {
		s.share("[[cache.tiers]]\nname = \"far\"\nurl = \"s3://bucket\"\nendpoint = \"http://127.0.0.1:1\"\nregion = \"us-east-1\"\n")
		s.env = []string{"AWS_ACCESS_KEY_ID=k", "AWS_SECRET_ACCESS_KEY=s3cret"}
	}, "tier-far", "warn", "not available", "s3://bucket"},
	{"signing key that others can read", func(s *setup) { s.share(""); s.must(os.Chmod(s.dir+"/key", 0o644)) }, "tiers-signing-key", "fail", "others can sign", "chmod 600"},
	{"encryption key that others can read", func(s *setup) {
		s.share(fmt.Sprintf("encryption_key_file = %q\n", s.dir+"/seal"))
		s.write("seal", strings.Repeat("A", 43)+"=", 0o600)
		s.must(os.Chmod(s.dir+"/seal", 0o640))
	}, "tier-near", "fail", "mode 0640", "chmod 600"},
	{"no signing key", func(s *setup) { s.share(""); s.must(os.Remove(s.dir + "/key")) }, "tiers-signing-key", "fail", "no such file", "hpcc cache keygen"},
	{"trusted keys that others can change", func(s *setup) { s.share(""); s.must(os.Chmod(s.dir+"/trust", 0o666)) }, "tiers-trusted-keys", "fail", "believe results of theirs", "chmod go-w"},
	{"trusted keys that are none", func(s *setup) { s.share(""); s.write("trust", "somebody", 0o600) }, "tiers-trusted-keys", "fail", "line 1", "mend the line"},
	{"nobody who is trusted", func(s *setup) { s.share(""); s.write("trust", "# none yet\n", 0o600) }, "tiers-trusted-keys", "warn", "names nobody", "add a line"},

	{"refusing variable", func(s *setup) { s.env = []string{"DEPENDENCIES_OUTPUT=x"} }, "environment", "warn", "DEPENDENCIES_OUTPUT", "unset DEPENDENCIES_OUTPUT"},
	{"another cache as compiler", func(s *setup) { s.env = []string{"CC=/usr/bin/ccache gcc"} }, "environment", "warn", "CC runs ccache", "hpcc before it"},
	{"another launcher", func(s *setup) { s.env = []string{"CMAKE_C_COMPILER_LAUNCHER=sccache"} }, "environment", "warn", "runs sccache", "name the compiler"},

	{"links behind the compilers", func(s *setup) { s.links(bin+"/hpcc", "gcc"); s.path = append(s.path, s.dir+"/links") }, "links", "warn", "comes after the compilers", "export PATH="},
	{"links that lead nowhere", func(s *setup) { s.links(s.dir+"/gone/hpcc", "gcc"); s.path = slices.Insert(s.path, 1, s.dir+"/links") }, "links", "fail", "is not there: gcc", "hpcc masquerade"},
	{"links to another hpcc", func(s *setup) { s.links(bin+"/other/hpcc", "gcc"); s.path = slices.Insert(s.path, 1, s.dir+"/links") }, "links", "warn", "another hpcc than", "hpcc masquerade"},
	{"links for no compiler", func(s *setup) { s.links(bin+"/hpcc", "clang-99"); s.path = slices.Insert(s.path, 1, s.dir+"/links") }, "links", "warn", "not in PATH: clang-99", "remove them"},
	{"links in order", func(s *setup) { s.links(bin+"/hpcc", "gcc"); s.path = slices.Insert(s.path, 1, s.dir+"/links") }, "links", "ok", "come before", ""},

	{"no compiler", func(s *setup) { s.must(os.Remove(s.dir + "/tools/gcc")) }, "compilers", "fail", "no compiler", "install one"},
	{"another cache in PATH", func(s *setup) {
		s.write("ccache/ccache", "#!/bin/sh\n", 0o700)
		s.must(os.Symlink("ccache", s.dir+"/ccache/gcc"))
		s.path = slices.Insert(s.path, 1, s.dir+"/ccache")
	}, "compilers", "warn", "/ccache/ccache stands behind", "out of PATH"},
	{"compiler is a script", func(s *setup) {
		s.write("script/gcc", "#!/bin/sh\nexec /usr/bin/gcc \"$@\"\n", 0o700)
		s.path = slices.Insert(s.path, 1, s.dir+"/script")
	}, "compilers", "warn", "compiler-script", "call the compiler itself"},
	{"compiler that is none", func(s *setup) {
		real, err := exec.LookPath("true")
		s.must(err)
		s.must(os.Mkdir(s.dir+"/none", 0o700))
		s.must(exec.Command("cp", real, s.dir+"/none/clang").Run())
		s.path = slices.Insert(s.path, 1, s.dir+"/none")
	}, "compilers", "warn", "unknown-compiler", "-v"},
	{"compiler that fails", func(s *setup) { s.must(os.Remove(s.dir + "/tools/as")) }, "compile", "fail", "compiling a small file", "see the lines above"},
}

// share has the settings name a shared cache, and more.
func (s *setup) share(more string) {
	s.t.Helper()
	line, err := s.command(filepath.Join(bin, "hpcc"), "cache", "keygen", "--name", "me", s.dir+"/key").Output()
	s.must(err)
	s.write("trust", string(line), 0o600)
	s.write("config/client.toml", fmt.Sprintf("[cache]\nsigning_key_file = %q\ntrusted_keys_file = %q\n[[cache.tiers]]\nname = \"near\"\nurl = %q\n%s",
		s.dir+"/key", s.dir+"/trust", "file://"+s.dir+"/share", more), 0o600)
}

func (s *setup) links(to string, names ...string) {
	s.t.Helper()
	s.must(os.Mkdir(s.dir+"/links", 0o700))
	for _, n := range names {
		s.must(os.Symlink(to, filepath.Join(s.dir, "links", n)))
	}
}

// otherDaemon answers as a daemon of another version does.
func otherDaemon(s *setup) {
	socket := s.dir + "/s"
	l, err := net.Listen("unix", socket)
	s.must(err)
	s.t.Cleanup(func() { l.Close() })
	s.must(ipc.PublishEndpoint(s.dir+"/config", &ipc.Endpoint{Socket: socket, Pid: os.Getpid(), Token: make([]byte, ipc.TokenSize), Version: "0.1"}))
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			talk := ipc.NewServerConn(conn)
			if talk.Receive(&ipcv1.ClientMessage{}) == nil {
				talk.Send(&ipcv1.ServerMessage{Refused: &ipcv1.Refused{Why: ipcv1.Refused_WHY_VERSION, Detail: "the daemon is version 0.1"}})
			}
			conn.Close()
		}
	}()
}

// Each fault is made for real, and named with its mend; the exit status says
// whether anything failed.
func TestDoctorFinds(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel() // some wait for a daemon that does not answer
			s := newSetup(t)
			f.fault(s)
			findings, status, text := s.examine()
			found, failed := false, false
			for _, g := range findings {
				failed = failed || g.Level == "fail"
				found = found || g.Check == f.check && g.Level == f.level && strings.Contains(g.Text, f.text) && strings.Contains(g.Mend, f.mend)
				if g.Level != "ok" && g.Mend == "" {
					t.Errorf("no mend: %+v", g)
				}
			}
			if !found || failed != (status != 0) {
				t.Errorf("found: %v, status %d:\n%s", found, status, text)
			}
		})
	}
}
