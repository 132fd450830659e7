package job

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/agent/internal/lookup"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// tell says what the job came to.
func (j *run) tell(result *agentv1.ExecResult, recorder *lookup.Recorder) error {
	lookups, truncated := recorder.Lookups()
	result.LookupsTruncated = truncated
	return j.sink.Ended(result, lookups)
}

// read passes on what the job prints, up to the limit.
func (j *run) read(f *os.File, stream agentv1.Stdio_Stream) {
	defer f.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := f.Read(buf)
		if n > 0 && !j.print(stream, buf[:n]) {
			j.kill()
			return
		}
		if err != nil {
			return
		}
	}
}

func (j *run) print(stream agentv1.Stdio_Stream, p []byte) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return false
	}
	left := j.header.GetLimits().GetStdioBytes() - j.stdio
	over := uint64(len(p)) > left
	if over {
		j.hit(agentv1.ExecResult_LIMIT_STDIO)
		p = p[:left]
	}
	j.stdio += uint64(len(p))
	if len(p) > 0 {
		if err := j.sink.Stdio(stream, p); err != nil {
			j.err = err
			return false
		}
	}
	return !over
}

func (j *run) exited(result *agentv1.ExecResult, e *exited) {
	status := unix.WaitStatus(e.Status)
	if status.Signaled() {
		result.Signal = int32(status.Signal())
	} else {
		result.ExitCode = int32(status.ExitStatus())
	}
	setUsage(result.Usage, e.Rusage.Utime.Nano(), e.Rusage.Stime.Nano(), e.Rusage.Maxrss)
}

func setUsage(u *agentv1.Usage, user, system, maxRSS int64) {
	u.UserMicros, u.SystemMicros, u.MaxRssBytes = user/1000, system/1000, maxRSS<<10
}

// outputs sends the outputs that are there. All of the job's processes are dead,
// and no limit was passed.
func (j *run) outputs(result *agentv1.ExecResult) error {
	buf := make([]byte, agentv1.ChunkSize)
	for i, p := range j.header.GetOutputs() {
		f, st, err := j.tree.output(p)
		if err != nil {
			return err
		}
		if f == nil {
			continue
		}
		h := sha256.New()
		size := int64(0)
		for {
			n, err := io.ReadFull(f, buf)
			if n > 0 || size == 0 {
				h.Write(buf[:n])
				size += int64(n)
				if err := j.sink.Output(i, buf[:n]); err != nil {
					f.Close()
					return err
				}
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				break
			} else if err != nil {
				f.Close()
				return fmt.Errorf("output %s: %w", p, err)
			}
		}
		f.Close()
		result.Outputs = append(result.Outputs, &agentv1.OutputFile{
			Output: uint32(i), Mode: uint32(st.Mode().Perm()),
			Digest: &agentv1.Digest{Sha256: h.Sum(nil), Size: size},
		})
	}
	return nil
}
