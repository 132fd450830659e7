package daemon

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/ipc"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// harness is a served engine over directories of its own.
type harness struct {
	t      *testing.T
	dir    string
	engine *Engine
	end    ipc.Endpoint
	stop   context.CancelFunc
	done   chan error
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	h := &harness{t: t, dir: t.TempDir(), done: make(chan error, 1)}
	disk, err := cache.Open(cache.Options{Dir: h.dir + "/cache"})
	if err != nil {
		t.Fatal(err)
	}
	h.engine = NewEngine(Options{Cache: disk, Background: true})
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	ready := make(chan ipc.Endpoint, 1)
	go func() {
		h.done <- Serve(ctx, h.engine, ServerOptions{ConfigDir: h.dir + "/config"}, func(e ipc.Endpoint) { ready <- e })
	}()
	select {
	case h.end = <-ready:
	case err := <-h.done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		select {
		case <-h.done:
		case <-time.After(time.Minute):
			t.Error("the daemon did not stop within a minute")
		}
	})
	return h
}

// peer is a wrapper's end of a connection.
type peer struct {
	t    *testing.T
	conn net.Conn
	ipc  *ipc.Conn
}

func (h *harness) dial(network string) *peer {
	h.t.Helper()
	p := h.open(network)
	h.t.Cleanup(func() { p.conn.Close() })
	return p
}

// open is dial for callers that close the connection themselves.
func (h *harness) open(network string) *peer {
	h.t.Helper()
	addr := h.end.Socket
	if network == "tcp" {
		addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(h.end.Port))
	}
	conn, err := net.Dial(network, addr)
	if err != nil {
		h.t.Fatal(err)
	}
	return &peer{h.t, conn, ipc.NewClientConn(conn)}
}

func (h *harness) hello() *ipcv1.Hello {
	return &ipcv1.Hello{Protocol: ipc.Protocol, Version: ipc.Version, Token: h.end.Token}
}

// answer returns the next message that is not Wait.
func (p *peer) answer() *ipcv1.ServerMessage {
	p.t.Helper()
	for {
		m := &ipcv1.ServerMessage{}
		p.conn.SetReadDeadline(time.Now().Add(time.Minute))
		if err := p.ipc.Receive(m); err != nil {
			p.t.Fatal(err)
		}
		if m.Wait == nil {
			return m
		}
	}
}

func (p *peer) send(m *ipcv1.ClientMessage) {
	p.t.Helper()
	if err := p.ipc.Send(m); err != nil {
		p.t.Fatal(err)
	}
}

// request is a compile of dir/a.c, as a wrapper in this process would ask.
func request(t *testing.T, dir string, args ...string) *ipcv1.Compile {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		if os.Getenv("HPCC_TEST_REQUIRE") != "" {
			t.Fatal("gcc is missing: run make setup")
		}
		t.Skip("gcc is missing")
	}
	place := ownPlace()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	place.CwdDevice, place.CwdInode = st.Dev, st.Ino
	return &ipcv1.Compile{
		Args: append([]string{"gcc"}, args...), Compiler: gcc, Cwd: dir,
		Env: []string{"PATH=" + os.Getenv("PATH")}, Umask: 0o022, Place: place,
	}
}

// converse carries a compile to its end as a wrapper would, and returns the
// last message and how often the compiler ran.
func (p *peer) converse(h *harness, req *ipcv1.Compile) (end *ipcv1.ServerMessage, runs int) {
	p.t.Helper()
	p.send(&ipcv1.ClientMessage{Hello: h.hello(), Compile: req})
	for {
		m := p.answer()
		if m.Run == nil {
			return m, runs
		}
		runs++
		p.send(&ipcv1.ClientMessage{Ran: execute(req.Cwd, m.Run)})
	}
}

