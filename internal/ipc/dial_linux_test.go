package ipc

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// testPatience is what a busy machine may take for what an idle one does at once.
const testPatience = time.Minute

// listen serves one connection with handle and returns the listener's address.
func listen(t *testing.T, network, address string, handle func(*Conn)) net.Addr {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			handle(NewServerConn(c))
		}
	}()
	return l.Addr()
}

func echoVersion(c *Conn) {
	defer c.Close()
	var m ipcv1.ClientMessage
	if c.Receive(&m) == nil {
		c.Send(&ipcv1.ServerMessage{Done: &ipcv1.Done{Note: m.Hello.Version}})
	}
}

func exchange(t *testing.T, e *Endpoint) string {
	t.Helper()
	c, err := Dial(e, testPatience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Send(&ipcv1.ClientMessage{Hello: &ipcv1.Hello{Version: "v7"}}); err != nil {
		t.Fatal(err)
	}
	var m ipcv1.ServerMessage
	if err := c.Receive(&m); err != nil {
		t.Fatal(err)
	}
	return m.Done.Note
}

func TestDial(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listen(t, "unix", socket, echoVersion)
	port := listen(t, "tcp", "127.0.0.1:0", echoVersion).(*net.TCPAddr).Port
	for _, e := range []*Endpoint{{Socket: socket}, {Port: port}, {Socket: socket + "-gone", Port: port}} {
		if got := exchange(t, e); got != "v7" {
			t.Errorf("%+v: answer %q", e, got)
		}
	}
	if _, err := Dial(&Endpoint{Socket: socket + "-gone", Port: 1}, testPatience); err == nil || err == ErrTimeout {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestDialSilentPeer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listen(t, "unix", socket, func(*Conn) {})
	c, err := Dial(&Endpoint{Socket: socket}, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	start := time.Now()
	if err := c.Receive(new(ipcv1.ServerMessage)); err != ErrTimeout {
		t.Errorf("silent peer: %v, want ErrTimeout", err)
	}
	if d := time.Since(start); d < 40*time.Millisecond || d > testPatience {
		t.Errorf("gave up after %v", d)
	}
}

func TestReceiveAfterPeerDied(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listen(t, "unix", socket, func(c *Conn) { c.Close() })
	c, err := Dial(&Endpoint{Socket: socket}, testPatience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Receive(new(ipcv1.ServerMessage)); err != io.EOF {
		t.Errorf("peer closed: %v, want io.EOF", err)
	}
}

func TestListenerUID(t *testing.T) {
	table := []byte(`  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     1        0 1 1 0 100 0 0 10 0
   1: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     2        0 2 1 0 100 0 0 10 0
   2: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 100 0 0 10 0
   3: bad
`)
	if uid, err := listenerUID(table, 0x1f90); uid != 1000 || err != nil {
		t.Errorf("listener: %d, %v", uid, err)
	}
	for _, port := range []int{0x1f91, 80} {
		if uid, err := listenerUID(table, port); err == nil {
			t.Errorf("port %d: uid %d, want an error", port, uid)
		}
	}
	if _, err := listenerUID(bytes.Repeat([]byte{'\n'}, 3), 1); err == nil {
		t.Error("empty table: no error")
	}
}

func TestFillPlace(t *testing.T) {
	var a, b ipcv1.Place
	FillPlace(&a)
	t.Chdir(t.TempDir())
	FillPlace(&b)
	if a.RootMount == 0 || a.RootInode == 0 || a.Uid != uint32(os.Geteuid()) {
		t.Errorf("incomplete: %+v", &a)
	}
	if a.RootMount != b.RootMount || a.CwdInode == b.CwdInode {
		t.Errorf("two directories of one place: %+v and %+v", &a, &b)
	}
}
