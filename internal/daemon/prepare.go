package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/compiler/env"
	"hpcc.dev/hpcc/internal/digest"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// prepared is what can be said of a compile before any input is looked at. It
// depends on the request alone, and on what the toolchain is, which is checked
// each time.
type prepared struct {
	inv   *compiler.Invocation
	tool  *compiler.Toolchain
	place place
	// key names the manifest: toolchain, command, environment, and the
	// working directory where an output holds it.
	key digest.Key
	// command, env and cwd are the parts of the key, neutral, for the action. Of
	// a job for a worker cwd is the logical directory here.
	command []string
	env     []string
	cwd     string
	// extra and setEnv are what hpcc adds in reproducible mode to the options
	// and to the environment.
	extra  []string
	setEnv []string
	// messages is what the diagnostics depend on besides.
	messages messages
	// work is the job for a worker, where one is to make the compile; command,
	// extra and setEnv are empty then. coloured is true where hpcc asked for
	// colours in the messages.
	work     *action.Job
	coloured bool
	// inPlace is true where the machine has the roots where they are here.
	inPlace bool
}

func (p *prepared) id() manifestID { return manifestID{p.key, p.place.id()} }

// prepare parses the request, or recalls having done so.
func (e *Engine) prepare(ctx context.Context, req *ipcv1.Compile) (*prepared, error) {
	// Both follow symbolic links and directories that may change between two
	// equal requests.
	cwd, err := logicalCwd(req)
	if err != nil {
		return nil, err
	}
	paths := e.pathMap(req, cwd)
	memo, repeatable := requestKey(req, cwd, place{cwd: req.GetCwd(), paths: paths})
	known, ok := e.prepared.get(memo)
	var inv *compiler.Invocation
	if ok && repeatable {
		inv = known.inv
	} else {
		known = nil
		// Before the toolchain is looked at: most calls that are not compiles
		// are told by their arguments alone.
		if inv, err = compiler.Parse(e.command(req)); err != nil {
			return nil, err
		}
	}
	tool, err := e.detector.Identify(ctx, req.GetCompiler(), req.GetCompiler(), req.GetEnv())
	switch {
	case errors.Is(err, compiler.ErrCompilerScript):
		return nil, refuse(reasonScript, "%s", req.GetCompiler())
	case err != nil:
		return nil, refuse(reasonUnknown, "%s", err)
	}
	if inv.Family != tool.Family {
		if inv, err = compiler.ParseAs(tool.Family, e.command(req)); err != nil {
			return nil, err
		}
	}
	if tool, err = tool.For(ctx, inv, req.GetCwd()); err != nil {
		return nil, refuse(reasonUnknown, "%s", err)
	}
	if known != nil && known.tool.Identity == tool.Identity {
		return known, nil
	}
	p, err := e.complete(ctx, req, inv, tool, cwd, paths)
	if err != nil {
		return nil, err
	}
	if repeatable {
		e.prepared.put(memo, p)
	}
	return p, nil
}

func (e *Engine) command(req *ipcv1.Compile) compiler.Command {
	return compiler.Command{
		Compiler: req.GetCompiler(), Args: req.GetArgs(), Cwd: req.GetCwd(), Env: req.GetEnv(),
		ReadFile: func(name string) ([]byte, error) {
			_, _, data, err := e.files.content(e.files.at(name))
			return data, err
		},
	}
}

// requestKey joins all of a request that prepare reads. It is not repeatable
// where prepare reads files besides (response files).
func requestKey(req *ipcv1.Compile, cwd string, p place) (key string, repeatable bool) {
	var b strings.Builder
	b.Grow(4096)
	field := func(s string) { b.WriteString(s); b.WriteByte(0) }
	field(req.GetCompiler())
	field(cwd)
	field(p.id())
	for _, a := range req.GetArgs() {
		if strings.HasPrefix(a, "@") {
			return "", false
		}
		field(a)
	}
	field("")
	for _, v := range req.GetEnv() {
		field(v)
	}
	for _, t := range []*ipcv1.Terminal{req.GetStdin(), req.GetStdout(), req.GetStderr()} {
		field(terminalText(t))
	}
	field(strconv.FormatBool(req.GetMerged()))
	return b.String(), true
}

// complete makes keys of what was parsed. cwd is the logical working
// directory.
func (e *Engine) complete(ctx context.Context, req *ipcv1.Compile, inv *compiler.Invocation, tool *compiler.Toolchain, cwd string, paths *compiler.PathMap) (*prepared, error) {
	if inv.RecordsCommand {
		paths = nil // the command holds the paths of this checkout
	}
	p := &prepared{inv: inv, tool: tool, place: place{cwd: req.GetCwd(), paths: paths}}
	p.command = inv.KeyArgs(paths)
	if inv.Deps.Requested && !inv.Deps.SystemHeaders {
		// Results for -MMD carry which dependencies are the user's own.
		p.command = append(p.command, "-MMD")
	}
	if inv.Native {
		native, err := tool.NativeExpansion(ctx, inv)
		if err != nil {
			return nil, refuse(reasonUnknown, "what native means: %s", err)
		}
		p.command = append(p.command, action.Mark(action.MarkNative, native))
	}
	var stdio []string
	for _, kv := range req.GetEnv() {
		name, value, _ := strings.Cut(kv, "=")
		roles := env.Roles(name)
		if roles&env.MSVC != 0 && !inv.Family.MSVC() {
			continue
		}
		if roles&(env.Key|env.Search|env.Time) != 0 {
			p.env = append(p.env, name+"="+paths.Neutral(value))
		}
		if roles&env.Stdio != 0 {
			stdio = append(stdio, kv)
		}
	}
	if inv.HoldsCwd {
		p.cwd = paths.Neutral(cwd)
	}
	if paths != nil {
		// What reproducible builds leave is not what the plain compiler does,
		// also where all else of the two actions is the same.
		p.command = append(p.command, action.Mark(action.MarkMode, "reproducible"))
		p.extra = reproducibleOptions(p, cwd, e.opt.DateTime)
		if e.opt.DateTime == "pin" && inv.Family == compiler.GCC && getenv(req.GetEnv(), "SOURCE_DATE_EPOCH") == "" {
			p.setEnv = []string{pinnedTime}
			p.env = append(p.env, pinnedTime)
		}
	}
	slices.Sort(p.env)
	// The wrapper starts the compiler by its path.
	argv0 := filepath.Base(req.GetCompiler())
	p.key = digest.NewKey("manifest").
		Field("toolchain", string(tool.Identity[:])).
		Field("argv0", argv0).
		Field("command", p.command...).
		Field("env", p.env...).
		Field("cwd", p.cwd).
		Sum()
	p.messages = messagesOf(req, stdio)
	return p, nil
}

