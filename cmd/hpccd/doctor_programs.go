package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/ipc"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// doctorPatience is how long the daemon and the wrapper are waited for; the
// wrapper itself gives a daemon five seconds.
const doctorPatience = 5 * time.Second

// programs looks at hpcc and hpccd: both are there, of one version, and what
// PATH finds.
func (d *doctor) programs() {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		d.fail("programs", "install hpcc and hpccd anew", "own path: %s", err)
		return
	}
	d.hpccd = self
	beside, err := besideSelf("hpcc")
	if err != nil {
		d.fail("programs", "install hpcc and hpccd into one directory", "hpcc is not beside %s", self)
		return
	}
	d.hpcc = beside
	version, err := wrapperVersion(beside)
	switch {
	case err != nil:
		d.fail("programs", "install hpcc and hpccd anew, into one directory", "%s does not run: %s", beside, err)
	case version != ipc.Version:
		d.fail("programs", "install both programs of one version", "hpcc is version %s, and hpccd %s", version, ipc.Version)
	default:
		d.ok("programs", "hpcc and hpccd %s in %s", version, filepath.Dir(beside))
	}
	found, err := exec.LookPath("hpcc")
	switch {
	case err != nil:
		d.warn("programs-path", "put "+filepath.Dir(beside)+" into PATH", "hpcc is not found through PATH")
	case !sameFile(found, beside):
		d.warn("programs-path", "remove the other one, or put "+filepath.Dir(beside)+" before it in PATH", "PATH finds another hpcc first: %s", found)
	}
}

func sameFile(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// wrapperVersion learns what version a wrapper is of by being its daemon for
// one call, of a command that does nothing.
func wrapperVersion(hpcc string) (string, error) {
	command, err := exec.LookPath("true")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "hpcc-doctor-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return "", err
	}
	defer l.Close()
	token := make([]byte, ipc.TokenSize)
	rand.Read(token)
	if err := ipc.PublishEndpoint(dir, &ipc.Endpoint{Socket: socket, Pid: os.Getpid(), Token: token, Version: ipc.Version}); err != nil {
		return "", err
	}
	cmd := exec.Command(hpcc, "wrap", command)
	cmd.Env = []string{"HPCC_CONFIG_DIR=" + dir, "PATH=" + os.Getenv("PATH")}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	version := make(chan string, 1)
	go func() {
		defer close(version)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(doctorPatience))
		talk := ipc.NewServerConn(conn)
		m := &ipcv1.ClientMessage{}
		if talk.Receive(m) == nil && m.GetHello() != nil {
			version <- m.GetHello().GetVersion()
			_ = talk.Send(&ipcv1.ServerMessage{Pass: &ipcv1.Pass{Reason: "doctor"}})
		}
	}()
	timer := time.AfterFunc(2*doctorPatience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err = cmd.Wait()
	l.Close() // whoever has not called by now will not
	v, answered := <-version
	switch {
	case !answered && err == nil:
		return "", errors.New("it asks no daemon")
	case err != nil:
		return "", err
	}
	return v, nil
}

// daemon looks at daemon.json and whoever answers there.
func (d *doctor) daemon() {
	if d.cfg == nil {
		return
	}
	file := filepath.Join(d.cfg.Dir, ipc.EndpointFile)
	e, err := ipc.ReadEndpoint(d.cfg.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if d.lockHeld() {
			d.warn("daemon", "end that hpccd, and start it anew: hpcc start", "a daemon runs, but there is no %s by which it would be found", file)
			return
		}
		d.warn("daemon", "start one: hpcc start", "none runs: everything works, but hits take longer")
		return
	case errors.Is(err, ipc.ErrUnsafeEndpoint):
		d.fail("daemon", "remove "+file+", and start the daemon anew: hpcc start",
			"%s belongs to another user, or others can read it and with it use the daemon", file)
		return
	case err != nil:
		d.fail("daemon", "remove "+file+", and start the daemon anew: hpcc start", "%s", err)
		return
	}
	answer, err := admin(&e, "ping", doctorPatience)
	var refused errRefused
	switch {
	case errors.Is(err, ipc.ErrTimeout):
		d.fail("daemon", "end it and start it anew: kill -9 "+itoa(e.Pid)+"; hpcc start", "the daemon (process %d) does not answer", e.Pid)
	case errors.Is(err, ipc.ErrForeignPeer):
		d.fail("daemon", "remove "+file+", and start the daemon anew: hpcc start", "what answers in the daemon's place belongs to another user")
	case errors.As(err, &refused) && refused.Why == ipcv1.Refused_WHY_TOKEN:
		d.fail("daemon", "end it and start it anew: kill "+itoa(e.Pid)+"; hpcc start", "the daemon (process %d) refuses the token of its own %s", e.Pid, file)
	case errors.As(err, &refused):
		d.fail("daemon", "end it and start this version: kill "+itoa(e.Pid)+"; hpcc start", "another version runs: %s, and this is %s", refused.Detail, ipc.Version)
	case err != nil:
		d.warn("daemon", "start one: hpcc start", "none runs; %s was left by one that was killed (process %d)", file, e.Pid)
	default:
		d.daemonAnswers = true
		d.daemonState(answer)
	}
}

