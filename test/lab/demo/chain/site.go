//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// user is who a part of the site runs as.
type user struct {
	name string
	uid  uint32
}

var (
	root      = user{"root", 0}
	worker    = user{"worker", 990}
	scheduler = user{"scheduler", 991}
	alice     = user{"alice", 1001}
	bob       = user{"bob", 1002}
	people    = []user{worker, scheduler, alice, bob}
)

const (
	firstMachine = 100000 // user of the first machine
	machines     = 4
	hpcc         = "/data/bin/hpcc"
	jails        = "/data/jails"
	groups       = "/sys/fs/cgroup/hpcc"
	jailSocket   = "/run/hpcc/jail.socket"
	worked       = "/data/worker" // the worker's own directory
	logs         = "/data/log"
)

// patience bounds what takes moments, on a machine that is emulated and shared.
const patience = 2 * time.Minute

// site is what runs here.
type site struct {
	ctx      context.Context
	image    string   // sha256:HEX
	units    []string // of lua: their names without suffix; all if empty
	vcpus    int
	services []*service
}

// service is a program that runs until it is told to end.
type service struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{} // closed once it has
}

func (s *service) log() string {
	text, _ := os.ReadFile(filepath.Join(logs, s.name))
	return string(text)
}

// command is a program run by u with nothing in its environment but what is said.
func (s *site) command(u user, dir string, env []string, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=/bin", "HOME=/home/" + u.name, "LC_ALL=C.UTF-8"}, env...)
	if u.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.uid, Gid: u.uid}}
	}
	return cmd
}

// run runs a program and returns what it prints.
func (s *site) run(u user, dir string, env []string, argv ...string) (string, error) {
	cmd := s.command(u, dir, env, argv...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(argv, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// start starts a service and waits until it has said that it is ready.
func (s *site) start(u user, name, ready string, env []string, argv ...string) error {
	out, err := os.Create(filepath.Join(logs, name))
	if err != nil {
		return err
	}
	defer out.Close()
	x := &service{name: name, cmd: s.command(u, "/", env, argv...), ended: make(chan struct{})}
	x.cmd.Stdout, x.cmd.Stderr = out, out
	if err := x.cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = x.cmd.Wait()
		close(x.ended)
	}()
	s.services = append(s.services, x)
	return s.wait(x, ready, func() bool { return strings.Contains(x.log(), ready) })
}

// wait waits for a sign of a service.
func (s *site) wait(x *service, what string, ok func() bool) error {
	deadline := time.Now().Add(patience)
	for !ok() {
		select {
		case <-x.ended:
			return fmt.Errorf("%s has ended: %v\n%s", x.name, x.cmd.ProcessState, x.log())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: no %q within %v\n%s", x.name, what, patience, x.log())
		}
	}
	return nil
}

// stop ends all services, the last first, and sees what they left.
func (s *site) stop() error {
	var errs []error
	for i := len(s.services) - 1; i >= 0; i-- {
		x := s.services[i]
		_ = x.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-x.ended:
			// hpcc-jail has no end in order; all others do.
			if x.name != "hpcc-jail" && !x.cmd.ProcessState.Success() {
				errs = append(errs, fmt.Errorf("%s ended with %v\n%s", x.name, x.cmd.ProcessState, x.log()))
			}
		case <-time.After(patience):
			_ = x.cmd.Process.Kill()
			<-x.ended
			errs = append(errs, fmt.Errorf("%s did not end within %v\n%s", x.name, patience, x.log()))
		}
	}
	s.services = nil
	return errors.Join(errs...)
}

// put writes a file of u's, that nobody else may read.
func put(u user, path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return give(u, filepath.Dir(path))
}

// give makes everything at and below path u's.
func give(u user, path string) error {
	return filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, int(u.uid), int(u.uid))
	})
}

