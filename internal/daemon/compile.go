package daemon

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// compiled is a compile that succeeded: what it left, taken into memory
// before the build goes on and may change it.
type compiled struct {
	// inv is the command, or what it says of one source of several.
	inv *compiler.Invocation
	// before is how things were when the compiler began, at start: an input
	// that may have changed since may not be what it read.
	before         *before
	start          moment
	elapsed        time.Duration
	stdout, stderr []byte
	// merged is set where both streams were one file: all is in stderr.
	merged  bool
	outputs map[string]output
	// deps is the compiler's own full list, as it spells the paths; printed is
	// true where it comes from the compile's messages.
	deps    []string
	printed bool
	// asm is the assembler's list of files, where it was asked for one.
	asm []string
	// user tells for each of deps whether -MMD lists it; nil unless asked.
	user []bool
	// parts are the sources of a command that has several; deps and user are
	// theirs then.
	parts []*compiled
}

func (c *compiled) each() []*compiled {
	if c.parts != nil {
		return c.parts
	}
	return []*compiled{c}
}

// compile has the client run the compiler and stores what it made.
func (j *job) compile(ctx context.Context, id manifestID) (*ipcv1.ServerMessage, error) {
	if err := j.permitted(); err != nil {
		return nil, err
	}
	defer j.e.running.begin(j)()
	inv := j.prep.inv
	if inv.Mode == compiler.Listing {
		return j.list(ctx, id)
	}
	run := compiler.RunOptions{Extra: j.prep.extra}
	hasDeps := inv.Language != "assembler" && !strings.HasSuffix(inv.Language, "cpp-output")
	wantUser := inv.Deps.Requested && !inv.Deps.SystemHeaders
	depFile := j.prep.place.absolute(inv.Deps.File)
	var err error
	inputsFrom := compiler.FromOption
	if hasDeps && (!inv.Deps.Requested || wantUser) {
		if depFile, err = j.temp("d"); err != nil {
			return nil, err
		}
		defer os.Remove(depFile)
		if inputsFrom = inv.InputsFrom(); inputsFrom == compiler.FromOption {
			run.DepFile = depFile
		}
	}
	if inv.CanListAssembly() {
		if run.AsmDepFile, err = j.temp("s.d"); err != nil {
			return nil, err
		}
		defer os.Remove(run.AsmDepFile)
	}
	j.settle(ctx, id)
	j.e.compiling.Add(1)
	defer j.e.compiling.Add(-1)
	held, claimErr := j.e.claim(j.written())
	defer func() { held.release() }()
	c := &compiled{inv: inv, start: j.e.files.moment()}
	c.before = j.lookAround(&c.start)
	if inputsFrom == compiler.FromPreprocessor {
		j.outcome.preprocessedForDeps = true
		// Whether it fails shows in that there is no list.
		_ = j.quiet(ctx, inv.AllDepsArgs(depFile), os.DevNull)
	}
	began := time.Now()
	ran, err := j.client.Run(ctx, &ipcv1.Run{
		Stage:        ipcv1.Run_STAGE_COMPILE,
		Args:         append([]string{j.req.GetCompiler()}, inv.RunArgs(run)...),
		SetEnv:       j.prep.setEnv,
		Incomplete:   wantUser && hasDeps,
		CaptureLimit: captureLimit,
	})
	if err != nil {
		return nil, err
	}
	if ran.GetError() != "" {
		return nil, errors.New(ran.GetError())
	}
	if ran.GetUnwritable() && ran.GetSignal() == 0 {
		return nil, refuse(reasonStdioGone, "")
	}
	c.elapsed = time.Since(began)
	done := &ipcv1.ServerMessage{Done: &ipcv1.Done{ExitCode: ran.GetExitCode()}}
	if ran.GetSignal() != 0 {
		done.Done.ExitCode = 128 + ran.GetSignal()
	}
	if done.Done.ExitCode != 0 {
		if ran.GetSignal() == 0 && blames(ran, run.DepFile, run.AsmDepFile) {
			return nil, errors.New("the compiler could not write its list of files")
		}
		j.outcome = outcome{kind: failed, reason: reasonFailed}
		j.compareFailed(ran, done.Done)
		if wantUser && hasDeps {
			j.listDespiteErrors(ctx, c, depFile)
		}
		return done, nil
	}
	// From here on the compile stands, and whatever goes wrong only keeps it
	// from being stored; except that a dependency file of the user's, which
	// the compiler was kept from writing, must be written.
	c.stdout, c.stderr, c.merged = ran.GetStdout(), ran.GetStderr(), ran.GetMerged()
	if inputsFrom == compiler.FromOutput {
		c.deps, c.printed = compiler.ParseShowIncludes(inv.Source, c.stdout, c.stderr), true
	}
	err = j.gather(c, ran, depFile, run.AsmDepFile, hasDeps)
	switch {
	case err != nil:
	case claimErr != nil:
		err = claimErr
	case held.shared():
		err = refuse(reasonOutputShared, "%s", inv.Object)
	}
	held.release()
	held = nil
	if wantUser && hasDeps {
		if depErr := j.writeUserDeps(ctx, c, err); depErr != nil {
			// The user's own command, run once more, writes all it should.
			return nil, depErr
		}
	}
	if err != nil {
		j.uncached(err)
		if j.verifying != nil {
			j.outcome.verify.skipped = string(j.outcome.reason)
		}
		return done, nil
	}
	if j.verifying != nil {
		j.compare(ctx, c, done.Done)
		return done, nil
	}
	j.keep(ctx, id, c)
	return done, nil
}

