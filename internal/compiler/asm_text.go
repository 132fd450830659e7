package compiler

import "bytes"

// AssemblesNoFile reports whether the assembly in preprocessed C, C++ or
// Objective-C makes no assembler read a file. There are no macros left in such
// text, so literals stand where they are joined; but an operand (%0), a choice
// of dialects ({a|b}) or an argument of the assembler's own macros (\x) may
// still write a part of a directive. False means: it may read one.
func AssemblesNoFile(text []byte) bool {
	l := asmLexer{src: text}
	for l.i < len(l.src) {
		c := l.src[l.i]
		switch {
		case c == '#' && l.lineStart(): // a line marker, a pragma
			l.line()
		case bytes.HasPrefix(l.src[l.i:], []byte("//")):
			l.line()
		case bytes.HasPrefix(l.src[l.i:], []byte("/*")):
			if !l.comment() {
				return false
			}
		case c == '"' || c == '\'':
			if _, ok := l.quoted(); !ok {
				return false
			}
		case '0' <= c && c <= '9':
			l.number()
		case isWord(c):
			word := l.identifier()
			if l.i < len(l.src) && l.src[l.i] == '"' && isRawPrefix(l.src, l.i) {
				if _, ok := l.raw(); !ok {
					return false
				}
			}
			if isAsmKeyword(word) && !l.statement() {
				return false
			}
		default:
			l.i++
		}
	}
	return true
}

// asmLexer walks over preprocessed text.
type asmLexer struct {
	src []byte
	i   int
}

func (l *asmLexer) lineStart() bool {
	for i := l.i; i > 0; i-- {
		if b := l.src[i-1]; b == '\n' {
			return true
		} else if b != ' ' && b != '\t' {
			return false
		}
	}
	return true
}

func (l *asmLexer) line() {
	if n := bytes.IndexByte(l.src[l.i:], '\n'); n >= 0 {
		l.i += n
	} else {
		l.i = len(l.src)
	}
}

func (l *asmLexer) comment() bool {
	n := bytes.Index(l.src[l.i+2:], []byte("*/"))
	if n < 0 {
		return false
	}
	l.i += 2 + n + 2
	return true
}

// number passes over a preprocessing number, whose digits ' may separate.
func (l *asmLexer) number() {
	for l.i < len(l.src) {
		c := l.src[l.i]
		separates := c == '\'' && l.i+1 < len(l.src) && isWord(l.src[l.i+1])
		if !isWord(c) && c != '.' && !separates {
			return
		}
		l.i++
	}
}

func (l *asmLexer) identifier() []byte {
	start := l.i
	for l.i < len(l.src) && isWord(l.src[l.i]) {
		l.i++
	}
	return l.src[start:l.i]
}

// quoted reads a literal in quotes and returns what stands between them.
func (l *asmLexer) quoted() (body []byte, ok bool) {
	quote, start := l.src[l.i], l.i+1
	for i := start; i < len(l.src); i++ {
		switch l.src[i] {
		case '\\':
			i++
		case quote:
			l.i = i + 1
			return l.src[start:i], true
		case '\n':
			return nil, false // nothing that compiles
		}
	}
	return nil, false
}

// raw reads a raw string literal whose prefix has been read.
func (l *asmLexer) raw() (body []byte, ok bool) {
	rest := l.src[l.i+1:]
	open := bytes.IndexByte(rest, '(')
	if open < 0 || open > 16 { // [lex.string]: a delimiter has 16 characters at most
		return nil, false
	}
	end := append(append([]byte{')'}, rest[:open]...), '"')
	n := bytes.Index(rest[open+1:], end)
	if n < 0 {
		return nil, false
	}
	l.i += 1 + open + 1 + n + len(end)
	return rest[open+1 : open+1+n], true
}

func isAsmKeyword(word []byte) bool {
	switch string(word) {
	case "asm", "__asm", "__asm__", "_asm":
		return true
	}
	return false
}

// statement reads what follows an asm keyword, up to the end of its text, and
// reports whether that reads no file. Blocks of Microsoft's kind and all else
// that is not a literal in parentheses it does not understand.
func (l *asmLexer) statement() bool {
	for {
		if !l.blanks() {
			return false
		}
		if l.src[l.i] == '(' {
			l.i++
			break
		}
		switch string(bytes.Trim(l.identifier(), "_")) {
		case "volatile", "inline", "goto", "const":
		default:
			return false
		}
	}
	var text []byte
	for l.blanks() {
		switch c := l.src[l.i]; {
		case c == '"':
			body, ok := l.quoted()
			if !ok {
				return false
			}
			if text, ok = appendUnescaped(text, body); !ok {
				return false
			}
		case c == 'R' && l.i+1 < len(l.src) && l.src[l.i+1] == '"':
			l.i++
			body, ok := l.raw()
			if !ok {
				return false
			}
			text = append(text, body...)
		case c == ')' || c == ':':
			return readsNoFile(text)
		default:
			return false
		}
	}
	return false
}

// blanks passes over white space, comments and line markers, and reports
// whether anything follows.
func (l *asmLexer) blanks() bool {
	for l.i < len(l.src) {
		switch rest := l.src[l.i:]; {
		case isSpace(rest[0]):
			l.i++
		case rest[0] == '#' && l.lineStart(), bytes.HasPrefix(rest, []byte("//")):
			l.line()
		case bytes.HasPrefix(rest, []byte("/*")):
			if !l.comment() {
				return false
			}
		default:
			return true
		}
	}
	return false
}

// appendUnescaped appends what a string literal stands for. Characters written
// as numbers are not understood: nobody writes assembly so.
func appendUnescaped(text, body []byte) (_ []byte, ok bool) {
	for i := 0; i < len(body); i++ {
		if body[i] != '\\' {
			text = append(text, body[i])
			continue
		}
		i++
		if i == len(body) {
			return nil, false
		}
		switch c := body[i]; c {
		case 'n', 't', 'r', 'v', 'f':
			text = append(text, ' ')
		case '\\', '"', '\'', '?':
			text = append(text, c)
		case '\n': // spliced
		default:
			return nil, false
		}
	}
	return text, true
}

// readsNoFile reports whether the text of one asm statement, or of the name
// that one gives to a symbol, cannot be a directive that reads a file, nor be
// completed to one by what the compiler or the assembler puts into it.
func readsNoFile(text []byte) bool {
	lower := bytes.ToLower(text)
	if bytes.Contains(lower, asmInclude) || bytes.Contains(lower, asmIncbin) || bytes.Contains(lower, []byte("altmacro")) {
		return false
	}
	for i, c := range lower {
		if c == '.' && (begins(lower[i+1:], asmInclude) || begins(lower[i+1:], asmIncbin)) {
			return false
		}
	}
	return true
}

// begins reports whether rest holds the begin of word, perhaps nothing of it,
// and then something that may be replaced by the rest, or ends.
func begins(rest, word []byte) bool {
	n := 0
	for n < len(rest) && n < len(word) && rest[n] == word[n] {
		n++
	}
	return n == len(rest) || bytes.IndexByte([]byte(`%{|}\$`), rest[n]) >= 0
}
