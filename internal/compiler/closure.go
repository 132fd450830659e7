package compiler

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Closure is a guess of which of a client's files a compile will read, made
// from their text alone: no compiler and no header of a toolchain is looked at.
// It ignores conditionals, so it names more than will be read, and it does not
// expand macros, so it may miss what they name. Whoever compiles with what it
// names learns from the record of look-ups what was missing.
//
// All paths are absolute and clean, and go through no symbolic link below the
// roots. Each list is free of duplicates.
type Closure struct {
	// Files may be read, in the order in which they were found.
	Files []string
	// Links are the symbolic links on the way to them, and those that lead
	// nowhere.
	Links []ClosureLink
	// Dirs must be there without holding anything that is named: directories in
	// which something is looked for in vain, or that a path only passes through
	// (inc/../x.h).
	Dirs []string
	// Outside are symbolic links that lead out of the roots, and files outside
	// that are there and that a relative name leads to. A machine has neither.
	Outside []string
	// Rooted are names by which the text reaches a file only where the roots lie
	// where they do here: absolute ones, and those that leave a root and come
	// back. Such a compile must run at the caller's own paths.
	Rooted []string
	// Computed is set where the name of some include could not be told.
	Computed bool
}

// ClosureLink is a symbolic link and what it says.
type ClosureLink struct{ Path, Target string }

// ClosureRequest says whose closure is wanted.
type ClosureRequest struct {
	Invocation *Invocation
	// Env holds NAME=value; the variables that list include directories count.
	Env []string
	// Cwd is absolute and clean.
	Cwd string
	// Roots are the directories whose content is the client's, absolute and
	// clean, none within another: nothing outside is looked at but what a
	// relative name leads to.
	Roots []string
	// Files shows what is below them.
	Files Checkout
	// Also are names that an earlier compile of the command turned out to want;
	// those that exist are sent, and files followed like the others.
	Also []string
}

// NodeKind says what stands at a path, links not followed.
type NodeKind uint8

// What can stand at a path.
const (
	NodeMissing NodeKind = iota
	NodeFile
	NodeDirectory
	NodeLink
	// NodeOther is what no compiler should read: a device, a pipe.
	NodeOther
)

// Checkout shows a client's files. FindClosure asks it for absolute, clean
// paths, and for no name twice. It may answer from memory; all answers within
// one FindClosure should be of one state.
type Checkout interface {
	// List says what a directory holds, as ReadEntries does. The map is not
	// changed.
	List(dir string) (entries map[string]PathKind, complete bool)
	// Lstat says what is at a path; what cannot be looked at is missing.
	Lstat(path string) NodeKind
	Readlink(path string) (target string, err error)
	// Scan returns what Scan makes of a regular file. Nil without an error is
	// for one that is to be sent but not looked into. A file with an error
	// cannot be read, and is left out.
	Scan(path string) (*FileScan, error)
}

// Bounds on one closure. The largest units seen have some thousand files and a
// hundred thousand steps; a machine takes no more inputs than maxClosureFiles.
const (
	maxClosureFiles = 50_000
	maxClosureSteps = 8 << 20
	maxClosureHops  = 40 // links in one path, as in the kernel
)

// ClosureLimitError says that a closure is larger than any compile should need.
type ClosureLimitError struct{ What string }

func (e *ClosureLimitError) Error() string { return "a compile's files: too many " + e.What }

// FindClosure guesses which files below the roots a compile will read. The
// error is a *ClosureLimitError, or says that the working directory is not
// below a root.
func FindClosure(r ClosureRequest) (*Closure, error) {
	c := &closer{inv: r.Invocation, files: r.Files, tasks: make([]closureTask, 0, 256)}
	for _, dir := range r.Roots {
		if strings.HasPrefix(dir, "/") && dir != "/" {
			c.roots = append(c.roots, &dirNode{path: dir})
		}
	}
	if c.cwd = c.walk(nil, r.Cwd).dir; c.cwd == nil {
		return nil, fmt.Errorf("%s is no directory below a root", r.Cwd)
	}
	c.cwd.sent = true
	c.setChain(r.Env)
	c.start(r.Also)
	c.run()
	if c.limit != nil {
		return nil, c.limit
	}
	return c.result(), nil
}

