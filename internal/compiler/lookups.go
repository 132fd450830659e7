package compiler

import (
	"path"
	"slices"
	"strings"
)

// File is one file that a compile read.
type File struct {
	// Path is as the compiler's dependency list spells it.
	Path string
	Scan *FileScan
}

// Lookups is what a compile looked for besides what it read. All paths are as
// the compiler spells them, relative ones relative to its working directory;
// each list is sorted and free of duplicates.
type Lookups struct {
	// Absent paths were looked for in vain. Below a directory that is missing
	// only the directory is named: nothing can appear below it before it does.
	// An absent path may be a symbolic link that leads nowhere; the change time
	// of its directory does not tell when that ends.
	Absent []string
	// Present paths exist and were not read, but whether they exist decides:
	// __has_include, or a header that an #if keeps out. A directory that stands
	// where a header was looked for, and so was passed over, is named with "/."
	// behind it, which is missing once a plain file takes its place.
	//
	// A file that appeared while the compile ran would be taken for present:
	// the caller must apply its guard against files newer than the start to
	// these paths too.
	Present []string
	// Aliases are other names, through symbolic links, of files that were
	// read. Their content is an input under these names as well: a link that
	// comes to lead elsewhere changes the compile.
	Aliases []string
	// Embedded are files that #embed may have read without listing them; their
	// content is an input.
	Embedded []string
	// Chain are the directories of the search path that exist, and Same pairs
	// of paths that lead to one file or directory. Both decide: compilers
	// search one of two names of a directory, and include a file once that
	// asks for it, under whatever name. "." is the working directory.
	Chain []string
	Same  [][2]string
	// Asked are those of Absent at which a file could have been when the
	// compiler looked and yet be on no list: gcc and /showIncludes do not list
	// what __has_include found, nor gcc the header whose precompiled form it
	// took. Where their directory changed since, the caller must make sure that
	// they were absent before the compile.
	Asked []string
	// NeedPreprocess is "" or why the lists cannot be complete, one of the
	// Need constants.
	NeedPreprocess string
}

// Reasons why lookups cannot be derived from a scan. But for
// NeedPrecompiledHeader and NeedPragmaDependency, whose effects preprocessed
// text does not show either, the output of the preprocessor can serve instead.
const (
	// NeedPrecompiledHeader: a .gch or .pch stands where the compiler takes it
	// instead of a header.
	NeedPrecompiledHeader = "precompiled-header"
	// NeedPragmaDependency: #pragma GCC dependency compares times.
	NeedPragmaDependency = "pragma-dependency"
	// NeedComputedHasInclude: __has_include of a name that macros make.
	NeedComputedHasInclude = "computed-has-include"
	// NeedComputedInclude: a file was included by a name that macros make and
	// that cannot be told from the file's path.
	NeedComputedInclude = "computed-include"
	// NeedUnexplained: a file is listed that no directive could have named.
	NeedUnexplained = "unexplained-include"
)

// FindLookups derives from the files that a compile read, in the order of its
// dependency list, every lookup that it could have made and that did not lead
// to one of them. It names too much rather than too little: directives in
// skipped code count, and for each the whole chain up to where the search must
// have ended. It holds for gcc, clang and clang-cl without modules and header
// maps.
//
// fs shows the files after the compile and is not changed by others meanwhile.
func FindLookups(inv *Invocation, sp SearchPath, files []File, fs FileSystem) Lookups {
	f := &finder{
		family:  inv.Family,
		fs:      fs,
		files:   files,
		chain:   newChain(sp, fs),
		listed:  make(map[string]int, len(files)),
		absent:  make(map[string]struct{}),
		present: make(map[string]struct{}),
		aliases: make(map[string]int),
		asked:   make(map[string]struct{}),

		embedded: make(map[string]struct{}),
		memo:     make(map[searchKey]*search),
		done:     make(map[includerKey]struct{}),
	}
	// clang lists what __has_include finds, but does not print it.
	f.unlisted = inv.Family == GCC || inv.InputsFrom() == FromOutput
	if inv.StackSearch {
		f.stacks = newStacks()
	}
	for i := range files {
		p := trimDotSlash(files[i].Path)
		if _, ok := f.listed[p]; !ok {
			f.listed[p] = i
		}
	}
	f.explained = make([]bool, len(files))
	f.main = mainFile(inv, files)
	for i := 0; i <= f.main && i < len(files); i++ {
		f.explained[i] = true // clang lists files of options before the source
	}
	f.missingDirs()
	f.commandLine(inv)
	f.directives()
	f.upTheStack(slices.Concat(inv.Includes.Macros, inv.Includes.Forced))
	f.computed()
	f.precompiled(inv)
	return f.result()
}

