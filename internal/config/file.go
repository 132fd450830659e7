package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFile bounds a file of settings: one of this size is not one.
const maxFile = 1 << 20

// applyFile sets what text, the content of p.File, holds.
func (p *Place) applyFile(keys []key, text []byte) error {
	if len(text) > maxFile {
		return fmt.Errorf("%s: larger than %d bytes", p.File, maxFile)
	}
	var tree map[string]any
	if err := toml.Unmarshal(text, &tree); err != nil {
		var syntax *toml.DecodeError
		if errors.As(err, &syntax) {
			row, col := syntax.Position()
			return fmt.Errorf("%s:%d:%d: %s", p.File, row, col, strings.TrimPrefix(syntax.Error(), "toml: "))
		}
		return fmt.Errorf("%s: %w", p.File, err)
	}
	f := &parsed{place: p, lines: lines(text), names: names(keys, "")}
	f.check(tree, keys, "", "")
	if len(f.unknown) > 0 {
		slices.SortFunc(f.unknown, func(a, b unknownKey) int {
			return cmp.Or(cmp.Compare(a.line, b.line), strings.Compare(a.text, b.text))
		})
		var all []error
		for _, u := range f.unknown {
			all = append(all, errors.New(u.text))
		}
		return errors.Join(all...)
	}
	return f.apply(tree, keys, "")
}

// parsed is a file that is being read.
type parsed struct {
	place   *Place
	lines   map[string]int
	names   []string // of all keys there are
	unknown []unknownKey
}

type unknownKey struct {
	line int
	text string
}

// where is the place of what has this path: file and line.
func (f *parsed) where(path string) string {
	if n := f.lines[path]; n > 0 {
		return fmt.Sprintf("%s:%d", f.place.File, n)
	}
	return f.place.File
}

// check collects the names in table that are no keys. path is where table
// stands in the file, under its name in the list of keys.
func (f *parsed) check(table map[string]any, keys []key, path, under string) {
	for name, v := range table {
		full := under + name
		at := path + name
		i := slices.IndexFunc(keys, func(k key) bool { return k.name == full })
		inner, isTable := v.(map[string]any)
		switch {
		case strings.Contains(name, "."):
			// A quoted name, which is another than that of a key in a table.
			f.report(at, "unknown key "+strconv.Quote(name)+": write it without quotes")
		case i >= 0 && keys[i].sample != nil:
			for n, entry := range entries(v) {
				f.check(entry, keys[i].sample(), fmt.Sprintf("%s[%d].", at, n), "")
			}
		case i >= 0:
		case isTable && slices.ContainsFunc(keys, func(k key) bool { return strings.HasPrefix(k.name, full+".") }):
			f.check(inner, keys, at+".", full+".")
		case !isTable && slices.ContainsFunc(keys, func(k key) bool { return strings.HasPrefix(k.name, full+".") }):
			f.report(at, fmt.Sprintf("%s is a table: write [%s] on a line of its own", plain(at), plain(at)))
		default:
			text := "unknown key " + plain(at)
			if near := nearest(plain(at), f.names); near != "" {
				text += ": did you mean " + near + "?"
			}
			f.report(at, text)
		}
	}
}

func (f *parsed) report(path, text string) {
	f.unknown = append(f.unknown, unknownKey{f.lines[path], f.where(path) + ": " + text})
}

// apply sets the keys that table holds, in the order of the list of keys, so
// that the first error does not depend on chance. Everything in it is known.
func (f *parsed) apply(table map[string]any, keys []key, path string) error {
	for i := range keys {
		k := &keys[i]
		v := at(table, k.name)
		if v == nil {
			continue
		}
		full := path + k.name
		if k.add != nil {
			list := entries(v)
			if list == nil {
				return fmt.Errorf("%s: %s is a list of tables: write [[%s]] before each", f.where(full), plain(full), plain(full))
			}
			for n, entry := range list {
				one := fmt.Sprintf("%s[%d]", full, n)
				filled := false
				err := k.add(func(keys []key) error {
					err := f.apply(entry, keys, one+".")
					filled = err == nil
					return err
				})
				if err != nil && filled {
					err = fmt.Errorf("%s: %s: %w", f.where(one), plain(full), err)
				}
				if err != nil {
					return err
				}
			}
			continue
		}
		if k.secret {
			return fmt.Errorf("%s: %s does not belong into this file, which many may read: put it in a file of its own and name that in %s_file, or set %s",
				f.where(full), plain(full), plain(full), k.env)
		}
		if err := k.set(v); err != nil && k.private {
			return fmt.Errorf("%s: %s: %w", f.where(full), plain(full), err)
		} else if err != nil {
			return fmt.Errorf("%s: %s is %v: %w", f.where(full), plain(full), v, err)
		}
		f.place.origins[full] = f.where(full)
	}
	return nil
}

