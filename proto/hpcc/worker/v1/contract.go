package workerv1

import "time"

// What client and worker have agreed on beyond the messages.
const (
	// MaxMessage bounds one message: a job with 50,000 inputs fits.
	MaxMessage = 16 << 20
	// ChunkSize is how many bytes of a blob or an output one message carries at
	// most. Compression is by message, and gains little on shorter ones.
	ChunkSize = 256 << 10
	// MaxPatches bounds the patches of a job, MaxPatchBytes their bytes, and
	// MaxPatched those of their bases and of what they stand for, each together: few
	// are needed in vain, and what a worker does for them is little.
	MaxPatches    = 64
	MaxPatchBytes = 64 << 10
	MaxPatched    = 16 << 20
	// MaxAttempts bounds how often a client may send its job again in one
	// stream. Each adds at least one name that the job had looked for in vain.
	MaxAttempts = 16
	// MaxDescribe bounds the paths of one Describe.
	MaxDescribe = 1000
	// MaxStdio bounds stdout and stderr together.
	MaxStdio = 4 << 20
	MaxRole  = 64

	// PingAfter is how long a connection with calls on it is silent before a client
	// asks by a ping whether its worker is still there. A server has to allow for
	// that (keepalive.EnforcementPolicy): by default, gRPC's ends the connection
	// of a client that pings more often than every five minutes.
	PingAfter = 10 * time.Second

	// OutputRoot is a root for outputs alone: a job that has it may have no input
	// at or below it. It holds nothing that the client could have, so that what
	// the job looks up there is neither found nor absent.
	OutputRoot = "/hpcc/out"
)

// Environment is what every job's environment begins with; a job's own
// variables come behind it and may not name these. Nothing of the client's or
// the worker's own environment reaches a job.
var Environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"LC_ALL=C.UTF-8",
	"TZ=UTC",
	"HOME=/nonexistent",
}
