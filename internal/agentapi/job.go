package agentapi

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"time"

	"hpcc.dev/hpcc/internal/digest"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// Job is one command with all that it may read of the client's. Its text must be
// UTF-8, see ErrNotUTF8.
type Job struct {
	// Argv is the program, by absolute path or found in PATH of Env, and its
	// arguments.
	Argv []string
	// Env is the whole environment, NAME=VALUE.
	Env []string
	// Cwd is absolute and clean; it is made if it lies below a root.
	Cwd string
	// Inputs are what lies below Roots when the job starts, in any order.
	// Directories that paths pass through need not be listed.
	Inputs []Input
	// Outputs are files to return if the job leaves them. Their directories are
	// not made: a compiler complains about a missing one.
	Outputs []string
	// Roots are directories whose content is the client's alone; what lies
	// elsewhere is the image's. None lies below another, and the image has
	// nothing there. Lookups below them are recorded.
	Roots  []string
	Limits Limits
}

// Kind is what an input is.
type Kind int

const (
	File Kind = iota + 1
	Symlink
	Directory
)

// Input is one name below a root.
type Input struct {
	Path string // absolute, clean, through no symbolic link
	Kind Kind
	// Digest of a file. The same digest may stand at many paths: each becomes an
	// inode of its own.
	Digest digest.Digest
	Mode   fs.FileMode // permission bits of a file or directory
	// ModTime of whatever it is; nanoseconds are kept.
	ModTime time.Time
	Target  string // of a symbolic link
}

// Limits bound a job; zeros are the agent's defaults, which stand with the
// maxima in package agentv1. A job that passes one is ended, and Result.Limit
// tells, whichever of its processes it was: a child's failure that its parent
// swallowed is none of a limit.
type Limits struct {
	MemoryBytes int64 // of all processes and files
	Processes   int   // at a time, threads included
	FileBytes   int64 // of one output
	DiskBytes   int64 // of all files, inputs included
	StdioBytes  int64 // stdout and stderr together
	Time        time.Duration
}

// Blobs is where the inputs' bytes come from. Open is called for those alone
// that the agent lacks, one after the other, each at most once in an Exec.
type Blobs interface {
	Open(ctx context.Context, d digest.Digest) (io.ReadCloser, error)
}

// Sinks take what a job prints and leaves, as it comes: from one goroutine,
// never at once. A nil writer or function discards.
//
// What is written to them is not yet verified: it counts once Exec has returned
// no error. A slow sink slows the job.
type Sinks struct {
	Stdout, Stderr io.Writer
	// Output is called once for each output that is there, in Job.Outputs' order,
	// before its bytes; the one before is complete then.
	Output func(path string) (io.Writer, error)
}

// Result is how a job that ran ended.
type Result struct {
	ExitCode int
	Signal   int // that ended the first process; ExitCode is then 0
	// Limit is a limit that was hit, or "". What the job left is then not what
	// it would have left: it must not be stored.
	Limit   Limit
	Usage   Usage
	Outputs []Output // those that are there, in Job.Outputs' order
	// Lookups are all names at or below a root that the job looked up, each
	// once, in the order of their first lookup.
	Lookups []Lookup
	// LookupsTruncated says that there were more than are recorded: the inputs
	// of the job are then not known.
	LookupsTruncated bool
	// Sent is what crossed for this job: blobs that the agent lacked.
	Sent Sent
}

// Sent counts blobs.
type Sent struct {
	Blobs int
	Bytes int64
}

// Limit names a limit of a job.
type Limit string

const (
	LimitMemory    Limit = "memory"
	LimitProcesses Limit = "processes"
	LimitFile      Limit = "file size"
	LimitDisk      Limit = "disk"
	LimitStdio     Limit = "output on stdout and stderr"
	LimitTime      Limit = "time"
)

// Usage is of the job's first process and what it waited for.
type Usage struct {
	User, System, Wall time.Duration
	MaxRSS             int64 // bytes
}

