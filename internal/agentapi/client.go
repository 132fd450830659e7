package agentapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// Hello is what an agent says of itself.
type Hello struct {
	AgentVersion  string
	KernelVersion string
	Interfaces    []string
	Verity        bool
	Cgroup        bool
}

// Client talks to one agent. It may be used by many goroutines at once.
type Client struct {
	conn  *grpc.ClientConn
	rpc   agentv1.AgentServiceClient
	hello Hello
}

const (
	// firstTry is how long the first hello may take before the connection is
	// given up and made anew: right after a restore it is often dead without
	// saying so. Each later try gets twice as long, for slow machines.
	firstTry = 250 * time.Millisecond
	longTry  = 8 * time.Second
	// pause between two tries.
	pause = 5 * time.Millisecond
)

// Connect dials until an agent has answered a Hello, or ctx ends. It sets the
// guest's clock to the host's. The connection is made anew by itself when it
// breaks; each call that was under way has failed then.
//
// A dial error that wraps ErrGone ends it at once: whoever dials knows that the
// machine has ended.
func Connect(ctx context.Context, dial Dialer) (*Client, error) {
	var last error
	for try := firstTry; ; try = min(2*try, longTry) {
		c, err := connect(ctx, dial, try)
		if err == nil {
			return c, nil
		}
		var version *VersionError
		var guest *GuestError
		if errors.As(err, &version) || errors.As(err, &guest) || errors.Is(err, ErrGone) {
			return nil, err
		}
		// The end of ctx says less than what went wrong before it.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no answer from the agent: %w (%w)", ctx.Err(), last)
		case <-time.After(pause):
		}
	}
}

// ErrGone is for a Dialer to say that another try is of no use.
var ErrGone = errors.New("the machine has ended")

// VersionError says that host and agent are of versions that do not go together:
// the guest kit is older or newer than this program.
type VersionError struct{ Host, Agent uint32 }

func (e *VersionError) Error() string {
	return fmt.Sprintf("the agent speaks version %d of the protocol, this program version %d: build the guest kit again with hpcc guest build", e.Agent, e.Host)
}

func connect(ctx context.Context, dial Dialer, limit time.Duration) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// gRPC hides why a dial failed, and waits between two; the first connection
	// is made here, and later ones, after a break, by gRPC itself.
	first, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	handed := make(chan net.Conn, 1)
	handed <- first
	conn, err := grpc.NewClient("passthrough:///agent",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			select {
			case c := <-handed:
				return c, nil
			default:
				return dial(ctx)
			}
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(agentv1.MaxMessage), grpc.MaxCallSendMsgSize(agentv1.MaxMessage)),
		// One stream's window bounds what the guest can make the host hold.
		grpc.WithInitialWindowSize(4<<20), grpc.WithInitialConnWindowSize(16<<20),
	)
	if err != nil {
		first.Close()
		return nil, err
	}
	c := &Client{conn: conn, rpc: agentv1.NewAgentServiceClient(conn)}
	if err := c.sayHello(ctx); err != nil {
		_ = conn.Close()
		select {
		case c := <-handed:
			c.Close()
		default:
		}
		return nil, err
	}
	return c, nil
}

const maxInterfaces = 64

func (c *Client) sayHello(ctx context.Context) error {
	codec := newCodec()
	r, err := c.rpc.Hello(ctx, &agentv1.HelloRequest{ApiVersion: agentv1.APIVersion, UnixNanos: time.Now().UnixNano()}, grpc.ForceCodecV2(codec))
	if err != nil {
		var guest *GuestError
		if err := failed(ctx, err, codec); errors.As(err, &guest) {
			return err
		}
		return err
	}
	if r.GetApiVersion() != agentv1.APIVersion {
		return &VersionError{agentv1.APIVersion, r.GetApiVersion()}
	}
	if len(r.GetInterfaces()) > maxInterfaces {
		return &GuestError{fmt.Sprintf("%d network interfaces", len(r.GetInterfaces()))}
	}
	c.hello = Hello{
		AgentVersion: clip(r.GetAgentVersion()), KernelVersion: clip(r.GetKernelVersion()),
		Verity: r.GetVerity(), Cgroup: r.GetCgroup(),
	}
	for _, name := range r.GetInterfaces() {
		c.hello.Interfaces = append(c.hello.Interfaces, clip(name))
	}
	return nil
}

// Hello is what the agent said when it was connected to. The strings are the
// guest's, at most 200 bytes long each.
func (c *Client) Hello() Hello {
	h := c.hello
	h.Interfaces = slices.Clone(h.Interfaces)
	return h
}

// Shutdown tells the agent to end its jobs and the machine. That the machine
// ends is for its runtime to see: an answer may be lost, and is worth nothing.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := c.rpc.Shutdown(ctx, &agentv1.ShutdownRequest{})
	if status.Code(err) == codes.Unavailable {
		return nil
	}
	return err
}

// Close ends the connection, and with it all running jobs.
func (c *Client) Close() error { return c.conn.Close() }

// clip bounds text of the guest's.
func clip(s string) string {
	if len(s) > 200 {
		return s[:200]
	}
	return s
}
