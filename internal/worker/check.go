package worker

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/digest"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// What the client says of modes is not used: a compiler is a reader, and what it
// leaves must not depend on the checkout's umask.
const (
	inputFileMode = fs.FileMode(0o644)
	inputDirMode  = fs.FileMode(0o755)
)

// inputEpoch is where the times of inputs begin: no build is older.
var inputEpoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// inputTime is the modification time of an input in every machine, for everybody.
// __TIMESTAMP__ is the source's, so it must follow from what is in the key. It
// differs by path, because gcc takes two files of equal content and time for one
// under #pragma once, and so would leave out the second of two equal headers that
// include different neighbours.
func inputTime(path string) time.Time {
	h := fnv.New64a()
	_, _ = h.Write([]byte(path)) // a hash takes everything
	const span = 1 << 29         // seconds, some 17 years: still long ago
	return inputEpoch.Add(time.Duration(h.Sum64()%span) * time.Second)
}

// systemDirs are an image's own: no project lies at or below one. (An image that
// has something at a root's path is refused by the agent in any case.)
var systemDirs = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/usr"}

// parentDirs are the system's, and people have projects below them.
var parentDirs = []string{"/home", "/hpcc", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp", "/var", "/var/lib", "/var/tmp", "/usr/src", "/usr/local/src"}

// checked is a client's job after every part of it was checked against the
// contract.
type checked struct {
	action.Job
	tree     action.Tree
	source   digest.Digest           // of Source; zero if that is no file
	blobs    []digest.Digest         // of the inputs, each once
	patches  map[digest.Digest]patch // by the content
	uncached bool
	time     time.Duration
	message  *workerv1.Job
}

// check checks a job for an image. The error is for the client to read.
func check(m *workerv1.Job, image string, longest time.Duration) (*checked, error) {
	if err := checkImage(m.GetImage()); err != nil {
		return nil, err
	}
	if m.GetImage() != image {
		return nil, errOtherImage
	}
	j := &checked{
		Job:      action.Job{Image: image, Argv: m.GetArgv(), Env: m.GetEnv(), Cwd: m.GetCwd(), Roots: m.GetRoots(), Source: m.GetSource()},
		uncached: m.GetUncached(), time: longest, message: m,
	}
	if t := m.GetTimeMillis(); t > 0 && t < uint64(longest.Milliseconds()) {
		j.time = time.Duration(t) * time.Millisecond
	}
	if err := checkEnv(j.Env); err != nil {
		return nil, err
	}
	header := &agentv1.ExecHeader{Argv: j.Argv, Env: environment(j.Env), Cwd: j.Cwd, Inputs: m.GetInputs(), Roots: j.Roots}
	for _, o := range m.GetOutputs() {
		header.Outputs = append(header.Outputs, o.GetPath())
	}
	for _, in := range m.GetInputs() {
		if in != nil {
			in.Mode = 0 // nothing comes of it: see inputFileMode
		}
	}
	if err := header.Check(); err != nil {
		return nil, err
	}
	for _, r := range j.Roots {
		if err := checkRoot(r); err != nil {
			return nil, err
		}
	}
	if err := j.declare(m.GetOutputs()); err != nil {
		return nil, err
	}
	if err := j.grow(m.GetInputs()); err != nil {
		return nil, err
	}
	return j, j.checkPatches(m.GetPatches())
}

// errOtherImage says that a job is for another image than its token.
var errOtherImage = errors.New("the job is for another image than its task token")

func checkImage(image string) error {
	hex, ok := strings.CutPrefix(image, "sha256:")
	if _, err := digest.ParseKey(hex); !ok || err != nil {
		return fmt.Errorf("image %q is no digest: sha256: and 64 hex digits", clip(image))
	}
	return nil
}

// environment is what a job with env is run with.
func environment(env []string) []string { return slices.Concat(workerv1.Environment, env) }

// pinned are the names of the variables that every job has.
var pinned = func() map[string]bool {
	names := map[string]bool{}
	for _, e := range workerv1.Environment {
		name, _, _ := strings.Cut(e, "=")
		names[name] = true
	}
	return names
}()

func checkEnv(env []string) error {
	if len(env) > agentv1.MaxEnv {
		return fmt.Errorf("%d environment variables, more than %d", len(env), agentv1.MaxEnv)
	}
	seen := make(map[string]bool, len(env))
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if pinned[name] {
			return fmt.Errorf("environment variable %s is the same for all jobs", name)
		}
		if seen[name] {
			return fmt.Errorf("environment variable %q appears twice", clip(name))
		}
		seen[name] = true
	}
	return nil
}

// checkRoot tells whether a client's project may appear at root, which is clean.
// Most are neutral, below /hpcc; a build whose outputs must hold the client's own
// paths has it where it has it.
func checkRoot(root string) error {
	own := slices.Contains(parentDirs, root)
	below := agentv1.RootOf(systemDirs, root) != "" && agentv1.RootOf([]string{"/usr/src", "/usr/local/src"}, root) == ""
	if own || below {
		return fmt.Errorf("project root %q is a directory of the system's", root)
	}
	return nil
}

