package daemon

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/ipc"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// ErrRunning says that a daemon of this user and configuration already runs.
var ErrRunning = errors.New("a daemon is already running")

// maxConversations bounds how many wrappers are served at once; more wait in
// the listener's queue. A `make -j1000` stays below it.
const maxConversations = 4096

// ServerOptions say where a Server listens.
type ServerOptions struct {
	// ConfigDir is where daemon.json goes.
	ConfigDir string
	// Port on 127.0.0.1; 0 lets the kernel choose.
	Port int
	// Socket is the Unix socket's path; "" puts it into ConfigDir, or, where
	// that path is too long for a socket, into a directory of its own under
	// the system's temporary directory.
	Socket string
	Log    *slog.Logger
}

// Server serves wrappers on the loopback interface and a Unix socket.
type Server struct {
	opt    ServerOptions
	engine *Engine
	end    ipc.Endpoint
	place  *ipcv1.Place
	lock   *os.File
	slots  chan struct{}
	active sync.WaitGroup
}

// Serve listens and serves until ctx ends; then it accepts nothing more,
// finishes the conversations that are under way, drains the engine and
// returns. ready is called with the endpoint once wrappers can connect.
func Serve(ctx context.Context, engine *Engine, opt ServerOptions, ready func(ipc.Endpoint)) error {
	if err := os.MkdirAll(opt.ConfigDir, 0o700); err != nil {
		return err
	}
	s := &Server{opt: opt, engine: engine, slots: make(chan struct{}, maxConversations)}
	if s.opt.Log == nil {
		s.opt.Log = slog.New(slog.DiscardHandler)
	}
	if err := s.takeLock(); err != nil {
		return err
	}
	defer s.lock.Close()
	s.place = ownPlace()
	listeners, err := s.listen()
	if err != nil {
		return err
	}
	if err := ipc.PublishEndpoint(opt.ConfigDir, &s.end); err != nil {
		return err
	}
	// Outputs get the wrapper's umask, request by request.
	unix.Umask(0)
	var accepting sync.WaitGroup
	for _, l := range listeners {
		accepting.Add(1)
		go func() {
			defer accepting.Done()
			s.accept(l)
		}()
	}
	s.opt.Log.Info("daemon-started", "pid", s.end.Pid, "port", s.end.Port, "socket", s.end.Socket)
	if ready != nil {
		ready(s.end)
	}
	<-ctx.Done()
	// The file goes first, so that new compiles do not even try.
	if err := ipc.WithdrawEndpoint(opt.ConfigDir, s.end.Token); err != nil {
		s.opt.Log.Warn("endpoint-not-withdrawn", "error", err.Error())
	}
	for _, l := range listeners {
		l.Close()
	}
	accepting.Wait()
	s.active.Wait()
	engine.Close()
	s.opt.Log.Info("daemon-stopped", "pid", s.end.Pid)
	return nil
}

// takeLock makes sure that one daemon at a time uses a configuration. The
// kernel drops the lock with the process, so that a stale daemon.json of a
// killed daemon stops nobody.
func (s *Server) takeLock() error {
	path := filepath.Join(s.opt.ConfigDir, "daemon.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if ep, err := ipc.ReadEndpoint(s.opt.ConfigDir); err == nil {
			return fmt.Errorf("%w (pid %d)", ErrRunning, ep.Pid)
		}
		return ErrRunning
	}
	s.lock = f
	return nil
}

// listen opens both listeners and makes the endpoint.
func (s *Server) listen() ([]net.Listener, error) {
	tcp, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.opt.Port)))
	if err != nil {
		return nil, fmt.Errorf("listening on the loopback interface: %w (choose another daemon.port, or 0)", err)
	}
	token := make([]byte, ipc.TokenSize)
	rand.Read(token)
	s.end = ipc.Endpoint{
		Port: tcp.Addr().(*net.TCPAddr).Port, Pid: os.Getpid(), Token: token, Version: ipc.Version,
	}
	path, err := s.socketPath()
	if err != nil {
		tcp.Close()
		return nil, err
	}
	// Ours by the lock: what lies there is a dead daemon's.
	os.Remove(path)
	sock, err := net.Listen("unix", path)
	if err != nil {
		tcp.Close()
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		tcp.Close()
		sock.Close()
		return nil, err
	}
	s.end.Socket = path
	return []net.Listener{sock, tcp}, nil
}

// maxSocketPath is one less than sun_path holds (unix(7)).
const maxSocketPath = 107

