package compiler

import (
	"slices"
	"strings"
)

// enter splits an absolute path into the root that it lies in and the rest, nil
// if there is none.
func (c *closer) enter(p string) (root *dirNode, rest string) {
	for _, r := range c.roots {
		after, ok := strings.CutPrefix(p, r.path)
		if ok && (after == "" || after[0] == '/') && (root == nil || len(r.path) > len(root.path)) {
			root, rest = r, after
		}
	}
	return root, rest
}

// walk follows a name from a directory, as the kernel would.
func (c *closer) walk(d *dirNode, name string) found {
	c.hops = 0
	return c.resolve(d, name)
}

// resolve is walk within a link's target, too.
func (c *closer) resolve(d *dirNode, name string) found {
	if strings.HasPrefix(name, "/") {
		if d, name = c.enter(name); d == nil {
			return found{}
		}
	}
	f := found{dir: d, in: d}
	for name != "" {
		part, rest := name, ""
		if i := strings.IndexByte(name, '/'); i >= 0 {
			part, rest = name[:i], name[i+1:]
		}
		switch part {
		case "", ".":
		case "..":
			f.dir.sent = true
			if f.dir.parent == nil {
				return c.leave(f.dir, rest)
			}
			f = found{dir: f.dir.parent, in: f.dir.parent}
		default:
			in := f.dir
			f = c.child(in, part)
			f.in = in
			if f.dir == nil && rest != "" {
				return found{in: in} // nothing is below a file
			}
		}
		name = rest
	}
	return f
}

// leave follows a name that has left a root by "..". What is outside is taken as
// it is spelled: no link there is followed.
func (c *closer) leave(root *dirNode, rest string) found {
	p := cleanJoin(root.path, "../"+rest)
	if d, name := c.enter(p); d != nil {
		f := c.resolve(d, strings.TrimPrefix(name, "/"))
		if (f.file != nil || f.dir != nil) && !slices.Contains(c.out.Rooted, p) {
			c.out.Rooted = append(c.out.Rooted, p)
		}
		return f
	}
	if !slices.Contains(c.out.Outside, p) && c.step() && c.files.Lstat(p) == NodeFile {
		c.out.Outside = append(c.out.Outside, p)
	}
	return found{}
}

// child is what stands in a directory under one name.
func (c *closer) child(d *dirNode, name string) found {
	if f, ok := d.kids[name]; ok {
		return f
	}
	if !c.step() {
		return found{}
	}
	if !d.listed {
		d.listed = true
		entries, complete := c.files.List(d.path)
		d.entries, d.partial = entries, !complete
	}
	d.sent = true
	kind, listed := d.entries[name]
	if !listed && d.complete(name) {
		return found{}
	}
	var f found
	p := d.path + "/" + name
	node := NodeMissing
	switch {
	case listed && kind == Regular:
		node = NodeFile
	case listed && kind == Directory:
		node = NodeDirectory
	default:
		node = c.files.Lstat(p)
	}
	if d.kids == nil {
		d.kids = make(map[string]found)
	}
	switch node {
	case NodeFile:
		f.file = &fileNode{path: p, dir: d}
	case NodeDirectory:
		f.dir = &dirNode{path: p, parent: d}
		c.nodes = append(c.nodes, f.dir)
	case NodeLink:
		d.kids[name] = found{} // for a link that leads to itself
		f = c.link(d, p)
	}
	f.in = nil
	d.kids[name] = f
	return f
}

// link follows the symbolic link p, which stands in d.
func (c *closer) link(d *dirNode, p string) found {
	target, err := c.files.Readlink(p)
	if err != nil || target == "" {
		return found{}
	}
	d.hold()
	c.out.Links = append(c.out.Links, ClosureLink{p, target})
	if c.hops++; c.hops > maxClosureHops {
		return found{}
	}
	if strings.HasPrefix(target, "/") {
		if root, _ := c.enter(target); root == nil {
			c.out.Outside = append(c.out.Outside, p)
			return found{}
		}
	}
	outside := len(c.out.Outside)
	f := c.resolve(d, target)
	if len(c.out.Outside) > outside {
		c.out.Outside = append(c.out.Outside[:outside], p)
	}
	return f
}
