package compiler

import (
	"bytes"
	"strings"
)

// Root is a directory whose place differs between machines or checkouts.
type Root struct {
	// Dir is where it is here: absolute, clean, not "/".
	Dir string
	// Neutral is the fixed path that compilers are told to put in its place in
	// outputs. The map does not read it.
	Neutral string
}

// PathMap makes paths below the roots neutral, so that they mean the same in
// another checkout, and local again. A neutral path is a NUL byte, a digit,
// and the rest of the path: "\x000/src/a.c" is src/a.c below the first root.
// No real path holds a NUL, so neutral paths cannot be mistaken for any.
//
// A root is only replaced where it ends at a path boundary: /w/p is left alone
// in /w/p2, in /tmp/w/p and in /w/p.old. Of nested roots the longest counts.
// A nil PathMap and one without roots map nothing. PathMaps are not changed
// once in use and may be shared by goroutines.
type PathMap struct {
	// Roots are at most MaxRoots; what is beyond is not mapped.
	Roots []Root
}

// MaxRoots is how many roots a PathMap maps: their index is one digit.
const MaxRoots = 10

func (m *PathMap) identity() bool { return m == nil || len(m.Roots) == 0 }

// Neutral maps a path, which is taken as it is: no cleaning, relative paths
// are never below a root.
func (m *PathMap) Neutral(path string) string {
	if i := m.rootOf(path); i >= 0 {
		return string([]byte{0, '0' + byte(i)}) + path[len(m.Roots[i].Dir):]
	}
	return path
}

// Local is the inverse of Neutral. A neutral path of a root that m does not
// have stays as it is, and so names no file.
func (m *PathMap) Local(path string) string {
	if len(path) < 2 || path[0] != 0 || m.identity() {
		return path
	}
	if i := int(path[1] - '0'); i < min(len(m.Roots), MaxRoots) {
		return m.Roots[i].Dir + path[2:]
	}
	return path
}

// rootOf is the index of the longest root that path is or lies below, or -1.
func (m *PathMap) rootOf(path string) int {
	best := -1
	if m.identity() || !strings.HasPrefix(path, "/") {
		return best
	}
	for i, r := range m.Roots[:min(len(m.Roots), MaxRoots)] {
		rest, ok := strings.CutPrefix(path, r.Dir)
		if ok && r.Dir != "" && (rest == "" || rest[0] == '/') && (best < 0 || len(r.Dir) > len(m.Roots[best].Dir)) {
			best = i
		}
	}
	return best
}

// NeutralText maps every path below a root in a text such as the compiler's
// diagnostics. NUL bytes of the text itself are doubled, with or without
// roots, so that LocalText restores every text.
func (m *PathMap) NeutralText(text []byte) []byte {
	if bytes.IndexByte(text, 0) < 0 && !m.mentioned(text) {
		return text
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); {
		if text[i] == '/' && (i == 0 || !nameByteBefore(text[:i])) {
			if r := m.rootAt(text[i:]); r >= 0 {
				out = append(out, 0, '0'+byte(r))
				i += len(m.Roots[r].Dir)
				continue
			}
		}
		if text[i] == 0 {
			out = append(out, 0)
		}
		out = append(out, text[i])
		i++
	}
	return out
}

// LocalText is the inverse of NeutralText, for the places of another PathMap.
func (m *PathMap) LocalText(text []byte) []byte {
	if bytes.IndexByte(text, 0) < 0 {
		return text
	}
	out := make([]byte, 0, len(text)+64)
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] != 0 || i+1 == len(text):
			out = append(out, text[i])
		case text[i+1] == 0:
			out = append(out, 0)
			i++
		default:
			out = append(out, m.Local(string(text[i:i+2]))...)
			i++
		}
	}
	return out
}

func (m *PathMap) mentioned(text []byte) bool {
	if m.identity() {
		return false
	}
	for _, r := range m.Roots {
		if r.Dir != "" && bytes.Contains(text, []byte(r.Dir)) {
			return true
		}
	}
	return false
}

// rootAt is the index of the longest root that the path at the beginning of
// text is or lies below, or -1.
func (m *PathMap) rootAt(text []byte) int {
	best := -1
	if m.identity() {
		return best
	}
	for i, r := range m.Roots[:min(len(m.Roots), MaxRoots)] {
		rest, ok := bytes.CutPrefix(text, []byte(r.Dir))
		if ok && r.Dir != "" && !nameByteAfter(rest) && (best < 0 || len(r.Dir) > len(m.Roots[best].Dir)) {
			best = i
		}
	}
	return best
}

// nameByteAfter reports whether text goes on with a byte of the file name that
// ended before it, so that the name was not whole. A name that goes on with a
// blank cannot be told from the end of a path; it is taken for the end.
func nameByteAfter(text []byte) bool {
	return len(text) > 0 && isNameByte(text[0]) && !quoteAt(text)
}

// nameByteBefore reports whether text ends inside a file name, so that a slash
// after it does not begin an absolute path.
func nameByteBefore(text []byte) bool {
	last := text[len(text)-1]
	if last == '/' { // "//w/p" is not how anyone spells a root
		return true
	}
	return isNameByte(last) && !(len(text) >= 3 && quoteAt(text[len(text)-3:]))
}

// quoteAt reports whether text begins with one of the quotation marks that
// compilers set around names in a UTF-8 locale.
func quoteAt(text []byte) bool {
	if len(text) < 3 || text[0] != 0xe2 || text[1] != 0x80 {
		return false
	}
	switch text[2] {
	case 0x98, 0x99, 0x9c, 0x9d:
		return true
	}
	return false
}

func isNameByte(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c >= 0x80:
		return true
	}
	return strings.IndexByte("._-+~@%#", c) >= 0
}
