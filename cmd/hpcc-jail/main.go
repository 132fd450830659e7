//go:build linux

// Hpcc-jail starts and ends the jails of a worker's virtual machines. It is the
// only part of hpcc that runs as root, so it does little, and nothing that
// parses a byte of a client's, an image's or a guest's:
//
//   - main.go: the settings, which root gives, and the socket
//   - serve.go: one connection, which is one jail (package internal/jail has the
//     messages)
//   - jail.go: a jail's start, by Firecracker's jailer, and its end
//   - files.go: files put into a jail, sockets opened in it, trees removed
//   - cgroup.go: the control group, by which processes are found and killed
//
// It believes neither side. The worker may be in an attacker's hands: it gets no
// more than jails within the limits, with files that it can read itself, run by
// users of the range. A monitor may be, too: what lies in its jail is opened
// beneath it, without links, and a socket counts only if the monitor itself
// listens on it.
package main

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/jail"
)

// settings are root's. Nothing that a worker says goes beyond them.
type settings struct {
	socket              string
	client              uint
	base                string
	cgroup              string // name of the parent group
	firstUID, UIDs      uint
	firecracker, jailer string
	maxMemory           uint64 // bytes, of one jail
	maxPIDs             uint

	digest [32]byte // of firecracker
}

func main() {
	var s settings
	f := flag.NewFlagSet("hpcc-jail", flag.ExitOnError)
	f.Usage = func() {
		fmt.Fprint(f.Output(), "Starts and ends the jails of virtual machines for a worker that is not root.\n\n"+
			"  hpcc-jail -client-uid 990 -first-uid 700000 -uids 256 -firecracker /usr/bin/firecracker -jailer /usr/bin/jailer\n\n")
		f.PrintDefaults()
	}
	f.StringVar(&s.socket, "socket", "/run/hpcc/jail.socket", "`path` of the socket for the worker; its directory must be root's")
	f.UintVar(&s.client, "client-uid", 0, "the worker's `uid`, who alone may connect; required")
	f.StringVar(&s.base, "base", "/srv/hpcc", "`directory` of the jails, made if absent; on a file system that has devices and no other writer")
	f.StringVar(&s.cgroup, "cgroup", "hpcc", "`name` of the control group below which jails get theirs")
	f.UintVar(&s.firstUID, "first-uid", 0, "first `uid` of the range from which each jail gets its own; required, nobody else's")
	f.UintVar(&s.UIDs, "uids", 256, "how many uids, and so jails at once")
	f.StringVar(&s.firecracker, "firecracker", "/usr/bin/firecracker", "the monitor's `program`")
	f.StringVar(&s.jailer, "jailer", "/usr/bin/jailer", "Firecracker's jailer's `program`")
	f.Uint64Var(&s.maxMemory, "max-memory", 64<<30, "most `bytes` of memory of one jail")
	f.UintVar(&s.maxPIDs, "max-pids", 256, "most processes of one jail")
	_ = f.Parse(os.Args[1:])
	if f.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "hpcc-jail: unexpected argument %q\n", f.Arg(0))
		os.Exit(2)
	}
	err := run(&s, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	fmt.Fprintf(os.Stderr, "hpcc-jail: %v\n", err)
	os.Exit(1)
}

// run serves until it cannot go on, and says why.
func run(s *settings, logger *slog.Logger) error {
	if err := s.check(); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return errors.New("only root can start jails")
	}
	for _, program := range []string{s.firecracker, s.jailer} {
		if err := rootsAlone(program); err != nil {
			return err
		}
	}
	var err error
	if s.digest, err = fileDigest(s.firecracker); err != nil {
		return err
	}
	unix.Umask(0o077)
	// Whom the jailer leaves behind becomes this process's child, not init's:
	// its exit status is to be had, and its number is not used again before.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the subreaper: %w", err)
	}
	k, err := newKeeper(s, logger)
	if err != nil {
		return err
	}
	if left := k.sweep(); left != nil {
		logger.Error("left by an earlier run", "err", left)
	}
	l, err := listen(s)
	if err != nil {
		return err
	}
	logger.Info("ready", "socket", s.socket, "client", s.client, "base", s.base)
	return k.accept(l)
}

// check refuses settings by which a jail would get more than is meant.
func (s *settings) check() error {
	switch {
	case s.client == 0:
		return errors.New("-client-uid: a worker that is not root is required")
	case s.firstUID < 1000 || s.UIDs < 1 || s.firstUID+s.UIDs > 1<<31:
		return errors.New("-first-uid and -uids: want a range between 1000 and 2³¹")
	case s.client >= s.firstUID && s.client < s.firstUID+s.UIDs:
		return errors.New("-client-uid lies in the range of the jails' uids")
	case s.UIDs > 4096:
		return errors.New("-uids: want 4096 at most")
	case !strings.Contains(filepath.Base(s.firecracker), "firecracker"):
		return errors.New("-firecracker: the jailer wants a program with firecracker in its name")
	}
	if err := jail.CheckID(s.cgroup); err != nil {
		return fmt.Errorf("-cgroup: %w", err)
	}
	for name, path := range map[string]string{"-socket": s.socket, "-base": s.base, "-firecracker": s.firecracker, "-jailer": s.jailer} {
		if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
			return fmt.Errorf("%s: %q is not an absolute, clean path", name, path)
		}
	}
	return nil
}

// rootsAlone makes sure that nobody but root can change what a path names.
func rootsAlone(path string) error {
	for p := path; ; p = filepath.Dir(p) {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		link := st.Mode&unix.S_IFMT == unix.S_IFLNK
		sticky := st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0 && p != path
		if st.Uid != 0 || link || st.Mode&0o022 != 0 && !sticky {
			return fmt.Errorf("%s: want it root's, writable by root alone, and no link: others could exchange %s", p, path)
		}
		if p == "/" {
			return nil
		}
	}
}

func fileDigest(path string) (sum [32]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return [32]byte(h.Sum(nil)), err
}

// listen makes the socket, which only the worker's user can open. That no other
// helper uses it is known by the lock on base.
func listen(s *settings) (*net.UnixListener, error) {
	dir := filepath.Dir(s.socket)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := rootsAlone(dir); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: s.socket, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	return l, os.Lchown(s.socket, int(s.client), -1)
}
