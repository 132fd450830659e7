package daemon

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/remote"
)

// guess is what a compile may read of this machine's files, so far: what the
// sources seem to include, and what a machine has looked for and this machine
// has after all. That it is only a guess does no harm: what the machine records
// is what counts.
type guess struct {
	j    *job
	tree action.Tree
	// at is a file with the content of each digest, by its path here.
	at map[digest.Digest]string
	// dirs are directories below a root that add has met, by their paths here, and
	// whether they are there: the names that a machine looks for are many in few
	// directories.
	dirs map[string]bool
}

// maxGuess bounds the names of one compile.
const maxGuess = 40_000

// errRooted is the error of a guess for a command that names files by where the
// project lies: its machine must have the roots there, too.
var errRooted = errors.New("must run at the caller's own paths")

// newGuess starts from the sources' text, and from what the same command has
// read before.
func (j *job) newGuess() (*guess, error) {
	g := &guess{j: j, tree: action.Tree{}, at: map[digest.Digest]string{}, dirs: map[string]bool{}}
	before, _ := j.e.guesses.get(j.prep.key)
	return g, g.follow(before)
}

// follow adds what the sources seem to include, and so do the files also, which
// turned out to be wanted.
func (g *guess) follow(also []string) error {
	j := g.j
	c, err := compiler.FindClosure(compiler.ClosureRequest{
		Invocation: j.prep.inv, Env: j.req.GetEnv(), Cwd: j.prep.cwd, Roots: j.prep.place.rootDirs(), Files: checkout{j.e}, Also: also,
	})
	var limit *compiler.ClosureLimitError
	switch {
	case errors.As(err, &limit):
		return stay(reasonUnbounded, "%s", err)
	case err != nil:
		return stay(reasonNoRoot, "%s", err)
	case len(c.Outside) > 0:
		return stay(compiler.ReasonOutsideRoots, "%s", c.Outside[0])
	case len(c.Rooted) > 0 && !j.prep.inPlace:
		return errRooted
	}
	for _, f := range c.Files {
		if err := g.addFile(f); err != nil {
			return homeward(err)
		}
	}
	for _, l := range c.Links {
		if err := g.add(l.Path, 0); err != nil {
			return homeward(err)
		}
	}
	for _, d := range c.Dirs {
		g.put(d, action.Node{})
	}
	return nil
}

// checkout shows the files here as the engine remembers them.
type checkout struct{ e *Engine }

func (c checkout) List(dir string) (map[string]compiler.PathKind, bool) { return c.e.entries(dir) }

func (c checkout) Lstat(path string) compiler.NodeKind {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return compiler.NodeMissing
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return compiler.NodeFile
	case unix.S_IFDIR:
		return compiler.NodeDirectory
	case unix.S_IFLNK:
		return compiler.NodeLink
	}
	return compiler.NodeOther
}

func (c checkout) Readlink(path string) (string, error) { return os.Readlink(path) }

func (c checkout) Scan(path string) (*compiler.FileScan, error) { return c.e.scan(c.e.files.at(path)) }

// add adds what stands at a path, and the links on the way to it, as far as they
// lie below a root: elsewhere the image's files are meant. A name that is not
// there adds nothing.
func (g *guess) add(path string, links int) error {
	p := g.j.prep.place
	root := p.paths.Neutral(path)
	if root == path {
		return nil
	}
	dir := p.paths.Local(root[:2])
	rest := strings.Split(strings.TrimPrefix(path[len(dir):], "/"), "/")
	at, begin := dir, 0
	if there, known := g.dirs[parent(path)]; known && !there {
		return nil
	} else if known {
		at, begin = parent(path), len(rest)-1
	}
	for i, name := range rest {
		if i < begin || name == "" {
			continue
		}
		at += "/" + name
		last := i == len(rest)-1
		var st unix.Stat_t
		if unix.Lstat(at, &st) != nil {
			if !last {
				g.dirs[parent(path)] = false
			}
			return nil // a name that is not there adds nothing
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			return g.addLink(at, rest[i+1:], links)
		case unix.S_IFDIR:
			g.dirs[at] = true
			if last {
				g.put(at, action.Node{})
			}
		case unix.S_IFREG:
			if !last {
				return nil
			}
			return g.addFile(at)
		default:
			if last {
				return refuse(reasonIrregular, "%s", at)
			}
			return nil
		}
	}
	return nil
}

func (g *guess) put(path string, n action.Node) { g.tree[g.j.prep.place.away(path)] = n }