// mainFile returns the index of the source in the dependency list.
func mainFile(inv *Invocation, files []File) int {
	source := trimDotSlash(inv.Source)
	for i := range files {
		if files[i].Path == source {
			return i
		}
	}
	return 0
}

// finder holds the work of one FindLookups.
type finder struct {
	family Family
	fs     FileSystem
	files  []File
	main   int
	chain  chain

	listed    map[string]int // path -> index of files
	ids       map[FileID]int // made on first use
	explained []bool         // files that some literal name leads to
	aliases   map[string]int // other name -> index of files
	pending   []includer     // includers whose directives are to be searched
	done      map[includerKey]struct{}
	stacks    *stacks // nil without MSVC's search rule
	unlisted  bool    // what __has_include finds is on no list
	memo      map[searchKey]*search
	absent    map[string]struct{}
	present   map[string]struct{}
	asked     map[string]struct{}
	embedded  map[string]struct{}
	pch       bool
}

// includer is a file's directives to be resolved from one directory.
type includer struct {
	file int
	dir  string
}

type includerKey struct {
	file int
	dir  string
}

// missingDirs notes the directories of the chain that do not exist: compilers
// look at each of them before anything else.
func (f *finder) missingDirs() {
	for _, d := range f.chain.dirs {
		if d.path == "" || d.path == "/" {
			continue
		}
		if kind, missing := f.fs.Look(d.path); kind == Missing {
			f.absent[missing] = struct{}{}
		}
	}
}

// commandLine notes the lookups that options and the compiler itself make.
func (f *finder) commandLine(inv *Invocation) {
	for _, list := range [][]string{inv.Includes.Macros, inv.Includes.Forced} {
		for _, name := range list {
			// From the working directory, then along the quote chain.
			f.resolve("", Directive{Kind: Include, Name: name})
			if f.family.IsClang() {
				f.probePCH(name + ".pch")
				f.probePCH(name + ".gch")
			}
		}
	}
	if f.family == GCC {
		f.resolve("", Directive{Kind: Include, Angle: true, Name: predefName})
	}
}

// predefName is the header that gcc includes before all others on systems with
// glibc.
const predefName = "stdc-predef.h"

// directives notes the lookups of all literal directives.
func (f *finder) directives() {
	for i := range f.files {
		p := trimDotSlash(f.files[i].Path)
		if first := f.listed[p]; first != i {
			// gcc lists a file again for each other name that led to it.
			f.explained[i] = true
			continue
		}
		f.push(i, dirOf(p))
	}
	f.drain()
}

// drain notes the lookups of the pending includers' directives.
func (f *finder) drain() {
	for len(f.pending) > 0 {
		in := f.pending[len(f.pending)-1]
		f.pending = f.pending[:len(f.pending)-1]
		for _, d := range f.files[in.file].Scan.Directives {
			f.resolve(in.dir, d)
		}
	}
}

// computed notes the lookups of includes whose names macros make: any listed
// file may have been found so, under each name that leads to it from some
// directory of the chain.
func (f *finder) computed() {
	dirs := make(map[string]struct{})
	for in := range f.done {
		if f.files[in.file].Scan.ComputedInclude {
			dirs[in.dir] = struct{}{}
		}
	}
	if len(dirs) == 0 {
		return
	}
	own := make([]string, 0, len(dirs))
	for d := range dirs {
		own = append(own, d)
	}
	slices.Sort(own)
	for i := range f.files {
		f.decompose(i, trimDotSlash(f.files[i].Path), own)
	}
	for alias, i := range f.aliases {
		f.decompose(i, alias, own)
	}
}

// decompose notes, for each way to split p into a directory of the chain and a
// name, the candidates of that name before it.
func (f *finder) decompose(file int, p string, own []string) {
	for _, dir := range own {
		if _, ok := below(p, dir); ok {
			f.explained[file] = true
		}
	}
	for i, d := range f.chain.dirs {
		name, ok := below(p, d.path)
		if !ok && d.system {
			name, ok = below(p, d.clean)
		}
		if !ok {
			continue
		}
		f.explained[file] = true
		for _, dir := range own {
			f.note(f.look(joinPath(dir, name)))
		}
		f.emit(f.along(name, false), i)
	}
}

// below returns the name under which p is found in dir.
func below(p, dir string) (name string, ok bool) {
	switch dir {
	case "":
		return p, !strings.HasPrefix(p, "/")
	case "/":
		return strings.CutPrefix(p, "/")
	}
	if len(p) > len(dir)+1 && p[len(dir)] == '/' && strings.HasPrefix(p, dir) {
		return p[len(dir)+1:], true
	}
	return "", false
}