func execute(dir string, run *ipcv1.Run) *ipcv1.Ran {
	cmd := exec.Command(run.Args[0], run.Args[1:]...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	ran := &ipcv1.Ran{Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		ran.ExitCode = int32(exit.ExitCode())
	} else if err != nil {
		ran.Error = err.Error()
	}
	return ran
}

func writeSource(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.c"), []byte("int a;\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	time.Sleep(30 * time.Millisecond) // past the clock tick that stamps it
	return dir
}

func TestServesOverBothNetworks(t *testing.T) {
	h := newHarness(t)
	dir := writeSource(t)
	for i, network := range []string{"unix", "tcp", "unix"} {
		end, runs := h.dial(network).converse(h, request(t, dir, "-c", "a.c"))
		if end.Done == nil || end.Done.ExitCode != 0 {
			t.Fatalf("%s: ended with %+v", network, end)
		}
		if want := map[bool]int{true: 1, false: 0}[i == 0]; runs != want {
			t.Errorf("request %d over %s ran the compiler %d times, want %d", i, network, runs, want)
		}
		h.engine.Drain()
	}
}

func TestRefuses(t *testing.T) {
	h := newHarness(t)
	req := request(t, writeSource(t), "-c", "a.c")
	token := h.hello()
	token.Token = make([]byte, ipc.TokenSize)
	version := h.hello()
	version.Version += "x"
	protocol := h.hello()
	protocol.Protocol++
	for _, c := range []struct {
		hello *ipcv1.Hello
		why   ipcv1.Refused_Why
	}{
		{token, ipcv1.Refused_WHY_TOKEN},
		{&ipcv1.Hello{Protocol: ipc.Protocol, Version: ipc.Version}, ipcv1.Refused_WHY_TOKEN},
		{nil, ipcv1.Refused_WHY_TOKEN},
		{version, ipcv1.Refused_WHY_VERSION},
		{protocol, ipcv1.Refused_WHY_PROTOCOL},
	} {
		p := h.dial("tcp")
		p.send(&ipcv1.ClientMessage{Hello: c.hello, Compile: req})
		if m := p.answer(); m.Refused == nil || m.Refused.Why != c.why {
			t.Errorf("hello %+v was answered with %+v", c.hello, m)
		}
	}
}

func TestSendsStrangersAway(t *testing.T) {
	h := newHarness(t)
	dir := writeSource(t)
	for name, change := range map[string]func(*ipcv1.Place){
		"user":      func(p *ipcv1.Place) { p.Uid++ },
		"group":     func(p *ipcv1.Place) { p.Groups = append(p.Groups, 12345) },
		"namespace": func(p *ipcv1.Place) { p.RootMount++ },
		"root":      func(p *ipcv1.Place) { p.RootInode++ },
		"directory": func(p *ipcv1.Place) { p.CwdInode++ },
	} {
		req := request(t, dir, "-c", "a.c")
		change(req.Place)
		end, runs := h.dial("unix").converse(h, req)
		if end.OneShot == nil || runs != 0 {
			t.Errorf("another %s was answered with %+v", name, end)
		}
	}
}

func TestOneDaemonAtATime(t *testing.T) {
	h := newHarness(t)
	err := Serve(context.Background(), h.engine, ServerOptions{ConfigDir: h.dir + "/config"}, nil)
	if !errors.Is(err, ErrRunning) {
		t.Fatalf("a second daemon: %v, want ErrRunning", err)
	}
}

func TestStopFinishesWhatRuns(t *testing.T) {
	h := newHarness(t)
	dir := writeSource(t)
	p := h.dial("unix")
	req := request(t, dir, "-c", "a.c")
	p.send(&ipcv1.ClientMessage{Hello: h.hello(), Compile: req})
	run := p.answer().Run
	if run == nil {
		t.Fatal("no Run")
	}
	h.stop()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		_, err := os.Stat(h.dir + "/config/daemon.json")
		if os.IsNotExist(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("daemon.json is still there: %v", err)
		}
	}
	p.send(&ipcv1.ClientMessage{Ran: execute(dir, run)})
	if m := p.answer(); m.Done == nil || m.Done.ExitCode != 0 {
		t.Fatalf("ended with %+v", m)
	}
	if err := <-h.done; err != nil {
		t.Fatal(err)
	}
	h.done <- nil
	stats, err := ReadStats(h.engine.cache)
	if err != nil || stats.Misses != 1 || stats.Entries != 1 {
		t.Fatalf("after the stop: %+v, %v", stats, err)
	}
}

func TestWaiterGoesOnWhenTheFirstDisconnects(t *testing.T) {
	h := newHarness(t)
	dir := writeSource(t)
	first := h.dial("unix")
	first.send(&ipcv1.ClientMessage{Hello: h.hello(), Compile: request(t, dir, "-c", "a.c")})
	if first.answer().Run == nil {
		t.Fatal("no Run")
	}
	second := make(chan *ipcv1.ServerMessage)
	go func() {
		end, _ := h.dial("unix").converse(h, request(t, dir, "-c", "a.c"))
		second <- end
	}()
	time.Sleep(50 * time.Millisecond)
	first.conn.Close()
	select {
	case end := <-second:
		if end.Done == nil || end.Done.ExitCode != 0 {
			t.Fatalf("ended with %+v", end)
		}
	case <-time.After(time.Minute):
		t.Fatal("the second build still waits")
	}
}

// TestNoGrowth sends a hundred thousand requests: neither goroutines nor
// descriptors nor memory may grow with their number.
func TestNoGrowth(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute; not with -short")
	}
	h := newHarness(t)
	dir := writeSource(t)
	req := request(t, dir, "-c", "a.c")
	hit := func(n int) {
		for range n {
			p := h.open("unix")
			end, _ := p.converse(h, req)
			if end.Done == nil || end.Done.ExitCode != 0 {
				t.Fatalf("ended with %+v", end)
			}
			p.conn.Close()
		}
	}
	count := func() (goroutines, files int) {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(fds)
	}
	// Conversations end a moment after their last word, so measure waits, a minute
	// at most, until no more than these are left.
	measure := func(maxGoroutines, maxFiles int) (goroutines, files int, heap uint64) {
		h.engine.Drain()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			goroutines, files = count()
			if goroutines <= maxGoroutines && files <= maxFiles || time.Now().After(deadline) {
				break
			}
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return goroutines, files, m.HeapAlloc
	}
	idle, open := count()
	hit(2_000)
	g0, f0, m0 := measure(idle+5, open+5)
	hit(100_000)
	g1, f1, m1 := measure(g0+5, f0+5)
	t.Logf("goroutines %d -> %d, files %d -> %d, heap %d -> %d KiB", g0, g1, f0, f1, m0>>10, m1>>10)
	if g1 > g0+5 || f1 > f0+5 {
		t.Errorf("goroutines %d -> %d, files %d -> %d", g0, g1, f0, f1)
	}
	if m1 > m0+(8<<20) {
		t.Errorf("heap grew from %d to %d KiB", m0>>10, m1>>10)
	}
}
