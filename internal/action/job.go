package action

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/digest"
)

// Job is a compile to be made in an image, as its client describes it before
// anything has run: a command with its declared outputs, and the Tree of what it
// may find. Client and worker derive the same keys from it, each from what it
// checked itself. All paths of the client's are neutral.
type Job struct {
	// Image is the image's digest, sha256:HEX: the toolchain's identity.
	Image string
	Argv  []string
	// Env holds NAME=value on top of what every job has.
	Env []string
	Cwd string
	// Roots are the directories whose content is the client's.
	Roots   []string
	Outputs []Declared
	// Source is the path of what a person would call the source, or "".
	Source string
}

// Declared is an output that a job may leave.
type Declared struct {
	Role     string
	Path     string
	Optional bool
}

// Declares tells whether the job may leave an output of a role.
func (j *Job) Declares(role string) bool {
	return slices.ContainsFunc(j.Outputs, func(d Declared) bool { return d.Role == role })
}

// Node is a name below a job's roots: a file by its digest, a symbolic link by
// its target, or, with neither, a directory.
type Node struct {
	Digest digest.Digest
	Target string
}

// Tree is what a job may find below its roots, by absolute and clean path. The
// directories that a path passes through are there without being named.
type Tree map[string]Node

// ErrUnfounded says that a record of lookups names what its job did not have.
var ErrUnfounded = errors.New("a record of lookups that does not fit its job")

// markJob holds what decides a job's result besides its command line.
const markJob = "job"

// toolchain is an image's identity.
func toolchain(image string) digest.Key { return digest.NewKey("image").Field("digest", image).Sum() }

// command is Argv, with what else the client declared.
func (j *Job) command() []string {
	declared := make([]string, 0, len(j.Roots)+len(j.Outputs))
	for _, r := range j.Roots {
		declared = append(declared, "root "+r)
	}
	for _, o := range j.Outputs {
		kind := "output "
		if o.Optional {
			kind = "optional "
		}
		declared = append(declared, kind+o.Role+" "+o.Path)
	}
	slices.Sort(declared)
	return append(slices.Clone(j.Argv), Mark(markJob, strings.Join(declared, "\x00")))
}

// Manifest names the manifest of a job whose source holds source: equal commands
// on different sources have different ones, since a build has many a main.c.
func (j *Job) Manifest(source digest.Digest) digest.Key {
	t := toolchain(j.Image)
	return digest.NewKey("job").
		Bytes("toolchain", t[:]).
		Field("command", j.command()...).
		Field("env", sorted(j.Env, cmp.Compare)...).
		Field("cwd", j.Cwd).
		Field("source", j.Source, source.String()).
		Sum()
}

// Action is the job with what it turned out to read: found are the names in tree
// that it read or followed (a directory that had to be there has "/." behind
// it), absent those that it looked for in vain. The error wraps ErrUnfounded
// where these do not fit the tree.
func (j *Job) Action(tree Tree, found, absent []string) (*Action, error) {
	a := &Action{
		Toolchain: toolchain(j.Image), Command: j.command(), Env: sorted(j.Env, cmp.Compare), Cwd: j.Cwd,
		Absent: absent,
	}
	dirs := j.directories(tree)
	for _, p := range found {
		if dir, ok := strings.CutSuffix(p, "/."); ok {
			if !dirs[dir] {
				return nil, fmt.Errorf("%w: no directory %q", ErrUnfounded, dir)
			}
			a.Present = append(a.Present, p)
			continue
		}
		switch n, ok := tree[p]; {
		case !ok || n == (Node{}):
			return nil, fmt.Errorf("%w: no file %q", ErrUnfounded, p)
		case n.Target != "":
			a.Links = append(a.Links, Pair{p, n.Target})
		default:
			a.Inputs = append(a.Inputs, Input{p, n.Digest})
		}
	}
	for _, p := range absent {
		if _, ok := tree[p]; ok || dirs[p] {
			return nil, fmt.Errorf("%w: %q is there", ErrUnfounded, p)
		}
	}
	a.Compact()
	return a, nil
}

// Candidate is the candidate that leads to an action.
func (a *Action) Candidate() Candidate {
	return Candidate{
		Action: a.Key(), Inputs: a.Inputs, Absent: a.Absent, Present: a.Present, Chain: a.Chain, Same: a.Same, Links: a.Links,
	}
}

// Found lists what a candidate names as found, as Job.Action takes it.
func (c *Candidate) Found() []string {
	found := make([]string, 0, len(c.Inputs)+len(c.Links)+len(c.Present))
	for _, in := range c.Inputs {
		found = append(found, in.Path)
	}
	for _, l := range c.Links {
		found = append(found, l.A)
	}
	return append(found, c.Present...)
}

// Tree is what a candidate says that was there. Of two contents for one path it
// has one.
func (c *Candidate) Tree() Tree {
	tree := make(Tree, len(c.Inputs)+len(c.Links))
	for _, p := range c.Present {
		if dir, ok := strings.CutSuffix(p, "/."); ok {
			tree[dir] = Node{}
		}
	}
	for _, in := range c.Inputs {
		tree[in.Path] = Node{Digest: in.Digest}
	}
	for _, l := range c.Links {
		tree[l.A] = Node{Target: l.B}
	}
	return tree
}

// Holds tells whether a job with tree would find what c's job found, and miss
// what it missed, as far as tree tells: a file that the client has and did not
// name is not known here.
func (j *Job) Holds(c *Candidate, tree Tree) bool {
	for _, in := range c.Inputs {
		if n, ok := tree[in.Path]; !ok || n.Target != "" || n.Digest != in.Digest {
			return false
		}
	}
	for _, l := range c.Links {
		if n, ok := tree[l.A]; !ok || n.Target != l.B {
			return false
		}
	}
	dirs := j.directories(tree)
	for _, p := range c.Absent {
		if _, ok := tree[p]; ok || dirs[p] {
			return false
		}
	}
	for _, p := range c.Present {
		if !dirs[strings.TrimSuffix(p, "/.")] {
			return false
		}
	}
	return true
}

// directories are all that a job with tree has, those above its roots included.
func (j *Job) directories(tree Tree) map[string]bool {
	dirs := map[string]bool{}
	up := func(p string) {
		for p != "" && !dirs[p] {
			dirs[p] = true
			p = p[:max(strings.LastIndexByte(p, '/'), 0)]
		}
	}
	for _, r := range j.Roots {
		up(r)
	}
	up(j.Cwd)
	for p, n := range tree {
		if n == (Node{}) {
			up(p)
		} else {
			up(p[:max(strings.LastIndexByte(p, '/'), 0)])
		}
	}
	return dirs
}
