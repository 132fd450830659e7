package server

import (
	"context"
	"io"
	"os"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"hpcc.dev/hpcc/agent/internal/blob"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// conversation is a stream on which a host says any messages: each is its length
// in two bytes, then its bytes.
type conversation struct {
	grpc.ServerStream
	ctx  context.Context
	says []byte
}

func (c *conversation) Context() context.Context { return c.ctx }

func (c *conversation) Recv() (*agentv1.ExecRequest, error) {
	if len(c.says) < 2 {
		return nil, io.EOF
	}
	n := min(int(c.says[0])<<8|int(c.says[1]), len(c.says)-2)
	m := new(agentv1.ExecRequest)
	err := proto.Unmarshal(c.says[2:2+n], m)
	c.says = c.says[2+n:]
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return m, nil
}

func (c *conversation) Send(*agentv1.ExecResponse) error { return nil }

// FuzzExec says anything to the agent. It ends, with a status; a job is run only
// with a checked header and right inputs (inspector sees to that); and what is
// left is in the store, within its limit, and in nobody's use.
func FuzzExec(f *testing.F) {
	for _, says := range [][]*agentv1.ExecRequest{
		{first(header())}, {first(header("a", "b", "")), chunk("a"), chunk("b")}, {first(header("abc")), chunk("a"), chunk("bc")},
		{chunk("x")}, {{}}, {first(header("x")), chunk("y")}, {first(header("x")), chunk("xx")}, {first(header("x")), first(header("x"))},
		{first(header("x")), chunk("x"), chunk("more")},
	} {
		var b []byte
		for _, m := range says {
			wire, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			b = append(append(b, byte(len(wire)>>8), byte(len(wire))), wire...)
		}
		f.Add(b)
	}
	const limit = 1000
	f.Fuzz(func(t *testing.T, says []byte) {
		dir := t.TempDir()
		store, err := blob.New(dir+"/blobs", limit)
		if err != nil {
			t.Fatal(err)
		}
		runner := &inspector{t: t, store: store}
		s := &Server{config: Config{Store: store, Runner: runner}}
		err = s.Exec(&conversation{ctx: t.Context(), says: says})
		if _, ok := status.FromError(err); !ok {
			t.Errorf("ended with %v", err)
		}
		if runner.runs > 1 || err == nil && runner.runs == 0 {
			t.Errorf("ran %d times: %v", runner.runs, err)
		}
		if used := store.Used(); used < 0 || used > limit {
			t.Errorf("%d bytes are kept", used)
		}
		// Only an empty store has room for all: nothing is pinned.
		w, err := store.Create(blob.Key{Size: limit})
		if err != nil {
			t.Fatalf("something is still in use: %v", err)
		}
		w.Abort()
		for where, want := range map[string]int{dir: 1, dir + "/blobs": 0} {
			if all, err := os.ReadDir(where); err != nil || len(all) != want {
				t.Errorf("%s has %v, %v", where, all, err)
			}
		}
	})
}
