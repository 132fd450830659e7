// Package server answers the host: AgentService over gRPC.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/agent/internal/blob"
	"hpcc.dev/hpcc/agent/internal/job"
	"hpcc.dev/hpcc/agent/internal/lookup"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// Config is what a server needs to know of its machine.
type Config struct {
	Version string
	Store   *blob.Store
	Runner  Runner
	// Verity and Cgroup are told in Hello.
	Verity, Cgroup bool
	// SetClock sets the machine's clock; nil if it is not this program's to set.
	SetClock func(unixNanos int64) error
}

// Runner runs a job whose header was checked and whose inputs are pinned in the
// store: a *job.Runner.
type Runner interface {
	Run(ctx context.Context, header *agentv1.ExecHeader, sink job.Sink) error
}

// Server is the service.
type Server struct {
	agentv1.UnimplementedAgentServiceServer
	config   Config
	grpc     *grpc.Server
	shutdown chan struct{}
	once     sync.Once
}

// New returns a server.
func New(c Config) *Server {
	s := &Server{config: c, shutdown: make(chan struct{})}
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(agentv1.MaxMessage), grpc.MaxSendMsgSize(agentv1.MaxMessage),
		grpc.InitialWindowSize(4<<20), grpc.InitialConnWindowSize(16<<20),
		// More streams than jobs: those that wait for a slot can be cancelled.
		grpc.MaxConcurrentStreams(4*job.MaxJobs),
	)
	agentv1.RegisterAgentServiceServer(s.grpc, s)
	return s
}

// Serve answers on l until Shutdown was called or ctx ends; all jobs have ended
// then.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ctx.Done():
			// Ends the jobs' streams, and waits for their ends.
			s.grpc.Stop()
		case <-s.shutdown:
			// A stream under way would hold a graceful stop up; the answer to
			// Shutdown itself is sent by then or not worth waiting for.
			s.grpc.Stop()
		}
	}()
	if err := s.grpc.Serve(l); ctx.Err() == nil && !s.ended() {
		return err
	}
	<-stopped
	return nil
}

func (s *Server) ended() bool {
	select {
	case <-s.shutdown:
		return true
	default:
		return false
	}
}

// Hello says what this machine is.
func (s *Server) Hello(_ context.Context, r *agentv1.HelloRequest) (*agentv1.HelloResponse, error) {
	if t := r.GetUnixNanos(); t != 0 && s.config.SetClock != nil {
		if err := s.config.SetClock(t); err != nil {
			return nil, status.Errorf(codes.Internal, "setting the clock: %v", err)
		}
	}
	// The version is the host's to judge: it knows what it can still talk to.
	nics, err := interfaces()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &agentv1.HelloResponse{
		ApiVersion: agentv1.APIVersion, AgentVersion: s.config.Version, KernelVersion: kernelVersion(),
		Interfaces: nics, Verity: s.config.Verity, Cgroup: s.config.Cgroup,
	}, nil
}

func kernelVersion() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// interfaces reads the names from proc_net_dev(5), which is there without an IP
// stack.
func interfaces() ([]string, error) {
	b, err := os.ReadFile("/proc/self/net/dev")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return names, nil
}

// Shutdown ends the machine.
func (s *Server) Shutdown(context.Context, *agentv1.ShutdownRequest) (*agentv1.ShutdownResponse, error) {
	s.once.Do(func() { close(s.shutdown) })
	return &agentv1.ShutdownResponse{}, nil
}

// stream is an Exec under way.
type stream struct {
	grpc.BidiStreamingServer[agentv1.ExecRequest, agentv1.ExecResponse]
	store  *blob.Store
	pinned []blob.Key
}

// Exec runs one job.
func (s *Server) Exec(g grpc.BidiStreamingServer[agentv1.ExecRequest, agentv1.ExecResponse]) error {
	e := &stream{BidiStreamingServer: g, store: s.config.Store}
	defer e.unpin()
	first, err := g.Recv()
	if errors.Is(err, io.EOF) {
		return status.Error(codes.InvalidArgument, "the host ended before it had sent a header")
	} else if err != nil {
		return err
	}
	header := first.GetHeader()
	if header == nil {
		return status.Error(codes.InvalidArgument, "the first message is no header")
	}
	if header.Limits == nil {
		header.Limits = &agentv1.Limits{}
	}
	if err := errors.Join(header.Check(), header.Limits.Fill()); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if err := e.receive(header); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(g.Context())
	defer cancel(nil)
	go e.expectNothing(cancel)
	err = s.config.Runner.Run(ctx, header, e)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return toStatus(err)
	}
	return nil
}

