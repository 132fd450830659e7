package compiler

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// SearchPath returns the include chain of a compile in the working directory
// cwd with the environment env: the user's directories as the command spells
// them, and the compiler's own as it spells them in dependency output. For a
// language without includes it is empty. It may be called from many
// goroutines; what the compiler says of itself is remembered.
//
// Where two names of the chain are one directory, the chain has it once, as
// the compilers do: a -I directory that is also the system's keeps the
// system's place only. Which are one is so at the moment; Duplicates names
// them, so that a link that is turned later can be noticed.
func (t *Toolchain) SearchPath(ctx context.Context, inv *Invocation, cwd string, env []string) (SearchPath, error) {
	languageVariable, ok := includeVariables[inv.Language]
	if !ok {
		return SearchPath{}, nil
	}
	own, err := t.builtinChain(ctx, inv, cwd)
	if err != nil {
		return SearchPath{}, fmt.Errorf("include directories of %s: %w", t.driver.path, err)
	}
	in := &inv.Includes
	sp := SearchPath{
		Quote:  slices.Clone(in.Quote),
		Angle:  slices.Clone(in.Angle),
		System: slices.Clone(in.System),
		After:  slices.Clone(in.After),
	}
	sp.expandSysroot(t.Family, own.Sysroot)
	sp.Angle = append(sp.Angle, listedDirs(env, "CPATH")...)
	if languageVariable != "" {
		sp.System = append(sp.System, listedDirs(env, languageVariable)...)
	}
	sp.System = append(sp.System, own.Dirs...)
	sp.dropDuplicates(t.Family, cwd)
	return sp, nil
}

// includeVariables has the languages that are preprocessed, each with the
// variable that lists system directories for it besides CPATH.
var includeVariables = map[string]string{
	"c":                  "C_INCLUDE_PATH",
	"c++":                "CPLUS_INCLUDE_PATH",
	"objective-c":        "OBJC_INCLUDE_PATH",
	"objective-c++":      "OBJCPLUS_INCLUDE_PATH",
	"assembler-with-cpp": "C_INCLUDE_PATH",
}

// listedDirs are the directories in a variable of the form a:b. An empty
// element, also one at an end, is the working directory.
func listedDirs(env []string, name string) []string {
	for _, e := range env {
		value, ok := strings.CutPrefix(e, name+"=")
		if !ok {
			continue
		}
		if value == "" {
			return nil
		}
		dirs := strings.Split(value, ":")
		for i := range dirs {
			if dirs[i] == "" {
				dirs[i] = "."
			}
		}
		return dirs
	}
	return nil
}

// UserDirs are the directories in which the build itself may put what a
// compile looks for, as SearchPath and dependency lists spell them: the
// working directory ("."), the source's, and those that options and env name.
func (inv *Invocation) UserDirs(env []string) []string {
	in := &inv.Includes
	dirs := slices.Concat([]string{".", dirOf(inv.Source)}, in.Quote, in.Angle, in.System, in.After, listedDirs(env, "CPATH"))
	if name := includeVariables[inv.Language]; name != "" {
		dirs = append(dirs, listedDirs(env, name)...)
	}
	for i, d := range dirs {
		dirs[i] = orDot(trimDir(d))
	}
	return dirs
}

// expandSysroot replaces = and $SYSROOT at the start of the user's directories
// by the root of headers. gcc without such a root takes the names as they are
// written. clang knows = with -I alone, and without a root it means /.
func (sp *SearchPath) expandSysroot(family Family, sysroot string) {
	if family == GCC && sysroot == "" {
		return
	}
	sysroot = strings.TrimSuffix(sysroot, "/")
	expand := func(dirs []string) {
		for i, dir := range dirs {
			if rest, ok := strings.CutPrefix(dir, "="); ok {
				dirs[i] = sysroot + rest
			} else if rest, ok := strings.CutPrefix(dir, "$SYSROOT"); ok && family == GCC {
				dirs[i] = sysroot + rest
			}
		}
	}
	expand(sp.Angle)
	if family == GCC {
		expand(sp.Quote)
		expand(sp.System)
		expand(sp.After)
	}
}

