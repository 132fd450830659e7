package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/remote"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// answer is what a compiler said to a question, as it is remembered.
type answer struct {
	Exit           int
	Stdout, Stderr []byte
}

// ask puts a question to the image's compiler, for a build that has none here:
// what configure scripts and build systems want to know (--version,
// -dumpmachine, -print-file-name=…), or a preprocessed text.
func (j *job) ask(ctx context.Context, kind compiler.Reason) (*ipcv1.ServerMessage, error) {
	if kind == compiler.ReasonPreprocessing {
		return j.preprocessAway(ctx)
	}
	cwd, err := logicalCwd(j.req)
	if err != nil {
		return nil, err
	}
	paths := j.e.pathMap(j.req, cwd)
	p := place{cwd: j.req.GetCwd(), paths: paths, machine: paths.Machine()}
	program, err := programIn(j.req, p)
	if err != nil {
		return nil, homeward(err)
	}
	work := &action.Job{
		Image: j.e.opt.Away.Image, Argv: append([]string{program}, j.req.GetArgs()[1:]...), Cwd: compiler.MachineOut,
		Roots: []string{compiler.MachineOut},
	}
	j.outcome = outcome{kind: uncacheable, reason: kind, detail: strings.Join(j.req.GetArgs(), " ")}
	memo := "query/" + work.Manifest(digest.Digest{}).String()
	var a answer
	if b, err := j.e.cache.Memo(memo); err != nil || j.e.paranoid() || json.Unmarshal(b, &a) != nil {
		res, err := j.e.opt.Away.compile(ctx, &remote.Request{
			Job: work, Tree: action.Tree{},
			// A question is about the toolchain; a file of the project's that it
			// names is not sent, and then it is no such question.
			Confirm: func(context.Context, []string) (action.Tree, error) { return nil, nil },
		})
		if err := homeFrom(ctx, res, err); err != nil {
			return nil, err
		}
		a = answer{exitStatus(res), res.Stdout, res.Stderr}
		if b, err := json.Marshal(a); err == nil && a.Exit == 0 && !j.e.paranoid() {
			_ = j.e.cache.PutMemo(memo, b) // a cache that cannot be written costs the next question
		}
	}
	return &ipcv1.ServerMessage{Done: &ipcv1.Done{ExitCode: int32(a.Exit), Stdout: a.Stdout, Stderr: a.Stderr}}, nil
}

// preprocessAway has a machine preprocess. The command is that of a compile but
// for what it makes, so that its files are found in the same way.
func (j *job) preprocessAway(ctx context.Context) (*ipcv1.ServerMessage, error) {
	args := slices.Clone(j.req.GetArgs())
	at := slices.Index(args, "-E")
	if at < 0 {
		return nil, goHome{&compiler.NotCacheable{Reason: compiler.ReasonPreprocessing}}
	}
	args[at] = "-c"
	asCompile := *j.req
	asCompile.Args = args
	output := outputOf(args)
	if output == "" || output == "-" {
		// Where the object would go matters to nobody.
		asCompile.Args = append(args, "-o", filepath.Join(j.req.GetCwd(), "hpcc-preprocessed"))
	}
	prep, err := j.e.prepareAway(&asCompile, false)
	if err != nil {
		return nil, homeward(err)
	}
	work := *prep.work
	work.Argv = slices.Clone(work.Argv)
	if at = slices.Index(work.Argv, "-c"); at < 0 {
		return nil, goHome{&compiler.NotCacheable{Reason: compiler.ReasonPreprocessing}}
	}
	work.Argv[at] = "-E"
	j.prep = prep
	defer func() { j.prep = nil }() // no compile, for who counts
	res, err := j.sendAway(ctx, &work, false)
	if errors.Is(err, errRooted) {
		return nil, stay(compiler.ReasonOutsideRoots, "%s names its files by where they lie", prep.inv.Source)
	}
	if err != nil {
		return nil, err
	}
	j.outcome = outcome{kind: uncacheable, reason: compiler.ReasonPreprocessing}
	done := j.doneAs(res)
	for _, o := range res.Outputs {
		if o.Role == compiler.RoleDependencies || res.ExitCode != 0 {
			continue
		}
		text := prep.place.localText(o.Data)
		if output == "" || output == "-" {
			done.Stdout = append(done.Stdout, text...)
			continue
		}
		f := j.outputFile(output, text)
		if _, err := f.write(); err != nil {
			return nil, err
		}
	}
	return &ipcv1.ServerMessage{Done: done}, nil
}

// outputOf is what the last -o names, "" without one.
func outputOf(args []string) (name string) {
	for i, a := range args {
		if a == "-o" && i+1 < len(args) {
			name = args[i+1]
		} else if v, ok := strings.CutPrefix(a, "-o"); ok && v != "" {
			name = v
		}
	}
	return name
}