// precompiled notes where gcc looks for precompiled headers: beside each
// candidate of the first include, and beside the source itself.
func (f *finder) precompiled(inv *Invocation) {
	if f.family != GCC || len(f.files) == 0 {
		return
	}
	f.probePCH(inv.Source + ".gch")
	f.probeSearch("", Directive{Angle: true, Name: predefName})
	forced := slices.Concat(inv.Includes.Macros, inv.Includes.Forced)
	if len(forced) > 0 {
		for _, name := range forced {
			f.probeSearch("", Directive{Name: name})
		}
		return
	}
	main := f.files[f.main]
	first := f.main + 1
	if first < len(f.files) && path.Base(f.files[first].Path) == predefName {
		first++
	}
	if main.Scan.ComputedInclude && first < len(f.files) {
		p := trimDotSlash(f.files[first].Path)
		for _, d := range f.chain.dirs {
			if name, ok := below(p, d.path); ok {
				f.probeSearch(dirOf(main.Path), Directive{Name: name})
			}
		}
	}
	for _, d := range main.Scan.Directives {
		found := f.probeSearch(dirOf(main.Path), d)
		// What was first included came from this directive, unless an #if kept
		// it out here and it stands once more below.
		if found == first && !d.Repeated && d.Kind == Include {
			break
		}
	}
}

// probeSearch notes the .gch of each candidate of a directive, and returns the
// index of the file at which its search ends, or -1.
func (f *finder) probeSearch(dir string, d Directive) int {
	if strings.HasPrefix(d.Name, "/") {
		f.probePCH(d.Name + ".gch")
		return f.look(d.Name).file
	}
	if !d.Angle {
		own := f.look(joinPath(dir, d.Name))
		f.probePCH(own.path + ".gch")
		if own.file >= 0 {
			return own.file
		}
	}
	s := f.along(d.Name, d.Angle)
	found := -1
	for _, c := range s.at[:s.stop] { // in the source, _next is no different
		f.probePCH(c.path + ".gch")
		found = c.file
	}
	return found
}

// probePCH notes a path at which a precompiled header would be taken.
func (f *finder) probePCH(p string) {
	p = trimDotSlash(p)
	if kind, missing := f.fs.Look(p); kind == Missing {
		f.absent[missing] = struct{}{}
		// A header that was listed was read as it is.
		if header := f.look(stem(p)); header.kind == Regular && header.file < 0 {
			f.asked[missing] = struct{}{}
		}
	} else {
		f.pch = true
	}
}

// result sorts what was found.
func (f *finder) result() Lookups {
	l := Lookups{
		Absent:  sortedKeys(f.absent),
		Present: sortedKeys(f.present),
		Aliases: sortedKeys(f.aliases),
		Asked:   sortedKeys(f.asked),

		Embedded: sortedKeys(f.embedded),
		Same:     f.chain.same,
	}
	for alias, file := range f.aliases {
		l.Same = append(l.Same, [2]string{alias, trimDotSlash(f.files[file].Path)})
	}
	for i := range l.Same {
		l.Same[i] = [2]string{orDot(l.Same[i][0]), orDot(l.Same[i][1])}
	}
	slices.SortFunc(l.Same, func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	l.Same = slices.Compact(l.Same)
	for _, d := range f.chain.dirs {
		if _, ok := f.fs.ID(d.path); ok && !slices.Contains(l.Chain, orDot(d.path)) {
			l.Chain = append(l.Chain, orDot(d.path))
		}
	}
	var dependency, computed, unexplained bool
	for i := range f.files {
		s := f.files[i].Scan
		dependency = dependency || s.PragmaDependency
		computed = computed || s.ComputedInclude
		f.pch = f.pch || s.PragmaPCH
		unexplained = unexplained || !f.explained[i]
	}
	switch {
	case f.pch:
		l.NeedPreprocess = NeedPrecompiledHeader
	case dependency:
		l.NeedPreprocess = NeedPragmaDependency
	case computedHasIncludes(f.files):
		l.NeedPreprocess = NeedComputedHasInclude
	case unexplained && computed, computed && f.stacks != nil:
		// What a computed name was looked for in up the stack, nothing tells.
		l.NeedPreprocess = NeedComputedInclude
	case unexplained:
		l.NeedPreprocess = NeedUnexplained
	}
	return l
}

// orDot spells the working directory.
func orDot(dir string) string {
	if dir == "" {
		return "."
	}
	return dir
}

func sortedKeys[V any](m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
