package worker

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	_ "hpcc.dev/hpcc/internal/wirezip" // for clients that ask for it
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

const (
	// maxStreamsOfOne bounds the streams of one connection: a laptop has one, and
	// make -j has no more jobs.
	maxStreamsOfOne = 1024
	// pingAfter and pingTimeout find clients that went without a word: their
	// compiles end.
	pingAfter   = 20 * time.Second
	pingTimeout = 10 * time.Second
	// pingLeast is how often a client may ask whether the worker lives.
	pingLeast = 5 * time.Second
	// handshake bounds how long a connection may take to say who it is.
	handshake = 10 * time.Second
)

// transportOptions bound what a connection can make the worker hold.
func transportOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(workerv1.MaxMessage), grpc.MaxSendMsgSize(workerv1.MaxMessage),
		grpc.MaxConcurrentStreams(maxStreamsOfOne), grpc.ConnectionTimeout(handshake),
		grpc.InitialWindowSize(1 << 20), grpc.InitialConnWindowSize(8 << 20),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingLeast}),
	}
}
