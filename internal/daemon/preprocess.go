package daemon

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
)

// preprocessedKey names a manifest by the preprocessed text and by the files
// it was made from: two sources with one text may still differ in what
// diagnostics quote and in the columns that debug information holds.
func preprocessedKey(key digest.Key, text digest.Digest, inputs []action.Input) digest.Key {
	k := digest.NewKey("preprocessed").Bytes("manifest", key[:]).Field("text", text.String())
	for _, in := range inputs {
		k.Field("input", in.Path, in.Digest.String())
	}
	return k.Sum()
}

// preprocess runs the preprocessor and returns the digests of its text and of
// the files it read.
func (j *job) preprocess(ctx context.Context) (digest.Digest, []action.Input, error) {
	text, deps, err := j.preprocessTo(ctx)
	defer removeAll(text, deps)
	if err != nil {
		return digest.Digest{}, nil, err
	}
	sum, _, err := j.e.files.digest(&file{path: text})
	if err != nil {
		return digest.Digest{}, nil, err
	}
	_, names, err := readDepFile(deps)
	if err != nil {
		return digest.Digest{}, nil, err
	}
	inputs := make([]action.Input, len(names))
	for i, n := range names {
		d, _, err := j.e.files.digest(j.e.files.at(j.prep.place.absolute(n)))
		if err != nil {
			return digest.Digest{}, nil, err
		}
		inputs[i] = action.Input{Path: j.prep.place.paths.Neutral(n), Digest: d}
	}
	return sum, inputs, nil
}

// preprocessTo runs the preprocessor and returns the files that hold its text
// and its dependency list, which the caller removes, after an error too.
func (j *job) preprocessTo(ctx context.Context) (text, deps string, err error) {
	if text, err = j.temp("i"); err != nil {
		return "", "", err
	}
	if deps, err = j.temp("d"); err != nil {
		return text, "", err
	}
	return text, deps, j.quiet(ctx, j.prep.inv.PreprocessArgs(deps), text)
}

// quietTimeout bounds a run of the preprocessor; the longest seen take
// seconds.
const quietTimeout = 5 * time.Minute

// quiet runs the compiler with other arguments, stdout to a file and stderr
// to nowhere. The engine does this itself: the environment variables that
// decide what the preprocessor does came with the request.
func (j *job) quiet(ctx context.Context, args []string, stdout string) error {
	j.asked++
	if err := j.permitted(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, quietTimeout)
	defer cancel()
	out, err := os.OpenFile(stdout, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, j.req.GetCompiler(), args...)
	cmd.Dir, cmd.Env, cmd.Stdout = j.req.GetCwd(), slices.Concat(j.req.GetEnv(), j.prep.setEnv), out
	if j.permit != nil {
		// It may well be cancelled, and a driver's children would go on.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	}
	if err := cmd.Run(); err != nil {
		return refuse(reasonFailed, "the preprocessor: %s", err)
	}
	return nil
}