func (s *Server) socketPath() (string, error) {
	if s.opt.Socket != "" {
		return s.opt.Socket, nil
	}
	path, err := filepath.Abs(filepath.Join(s.opt.ConfigDir, "daemon.sock"))
	if err != nil || len(path) <= maxSocketPath {
		return path, err
	}
	name := digest.NewKey("socket").Field("config", path).Sum().String()[:16]
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("hpcc-%d-%s", os.Getuid(), name))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	var st unix.Stat_t
	// A name in a shared directory may have been taken by somebody else.
	if err := unix.Lstat(dir, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR ||
		int(st.Uid) != os.Getuid() || st.Mode&0o077 != 0 {
		return "", fmt.Errorf("%s is not a private directory of this user; set daemon.socket to another path", dir)
	}
	return filepath.Join(dir, "daemon.sock"), nil
}

func (s *Server) accept(l net.Listener) {
	for {
		s.slots <- struct{}{}
		conn, err := l.Accept()
		if err != nil {
			<-s.slots
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, as a rule: wait for some to be given back.
			s.opt.Log.Warn("accept-failed", "error", err.Error())
			time.Sleep(50 * time.Millisecond)
			continue
		}
		s.active.Add(1)
		go func() {
			defer s.active.Done()
			defer func() { <-s.slots }()
			defer conn.Close()
			s.converse(conn)
		}()
	}
}

// helloTimeout bounds how long a connection may stay without saying who it
// is, so that strangers cannot hold the daemon's slots.
const helloTimeout = 10 * time.Second

func (s *Server) converse(conn net.Conn) {
	if !s.samePeer(conn) {
		s.opt.Log.Warn("peer-refused", "remote", conn.RemoteAddr().String())
		return
	}
	conn.SetReadDeadline(time.Now().Add(helloTimeout))
	c := newConversation(conn)
	first, err := c.read()
	if err != nil {
		return
	}
	conn.SetReadDeadline(time.Time{})
	hello := first.GetHello()
	if !ipc.TokenEqual(hello.GetToken(), s.end.Token) {
		s.opt.Log.Warn("token-refused", "remote", conn.RemoteAddr().String())
		_ = c.send(refused(ipcv1.Refused_WHY_TOKEN, "wrong token"))
		return
	}
	switch {
	case hello.GetProtocol() != ipc.Protocol:
		_ = c.send(refused(ipcv1.Refused_WHY_PROTOCOL, fmt.Sprintf("the daemon speaks protocol %d", ipc.Protocol)))
	case hello.GetVersion() != ipc.Version:
		_ = c.send(refused(ipcv1.Refused_WHY_VERSION, "the daemon is version "+ipc.Version))
	case first.GetCompile() != nil:
		s.compile(c, first.GetCompile())
	case first.GetAdmin() != nil:
		_ = c.send(&ipcv1.ServerMessage{Admin: s.admin(first.GetAdmin())})
	}
}

func refused(why ipcv1.Refused_Why, detail string) *ipcv1.ServerMessage {
	return &ipcv1.ServerMessage{Refused: &ipcv1.Refused{Why: why, Detail: detail}}
}

func (s *Server) compile(c *conversation, req *ipcv1.Compile) {
	if differs := s.differs(req); differs != "" {
		_ = c.send(&ipcv1.ServerMessage{OneShot: &ipcv1.OneShot{Reason: differs}})
		return
	}
	ctx, stop := c.watch()
	defer stop()
	_ = c.send(s.engine.Compile(ctx, req, c))
}

// admin answers a command of hpcc's command line.
func (s *Server) admin(req *ipcv1.Admin) *ipcv1.AdminReply {
	var answer any
	var err error
	switch req.GetCommand() {
	case "ping":
		answer = map[string]any{"pid": s.end.Pid, "version": s.end.Version, "cache": s.engine.cache.Dir()}
	case "drain":
		s.engine.Drain()
	case "running":
		// For somebody who reads the counters next.
		s.engine.stats.flush()
		answer = s.engine.running.list()
	case "shared":
		if s := s.engine.Shared(); s != nil {
			answer = s
		}
	case "forget":
		// After `hpcc clean`: what memory holds is not on disk any more.
		s.engine.manifests.clear()
		s.engine.results.clear()
		s.engine.history.last.clear()
		s.engine.described.Clear()
	default:
		err = fmt.Errorf("unknown command %q", req.GetCommand())
	}
	reply := &ipcv1.AdminReply{}
	if err == nil && answer != nil {
		reply.Json, err = json.Marshal(answer)
	}
	if err != nil {
		reply.Error = err.Error()
	}
	return reply
}
