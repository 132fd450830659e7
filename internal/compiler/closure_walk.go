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
	f := found{node: node{dir: d}, in: d}
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
			f = found{node: node{dir: f.dir.parent}, in: f.dir.parent}
		default:
			in := f.dir
			f = found{node: c.child(in, part), in: in}
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
func (c *closer) child(d *dirNode, name string) node {
	if n, ok := d.kids[name]; ok {
		return n
	}
	if !c.step() {
		return node{}
	}
	if !d.listed {
		d.listed = true
		entries, complete := c.files.List(d.path)
		d.entries, d.partial = entries, !complete
	}
	d.sent = true
	kind, listed := d.entries[name]
	if !listed && d.complete(name) {
		return node{}
	}
	var n node
	p := d.path + "/" + name
	var what NodeKind
	switch {
	case listed && kind == Regular:
		what = NodeFile
	case listed && kind == Directory:
		what = NodeDirectory
	default:
		what = c.files.Lstat(p)
	}
	if d.kids == nil {
		d.kids = make(map[string]node)
	}
	switch what {
	case NodeFile:
		n.file = &fileNode{path: p, dir: d}
	case NodeDirectory:
		n.dir = &dirNode{path: p, parent: d}
		c.nodes = append(c.nodes, n.dir)
	case NodeLink:
		d.kids[name] = node{} // for a link that leads to itself
		n = c.link(d, p)
	}
	d.kids[name] = n
	return n
}

// link follows the symbolic link p, which stands in d.
func (c *closer) link(d *dirNode, p string) node {
	target, err := c.files.Readlink(p)
	if err != nil || target == "" {
		return node{}
	}
	d.hold()
	c.out.Links = append(c.out.Links, ClosureLink{p, target})
	if c.hops++; c.hops > maxClosureHops {
		return node{}
	}
	if strings.HasPrefix(target, "/") {
		if root, _ := c.enter(target); root == nil {
			c.out.Outside = append(c.out.Outside, p)
			return node{}
		}
	}
	outside := len(c.out.Outside)
	f := c.resolve(d, target)
	if len(c.out.Outside) > outside {
		c.out.Outside = append(c.out.Outside[:outside], p)
	}
	return f.node
}