// daemonState judges what a daemon says of itself.
func (d *doctor) daemonState(answer []byte) {
	var state struct {
		Pid            int
		Version, Cache string
	}
	if err := json.Unmarshal(answer, &state); err != nil {
		d.fail("daemon", "end it and start it anew: hpcc start", "the daemon's answer is not understood: %s", err)
		return
	}
	d.ok("daemon", "process %d, version %s", state.Pid, state.Version)
	if state.Cache != "" && state.Cache != d.cfg.Cache.Dir && !sameFile(state.Cache, d.cfg.Cache.Dir) {
		d.warn("daemon-cache", "give both the same settings: put cache.dir into client.toml, and start the daemon anew",
			"the daemon uses the cache %s, and commands use %s", state.Cache, d.cfg.Cache.Dir)
	}
	if info, err := os.Stat(filepath.Join(d.cfg.Dir, "hung")); err == nil && time.Since(info.ModTime()) < time.Minute {
		d.warn("daemon-hung", "nothing if it is over; a machine without memory is the usual cause", "wrappers found it hung within the last minute, and go on without it for that long")
	}
}

// lockHeld reports whether some daemon holds the lock of this configuration.
func (d *doctor) lockHeld() bool {
	f, err := os.Open(filepath.Join(d.cfg.Dir, "daemon.lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// selfTest compiles a file twice through the real programs, with a cache and a
// configuration of its own, and asks the real daemon what it would run.
func (d *doctor) selfTest() {
	if d.hpcc == "" || d.works == "" {
		return
	}
	dir, err := os.MkdirTemp("", "hpcc-doctor-")
	if err != nil {
		d.fail("compile", "see that the temporary directory can be written", "%s", err)
		return
	}
	defer os.RemoveAll(dir)
	run := func(config string, args ...string) (string, error) {
		cmd := exec.CommandContext(d.ctx, d.hpcc, args...)
		cmd.Dir = dir
		for _, kv := range os.Environ() {
			if !strings.HasPrefix(kv, "HPCC_") {
				cmd.Env = append(cmd.Env, kv)
			}
		}
		cmd.Env = append(cmd.Env, "HPCC_CONFIG_DIR="+config, "HPCC_CACHE_DIR="+filepath.Join(dir, "cache"), "PWD="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = errors.New(strings.TrimSpace(err.Error() + ": " + clip(string(out), 300)))
		}
		return string(out), err
	}
	source := filepath.Join(dir, "t.c")
	if err := os.WriteFile(source, []byte("#include <stddef.h>\nsize_t hpcc_doctor;\n"), 0o600); err != nil {
		d.fail("compile", "see that the temporary directory can be written", "%s", err)
		return
	}
	// A source as old as the compile is not cached.
	old := time.Now().Add(-time.Minute)
	_ = os.Chtimes(source, old, old)
	time.Sleep(50 * time.Millisecond)
	const mend = "see the lines above; HPCC_LOG_LEVEL=debug hpcc start says more"
	var objects [2][]byte
	for i := range objects {
		out, err := run(dir, "wrap", d.works, "-c", "t.c", "-o", "t.o")
		if err == nil && out != "" {
			err = errors.New(clip(out, 300))
		}
		if err == nil {
			objects[i], err = os.ReadFile(filepath.Join(dir, "t.o"))
			os.Remove(filepath.Join(dir, "t.o"))
		}
		if err != nil {
			d.fail("compile", mend, "compiling a small file through hpcc: %s", err)
			return
		}
	}
	out, err := run(dir, "stats", "--json")
	var stats struct {
		Hits        int64            `json:"hits_direct"`
		Uncacheable map[string]int64 `json:"uncacheable"`
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &stats)
	}
	switch {
	case err != nil:
		d.fail("compile", mend, "counting a small file's compiles: %s", err)
	case string(objects[0]) != string(objects[1]):
		d.fail("compile", "report it: this is the one thing that must not be", "a hit is not what the compiler made")
	case stats.Hits != 1:
		reasons := strings.Join(byCount(stats.Uncacheable), ", ")
		if reasons == "" {
			reasons = "no reason counted"
		}
		d.fail("compile", mend, "the second compile of a small file was no hit (%s)", reasons)
	default:
		d.ok("compile", "the second compile of a small file is a hit, without a daemon")
	}
	if !d.daemonAnswers {
		return
	}
	if _, err := run(d.cfg.Dir, "wrap", "--show-command", d.works, "-c", "t.c"); err != nil {
		d.fail("compile-daemon", "start the daemon anew: hpcc start", "the daemon does not understand a small compile: %s", err)
	} else {
		d.ok("compile-daemon", "the daemon understands a small compile")
	}
}
