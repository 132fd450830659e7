package daemon

import (
	"bytes"
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/remote"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// checkOutputs leaves to the compiler to say what is wrong with a place where
// nothing can be written: a worker's machine would not notice.
func (j *job) checkOutputs() error {
	for _, path := range j.written() {
		if dir := filepath.Dir(path); unix.Access(dir, unix.W_OK|unix.X_OK) != nil {
			return stay(reasonOutputDir, "%s", dir)
		}
	}
	return nil
}

// resultOf is a worker's result as the cache keeps it.
func (j *job) resultOf(res *remote.Result) (*result, error) {
	r := &result{
		Result:  &action.Result{Stdout: res.Stdout, Stderr: res.Stderr, CompileTime: res.CompileTime},
		outputs: map[string]output{},
	}
	for _, o := range res.Outputs {
		if o.Role == compiler.RoleDependencies {
			_, names, err := compiler.ParseDepFile(o.Data)
			if err != nil {
				return nil, stay(reasonDepFile, "%s", err)
			}
			for _, n := range names {
				r.Dependencies = append(r.Dependencies, action.Dependency{Path: n})
			}
			continue
		}
		r.outputs[o.Role] = output{o.Data}
		r.Outputs = append(r.Outputs, action.Output{Role: o.Role, Digest: o.Digest, Executable: o.Executable})
	}
	return r, nil
}

// leaveFailed leaves of a compile that failed what the compiler leaves then: most
// often the dependency file alone, by which make knows what to wait for. Its
// object is none, whatever the worker says. If that cannot be written, the build,
// which has failed, hears no more of it.
func (j *job) leaveFailed(res *remote.Result) {
	if res.Signal != 0 {
		return
	}
	inv, p := j.prep.inv, j.prep.place
	if j.e.files.at(p.absolute(inv.Source)).isAt(p.absolute(inv.Object)) {
		return
	}
	r, err := j.resultOf(res)
	if err != nil {
		j.e.log.Warn("output-not-left", "error", err.Error(), "source", j.source())
		return
	}
	var files []outputFile
	var gone []string
	said := escapes.ReplaceAll(res.Stderr, nil)
	left := func(role string) bool {
		return slices.ContainsFunc(res.Outputs, func(o remote.Output) bool { return o.Role == role })
	}
	for i, o := range inv.Outputs {
		out, made := r.outputs[o.Role]
		switch {
		case made && i > 0:
			f := j.outputFile(o.Path, out.data)
			f.how = mannerOf(inv.Family, o.Role)
			files = append(files, f)
		case inv.RemovesAtFailure(o.Role, said):
			gone = append(gone, p.absolute(o.Path))
		}
	}
	switch {
	case !inv.Deps.Requested:
	case left(compiler.RoleDependencies):
		files = append(files, j.depsFile(r))
	case inv.RemovesAtFailure(compiler.RoleDependencies, said):
		gone = append(gone, p.absolute(inv.Deps.File))
	}
	if err := j.writeAll(files); err != nil {
		j.e.log.Warn("output-not-left", "error", err.Error(), "source", j.source())
	}
	for _, path := range gone {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			_ = unix.Unlink(path) // what cannot be removed, the compiler would have left, too
		}
	}
}

// keepAway stores a worker's result here, too. If that fails, the build still has
// what it needs.
func (j *job) keepAway(id manifestID, res *remote.Result, r *result) {
	if _, err := j.put(id, res.Key, &action.Entry{Action: *res.Action, Result: *r.Result}, r.outputs); err != nil {
		j.notKept(err)
	}
}

// failedByDate reports whether a compile failed by dateTimeError, and by nothing
// else.
func (j *job) failedByDate(res *remote.Result) bool {
	if res.ExitCode == 0 || res.Signal != 0 || j.e.opt.DateTime == "error" || !slices.Contains(j.prep.work.Argv, dateTimeError) {
		return false
	}
	text := escapes.ReplaceAll(res.Stderr, nil)
	return bytes.Contains(text, []byte(dateTimeError)) || bytes.Contains(text, []byte("-Werror,-Wdate-time"))
}

var noSuchFile = regexp.MustCompile(`fatal error: .*(No such file or directory|file not found)`)

func missesHeader(stderr []byte) bool { return noSuchFile.Match(escapes.ReplaceAll(stderr, nil)) }

func shortImage(image string) string {
	if len(image) > len("sha256:")+12 {
		return image[:len("sha256:")+12]
	}
	return image
}

func joinRoots(p place) string { return strings.Join(p.rootDirs(), ", ") }

// escapes are what gcc and clang write to colour their messages: SGR, and the
// erasing of the rest of the line behind it (ECMA-48).
var escapes = regexp.MustCompile("\x1b\\[[0-9;:]*[mK]")

// shown is a stored message as this build's terminal, or file, is to have it.
func (j *job) shown(text []byte) []byte {
	p := j.prep.place
	if j.prep.work == nil {
		return p.localText(text)
	}
	// Paths stand right behind escapes, which end in a letter.
	out := make([]byte, 0, len(text)+64)
	keep := !j.prep.coloured || wantsColour(j.req)
	for len(text) > 0 {
		at := escapes.FindIndex(text)
		if at == nil {
			at = []int{len(text), len(text)}
		}
		out = append(out, p.localText(text[:at[0]])...)
		if keep {
			out = append(out, text[at[0]:at[1]]...)
		}
		text = text[at[1]:]
	}
	if j.req.GetStderr().GetIsTerminal() {
		out = tame(out)
	}
	return out
}

// wantsColour is the compilers' own rule for -fdiagnostics-color=auto.
func wantsColour(req *ipcv1.Compile) bool {
	term := getenv(req.GetEnv(), "TERM")
	if getenv(req.GetEnv(), "NO_COLOR") != "" || !req.GetStderr().GetIsTerminal() {
		return false
	}
	colors, set := lookupEnv(req.GetEnv(), "GCC_COLORS")
	return term != "" && term != "dumb" && !(set && colors == "")
}

// c1 begins the control characters of ISO 6429's second set in UTF-8, which
// some terminals obey as well.
const c1 = 0xc2

// tame keeps a machine's text from steering the terminal: but for colours, each
// control character is shown and not sent.
func tame(text []byte) []byte {
	harmless := func(c byte) bool { return c >= ' ' && c != 0x7f || c == '\n' || c == '\t' }
	if !slices.ContainsFunc(text, func(c byte) bool { return !harmless(c) || c == c1 }) {
		return text
	}
	out := make([]byte, 0, len(text)+16)
	for len(text) > 0 {
		if text[0] == 0x1b {
			if m := escapes.FindIndex(text); m != nil && m[0] == 0 {
				out, text = append(out, text[:m[1]]...), text[m[1]:]
				continue
			}
		}
		switch c := text[0]; {
		case c == c1 && len(text) > 1 && text[1] < 0xa0:
			out = append(out, '?')
			text = text[1:]
		case harmless(c):
			out = append(out, c)
		case c == 0x7f:
			out = append(out, "^?"...)
		default:
			out = append(out, '^', c+'@')
		}
		text = text[1:]
	}
	return out
}

// dropForeign leaves out of a dependency file what is the image's and not here:
// make would ask for a rule to make it.
func (j *job) dropForeign(names []string) []string {
	if j.prep.work == nil {
		return names
	}
	return slices.DeleteFunc(names, func(n string) bool {
		if !filepath.IsAbs(n) || below(j.prep.place, n) {
			return false
		}
		var st unix.Stat_t
		err := unix.Stat(n, &st)
		return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
	})
}
