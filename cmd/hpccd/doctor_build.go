package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/compiler/env"
)

// environment looks for variables that keep compiles from the cache, or put
// another cache before or behind it.
func (d *doctor) environment() {
	found := len(d.findings)
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		switch {
		case env.Roles(name)&env.Refuse != 0:
			d.warn("environment", "unset "+name+" for builds", "%s makes compilers write or run something else: nothing is cached (reason: environment)", name)
		case name == "CC" || name == "CXX" || strings.HasSuffix(name, "_COMPILER_LAUNCHER") || name == "CCACHE_PREFIX":
			if other := otherLauncher(value); other != "" {
				d.warn("environment", "name the compiler alone in "+name+", or hpcc before it", "%s runs %s: compiles are cached there, or twice", name, other)
			}
		}
	}
	if len(d.findings) == found {
		d.ok("environment", "no variable keeps compiles from the cache")
	}
}

// otherLauncher is the first word of a command that is a launcher and not
// hpcc's, or "".
func otherLauncher(command string) string {
	for _, word := range strings.FieldsFunc(command, func(r rune) bool { return r == ' ' || r == ';' }) {
		if compiler.IsLauncher(word) && !strings.HasPrefix(filepath.Base(word), "hpcc") {
			return filepath.Base(word)
		}
	}
	return ""
}

// searched are the directories of PATH that mean the same everywhere.
func searched() []string {
	return slices.DeleteFunc(filepath.SplitList(os.Getenv("PATH")), func(dir string) bool { return !filepath.IsAbs(dir) })
}

// pathEntry is a compiler's name in a directory of PATH.
type pathEntry struct {
	dir, name string
	// target is where a link to hpcc leads; "" for other files.
	target string
}

// compilerEntries lists the compilers' names in a directory.
func compilerEntries(dir string) []pathEntry {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var list []pathEntry
	for _, e := range names {
		if _, _, ok := compiler.FamilyOf(e.Name()); !ok {
			continue
		}
		p := pathEntry{dir: dir, name: e.Name()}
		// What the link says counts: it may lead nowhere.
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			if !filepath.IsAbs(to) {
				to = filepath.Join(dir, to)
			}
			if strings.HasPrefix(filepath.Base(to), "hpcc") {
				p.target = to
			}
		}
		list = append(list, p)
	}
	return list
}

func (p pathEntry) path() string { return filepath.Join(p.dir, p.name) }

// runs reports whether the entry is a program.
func (p pathEntry) runs() bool {
	info, err := os.Stat(p.path())
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// links looks at the links that stand for compilers: they lead to this hpcc,
// and come before the compilers.
func (d *doctor) links() {
	real := map[string]string{} // name -> the first compiler of it in PATH
	seen := map[string]bool{}
	type group struct{ missing, other, late, good []string }
	var dirs []string
	groups := map[string]*group{}
	for _, dir := range searched() {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		for _, p := range compilerEntries(dir) {
			if p.target == "" {
				if p.runs() && real[p.name] == "" {
					real[p.name] = p.path()
				}
				continue
			}
			g := groups[dir]
			if g == nil {
				g = &group{}
				groups[dir], dirs = g, append(dirs, dir)
			}
			switch {
			case !p.runs():
				g.missing = append(g.missing, p.name)
			case d.hpcc != "" && !sameFile(p.path(), d.hpcc):
				g.other = append(g.other, p.name)
			case real[p.name] != "":
				g.late = append(g.late, p.name)
			default:
				g.good = append(g.good, p.name)
			}
		}
	}
	for _, dir := range dirs {
		g := groups[dir]
		again := "make them anew: hpcc masquerade --force " + shellQuote(dir)
		if len(g.missing) > 0 {
			d.fail("links", again, "links in %s lead to an hpcc that is not there: %s", dir, some(g.missing))
		}
		if len(g.other) > 0 {
			d.warn("links", again, "links in %s lead to another hpcc than %s: %s", dir, d.hpcc, some(g.other))
		}
		if len(g.late) > 0 {
			d.warn("links", "put it first: export PATH="+shellQuote(dir)+`:"$PATH"`,
				"%s comes after the compilers in PATH: %s are not cached (%s is found first)", dir, some(g.late), real[g.late[0]])
		}
		var empty []string
		for _, name := range g.good {
			if real[name] == "" {
				empty = append(empty, name)
			}
		}
		if len(empty) > 0 {
			d.warn("links", "remove them, or install the compilers", "links in %s stand for compilers that are not in PATH: %s", dir, some(empty))
		}
		if n := len(g.good) - len(empty); n > 0 {
			d.ok("links", "%d in %s come before the compilers", n, dir)
		}
	}
	if len(dirs) == 0 {
		d.ok("links", "none in PATH; hpcc COMPILER … works without")
	}
}

// some lists at most five names.
func some(names []string) string {
	if len(names) > 5 {
		return strings.Join(names[:5], ", ") + " and " + itoa(len(names)-5) + " more"
	}
	return strings.Join(names, ", ")
}

// compilers asks each compiler in PATH what it is, and says which cannot be
// cached.
func (d *doctor) compilers() {
	var order []string
	names := map[string][]string{} // what stands behind -> names
	first := map[string]string{}   // what stands behind -> path of the first name
	done := map[string]bool{}
	for _, dir := range searched() {
		for _, p := range compilerEntries(dir) {
			if p.target != "" || done[p.name] || !p.runs() {
				continue
			}
			done[p.name] = true
			behind, err := filepath.EvalSymlinks(p.path())
			if err != nil {
				behind = p.path()
			}
			if names[behind] == nil {
				order, first[behind] = append(order, behind), p.path()
			}
			names[behind] = append(names[behind], p.name)
		}
	}
	if len(order) == 0 {
		d.fail("compilers", "install one, for instance gcc, or mend PATH", "there is no compiler in PATH")
		return
	}
	detector := compiler.NewDetector(nil)
	for _, behind := range order {
		all := strings.Join(names[behind], " ")
		path := first[behind]
		t, err := detector.Identify(d.ctx, path, path, env.Select(os.Environ()))
		switch {
		case err == nil:
			d.ok("compilers", "%s: %s %s for %s", all, t.Family, t.Version, t.Target)
			if _, cxx, _ := compiler.FamilyOf(path); !cxx && (d.works == "" || filepath.Base(path) == "cc") {
				d.works = path
			}
		case compiler.IsLauncher(behind):
			d.warn("compilers", "take "+filepath.Dir(path)+" out of PATH, or leave the compile to it alone",
				"%s: %s stands behind, another cache or launcher; hpcc passes it through (reason: compiler-script)", all, behind)
		case errors.Is(err, compiler.ErrCompilerScript) && onlyStandard(names[behind]):
			d.ok("compilers", "%s: a script, not cached; gcc -std=… is", all)
		case errors.Is(err, compiler.ErrCompilerScript):
			d.warn("compilers", "call the compiler itself that it runs", "%s: not cached (reason: compiler-script): %s", all, err)
		default:
			d.warn("compilers", "see what it answers to -v", "%s: not cached (reason: unknown-compiler): %s", all, err)
		}
	}
}

// onlyStandard reports whether names are all c89 or c99, which distributions
// ship as scripts and builds seldom call.
func onlyStandard(names []string) bool {
	return !slices.ContainsFunc(names, func(n string) bool { return !strings.HasPrefix(n, "c89") && !strings.HasPrefix(n, "c99") })
}
