package compiler

import "bytes"

// scanner walks over one reading of a source. Its position moves forward only,
// with two bounded exceptions (the blanks behind a backslash, the word before
// ##), so that time stays linear.
//
// It tells apart just enough of the language: comments, string and character
// literals, raw strings, the begin of a line. Between those a table lets it
// run over bytes that mean nothing here.
type scanner struct {
	src []byte
	out *FileScan

	found  []foundDirective
	macros []foundMacro
	index  map[foundKey]int // of found, once a linear search is too slow

	dialect  dialect // of the present reading
	doubts   dialect // choices that made a difference
	readings int

	// muted is the end of a line comment that the dialect reads as code. Only
	// what hides directives matters there: no mode gives a use to its words.
	muted int

	// rawMisses counts the raw strings without an end: the search for one reads
	// the rest of the file.
	rawMisses int

	asm asmPresence
}

// foundDirective is a Directive whose name still points into a source.
type foundDirective struct {
	kind     DirectiveKind
	angle    bool
	repeated bool
	name     []byte
}

type foundKey struct {
	kind  DirectiveKind
	angle bool
	name  string
}

// maxRawMisses bounds the searches for the ends of raw strings that do not
// end. A compiler stops at the first such; text that is not C++ may be full of
// them.
const maxRawMisses = 16

// eventful marks the bytes at which the main loop has to look up.
var eventful = func() (t [256]bool) {
	for _, c := range "\n\"'/#_.DTG%" {
		t[c] = true
	}
	return t
}()

// dialect is a set of choices in which language modes, or gcc and clang,
// differ. The zero value is the modern language.
type dialect uint8

const (
	// noRawStrings: R"(…)" is a word and a string, as in C90 and C++98.
	noRawStrings dialect = 1 << iota
	// noSeparators: 1'000' has a character literal in it, as in C17 and C++11.
	noSeparators
	// noLineComments: // is two operators, as in C90. It is in doubt only where
	// a block comment would then start.
	noLineComments
	// errorTokens: the text of #error and #warning is read as tokens, as by gcc;
	// clang takes it as it is. In doubt where a block comment would start.
	errorTokens

	dialects = iota
)

// scanDialects adds the readings of a text in all dialects between which it
// makes a difference.
func (s *scanner) scanDialects(src []byte) {
	var done [1 << dialects]bool
	s.doubts = 0
	for d := dialect(0); int(d) < len(done); d++ {
		if done[d] || d&^s.doubts != 0 {
			continue
		}
		done[d] = true
		before := s.doubts
		s.dialect = d
		s.scan(src)
		s.readings++
		if s.doubts != before {
			d = 0 // done: look again for what is left
		}
	}
}

// scan adds one reading of the source to the report.
func (s *scanner) scan(src []byte) {
	s.src = src
	s.rawMisses, s.muted, s.asm = 0, 0, asmUnknown
	s.splitWords()
	for i := s.lineStart(0); i < len(src); {
		for !eventful[src[i]] {
			if i++; i == len(src) {
				return
			}
		}
		if c := src[i]; i < s.muted && c != '\n' && c != '"' && c != '\'' && c != '/' {
			i++
			continue
		}
		switch src[i] {
		case '\n':
			i = s.lineStart(i + 1)
		case '"':
			i = s.str(i)
		case '\'':
			i = s.char(i)
		case '/':
			i = s.slash(i)
		case '#':
			i = s.hash(i)
		case '%':
			if bytes.HasPrefix(src[i:], []byte("%:%:")) {
				s.paste(i, i+4)
				i += 4
			} else {
				i++
			}
		case '_':
			i = s.underscore(i)
		case '.':
			i = s.dot(i)
		case 'D', 'T', 'G':
			i = s.capital(i)
		default:
			i++
		}
	}
}

// lineStart is called where a line begins, and behind a block comment, since
// what follows may be the first token of its line. It returns where the main
// loop goes on.
func (s *scanner) lineStart(i int) int {
	src := s.src
	for i < len(src) && isSpace(src[i]) {
		i++
	}
	if i >= len(src) {
		return i
	}
	switch src[i] {
	case '#':
		if i+1 < len(src) && src[i+1] == '#' {
			return i // the continuation of a macro: pasting
		}
		return s.directive(i + 1)
	case '%':
		if i+1 < len(src) && src[i+1] == ':' && !bytes.HasPrefix(src[i:], []byte("%:%:")) {
			return s.directive(i + 2)
		}
	case '?':
		// ??= without trigraphs is no directive; another reading has it.
	case 'i', 'm', 'e', '@':
		return s.moduleLine(i)
	}
	return i
}

// moduleLine looks for the first tokens of a C++20 module line or an
// Objective-C @import.
func (s *scanner) moduleLine(i int) int {
	at := i
	if s.src[i] == '@' {
		i++
	}
	w, end := s.word(i)
	switch string(w) {
	case "export":
		next := s.blanks(end)
		exported, after := s.word(next)
		if string(exported) != "module" && string(exported) != "import" {
			return end
		}
		end = after
	case "import", "module":
	default:
		if len(w) == 0 {
			return at + 1
		}
		return at // the main loop has to see the word
	}
	next := s.blanks(end)
	if next >= len(s.src) {
		return next
	}
	switch c := s.src[next]; {
	case c == ';' || c == ':' || c == '<' || c == '"':
		s.out.Module = true
	case isWord(c) && !('0' <= c && c <= '9'):
		s.out.Module = true
	}
	return end
}

// word returns the identifier or number that starts at i, and where it ends.
func (s *scanner) word(i int) ([]byte, int) {
	src, end := s.src, i
	for end < len(src) && wordByte[src[end]] {
		end++
	}
	return src[i:end], end
}

