package compiler

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/digest"
)

// detection is one look at a compiler: what it says, what it is made of, and
// what all that rests on.
type detection struct {
	driver   driver
	contents *contentMemo
	watch    *watcher

	banner []string // the lines of -v that tell builds apart
	parts  []Part
	facts  []Fact
}

func (det *detection) fact(label string, values ...string) {
	det.facts = append(det.facts, Fact{label, values})
}

// launchers are programs that take a compiler's name and run another one. They
// answer -v as that one does.
var launchers = []string{"ccache", "distcc", "sccache", "icecc", "zccache", "kache", "buildcache",
	"fastbuild", "goma", "gomacc", "reclient", "rewrapper", "colorgcc", "pump", "hpcc", "hpccd"}

// IsLauncher reports whether a path is that of a program that takes a
// compiler's name and runs another one.
func IsLauncher(path string) bool { return slices.Contains(launchers, filepath.Base(path)) }

func (det *detection) detect(ctx context.Context) (*Toolchain, error) {
	real, err := filepath.EvalSymlinks(det.driver.path)
	if err != nil {
		return nil, err
	}
	if IsLauncher(real) {
		return nil, fmt.Errorf("%w: it is %s", ErrCompilerScript, real)
	}
	// The content goes first: a script must not be run to learn that it is one.
	if err := det.program(ctx, "driver", det.driver.path); err != nil {
		return nil, err
	}
	_, stderr, err := det.driver.ask(ctx, "-v")
	if err != nil {
		return nil, unlessContext(err)
	}
	t := &Toolchain{}
	switch about := readBanner(stderr); about.family {
	case GCC:
		// gcc reports argv[0]. A launcher passes on its own idea of the name.
		if about.collectGCC != det.driver.argv0 {
			return nil, fmt.Errorf("%w: started as %s, it runs %s", ErrCompilerScript, det.driver.argv0, about.collectGCC)
		}
		det.banner, t.Family, t.Version, t.Target = about.lines, GCC, about.version, about.target
		err = det.detectGCC(ctx, t)
	case Clang:
		det.banner, t.Family, t.Version, t.Target = about.lines, Clang, about.version, about.target
		err = det.detectClang(ctx, t, about, real)
	default:
		return nil, fmt.Errorf("%w: %s", ErrUnknownCompiler, det.driver.path)
	}
	if err != nil {
		return nil, err
	}
	t.facts = append([]Fact{{"name", []string{filepath.Base(det.driver.argv0)}}, {"banner", det.banner}}, det.facts...)
	t.Parts, t.Identity = det.parts, det.identity(t)
	return t, nil
}

// identity joins all that can change what the compiler makes. The name that
// the driver goes by is part of it: it chooses clang's language mode and
// target, and stands at the head of the driver's warnings.
func (det *detection) identity(t *Toolchain) digest.Key {
	k := digest.NewKey("toolchain")
	k.Field("family", t.Family.String())
	for _, f := range t.facts {
		k.Field(f.Label, f.Values...)
	}
	for _, p := range det.parts {
		k.Field("part", p.Name, p.Digest.String())
	}
	return k.Sum()
}

// program adds an executable and the libraries that it loads to the parts.
func (det *detection) program(ctx context.Context, name, path string) error {
	x, err := readExecutable(path)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := det.part(name, path); err != nil {
		return err
	}
	if x.interpreter == "" {
		return nil
	}
	libs, err := loadedLibraries(ctx, x.interpreter, path, det.driver.env, det.driver.dir)
	if err != nil {
		return fmt.Errorf("libraries of %s: %w", name, unlessContext(err))
	}
	// What ldconfig knows and what is loaded into every program.
	det.watch.path("/etc/ld.so.cache")
	det.watch.path("/etc/ld.so.preload")
	runPath := x.runPath
	for _, lib := range libs {
		y, err := readExecutable(lib.path)
		if err != nil {
			return fmt.Errorf("library %s of %s: %w", lib.name, name, err)
		}
		runPath = append(runPath, y.runPath...)
		if err := det.part("library "+lib.name, lib.path); err != nil {
			return err
		}
	}
	det.watchLibraryDirs(runPath, libs)
	return nil
}

