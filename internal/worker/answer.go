package worker

import (
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"hpcc.dev/hpcc/internal/audit"
	"hpcc.dev/hpcc/internal/digest"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// answer is what a client is told of a job: of a hit, or of a run.
type answer struct {
	*record
	key digest.Key
	hit bool
	// exit, signal and limit are as in agentapi.Result; a hit's are zero.
	exit, signal   int
	limit          string
	uncached       bool
	stdout, stderr []byte
	outputs        []output
	time           time.Duration
	// stored says that there is a result, or that there will be one once the
	// client has accepted.
	stored bool
	// row is a run's, and fitted waits until it can be appended; both are for
	// appendOwn.
	row    *audit.Row
	fitted func() error
	// tier is the shared cache that had the result, and signer whose it is.
	tier, signer string
}

type output struct {
	role       string
	digest     digest.Digest
	executable bool
	data       *spool
}

func (a *answer) close() {
	for _, o := range a.outputs {
		o.data.close()
	}
}

// ended tells whether something ended the job before it was done. What it left is
// then nobody's.
func (a *answer) ended() bool { return a.signal != 0 || a.limit != "" }

// failed tells whether the job ran and did not succeed. One that was not ended has
// left what its program leaves behind when it fails: a dependency file, say.
func (a *answer) failed() bool { return a.exit != 0 || a.ended() }

// outcome names what became of the job, for counters.
func (a *answer) outcome() string {
	switch {
	case a.hit:
		return outcomeHit
	case a.limit != "":
		return outcomeLimit
	case a.failed():
		return outcomeFailed
	case a.uncached:
		return outcomeUncached
	case !a.stored:
		return outcomeUnstorable
	}
	return outcomeMiss
}

// checkHeld tells whether roles are outputs of the answer.
func (a *answer) checkHeld(roles []string) error {
	for i, role := range roles {
		if !slices.ContainsFunc(a.outputs, func(o output) bool { return o.role == role }) {
			return fmt.Errorf("an output of role %q is held, and there is none", clip(role))
		}
		if slices.Contains(roles[:i], role) {
			return fmt.Errorf("role %q appears twice", role)
		}
	}
	return nil
}

// message is the outcome of an answer.
func (a *answer) message() *workerv1.Outcome {
	m := &workerv1.Outcome{
		ActionKey: a.key[:], Hit: a.hit, ExitCode: int32(a.exit), Signal: int32(a.signal), Limit: a.limit,
		Stdout: a.stdout, Stderr: a.stderr, Found: byteSlices(a.found), Absent: byteSlices(a.absent),
		CompileNanos: a.time.Nanoseconds(), Stored: a.stored,
		Outputs: make([]*workerv1.OutputFile, len(a.outputs)),
	}
	for i, o := range a.outputs {
		m.Outputs[i] = &workerv1.OutputFile{Role: o.role, Digest: wireDigest(o.digest), Executable: o.executable}
	}
	return m
}

// byteSlices copies strings, which are thousands, into one array.
func byteSlices(list []string) [][]byte {
	n := 0
	for _, s := range list {
		n += len(s)
	}
	all, slices := make([]byte, 0, n), make([][]byte, len(list))
	for i, s := range list {
		begin := len(all)
		all = append(all, s...)
		slices[i] = all[begin:len(all):len(all)]
	}
	return slices
}

// sendOutcome sends the outcome. One that no message holds cannot be answered:
// without all absences the client cannot tell whether the result is right.
func (c *compile) sendOutcome(a *answer) error {
	m := &workerv1.CompileResponse{Kind: &workerv1.CompileResponse_Outcome{Outcome: a.message()}}
	if n := proto.Size(m); n > workerv1.MaxMessage {
		return failf(codes.FailedPrecondition, "what the job read, looked for and printed takes %d bytes to tell: run it without a worker", n)
	}
	return c.stream.Send(m)
}

// sendOutputs sends the outputs but for those that are held, and ends the compile.
func (c *compile) sendOutputs(a *answer, held []string, row uint64) error {
	buf := []byte(nil)
	for i, o := range a.outputs {
		if slices.Contains(held, o.role) {
			continue
		}
		if o.data.file == nil {
			// No copy: Send has serialised a chunk when it returns.
			for rest := o.data.mem; ; {
				n := min(len(rest), workerv1.ChunkSize)
				if err := c.sendChunk(i, rest[:n]); err != nil {
					return err
				}
				if rest = rest[n:]; len(rest) == 0 {
					break
				}
			}
			continue
		}
		if buf == nil {
			buf = make([]byte, workerv1.ChunkSize)
		}
		for r, left := o.data.reader(), o.data.size; left > 0; {
			n, err := io.ReadFull(r, buf[:min(left, workerv1.ChunkSize)])
			if err != nil {
				return fmt.Errorf("output of role %s: %w", o.role, err)
			}
			left -= int64(n)
			if err := c.sendChunk(i, buf[:n]); err != nil {
				return err
			}
		}
	}
	return c.stream.Send(&workerv1.CompileResponse{Kind: &workerv1.CompileResponse_Done{Done: &workerv1.Done{Worker: c.opt.Name, Row: row}}})
}

func (c *compile) sendChunk(output int, data []byte) error {
	c.metrics.bytes.Add(float64(len(data)), c.task.Tenant, toClient)
	return c.stream.Send(&workerv1.CompileResponse{Kind: &workerv1.CompileResponse_Output{Output: &workerv1.OutputChunk{Output: uint32(output), Data: data}}})
}
