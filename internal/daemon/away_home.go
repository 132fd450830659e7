package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// notCompiles are calls that make no object, whose programs are this machine's
// by any policy.
var notCompiles = []compiler.Reason{
	compiler.ReasonQuery, compiler.ReasonPreprocessing, compiler.ReasonLinking, compiler.ReasonNoSource,
	compiler.ReasonObjectInput, compiler.ReasonBadCommand, compiler.ReasonStdin,
}

// runInstead goes on with a compile that no worker makes, by the policy.
func (j *job) runInstead(ctx context.Context, why *compiler.NotCacheable) (*ipcv1.ServerMessage, error) {
	j.land()
	j.prep = nil
	if forbidden := j.mayCompileHere(ctx, why); forbidden != nil {
		j.outcome = outcome{kind: uncacheable, reason: why.Reason, detail: why.Detail}
		return &ipcv1.ServerMessage{Done: &ipcv1.Done{ //nolint:nilerr // the build is told
			ExitCode: 1, Stderr: []byte("hpcc: " + j.req.GetArgs()[0] + ": " + forbidden.Error() + "\n"),
		}}, nil
	}
	if slices.Contains(notCompiles, why.Reason) {
		return nil, why
	}
	j.client, j.instead = slotted{j.client, j.e.local}, why.Reason
	msg, err := j.runHere(ctx)
	var refused *compiler.NotCacheable
	if errors.As(err, &refused) {
		// Here and not by the wrapper alone, which knows nothing of the others.
		ran, runErr := j.client.Run(ctx, &ipcv1.Run{
			Stage: ipcv1.Run_STAGE_COMPILE, Args: append([]string{j.req.GetCompiler()}, j.req.GetArgs()[1:]...),
		})
		if runErr != nil {
			return nil, runErr
		}
		if ran.GetError() == "" && !ran.GetUnwritable() {
			j.outcome = outcome{kind: uncacheable, reason: why.Reason, detail: why.Detail}
			return &ipcv1.ServerMessage{Done: &ipcv1.Done{ExitCode: ran.GetExitCode()}}, nil
		}
	}
	return msg, err
}

// mayCompileHere tells what keeps a compiler of this machine from being run in a
// worker's place; the error is for the user.
func (j *job) mayCompileHere(ctx context.Context, why *compiler.NotCacheable) error {
	a := j.e.opt.Away
	because := DescribeReason(string(why.Reason))
	if why.Detail != "" {
		because += " (" + why.Detail + ")"
	}
	switch {
	case j.req.GetCompiler() == "" && why.Reason == compiler.ReasonLinking:
		return fmt.Errorf("workers do not link, and there is no such program here: link where the toolchain is installed, for example in a container of %s", a.Image)
	case j.req.GetCompiler() == "":
		return fmt.Errorf("not compiled: %s; and there is no such compiler here", because)
	case slices.Contains(notCompiles, why.Reason) || a.Fallback == FallbackAny:
		return nil
	case a.Fallback == FallbackFail:
		return fmt.Errorf("not compiled: %s; remote.fallback = %q allows no local compile", because, a.Fallback)
	}
	same, err := j.e.isImages(ctx, j.req)
	if err != nil {
		return fmt.Errorf("not compiled: %s; whether %s is the image's compiler is not known (%w); remote.fallback = %q would use it all the same",
			because, j.req.GetCompiler(), err, FallbackAny)
	}
	if !same {
		return fmt.Errorf("not compiled: %s; %s is not the compiler of image %s, and the two must not mix (remote.fallback = %q)",
			because, j.req.GetCompiler(), shortImage(a.Image), FallbackSame)
	}
	return nil
}

// slotted runs no more commands at once than there are slots.
type slotted struct {
	Client
	slots chan struct{}
}

func (s slotted) Run(ctx context.Context, run *ipcv1.Run) (*ipcv1.Ran, error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.slots }()
	return s.Client.Run(ctx, run)
}

// sameness remembers which toolchains of this machine are the image's, and with
// which options they predefine its macros.
type sameness struct {
	mu    sync.Mutex
	known map[digest.Key]bool
}

// isImages tells whether the request's compiler consists of the very files that
// the image has by the same names. The answer is kept on disk: it is wanted when
// no worker can be asked.
func (e *Engine) isImages(ctx context.Context, req *ipcv1.Compile) (bool, error) {
	key, tool, err := e.sameKey(ctx, req)
	if err != nil {
		return false, err
	}
	return e.recallSame(ctx, key, func() (bool, error) {
		paths := make([]string, len(tool.Parts))
		for i, part := range tool.Parts {
			if paths[i], err = filepath.EvalSymlinks(part.Path); err != nil {
				return false, err
			}
		}
		files, err := e.opt.Away.Worker.Describe(ctx, e.opt.Away.Image, paths)
		if err != nil {
			return false, err
		}
		same := len(files) == len(tool.Parts)
		for i := range files {
			same = same && files[i] == tool.Parts[i].Digest
		}
		return same, nil
	})
}

// knownImages is isImages where that needs nobody to be asked; else known is
// false.
func (e *Engine) knownImages(ctx context.Context, req *ipcv1.Compile) (same, known bool, err error) {
	key, _, err := e.sameKey(ctx, req)
	if err != nil {
		return false, false, err
	}
	same, known = e.knownSame(key)
	return same, known, nil
}

// sameKey names the question whether the request's compiler is the image's.
func (e *Engine) sameKey(ctx context.Context, req *ipcv1.Compile) (digest.Key, *compiler.Toolchain, error) {
	tool, err := e.detector.Identify(ctx, req.GetCompiler(), req.GetCompiler(), req.GetEnv())
	if err != nil {
		return digest.Key{}, nil, err
	}
	return digest.NewKey("same-toolchain").Field("image", e.opt.Away.Image).Bytes("toolchain", tool.Identity[:]).Sum(), tool, nil
}

func (e *Engine) knownSame(key digest.Key) (same, known bool) {
	if same, known = e.sameness.get(key); known {
		return same, true
	}
	if b, err := e.cache.Memo(sameMemo(key)); err == nil && len(b) == 1 {
		return e.sameness.put(key, b[0] == 1), true
	}
	return false, false
}

func sameMemo(key digest.Key) string { return "same/" + key.String() }

// recallSame is the answer that is remembered under key, or that of find, which
// is asked once for all that want it at the time.
func (e *Engine) recallSame(ctx context.Context, key digest.Key, find func() (bool, error)) (bool, error) {
	for waited := false; ; waited = true {
		if same, known := e.knownSame(key); known {
			return same, nil
		}
		mine, other := e.flights.take(key)
		if other != nil && !waited {
			other.wait(ctx)
			continue
		}
		defer e.flights.land(mine)
		same, err := find()
		if err != nil {
			return false, err
		}
		memo := []byte{0}
		if same {
			memo[0] = 1
		}
		if err := e.cache.PutMemo(sameMemo(key), memo); err != nil {
			e.log.Warn("memo-not-written", "error", err.Error())
		}
		return e.sameness.put(key, same), nil
	}
}

func (s *sameness) get(key digest.Key) (same, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	same, known = s.known[key]
	return same, known
}

func (s *sameness) put(key digest.Key, same bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = map[digest.Key]bool{}
	}
	s.known[key] = same
	return same
}
