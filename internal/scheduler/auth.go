package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/auth"
	schedulerv1 "hpcc.dev/hpcc/proto/hpcc/scheduler/v1"
)

// allowed says who may call what. A method that is not here is nobody's, but for
// those of the health service, which are everybody's.
var allowed = map[string][]auth.Role{
	schedulerv1.SchedulerService_Route_FullMethodName:    {auth.Client},
	schedulerv1.RegistryService_Heartbeat_FullMethodName: {auth.Worker},
	schedulerv1.RegistryService_Workers_FullMethodName:   {auth.Worker, auth.Operator},
}

type identityKey struct{}

// caller is who makes a call that authenticate let through.
func caller(ctx context.Context) auth.Identity {
	id, _ := ctx.Value(identityKey{}).(auth.Identity)
	return id
}

// authenticate is the interceptor that tells who calls, before anything of the
// call is looked at.
func (s *Scheduler) authenticate(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	roles, known := allowed[info.FullMethod]
	if !known {
		if info.FullMethod == healthCheck || info.FullMethod == healthList {
			return handler(ctx, req)
		}
		return nil, status.Error(codes.Unimplemented, "no such method")
	}
	id, err := s.identify(ctx)
	if err != nil {
		s.refuse(ctx, "credential-refused", err.Error())
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	for _, r := range roles {
		if id.Role == r {
			return handler(context.WithValue(ctx, identityKey{}, id), req)
		}
	}
	s.refuse(ctx, "role-refused", info.FullMethod, slog.String("subject", id.Subject), slog.String("role", string(id.Role)))
	return nil, status.Errorf(codes.PermissionDenied, "a credential of a %s does not allow this", id.Role)
}

// noStreams refuses streams: the scheduler has none, and the health service's
// Watch would let strangers hold some for ever.
func noStreams(any, grpc.ServerStream, *grpc.StreamServerInfo, grpc.StreamHandler) error {
	return status.Error(codes.Unimplemented, "no such method")
}

func (s *Scheduler) identify(ctx context.Context) (auth.Identity, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) > 1 {
		return auth.Identity{}, errors.New("more than one credential was sent")
	}
	if len(values) == 0 {
		return auth.Identity{}, auth.ErrNoCredential
	}
	credential, err := auth.Bearer(values[0])
	if err != nil {
		return auth.Identity{}, err
	}
	return s.credentials.Load().Authenticate(credential)
}

// refuse logs and counts a security event. Its name is stable: people search for
// it, and machines watch it.
func (s *Scheduler) refuse(ctx context.Context, event, reason string, attrs ...slog.Attr) {
	s.metrics.refusals.Inc(event)
	from := ""
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
	}
	if skipped, ok := s.pace.take(time.Now()); ok {
		attrs = append(attrs, slog.String("event", event), slog.String("reason", reason), slog.String("from", from))
		if skipped > 0 {
			attrs = append(attrs, slog.Int("not_logged", skipped))
		}
		s.log.LogAttrs(ctx, slog.LevelWarn, "refused", attrs...)
	}
}

// pace bounds what strangers can write into the log: perSecond records, and how
// many there were besides.
type pace struct {
	mu      sync.Mutex
	second  int64
	n       int
	skipped int
}

const perSecond = 10

func (p *pace) take(now time.Time) (skipped int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := now.Unix(); s != p.second {
		p.second, p.n = s, 0
	}
	if p.n >= perSecond {
		p.skipped++
		return 0, false
	}
	p.n++
	skipped, p.skipped = p.skipped, 0
	return skipped, true
}