// at finds a key in a table by its dotted name.
func at(table map[string]any, name string) any {
	for {
		first, rest, more := strings.Cut(name, ".")
		if !more {
			return table[first]
		}
		inner, ok := table[first].(map[string]any)
		if !ok {
			return nil
		}
		table, name = inner, rest
	}
}

// entries returns the tables of a list, nil if v is none.
func entries(v any) []map[string]any {
	switch v := v.(type) {
	case []map[string]any:
		return v
	case []any:
		list := make([]map[string]any, 0, len(v))
		for _, e := range v {
			m, ok := e.(map[string]any)
			if !ok {
				return nil
			}
			list = append(list, m)
		}
		return list
	}
	return nil
}

// plain is a path without the positions in lists, as people write it.
func plain(path string) string {
	var b strings.Builder
	for path != "" {
		open := strings.IndexByte(path, '[')
		if open < 0 {
			break
		}
		end := strings.IndexByte(path[open:], ']')
		if end < 0 {
			break
		}
		b.WriteString(path[:open])
		path = path[open+end+1:]
	}
	return b.String() + path
}

// lines tells on which line, from 1, each key and table stands, by its path:
// "cache.dir", "tenant[0].credential[1].subject". Text is valid TOML.
func lines(text []byte) map[string]int {
	w := &walker{lines: map[string]int{}, count: map[string]int{}}
	w.parser.Reset(text)
	prefix := ""
	for w.parser.NextExpression() {
		e := w.parser.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			prefix = w.header(e)
		case unstable.KeyValue:
			w.value(e, prefix)
		}
	}
	return w.lines
}

// maxPath is longer than any key's path: what nests deeper is unknown further
// out, and need not be followed, at a cost that grows with the square of the
// depth.
const maxPath = 200

// walker follows the tables of a document.
type walker struct {
	parser unstable.Parser
	lines  map[string]int
	count  map[string]int // entries of a list of tables
}

// header returns the prefix of the keys below [a.b] or [[a.b]]. A name of a list
// of tables on the way means its newest entry.
func (w *walker) header(e *unstable.Node) string {
	path, line := "", 0
	it := e.Key()
	for it.Next() {
		n := it.Node()
		line = w.line(n)
		path += string(n.Data)
		if it.IsLast() && e.Kind == unstable.ArrayTable {
			w.note(path, line)
			w.count[path]++
		}
		if c := w.count[path]; c > 0 {
			path += fmt.Sprintf("[%d]", c-1)
		}
		if it.IsLast() {
			w.note(path, line)
		}
		path += "."
	}
	return path
}

// value notes a key and those within its value.
func (w *walker) value(e *unstable.Node, prefix string) {
	path := prefix
	it := e.Key()
	for it.Next() {
		path += string(it.Node().Data)
		w.note(path, w.line(it.Node()))
		path += "."
	}
	w.inside(e.Value(), strings.TrimSuffix(path, "."))
}

func (w *walker) inside(v *unstable.Node, path string) {
	if len(path) > maxPath {
		return
	}
	it := v.Children()
	switch v.Kind {
	case unstable.InlineTable:
		for it.Next() {
			w.value(it.Node(), path+".")
		}
	case unstable.Array:
		for i := 0; it.Next(); i++ {
			one := fmt.Sprintf("%s[%d]", path, i)
			w.note(one, w.lines[path])
			w.inside(it.Node(), one)
		}
	}
}

// note keeps the first line of a path: where a table begins.
func (w *walker) note(path string, line int) {
	if w.lines[path] == 0 {
		w.lines[path] = line
	}
}

func (w *walker) line(n *unstable.Node) int { return w.parser.Shape(n.Raw).Start.Line }

// names lists all keys, those of lists of tables under the list's name.
func names(keys []key, prefix string) []string {
	var all []string
	for i := range keys {
		if keys[i].sample != nil {
			all = append(all, names(keys[i].sample(), prefix+keys[i].name+".")...)
			continue
		}
		all = append(all, prefix+keys[i].name)
	}
	return all
}

// nearest is the key or table that name was most likely meant to be, or "".
func nearest(name string, keys []string) string {
	if len(name) > 64 { // no slip of the pen, and a distance costs the product of the lengths
		return ""
	}
	best, bestDistance := "", 1+len(name)/2
	for _, k := range keys {
		d := distance(name, k)
		// A key written without its table, or under a wrong one.
		if i := strings.LastIndexByte(k, '.'); i >= 0 && k[i+1:] == name[strings.LastIndexByte(name, '.')+1:] {
			d = min(d, 1)
		}
		if d < bestDistance {
			best, bestDistance = k, d
		}
		// An unknown table is reported by its own name.
		if i := strings.LastIndexByte(k, '.'); i >= 0 {
			if d := distance(name, k[:i]); d < bestDistance {
				best, bestDistance = k[:i], d
			}
		}
	}
	return best
}

// distance is the number of single-byte edits between a and b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			above := row[j]
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			row[j] = min(cost, above+1, row[j-1]+1)
			diagonal = above
		}
	}
	return row[len(b)]
}
