package compiler

import (
	"slices"
	"strings"
)

// directives follows the directives of one task's file.
func (c *closer) directives(task int) {
	t := c.tasks[task]
	s := t.file.scan
	if t.nextOnly {
		for _, d := range s.Directives {
			if d.Kind == IncludeNext || d.Kind == HasIncludeNext {
				c.follow(task, d)
			}
		}
		return
	}
	if s.AsmInclude {
		c.assembler(task, s.AsmFiles)
	}
	if !preprocessed(c.inv.Language) {
		return
	}
	for _, h := range s.headers {
		c.define(h)
	}
	for _, d := range s.Directives {
		c.follow(task, d)
	}
	for _, operand := range s.operands {
		c.pending = append(c.pending, pendingName{task: task, operand: operand})
	}
}

// follow notes what one directive may lead to. The command line's (task -1) look
// from the working directory.
func (c *closer) follow(task int, d Directive) {
	if !c.step() {
		return
	}
	dir, at := c.cwd, isMain
	if task >= 0 {
		dir, at = c.tasks[task].dir, c.tasks[task].at
	}
	if d.Kind == Embed || d.Kind == HasEmbed {
		c.embed(dir, d.Name)
		return
	}
	if strings.HasPrefix(d.Name, "/") {
		if f := c.absolute(d.Name, task >= 0); f.file != nil {
			c.push(f, besides, task)
		}
		return
	}
	next := (d.Kind == IncludeNext || d.Kind == HasIncludeNext) && at != isMain
	if !d.Angle && !next {
		if f := c.walk(dir, d.Name); f.file != nil {
			c.push(f, besides, task)
			return
		} else if f.dir != nil {
			f.dir.sent = true
		}
		if c.inv.StackSearch && c.upStack(task, d.Name) {
			return
		}
	}
	from := 0
	switch {
	case next && c.inv.Family.IsClang():
		// Where it goes on depends on how the file was found first: anywhere.
		for from = max(at+1, 0); from < len(c.chain); {
			f := c.search(d.Name, from)
			if f.file == nil {
				return
			}
			c.push(f, f.at, task)
			from = f.at + 1
		}
		return
	case next:
		from = at + 1
	case d.Angle:
		from = c.angle
	}
	if f := c.search(d.Name, from); f.file != nil {
		c.push(f, f.at, task)
	}
}

// upStack looks where Microsoft's rule does for "…": beside the files that
// include the includer.
func (c *closer) upStack(task int, name string) bool {
	for n := 0; task >= 0 && n < 200; n++ {
		if task = c.tasks[task].by; task < 0 {
			break
		}
		if f := c.walk(c.tasks[task].dir, name); f.file != nil {
			c.push(f, besides, task)
			return true
		}
	}
	return false
}

// absolute is the file that an absolute name means; inText is whether a file
// names it so, and not the command, whose names are mapped.
func (c *closer) absolute(name string, inText bool) found {
	f := c.walk(c.cwd, name)
	if f.file != nil && inText && !slices.Contains(c.out.Rooted, name) {
		c.out.Rooted = append(c.out.Rooted, name)
	}
	return f
}

// search is the first file of a name along the chain.
func (c *closer) search(name string, from int) found {
	if from >= len(c.chain) {
		return found{}
	}
	memo := &c.searches[from]
	f, ok := memo.names[name]
	if ok {
		return f
	}
	for _, n := range c.below(name, from) {
		hit := c.last(n.dir, name)
		if hit.file != nil {
			f = hit
			f.at = n.at
			break
		}
		if hit.dir != nil {
			hit.dir.sent = true // passed over, but looked at
		}
	}
	if memo.names == nil {
		memo.names = make(map[string]found)
	}
	memo.names[name] = f
	return f
}

// below are the directories along the chain that a name's last part is looked
// for in. Most names share them with many others.
func (c *closer) below(name string, from int) []chainNode {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return c.chain[from:]
	}
	memo, sub := &c.searches[from], name[:i]
	dirs, ok := memo.subdirs[sub]
	if !ok {
		for _, n := range c.chain[from:] {
			if d := c.walk(n.dir, sub).dir; d != nil {
				dirs = append(dirs, chainNode{d, n.at})
			}
		}
		if memo.subdirs == nil {
			memo.subdirs = make(map[string][]chainNode)
		}
		memo.subdirs[sub] = dirs
	}
	return dirs
}

// last is what the last part of a name is in its directory.
func (c *closer) last(dir *dirNode, name string) found {
	base := name[strings.LastIndexByte(name, '/')+1:]
	if base == "" || base == "." || base == ".." {
		return found{}
	}
	c.hops = 0
	return found{node: c.child(dir, base), in: dir}
}

// embed notes each place at which #embed may find its file; see finder.embed.
func (c *closer) embed(dir *dirNode, name string) {
	if strings.HasPrefix(name, "/") {
		c.add(c.absolute(name, true))
		return
	}
	c.add(c.walk(dir, name))
	c.add(c.walk(c.cwd, name))
	for _, n := range c.chain {
		c.add(c.walk(n.dir, name))
	}
}

