package compiler

import (
	"bytes"
	"errors"
	"strings"
)

// errDepFile is for text that neither gcc nor clang writes.
var errDepFile = errors.New("not a dependency file")

// ParseDepFile reads a dependency file as gcc and clang write it for -MD: one
// rule whose targets and prerequisites it returns in order, duplicates kept
// (gcc lists a file once for each name under which it was first included),
// followed by -MP's rules without prerequisites, which it skips.
//
// Escapes are undone as make would. Some of what the compilers write cannot be
// undone: clang writes a backslash in a name as a slash and a tab as it is, and
// gcc leaves the backslashes at the end of a name alone. The names then read
// are those of no file.
func ParseDepFile(b []byte) (targets, deps []string, err error) {
	p := depParser{rest: b}
	for {
		word, colon, ok := p.word(true)
		if !ok {
			return nil, nil, errDepFile
		}
		targets = append(targets, word)
		if colon {
			break
		}
	}
	for {
		word, _, ok := p.word(false)
		if !ok {
			return targets, deps, nil
		}
		deps = append(deps, word)
	}
}

type depParser struct{ rest []byte }

// word returns the next word of the rule, and whether the colon that ends the
// targets follows it; ok is false at the end of the rule. In targets, a colon
// before a blank or the end of the line is that colon.
func (p *depParser) word(target bool) (word string, colon, ok bool) {
	b := p.rest
	i := 0
	for i < len(b) {
		switch {
		case b[i] == ' ' || b[i] == '\t' || b[i] == '\r':
			i++
			continue
		case b[i] == '\\' && i+1 < len(b) && b[i+1] == '\n':
			i += 2
			continue
		case b[i] == '\\' && bytes.HasPrefix(b[i+1:], []byte("\r\n")):
			i += 3
			continue
		}
		break
	}
	if i >= len(b) || b[i] == '\n' {
		p.rest = b[i:]
		return "", false, false
	}
	var w []byte
	for i < len(b) {
		c := b[i]
		if c == ' ' || c == '\t' || c == '\n' || c == '\r' && i+1 < len(b) && b[i+1] == '\n' {
			break
		}
		if target && c == ':' && (i+1 == len(b) || bytes.IndexByte([]byte(" \t\r\n\\"), b[i+1]) >= 0) && len(w) > 0 {
			p.rest = b[i+1:]
			return string(w), true, true
		}
		switch c {
		case '$':
			if i+1 < len(b) && b[i+1] == '$' {
				i++
			}
		case '\\':
			n := 1
			for i+n < len(b) && b[i+n] == '\\' {
				n++
			}
			next := byte(0)
			if i+n < len(b) {
				next = b[i+n]
			}
			switch {
			case next == '\n' || next == '\r':
				// One backslash continues the line, after a blank; others belong
				// to a name that ends in them.
				w = append(w, b[i:i+n]...)
				i += n
				continue
			case (next == ' ' || next == '\t') && n%2 == 1:
				// 2N+1 backslashes and a blank are N backslashes and that blank.
				w = append(append(w, b[i:i+n/2]...), next)
				i += n + 1
				continue
			case next == ' ' || next == '\t':
				w = append(w, b[i:i+n/2]...)
				i += n
				continue
			case next == '#':
				w = append(append(w, b[i:i+n-1]...), '#')
				i += n + 1
				continue
			}
			w = append(w, b[i:i+n]...)
			i += n
			continue
		}
		w = append(w, c)
		i++
	}
	p.rest = b[i:]
	return string(w), false, true
}

// RenderDepFile writes a dependency file byte for byte as gcc 12 or clang 14
// (also as clang-cl) does for the same targets, in the order of Deps, and the same
// files. With phony (-MP) each file but the main one gets a rule of its own;
// source is the main file as the command names it (clang may list files of
// options before it).
func RenderDepFile(f Family, targets []DepTarget, deps []string, source string, phony bool) []byte {
	if f.IsClang() {
		return renderClang(targets, deps, source, phony)
	}
	return renderGCC(targets, deps, phony)
}