// maxOutputs is what an audit row holds, and more than any compile leaves.
const maxOutputs = 32

// declare takes the outputs over; their paths were checked.
func (j *checked) declare(outputs []*workerv1.Output) error {
	if len(outputs) > maxOutputs {
		return fmt.Errorf("%d outputs, more than %d", len(outputs), maxOutputs)
	}
	roles := make(map[string]bool, len(outputs))
	for _, o := range outputs {
		if err := checkRole(o.GetRole()); err != nil {
			return err
		}
		if roles[o.GetRole()] {
			return fmt.Errorf("two outputs have the role %q", o.GetRole())
		}
		roles[o.GetRole()] = true
		j.Outputs = append(j.Outputs, action.Declared{Role: o.GetRole(), Path: o.GetPath(), Optional: o.GetOptional()})
	}
	return nil
}

func checkRole(role string) error {
	bad := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }
	if role == "" || len(role) > workerv1.MaxRole || strings.ContainsFunc(role, bad) {
		return fmt.Errorf("role %q: want 1 to %d of a-z, 0-9 and -", clip(role), workerv1.MaxRole)
	}
	return nil
}

// grow makes the tree out of inputs, which were checked.
func (j *checked) grow(inputs []*agentv1.Input) error {
	j.tree = make(action.Tree, len(inputs))
	seen := make(map[digest.Digest]bool, len(inputs))
	for _, in := range inputs {
		if agentv1.RootOf([]string{workerv1.OutputRoot}, in.GetPath()) != "" {
			return fmt.Errorf("input %q lies where outputs alone do", in.GetPath())
		}
		var n action.Node
		switch in.GetKind() {
		case agentv1.Input_KIND_FILE:
			d, err := digest.FromBytes(in.GetDigest().GetSha256(), in.GetDigest().GetSize())
			if err != nil {
				return fmt.Errorf("input %q: %w", in.GetPath(), err)
			}
			// It would look like a directory, and names nothing anyway.
			if d.IsZero() {
				return fmt.Errorf("input %q has a digest of zeros", in.GetPath())
			}
			n.Digest = d
			if !seen[d] {
				seen[d] = true
				j.blobs = append(j.blobs, d)
			}
		case agentv1.Input_KIND_SYMLINK:
			n.Target = in.GetTarget()
		}
		j.tree[in.GetPath()] = n
	}
	if j.Source == "" {
		return nil
	}
	source, ok := j.tree[j.Source]
	if !ok || source == (action.Node{}) {
		return fmt.Errorf("source %q is no file among the inputs", clip(j.Source))
	}
	j.source = source.Digest
	return nil
}

// exec is the job as a machine is told it.
func (j *checked) exec(limits agentapi.Limits) agentapi.Job {
	limits.Time = j.time
	e := agentapi.Job{
		Argv: j.Argv, Env: environment(j.Env), Cwd: j.Cwd, Roots: j.Roots, Limits: limits,
		Inputs: make([]agentapi.Input, 0, len(j.tree)),
	}
	for _, o := range j.Outputs {
		e.Outputs = append(e.Outputs, o.Path)
	}
	for _, in := range j.message.GetInputs() {
		n := j.tree[in.GetPath()]
		input := agentapi.Input{Path: in.GetPath(), ModTime: inputTime(in.GetPath())}
		switch {
		case n.Target != "":
			input.Kind, input.Target = agentapi.Symlink, n.Target
		case n.Digest.IsZero():
			input.Kind, input.Mode = agentapi.Directory, inputDirMode
		default:
			input.Kind, input.Mode, input.Digest = agentapi.File, inputFileMode, n.Digest
		}
		e.Inputs = append(e.Inputs, input)
	}
	return e
}

// clip keeps hostile text in messages short.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

func checkDescribe(r *workerv1.DescribeRequest, image string) error {
	if err := checkImage(r.GetImage()); err != nil {
		return failf(codes.InvalidArgument, "%v", err)
	}
	if r.GetImage() != image {
		return failf(codes.PermissionDenied, "the question is about another image than its task token")
	}
	if len(r.GetPaths()) > workerv1.MaxDescribe {
		return failf(codes.InvalidArgument, "%d paths, more than %d", len(r.GetPaths()), workerv1.MaxDescribe)
	}
	for _, p := range r.GetPaths() {
		if err := agentv1.CheckPath(p); err != nil {
			return failf(codes.InvalidArgument, "%v", err)
		}
	}
	return nil
}

func wireDigest(d digest.Digest) *agentv1.Digest {
	sum := d.Sum()
	return &agentv1.Digest{Sha256: sum[:], Size: d.Size()}
}