// assembler notes what .incbin and .include may read. In which directories they
// look differs; see FindAssemblerLookups.
func (c *closer) assembler(task int, files []AsmFile) {
	for _, f := range files {
		take := func(at found) {
			if f.Text {
				c.push(at, besides, task)
			} else {
				c.add(at)
			}
		}
		if strings.HasPrefix(f.Name, "/") {
			take(c.absolute(f.Name, true))
			continue
		}
		take(c.walk(c.cwd, f.Name))
		for _, dir := range c.inv.AsmIncludeDirs {
			if d := c.walk(c.cwd, dir).dir; d != nil {
				take(c.walk(d, f.Name))
			}
		}
		if c.inv.Family.IsClang() {
			for _, n := range c.chain {
				take(c.walk(n.dir, f.Name))
			}
		}
	}
}

// precompiled notes the precompiled forms of a header, which compilers take
// instead of it: gcc at the first include, in each directory that it looks in,
// clang of forced includes.
func (c *closer) precompiled(task int, d Directive) {
	forms := []string{".gch"}
	if c.inv.Family.IsClang() {
		forms = append(forms, ".pch")
	}
	dir := c.cwd
	if task >= 0 {
		dir = c.tasks[task].dir
	}
	for _, form := range forms {
		if !d.Angle {
			c.addAll(c.walk(dir, d.Name+form))
		}
		if strings.HasPrefix(d.Name, "/") {
			continue
		}
		for _, n := range c.chain {
			if f := c.walk(n.dir, d.Name+form); f.file != nil || f.dir != nil {
				c.addAll(f)
			}
		}
	}
}

// addAll notes a precompiled header: a file, or a directory of several, of
// which the compiler takes one that fits.
func (c *closer) addAll(f found) {
	c.add(f)
	if f.dir == nil {
		return
	}
	f.dir.sent = true
	entries, _ := c.files.List(f.dir.path)
	for _, name := range sortedKeys(entries) {
		if c.step() {
			c.hops = 0
			c.add(found{node: c.child(f.dir, name)})
		}
	}
}

// pendingName is a computed directive whose name is to be guessed.
type pendingName struct {
	task    int
	operand string
	made    []headerMacro // what the operand was expanded to
	tried   int           // of the macro's headers, or of all
	guess   bool
}

// define notes a macro that may stand for a header's name.
func (c *closer) define(h headerMacro) {
	if _, again := c.known[h]; again {
		return
	}
	if c.known == nil {
		c.known = make(map[headerMacro]struct{})
		c.headers = make(map[string][]headerMacro)
	}
	c.known[h] = struct{}{}
	c.headers[h.macro] = append(c.headers[h.macro], h)
	c.all = append(c.all, h)
}

// computed tries the names that computed directives may have by the macros seen
// so far, and reports whether there were any new ones. Where they tell nothing,
// each header that some macro names is tried.
func (c *closer) computed() bool {
	tasks := len(c.tasks)
	for i := range c.pending {
		p := &c.pending[i]
		headers := c.headers[strings.TrimSuffix(p.operand, "()")]
		if len(headers) == 0 && !p.guess {
			for _, h := range c.expand(p.operand) {
				if !slices.Contains(p.made, h) {
					p.made = append(p.made, h)
					c.follow(p.task, Directive{Kind: Include, Angle: h.angle, Name: h.name})
				}
			}
			if len(p.made) > 0 {
				c.out.Computed = true
				continue
			}
		}
		if len(headers) == 0 || p.guess {
			headers, p.guess, c.out.Computed = c.all, true, true
		}
		for ; p.tried < len(headers) && c.limit == nil; p.tried++ {
			c.follow(p.task, Directive{Kind: Include, Angle: headers[p.tried].angle, Name: headers[p.tried].name})
		}
	}
	return len(c.tasks) > tasks
}

// standardHeaders are names that headers of the C and C++ libraries include;
// those of C++ begin at standardCXX.
var standardHeaders = strings.Fields(`
	alloca.h assert.h complex.h ctype.h endian.h errno.h fcntl.h features.h fenv.h float.h getopt.h inttypes.h iso646.h langinfo.h
	libintl.h limits.h locale.h malloc.h math.h memory.h poll.h pthread.h sched.h semaphore.h setjmp.h signal.h stdalign.h stdarg.h
	stdatomic.h stdbool.h stddef.h stdint.h stdio.h stdlib.h stdnoreturn.h string.h strings.h sys/cdefs.h sys/ioctl.h sys/param.h
	sys/select.h sys/socket.h sys/stat.h sys/sysmacros.h sys/time.h sys/types.h sys/uio.h sys/wait.h tgmath.h threads.h time.h uchar.h
	unistd.h wchar.h wctype.h xlocale.h
	algorithm array atomic bit bitset charconv chrono compare complex concepts condition_variable coroutine cstddef cstdint cstdio
	cstdlib cstring ctime cwchar cwctype deque exception execution filesystem format forward_list functional future initializer_list
	iomanip ios iosfwd iostream istream iterator limits list locale map memory memory_resource mutex new numbers numeric optional
	ostream queue random ranges ratio regex scoped_allocator set shared_mutex source_location span sstream stack stdexcept stop_token
	streambuf string string_view strstream syncstream system_error thread tuple type_traits typeindex typeinfo unordered_map
	unordered_set utility valarray variant vector version`)

var standardCXX = slices.Index(standardHeaders, "algorithm")
