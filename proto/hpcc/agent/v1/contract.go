package agentv1

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// What host and guest have agreed on beyond the messages. Both modules use this
// file, so that neither has a copy that can fall behind.
const (
	// APIVersion is raised when an old agent would misunderstand a new host, or
	// the other way round. Snapshots hold a running agent, so the two can meet.
	APIVersion = 1

	// Port is the vsock port that the agent listens on, for CID 2 (the host)
	// alone.
	Port = 1024

	// HostCID is VMADDR_CID_HOST of linux/vm_sockets.h.
	HostCID = 2
)

// Boot arguments that the agent reads from /proc/cmdline.
const (
	// BootRoot names the block device with the root of jobs: /dev/vda, or
	// /dev/dm-0 where dm-mod.create= makes a verity device of it. Required: a
	// machine without a root powers off.
	BootRoot = "hpcc.root"
	// BootStore is the limit of the blob store, in bytes. Default: a quarter of
	// the machine's memory.
	BootStore = "hpcc.store"
)

// ModuleList is the file of the initramfs that lists kernel modules in the order
// in which the agent loads them: one path in the initramfs a line.
const ModuleList = "/lib/modules/hpcc.list"

// Hostname is what jobs see, in every machine.
const Hostname = "hpcc"

// Limits of messages and of what they describe. Whoever receives something
// larger refuses it.
const (
	// MaxMessage bounds one message. A header with MaxInputs inputs of ordinary
	// length fits: 50,000 times some 150 bytes.
	MaxMessage = 16 << 20
	// ChunkSize is how many bytes of a blob, of stdio or of an output one
	// message carries at most. Larger ones were faster over vsock in no
	// measurement that mattered and hold more memory.
	ChunkSize = 256 << 10

	MaxPath    = 4095 // PATH_MAX of linux/limits.h, less the NUL
	MaxName    = 255  // NAME_MAX
	MaxArgs    = 32768
	MaxArg     = 128<<10 - 1 // MAX_ARG_STRLEN of execve(2), less the NUL
	MaxEnv     = 1024
	MaxInputs  = 50_000
	MaxOutputs = 64
	MaxRoots   = 16

	// MaxInputBytes bounds all inputs of a job together.
	MaxInputBytes = 1 << 30
	// MaxOutputBytes bounds all outputs of a job together.
	MaxOutputBytes = 1 << 30

	// MaxLookups and MaxLookupBytes bound what is recorded of one job. A heavy
	// C++ unit makes some 1,200.
	MaxLookups     = 100_000
	MaxLookupBytes = 16 << 20
)

// Defaults and maxima of Limits; see Limits.Fill.
const (
	DefaultMemory    = 2 << 30
	DefaultProcesses = 128
	DefaultFile      = 512 << 20
	DefaultDisk      = 1 << 30
	DefaultStdio     = 16 << 20
	DefaultTime      = 10 * time.Minute

	MaxMemory    = 1 << 40
	MaxProcesses = 4096
	MaxFile      = MaxOutputBytes
	MaxDisk      = 4 << 30
	MaxStdio     = 64 << 20
	MaxTime      = 2 * time.Hour
)

// Fill puts defaults in the place of zeros, and refuses what is above a maximum.
func (l *Limits) Fill() error {
	for _, f := range []struct {
		name           string
		value          *uint64
		fallback, most uint64
	}{
		{"memory", &l.MemoryBytes, DefaultMemory, MaxMemory},
		{"file", &l.FileBytes, DefaultFile, MaxFile},
		{"disk", &l.DiskBytes, DefaultDisk, MaxDisk},
		{"stdio", &l.StdioBytes, DefaultStdio, MaxStdio},
		{"time", &l.TimeMillis, uint64(DefaultTime.Milliseconds()), uint64(MaxTime.Milliseconds())},
	} {
		if *f.value == 0 {
			*f.value = f.fallback
		}
		if *f.value > f.most {
			return fmt.Errorf("limit of %s: %d is more than %d", f.name, *f.value, f.most)
		}
	}
	if l.Processes == 0 {
		l.Processes = DefaultProcesses
	}
	if l.Processes > MaxProcesses {
		return fmt.Errorf("limit of processes: %d is more than %d", l.Processes, MaxProcesses)
	}
	return nil
}

// ErrNotUTF8 says that a header holds a string that is no UTF-8: an argument, a
// variable, a name or a link's target. Linux takes any bytes there, protobuf's
// strings do not, and a compile with such a name is rare enough to be run where
// it was started. (Names that a job looks up are bytes: any of them is recorded.)
var ErrNotUTF8 = errors.New("no UTF-8, which a message cannot carry")

// CheckPath tells whether p is absolute, clean and of a length that Linux takes.
func CheckPath(p string) error {
	switch {
	case len(p) > MaxPath:
		return errors.New("path is too long")
	case strings.IndexByte(p, 0) >= 0:
		return fmt.Errorf("path %q holds a NUL", p)
	case !path.IsAbs(p) || path.Clean(p) != p:
		return fmt.Errorf("path %q is not absolute and clean", p)
	}
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > MaxName {
			return fmt.Errorf("a name in a path is longer than %d bytes", MaxName)
		}
	}
	return nil
}

// RootOf returns which of roots a clean path lies at or below, or "".
func RootOf(roots []string, p string) string {
	for _, r := range roots {
		if p == r || strings.HasPrefix(p, r) && p[len(r)] == '/' {
			return r
		}
	}
	return ""
}

