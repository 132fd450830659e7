package agentapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"hpcc.dev/hpcc/internal/digest"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// guest is an agent that says what a test wants it to say.
type guest struct {
	agentv1.UnimplementedAgentServiceServer
	version uint32
	says    []*agentv1.ExecResponse
	got     []*agentv1.ExecRequest
	raw     raw   // said at the end
	err     error // how the stream ends
}

// raw is a message that is sent as it is.
type raw []byte

type rawCodec struct{ encoding.CodecV2 }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.(raw); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return c.CodecV2.Marshal(v)
}

func (g *guest) Hello(context.Context, *agentv1.HelloRequest) (*agentv1.HelloResponse, error) {
	return &agentv1.HelloResponse{ApiVersion: g.version, KernelVersion: strings.Repeat("x", 1000)}, nil
}

func (g *guest) Exec(s grpc.BidiStreamingServer[agentv1.ExecRequest, agentv1.ExecResponse]) error {
	m, err := s.Recv()
	if err != nil {
		return err
	}
	g.got = append(g.got, m)
	for _, m := range g.says {
		if err := s.Send(m); err != nil {
			return err
		}
		if m.GetNeeded() != nil {
			for {
				m, err := s.Recv()
				if errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					return err
				}
				g.got = append(g.got, m)
			}
		}
	}
	if g.raw != nil {
		return errors.Join(s.SendMsg(g.raw), g.err)
	}
	return g.err
}

// serve runs a guest; dial connects to it.
func serve(t *testing.T, g *guest) Dialer {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxSendMsgSize(64<<20), grpc.MaxRecvMsgSize(64<<20), grpc.ForceServerCodecV2(rawCodec{encoding.GetCodecV2("proto")}))
	agentv1.RegisterAgentServiceServer(server, g)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
	}
}

type blobs map[digest.Digest]string

func (b blobs) Open(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(b[d])), nil
}

func stdio(s string) *agentv1.ExecResponse {
	return &agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Stdio{Stdio: &agentv1.Stdio{Stream: agentv1.Stdio_STREAM_STDOUT, Data: []byte(s)}}}
}

func needed(all ...digest.Digest) *agentv1.ExecResponse {
	var n agentv1.Needed
	for _, d := range all {
		n.Blobs = append(n.Blobs, wire(d))
	}
	return &agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Needed{Needed: &n}}
}

func output(i uint32, s string) *agentv1.ExecResponse {
	return &agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Output{Output: &agentv1.OutputChunk{Output: i, Data: []byte(s)}}}
}

func lookups(found agentv1.Lookup_Found, paths ...string) *agentv1.ExecResponse {
	var l agentv1.Lookups
	for _, p := range paths {
		l.Lookups = append(l.Lookups, &agentv1.Lookup{Path: []byte(p), Found: found})
	}
	return &agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Lookups{Lookups: &l}}
}

func end(change ...func(*agentv1.ExecResult)) *agentv1.ExecResponse {
	r := &agentv1.ExecResult{Usage: &agentv1.Usage{WallMicros: 5}}
	for _, c := range change {
		c(r)
	}
	return &agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Result{Result: r}}
}

func left(i uint32, s string) func(*agentv1.ExecResult) {
	return func(r *agentv1.ExecResult) {
		r.Outputs = append(r.Outputs, &agentv1.OutputFile{Output: i, Mode: 0o644, Digest: wire(digest.Of([]byte(s)))})
	}
}

var (
	one = digest.Of([]byte("one"))
	job = Job{
		Argv: []string{"cc"}, Cwd: "/w", Roots: []string{"/w"}, Outputs: []string{"/w/o", "/w/p"},
		Inputs: []Input{{Path: "/w/a", Kind: File, Digest: one, Mode: 0o644}},
		Limits: Limits{StdioBytes: 10, FileBytes: 20},
	}
)

