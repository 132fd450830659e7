package worker

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/digest"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// script is a stream whose client says what bytes tell it to, whatever it hears.
type script struct {
	grpc.ServerStream
	ctx context.Context

	mu   sync.Mutex
	next []byte
	sent []*workerv1.CompileResponse
}

func (s *script) Context() context.Context { return s.ctx }

func (s *script) Send(m *workerv1.CompileResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, m)
	return nil
}

func (s *script) byte() byte {
	if len(s.next) == 0 {
		return 0
	}
	b := s.next[0]
	s.next = s.next[1:]
	return b
}

func (s *script) Recv() (*workerv1.CompileRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.next) == 0 {
		return nil, io.EOF
	}
	switch s.byte() % 8 {
	case 0, 1, 2:
		return &workerv1.CompileRequest{Kind: &workerv1.CompileRequest_Job{Job: s.job()}}, nil
	case 3, 4, 5:
		contents := []string{"int a;", "", "int b;", "int a; and more"}
		b := contents[s.byte()%4]
		return &workerv1.CompileRequest{Kind: &workerv1.CompileRequest_Blob{Blob: &workerv1.Blob{Data: []byte(b)}}}, nil
	case 6:
		a := &workerv1.Accept{}
		if s.byte()%4 == 0 {
			a.Held = []string{"object", "x"}[:1+s.byte()%2]
		}
		return &workerv1.CompileRequest{Kind: &workerv1.CompileRequest_Accept{Accept: a}}, nil
	}
	return &workerv1.CompileRequest{}, nil
}

// job is a good one, mostly.
func (s *script) job() *workerv1.Job {
	files := []map[string]string{{"a.c": "int a;"}, {"a.c": "int b;", "b.h": ""}, {"a.c": "int a;", "b.h": "int b;"}}
	j := newJob(files[s.byte()%3])
	switch s.byte() % 16 {
	case 0:
		j.Uncached = true
	case 1:
		j.Outputs[0].Path = "/etc/passwd"
	case 2:
		j.Inputs[0].Path = "/hpcc/src/../x"
	case 3:
		j.Inputs[0].Digest = &agentv1.Digest{Sha256: []byte{1}, Size: -1}
	case 4:
		j.Image = otherImage
	case 5:
		j.Roots = []string{"/usr"}
	case 6:
		return nil
	case 7:
		j.Inputs = append(j.Inputs, nil)
	case 8:
		j.Outputs = append(j.Outputs, nil)
	case 10:
		j.Patches = []*workerv1.Patch{patchOf(0, "int b;", "int a;")}
	case 11:
		j.Patches = []*workerv1.Patch{patchOf(0, "int a;", "int b;")}
	case 12:
		p := patchOf(uint32(s.byte()%4), "int a;", "int b;")
		n := min(int(s.byte()), len(s.next))
		p.Data, s.next = s.next[:n], s.next[n:]
		j.Patches = []*workerv1.Patch{p}
	case 13:
		j.Patches = []*workerv1.Patch{{Base: &agentv1.Digest{Sha256: []byte{1}, Size: -1}}, nil}
	}
	return j
}

// FuzzCompileStream has clients say anything in any order, to machines that do
// anything: each stream ends with a code of the contract, all that was held is
// given back, and nothing is stored but what was accepted.
func FuzzCompileStream(f *testing.F) {
	f.Add([]byte{0, 0, 9, 3, 0, 6, 1}, byte(0))
	f.Add([]byte{0, 2, 9, 3, 0, 3, 2, 6, 1, 0, 2, 9, 3, 0}, byte(0))
	f.Add([]byte{0, 0, 9, 3, 0, 0, 2, 9, 3, 2, 6, 0, 0}, byte(0))
	f.Add([]byte{0, 0, 9, 3, 1, 7}, byte(1))
	// int a; goes up, then int b; as a patch to it; and one that is none.
	f.Add([]byte{0, 0, 9, 3, 0, 0, 1, 11, 3, 1, 6, 1}, byte(0))
	f.Add([]byte{0, 0, 9, 3, 0, 0, 1, 12, 0, 7, 0x28, 0xb5, 0x2f, 0xfd, 0x20, 6, 0, 3, 1, 6, 1}, byte(0))
	f.Add([]byte{0, 0, 0, 3, 0, 6, 1}, byte(2))
	for machine := range byte(8) {
		f.Add([]byte{0, 0, 9, 3, 0, 6, 1}, machine)
	}
	f.Fuzz(func(t *testing.T, says []byte, machine byte) {
		if len(says) > 500 {
			return
		}
		machines := &fake{exec: func(ctx context.Context, run int, job agentapi.Job, blobs agentapi.Blobs, sinks agentapi.Sinks) (*agentapi.Result, error) {
			switch machine % 8 {
			case 1:
				return nil, &agentapi.GuestError{Reason: "it lies"}
			case 2:
				return nil, &agentapi.LostError{Err: errors.New("gone")}
			case 3:
				return nil, &agentapi.RefusedError{Reason: "no"}
			}
			r, err := compiler(ctx, run, job, blobs, sinks)
			if err != nil {
				return nil, err
			}
			switch machine % 8 {
			case 4:
				r.ExitCode = 1
			case 5:
				r.Lookups = append(r.Lookups, agentapi.Lookup{Path: "/hpcc/src/x", Found: agentapi.Found(1 + machine/8%5)})
			case 6:
				r.LookupsTruncated = true
			case 7:
				r.Outputs = nil
			}
			return r, nil
		}}
		log := &rows{}
		s, err := New(Options{Name: "w1", Dir: t.TempDir(), Verifier: tokens{}, Machines: machines, Images: images{}, Audit: log})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer acme")))
		stream := &script{ctx: ctx, next: says}
		err = s.Compile(stream)
		cancel() // as gRPC does
		switch code := status.Code(err); code {
		case codes.OK, codes.InvalidArgument, codes.PermissionDenied, codes.Unavailable, codes.FailedPrecondition, codes.DataLoss, codes.Canceled:
		default:
			t.Errorf("%v", err)
		}
		if runs, leases, _ := machines.count(); leases != 0 || s.Streams() != 0 || s.memory.spooled.Load() != 0 || len(s.flights.running) != 0 || runs > 2*(workerv1.MaxAttempts+1) {
			t.Errorf("%d runs, %d leases, %d streams, %d bytes, %d flights", runs, leases, s.Streams(), s.memory.spooled.Load(), len(s.flights.running))
		}
		// Results are of rows that say accepted, and of nothing else.
		accepted := map[digest.Key]bool{}
		for _, row := range log.all() {
			accepted[digest.Key(row.Action)] = accepted[digest.Key(row.Action)] || row.Accepted && row.Exit == 0 && row.Error == ""
		}
		stored := (&rig{Service: s}).storedKeys(t, "acme")
		for _, key := range stored {
			if !accepted[key] {
				t.Errorf("%s is stored, and nobody accepted it", key)
			}
		}
		// Outputs and ends come after rows.
		done := 0
		for _, m := range stream.sent {
			if m.GetDone() != nil {
				done++
			}
		}
		if done > len(log.all()) {
			t.Errorf("%d answers, %d rows", done, len(log.all()))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