// Check tells whether a header keeps to the contract: counts, lengths, paths
// that are clean and beneath the roots, no path twice, all text UTF-8 (else the
// error wraps ErrNotUTF8). Both sides call it: the host to fail early with a
// message, the agent because it does not believe the host. It does not look at
// any file.
func (h *ExecHeader) Check() error {
	if err := checkStrings("argument", h.GetArgv(), MaxArgs); err != nil {
		return err
	}
	if len(h.GetArgv()) == 0 || h.GetArgv()[0] == "" {
		return errors.New("no program")
	}
	if err := checkStrings("environment variable", h.GetEnv(), MaxEnv); err != nil {
		return err
	}
	for _, e := range h.GetEnv() {
		if strings.IndexByte(e, '=') < 1 {
			return fmt.Errorf("environment variable %q has no name or no value", clip(e))
		}
	}
	if len(h.GetRoots()) > MaxRoots {
		return fmt.Errorf("%d project roots, more than %d", len(h.GetRoots()), MaxRoots)
	}
	for i, r := range h.GetRoots() {
		if err := checkName(r); err != nil {
			return fmt.Errorf("project root: %w", err)
		}
		if r == "/" || RootOf([]string{"/proc", "/dev", "/sys"}, r) != "" {
			return fmt.Errorf("project root %q is the system's", r)
		}
		for j, other := range h.GetRoots() {
			if i != j && RootOf([]string{other}, r) != "" {
				return fmt.Errorf("project root %q lies below %q", r, other)
			}
		}
	}
	if err := checkName(h.GetCwd()); err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	if err := h.checkInputs(); err != nil {
		return err
	}
	if len(h.GetOutputs()) > MaxOutputs {
		return fmt.Errorf("%d outputs, more than %d", len(h.GetOutputs()), MaxOutputs)
	}
	for i, o := range h.GetOutputs() {
		if err := below(h.GetRoots(), o); err != nil {
			return fmt.Errorf("output: %w", err)
		}
		if slices.Contains(h.GetOutputs()[:i], o) {
			return fmt.Errorf("output %q appears twice", o)
		}
	}
	return nil
}

func (h *ExecHeader) checkInputs() error {
	if len(h.GetInputs()) > MaxInputs {
		return fmt.Errorf("%d inputs, more than %d", len(h.GetInputs()), MaxInputs)
	}
	kinds := make(map[string]Input_Kind, len(h.GetInputs()))
	var total int64
	for _, in := range h.GetInputs() {
		p := in.GetPath()
		if err := checkName(p); err != nil {
			return fmt.Errorf("input: %w", err)
		}
		if !utf8.ValidString(in.GetTarget()) {
			return fmt.Errorf("input %q is a link to %q: %w", p, clip(in.GetTarget()), ErrNotUTF8)
		}
		// A root itself may be listed, as a directory, for its mode and time.
		if RootOf(h.GetRoots(), p) == p && in.GetKind() != Input_KIND_DIRECTORY || RootOf(h.GetRoots(), p) == "" {
			return fmt.Errorf("input %q is not below a project root", p)
		}
		if _, twice := kinds[p]; twice {
			return fmt.Errorf("input %q appears twice", p)
		}
		kinds[p] = in.GetKind()
		if in.GetMode()&^0o777 != 0 {
			return fmt.Errorf("input %q has mode %#o: only permission bits are carried", p, in.GetMode())
		}
		switch in.GetKind() {
		case Input_KIND_FILE:
			if err := in.GetDigest().Check(); err != nil {
				return fmt.Errorf("input %q: %w", p, err)
			}
			if total += in.GetDigest().GetSize(); total > MaxInputBytes {
				return fmt.Errorf("inputs hold more than %d bytes", MaxInputBytes)
			}
		case Input_KIND_SYMLINK:
			if t := in.GetTarget(); t == "" || len(t) > MaxPath || strings.IndexByte(t, 0) >= 0 {
				return fmt.Errorf("input %q is a link to an impossible name", p)
			}
		case Input_KIND_DIRECTORY:
		default:
			return fmt.Errorf("input %q is of no kind", p)
		}
	}
	for p := range kinds {
		for dir := path.Dir(p); RootOf(h.GetRoots(), dir) != ""; dir = path.Dir(dir) {
			if kind, listed := kinds[dir]; listed && kind != Input_KIND_DIRECTORY {
				return fmt.Errorf("input %q passes through %q, which is no directory", p, dir)
			}
		}
	}
	return nil
}

// Check tells whether d can name anything.
func (d *Digest) Check() error {
	if len(d.GetSha256()) != 32 {
		return fmt.Errorf("digest of %d bytes, want 32", len(d.GetSha256()))
	}
	if d.GetSize() < 0 || d.GetSize() > MaxInputBytes {
		return fmt.Errorf("digest of %d bytes of content, at most %d", d.GetSize(), MaxInputBytes)
	}
	return nil
}

// checkName is CheckPath for what the host says.
func checkName(p string) error {
	if err := CheckPath(p); err != nil {
		return err
	}
	if !utf8.ValidString(p) {
		return fmt.Errorf("path %q: %w", p, ErrNotUTF8)
	}
	return nil
}

func below(roots []string, p string) error {
	if err := checkName(p); err != nil {
		return err
	}
	if r := RootOf(roots, p); r == "" || r == p {
		return fmt.Errorf("%q is not below a project root", p)
	}
	return nil
}

func checkStrings(what string, all []string, most int) error {
	if len(all) > most {
		return fmt.Errorf("%d %ss, more than %d", len(all), what, most)
	}
	for _, s := range all {
		if len(s) > MaxArg {
			return fmt.Errorf("%s of %d bytes, more than %d", what, len(s), MaxArg)
		}
		if !utf8.ValidString(s) {
			return fmt.Errorf("%s %q: %w", what, clip(s), ErrNotUTF8)
		}
		if strings.IndexByte(s, 0) >= 0 {
			return fmt.Errorf("%s %q holds a NUL", what, clip(s))
		}
	}
	return nil
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
