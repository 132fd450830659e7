//go:build linux

package s3

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a program that listens on an address. It ends with this one.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	said  output
}

// output is the end of what a program said.
type output struct {
	mu   sync.Mutex
	text []byte
}

const maxOutput = 64 << 10

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	if extra := len(o.text) - maxOutput; extra > 0 {
		o.text = append([]byte(nil), o.text[extra:]...)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.ToValidUTF8(string(bytes.TrimSpace(o.text)), "?")
}

// start starts a program in dir and waits until it listens on address.
func start(ctx context.Context, cmd *exec.Cmd, env []string, dir, address string) (*process, error) {
	p := &process{cmd: cmd, ended: make(chan struct{})}
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = env, dir, &p.said, &p.said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = cmd.Wait()
		close(p.ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		c, err := net.Dial("tcp", address)
		if err == nil {
			return p, c.Close()
		}
		if err := p.wait(ctx); err != nil {
			p.stop()
			return nil, fmt.Errorf("%w\n%s", err, &p.said)
		}
	}
}

// wait waits a moment, or fails if the program or the time has ended.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.ended:
		return fmt.Errorf("has ended: %v", p.cmd.ProcessState)
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(5 * time.Millisecond):
		return nil
	}
}

// stop ends the program, if it has not.
func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// freeAddress is one that nobody listened on a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
