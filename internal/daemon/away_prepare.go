package daemon

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/compiler/env"
	"hpcc.dev/hpcc/internal/digest"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// dateTimeError makes a unit fail whose object would hold the time of the
// compile. On what is preprocessed already it does nothing, and where the
// environment pins the time there is no need of it.
const dateTimeError = "-Werror=date-time"

// prepareAway parses a request for a worker, or recalls having done so. A
// *compiler.NotCacheable says why no worker can make the compile. inPlace asks
// for the roots to lie in the machine where they lie here.
func (e *Engine) prepareAway(req *ipcv1.Compile, inPlace bool) (*prepared, error) {
	cwd, err := logicalCwd(req)
	if err != nil {
		return nil, err
	}
	paths := outermost(e.pathMap(req, cwd))
	memo, repeatable := requestKey(req, cwd, place{cwd: req.GetCwd(), paths: paths})
	memo = "away\x00" + strconv.FormatBool(inPlace) + memo
	if known, ok := e.prepared.get(memo); ok && repeatable {
		return known, nil
	}
	inv, err := compiler.Parse(e.awayCommand(req))
	if err != nil {
		return nil, err
	}
	p, err := e.completeAway(req, inv, cwd, paths, inPlace)
	if err != nil {
		return nil, err
	}
	if repeatable {
		e.prepared.put(memo, p)
	}
	return p, nil
}

// awayCommand is the request's command, by the name that the image knows the
// compiler by.
func (e *Engine) awayCommand(req *ipcv1.Compile) compiler.Command {
	c := e.command(req)
	if c.Compiler == "" && len(c.Args) > 0 {
		c.Compiler = c.Args[0]
	}
	return c
}

// completeAway makes the job of what was parsed.
func (e *Engine) completeAway(req *ipcv1.Compile, inv *compiler.Invocation, cwd string, paths *compiler.PathMap, inPlace bool) (*prepared, error) {
	if inv.Mode == compiler.Listing {
		return nil, refuse(compiler.ReasonPreprocessing, "")
	}
	if paths == nil || len(paths.Roots) == 0 {
		return nil, refuse(reasonNoRoot, "%s", cwd)
	}
	if inPlace = inPlace || inv.InPlace(); inPlace {
		paths = leftInPlace(paths)
	}
	p := &prepared{inv: inv, cwd: cwd, inPlace: inPlace, place: place{cwd: req.GetCwd(), paths: paths, machine: paths.Machine()}}
	if !below(p.place, cwd) {
		return nil, refuse(reasonNoRoot, "%s", cwd)
	}
	program, err := programIn(req, p.place)
	if err != nil {
		return nil, err
	}
	p.env = awayEnv(req, inv, p.place)
	if e.opt.DateTime == "pin" && getenv(req.GetEnv(), "SOURCE_DATE_EPOCH") == "" {
		p.env = append(p.env, pinnedTime)
	}
	pinned := slices.ContainsFunc(p.env, func(kv string) bool { return strings.HasPrefix(kv, "SOURCE_DATE_EPOCH=") })
	opt := compiler.RemoteOptions{Compiler: program, Cwd: cwd, Paths: paths}
	if e.opt.DateTime != "allow" && (!pinned || inv.Family != compiler.GCC) {
		opt.Extra = []string{dateTimeError}
	}
	cmd, err := inv.RemoteArgs(opt)
	if err != nil {
		return nil, err
	}
	p.work = &action.Job{
		Image: e.opt.Away.Image, Argv: cmd.Argv, Env: append(p.env, "PWD="+cmd.Cwd), Cwd: cmd.Cwd,
		Roots: append(rootsOf(p.place.machine), compiler.MachineOut), Source: cmd.Source,
	}
	for _, o := range cmd.Outputs {
		p.work.Outputs = append(p.work.Outputs, action.Declared{Role: o.Role, Path: o.Path, Optional: o.Optional})
	}
	p.key = p.work.Manifest(digest.Digest{})
	p.coloured = !inv.DecidesColour()
	return p, nil
}

// outermost leaves out the roots that lie below others: a machine has none within
// another.
func outermost(paths *compiler.PathMap) *compiler.PathMap {
	if paths == nil {
		return nil
	}
	m := &compiler.PathMap{}
	for i, r := range paths.Roots {
		if !slices.ContainsFunc(paths.Roots, func(other compiler.Root) bool {
			return strings.HasPrefix(r.Dir, other.Dir+"/")
		}) && !slices.ContainsFunc(paths.Roots[:i], func(other compiler.Root) bool { return r.Dir == other.Dir }) {
			m.Roots = append(m.Roots, compiler.Root{Dir: r.Dir, Neutral: neutralRoot(len(m.Roots))})
		}
	}
	return m
}

// leftInPlace leaves the roots where they are.
func leftInPlace(paths *compiler.PathMap) *compiler.PathMap {
	m := &compiler.PathMap{Roots: slices.Clone(paths.Roots)}
	for i := range m.Roots {
		m.Roots[i].Neutral = m.Roots[i].Dir
	}
	return m
}

func rootsOf(m *compiler.PathMap) (dirs []string) {
	for _, r := range m.Roots {
		dirs = append(dirs, r.Dir)
	}
	return dirs
}

// below reports whether an absolute path lies at or below a root.
func below(p place, path string) bool { return p.paths.Neutral(path) != path }

// programIn is the compiler's name in the image. A compiler that the build calls
// by a path is the one at that path of the image, unless it is a link to hpcc.
func programIn(req *ipcv1.Compile, p place) (string, error) {
	name := req.GetArgs()[0]
	if !strings.Contains(name, "/") {
		return name, nil
	}
	path := filepath.Clean(p.absolute(name))
	if below(p, path) {
		return "", refuse(reasonProjectCC, "%s", name)
	}
	var st unix.Stat_t
	if path != req.GetCompiler() && unix.Stat(path, &st) == nil {
		return filepath.Base(name), nil
	}
	return path, nil
}

// awayEnv holds the variables that decide the result. What chooses programs and
// messages is the image's matter and the same for everybody.
func awayEnv(req *ipcv1.Compile, inv *compiler.Invocation, p place) []string {
	var vars []string
	for _, kv := range req.GetEnv() {
		name, value, _ := strings.Cut(kv, "=")
		roles := env.Roles(name)
		switch {
		case roles&env.MSVC != 0 && !inv.Family.MSVC(), roles&env.Identity != 0 && roles&env.Key == 0:
		case roles&env.Search != 0:
			dirs := filepath.SplitList(value)
			for i, d := range dirs {
				dirs[i] = p.away(d)
			}
			vars = append(vars, name+"="+strings.Join(dirs, ":"))
		case roles&(env.Key|env.Time) != 0:
			vars = append(vars, name+"="+p.away(value))
		}
	}
	slices.Sort(vars)
	return vars
}

// awayID names the manifest with the job's result: the worker's own name for it.
func (j *job) awayID() (manifestID, error) {
	p := j.prep
	sum, _, err := j.e.files.digest(j.e.files.at(p.place.absolute(p.inv.Source)))
	if err != nil {
		// The compiler says it best.
		return manifestID{}, goHome{&compiler.NotCacheable{Reason: reasonIrregular, Detail: err.Error()}}
	}
	return manifestID{p.work.Manifest(sum), p.place.id()}, nil
}