// closer holds the work of one FindClosure.
type closer struct {
	inv   *Invocation
	files Checkout
	roots []*dirNode
	cwd   *dirNode
	// chain is the search path, as far as it lies below the roots; angle is
	// where the directories for <…> begin.
	chain []chainNode
	angle int

	nodes []*dirNode // all but the roots
	// searches along the chain are kept by the directory they begin at.
	searches []chainMemo

	tasks   []closureTask // each file under each directory, in the order of finding
	pending []pendingName
	headers map[string][]headerMacro // by macro
	all     []headerMacro            // for names of which no macro is known
	known   map[headerMacro]struct{}
	words   map[string]*wordTexts // parts of names, by macro

	hops  int // links followed in the present path
	steps int
	limit error
	out   Closure
}

// chainNode is a directory of the search path, or the same below each of them.
type chainNode struct {
	dir *dirNode
	at  int // index of the chain
}

// chainMemo keeps the searches from one directory of the chain on.
type chainMemo struct {
	names   map[string]found
	subdirs map[string][]chainNode // by all but a name's last part
}

// closureTask is a file whose directives are to be followed.
type closureTask struct {
	file *fileNode
	// dir is where it was found, as spelled: where its "…" look first.
	dir *dirNode
	// at is where along the chain it was found; see the constants.
	at int
	// by is the task whose directive found it, or -1.
	by int
	// nextOnly is set where only how its #include_next go on is new.
	nextOnly bool
}

// Places of a file that are not in the chain.
const (
	besides = -1 // beside its includer
	isMain  = -2 // the source
)

func (c *closer) step() bool {
	if c.steps++; c.steps > maxClosureSteps && c.limit == nil {
		c.limit = &ClosureLimitError{"look-ups"}
	}
	return c.limit == nil
}

// setChain resolves the search path, without what is not below the roots.
// Duplicates go as they do in SearchPath.dropDuplicates.
func (c *closer) setChain(env []string) {
	in := &c.inv.Includes
	system := slices.Clone(in.System)
	if name := includeVariables[c.inv.Language]; name != "" {
		system = append(system, listedDirs(env, name)...)
	}
	for _, root := range c.inv.sysroots {
		// A guess of where the compiler looks below it.
		system = append(system, root+"/usr/local/include", root+"/usr/include", root+"/include")
	}
	resolve := func(dirs []string, seen, later map[*dirNode]bool) (nodes []*dirNode) {
		for _, name := range dirs {
			dir := c.walk(c.cwd, name).dir
			if dir == nil || seen[dir] || later[dir] {
				continue
			}
			seen[dir] = true
			dir.sent = true
			nodes = append(nodes, dir)
		}
		return nodes
	}
	inSystem := make(map[*dirNode]bool)
	systemNodes := append(resolve(system, inSystem, nil), resolve(in.After, inSystem, nil)...)
	angle := resolve(append(slices.Clone(in.Angle), listedDirs(env, "CPATH")...), make(map[*dirNode]bool), inSystem)
	later := inSystem
	if c.inv.Family.IsClang() {
		later = nil
	}
	quote := resolve(in.Quote, make(map[*dirNode]bool), later)
	c.angle = len(quote)
	for i, dir := range slices.Concat(quote, angle, systemNodes) {
		c.chain = append(c.chain, chainNode{dir, i})
	}
	c.searches = make([]chainMemo, len(c.chain))
}

// start notes the files that the command itself names.
func (c *closer) start(also []string) {
	inv := c.inv
	gcc := inv.Family == GCC
	preprocesses := preprocessed(inv.Language)
	if preprocesses && gcc {
		c.follow(-1, Directive{Kind: Include, Angle: true, Name: predefName})
	}
	for _, name := range slices.Concat(inv.Includes.Macros, inv.Includes.Forced) {
		c.follow(-1, Directive{Kind: Include, Name: name})
		c.precompiled(-1, Directive{Kind: Include, Name: name})
	}
	for _, value := range inv.defines {
		macro, text, _ := strings.Cut(value, "=")
		text = strings.Trim(text, `'`)
		if n := len(text) - 1; n > 1 && (text[0] == '"' && text[n] == '"' || text[0] == '<' && text[n] == '>') {
			c.define(headerMacro{macro, text[1:n], text[0] == '<'})
		} else if likeHeader([]byte(text), false) {
			c.define(headerMacro{"", text, false}) // to be made a string
		}
	}
	sources := inv.Sources
	if len(sources) == 0 && inv.Source != "" {
		sources = []string{inv.Source}
	}
	for _, name := range sources {
		if gcc && preprocesses {
			c.add(c.walk(c.cwd, name+".gch"))
		}
		source := c.walk(c.cwd, name)
		main := len(c.tasks)
		c.push(source, isMain, -1)
		if gcc && preprocesses && len(inv.Includes.Forced)+len(inv.Includes.Macros) == 0 && len(c.tasks) > main {
			if s := c.scan(source.file); s != nil {
				for _, d := range s.Directives {
					c.precompiled(main, d)
				}
			}
		}
	}
	for _, name := range inv.ReadFiles {
		c.add(c.walk(c.cwd, name))
	}
	for _, name := range also {
		f := c.walk(c.cwd, name)
		if c.push(f, besides, -1); f.dir != nil {
			f.dir.sent = true
		}
	}
	if preprocesses && !slices.ContainsFunc(inv.Probe, func(p string) bool { return p == "-nostdinc" || p == "--no-standard-includes" }) {
		c.standardHeaders()
	}
}

