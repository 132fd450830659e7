package job

import (
	"errors"
	"sync"
	"time"

	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// hit notes a limit that was hit, the first of them.
func (j *run) hit(l agentv1.ExecResult_Limit) {
	j.limit.CompareAndSwap(0, int32(l))
}

// endless is the size of a job's file system, and a million files less: what a
// job may use of it is not what there is, see watch.
const endless = 1 << 50

// spare is what a job without a control group can write beyond its limit before
// it is noticed.
const spare = 1 << 30

// maxInodes bounds the files of a job: twice the inputs that a header may have.
// Each costs memory that is no block's: half a kilobyte and more.
const maxInodes = 120_000

// errNoRoom says that the inputs alone are more than the limit of the disk.
var errNoRoom = errors.New("the inputs are more than the limit of the job's disk")

// fits tells before they are written whether the inputs keep to the limit.
func (j *run) fits() error {
	const block = 4096
	left := j.header.GetLimits().GetDiskBytes()
	for _, in := range j.header.GetInputs() {
		need := uint64(in.GetDigest().GetSize()+block-1) &^ (block - 1)
		if need > left {
			return errNoRoom
		}
		left -= need
	}
	return nil
}

// look is the time between two looks at what a job uses.
const look = 100 * time.Millisecond

// watch ends the job at its limits.
//
// No limit is only an error that a program of the job sees: its parent may print
// that, or swallow it, and exit as for any other, and nobody could tell what the
// job left from what it would have left. So the disk's limits are found by
// looking. A job can use more for a moment, and has then worked as it would
// without a limit; what bounds that moment is the control group's limit of
// memory, which files count for as well. That one, and the number of processes,
// the kernel enforces, and counts each process that it killed or refused.
func (j *run) watch(begin time.Time) (stop func()) {
	l := j.header.GetLimits()
	timer := time.AfterFunc(time.Until(begin.Add(time.Duration(l.GetTimeMillis())*time.Millisecond)), func() {
		j.hit(agentv1.ExecResult_LIMIT_TIME)
		j.kill()
	})
	done := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(look)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				// An error comes again at the end.
				if _ = j.countLimits(); j.limit.Load() != 0 {
					j.kill()
					return
				}
			case <-done:
				return
			}
		}
	})
	return func() {
		timer.Stop()
		close(done)
		looking.Wait()
	}
}

// overDisk tells whether the job's file system holds more than it may.
func (j *run) overDisk() bool {
	bytes, files := j.tree.disk()
	return bytes > j.header.GetLimits().GetDiskBytes() || files > maxInodes
}

// overFile tells whether an output is larger than it may be, or all together
// are. Other files are bounded by the disk alone.
func (j *run) overFile() bool {
	total := uint64(0)
	for _, p := range j.header.GetOutputs() {
		size := j.tree.outputSize(p)
		total += min(size, agentv1.MaxOutputBytes+1)
		if size > j.header.GetLimits().GetFileBytes() || total > agentv1.MaxOutputBytes {
			return true
		}
	}
	return false
}

// countLimits notes the limits that the job has passed until now.
func (j *run) countLimits() error {
	for _, e := range []struct {
		file, key string
		limit     agentv1.ExecResult_Limit
	}{
		// Processes killed, even if it was for want of memory in all the machine;
		// and calls that were about to fail, whoever was killed for it.
		{"memory.events", "oom_kill", agentv1.ExecResult_LIMIT_MEMORY},
		{"memory.events", "oom", agentv1.ExecResult_LIMIT_MEMORY},
		{"pids.events", "max", agentv1.ExecResult_LIMIT_PROCESSES},
	} {
		n, err := j.group.event(e.file, e.key)
		if err != nil {
			return err
		}
		if n > 0 {
			j.hit(e.limit)
		}
	}
	if j.overFile() {
		j.hit(agentv1.ExecResult_LIMIT_FILE)
	}
	if j.overDisk() {
		j.hit(agentv1.ExecResult_LIMIT_DISK)
	}
	return nil
}