func (g *guess) addFile(path string) error {
	sum, _, err := g.j.e.files.digest(g.j.e.files.at(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return refuse(reasonIrregular, "%s", err)
	}
	if len(g.tree) >= maxGuess {
		return refuse(reasonUnbounded, "more than %d", maxGuess)
	}
	g.put(path, action.Node{Digest: sum})
	g.at[sum] = path
	return nil
}

// addLink adds a symbolic link, and what is behind it.
func (g *guess) addLink(path string, rest []string, links int) error {
	p := g.j.prep.place
	target, err := os.Readlink(path)
	if err != nil || links == maxLinks {
		return nil //nolint:nilerr // gone meanwhile, as far as this compile goes
	}
	leads := target
	if !filepath.IsAbs(target) {
		leads = filepath.Join(filepath.Dir(path), target)
	}
	leads = filepath.Clean(leads)
	stored := target
	switch {
	case filepath.IsAbs(target):
		// Outside of the roots the image's own is meant, by the same path.
		stored = p.away(leads)
	case p.paths.Neutral(leads) == leads || p.paths.Neutral(leads)[:2] != p.paths.Neutral(path)[:2]:
		// In the machine the way there leads elsewhere.
		return refuse(compiler.ReasonOutsideRoots, "%s leads to %s", path, target)
	}
	g.put(path, action.Node{Target: stored})
	return g.add(filepath.Clean(leads+"/"+strings.Join(rest, "/")), links+1)
}

// open hands out the bytes of a file of the guess.
func (g *guess) open(_ context.Context, d digest.Digest) (io.ReadCloser, error) {
	fd, err := openShared(g.at[d], unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, remote.ErrInputChanged
	}
	return os.NewFile(uintptr(fd), g.at[d]), nil
}

// confirm returns those of the names that a machine looked for in vain, and that
// are here.
func (g *guess) confirm(_ context.Context, absent []string) (action.Tree, error) {
	// Time has passed since the first guess: what it met is looked at again.
	more := &guess{j: g.j, tree: action.Tree{}, at: g.at, dirs: map[string]bool{}}
	p := g.j.prep.place
	for _, name := range absent {
		if err := more.add(p.local(name), 0); err != nil {
			return nil, err
		}
	}
	var also []string
	for name, n := range more.tree {
		if !n.Digest.IsZero() {
			also = append(also, p.local(name))
		}
	}
	if len(also) > 0 {
		// A compiler stops at the first header that is missing: what this one
		// includes would each cost another round.
		if err := more.follow(also); err != nil {
			return nil, err
		}
	}
	for name, n := range more.tree {
		if _, sent := g.tree[name]; sent {
			delete(more.tree, name)
		} else {
			g.tree[name] = n
		}
	}
	return more.tree, nil
}

// read lists the files here that a compile has read.
func (g *guess) read(res *remote.Result) []string {
	names := make([]string, 0, len(res.Action.Inputs))
	for _, in := range res.Action.Inputs {
		names = append(names, g.j.prep.place.local(in.Path))
	}
	return names
}

// checkRead refuses a result that depends on files' times, which in the machine
// are not those of here: where two files of one content were read that ask to be
// included once, and where the source's own time may be in the object. What
// holds the time of the compile fails in the machine, where dateTimeError was
// asked for.
func (j *job) checkRead(work *action.Job, res *remote.Result) error {
	files := make([]compiler.File, len(res.Action.Inputs))
	imports := false
	for i, in := range res.Action.Inputs {
		path := j.prep.place.local(in.Path)
		scan, ok := j.e.scans.get(in.Digest)
		if !ok {
			if _, err := j.e.scan(j.e.files.at(path)); err != nil {
				return stay(reasonModified, "%s", err)
			}
			if scan, ok = j.e.scans.get(in.Digest); !ok {
				return stay(reasonModified, "%s", path)
			}
		}
		files[i] = compiler.File{Path: path, Scan: scan}
		imports = imports || slices.ContainsFunc(scan.Directives, func(d compiler.Directive) bool { return d.Kind == compiler.Import })
	}
	at := map[digest.Digest]string{}
	for i, f := range files {
		if !f.Scan.PragmaOnce && !imports {
			continue
		}
		sum := res.Action.Inputs[i].Digest
		if other, dup := at[sum]; dup {
			return stay(reasonOnceCopies, "%s and %s", other, f.Path)
		}
		at[sum] = f.Path
	}
	if j.e.opt.DateTime != "allow" && !slices.Contains(work.Argv, dateTimeError) {
		if _, _, timestamp := compiler.TimeMacros(files); timestamp {
			return stay(reasonDateTime, "%s", namesTime(files, "__TIMESTAMP__", func(s *compiler.FileScan) bool { return s.Timestamp }))
		}
	}
	return nil
}