// standardHeaders notes the project's own files under names that the toolchain's
// headers include, of which nothing is known here: they may be found first.
func (c *closer) standardHeaders() {
	names := standardHeaders
	if !strings.HasSuffix(c.inv.Language, "c++") {
		names = names[:standardCXX]
	}
	for _, name := range names {
		c.follow(-1, Directive{Kind: Include, Angle: true, Name: name})
	}
}

// run follows all that there is to follow.
func (c *closer) run() {
	next := 0
	for again := true; again && c.limit == nil; {
		for ; next < len(c.tasks) && c.limit == nil; next++ {
			c.directives(next)
		}
		again = c.computed()
	}
}

// result collects what was found.
func (c *closer) result() *Closure {
	for _, d := range c.nodes {
		if d.sent {
			d.parent.hold()
		}
	}
	for _, d := range c.nodes {
		if d.sent && !d.holds {
			c.out.Dirs = append(c.out.Dirs, d.path)
		}
	}
	return &c.out
}

// A dirNode is a directory below a root. Its path goes through no link.
type dirNode struct {
	path   string
	parent *dirNode // nil for a root
	dirListing
	listed bool
	kids   map[string]node // what names turned out to be; without most of those that are missing
	sent   bool            // must exist
	holds  bool            // something that must exist is below
}

// hold notes that something below d must exist.
func (d *dirNode) hold() {
	for ; d != nil && !d.holds; d = d.parent {
		d.holds = true
	}
}

// A fileNode is a file below a root.
type fileNode struct {
	path    string
	dir     *dirNode
	added   bool
	scan    *FileScan
	scanned bool
	first   visit // the first of them, as most files have one
	visits  []visit
}

// node is a file, or a directory, or nothing.
type node struct {
	file *fileNode
	dir  *dirNode
}

// visit is a way in which a file was found.
type visit struct {
	dir *dirNode
	at  int
}

// found is what a name leads to.
type found struct {
	node
	// in is the directory in which the last part of the name was looked for.
	in *dirNode
	// at is where along the chain, where that was searched.
	at int
}

// add notes a file that is to be sent.
func (c *closer) add(f found) {
	if f.file == nil || f.file.added {
		return
	}
	f.file.added = true
	f.file.dir.hold()
	c.out.Files = append(c.out.Files, f.file.path)
	if len(c.out.Files) > maxClosureFiles && c.limit == nil {
		c.limit = &ClosureLimitError{"files"}
	}
}

// scan returns what is known of a file, nil if nothing.
func (c *closer) scan(f *fileNode) *FileScan {
	if !f.scanned {
		f.scanned = true
		s, err := c.files.Scan(f.path)
		if err != nil {
			f.added = true // never to be sent
		}
		f.scan = s
	}
	return f.scan
}

// push notes a file whose directives are to be followed.
func (c *closer) push(f found, at, by int) {
	if f.file == nil {
		return
	}
	this := visit{f.in, at}
	if f.file.first == this {
		return
	}
	nextOnly := f.file.first.dir == f.in
	for _, v := range f.file.visits {
		if v == this {
			return
		}
		nextOnly = nextOnly || v.dir == f.in
	}
	s := c.scan(f.file)
	c.add(f)
	if s == nil {
		return
	}
	if nextOnly && !slices.ContainsFunc(s.Directives, func(d Directive) bool { return d.Kind == IncludeNext || d.Kind == HasIncludeNext }) {
		return
	}
	if f.file.first.dir == nil {
		f.file.first = this
	} else {
		f.file.visits = append(f.file.visits, this)
	}
	c.tasks = append(c.tasks, closureTask{f.file, f.in, at, by, nextOnly})
}

// cleanJoin is path.Join for a directory and a name that may begin with "..".
func cleanJoin(dir, name string) string { return path.Clean(dir + "/" + name) }