// uncached records why a compile that succeeded is not stored.
func (j *job) uncached(err error) {
	var refused *compiler.NotCacheable
	if errors.As(err, &refused) {
		j.outcome = outcome{kind: uncacheable, reason: refused.Reason, detail: refused.Detail}
		if refused.Reason == reasonModified {
			// The one refusal that a user cannot repeat at will.
			j.e.log.Info("input-modified", "file", refused.Detail, "source", j.source(), "cwd", j.req.GetCwd())
		}
		return
	}
	j.e.log.Warn("result-not-stored", "error", err.Error(), "source", j.source())
	j.outcome = outcome{kind: uncacheable, reason: reasonStore, detail: err.Error()}
}

// gather takes what the compiler left into memory.
func (j *job) gather(c *compiled, ran *ipcv1.Ran, depFile, asmDepFile string, hasDeps bool) error {
	inv, p := j.prep.inv, j.prep.place
	switch {
	case c.printed: // and read already
	case hasDeps:
		raw, deps, err := readDepFile(depFile)
		if err != nil {
			return err
		}
		c.deps = deps
		// A list that is not written back as it was read was not understood.
		targets, phony := []compiler.DepTarget{compiler.AskedTarget}, false
		if inv.Deps.Requested && inv.Deps.SystemHeaders {
			targets, phony = inv.Deps.Targets, inv.Deps.Phony
		}
		if !bytes.Equal(compiler.RenderDepFile(inv.Family, targets, deps, inv.Source, phony), raw) {
			return refuse(reasonDepFile, "%s has a form that is not known", filepath.Base(depFile))
		}
	default:
		c.deps = []string{inv.Source}
		if inv.Deps.Requested {
			if _, err := os.Lstat(p.absolute(inv.Deps.File)); err == nil {
				return refuse(reasonDepFile, "%s exists though nothing is preprocessed", inv.Deps.File)
			}
		}
	}
	if asmDepFile != "" {
		_, list, err := readDepFile(asmDepFile)
		if err != nil {
			return err
		}
		c.asm = list
	}
	switch {
	case ran.GetTruncated():
		return refuse(reasonStdioLarge, "more than %d bytes", captureLimit)
	case p.paths != nil && (bytes.IndexByte(c.stdout, 0) >= 0 || bytes.IndexByte(c.stderr, 0) >= 0):
		return refuse(reasonStdio, "the compiler printed NUL bytes")
	}
	var err error
	if c.outputs, err = readOutputs(inv.Outputs, p); err != nil {
		return err
	}
	for _, o := range inv.Outputs {
		j.e.files.sawOutput(&c.start, p.absolute(o.Path))
	}
	return nil
}

// writeUserDeps writes the dependency file of a command with -MMD. The
// compiler wrote the full list, so that all inputs are known; which of them
// are the user's follows from the order of inclusion, and where it does not,
// the preprocessor says so.
func (j *job) writeUserDeps(ctx context.Context, c *compiled, gathered error) error {
	inv := j.prep.inv
	if gathered == nil {
		if j.tellUserDeps(ctx, c) {
			return j.writeDeps(renderDeps(inv, c.userDeps()))
		}
	}
	j.outcome.preprocessedForDeps = true
	list, err := j.temp("d")
	if err != nil {
		return err
	}
	defer os.Remove(list)
	if err := j.quiet(ctx, inv.UserDepsArgs(list), os.DevNull); err != nil {
		return err
	}
	_, names, err := readDepFile(list)
	if err != nil {
		return err
	}
	if gathered != nil {
		c.deps = names
	}
	if !c.markUser(inv.Family, names) {
		return refuse(reasonDepFile, "the two dependency lists differ")
	}
	return j.writeDeps(renderDeps(inv, c.userDeps()))
}

