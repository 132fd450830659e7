//go:build linux

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// distcc is Debian's, with a daemon of its own and, where it works, the include
// server of its pump mode.
type distcc struct {
	daemon *exec.Cmd
	dir    string
	server string // host:port
	count  *proxy
	pump   string // INCLUDE_SERVER_PORT, or empty
	pid    int    // of the include server
	why    string // there is no pump mode
}

func startDistcc(ctx context.Context, work string) (d *distcc, err error) {
	d = &distcc{dir: filepath.Join(work, ".distcc")}
	defer func() {
		if err != nil {
			d.stop()
		}
	}()
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d.server = l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(d.server)
	// Four jobs, as the worker has.
	d.daemon = exec.Command("distccd", "--daemon", "--no-detach", "--user", "distccd", "--allow", "127.0.0.1", "--listen", "127.0.0.1", "--port", port, "--jobs", "4", "--nice", "0", "--log-level", "error", "--log-stderr")
	d.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.daemon.Start(); err != nil {
		return nil, err
	}
	for {
		if c, err := net.Dial("tcp", d.server); err == nil {
			c.Close()
			break
		}
		if ctx.Err() != nil {
			return nil, errors.New("distccd does not listen")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if d.count, err = newProxy(d.server); err != nil {
		return nil, err
	}
	return d, d.startPump(ctx)
}

var exported = regexp.MustCompile(`(?m)^export (\w+)='(.*)'$`)

// repair has Debian 12's include server work with Debian 12's Python.
//
//go:embed sitecustomize.py
var repair []byte

// startPump starts the include server, and tries it.
func (d *distcc) startPump(ctx context.Context) error {
	if err := os.WriteFile(d.dir+"/sitecustomize.py", repair, 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "distcc-pump", "--startup")
	cmd.Env = append(os.Environ(), "DISTCC_HOSTS="+d.server+"/8,cpp,lzo", "DISTCC_DIR="+d.dir, "PYTHONPATH="+d.dir)
	// What it starts keeps its standard error.
	output, err := os.Create(d.dir + "/include-server")
	if err != nil {
		return err
	}
	defer output.Close()
	cmd.Stderr = output
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("distcc-pump: %w", err)
	}
	for _, m := range exported.FindAllStringSubmatch(string(out), -1) {
		switch m[1] {
		case "INCLUDE_SERVER_PORT":
			d.pump = m[2]
		case "INCLUDE_SERVER_PID":
			d.pid, _ = strconv.Atoi(m[2])
		}
	}
	if err := os.WriteFile(d.dir+"/try.c", []byte("#include <stdio.h>\n"), 0o644); err != nil {
		return err
	}
	try := d.command(d.server, true, "gcc", "-c", d.dir+"/try.c", "-o", d.dir+"/try.o")
	try.Env = append(try.Env, "DISTCC_VERBOSE=1")
	said, err := try.CombinedOutput()
	if err != nil || strings.Contains(string(said), "preprocessing locally") {
		text, _ := os.ReadFile(d.dir + "/include-server")
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		d.pump, d.why = "", "the include server does not work here"
		for _, l := range lines {
			if strings.Contains(l, "Error: ") && !strings.HasPrefix(l, "WARNING") {
				d.why = l
			}
		}
	}
	return nil
}

func (d *distcc) command(server string, pump bool, args ...string) *exec.Cmd {
	cmd := exec.Command("distcc", args...)
	hosts := server + "/8"
	if pump {
		hosts += ",cpp,lzo"
	}
	cmd.Env = append(plainEnv(), "DISTCC_HOSTS="+hosts, "DISTCC_DIR="+d.dir, "DISTCC_FALLBACK=0", "DISTCC_SKIP_LOCAL_RETRY=1")
	if pump {
		cmd.Env = append(cmd.Env, "INCLUDE_SERVER_PORT="+d.pump)
	}
	return cmd
}

func (d *distcc) stop() {
	if d.count != nil {
		d.count.Close()
	}
	if d.pid > 0 {
		_ = syscall.Kill(d.pid, syscall.SIGTERM)
	}
	if d.daemon != nil && d.daemon.Process != nil {
		// Its children are in its group, which this program made for it.
		_ = syscall.Kill(-d.daemon.Process.Pid, syscall.SIGTERM)
		_ = d.daemon.Wait()
	}
}

// plainEnv is the environment of a compiler, without what would decide a number.
func plainEnv() []string {
	return []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent", "LC_ALL=C.UTF-8", "TMPDIR=/tmp"}
}

// proxy counts what passes between clients and a server.
type proxy struct {
	net.Listener
	to, from atomic.Int64 // the server
}

func newProxy(server string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{Listener: l}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.pass(c, server)
		}
	}()
	return p, nil
}

func (p *proxy) pass(c net.Conn, server string) {
	defer c.Close()
	s, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer s.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(counted{c, &p.from}, s)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(counted{s, &p.to}, c)
	_ = s.(*net.TCPConn).CloseWrite()
	<-done
}

type counted struct {
	io.Writer
	n *atomic.Int64
}

// Write counts first: what has arrived was counted.
func (c counted) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return c.Writer.Write(b)
}
