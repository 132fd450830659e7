package wirezip

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }

func pack(t testing.TB, b []byte, step int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := encoding.GetCompressor(Name).Compress(&out)
	if err != nil {
		t.Fatal(err)
	}
	for rest := b; len(rest) > 0; rest = rest[min(step, len(rest)):] {
		if _, err := w.Write(rest[:min(step, len(rest))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func unpack(t testing.TB, b []byte, most int64) ([]byte, error) {
	t.Helper()
	r, err := encoding.GetCompressor(Name).Decompress(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer r.(io.Closer).Close()
	return io.ReadAll(io.LimitReader(r, most))
}

func TestRoundTrip(t *testing.T) {
	noise := make([]byte, 3<<20)
	_, _ = rand.Read(noise)
	text := []byte(strings.Repeat("/hpcc/src/include/a.h\x00", 200_000))
	for _, n := range []int{1, 100, 1023, 1024, 1025, 256 << 10, MaxWindow, MaxWindow + 1, 3 << 20} {
		for name, b := range map[string][]byte{"noise": noise[:n], "text": text[:n]} {
			packed := pack(t, b, 32<<10)
			if len(packed) > n+n/1000+64 {
				t.Errorf("%d bytes of %s became %d", n, name, len(packed))
			}
			if name == "text" && n > 1000 && len(packed) > n/20 {
				t.Errorf("%d bytes of text only became %d", n, len(packed))
			}
			got, err := unpack(t, packed, 1<<30)
			if err != nil || !bytes.Equal(got, b) {
				t.Errorf("%d bytes of %s: %d bytes, %v", n, name, len(got), err)
			}
		}
	}
}

// A coder that met an error, or was left in the midst of a message, serves the
// next one.
func TestUseAfterDamage(t *testing.T) {
	b := []byte(strings.Repeat("some text, ", 100_000))
	packed := pack(t, b, len(b))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 50 {
				damaged := bytes.Clone(packed)
				damaged[i*7%len(damaged)] ^= 0x55
				_, _ = unpack(t, damaged, 1<<30)
				_, _ = unpack(t, packed[:i*11%len(packed)], 1<<30)
				_, _ = unpack(t, packed, 17)
				if got, err := unpack(t, packed, 1<<30); err != nil || !bytes.Equal(got, b) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}
		})
	}
	all.Wait()
}

func TestLargeWindowIsRefused(t *testing.T) {
	e, err := zstd.NewWriter(nil, zstd.WithWindowSize(MaxWindow*2), zstd.WithEncoderConcurrency(1), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	b := e.EncodeAll(make([]byte, 4*MaxWindow), nil)
	if _, err := unpack(t, b, 1<<30); !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("%v", err)
	}
}

// text is a message that needs no protobuf.
type text []byte

type codec struct{}

func (codec) Name() string { return "text" }
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*text))}, nil
}
func (codec) Unmarshal(b mem.BufferSlice, v any) error {
	*v.(*text) = b.Materialize()
	return nil
}

// Over a real connection: what goes over the wire is small both ways, and a
// message that unpacks to more than the limit is refused, whatever its size.
func TestOverGRPC(t *testing.T) {
	const limit = 1 << 20
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(codec{}), grpc.MaxRecvMsgSize(limit))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: func(_ any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var m text
			return &m, dec(&m)
		}}},
	}, nil)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	var meter meter
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.UseCompressor(Name)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			return &counted{c, &meter}, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in, out := text(strings.Repeat("a", limit)), text(nil)
	if err := conn.Invoke(t.Context(), "/echo/Echo", &in, &out); err != nil || !bytes.Equal(in, out) {
		t.Fatalf("%d bytes, %v", len(out), err)
	}
	if n := meter.bytes(); n > 10_000 {
		t.Errorf("%d bytes crossed", n)
	}
	in = append(in, 'a')
	if err := conn.Invoke(t.Context(), "/echo/Echo", &in, &out); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v", err)
	}
}

type meter struct {
	mu sync.Mutex
	n  int
}

func (m *meter) add(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n += n
}

func (m *meter) bytes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.n
}

type counted struct {
	net.Conn
	*meter
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.add(n)
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.add(n)
	return n, err
}

// Nothing that comes in makes a decoder fail in another way than by an error, or
// yield more than asked for.
func FuzzDecompress(f *testing.F) {
	f.Add(pack(f, []byte(strings.Repeat("hello ", 1000)), 100))
	f.Add(pack(f, make([]byte, 3<<20), 1<<20))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd})
	f.Fuzz(func(t *testing.T, b []byte) {
		const most = 64 << 10
		got, err := unpack(t, b, most)
		if len(got) > most {
			t.Errorf("%d bytes", len(got))
		}
		if err != nil || len(got) == most {
			return
		}
		if again, err := unpack(t, pack(t, got, 1000), most); err != nil || !bytes.Equal(again, got) {
			t.Errorf("%d bytes of %d, %v", len(again), len(got), err)
		}
	})
}

func BenchmarkChunk(b *testing.B) {
	chunk := []byte(strings.Repeat("static int f(int x) { return x + 1; }\n", 7000))[:256<<10]
	for name, n := range map[string]int{"300B": 300, "256K": len(chunk)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(n))
			for b.Loop() {
				if _, err := unpack(b, pack(b, chunk[:n], n), 1<<30); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
