// Package scratch stands in for a machine as far as a compile's files go: a
// directory that holds what was sent of a checkout, a compiler that runs there,
// and strace's record of what it looked for in vain. Tests use it to learn where
// sending again what is missing ends, without a machine.
package scratch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"hpcc.dev/hpcc/test/strace"
)

// Node is a file's content, a link's target, or a directory.
type Node struct {
	Text []byte // not nil for a file
	Link string
}

// Tree is part of a checkout, by path below its root. The directories above each
// name are there without being named.
type Tree map[string]Node

// Add adds what the checkout here has at a path below its root, and the links
// and directories that lead there. Nothing is no error.
func (t Tree) Add(here, path string) error { return t.add(here, path, true, 0) }

func (t Tree) add(here, path string, follow bool, links int) error {
	done := ""
	parts := strings.Split(path, "/")
	for i, part := range parts {
		if part == ".." || part == "." || part == "" {
			done = strings.TrimPrefix(filepath.Join(done, part), ".")
			continue
		}
		done = strings.TrimPrefix(filepath.Join(done, part), "/")
		info, err := os.Lstat(here + "/" + done)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			return nil
		case err != nil:
			return err
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(here + "/" + done)
			if err != nil {
				return err
			}
			t[done] = Node{Link: target}
			if follow && links < 40 {
				rest := strings.Join(append([]string{filepath.Dir(done), target}, parts[i+1:]...), "/")
				return t.add(here, rest, true, links+1)
			}
			return nil
		case info.IsDir():
			if _, ok := t[done]; !ok && !t.implies(done) {
				t[done] = Node{}
			}
		default:
			text, err := os.ReadFile(here + "/" + done)
			if err != nil {
				return err
			}
			t[done] = Node{Text: append([]byte{}, text...)}
		}
	}
	return nil
}

// implies reports whether a directory is there because of what it holds.
func (t Tree) implies(dir string) bool {
	for name := range t {
		if strings.HasPrefix(name, dir+"/") {
			return true
		}
	}
	return false
}

// Of is the tree of these absolute paths below here, links not followed.
func Of(here string, lists ...[]string) (Tree, error) {
	t := Tree{}
	for _, list := range lists {
		for _, p := range list {
			if err := t.add(here, strings.TrimPrefix(p, here+"/"), false, 0); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

// Whole is all of a checkout.
func Whole(here string) (Tree, error) {
	var all []string
	err := filepath.WalkDir(here, func(p string, _ fs.DirEntry, err error) error {
		all = append(all, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	return Of(here, all[1:])
}

// Machine runs one compile.
type Machine struct {
	// Dir is the root, made anew for each run.
	Dir, Cwd string
	Argv     []string
	// Object is where the compile leaves its object.
	Object string
	// Trace is a prefix for strace's files.
	Trace string
}

// Outcome is what came of one compile.
type Outcome struct {
	// Object is nil where the compile failed, and Said is then why: the lack of a
	// file, or whatever comes of another file of its name that was found instead,
	// <error.h> of the C library for "error.h" of the checkout.
	Object, Said []byte
	// Absent are the paths below the root that were looked for in vain.
	Absent []string
}

// Run compiles with what was sent.
func (m *Machine) Run(sent Tree) (*Outcome, error) {
	if err := m.place(sent); err != nil {
		return nil, err
	}
	argv := slices.Concat(strace.Command(m.Trace), m.Argv)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = m.Cwd
	var o Outcome
	var failed *exec.ExitError
	said, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		o.Object, err = os.ReadFile(m.Object)
	case errors.As(err, &failed) && failed.Exited():
		o.Said, err = said, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%q: %w\n%s", m.Argv, err, said)
	}
	processes, err := strace.Read(m.Trace)
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		for _, l := range p.Lookups {
			path := l.Path
			if !filepath.IsAbs(path) {
				path = m.Cwd + "/" + path
			}
			rel, ok := strings.CutPrefix(path, m.Dir+"/")
			if ok && (l.Errno == "ENOENT" || l.Errno == "ENOTDIR") && !l.Writes {
				o.Absent = append(o.Absent, rel)
			}
		}
	}
	slices.Sort(o.Absent)
	o.Absent = slices.Compact(o.Absent)
	return &o, nil
}

// place makes the root.
func (m *Machine) place(sent Tree) error {
	if err := os.RemoveAll(m.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(m.Cwd, 0o755); err != nil {
		return err
	}
	for name, n := range sent {
		p := filepath.Join(m.Dir, name)
		err := os.MkdirAll(filepath.Dir(p), 0o755)
		switch {
		case err != nil:
		case n.Link != "":
			err = os.Symlink(n.Link, p)
		case n.Text == nil:
			err = os.MkdirAll(p, 0o755)
		default:
			err = os.WriteFile(p, n.Text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// maxRounds is more than any test should need.
const maxRounds = 20

// Compile compiles, adds to what was sent what was looked for in vain and is in
// the checkout here, and compiles again, until nothing is missing. It is an error
// if the compile then fails.
func (m *Machine) Compile(here string, sent Tree) (object []byte, rounds int, err error) {
	for rounds = 1; rounds <= maxRounds; rounds++ {
		o, err := m.Run(sent)
		if err != nil {
			return nil, rounds, err
		}
		before := len(sent)
		for _, p := range o.Absent {
			if err := sent.Add(here, p); err != nil {
				return nil, rounds, err
			}
		}
		switch {
		case len(sent) > before:
		case o.Object == nil:
			return nil, rounds, fmt.Errorf("%q: %s", m.Argv, o.Said)
		default:
			return o.Object, rounds, nil
		}
	}
	return nil, rounds, errors.New("no end of what is missing")
}
