package compiler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// naive is FindClosure as one would write it first, for trees without links,
// computed names and what is beside the preprocessor.
type naive struct {
	m     *memCheckout
	chain []string
	angle int
	seen  map[string]bool
	files []string
}

func (n *naive) isFile(p string) bool { return strings.HasPrefix(n.m.nodes[p], "file ") }

func (n *naive) visit(p string, at int) {
	if key := fmt.Sprint(p, at); n.seen[key] {
		return
	} else {
		n.seen[key] = true
	}
	if !slices.Contains(n.files, p) {
		n.files = append(n.files, p)
	}
	s, _ := n.m.Scan(p)
	for _, d := range s.Directives {
		next := (d.Kind == IncludeNext || d.Kind == HasIncludeNext) && at != isMain
		from := 0
		switch {
		case next:
			from = at + 1
		case d.Angle:
			from = n.angle
		default:
			if own := p[:strings.LastIndexByte(p, '/')+1] + d.Name; n.isFile(own) {
				n.visit(own, besides)
				continue
			}
		}
		for i := from; i < len(n.chain); i++ {
			if c := n.chain[i] + "/" + d.Name; n.isFile(c) {
				n.visit(c, i)
				break
			}
		}
	}
}

// graph makes a tree out of any bytes: directories d0 to d3 with headers h0 to
// h5 whose includes the bytes say.
func graph(data []byte, links bool) string {
	var b strings.Builder
	next := func() int {
		if len(data) == 0 {
			return 0
		}
		c := data[0]
		data = data[1:]
		return int(c)
	}
	file := func(name string) {
		fmt.Fprintf(&b, "== %s\n", name)
		for range next() % 4 {
			c := next()
			h := fmt.Sprintf("h%d.h", c%6)
			if c/6%4 == 3 {
				h = fmt.Sprintf("s/h%d.h", c%6)
			}
			switch c / 24 % 6 {
			case 0:
				fmt.Fprintf(&b, "#include \"%s\"\n", h)
			case 1:
				fmt.Fprintf(&b, "#include <%s>\n", h)
			case 2:
				fmt.Fprintf(&b, "#include_next <%s>\n", h)
			case 3:
				fmt.Fprintf(&b, "#if __has_include(\"%s\")\n#endif\n", h)
			case 4:
				fmt.Fprintf(&b, "#import \"%s\"\n", h)
			case 5:
				if links {
					fmt.Fprintf(&b, "#define M%d \"../%s\"\n#include M%d\n#include F(%d)\n.incbin \"%s\"\n", c%3, h, next()%3, c, h)
				}
			}
		}
	}
	file("m.c")
	for len(data) > 0 {
		c := next()
		name := fmt.Sprintf("d%d/h%d.h", c%4, c/4%6)
		if c/24%5 == 0 {
			name = fmt.Sprintf("d%d/s/h%d.h", c%4, c/4%6)
		}
		if links && c > 200 {
			to := []string{"..", "../d1", "h0.h", "/w/d2", "../../w/d3", "loop", "/etc", "../h1.h"}[next()%8]
			fmt.Fprintf(&b, "=> d%d/%s %s\n", c%4, []string{"s", "h0.h", "loop", "h9.h"}[next()%4], to)
			continue
		}
		file(name)
	}
	return b.String()
}

// clean drops what stands both as a file or link and as a directory.
func (m *memCheckout) clean() *memCheckout {
	nodes := map[string]string{}
	for name, node := range m.nodes {
		inTheWay := false
		for up := name; up != "/"; up = up[:max(strings.LastIndexByte(up, '/'), 1)] {
			if up != name && m.nodes[up] != "" {
				inTheWay = true
			}
			if up == "/w" {
				break
			}
		}
		if !inTheWay {
			nodes[name] = node
		}
	}
	return memCheckoutOf(nodes)
}

func FuzzClosure(f *testing.F) {
	f.Add([]byte{3, 0, 30, 60, 0, 2, 1, 2, 6, 2, 50, 55}, false)
	f.Add([]byte("many a byte makes a tree of some kind, and some of them make links \xd0\xd1\xe2\xf3\xff"), true)
	f.Add([]byte{3, 120, 121, 122, 201, 1, 0, 202, 4, 1, 203, 5, 2, 24, 3, 120, 140, 125}, true)
	inv, err := parseCall([]string{"gcc", "-nostdinc", "-iquote", "d0", "-Id1", "-isystem", "d2", "-idirafter", "d3", "-c", "m.c"}, "/w")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, links bool) {
		if len(data) > 4096 {
			return
		}
		m := newMemCheckout("/w", graph(data, links)).clean()
		r := ClosureRequest{Invocation: inv, Cwd: "/w", Roots: []string{"/w"}, Files: m}
		got, err := FindClosure(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := FindClosure(r)
		if err != nil || got.text() != again.text() {
			t.Fatalf("two closures of one tree:\n%s\n%s", got.text(), again.text())
		}
		for _, p := range got.Files {
			if !strings.HasPrefix(m.nodes[p], "file ") {
				t.Fatalf("%s is no file", p)
			}
		}
		for _, l := range got.Links {
			if m.nodes[l.Path] != "link "+l.Target {
				t.Fatalf("%s is no link to %s", l.Path, l.Target)
			}
		}
		for _, d := range got.Dirs {
			if m.dirs[d] == nil {
				t.Fatalf("%s is no directory", d)
			}
		}
		for _, list := range [][]string{got.Files, got.Dirs, got.Outside, got.Rooted} {
			sorted := slices.Clone(list)
			slices.Sort(sorted)
			if len(slices.Compact(sorted)) != len(list) {
				t.Fatalf("a name twice in %q", list)
			}
		}
		if links {
			return
		}
		n := &naive{m: m, angle: 1, seen: map[string]bool{}}
		for _, d := range []string{"d0", "d1", "d2", "d3"} {
			if m.dirs["/w/"+d] != nil {
				n.chain = append(n.chain, "/w/"+d)
			} else if d == "d0" {
				n.angle = 0
			}
		}
		n.visit("/w/m.c", isMain)
		slices.Sort(n.files)
		if files := sortedFiles(got); !slices.Equal(files, n.files) {
			t.Fatalf("got %q\nwant %q\nof %s", files, n.files, graph(data, links))
		}
	})
}