// watchLibraryDirs watches the directories in which libraries are looked for
// before the system's. Those named in the files belong to an installation and
// seldom change, so one stat each will do. Those of LD_LIBRARY_PATH may be a
// build's own, where something changes all the time: there the names count. A
// variant for the machine's processor in glibc-hwcaps is seen if that
// directory is new.
func (det *detection) watchLibraryDirs(runPath []string, libs []library) {
	for _, dir := range runPath {
		if filepath.IsAbs(dir) {
			det.watch.absence(dir) // or its presence
		}
	}
	dirs, _ := det.driver.getenv("LD_LIBRARY_PATH")
	if dirs == "" {
		return
	}
	// An empty element is the working directory (ld.so(8)).
	for dir := range strings.SplitSeq(strings.ReplaceAll(dirs, ";", ":"), ":") {
		if !filepath.IsAbs(dir) {
			dir = det.driver.dir + "/" + dir
		}
		det.watch.absence(dir + "/glibc-hwcaps")
		for _, lib := range libs {
			det.watch.absence(dir + "/" + lib.name)
		}
	}
}

// part adds a file to the parts, once.
func (det *detection) part(name, path string) error {
	p := Part{Name: name, Path: path}
	if slices.ContainsFunc(det.parts, func(q Part) bool { return q.Name == name && q.Path == path }) {
		return nil
	}
	s := det.watch.path(path)
	if !s.exists() {
		return &os.PathError{Op: "stat", Path: path, Err: os.ErrNotExist}
	}
	var err error
	if p.Digest, err = det.contents.digest(path, s); err != nil {
		return err
	}
	det.parts = append(det.parts, p)
	return nil
}

// absentBefore watches the places where a program would be found before found
// ("" if nowhere), and reports whether found was among them.
func (det *detection) absentBefore(found string, candidates []string) bool {
	for _, c := range candidates {
		if c == found {
			return true
		}
		det.watch.absence(c)
	}
	return false
}

// banner is what -v tells.
type banner struct {
	family                              Family
	version, target                     string
	collectGCC                          string // gcc: argv[0]
	installedDir, installation, configs string // clang
	lines                               []string
}

// readBanner reads the answer to -v. The family is what the compiler calls
// itself at the start of a line; other compilers mention gcc in the middle of
// one to say what they are compatible with.
func readBanner(stderr []byte) banner {
	var b banner
	for line := range strings.Lines(string(stderr)) {
		line = strings.TrimRight(line, " \r\n")
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "Target":
			b.target = value
			b.lines = append(b.lines, line)
		case "Configured with", "Thread model", "Selected multilib":
			b.lines = append(b.lines, line)
		case "InstalledDir":
			b.installedDir = value
		case "Selected GCC installation":
			b.installation = value
			b.lines = append(b.lines, line)
		case "Configuration file":
			b.configs += value + "\n"
		}
		if v, ok := strings.CutPrefix(line, "COLLECT_GCC="); ok {
			b.collectGCC = v
		}
		if v, ok := strings.CutPrefix(line, "gcc version "); ok {
			b.family, b.version = GCC, firstWord(v)
			b.lines = append(b.lines, line)
		}
		// "clang version 14.0.6", "Debian clang version …", "Apple clang …".
		if before, v, ok := strings.Cut(line, "clang version "); ok && strings.Count(before, " ") <= 1 {
			b.family, b.version = Clang, firstWord(v)
			b.lines = append(b.lines, line)
		}
	}
	return b
}

func firstWord(s string) string {
	word, _, _ := strings.Cut(s, " ")
	return word
}

// searchDirs reads the answer to -print-search-dirs: where the installation
// is, and the directories of helper programs, each with a slash at its end.
func (det *detection) searchDirs(ctx context.Context) (install string, programs []string, err error) {
	stdout, _, err := det.driver.ask(ctx, "-print-search-dirs")
	if err != nil {
		return "", nil, unlessContext(err)
	}
	for line := range bytes.Lines(stdout) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), ": ")
		switch name {
		case "install":
			install = value
		case "programs":
			for dir := range strings.SplitSeq(strings.TrimPrefix(value, "="), ":") {
				programs = append(programs, det.driver.at(strings.TrimSuffix(dir, "/")+"/"))
			}
		}
	}
	return install, programs, nil
}

// unlessContext marks a compiler's failure to answer as such.
func unlessContext(err error) error {
	if isContextError(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnknownCompiler, err)
}