// toStatus tells the host whether another try makes sense, by the codes that
// agent.proto lists.
func toStatus(err error) error {
	var refused *job.RefusedError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	case errors.As(err, &refused), errors.Is(err, unix.ENOSPC):
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, err.Error())
}

// receive pins the inputs in the store and takes those from the host that are
// not there.
func (e *stream) receive(header *agentv1.ExecHeader) error {
	empty := blob.Key{Sum: emptySum}
	seen := make(map[blob.Key]bool)
	var missing []blob.Key
	var needed agentv1.Needed
	for _, in := range header.GetInputs() {
		if in.GetKind() != agentv1.Input_KIND_FILE {
			continue
		}
		k := blob.Key{Sum: [32]byte(in.GetDigest().GetSha256()), Size: in.GetDigest().GetSize()}
		if k.Size == 0 {
			if k != empty {
				return status.Errorf(codes.InvalidArgument, "input %s: no empty file has this digest", in.GetPath())
			}
			continue
		}
		if seen[k] {
			continue
		}
		seen[k] = true
		if e.store.Pin(k) {
			e.pinned = append(e.pinned, k)
			continue
		}
		missing = append(missing, k)
		needed.Blobs = append(needed.Blobs, in.GetDigest())
	}
	if err := e.Send(&agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Needed{Needed: &needed}}); err != nil {
		return err
	}
	for _, k := range missing {
		if err := e.receiveBlob(k); err != nil {
			return err
		}
		e.pinned = append(e.pinned, k)
	}
	return nil
}

// expectNothing ends the job if the host says more than it has to. It returns at
// the end of what the host says, or of the stream.
func (e *stream) expectNothing(end context.CancelCauseFunc) {
	if _, err := e.Recv(); err == nil {
		end(status.Error(codes.InvalidArgument, "a message after the last blob"))
	}
}

func (e *stream) receiveBlob(k blob.Key) error {
	w, err := e.store.Create(k)
	if err != nil {
		return blobStatus(err)
	}
	for w.Left() > 0 {
		m, err := e.Recv()
		if errors.Is(err, io.EOF) {
			err = status.Error(codes.InvalidArgument, "the host ended before it had sent all blobs")
		}
		if err != nil {
			w.Abort()
			return err
		}
		chunk := m.GetBlob()
		if len(chunk) == 0 || len(chunk) > agentv1.ChunkSize {
			w.Abort()
			return status.Errorf(codes.InvalidArgument, "a chunk of %d bytes", len(chunk))
		}
		if _, err := w.Write(chunk); err != nil {
			w.Abort()
			return blobStatus(err)
		}
	}
	return blobStatus(w.Commit())
}

func blobStatus(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, blob.ErrMismatch):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, blob.ErrFull), errors.Is(err, unix.ENOSPC):
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}

func (e *stream) unpin() {
	for _, k := range e.pinned {
		e.store.Unpin(k)
	}
}

// Stdio passes on what the job prints.
func (e *stream) Stdio(s agentv1.Stdio_Stream, data []byte) error {
	return e.Send(&agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Stdio{Stdio: &agentv1.Stdio{Stream: s, Data: data}}})
}

// Output passes on what the job left.
func (e *stream) Output(index int, data []byte) error {
	return e.Send(&agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Output{Output: &agentv1.OutputChunk{Output: uint32(index), Data: data}}})
}

// Ended tells what the job came to.
func (e *stream) Ended(result *agentv1.ExecResult, lookups []lookup.Lookup) error {
	if err := e.sendLookups(lookups); err != nil {
		return err
	}
	return e.Send(&agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Result{Result: result}})
}

// lookupsPerMessage and the longest path give less than MaxMessage.
const lookupsPerMessage = 2000

func (e *stream) sendLookups(all []lookup.Lookup) error {
	for len(all) > 0 {
		n := min(len(all), lookupsPerMessage)
		m := &agentv1.Lookups{Lookups: make([]*agentv1.Lookup, n)}
		for i, l := range all[:n] {
			m.Lookups[i] = &agentv1.Lookup{Path: []byte(l.Path), Found: agentv1.Lookup_Found(l.Found)}
		}
		if err := e.Send(&agentv1.ExecResponse{Kind: &agentv1.ExecResponse_Lookups{Lookups: m}}); err != nil {
			return fmt.Errorf("sending lookups: %w", err)
		}
		all = all[n:]
	}
	return nil
}