// listDespiteErrors writes the dependency file of a command with -MMD that
// failed: a compiler that has read all of a source lists it even if it then
// finds errors there, so that make knows when to try again.
func (j *job) listDespiteErrors(ctx context.Context, c *compiled, depFile string) {
	_, deps, err := readDepFile(depFile)
	if err != nil {
		return // a missing header, say: there is no list
	}
	c.deps = deps
	if err := j.writeUserDeps(ctx, c, nil); err != nil {
		j.e.log.Warn("dependency-file-not-written", "error", err.Error(), "source", j.source())
	}
}

// tellUserDeps finds out from the sources which dependencies -MMD would list;
// ok is false where they cannot tell.
func (j *job) tellUserDeps(ctx context.Context, c *compiled) (ok bool) {
	files, err := j.scanAll(c)
	if err != nil {
		return false
	}
	sp, err := j.prep.tool.SearchPath(ctx, c.inv, j.prep.place.cwd, j.req.GetEnv())
	if err != nil {
		return false
	}
	c.user, ok = compiler.UserDeps(c.inv.Family, sp, c.inv, files)
	return ok
}

// markUser notes which of the dependencies the list of -MMD holds. gcc lists a
// file once more for each directory from which its name was looked up: once as
// the system's, perhaps, and once as the user's; so its list is matched in
// order. clang lists each file once, where the user first included it, which
// may be later than where it was first included: its full list, whose order
// nobody sees with -MMD, is brought into that order.
func (c *compiled) markUser(family compiler.Family, names []string) bool {
	c.user = make([]bool, len(c.deps))
	matched := 0
	for i, d := range c.deps {
		if family == compiler.Clang && slices.Contains(names, d) || family == compiler.GCC && matched < len(names) && d == names[matched] {
			c.user[i] = true
			matched++
		}
	}
	if matched != len(names) {
		return false
	}
	next := 0
	for i := range c.deps {
		if c.user[i] {
			c.deps[i] = names[next]
			next++
		}
	}
	return true
}

// userDeps are those of the dependencies that -MMD lists.
func (c *compiled) userDeps() []string {
	var names []string
	for i, d := range c.deps {
		if c.user[i] {
			names = append(names, d)
		}
	}
	return names
}

// scanAll scans every file that the compile read.
func (j *job) scanAll(c *compiled) ([]compiler.File, error) {
	files := make([]compiler.File, len(c.deps))
	for i, d := range c.deps {
		f := j.e.files.at(j.prep.place.absolute(d))
		scan, err := j.e.scan(f)
		if err != nil {
			return nil, err
		}
		files[i] = compiler.File{Path: d, Scan: scan}
	}
	return files, nil
}

// scan returns what a file's text says, remembered by its content. A file that is
// not known is read once.
func (e *Engine) scan(f *file) (s *compiler.FileScan, err error) {
	known := func(sum digest.Digest) (ok bool) {
		s, ok = e.scans.get(sum)
		return ok
	}
	_, _, err = e.files.digestOr(f, known, func(sum digest.Digest, text []byte) {
		if !known(sum) {
			s = compiler.Scan(text)
			e.scans.put(sum, s)
		}
	})
	return s, err
}

// assemblerTemp matches the names that the drivers give to the assembler's
// input (libiberty's make_temp_file), which its list of files includes.
var assemblerTemp = regexp.MustCompile(`^cc[A-Za-z0-9]{6}\.s$`)

// asmInputs are the files that the assembler read besides its input. Its list
// also holds names out of .file directives, which prefix maps and #line make
// up, and which need not exist. A name that does not exist may be a file that
// .incbin read and somebody removed since only where the sources can make the
// assembler include anything.
func (j *job) asmInputs(c *compiled, files []compiler.File) ([]string, error) {
	known := map[string]bool{c.inv.Source: true}
	for _, d := range c.deps {
		known[d] = true
	}
	includes := assembles(files)
	var extra []string
	for _, name := range c.asm {
		if known[name] || assemblerTemp.MatchString(filepath.Base(name)) {
			continue
		}
		known[name] = true
		abs := j.prep.place.absolute(name)
		var st unix.Stat_t
		if unix.Stat(abs, &st) == nil {
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				extra = append(extra, name)
			}
			continue
		}
		// gcc's own .file directive gives the source without its directory.
		if includes && name != filepath.Base(c.inv.Source) && unix.Stat(filepath.Dir(abs), &st) == nil && j.e.files.changedSince(&c.start, filepath.Dir(abs), j.e.files.stamp(&st)) {
			return nil, refuse(reasonModified, "%s is gone", name)
		}
	}
	return extra, nil
}

func removeAll(names ...string) {
	for _, n := range names {
		os.Remove(n)
	}
}
