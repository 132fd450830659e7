//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/jail"
)

const (
	// firstLimit is how long a connection may say nothing.
	firstLimit = 10 * time.Second
	// writeLimit is how long a worker may take no answer.
	writeLimit = 5 * time.Second
	// spare connections are those of sweeps, and of starts that will be refused.
	spare = 16
)

// keeper knows all jails that live.
type keeper struct {
	*settings
	log *slog.Logger
	// lock is base, locked: one helper has it.
	lock *os.File
	// jails are all jails' directories, one each.
	jails *os.Root

	// starting is held for each start, and alone by a sweep.
	starting sync.RWMutex

	mu   sync.Mutex
	live map[string]*cell // by id
	uids map[uint32]bool  // in use, also by what could not be removed
}

// newKeeper makes base and the directory that the jailer uses in it, and locks
// it.
func newKeeper(s *settings, log *slog.Logger) (*keeper, error) {
	dir := filepath.Join(s.base, filepath.Base(s.firecracker))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := rootsAlone(dir); err != nil {
		return nil, err
	}
	k := &keeper{settings: s, log: log, live: map[string]*cell{}, uids: map[uint32]bool{}}
	var err error
	if k.lock, err = os.Open(s.base); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(k.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%s: another hpcc-jail uses it (%w)", s.base, err)
	}
	k.jails, err = os.OpenRoot(dir)
	return k, err
}

func (k *keeper) accept(l *net.UnixListener) error {
	places := make(chan struct{}, k.UIDs+spare)
	for {
		places <- struct{}{}
		c, err := l.AcceptUnix()
		if err != nil {
			return err
		}
		go func() {
			defer func() { <-places }()
			defer func() { _ = c.Close() }()
			k.serve(c)
		}()
	}
}

// peer are a socket's peer's credentials at the time of its connect or listen.
func peer(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var why error
	if err := raw.Control(func(fd uintptr) { cred, why = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, err
	}
	return cred, why
}

func answer(c *net.UnixConn, m *jail.Message, fds ...int) error {
	if err := c.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	return jail.Send(c, m, fds...)
}

// failed is the answer that err is. Its text can only hold what the worker knows
// or chose, and the kernel's words for errors.
func failed(err error) *jail.Message {
	m := &jail.Message{Kind: jail.Failed, Text: err.Error()}
	var coded *jail.Error
	if errors.As(err, &coded) {
		m.Code = coded.Code
	}
	return m
}

// serve is one connection's life.
func (k *keeper) serve(c *net.UnixConn) {
	if cred, err := peer(c); err != nil || uint(cred.Uid) != k.client {
		k.log.Warn("jail-peer-refused", "peer", cred, "err", err)
		return
	}
	if err := c.SetReadDeadline(time.Now().Add(firstLimit)); err != nil {
		return
	}
	m, fds, err := jail.Receive(c, jail.Descriptors)
	if err != nil {
		k.log.Warn("jail-request-refused", "err", err)
		_ = answer(c, failed(err))
		return
	}
	switch m.Kind {
	case jail.Sweep:
		jail.Close(fds)
		swept := &jail.Message{Kind: jail.Swept}
		if err := k.sweep(); err != nil {
			swept.Text = err.Error()
		}
		_ = answer(c, swept)
	case jail.Start:
		k.jail(c, m, fds)
	default:
		jail.Close(fds)
		_ = answer(c, failed(fmt.Errorf("message of kind %d to begin with", m.Kind)))
	}
}

// jail is the life of a connection that asks for a jail.
func (k *keeper) jail(c *net.UnixConn, m *jail.Message, fds []int) {
	cell, err := k.start(m, fds)
	jail.Close(fds)
	if err != nil {
		k.log.Warn("jail-start-failed", "id", m.ID, "err", err)
		_ = answer(c, failed(err))
		return
	}
	k.log.Info("jail started", "id", cell.id, "uid", cell.uid, "pid", cell.pid)
	go func() {
		<-cell.ended
		// The loop below ends by it.
		_ = c.CloseRead()
	}()
	err = answer(c, &jail.Message{Kind: jail.Started, UID: cell.uid, PID: uint32(cell.pid), Digest: k.digest}, cell.pidfd)
	if err == nil {
		err = k.requests(c, cell)
	}
	ended := k.end(cell)
	k.log.Info("jail ended", "id", cell.id, "status", ended.Status, "oom_kills", ended.OOMKills, "left", ended.Text, "connection", err)
	_ = answer(c, ended)
}

// requests answers what a worker wants of a jail, until it wants its end or is
// gone itself, or the jail has ended.
func (k *keeper) requests(c *net.UnixConn, cell *cell) error {
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	for {
		m, _, err := jail.Receive(c, 0)
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		names := map[jail.Kind]string{jail.ConnectAPI: "run/firecracker.socket", jail.ConnectVsock: jail.VsockName}
		switch name, known := names[m.Kind]; {
		case m.Kind == jail.End:
			return nil
		case !known:
			return fmt.Errorf("message of kind %d in a running jail", m.Kind)
		default:
			fd, err := cell.connect(name)
			if err != nil {
				err = answer(c, failed(err))
			} else {
				err = answer(c, &jail.Message{Kind: jail.Connected}, fd)
				unix.Close(fd)
			}
			if err != nil {
				return err
			}
		}
	}
}