// Output is a file that a job left. Digest is verified.
type Output struct {
	Path   string
	Digest digest.Digest
	Mode   fs.FileMode
}

// Found is what a lookup met.
type Found int

const (
	Absent Found = iota + 1
	FoundFile
	FoundDirectory
	FoundSymlink
	FoundOther
)

func (f Found) String() string {
	switch f {
	case Absent:
		return "absent"
	case FoundFile:
		return "file"
	case FoundDirectory:
		return "directory"
	case FoundSymlink:
		return "symlink"
	}
	return "other"
}

// Lookup is a name that the job looked up. Links on the way are followed: each
// is a lookup of its own, and Path lies behind them. Found is what was there
// when the job looked first: an output that it made itself is absent.
type Lookup struct {
	Path  string
	Found Found
}

// RefusedError says that the agent did not take the job: the job is malformed,
// or the image or the machine cannot serve it. Another try ends the same.
type RefusedError struct {
	Reason string
	err    error // what this side found wrong, if it did
}

func (e *RefusedError) Error() string { return "the agent refuses the job: " + e.Reason }
func (e *RefusedError) Unwrap() error { return e.err }

// ErrNotUTF8 is wrapped by a RefusedError if an argument, a variable, a name or a
// link's target of the job is no UTF-8: Linux takes it, and the messages cannot
// carry it. Such a job has to be run without a machine.
var ErrNotUTF8 = agentv1.ErrNotUTF8

// GuestError says that the guest broke the contract. Kill its machine.
type GuestError struct{ Reason string }

func (e *GuestError) Error() string { return "the guest breaks the contract: " + e.Reason }

// LostError says that the connection ended before the result: the machine
// crashed, was stopped, or its agent failed. The job may be tried elsewhere.
type LostError struct{ Err error }

func (e *LostError) Error() string { return fmt.Sprintf("the machine's agent is gone: %v", e.Err) }
func (e *LostError) Unwrap() error { return e.Err }

// SourceError says that a blob that the agent needs could not be read.
type SourceError struct {
	Digest digest.Digest
	Err    error
}

func (e *SourceError) Error() string { return fmt.Sprintf("input %s: %v", e.Digest, e.Err) }
func (e *SourceError) Unwrap() error { return e.Err }

// SinkError says that what the job printed or left could not be taken.
type SinkError struct{ Err error }

func (e *SinkError) Error() string { return fmt.Sprintf("taking what the job left: %v", e.Err) }
func (e *SinkError) Unwrap() error { return e.Err }

// header translates a job. It is not checked yet.
func (j *Job) header() *agentv1.ExecHeader {
	h := &agentv1.ExecHeader{
		Argv: j.Argv, Env: j.Env, Cwd: j.Cwd, Outputs: j.Outputs, Roots: j.Roots,
		Inputs: make([]*agentv1.Input, len(j.Inputs)),
		Limits: &agentv1.Limits{
			MemoryBytes: uint64(max(0, j.Limits.MemoryBytes)), Processes: uint32(max(0, j.Limits.Processes)),
			FileBytes: uint64(max(0, j.Limits.FileBytes)), DiskBytes: uint64(max(0, j.Limits.DiskBytes)),
			StdioBytes: uint64(max(0, j.Limits.StdioBytes)), TimeMillis: uint64(max(0, (j.Limits.Time + time.Millisecond - 1).Milliseconds())),
		},
	}
	for i, in := range j.Inputs {
		m := &agentv1.Input{Path: in.Path, Kind: agentv1.Input_Kind(in.Kind), Mtime: in.ModTime.UnixNano()}
		switch in.Kind {
		case File:
			m.Digest, m.Mode = wire(in.Digest), uint32(in.Mode.Perm())
		case Directory:
			m.Mode = uint32(in.Mode.Perm())
		case Symlink:
			m.Target = in.Target
		}
		h.Inputs[i] = m
	}
	return h
}

func wire(d digest.Digest) *agentv1.Digest {
	sum := d.Sum()
	return &agentv1.Digest{Sha256: sum[:], Size: d.Size()}
}