func TestExec(t *testing.T) {
	g := &guest{version: agentv1.APIVersion, says: []*agentv1.ExecResponse{
		needed(one), stdio("hello"), output(0, ""), output(1, "ab"), output(1, "c"),
		lookups(agentv1.Lookup_FOUND_ABSENT, "/w/x", "/w/\xff"), end(left(0, ""), left(1, "abc")),
	}}
	c, err := Connect(t.Context(), serve(t, g))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if len(c.Hello().KernelVersion) > 200 {
		t.Error("the guest's text is not bounded")
	}
	var stdout bytes.Buffer
	files := map[string]*bytes.Buffer{}
	r, err := c.Exec(t.Context(), job, blobs{one: "one"}, Sinks{Stdout: &stdout, Output: func(p string) (io.Writer, error) {
		files[p] = new(bytes.Buffer)
		return files[p], nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "hello" || files["/w/o"].String() != "" || files["/w/p"].String() != "abc" {
		t.Errorf("%q %v", stdout.String(), files)
	}
	if len(r.Outputs) != 2 || r.Outputs[1].Digest != digest.Of([]byte("abc")) || len(r.Lookups) != 2 || r.Lookups[1] != (Lookup{"/w/\xff", Absent}) {
		t.Errorf("%+v", r)
	}
	if r.Sent != (Sent{1, 3}) || len(g.got) != 2 || string(g.got[1].GetBlob()) != "one" {
		t.Errorf("sent %+v, %v", r.Sent, g.got)
	}
}

// hostile are conversations that no agent has.
var hostile = map[string][]*agentv1.ExecResponse{
	"nothing":                   {},
	"no result":                 {needed()},
	"no needed":                 {stdio("x"), end()},
	"needed twice":              {needed(), needed(), end()},
	"a blob that is no input":   {needed(digest.Of([]byte("secret"))), end()},
	"a blob twice":              {needed(one, one), end()},
	"no kind":                   {needed(), {}, end()},
	"too much printed":          {needed(), stdio("123456789"), stdio("12"), end()},
	"a large chunk":             {needed(), stdio(strings.Repeat("x", agentv1.ChunkSize+1)), end()},
	"no stream":                 {needed(), {Kind: &agentv1.ExecResponse_Stdio{Stdio: &agentv1.Stdio{Stream: 7}}}, end()},
	"an undeclared output":      {needed(), output(2, "x"), end()},
	"an output with a huge id":  {needed(), output(1<<31+1, "x"), end()},
	"outputs out of order":      {needed(), output(1, "x"), output(0, "x"), end(left(0, "x"), left(1, "x"))},
	"an empty chunk later":      {needed(), output(0, "x"), output(0, ""), end(left(0, "x"))},
	"an output over the limit":  {needed(), output(0, strings.Repeat("x", 21)), end()},
	"another digest":            {needed(), output(0, "x"), end(left(0, "y"))},
	"an output that never came": {needed(), end(left(0, "x"))},
	"an unnamed output":         {needed(), output(0, "x"), end()},
	"an output twice":           {needed(), output(0, "x"), end(left(0, "x"), left(0, "x"))},
	"a set-uid output":          {needed(), output(0, "x"), end(left(0, "x"), func(r *agentv1.ExecResult) { r.Outputs[0].Mode = 0o4755 })},
	"no digest":                 {needed(), output(0, "x"), end(left(0, "x"), func(r *agentv1.ExecResult) { r.Outputs[0].Digest = nil })},
	"a lookup outside":          {needed(), lookups(agentv1.Lookup_FOUND_FILE, "/etc/passwd"), end()},
	"a lookup beside":           {needed(), lookups(agentv1.Lookup_FOUND_FILE, "/wx"), end()},
	"a lookup with dots":        {needed(), lookups(agentv1.Lookup_FOUND_FILE, "/w/../etc/passwd"), end()},
	"a relative lookup":         {needed(), lookups(agentv1.Lookup_FOUND_FILE, "w"), end()},
	"a long lookup":             {needed(), lookups(agentv1.Lookup_FOUND_FILE, "/w/"+strings.Repeat("x/", 4000)+"x"), end()},
	"a lookup twice":            {needed(), lookups(agentv1.Lookup_FOUND_FILE, "/w/x", "/w/x"), end()},
	"a lookup of no kind":       {needed(), lookups(0, "/w/x"), end()},
	"too many lookups":          manyLookups(),
	"exit and signal":           {needed(), end(func(r *agentv1.ExecResult) { r.ExitCode, r.Signal = 1, 9 })},
	"exit 256":                  {needed(), end(func(r *agentv1.ExecResult) { r.ExitCode = 256 })},
	"an unknown limit":          {needed(), end(func(r *agentv1.ExecResult) { r.Limit = 77 })},
	"a negative time":           {needed(), end(func(r *agentv1.ExecResult) { r.Usage.WallMicros = -1 })},
}

func manyLookups() []*agentv1.ExecResponse {
	all := []*agentv1.ExecResponse{needed()}
	for i := 0; i <= agentv1.MaxLookups; i += 1000 {
		var paths []string
		for j := range 1000 {
			paths = append(paths, fmt.Sprintf("/w/%d", i+j))
		}
		all = append(all, lookups(agentv1.Lookup_FOUND_FILE, paths...))
	}
	return append(all, end())
}

func TestHostileGuest(t *testing.T) {
	for name, says := range hostile {
		g := &guest{version: agentv1.APIVersion, says: says}
		c, err := Connect(t.Context(), serve(t, g))
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Exec(t.Context(), job, blobs{one: "one"}, Sinks{})
		var broken *GuestError
		if !errors.As(err, &broken) {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
}

// How a stream ends says whose fault it is, and so what becomes of the machine
// and of the job.
func TestEndOfStream(t *testing.T) {
	var guestErr *GuestError
	var refused *RefusedError
	var lost *LostError
	for _, c := range []struct {
		name string
		g    guest
		want any
	}{
		{"a message longer than the limit", guest{says: []*agentv1.ExecResponse{needed(), stdio(strings.Repeat("x", agentv1.MaxMessage+1))}}, &guestErr},
		{"no protobuf", guest{says: []*agentv1.ExecResponse{needed()}, raw: raw{0xff}}, &guestErr},
		{"no protobuf instead of Needed", guest{raw: raw{0x0a, 0x7f}}, &guestErr},
		{"an empty message", guest{says: []*agentv1.ExecResponse{needed()}, raw: raw{}}, &guestErr},
		{"a code that is not the agent's", guest{err: status.Error(codes.ResourceExhausted, "full")}, &guestErr},
		{"a header that it does not like", guest{err: status.Error(codes.InvalidArgument, "no")}, &refused},
		{"a job that it cannot run", guest{says: []*agentv1.ExecResponse{needed()}, err: status.Error(codes.FailedPrecondition, "full")}, &refused},
		{"an agent that fails", guest{says: []*agentv1.ExecResponse{needed()}, err: status.Error(codes.Internal, "oh")}, &lost},
		{"an agent that ends", guest{err: status.Error(codes.Unavailable, "bye")}, &lost},
	} {
		c.g.version = agentv1.APIVersion
		client, err := Connect(t.Context(), serve(t, &c.g))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = client.Exec(t.Context(), job, blobs{one: "one"}, Sinks{}); !errors.As(err, c.want) {
			t.Errorf("%s: %T: %v", c.name, err, err)
		}
		client.Close()
	}
}

// A description that does not fit into a message is the caller's fault.
func TestLongDescription(t *testing.T) {
	c, err := Connect(t.Context(), serve(t, &guest{version: agentv1.APIVersion}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	long := job
	long.Env = nil
	for i := range 200 {
		long.Env = append(long.Env, fmt.Sprintf("V%d=%s", i, strings.Repeat("x", 100_000)))
	}
	var refused *RefusedError
	if _, err := c.Exec(t.Context(), long, nil, Sinks{}); !errors.As(err, &refused) {
		t.Errorf("%T: %v", err, err)
	}
	bytes := job
	bytes.Argv = []string{"cc", "-DNAME=\xff"}
	if _, err := c.Exec(t.Context(), bytes, nil, Sinks{}); !errors.As(err, &refused) || !errors.Is(err, ErrNotUTF8) {
		t.Errorf("no UTF-8: %v", err)
	}
}

func TestVersion(t *testing.T) {
	var version *VersionError
	if _, err := Connect(t.Context(), serve(t, &guest{version: agentv1.APIVersion + 1})); !errors.As(err, &version) || version.Agent != agentv1.APIVersion+1 {
		t.Errorf("another version: %v", err)
	}
}

// The first connections after a restore break in every way.
func TestConnectRedials(t *testing.T) {
	good := serve(t, &guest{version: agentv1.APIVersion})
	var tries atomic.Int32
	var dead []net.Conn
	dial := func(ctx context.Context) (net.Conn, error) {
		switch tries.Add(1) {
		case 1:
			return nil, io.EOF // nobody listens yet
		case 2:
			c, peer := net.Pipe()
			peer.Close() // ends at once
			return c, nil
		case 3:
			c, peer := net.Pipe() // never answers
			dead = append(dead, peer)
			go io.Copy(io.Discard, peer)
			return c, nil
		}
		return good(ctx)
	}
	begun := time.Now()
	c, err := Connect(t.Context(), dial)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if d := time.Since(begun); d > 30*time.Second {
		t.Errorf("took %s", d)
	}
	for _, d := range dead {
		d.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = Connect(ctx, func(context.Context) (net.Conn, error) { return nil, io.ErrClosedPipe })
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("never: %v", err)
	}
	if _, err := Connect(t.Context(), func(context.Context) (net.Conn, error) { return nil, ErrGone }); !errors.Is(err, ErrGone) {
		t.Errorf("gone: %v", err)
	}
}

func TestDialVsock(t *testing.T) {
	for answer, want := range map[string]string{
		"OK 1073741824\nPRI": "", "": "EOF", "NO\n": "want OK", strings.Repeat("O", 1000): "too long", "OK": "EOF",
	} {
		c, peer := net.Pipe()
		asked := make(chan string, 1)
		go func() {
			b := make([]byte, 64)
			n, _ := peer.Read(b)
			asked <- string(b[:n])
			io.WriteString(peer, answer)
			peer.Close()
		}()
		conn, err := DialVsock(t.Context(), c, 1024)
		if got := <-asked; got != "CONNECT 1024\n" {
			t.Errorf("asked %q", got)
		}
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", answer, err)
				continue
			}
			// What follows the line is the guest's first words, whole.
			if rest, err := io.ReadAll(conn); err != nil || string(rest) != "PRI" {
				t.Errorf("after the line: %q, %v", rest, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %s", answer, err, want)
		}
	}
	// A peer that never answers.
	c, peer := net.Pipe()
	defer peer.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := DialVsock(ctx, c, 1); err == nil {
		t.Error("no answer is an answer")
	}
}

// FuzzReceiver feeds conversations of a hostile guest to what decodes them: each
// is a list of messages, as their lengths in one byte and their bytes.
func FuzzReceiver(f *testing.F) {
	for _, says := range hostile {
		var b []byte
		for _, m := range says {
			wire, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			if len(wire) < 256 {
				b = append(append(b, byte(len(wire))), wire...)
			}
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		header := job.header()
		if err := header.Limits.Fill(); err != nil {
			t.Fatal(err)
		}
		var printed int
		written := map[string]*bytes.Buffer{}
		r := newReceiver(&job, header, Sinks{
			Stdout: counter{&printed}, Stderr: counter{&printed},
			Output: func(p string) (io.Writer, error) {
				if written[p] != nil {
					t.Fatalf("output %s is opened twice", p)
				}
				written[p] = new(bytes.Buffer)
				return written[p], nil
			},
		})
		for len(b) > 0 && !r.done {
			n := min(int(b[0]), len(b)-1)
			var m agentv1.ExecResponse
			if proto.Unmarshal(b[1:1+n], &m) != nil {
				return
			}
			if r.take(&m) != nil {
				return
			}
			b = b[1+n:]
		}
		if printed > 10 {
			t.Errorf("%d bytes printed", printed)
		}
		if !r.done {
			return
		}
		// What was accepted is what a caller may rely on.
		if len(r.result.Outputs) != len(written) {
			t.Errorf("%d outputs, and %d written", len(r.result.Outputs), len(written))
		}
		for _, o := range r.result.Outputs {
			if w := written[o.Path]; w == nil || digest.Of(w.Bytes()) != o.Digest || o.Mode != o.Mode.Perm() {
				t.Errorf("output %+v", o)
			}
		}
		seen := map[string]bool{}
		for _, l := range r.result.Lookups {
			if l.Path != "/w" && !strings.HasPrefix(l.Path, "/w/") || strings.Contains(l.Path, "/../") || seen[l.Path] {
				t.Errorf("lookup %+v", l)
			}
			seen[l.Path] = true
		}
	})
}

type counter struct{ n *int }

func (c counter) Write(p []byte) (int, error) { *c.n += len(p); return len(p), nil }

// hostile greetings end Connect at once: the machine is to be killed.
func TestHostileHello(t *testing.T) {
	for name, hello := range map[string]raw{
		"too long":    append(raw{0x12, 0x80, 0x80, 0x80, 0x08}, make([]byte, 16<<20)...),
		"no protobuf": {0xff},
		"interfaces":  bytes.Repeat([]byte{0x22, 0}, maxInterfaces+1),
	} {
		l, err := net.Listen("unix", t.TempDir()+"/s")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer(grpc.MaxSendMsgSize(64<<20), grpc.ForceServerCodecV2(rawCodec{encoding.GetCodecV2("proto")}),
			grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
				return s.SendMsg(append(raw{0x08, agentv1.APIVersion}, hello...))
			}))
		go server.Serve(l)
		_, err = Connect(t.Context(), func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
		})
		var guest *GuestError
		if !errors.As(err, &guest) {
			t.Errorf("%s: %v", name, err)
		}
		server.Stop()
	}
}

// FuzzHandshake feeds answers of a monitor to what reads them: it never takes a
// byte of what follows the line.
func FuzzHandshake(f *testing.F) {
	for _, answer := range []string{"OK 1073741824\nPRI", "", "NO\n", "OK", strings.Repeat("O", 40)} {
		f.Add([]byte(answer))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		c := &answers{rest: answer}
		_, err := DialVsock(t.Context(), c, 1)
		line, rest, whole := bytes.Cut(answer, []byte("\n"))
		good := whole && len(line) <= maxAnswer && bytes.HasPrefix(line, []byte("OK "))
		if good != (err == nil) {
			t.Fatalf("%q: %v", answer, err)
		}
		if good && !bytes.Equal(c.rest, rest) {
			t.Errorf("%q: left %q", answer, c.rest)
		}
	})
}

// answers is a connection that says one thing, whatever it is asked.
type answers struct {
	net.Conn
	rest []byte
}

func (a *answers) Write(p []byte) (int, error) { return len(p), nil }
func (a *answers) Close() error                { return nil }
func (a *answers) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}