// blanks skips white space within a logical line: blanks, spliced newlines and
// block comments.
func (s *scanner) blanks(i int) int {
	src := s.src
	for i < len(src) {
		switch c := src[i]; {
		case isBlank(c):
			i++
		case c == '\\':
			end := spliceEnd(src, i)
			if end == 0 {
				return i
			}
			i = end
		case c == '/' && i+1 < len(src) && src[i+1] == '*':
			i = s.blockComment(i)
		default:
			return i
		}
	}
	return i
}

// lineEnd returns the index of the newline that ends the logical line at i.
func (s *scanner) lineEnd(i int) int {
	src := s.src
	for {
		n := bytes.IndexByte(src[i:], '\n')
		if n < 0 {
			return len(src)
		}
		if !splicedBefore(src, i, i+n) {
			return i + n
		}
		i += n + 1
	}
}

// splicedBefore reports whether the newline at nl is spliced away, looking back
// no further than from.
func splicedBefore(src []byte, from, nl int) bool {
	for nl--; nl >= from; nl-- {
		if !isBlank(src[nl]) || src[nl] == 0 {
			return src[nl] == '\\'
		}
	}
	return false
}

// slash handles comments.
func (s *scanner) slash(i int) int {
	if i+1 < len(s.src) {
		switch s.src[i+1] {
		case '*':
			return s.lineStart(s.blockComment(i))
		case '/':
			if s.dialect&noLineComments != 0 {
				if i >= s.muted {
					s.muted = s.lineEnd(i + 2)
				}
				return i + 1
			}
			end := s.lineEnd(i + 2)
			if bytes.Contains(s.src[i+1:end], []byte("/*")) {
				s.doubts |= noLineComments
			}
			return end
		}
	}
	return i + 1
}

// blockComment returns the index behind the block comment that starts at i. One
// that does not end reaches to the end of the file.
func (s *scanner) blockComment(i int) int {
	end := bytes.Index(s.src[i+2:], []byte("*/"))
	if end < 0 {
		return len(s.src)
	}
	return i + 2 + end + 2
}

// str handles a string literal, raw or plain, that starts at i.
func (s *scanner) str(i int) int {
	if s.dialect&noRawStrings == 0 && isRawPrefix(s.src, i) {
		if end := s.rawString(i); end > 0 {
			return end
		}
	}
	end := s.literalEnd(i, '"')
	next := s.afterLiteral(end, '"')
	if i >= s.muted {
		s.stringText(s.src[i+1:end], i, next)
	}
	return next
}

// char handles a character literal, or an apostrophe within a number.
func (s *scanner) char(i int) int {
	if s.dialect&noSeparators == 0 && isDigitSeparator(s.src, i) {
		s.doubts |= noSeparators
		return i + 1
	}
	return s.afterLiteral(s.literalEnd(i, '\''), '\'')
}

// literalEnd returns the index of the quote that closes the literal at i, or
// of the end of the logical line if nothing closes it: that is where gcc and
// clang end it too.
func (s *scanner) literalEnd(i int, quote byte) int {
	src := s.src
	for i++; i < len(src); i++ {
		switch src[i] {
		case quote, '\n':
			return i
		case '\\':
			if end := spliceEnd(src, i); end > 0 {
				i = end - 1
			} else {
				i++
			}
		}
	}
	return len(src)
}

func (s *scanner) afterLiteral(end int, quote byte) int {
	if end < len(s.src) && s.src[end] == quote {
		return end + 1
	}
	return end
}

// isRawPrefix reports whether the quote at i follows R, LR, uR, UR or u8R.
func isRawPrefix(src []byte, i int) bool {
	if i == 0 || src[i-1] != 'R' {
		return false
	}
	start := i - 1
	for start > 0 && i-start < 5 && isWord(src[start-1]) {
		start--
	}
	switch string(src[start:i]) {
	case "R", "LR", "uR", "UR", "u8R":
		return true
	}
	return false
}

// rawString handles a raw string whose quote is at i and returns where it
// ends, or 0 if it is none.
func (s *scanner) rawString(i int) int {
	src := s.src
	open := i + 1
	for open < len(src) && open-i <= 17 && src[open] != '(' {
		if c := src[open]; isSpace(c) || c == ')' || c == '\\' {
			return 0
		}
		open++
	}
	if open >= len(src) || src[open] != '(' || s.rawMisses >= maxRawMisses {
		return 0
	}
	closing := make([]byte, 0, 20)
	closing = append(closing, ')')
	closing = append(closing, src[i+1:open]...)
	closing = append(closing, '"')
	n := bytes.Index(src[open+1:], closing)
	if n < 0 {
		s.rawMisses++
		return 0
	}
	end := open + 1 + n
	s.stringText(src[open+1:end], i, end+len(closing))
	s.doubts |= noRawStrings
	return end + len(closing)
}

// isDigitSeparator reports whether the apostrophe at i stands within a number,
// as in 1'000 or 0xff'ff: between word bytes, in a word that starts with a
// digit. Numbers are short, so the way back is bounded.
func isDigitSeparator(src []byte, i int) bool {
	const longest = 128
	if i == 0 || i+1 >= len(src) || !isWord(src[i-1]) || !isWord(src[i+1]) {
		return false
	}
	start := i - 1
	for start > 0 && i-start < longest && (isWord(src[start-1]) || src[start-1] == '\'' || src[start-1] == '.') {
		start--
	}
	for start < i && (src[start] == '\'' || src[start] == '.') {
		start++
	}
	return '0' <= src[start] && src[start] <= '9'
}