// renderGCC follows libcpp: a name that would reach beyond column 72 starts a
// line, targets and files alike.
func renderGCC(targets []DepTarget, deps []string, phony bool) []byte {
	const columns = 72
	var out []byte
	column := 0
	name := func(n string) {
		if column > 0 {
			if column+len(n) > columns {
				out = append(out, " \\\n"...)
				column = 0
			}
			column++
			out = append(out, ' ')
		}
		column += len(n)
		out = append(out, n...)
	}
	for _, t := range targets {
		n := trimDotSlash(t.Name)
		if t.Quoted {
			n = escapeGCC(n)
		}
		name(n)
	}
	out = append(out, ':')
	column++
	for _, d := range deps {
		name(escapeGCC(trimDotSlash(d)))
	}
	out = append(out, '\n')
	if phony {
		for i, d := range deps {
			if i > 0 {
				out = append(append(out, escapeGCC(trimDotSlash(d))...), ':', '\n')
			}
		}
	}
	return out
}

// trimDotSlash removes "./" from the begin of a name, with the slashes that
// follow, as both compilers do.
func trimDotSlash(name string) string {
	for strings.HasPrefix(name, "./") {
		name = strings.TrimLeft(name[2:], "/")
	}
	return name
}

// escapeGCC quotes for make: backslashes count only before a blank.
func escapeGCC(name string) string {
	if !strings.ContainsAny(name, "$# \t") {
		return name
	}
	var out []byte
	slashes := 0
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch c {
		case '\\':
			out = append(out, c)
			slashes++
			continue
		case '$':
			out = append(out, '$')
		case ' ', '\t':
			for ; slashes > 0; slashes-- {
				out = append(out, '\\')
			}
			out = append(out, '\\')
		case '#':
			out = append(out, '\\')
		}
		slashes = 0
		out = append(out, c)
	}
	return string(out)
}

// renderClang follows clang's DependencyFile: it counts columns by unescaped
// names and keeps two for a continuation.
func renderClang(targets []DepTarget, deps []string, source string, phony bool) []byte {
	const columns = 75
	var out []byte
	column := 0
	for _, t := range targets {
		name := t.Name
		if t.Quoted {
			name = quoteClangTarget(name)
		}
		switch n := len(name); {
		case column == 0:
			column = n
		case column+n+2 > columns:
			column = n + 2
			out = append(out, " \\\n  "...)
		default:
			column += n + 1
			out = append(out, ' ')
		}
		out = append(out, name...)
	}
	out = append(out, ':')
	column++
	main := 0
	source = trimDotSlash(source)
	for i, d := range deps {
		if d == source {
			main = i
			break
		}
	}
	for _, d := range deps {
		if column+len(d)+1+2 > columns {
			out = append(out, " \\\n "...)
			column = 2
		}
		out = append(out, ' ')
		out = append(out, escapeClang(d)...)
		column += len(d) + 1
	}
	out = append(out, '\n')
	if phony {
		for i, d := range deps {
			if i != main {
				out = append(append(append(out, '\n'), escapeClang(d)...), ':', '\n')
			}
		}
	}
	return out
}

// escapeClang writes a file's name; clang takes a backslash for a separator
// and writes it as a slash.
func escapeClang(name string) string {
	if !strings.ContainsAny(name, "\\$# ") {
		return name
	}
	var out []byte
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch c {
		case '\\':
			c = '/'
		case '#', ' ':
			out = append(out, '\\')
		case '$':
			out = append(out, '$')
		}
		out = append(out, c)
	}
	return string(out)
}

// quoteClangTarget quotes the operand of -MQ, or the default target, as clang's
// driver does: backslashes before a blank are doubled.
func quoteClangTarget(name string) string {
	var out []byte
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case ' ', '\t':
			for j := i - 1; j >= 0 && name[j] == '\\'; j-- {
				out = append(out, '\\')
			}
			out = append(out, '\\')
		case '$':
			out = append(out, '$')
		case '#':
			out = append(out, '\\')
		}
		out = append(out, name[i])
	}
	return string(out)
}
