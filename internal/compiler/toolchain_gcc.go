package compiler

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"hpcc.dev/hpcc/internal/digest"
)

// gccCompilers are the programs that turn a source into assembly. lto1, the
// plugin and collect2 run when linking only: with -c, -flto makes cc1 write
// its own representation.
var gccCompilers = []string{"cc1", "cc1plus", "cc1obj", "cc1objplus"}

// detectGCC adds what gcc's driver runs and reads.
func (det *detection) detectGCC(ctx context.Context, t *Toolchain) error {
	install, dirs, err := det.searchDirs(ctx)
	if err != nil {
		return err
	}
	for _, name := range gccCompilers {
		path, err := det.driver.askProgram(ctx, name)
		if err != nil {
			return unlessContext(err)
		}
		candidates := helperCandidates(dirs, name)
		if !filepath.IsAbs(path) {
			// Not installed. A bare name is left to execvp, but nobody keeps
			// cc1 in PATH, so that only gcc's own places are watched.
			det.absentBefore("", candidates)
			det.fact("absent", name)
			continue
		}
		det.absentBefore(path, candidates)
		if err := det.program(ctx, name, path); err != nil {
			return err
		}
	}
	if err := det.assembler(ctx, t, dirs); err != nil {
		return err
	}
	if det.driver.split {
		if _, err := det.tool(ctx, t, dirs, "objcopy"); err != nil {
			return err
		}
	}
	if t.Sysroot, err = det.driver.askLine(ctx, "-print-sysroot"); err != nil {
		return unlessContext(err)
	}
	return det.specs(ctx, t, install)
}

// helperCandidates are the paths at which a driver looks for a program, in
// order. Drivers try other names as well, but find those in the same
// directories.
func helperCandidates(dirs []string, names ...string) []string {
	var paths []string
	for _, dir := range dirs {
		for _, name := range names {
			paths = append(paths, dir+name)
		}
	}
	return paths
}

// assembler adds the assembler.
func (det *detection) assembler(ctx context.Context, t *Toolchain, dirs []string) (err error) {
	t.AsPath, err = det.tool(ctx, t, dirs, "as")
	return err
}

// tool adds a program of binutils, which both families find among the driver's
// programs first and then through PATH. It returns the path, "" for none.
func (det *detection) tool(ctx context.Context, t *Toolchain, dirs []string, name string) (path string, err error) {
	if path, err = det.driver.askProgram(ctx, name); err != nil {
		return "", unlessContext(err)
	}
	candidates := helperCandidates(dirs, t.Target+"-"+name, name)
	found := det.absentBefore(path, candidates)
	if !found && (path == name || t.Family == Clang) {
		search, all := det.pathCandidates(name)
		if path == name {
			if path = firstExecutable(search); path == "" && !all {
				return "", fmt.Errorf("%w: its %s depends on the working directory by PATH", ErrUnknownCompiler, name)
			}
		}
		det.absentBefore(path, search)
	}
	if path == "" || path == name {
		det.fact("absent", name)
		return "", nil
	}
	return path, det.program(ctx, name, path)
}

// pathCandidates are the paths that execvp tries for a bare name, up to the
// first that depends on the working directory; all is false if there is one.
func (det *detection) pathCandidates(name string) (paths []string, all bool) {
	path, ok := det.driver.getenv("PATH")
	if !ok {
		path = "/bin:/usr/bin" // glibc's own default
	}
	for dir := range strings.SplitSeq(path, ":") {
		if !filepath.IsAbs(dir) {
			return paths, false
		}
		paths = append(paths, dir+"/"+name)
	}
	return paths, true
}

// firstExecutable is what execvp would run of candidates, "" for none.
func firstExecutable(candidates []string) string {
	for _, c := range candidates {
		if st, err := os.Stat(c); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return c
		}
	}
	return ""
}

// specs adds the rules by which gcc composes its children's command lines:
// those built in, and a file that replaces them where one is found. The driver
// looks for it where -B and some variables say, in its own directory, the one
// above, and the target's.
func (det *detection) specs(ctx context.Context, t *Toolchain, install string) error {
	builtin, _, err := det.driver.ask(ctx, "-dumpspecs")
	if err != nil {
		return unlessContext(err)
	}
	det.fact("specs", digest.Of(builtin).String())
	if install == "" {
		return fmt.Errorf("%w: %s does not say where it is installed", ErrUnknownCompiler, det.driver.path)
	}
	install = strings.TrimSuffix(install, "/")
	machine := t.Target + "/" + filepath.Base(install)
	version := filepath.Base(install)
	for _, prefix := range det.prefixes() {
		for _, path := range []string{prefix + t.Target + "/" + version + "/specs", prefix + "specs"} {
			if det.watch.absence(path) {
				continue
			}
			if err := det.part("specs", path); err != nil {
				return err
			}
		}
	}
	for _, path := range []string{
		install + "/specs",
		install + "/../../../../" + t.Target + "/lib/" + machine + "/specs",
		install + "/../../../../" + t.Target + "/lib/specs",
		filepath.Dir(install) + "/specs",
	} {
		if det.watch.absence(path) {
			continue
		}
		if err := det.part("specs", path); err != nil {
			return err
		}
	}
	return nil
}

// prefixes are what gcc puts before the names of its files besides its own
// directories: the values of -B, which need not end at a directory's end,
// GCC_EXEC_PREFIX, and the directories of LIBRARY_PATH.
func (det *detection) prefixes() []string {
	absolute := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return det.driver.dir + "/" + p
	}
	var list []string
	for _, o := range det.driver.options {
		p := strings.TrimPrefix(strings.TrimPrefix(o, "--prefix="), "-B")
		if p == "" {
			continue // the next option is its value
		}
		list = append(list, absolute(p))
		if !strings.HasSuffix(p, "/") {
			list = append(list, absolute(p)+"/")
		}
	}
	if p, ok := det.driver.getenv("GCC_EXEC_PREFIX"); ok {
		list = append(list, absolute(p))
	}
	for _, name := range []string{"LIBRARY_PATH", "LPATH"} {
		if dirs, ok := det.driver.getenv(name); ok {
			for dir := range strings.SplitSeq(dirs, ":") {
				list = append(list, absolute(dir)+"/")
			}
		}
	}
	return list
}
