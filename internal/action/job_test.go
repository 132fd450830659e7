package action

import (
	"errors"
	"testing"

	"hpcc.dev/hpcc/internal/digest"
)

func exampleJob() (*Job, Tree) {
	file := func(s string) Node { return Node{Digest: digest.Of([]byte(s))} }
	return &Job{
			Image: "sha256:00", Argv: []string{"gcc", "-c", "a.c"}, Cwd: "/hpcc/src/b", Roots: []string{"/hpcc/src", "/hpcc/out"},
			Outputs: []Declared{{Role: "object", Path: "/hpcc/out/object"}}, Source: "/hpcc/src/b/a.c",
		}, Tree{
			"/hpcc/src/b/a.c":   file("a"),
			"/hpcc/src/inc/x.h": file("x"),
			"/hpcc/src/l":       Node{Target: "inc"},
			"/hpcc/src/empty":   Node{},
		}
}

func TestJobAction(t *testing.T) {
	j, tree := exampleJob()
	found := []string{"/hpcc/src/b/a.c", "/hpcc/src/l", "/hpcc/src/inc/x.h", "/hpcc/src/inc/.", "/hpcc/src/empty/.", "/hpcc/."}
	absent := []string{"/hpcc/src/b/x.h"}
	a, err := j.Action(tree, found, absent)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Inputs) != 2 || len(a.Links) != 1 || len(a.Present) != 3 || len(a.Absent) != 1 {
		t.Errorf("%+v", a)
	}
	c := a.Candidate()
	if !j.Holds(&c, tree) {
		t.Error("what a job left does not hold for the same job")
	}
	for name, change := range map[string]func(Tree){
		"content":            func(t Tree) { t["/hpcc/src/inc/x.h"] = Node{Digest: digest.Of([]byte("y"))} },
		"gone":               func(t Tree) { delete(t, "/hpcc/src/b/a.c") },
		"appeared":           func(t Tree) { t["/hpcc/src/b/x.h"] = Node{Digest: digest.Of(nil)} },
		"appeared as a link": func(t Tree) { t["/hpcc/src/b/x.h"] = Node{Target: "y"} },
		"appeared as a directory": func(t Tree) {
			t["/hpcc/src/b/x.h/y"] = Node{Digest: digest.Of(nil)}
		},
		"link leads elsewhere": func(t Tree) { t["/hpcc/src/l"] = Node{Target: "b"} },
		"link became a file":   func(t Tree) { t["/hpcc/src/l"] = Node{Digest: digest.Of([]byte("inc"))} },
		"directory gone":       func(t Tree) { delete(t, "/hpcc/src/empty") },
	} {
		_, other := exampleJob()
		change(other)
		if j.Holds(&c, other) {
			t.Errorf("%s: still holds", name)
		}
	}
	_, more := exampleJob()
	more["/hpcc/src/unread.h"] = Node{Digest: digest.Of(nil)}
	if !j.Holds(&c, more) {
		t.Error("a file that was not looked for made a difference")
	}
}

func TestJobActionUnfounded(t *testing.T) {
	for name, lists := range map[string][2][]string{
		"unknown file":      {{"/hpcc/src/none.h"}, nil},
		"directory as file": {{"/hpcc/src/empty"}, nil},
		"file as directory": {{"/hpcc/src/b/a.c/."}, nil},
		"unknown directory": {{"/hpcc/src/none/."}, nil},
		"absent file":       {nil, []string{"/hpcc/src/b/a.c"}},
		"absent link":       {nil, []string{"/hpcc/src/l"}},
		"absent directory":  {nil, []string{"/hpcc/src/empty"}},
		"absent parent":     {nil, []string{"/hpcc/src/inc"}},
		"absent root":       {nil, []string{"/hpcc/out"}},
	} {
		j, tree := exampleJob()
		if a, err := j.Action(tree, lists[0], lists[1]); !errors.Is(err, ErrUnfounded) {
			t.Errorf("%s: %v, %v", name, a, err)
		}
	}
}

// TestJobKeys changes one thing at a time: each must change both names.
func TestJobKeys(t *testing.T) {
	j, tree := exampleJob()
	source := tree[j.Source].Digest
	keyOf := func(j *Job) digest.Key {
		a, err := j.Action(tree, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return a.Key()
	}
	seen := map[digest.Key]string{j.Manifest(source): "base"}
	actions := map[digest.Key]string{keyOf(j): "base"}
	for name, change := range map[string]func(*Job){
		"image":    func(j *Job) { j.Image = "sha256:01" },
		"argument": func(j *Job) { j.Argv = append(j.Argv, "-O2") },
		"variable": func(j *Job) { j.Env = []string{"CPATH=/x"} },
		"cwd":      func(j *Job) { j.Cwd = "/hpcc/src" },
		"root":     func(j *Job) { j.Roots = append(j.Roots, "/hpcc/src1") },
		"role":     func(j *Job) { j.Outputs[0].Role = "assembly" },
		"output":   func(j *Job) { j.Outputs[0].Path += "2" },
		"optional": func(j *Job) { j.Outputs[0].Optional = true },
	} {
		j, _ := exampleJob()
		change(j)
		if other, dup := seen[j.Manifest(source)]; dup {
			t.Errorf("%s and %s have one manifest", name, other)
		}
		seen[j.Manifest(source)] = name
		if other, dup := actions[keyOf(j)]; dup {
			t.Errorf("%s and %s have one action key", name, other)
		}
		actions[keyOf(j)] = name
	}
	if j.Manifest(digest.Of([]byte("other"))) == j.Manifest(source) {
		t.Error("two sources have one manifest")
	}
}