// begin makes the file system that everything below expects.
func begin() error {
	var passwd strings.Builder
	passwd.WriteString("root:x:0:0:root:/root:/bin/sh\n")
	for _, u := range people {
		fmt.Fprintf(&passwd, "%s:x:%d:%d::/home/%s:/bin/sh\n", u.name, u.uid, u.uid, u.name)
		if err := put(u, "/home/"+u.name+"/.profile", ""); err != nil {
			return err
		}
	}
	for i := range machines {
		fmt.Fprintf(&passwd, "machine%d:x:%d:%d::/:/bin/false\n", i, firstMachine+i, firstMachine+i)
	}
	if err := os.WriteFile("/etc/passwd", []byte(passwd.String()), 0o644); err != nil {
		return err
	}
	// make, and the libraries that it is linked with.
	const files = "/data/root"
	err := filepath.WalkDir(files, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		to := strings.TrimPrefix(p, files)
		return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.Symlink(p, to))
	})
	if err != nil {
		return err
	}
	return os.MkdirAll(logs, 0o755)
}

const schedulerTOML = `listen = "127.0.0.1:7500"
http_listen = ""
tls_cert = "/data/scheduler/scheduler.crt"
tls_key = "/data/scheduler/scheduler.key"

[[tenant]]
name = "acme"
images = ["%s"]
credential = [{ subject = "alice", sha256 = "%s" }, { subject = "bob", sha256 = "%s" }]

[[worker]]
name = "worker-1"
sha256 = "%s"
`

const workerTOML = `name = "worker-1"
listen = "127.0.0.1:7510"
advertise = "127.0.0.1:7510"
http_listen = "127.0.0.1:7511"
tls_cert = "/data/worker/worker-1.crt"
tls_key = "/data/worker/worker-1.key"
state_dir = "/data/worker/state"
images.dir = "/data/worker/images"
firecracker.guest_kit = "/data/guest"

[scheduler]
address = "127.0.0.1:7500"
ca = "/data/ca.crt"
credential_file = "/data/worker/credential"

[sessions]
memory_mib = 1024
vcpus = %d

[limits]
memory = "512MiB"
disk = "256MiB"
time = "20m" # emulated, on a busy machine
`

const clientTOML = `[cache]
dir = "/home/%[1]s/cache"

[reproducible]
roots = ["%[2]s"]

[remote]
scheduler = "127.0.0.1:7500"
ca = "/data/ca.crt"
credential_file = "/home/%[1]s/hpcc/credential"
image = "%[3]s"
fallback = "fail"
timeout = "25m"
`

// setUp makes certificates and credentials, and the settings of everybody.
func (s *site) setUp() error {
	const ca = "/data/ca"
	if _, err := s.run(root, "/", nil, hpcc, "ca", "init", "--dir", ca); err != nil {
		return err
	}
	for name, dir := range map[string]string{"scheduler": "/data/scheduler", "worker-1": worked} {
		if _, err := s.run(root, "/", nil, hpcc, "ca", "issue", "--dir", ca, "--name", name, "--host", "127.0.0.1", "--out", dir); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(ca + "/ca.crt")
	if err != nil {
		return err
	}
	if err := os.WriteFile("/data/ca.crt", text, 0o644); err != nil {
		return err
	}
	hashes := map[string]string{}
	for name, file := range map[string]string{
		"alice": "/home/alice/hpcc/credential", "bob": "/home/bob/hpcc/credential", "worker-1": worked + "/credential",
	} {
		var c struct{ Credential, SHA256 string }
		if err := s.json(&c, root, "/", nil, hpcc, "ca", "credential", "--json"); err != nil {
			return err
		}
		hashes[name] = c.SHA256
		if err := put(root, file, c.Credential+"\n"); err != nil {
			return err
		}
	}
	err = errors.Join(
		put(scheduler, "/data/scheduler/scheduler.toml", fmt.Sprintf(schedulerTOML, s.image, hashes["alice"], hashes["bob"], hashes["worker-1"])),
		put(worker, worked+"/worker.toml", fmt.Sprintf(workerTOML, s.vcpus)))
	for _, c := range clients {
		err = errors.Join(err, put(c.user, c.home()+"/hpcc/client.toml", fmt.Sprintf(clientTOML, c.name, c.project, s.image)))
	}
	return err
}
