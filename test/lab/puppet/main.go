//go:build linux

// Puppet is an /init for tests of machines: it speaks the agent's protocol, and
// does what a taken-over guest could do when told so by the first argument of a
// job. Nothing of it isolates anything.
//
// As /beside it lives beside the agent instead: it starts itself once more, in
// the mounts that the machine had at its birth, and then becomes /init, which is
// hpcc-agent as it is shipped. It answers at the port after the agent's, and is
// what nothing in a machine is: root, without limits, next to the agent. Jobs
// with project roots it runs as the agent does, but plainly.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	"hpcc.dev/hpcc/test/lab/search"
)

func main() {
	port := uint32(agentv1.Port)
	switch os.Args[0] {
	case "/beside":
		fmt.Fprintln(os.Stdout, "puppet:", becomeInit())
		reboot()
	case "puppet":
		port++
	}
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			fmt.Fprintln(os.Stdout, "puppet: mount", m.at, err)
		}
	}
	l, err := listen(port)
	if err != nil {
		fmt.Fprintln(os.Stdout, "puppet: listen:", err)
		reboot()
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(agentv1.MaxMessage))
	agentv1.RegisterAgentServiceServer(s, &puppet{})
	fmt.Fprintln(os.Stdout, "puppet: ready")
	fmt.Fprintln(os.Stdout, "puppet:", s.Serve(l))
	reboot()
}

// becomeInit returns only an error.
func becomeInit() error {
	// Both mount on these, and neither minds that they are there.
	for _, dir := range []string{"/proc", "/sys", "/dev", "/tmp"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	_, err := os.StartProcess("/beside", []string{"puppet"}, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS},
	})
	if err != nil {
		return err
	}
	return unix.Exec("/init", []string{"/init"}, os.Environ())
}

func reboot() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

type puppet struct {
	agentv1.UnimplementedAgentServiceServer
	deaf  bool // to Shutdown
	plain plainJobs
}

func (*puppet) Hello(context.Context, *agentv1.HelloRequest) (*agentv1.HelloResponse, error) {
	var names []string
	all, _ := os.ReadDir("/sys/class/net")
	for _, e := range all {
		names = append(names, e.Name())
	}
	_, err := os.Stat("/dev/dm-0")
	return &agentv1.HelloResponse{ApiVersion: agentv1.APIVersion, AgentVersion: "puppet", Interfaces: names, Verity: err == nil}, nil
}

func (p *puppet) Shutdown(context.Context, *agentv1.ShutdownRequest) (*agentv1.ShutdownResponse, error) {
	if !p.deaf {
		go reboot()
	}
	return &agentv1.ShutdownResponse{}, nil
}

func (p *puppet) Exec(stream agentv1.AgentService_ExecServer) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	if len(m.GetHeader().GetRoots()) > 0 {
		return p.plain.run(stream, m.GetHeader())
	}
	if err := stream.Send(&agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Needed{Needed: &agentv1.Needed{}}}); err != nil {
		return err
	}
	text, err := p.do(stream.Context(), m.GetHeader().GetArgv())
	if err != nil {
		text = "error: " + err.Error()
	}
	if err := tell(stream, agentv1.Stdio_STREAM_STDOUT, []byte(text)); err != nil {
		return err
	}
	return stream.Send(&agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Result{Result: &agentv1.ExecResult{}}})
}

func tell(stream agentv1.AgentService_ExecServer, to agentv1.Stdio_Stream, text []byte) error {
	for len(text) > 0 {
		n := min(len(text), agentv1.ChunkSize)
		if err := stream.Send(&agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Stdio{Stdio: &agentv1.Stdio{Stream: to, Data: text[:n]}}}); err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

func (p *puppet) do(ctx context.Context, argv []string) (string, error) {
	switch argv[0] {
	case "deaf":
		p.deaf = true
	case "hang":
		<-ctx.Done()
	case "reboot":
		reboot()
	case "exit": // the kernel panics at the end of its first process
		os.Exit(3)
	case "flood": // the console, with what a terminal would obey
		f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		line := "\x1b[2J\x1b]0;hostile\x07" + strings.Repeat("x", 200) + "\n"
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
			if _, err := f.WriteString(line); err != nil {
				return "", err
			}
		}
	case "eat": // all memory there is
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
			if len(all)%64 == 0 {
				fmt.Fprintln(os.Stdout, "puppet: ate", len(all))
			}
		}
	case "write-drive":
		f, err := os.OpenFile(argv[1], os.O_WRONLY, 0)
		if err != nil {
			return "", err
		}
		defer f.Close()
		if _, err := f.WriteAt(make([]byte, 4096), 0); err != nil {
			return "", err
		}
		return "written", f.Sync()
	case "read":
		f, err := os.Open(argv[1])
		if err != nil {
			return "", err
		}
		defer f.Close()
		b := make([]byte, 1<<20)
		n, err := f.Read(b)
		return string(b[:n]), err
	case "list":
		all, err := os.ReadDir(argv[1])
		var names []string
		for _, e := range all {
			names = append(names, e.Name())
		}
		return strings.Join(names, " "), err
	case "mount-root":
		if err := os.MkdirAll("/tmp/root", 0o755); err != nil {
			return "", err
		}
		return "", unix.Mount("/dev/dm-0", "/tmp/root", "ext4", unix.MS_RDONLY, "")
	case "run":
		out, err := exec.CommandContext(ctx, argv[1], argv[2:]...).CombinedOutput()
		return string(out), err
	case "search": // all that root of the machine can see
		s, err := search.New(argv[1])
		if err != nil {
			return "", err
		}
		s.Tree("/")
		s.Processes()
		text, err := json.Marshal(map[string]any{"Found": s.Found, "Summary": s.String(), "Names": s.Names, "Files": s.Files, "Bytes": s.Bytes, "Memory": s.Memory})
		return string(text), err
	case "vsock": // a port, by every address
		var port uint32
		if _, err := fmt.Sscan(argv[1], &port); err != nil {
			return "", err
		}
		text := ""
		for _, cid := range []uint32{unix.VMADDR_CID_HYPERVISOR, unix.VMADDR_CID_LOCAL, unix.VMADDR_CID_HOST, 3, 4, 5, unix.VMADDR_CID_ANY} {
			result := "connected"
			if err := connect(cid, port); err != nil {
				result = err.Error()
			}
			text += fmt.Sprintf("%d: %s\n", int32(cid), result)
		}
		return text, nil
	case "dial": // the host
		return "connected", connect(unix.VMADDR_CID_HOST, 1)
	default:
		return "", fmt.Errorf("no such trick: %q", argv[0])
	}
	return "", nil
}

func connect(cid, port uint32) error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: port})
}

// listener takes vsock connections; net's own do not know the family.
type listener struct{ fd int }

type conn struct {
	*os.File
	addr
}

type addr struct{}

func (addr) Network() string        { return "vsock" }
func (addr) String() string         { return "vsock" }
func (a addr) LocalAddr() net.Addr  { return a }
func (a addr) RemoteAddr() net.Addr { return a }
func (l *listener) Addr() net.Addr  { return addr{} }
func (l *listener) Close() error    { return unix.Close(l.fd) }
func listen(port uint32) (net.Listener, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port})
	}
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	return &listener{fd}, err
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		fd, _, err := unix.Accept4(l.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err == unix.EINTR {
			continue
		} else if err != nil {
			return nil, err
		}
		return conn{File: os.NewFile(uintptr(fd), "vsock")}, nil
	}
}
