package ipc

import (
	"errors"
	"unicode/utf8"
)

// A reader of just the JSON that daemon.json is made of: one flat object whose
// values are strings and integers. encoding/json would cost the wrapper more
// than the rest of its start, as it brings reflection and its tables.

const hexDigits = "0123456789abcdef"

// value is one member's: a string, as bytes of the text where it holds no
// escapes, or an integer.
type value struct {
	isText bool
	str    []byte
	num    int
}

func (v value) text() (string, error) {
	if !v.isText {
		return "", errors.New("not a string")
	}
	return string(v.str), nil
}

func (v value) integer(low, high int) (int, error) {
	if v.isText {
		return 0, errors.New("not a number")
	}
	if v.num < low || v.num > high {
		return 0, errors.New("out of range")
	}
	return v.num, nil
}

func (v value) hex() ([]byte, error) {
	if !v.isText || len(v.str)%2 != 0 {
		return nil, errors.New("not a hexadecimal string")
	}
	b := make([]byte, len(v.str)/2)
	for i := range b {
		high, ok1 := hexValue(v.str[2*i])
		low, ok2 := hexValue(v.str[2*i+1])
		if !ok1 || !ok2 {
			return nil, errors.New("not a hexadecimal string")
		}
		b[i] = byte(high<<4 | low)
	}
	return b, nil
}

func hexValue(c byte) (rune, bool) {
	switch {
	case '0' <= c && c <= '9':
		return rune(c - '0'), true
	case 'a' <= c && c <= 'f':
		return rune(c-'a') + 10, true
	case 'A' <= c && c <= 'F':
		return rune(c-'A') + 10, true
	}
	return 0, false
}

var errSyntax = errors.New("not an object of strings and integers")

// scanner walks over the text; all its methods return errSyntax where the text
// is not of the grammar.
type scanner struct {
	b   []byte
	pos int
}

// parseObject calls member for each member of the object that b holds, in
// order, and returns its first error.
func parseObject(b []byte, member func(name []byte, v value) error) error {
	s := scanner{b: b}
	if !s.take('{') {
		return errSyntax
	}
	for first := true; !s.take('}'); first = false {
		if !first && !s.take(',') {
			return errSyntax
		}
		name, err := s.str()
		if err != nil {
			return err
		}
		if !s.take(':') {
			return errSyntax
		}
		v, err := s.value()
		if err != nil {
			return err
		}
		if err := member(name, v); err != nil {
			return err
		}
	}
	if s.space(); s.pos != len(s.b) {
		return errSyntax
	}
	return nil
}

func (s *scanner) space() {
	for s.pos < len(s.b) {
		switch s.b[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

// take steps over c, after white space, if it comes next.
func (s *scanner) take(c byte) bool {
	s.space()
	if s.pos < len(s.b) && s.b[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

// next returns the byte that comes next, 0 at the end, and steps over it.
func (s *scanner) next() byte {
	if s.pos == len(s.b) {
		return 0
	}
	s.pos++
	return s.b[s.pos-1]
}

func (s *scanner) value() (value, error) {
	s.space()
	if s.pos < len(s.b) && s.b[s.pos] == '"' {
		str, err := s.str()
		return value{isText: true, str: str}, err
	}
	num, err := s.integer()
	return value{num: num}, err
}

// integer reads up to nine digits and ten where they fit 31 bits: no member
// needs more.
func (s *scanner) integer() (int, error) {
	start, n := s.pos, int64(0)
	for s.pos < len(s.b) && '0' <= s.b[s.pos] && s.b[s.pos] <= '9' {
		n = n*10 + int64(s.b[s.pos]-'0')
		if n > 1<<31-1 {
			return 0, errors.New("number out of range")
		}
		s.pos++
	}
	if s.pos == start || (s.b[start] == '0' && s.pos > start+1) {
		return 0, errSyntax
	}
	return int(n), nil
}

// str reads a string. Bytes above 0x7f are taken as they are: a path need not
// be UTF-8.
func (s *scanner) str() ([]byte, error) {
	if !s.take('"') {
		return nil, errSyntax
	}
	start := s.pos
	for s.pos < len(s.b) {
		switch c := s.b[s.pos]; {
		case c == '"':
			s.pos++
			return s.b[start : s.pos-1], nil
		case c < ' ':
			return nil, errSyntax
		case c == '\\':
			return s.escaped(append([]byte(nil), s.b[start:s.pos]...))
		}
		s.pos++
	}
	return nil, errSyntax
}

// escaped reads the rest of a string from its first escape on; out is what
// came before it.
func (s *scanner) escaped(out []byte) ([]byte, error) {
	for {
		c := s.next()
		switch {
		case c == '"':
			return out, nil
		case c < ' ': // the end of the text as well
			return nil, errSyntax
		case c != '\\':
			out = append(out, c)
			continue
		}
		switch c = s.next(); c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'n':
			out = append(out, '\n')
		case 't':
			out = append(out, '\t')
		case 'r':
			out = append(out, '\r')
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'u':
			r := rune(0)
			for range 4 {
				digit, ok := hexValue(s.next())
				if !ok {
					return nil, errSyntax
				}
				r = r<<4 | digit
			}
			// Halves of surrogate pairs are not written by appendString.
			if !utf8.ValidRune(r) {
				return nil, errSyntax
			}
			out = utf8.AppendRune(out, r)
		default:
			return nil, errSyntax
		}
	}
}

// appendString appends s as a JSON string that str reads back to the same
// bytes.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