// dropDuplicates removes the directories that the compilers ignore: within the
// system part, later names of an earlier directory; before it, names of
// directories that are in the system part too, and later ones of the same.
// clang looks at the quoted ones by themselves. Which are the same is decided
// by device and inode, as there. Directories that do not exist stay.
func (sp *SearchPath) dropDuplicates(family Family, cwd string) {
	type inode struct{ dev, ino uint64 }
	keepNew := func(dirs []string, seen, system map[inode]string) []string {
		return slices.DeleteFunc(dirs, func(dir string) bool {
			abs := dir
			if !filepath.IsAbs(dir) {
				abs = cwd + "/" + dir
			}
			s := stampOf(abs)
			if !s.exists() {
				return false
			}
			id := inode{s.Dev, s.Ino}
			kept, duplicate := seen[id]
			if !duplicate {
				kept, duplicate = system[id]
			}
			if !duplicate {
				seen[id] = dir
			} else if trimDir(kept) != trimDir(dir) {
				sp.Duplicates = append(sp.Duplicates, [2]string{dir, kept})
			}
			return duplicate
		})
	}
	system := make(map[inode]string)
	sp.System = keepNew(sp.System, system, nil)
	sp.After = keepNew(sp.After, system, nil)
	sp.Angle = keepNew(sp.Angle, make(map[inode]string), system)
	if family.IsClang() {
		system = nil
	}
	sp.Quote = keepNew(sp.Quote, make(map[inode]string), system)
}

// builtinChain is what a compiler searches of its own accord.
type builtinChain struct {
	Dirs    []string `json:"dirs"`
	Sysroot string   `json:"sysroot"`
}

// chainRecord is the stored form of a builtinChain.
type chainRecord struct {
	Version int          `json:"v"`
	Chain   builtinChain `json:"chain"`
	Watches watchList    `json:"watches"`
}

// builtinChain asks the compiler for its own directories under inv's options.
func (t *Toolchain) builtinChain(ctx context.Context, inv *Invocation, cwd string) (builtinChain, error) {
	drv := t.driver
	drv.options, drv.dir = inv.Probe, ""
	if t.Family == ClangCL || dependsOnCwd(drv.env) || slices.ContainsFunc(inv.Probe, mayNamePath) {
		drv.dir = cwd // clang-cl's INCLUDE, too, may hold relative names
	}
	key := t.Identity.String() + inv.Language + "\x00" + drv.key()
	return t.detector.chains.get(ctx, key, func(ctx context.Context) (builtinChain, watchList, bool, error) {
		name := recordName("chain", key)
		var r chainRecord
		if t.detector.loadRecord(name, &r) && r.Version == recordVersion && r.Watches.sane() &&
			len(r.Chain.Dirs) <= recordItems && r.Watches.hold() {
			return r.Chain, r.Watches, true, nil
		}
		watch := newWatcher()
		_, stderr, err := drv.ask(ctx, append([]string{"-E", "-v"}, t.Family.emptySource(inv.Language)...)...)
		if err != nil {
			return builtinChain{}, nil, false, err
		}
		shown := readShownChain(stderr)
		chain := builtinChain{Dirs: shown.order(t.Family), Sysroot: shown.sysroot}
		if chain.Sysroot == "" {
			chain.Sysroot = t.Sysroot
		}
		shown.watchBy(watch, t.Family, cwd)
		t.watchPrefixes(watch, inv.Probe, cwd)
		t.watchVisualStudio(watch, cwd)
		watches, settled := watch.list(), watch.settled()
		if settled {
			t.detector.storeRecord(name, chainRecord{recordVersion, chain, watches})
		}
		return chain, watches, settled, nil
	})
}

// mayNamePath reports whether a probe option may hold a path, which can be
// relative to the working directory. Only what surely holds none is excepted:
// an exception saves one run of the compiler per directory that make enters.
func mayNamePath(option string) bool {
	for _, prefix := range []string{"-m", "-std=", "--std=", "-nostd", "-stdlib=", "--target=", "-O", "-pthread"} {
		if strings.HasPrefix(option, prefix) {
			return false
		}
	}
	return option != "-ansi"
}

// watchVisualStudio watches where clang-cl looks for Microsoft's compiler, whose
// headers it would use.
func (t *Toolchain) watchVisualStudio(w *watcher, cwd string) {
	if t.Family != ClangCL {
		return
	}
	path, _ := t.driver.getenv("PATH")
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			dir = cwd + "/" + dir
		}
		w.absence(dir + "/cl.exe") // or its presence
	}
}

// watchPrefixes watches the include directories that gcc's -B adds to the
// chain, which it passes over in silence where they do not exist.
func (t *Toolchain) watchPrefixes(w *watcher, probe []string, cwd string) {
	if t.Family != GCC {
		return
	}
	for _, option := range helperOptions(t.Family, probe) {
		dir := strings.TrimPrefix(strings.TrimPrefix(option, "--prefix="), "-B")
		if dir == "" {
			continue // its directory is the next option
		}
		if !filepath.IsAbs(dir) {
			dir = cwd + "/" + dir
		}
		for _, sub := range []string{"", "/" + t.Target, "/include", "/include-fixed"} {
			w.absence(dir + sub) // or its presence
		}
	}
}
