package compiler

import "bytes"

// scanner walks over one reading of a source. Its position moves forward only,
// with two bounded exceptions (the blanks behind a backslash, the word before
// ##), so that time stays linear.
//
// It tells apart just enough of the language: comments, string and character
// literals, raw strings, the begin of a line. From one to the next it jumps, by
// way of the marks of the text, or where a text has too many of them or C++20
// modules, runs by a table of the bytes that mean something (see scan and run).
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

	marks  marks   // of the text that is read
	places []int32 // see distinctMacros
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

// scan adds one reading of the source, whose marks are known, to the report. It
// gives what one run over all of it would give, but goes from quote to comment to
// directive to mark: what is between those means nothing.
func (s *scanner) scan(src []byte) {
	s.src = src
	s.rawMisses, s.muted, s.asm = 0, 0, asmUnknown
	s.splitWords()
	i := s.lineStart(0)
	if s.marks.everywhere {
		s.run(i, len(src))
		return
	}
	quote, apostrophe, slash, hash := -1, -1, -1, -1 // the next of each
	words := s.marks.words
	for i < len(src) {
		if quote < i {
			quote = s.nextOf('"', i)
		}
		if apostrophe < i {
			apostrophe = s.nextOf('\'', i)
		}
		if slash < i {
			slash = s.nextOf('/', i)
		}
		if hash < i {
			hash = s.nextOf('#', i)
		}
		next := min(quote, apostrophe, slash, hash)
		for len(words) > 0 && words[0] < i {
			words = words[1:]
		}
		switch {
		case len(words) > 0 && words[0] < next:
			i = s.marked(i, words[0])
		case next == len(src):
			return
		case next == quote:
			i = s.str(next)
		case next == apostrophe:
			i = s.char(next)
		case next == slash:
			i = s.slash(next)
		default:
			i = s.hashBehind(i, next)
		}
	}
}

// nextOf is the index of the next c from i on.
func (s *scanner) nextOf(c byte, i int) int {
	n := bytes.IndexByte(s.src[i:], c)
	if n < 0 {
		return len(s.src)
	}
	return i + n
}

// marked lets the main loop see the word, or the dot, that has a mark, from i on.
func (s *scanner) marked(i, mark int) int {
	from := mark
	for from > i && isWord(s.src[from-1]) {
		from--
	}
	if from > i && s.src[from-1] == '.' {
		from--
	}
	_, end := s.word(mark)
	return s.run(from, max(end, mark+1))
}

// hashBehind handles a # that nothing of note stands before from i on, but the
// newline, perhaps, that makes it a directive's.
func (s *scanner) hashBehind(i, hash int) int {
	for at := hash; at > i && isSpace(s.src[at-1]); at-- {
		if s.src[at-1] == '\n' {
			return s.run(at-1, hash+1)
		}
	}
	return s.run(hash, hash+1)
}

// run is the main loop from i on, until to is reached.
func (s *scanner) run(i, to int) int {
	src := s.src
	for i < to {
		for !eventful[src[i]] {
			if i++; i == to {
				return i
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
	return i
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
