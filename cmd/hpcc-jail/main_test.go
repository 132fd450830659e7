//go:build linux

package main

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/jail"
)

// What needs a jailer and control groups is tested in the lab, by the tests of
// internal/vm/firecracker.

func settingsOf(change func(*settings)) *settings {
	s := &settings{
		socket: "/run/hpcc/jail.socket", client: 990, base: "/srv/hpcc", cgroup: "hpcc", firstUID: 700000, UIDs: 16,
		firecracker: "/usr/bin/firecracker", jailer: "/usr/bin/jailer", maxMemory: 1 << 30, maxPIDs: 64,
	}
	if change != nil {
		change(s)
	}
	return s
}

func TestSettings(t *testing.T) {
	if err := settingsOf(nil).check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*settings){
		"a worker that is not root": func(s *settings) { s.client = 0 },
		"want a range":              func(s *settings) { s.firstUID = 0 },
		"between":                   func(s *settings) { s.firstUID = 1<<31 - 1 },
		"lies in the range":         func(s *settings) { s.client = 700003 },
		"4096 at most":              func(s *settings) { s.UIDs = 5000 },
		"firecracker in its name":   func(s *settings) { s.firecracker = "/usr/bin/vmm" },
		"-cgroup":                   func(s *settings) { s.cgroup = "../system.slice" },
		"-base":                     func(s *settings) { s.base = "srv" },
		"-socket":                   func(s *settings) { s.socket = "/run/../etc/x" },
		"-jailer":                   func(s *settings) { s.jailer = "/" },
	} {
		if err := settingsOf(change).check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestRootsAlone(t *testing.T) {
	if err := rootsAlone("/usr/bin/env"); err != nil {
		t.Error(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, nil, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(program, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/usr/bin/env", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{program, filepath.Join(dir, "link"), filepath.Join(dir, "absent")} {
		if err := rootsAlone(path); err == nil {
			t.Errorf("%s is taken for root's alone", path)
		}
	}
}

func newTestKeeper(t *testing.T) *keeper {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return &keeper{
		settings: settingsOf(func(s *settings) { s.client = uint(os.Getuid()); s.cgroup = "hpcc-no-such-group" }),
		log:      slog.New(slog.DiscardHandler), jails: root, live: map[string]*cell{}, uids: map[uint32]bool{},
	}
}

// dial makes a connection that the keeper serves.
func dial(t *testing.T, k *keeper) *net.UnixConn {
	t.Helper()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.DialUnix("unixpacket", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	served, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer served.Close()
		k.serve(served)
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

func openFDs(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// Every request here is refused, and neither a file nor a descriptor stays.
func TestHostileRequests(t *testing.T) {
	k := newTestKeeper(t)
	file, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	path, err := unix.Open("/etc/shadow", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(path)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	defer write.Close()
	f, r, w := int(file.Fd()), int(read.Fd()), int(write.Fd())
	start := func(change func(*jail.Message)) []byte {
		m := &jail.Message{Kind: jail.Start, ID: "id", Memory: 1 << 28, PIDs: 64}
		if change != nil {
			change(m)
		}
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	raw := func(id string) []byte { return append(start(nil)[:14], id...) }
	for _, c := range []struct {
		what    string
		message []byte
		fds     []int
		want    string
	}{
		{"another version", []byte{2, byte(jail.Sweep)}, nil, "not a message of this version"},
		{"short", []byte{1}, nil, "not a message"},
		{"no such kind", []byte{1, 99}, nil, "kind 99"},
		{"an answer", []byte{1, byte(jail.Swept)}, nil, "to begin with"},
		{"end before the start", []byte{1, byte(jail.End)}, nil, "to begin with"},
		{"connect before the start", []byte{1, byte(jail.ConnectAPI)}, []int{f}, "to begin with"},
		{"more after a sweep", []byte{1, byte(jail.Sweep), 0}, nil, "3 bytes"},
		{"an id that climbs", raw("../../etc"), nil, "jail id"},
		{"an id that is a path", raw("a/b"), nil, "jail id"},
		{"an id that is an option", raw("--netns"), nil, "jail id"},
		{"an id with a newline", raw("a\nb"), nil, "jail id"},
		{"an id with a NUL", raw("a\x00"), nil, "jail id"},
		{"an id in capitals", raw("A"), nil, "jail id"},
		{"no id", raw(""), nil, "jail id"},
		{"dots", raw(".."), nil, "jail id"},
		{"a long id", raw(strings.Repeat("a", 33)), nil, "jail id"},
		{"a very long message", raw(strings.Repeat("a", 60000)), nil, "too long"},
		{"no files", start(nil), nil, "0 descriptors"},
		{"too few", start(nil), []int{f, f, f}, "3 descriptors"},
		{"too many", start(nil), []int{f, f, f, w, f}, "too long"},
		{"far too many", start(nil), []int{f, f, f, w, f, f, f, f, f, f, f, f, f}, "too long"},
		{"too much memory", start(func(m *jail.Message) { m.Memory = 1<<30 + 1 }), []int{f, f, f, w}, "limits"},
		{"all memory", start(func(m *jail.Message) { m.Memory = 1<<64 - 1 }), []int{f, f, f, w}, "limits"},
		{"no memory", start(func(m *jail.Message) { m.Memory = 0 }), []int{f, f, f, w}, "limits"},
		{"too many processes", start(func(m *jail.Message) { m.PIDs = 65 }), []int{f, f, f, w}, "limits"},
		{"no processes", start(func(m *jail.Message) { m.PIDs = 0 }), []int{f, f, f, w}, "limits"},
		{"a file not opened for reading", start(nil), []int{f, f, path, w}, "drive is not open for reading"},
		{"a pipe as kernel", start(nil), []int{r, f, f, w}, "vmlinux is not an ordinary file"},
		{"a file as console", start(nil), []int{f, f, f, f}, "console is not a pipe"},
		{"the wrong end", start(nil), []int{f, f, f, r}, "console is not a pipe"},
	} {
		before := openFDs(t)
		t.Run(c.what, func(t *testing.T) {
			conn := dial(t, k)
			var rights []byte
			if len(c.fds) > 0 {
				rights = unix.UnixRights(c.fds...)
			}
			if _, _, err := conn.WriteMsgUnix(c.message, rights, nil); err != nil {
				t.Fatal(err)
			}
			m, fds, err := jail.Receive(conn, 0)
			if err != nil {
				t.Fatal(err)
			}
			if m.Kind != jail.Failed || len(fds) != 0 || !strings.Contains(m.Text, c.want) {
				t.Errorf("%+v, want %q", m, c.want)
			}
			if _, _, err := jail.Receive(conn, 0); !errors.Is(err, io.EOF) {
				t.Errorf("the connection goes on: %v", err)
			}
		})
		if after := openFDs(t); after != before {
			t.Errorf("%s: %d descriptors, before %d", c.what, after, before)
		}
	}
	if left, err := os.ReadDir(k.jails.Name()); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if len(k.live)+len(k.uids) != 0 {
		t.Errorf("live: %v, %v", k.live, k.uids)
	}
}

func TestOtherUsersAreNotServed(t *testing.T) {
	k := newTestKeeper(t)
	k.client++
	c := dial(t, k)
	_ = jail.Send(c, &jail.Message{Kind: jail.Sweep})
	if m, _, err := jail.Receive(c, 0); err == nil {
		t.Errorf("answered: %+v", m)
	}
}

// An id is in use as long as anything of it is left, and a uid as long as one
// jail has it.
func TestReserve(t *testing.T) {
	k := newTestKeeper(t)
	k.UIDs = 2
	a, err := k.reserve("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.reserve("a"); !jail.IsCode(err, jail.Exists) {
		t.Errorf("a second a: %v", err)
	}
	b, err := k.reserve("b")
	if err != nil || a.uid == b.uid {
		t.Fatalf("%v, %d, %d", err, a.uid, b.uid)
	}
	if _, err := k.reserve("c"); !jail.IsCode(err, jail.Full) {
		t.Errorf("one too many: %v", err)
	}
	k.release(a)
	if c, err := k.reserve("c"); err != nil || c.uid != a.uid {
		t.Errorf("%v, %+v", err, c)
	}
}

func TestPlace(t *testing.T) {
	dir := t.TempDir()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	me := uint(os.Getuid())
	for _, c := range []struct {
		name   string
		mode   os.FileMode
		worker uint
		linked bool
	}{
		{"own", 0o644, me, true},
		{"own-for-nobody-else", 0o600, me, false},
		{"own-set-user-id", 0o755 | os.ModeSetuid, me, false},
		{"own-for-all-to-write", 0o666, me, false},
		{"anothers", 0o644, me + 1, false},
	} {
		from := filepath.Join(t.TempDir(), c.name)
		if err := os.WriteFile(from, []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(from, c.mode); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(from)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		// Where the worker has read to is no business of ours.
		if _, err := f.Seek(3, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if err := place(int(d.Fd()), c.name, int(f.Fd()), c.worker); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, c.name))
		if err != nil || string(data) != "content" {
			t.Errorf("%s: %q, %v", c.name, data, err)
		}
		var was, is unix.Stat_t
		if err := errors.Join(unix.Fstat(int(f.Fd()), &was), unix.Stat(filepath.Join(dir, c.name), &is)); err != nil {
			t.Fatal(err)
		}
		// Linking a descriptor takes a capability of root's.
		if linked := was.Ino == is.Ino; linked != (c.linked && me == 0) {
			t.Errorf("%s: linked: %v", c.name, linked)
		} else if !linked && is.Mode&0o7777 != 0o444 {
			t.Errorf("%s: mode %o", c.name, is.Mode)
		}
		if was.Mode&0o777 != uint32(c.mode.Perm()) {
			t.Errorf("%s: the original's mode is now %o", c.name, was.Mode)
		}
		if err := place(int(d.Fd()), c.name, int(f.Fd()), c.worker); !errors.Is(err, os.ErrExist) {
			t.Errorf("%s: a second time: %v", c.name, err)
		}
	}
}

// Sockets count only beneath the jail, without links, and if the monitor itself
// listens.
func TestConnect(t *testing.T) {
	dir := t.TempDir()
	inside := filepath.Join(dir, "jail")
	if err := os.MkdirAll(filepath.Join(inside, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	listen := func(path string) {
		t.Helper()
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	listen(filepath.Join(inside, "good"))
	listen(filepath.Join(dir, "outside"))
	for name, target := range map[string]string{"up": "../outside", "absolute": filepath.Join(dir, "outside"), "link": "good", "run2": "run", "proc": "/proc/self/cwd"} {
		if err := os.Symlink(target, filepath.Join(inside, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(inside, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(inside, "dead"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	root, err := unix.Open(inside, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	c := &cell{uid: uint32(os.Getuid()), pid: os.Getpid(), root: root}
	fd, err := c.connect("good")
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	before := openFDs(t)
	for name, code := range map[string]jail.Code{
		"up": jail.Other, "absolute": jail.Other, "link": jail.Other, "run2/x": jail.Other, "proc/x": jail.Other, "../outside": jail.Other,
		"absent": jail.NotYet, "dead": jail.NotYet, "file": jail.Other, ".": jail.Other,
	} {
		fd, err := c.connect(name)
		if err == nil {
			unix.Close(fd)
		}
		if m := failed(errors.Join(err)); err == nil || m.Code != code {
			t.Errorf("%s: %v, want code %d", name, err, code)
		}
	}
	for _, other := range []*cell{{uid: c.uid + 1, pid: c.pid, root: root}, {uid: c.uid, pid: c.pid + 1, root: root}} {
		if _, err := other.connect("good"); err == nil || !strings.Contains(err.Error(), "not the monitor") {
			t.Errorf("another's socket: %v", err)
		}
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
}

// A tree that is as deep as the file system allows, full of links, with names
// that the removal itself uses.
func TestRemoveTree(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	keep := filepath.Join(dir, "keep")
	if err := os.MkdirAll(filepath.Join(keep, "this"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "id", ".moved0", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	at, err := os.OpenRoot(filepath.Join(dir, "id"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if err := errors.Join(at.Mkdir("d", 0o755), at.Symlink(keep, "link"), at.Mkdir("other", 0o755), at.WriteFile("other/f", nil, 0o600)); err != nil {
			t.Fatal(i, err)
		}
		next, err := at.OpenRoot("d")
		if err != nil {
			t.Fatal(err)
		}
		at.Close()
		at = next
	}
	at.Close()
	before := openFDs(t)
	if err := removeTree(root, "id"); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(root, "id"); err != nil {
		t.Errorf("nothing there: %v", err)
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 || all[0].Name() != "keep" {
		t.Errorf("left: %v, %v", all, err)
	}
	if _, err := os.Stat(filepath.Join(keep, "this")); err != nil {
		t.Error(err)
	}
}