// pinnedTime is what the time macros say where they are pinned: the first
// moment that every archive format can hold.
const pinnedTime = "SOURCE_DATE_EPOCH=315532800"

// getenv is a variable's value in a list of NAME=value, or "".
func getenv(env []string, name string) string {
	value, _ := lookupEnv(env, name)
	return value
}

// lookupEnv tells besides whether the variable is set.
func lookupEnv(env []string, name string) (value string, set bool) {
	for _, kv := range env {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			return v, true
		}
	}
	return "", false
}

// logicalCwd is the directory that gcc and clang write into debug
// information: $PWD where it names the working directory, else the kernel's
// name for it.
func logicalCwd(req *ipcv1.Compile) (string, error) {
	pwd := getenv(req.GetEnv(), "PWD")
	switch {
	case !filepath.IsAbs(pwd):
	case pwd == ownCwd:
		return pwd, nil
	case strings.HasPrefix(pwd, "/proc/"):
		// Whether it names the compiler's own directory cannot be seen here.
		return "", refuse(compiler.ReasonEnvironment, "PWD=%s", pwd)
	default:
		a, errA := os.Stat(pwd)
		b, errB := os.Stat(req.GetCwd())
		if errA == nil && errB == nil && os.SameFile(a, b) {
			return pwd, nil
		}
	}
	return req.GetCwd(), nil
}

// ownCwd is what some build systems set PWD to, so that debug information
// names no directory of theirs. It always is the process's own.
const ownCwd = "/proc/self/cwd"

// neutralRoot is where roots appear to lie in reproducible objects: the first
// at /hpcc/src, further ones at /hpcc/src1, /hpcc/src2, ….
func neutralRoot(i int) string {
	const first = "/hpcc/src"
	if i == 0 {
		return first
	}
	return first + strconv.Itoa(i)
}

// pathMap finds the roots of a compile in the logical directory cwd; nil with
// reproducible mode off.
func (e *Engine) pathMap(req *ipcv1.Compile, cwd string) *compiler.PathMap {
	if !e.opt.Reproducible {
		return nil
	}
	dirs := e.opt.Roots
	if v := getenv(req.GetEnv(), "HPCC_ROOT"); v != "" {
		dirs = filepath.SplitList(v)
	}
	if len(dirs) == 0 {
		if cwd == ownCwd {
			cwd = req.GetCwd()
		}
		if d := projectRoot(cwd); d != "" {
			dirs = []string{d}
		}
	}
	return pathMapOf(dirs)
}

// pathMapOf maps those of dirs that can be roots.
func pathMapOf(dirs []string) *compiler.PathMap {
	m := &compiler.PathMap{}
	for _, d := range dirs {
		// The root of the file system would make every path the project's.
		if d = filepath.Clean(d); filepath.IsAbs(d) && d != "/" && len(m.Roots) < compiler.MaxRoots {
			m.Roots = append(m.Roots, compiler.Root{Dir: d, Neutral: neutralRoot(len(m.Roots))})
		}
	}
	return m
}

// projectRoot is the nearest ancestor of dir (or dir itself) with .hpcc.toml
// or a version-control directory, or "".
func projectRoot(dir string) string {
	for {
		for _, mark := range []string{".hpcc.toml", ".git", ".hg", ".svn", ".jj"} {
			if _, err := os.Lstat(filepath.Join(dir, mark)); err == nil {
				return dir
			}
		}
		up := filepath.Dir(dir)
		if up == dir {
			return ""
		}
		dir = up
	}
}

// reproducibleOptions are the options that make an object independent of
// where the checkout lies.
func reproducibleOptions(p *prepared, cwd, dateTime string) []string {
	var pairs [][2]string
	for _, r := range p.place.paths.Roots {
		// With the slash, or a sibling whose name begins with the root's
		// would be mapped too. The root's own name only occurs as the
		// working directory in debug information.
		pairs = append(pairs, [2]string{r.Dir + "/", r.Neutral + "/"})
		if cwd == r.Dir {
			pairs = append(pairs, [2]string{r.Dir, r.Neutral})
		}
	}
	opts := p.inv.ReproducibleArgs(pairs)
	if p.inv.RandomSeed == "" && p.inv.Family == compiler.GCC {
		opts = append(opts, "-frandom-seed="+p.inv.Seed(p.place.paths))
	}
	if dateTime == "error" {
		opts = append(opts, "-Werror=date-time")
	}
	return opts
}
